package main

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// directory issues the tokens that the vault accepts, for workload identities and client
// secrets by the OAuth exchange, for managed identities by the endpoint of App Service.
// Any identity that asks in the right form gets one: who may do what is not modelled.
type directory struct {
	lifetime time.Duration
	mu       sync.Mutex
	issued   map[string]time.Time
}

func (d *directory) issue() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	token := rand.Text()
	d.issued[token] = time.Now().Add(d.lifetime)
	return token
}

func (d *directory) accepts(r *http.Request) (present, valid bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return false, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return true, time.Now().Before(d.issued[token])
}

func (d *directory) exchange(w http.ResponseWriter, r *http.Request) {
	const assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	byAssertion := r.PostFormValue("client_assertion_type") == assertion && r.PostFormValue("client_assertion") != ""
	if r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("client_id") == "" ||
		!byAssertion && r.PostFormValue("client_secret") == "" {
		answer(w, http.StatusBadRequest, map[string]any{
			"error": "invalid_request", "error_description": "AADSTS900144: a required parameter is missing.",
		})
		return
	}
	if r.PostFormValue("scope") != "https://vault.azure.net/.default" {
		answer(w, http.StatusBadRequest, map[string]any{
			"error": "invalid_scope", "error_description": "AADSTS70011: The provided value for scope is not valid.",
		})
		return
	}
	seconds := int(d.lifetime.Seconds())
	answer(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": d.issue(),
	})
}

func (d *directory) managedIdentity(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if r.URL.Path != "/msi/token" || r.Header.Get("X-IDENTITY-HEADER") == "" ||
		strings.TrimSuffix(query.Get("resource"), "/") != "https://vault.azure.net" {
		answer(w, http.StatusBadRequest, map[string]any{"statusCode": 400, "message": "Bad request"})
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "resource": query.Get("resource"), "client_id": query.Get("client_id"),
		"expires_on": strconv.FormatInt(time.Now().Add(d.lifetime).Unix(), 10), "access_token": d.issue(),
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
