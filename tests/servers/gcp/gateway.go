package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// route is one HTTP binding of one method, as the API's descriptor declares it.
type route struct {
	verb   string
	path   *regexp.Regexp
	field  string // the request's field that the path names, such as secret.name
	body   string // "", "*" or the field that the body fills
	method string
}

var pattern = regexp.MustCompile(`^/(v\w+)/\{([\w.]+)=([^}]+)\}(.*)$`)

func routesOf(file protoreflect.FileDescriptor) []route {
	var routes []route
	methods := file.Services().Get(0).Methods()
	for i := range methods.Len() {
		method := methods.Get(i)
		rule, ok := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		if !ok || rule == nil {
			continue
		}
		for _, rule := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
			verb, template := binding(rule)
			part := pattern.FindStringSubmatch(template)
			if part == nil {
				panic("no way to serve " + template)
			}
			names := strings.ReplaceAll(regexp.QuoteMeta(part[3]), `\*`, `[^/:]+`)
			routes = append(routes, route{
				verb:   verb,
				path:   regexp.MustCompile("^/" + part[1] + "/(" + names + ")" + regexp.QuoteMeta(part[4]) + "$"),
				field:  part[2],
				body:   rule.GetBody(),
				method: string(method.Name()),
			})
		}
	}
	return routes
}

func binding(rule *annotations.HttpRule) (verb, template string) {
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, p.Post
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, p.Delete
	}
	panic("unknown verb in " + rule.String())
}

// gateway serves a gRPC service as the REST and JSON that Google's front ends make of it.
type gateway struct {
	routes  []route
	service *grpc.ServiceDesc
	server  any
	token   string
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Google's clients send `$alt=json;enum-encoding=int`, which url.ParseQuery refuses.
	query, _ := url.ParseQuery(strings.ReplaceAll(r.URL.RawQuery, ";", "%3B"))
	enumsAsNumbers := strings.Contains(query.Get("$alt"), "enum-encoding=int")

	if g.token != "" && r.Header.Get("Authorization") != "Bearer "+g.token {
		fail(w, status.New(codes.Unauthenticated, "Request had invalid authentication credentials. "+
			"Expected OAuth 2 access token, login cookie or other valid authentication credential."))
		return
	}
	for _, route := range g.routes {
		match := route.path.FindStringSubmatch(r.URL.EscapedPath())
		if match == nil || route.verb != r.Method {
			continue
		}
		answer, err := g.call(r.Context(), route, func(request proto.Message) error {
			return fill(request, route, match[1], query, r.Body)
		})
		if err != nil {
			fail(w, status.Convert(err))
			return
		}
		text, err := protojson.MarshalOptions{UseEnumNumbers: enumsAsNumbers}.Marshal(answer)
		if err != nil {
			fail(w, status.New(codes.Internal, err.Error()))
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.Write(text)
		return
	}
	// What no rule matches never reaches the API: the front end answers with a page.
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	w.WriteHeader(http.StatusNotFound)
	io.WriteString(w, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>\n")
}

func (g *gateway) call(ctx context.Context, route route, decode func(proto.Message) error) (proto.Message, error) {
	for _, method := range g.service.Methods {
		if method.MethodName != route.method {
			continue
		}
		answer, err := method.Handler(g.server, ctx, func(in any) error { return decode(in.(proto.Message)) }, nil)
		if err != nil {
			return nil, err
		}
		return answer.(proto.Message), nil
	}
	return nil, status.Errorf(codes.Unimplemented, "no method %s", route.method)
}

// fill makes the request from its three places: body, query and path; the path wins.
func fill(request proto.Message, route route, name string, query url.Values, body io.Reader) error {
	message := request.ProtoReflect()
	if route.body != "" {
		text, err := io.ReadAll(io.LimitReader(body, 1<<20))
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
		target := message
		if route.body != "*" {
			target = message.Mutable(message.Descriptor().Fields().ByName(protoreflect.Name(route.body))).Message()
		}
		if len(text) > 0 {
			if err := protojson.Unmarshal(text, target.Interface()); err != nil {
				return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %v", err)
			}
		}
	}
	// Only top-level fields come by query here, and protojson takes numbers as strings, so
	// the query is an object of strings.
	values := map[string]string{}
	for key := range query {
		if strings.HasPrefix(key, "$") || key == "alt" || key == "prettyPrint" {
			continue
		}
		values[key] = query.Get(key)
	}
	if len(values) > 0 {
		text, _ := json.Marshal(values)
		fromQuery := message.New().Interface()
		if err := protojson.Unmarshal(text, fromQuery); err != nil {
			return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received. %v", err)
		}
		proto.Merge(request, fromQuery)
	}
	decoded, err := url.PathUnescape(name)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	fields := strings.Split(route.field, ".")
	for _, field := range fields[:len(fields)-1] {
		message = message.Mutable(message.Descriptor().Fields().ByName(protoreflect.Name(field))).Message()
	}
	last := message.Descriptor().Fields().ByName(protoreflect.Name(fields[len(fields)-1]))
	message.Set(last, protoreflect.ValueOfString(decoded))
	return nil
}

// httpStatus is the mapping that google/rpc/code.proto documents.
var httpStatus = map[codes.Code]int{
	codes.Canceled: 499, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504,
	codes.NotFound: 404, codes.AlreadyExists: 409, codes.PermissionDenied: 403, codes.Unauthenticated: 401,
	codes.ResourceExhausted: 429, codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400,
	codes.Unimplemented: 501, codes.Internal: 500, codes.Unavailable: 503, codes.DataLoss: 500,
}

var statusName = map[codes.Code]string{
	codes.Canceled: "CANCELLED", codes.Unknown: "UNKNOWN", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND",
	codes.AlreadyExists: "ALREADY_EXISTS", codes.PermissionDenied: "PERMISSION_DENIED",
	codes.Unauthenticated: "UNAUTHENTICATED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED",
	codes.OutOfRange: "OUT_OF_RANGE", codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL",
	codes.Unavailable: "UNAVAILABLE", codes.DataLoss: "DATA_LOSS",
}

func fail(w http.ResponseWriter, err *status.Status) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(httpStatus[err.Code()])
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code":    httpStatus[err.Code()],
		"message": err.Message(),
		"status":  statusName[err.Code()],
	}})
}
