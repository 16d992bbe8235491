package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	largestPayload = 64 << 10
	largestPage    = 25000
)

var secretID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)

// store answers the API from memory. Methods it lacks, such as those of IAM, answer
// UNIMPLEMENTED through the embedded type.
type store struct {
	pb.UnimplementedSecretManagerServiceServer
	mu      sync.Mutex
	secrets []*secret // oldest first
	clock   time.Time
}

type secret struct {
	meta     *pb.Secret
	versions []*version // number n at n-1
}

type version struct {
	meta    *pb.SecretVersion
	payload []byte
}

func newStore() *store { return &store{} }

// now never answers twice the same, so that lists have one order and etags differ.
func (s *store) now() time.Time {
	now := time.Now().UTC().Truncate(time.Microsecond)
	if !now.After(s.clock) {
		now = s.clock.Add(time.Microsecond)
	}
	s.clock = now
	return now
}

func etag(t time.Time) string { return fmt.Sprintf("%q", strconv.FormatInt(t.UnixMicro(), 16)) }

// canonical names the project by number, as the service does in every answer.
func canonical(name string) string {
	parts := strings.Split(name, "/")
	if _, err := strconv.ParseUint(parts[1], 10, 64); err != nil {
		sum := fnv.New32a()
		sum.Write([]byte(parts[1]))
		parts[1] = strconv.FormatUint(100_000_000_000+uint64(sum.Sum32()), 10)
	}
	return strings.Join(parts, "/")
}

func (s *store) find(name string) (*secret, error) {
	name = canonical(name)
	for _, secret := range s.secrets {
		if secret.meta.Name == name {
			return secret, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "Secret [%s] not found.", name)
}

// findVersion takes a number, an alias or latest, which is the newest in whatever state.
func (s *store) findVersion(name string) (*version, error) {
	of, which, _ := strings.Cut(name, "/versions/")
	secret, err := s.find(of)
	if err != nil || len(secret.versions) == 0 {
		return nil, status.Errorf(codes.NotFound, "Secret [%s] not found or has no versions.", canonical(of))
	}
	number, ok := secret.meta.VersionAliases[which]
	if which == "latest" {
		number, ok = int64(len(secret.versions)), true
	}
	if !ok {
		number, _ = strconv.ParseInt(which, 10, 64)
	}
	if number < 1 || number > int64(len(secret.versions)) {
		return nil, status.Errorf(codes.NotFound, "Secret Version [%s] not found.", canonical(name))
	}
	return secret.versions[number-1], nil
}

func checkEtag(sent, is string) error {
	if sent != "" && sent != is {
		return status.Error(codes.FailedPrecondition, "The etag provided in the request does not match the resource's current etag.")
	}
	return nil
}

func (s *store) CreateSecret(_ context.Context, in *pb.CreateSecretRequest) (*pb.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !secretID.MatchString(in.SecretId) {
		return nil, status.Error(codes.InvalidArgument, "The provided Secret ID does not match the expected format [[a-zA-Z_0-9]+]")
	}
	regional := strings.Contains(in.Parent, "/locations/")
	if in.Secret.GetReplication() == nil && !regional {
		return nil, status.Error(codes.InvalidArgument, "secret.replication is required")
	}
	name := canonical(in.Parent) + "/secrets/" + in.SecretId
	if _, err := s.find(name); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "Secret [%s] already exists.", name)
	}
	meta := &pb.Secret{}
	if in.Secret != nil {
		meta = proto.CloneOf(in.Secret)
	}
	now := s.now()
	meta.Name, meta.CreateTime, meta.Etag = name, timestamppb.New(now), etag(now)
	s.secrets = append(s.secrets, &secret{meta: meta})
	return proto.CloneOf(meta), nil
}

func (s *store) GetSecret(_ context.Context, in *pb.GetSecretRequest) (*pb.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, err := s.find(in.Name)
	if err != nil {
		return nil, err
	}
	return proto.CloneOf(secret.meta), nil
}

func (s *store) UpdateSecret(_ context.Context, in *pb.UpdateSecretRequest) (*pb.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, err := s.find(in.Secret.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkEtag(in.Secret.Etag, secret.meta.Etag); err != nil {
		return nil, err
	}
	if len(in.UpdateMask.GetPaths()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "update_mask is required")
	}
	meta := proto.CloneOf(secret.meta)
	for _, path := range in.UpdateMask.Paths {
		switch path {
		case "labels":
			meta.Labels = in.Secret.Labels
		case "annotations":
			meta.Annotations = in.Secret.Annotations
		case "version_aliases":
			meta.VersionAliases = in.Secret.VersionAliases
		default:
			return nil, status.Errorf(codes.Unimplemented, "this server cannot update %s", path)
		}
	}
	meta.Etag = etag(s.now())
	secret.meta = meta
	return proto.CloneOf(meta), nil
}

func (s *store) DeleteSecret(_ context.Context, in *pb.DeleteSecretRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(in.Name)
	if err != nil {
		return nil, err
	}
	if err := checkEtag(in.Etag, found.meta.Etag); err != nil {
		return nil, err
	}
	s.secrets = slices.DeleteFunc(s.secrets, func(other *secret) bool { return other == found })
	return &emptypb.Empty{}, nil
}

// page cuts one page, newest first, out of what is kept oldest first. The token is the
// creation time of the last item given, so that a page is right after a deletion too.
func page[T any](all []T, created func(T) *timestamppb.Timestamp, size int32, token string) ([]T, string, error) {
	before := int64(1<<63 - 1)
	if token != "" {
		var err error
		if before, err = strconv.ParseInt(token, 36, 64); err != nil {
			return nil, "", status.Error(codes.InvalidArgument, "Invalid page token.")
		}
	}
	if size < 0 {
		return nil, "", status.Error(codes.InvalidArgument, "page_size must not be negative")
	}
	if size == 0 || size > largestPage {
		size = largestPage
	}
	var items []T
	for _, item := range slices.Backward(all) {
		at := created(item).AsTime().UnixMicro()
		if at >= before {
			continue
		}
		if len(items) == int(size) {
			last := created(items[len(items)-1]).AsTime().UnixMicro()
			return items, strconv.FormatInt(last, 36), nil
		}
		items = append(items, item)
	}
	return items, "", nil
}

func (s *store) ListSecrets(_ context.Context, in *pb.ListSecretsRequest) (*pb.ListSecretsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Filter != "" {
		return nil, status.Error(codes.Unimplemented, "this server has no filters")
	}
	var all []*pb.Secret
	for _, secret := range s.secrets {
		if strings.HasPrefix(secret.meta.Name, canonical(in.Parent)+"/secrets/") {
			all = append(all, proto.CloneOf(secret.meta))
		}
	}
	items, next, err := page(all, (*pb.Secret).GetCreateTime, in.PageSize, in.PageToken)
	if err != nil {
		return nil, err
	}
	return &pb.ListSecretsResponse{Secrets: items, NextPageToken: next, TotalSize: int32(len(all))}, nil
}

func (s *store) AddSecretVersion(_ context.Context, in *pb.AddSecretVersionRequest) (*pb.SecretVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, err := s.find(in.Parent)
	if err != nil {
		return nil, err
	}
	data := in.Payload.GetData()
	if in.Payload == nil || len(data) > largestPayload {
		return nil, status.Errorf(codes.InvalidArgument, "The payload must be present and at most %d bytes.", largestPayload)
	}
	if in.Payload.DataCrc32C != nil && *in.Payload.DataCrc32C != checksum(data) {
		return nil, status.Error(codes.InvalidArgument, "The payload's checksum does not match its data.")
	}
	now := s.now()
	added := &version{payload: slices.Clone(data), meta: &pb.SecretVersion{
		Name:                           fmt.Sprintf("%s/versions/%d", secret.meta.Name, len(secret.versions)+1),
		CreateTime:                     timestamppb.New(now),
		State:                          pb.SecretVersion_ENABLED,
		Etag:                           etag(now),
		ClientSpecifiedPayloadChecksum: in.Payload.DataCrc32C != nil,
		ReplicationStatus: &pb.ReplicationStatus{ReplicationStatus: &pb.ReplicationStatus_Automatic{
			Automatic: &pb.ReplicationStatus_AutomaticStatus{},
		}},
	}}
	secret.versions = append(secret.versions, added)
	return proto.CloneOf(added.meta), nil
}

func checksum(data []byte) int64 {
	return int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

func (s *store) GetSecretVersion(_ context.Context, in *pb.GetSecretVersionRequest) (*pb.SecretVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, err := s.findVersion(in.Name)
	if err != nil {
		return nil, err
	}
	return proto.CloneOf(version.meta), nil
}

func (s *store) ListSecretVersions(_ context.Context, in *pb.ListSecretVersionsRequest) (*pb.ListSecretVersionsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Filter != "" {
		return nil, status.Error(codes.Unimplemented, "this server has no filters")
	}
	secret, err := s.find(in.Parent)
	if err != nil {
		return nil, err
	}
	var all []*pb.SecretVersion
	for _, version := range secret.versions {
		all = append(all, proto.CloneOf(version.meta))
	}
	items, next, err := page(all, (*pb.SecretVersion).GetCreateTime, in.PageSize, in.PageToken)
	if err != nil {
		return nil, err
	}
	return &pb.ListSecretVersionsResponse{Versions: items, NextPageToken: next, TotalSize: int32(len(all))}, nil
}

func (s *store) AccessSecretVersion(_ context.Context, in *pb.AccessSecretVersionRequest) (*pb.AccessSecretVersionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, err := s.findVersion(in.Name)
	if err != nil {
		return nil, err
	}
	if version.meta.State != pb.SecretVersion_ENABLED {
		return nil, wrongState(version)
	}
	sum := checksum(version.payload)
	return &pb.AccessSecretVersionResponse{
		Name:    version.meta.Name,
		Payload: &pb.SecretPayload{Data: slices.Clone(version.payload), DataCrc32C: &sum},
	}, nil
}

func wrongState(version *version) error {
	return status.Errorf(codes.FailedPrecondition, "Secret Version [%s] is in %s state.", version.meta.Name, version.meta.State)
}

// turn moves a version to a state; a destroyed one stays destroyed.
func (s *store) turn(name, sent string, to pb.SecretVersion_State) (*pb.SecretVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version, err := s.findVersion(name)
	if err != nil {
		return nil, err
	}
	if err := checkEtag(sent, version.meta.Etag); err != nil {
		return nil, err
	}
	if version.meta.State == pb.SecretVersion_DESTROYED {
		return nil, wrongState(version)
	}
	now := s.now()
	version.meta.State, version.meta.Etag = to, etag(now)
	if to == pb.SecretVersion_DESTROYED {
		version.meta.DestroyTime, version.payload = timestamppb.New(now), nil
	}
	return proto.CloneOf(version.meta), nil
}

func (s *store) DisableSecretVersion(_ context.Context, in *pb.DisableSecretVersionRequest) (*pb.SecretVersion, error) {
	return s.turn(in.Name, in.Etag, pb.SecretVersion_DISABLED)
}

func (s *store) EnableSecretVersion(_ context.Context, in *pb.EnableSecretVersionRequest) (*pb.SecretVersion, error) {
	return s.turn(in.Name, in.Etag, pb.SecretVersion_ENABLED)
}

func (s *store) DestroySecretVersion(_ context.Context, in *pb.DestroySecretVersionRequest) (*pb.SecretVersion, error) {
	return s.turn(in.Name, in.Etag, pb.SecretVersion_DESTROYED)
}
