package main

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

const (
	largestValue  = 25 << 10
	largestPage   = 25
	mostTags      = 15
	retentionDays = 90
)

var validName = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)

type vault struct {
	directory *directory
	settle    time.Duration
	mu        sync.Mutex
	secrets   map[string]*secret // by name in lower case
	router    *http.ServeMux
}

type secret struct {
	name     string              // as first written
	versions []*azsecrets.Secret // oldest first; ids are set when answering
	deleted  time.Time           // zero while it lives
	settled  time.Time           // until then a deletion or recovery is under way
}

// failure is what the vault answers instead of a result.
type failure struct {
	status               int
	code, inner, message string
}

func newVault(directory *directory, settle time.Duration) *vault {
	v := &vault{directory: directory, settle: settle, secrets: map[string]*secret{}, router: http.NewServeMux()}
	handle := func(pattern string, serve func(*http.Request) (int, any, *failure)) {
		v.router.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v.mu.Lock()
			defer v.mu.Unlock()
			status, body, failed := serve(r)
			switch {
			case failed != nil:
				fail(w, failed)
			case body == nil:
				w.WriteHeader(status)
			default:
				answer(w, status, body)
			}
		})
	}
	handle("PUT /secrets/{name}", v.set)
	handle("GET /secrets/{name}", v.get)
	handle("GET /secrets/{name}/{version}", v.get)
	handle("PATCH /secrets/{name}/{version}", v.update)
	handle("DELETE /secrets/{name}", v.delete)
	handle("GET /secrets", v.list)
	handle("GET /secrets/{name}/versions", v.listVersions)
	handle("GET /deletedsecrets", v.listDeleted)
	handle("GET /deletedsecrets/{name}", v.getDeleted)
	handle("DELETE /deletedsecrets/{name}", v.purge)
	handle("POST /deletedsecrets/{name}/recover", v.recover)
	return v
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if present, valid := v.directory.accepts(r); !valid {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(
			`Bearer authorization="https://%s/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"`, r.Host))
		message := "AKV10000: Request is missing a Bearer or PoP token."
		if present {
			message = "AKV10022: Invalid audience, signature or lifetime."
		}
		fail(w, &failure{http.StatusUnauthorized, "Unauthorized", "", message})
		return
	}
	if r.URL.Query().Get("api-version") == "" {
		fail(w, &failure{http.StatusBadRequest, "BadParameter", "", "The api-version query parameter is required."})
		return
	}
	// An empty version arrives as a slash at the end, and %2F counts as a slash.
	r.URL.Path, r.URL.RawPath = strings.TrimSuffix(r.URL.Path, "/"), ""
	for _, part := range strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/") {
		if !validName.MatchString(part) {
			fail(w, &failure{http.StatusBadRequest, "BadParameter", "", "The request URI contains an invalid name: " + part})
			return
		}
	}
	if _, pattern := v.router.Handler(r); pattern == "" {
		fail(w, &failure{http.StatusNotFound, "NotFound", "", "The requested resource does not exist."})
		return
	}
	v.router.ServeHTTP(w, r)
}

func fail(w http.ResponseWriter, f *failure) {
	inner := map[string]any{"code": f.code, "message": f.message}
	if f.inner != "" {
		inner["innererror"] = map[string]any{"code": f.inner}
	}
	answer(w, f.status, map[string]any{"error": inner})
}

func notFound(name string) *failure {
	return &failure{http.StatusNotFound, "SecretNotFound", "", fmt.Sprintf(
		"A secret with (name/id) %s was not found in this key vault. If you recently deleted this secret "+
			"you may be able to recover it using the correct recovery command.", name)}
}

func deletedNotFound(name string) *failure {
	return &failure{http.StatusNotFound, "SecretNotFound", "", "Deleted Secret not found: " + name}
}

func conflict(inner, message string) *failure {
	return &failure{http.StatusConflict, "Conflict", inner, message}
}

// live finds a secret that is there: not deleted, and no recovery under way.
func (v *vault) live(name string) (*secret, *failure) {
	found := v.secrets[strings.ToLower(name)]
	if found == nil || !found.deleted.IsZero() || time.Now().Before(found.settled) {
		return nil, notFound(name)
	}
	return found, nil
}

// gone finds a secret whose deletion is done.
func (v *vault) gone(name string) (*secret, *failure) {
	found := v.secrets[strings.ToLower(name)]
	if found == nil || found.deleted.IsZero() || time.Now().Before(found.settled) {
		return nil, deletedNotFound(name)
	}
	return found, nil
}

func (v *vault) set(r *http.Request) (int, any, *failure) {
	name := r.PathValue("name")
	var body azsecrets.SetSecretParameters
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&body); err != nil || body.Value == nil {
		return 0, nil, &failure{http.StatusBadRequest, "BadParameter", "", "The parameter value is not valid."}
	}
	if len(*body.Value) > largestValue || len(body.Tags) > mostTags {
		return 0, nil, &failure{http.StatusBadRequest, "BadParameter", "", "The value or the number of tags exceeds its limit."}
	}
	found := v.secrets[strings.ToLower(name)]
	switch {
	case found == nil:
		found = &secret{name: name}
		v.secrets[strings.ToLower(name)] = found
	case !found.deleted.IsZero() && time.Now().Before(found.settled):
		return 0, nil, conflict("ObjectIsBeingDeleted", fmt.Sprintf(
			"Secret %s is currently being deleted and cannot be re-created; retry later.", name))
	case !found.deleted.IsZero():
		return 0, nil, conflict("ObjectIsDeletedButRecoverable", fmt.Sprintf("Secret %s is currently in a deleted but recoverable "+
			"state, and its name cannot be reused; in this state, the secret can only be recovered or purged.", name))
	case time.Now().Before(found.settled):
		return 0, nil, conflict("ObjectIsBeingRecovered", fmt.Sprintf("Secret %s is currently being recovered; retry later.", name))
	}
	id := make([]byte, 16)
	rand.Read(id)
	now := time.Now().UTC()
	attributes := azsecrets.SecretAttributes{}
	if body.SecretAttributes != nil {
		attributes = *body.SecretAttributes
	}
	attributes.Enabled = cmp.Or(attributes.Enabled, to(true))
	attributes.Created, attributes.Updated = &now, &now
	attributes.RecoveryLevel, attributes.RecoverableDays = to("Recoverable+Purgeable"), to[int32](retentionDays)
	written := &azsecrets.Secret{
		ID: to(azsecrets.ID(hex.EncodeToString(id))), Value: body.Value, ContentType: body.ContentType,
		Tags: body.Tags, Attributes: &attributes,
	}
	found.versions = append(found.versions, written)
	return http.StatusOK, found.show(r, written), nil
}

func to[T any](value T) *T { return &value }

// show is a version with its id as this vault's address.
func (s *secret) show(r *http.Request, version *azsecrets.Secret) *azsecrets.Secret {
	shown := *version
	shown.ID = to(azsecrets.ID(fmt.Sprintf("https://%s/secrets/%s/%s", r.Host, s.name, *version.ID)))
	return &shown
}

func (s *secret) newest() *azsecrets.Secret { return s.versions[len(s.versions)-1] }

func (s *secret) version(id string) *azsecrets.Secret {
	for _, version := range s.versions {
		if string(*version.ID) == id {
			return version
		}
	}
	return nil
}

func (v *vault) get(r *http.Request) (int, any, *failure) {
	found, failed := v.live(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	version := found.newest()
	if id := r.PathValue("version"); id != "" {
		if version = found.version(id); version == nil {
			return 0, nil, notFound(found.name + "/" + id)
		}
	}
	if !*version.Attributes.Enabled {
		return 0, nil, &failure{http.StatusForbidden, "Forbidden", "SecretDisabled", "Operation get is not allowed on a disabled secret."}
	}
	return http.StatusOK, found.show(r, version), nil
}

func (v *vault) update(r *http.Request) (int, any, *failure) {
	found, failed := v.live(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	version := found.version(r.PathValue("version"))
	if version == nil {
		return 0, nil, notFound(found.name + "/" + r.PathValue("version"))
	}
	var body azsecrets.UpdateSecretPropertiesParameters
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20)).Decode(&body); err != nil {
		return 0, nil, &failure{http.StatusBadRequest, "BadParameter", "", "The body is not valid."}
	}
	version.ContentType = cmp.Or(body.ContentType, version.ContentType)
	if body.Tags != nil {
		version.Tags = body.Tags
	}
	if sent := body.SecretAttributes; sent != nil {
		version.Attributes.Enabled = cmp.Or(sent.Enabled, version.Attributes.Enabled)
		version.Attributes.Expires = cmp.Or(sent.Expires, version.Attributes.Expires)
		version.Attributes.NotBefore = cmp.Or(sent.NotBefore, version.Attributes.NotBefore)
	}
	version.Attributes.Updated = to(time.Now().UTC())
	shown := found.show(r, version)
	shown.Value = nil
	return http.StatusOK, shown, nil
}

func (v *vault) delete(r *http.Request) (int, any, *failure) {
	found, failed := v.live(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	found.deleted = time.Now().UTC()
	found.settled = found.deleted.Add(v.settle)
	return http.StatusOK, found.showDeleted(r), nil
}

func (s *secret) showDeleted(r *http.Request) azsecrets.DeletedSecret {
	newest := s.show(r, s.newest())
	return azsecrets.DeletedSecret{
		ID: newest.ID, Attributes: newest.Attributes, ContentType: newest.ContentType, Tags: newest.Tags,
		RecoveryID:         to(fmt.Sprintf("https://%s/deletedsecrets/%s", r.Host, s.name)),
		DeletedDate:        &s.deleted,
		ScheduledPurgeDate: to(s.deleted.AddDate(0, 0, retentionDays)),
	}
}

func (v *vault) getDeleted(r *http.Request) (int, any, *failure) {
	found, failed := v.gone(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	return http.StatusOK, found.showDeleted(r), nil
}

func (v *vault) purge(r *http.Request) (int, any, *failure) {
	found, failed := v.gone(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	delete(v.secrets, strings.ToLower(found.name))
	return http.StatusNoContent, nil, nil
}

func (v *vault) recover(r *http.Request) (int, any, *failure) {
	found, failed := v.gone(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	found.deleted, found.settled = time.Time{}, time.Now().Add(v.settle)
	shown := found.show(r, found.newest())
	shown.Value = nil
	return http.StatusOK, shown, nil
}

func (v *vault) list(r *http.Request) (int, any, *failure) {
	items := map[string]*azsecrets.SecretProperties{}
	for key, secret := range v.secrets {
		if _, failed := v.live(key); failed == nil {
			newest := secret.newest()
			items[key] = &azsecrets.SecretProperties{
				ID:          to(azsecrets.ID(fmt.Sprintf("https://%s/secrets/%s", r.Host, secret.name))),
				ContentType: newest.ContentType, Tags: newest.Tags, Attributes: newest.Attributes,
			}
		}
	}
	page, next, failed := pageOf(r, items)
	return http.StatusOK, azsecrets.SecretPropertiesListResult{Value: page, NextLink: next}, failed
}

func (v *vault) listVersions(r *http.Request) (int, any, *failure) {
	items := map[string]*azsecrets.SecretProperties{}
	found, failed := v.live(r.PathValue("name"))
	if failed != nil {
		return 0, nil, failed
	}
	for _, version := range found.versions {
		items[string(*version.ID)] = &azsecrets.SecretProperties{
			ID: found.show(r, version).ID, ContentType: version.ContentType, Tags: version.Tags, Attributes: version.Attributes,
		}
	}
	page, next, failed := pageOf(r, items)
	return http.StatusOK, azsecrets.SecretPropertiesListResult{Value: page, NextLink: next}, failed
}

func (v *vault) listDeleted(r *http.Request) (int, any, *failure) {
	items := map[string]*azsecrets.DeletedSecretProperties{}
	for key, secret := range v.secrets {
		if _, failed := v.gone(key); failed == nil {
			shown := secret.showDeleted(r)
			items[key] = &azsecrets.DeletedSecretProperties{
				ID: to(azsecrets.ID(fmt.Sprintf("https://%s/secrets/%s", r.Host, secret.name))), Attributes: shown.Attributes,
				ContentType: shown.ContentType, Tags: shown.Tags, RecoveryID: shown.RecoveryID,
				DeletedDate: shown.DeletedDate, ScheduledPurgeDate: shown.ScheduledPurgeDate,
			}
		}
	}
	page, next, failed := pageOf(r, items)
	return http.StatusOK, azsecrets.DeletedSecretPropertiesListResult{Value: page, NextLink: next}, failed
}

// pageOf cuts a page in the order of the keys; the next link tells the last key given.
func pageOf[T any](r *http.Request, items map[string]*T) ([]*T, *string, *failure) {
	query := r.URL.Query()
	size := largestPage
	if sent := query.Get("maxresults"); sent != "" {
		var err error
		if size, err = strconv.Atoi(sent); err != nil || size < 1 || size > largestPage {
			return nil, nil, &failure{http.StatusBadRequest, "BadParameter", "", "maxresults must be between 1 and 25."}
		}
	}
	after, err := base64.URLEncoding.DecodeString(query.Get("$skiptoken"))
	if err != nil {
		return nil, nil, &failure{http.StatusBadRequest, "BadParameter", "", "The skip token is not valid."}
	}
	var keys []string
	for key := range items {
		if key > string(after) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var next *string
	if len(keys) > size {
		keys = keys[:size]
		link := url.Values{
			"api-version": {query.Get("api-version")}, "maxresults": {strconv.Itoa(size)},
			"$skiptoken": {base64.URLEncoding.EncodeToString([]byte(keys[size-1]))},
		}
		next = to(fmt.Sprintf("https://%s%s?%s", r.Host, r.URL.Path, link.Encode()))
	}
	page := []*T{}
	for _, key := range keys {
		page = append(page, items[key])
	}
	return page, next, nil
}
