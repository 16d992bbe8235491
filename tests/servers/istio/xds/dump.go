package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/test"
	"sigs.k8s.io/yaml"
)

func dump(in *input, node string) error {
	text, err := os.ReadFile(node)
	if err != nil {
		return err
	}
	if text, err = yaml.YAMLToJSON(text); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	var parsed core.Node
	if err := protojson.Unmarshal(text, &parsed); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	var out []byte
	failed := test.Wrap(func(t test.Failer) {
		if out, err = bootstrap(in.server(t, xds.FakeOptions{}), &parsed); err != nil {
			t.Fatal(err)
		}
	})
	if failed == nil {
		_, failed = os.Stdout.Write(out)
	}
	return failed
}

func bootstrap(server *xds.FakeDiscoveryServer, node *core.Node) ([]byte, error) {
	meta, err := model.ParseMetadata(node.Metadata)
	if err != nil {
		return nil, err
	}
	proxy, err := model.ParseServiceNodeWithMetadata(node.Id, meta)
	if err != nil {
		return nil, err
	}
	proxy.ConfigNamespace = model.GetProxyConfigNamespace(proxy)
	proxy.Labels = meta.Labels
	proxy.XdsNode = node
	proxy = server.SetupProxy(proxy)

	listeners, err := named(server.Listeners(proxy), "name")
	if err != nil {
		return nil, err
	}
	clusters, err := named(server.Clusters(proxy), "name")
	if err != nil {
		return nil, err
	}
	routes, err := named(server.Routes(proxy), "name")
	if err != nil {
		return nil, err
	}
	endpoints, err := named(server.Endpoints(proxy), "cluster_name")
	if err != nil {
		return nil, err
	}
	proxyNode, err := plain(node)
	if err != nil {
		return nil, err
	}
	listeners = slices.DeleteFunc(listeners, func(listener any) bool {
		// Reached by interception only, which takes a network namespace.
		return listener.(map[string]any)["bind_to_port"] == false
	})
	inline := &inliner{routes: index(routes, "name"), endpoints: index(endpoints, "cluster_name")}
	for _, resource := range append(append([]any{}, listeners...), clusters...) {
		inline.visit(resource)
	}
	file := func(name string) any { return map[string]any{"filename": "/etc/envoy/tls/" + name} }
	// Those of the mesh, and the operating system's.
	authorities := func(name string) any {
		return map[string]any{
			"name": name, "validation_context": map[string]any{"trusted_ca": file("ca.crt")},
		}
	}
	return yaml.Marshal(map[string]any{
		"node": proxyNode,
		"admin": map[string]any{"address": map[string]any{"socket_address": map[string]any{
			"address": "127.0.0.1", "port_value": 9901,
		}}},
		// Waypoints have listeners within.
		"bootstrap_extensions": []any{map[string]any{
			"name": "envoy.bootstrap.internal_listener",
			"typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
			},
		}},
		"static_resources": map[string]any{
			"listeners": listeners,
			"clusters":  clusters,
			"secrets": []any{
				map[string]any{"name": "default", "tls_certificate": map[string]any{
					"certificate_chain": file("tls.crt"), "private_key": file("tls.key"),
				}},
				authorities("ROOTCA"), authorities("file-root:system"),
			},
		},
	})
}

// The resources as plain data, in the order of their names.
func named[M proto.Message](resources []M, key string) ([]any, error) {
	var out []any
	for _, resource := range resources {
		value, err := plain(resource)
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	sort.SliceStable(out, func(a, b int) bool { return name(out[a], key) < name(out[b], key) })
	return out, nil
}

func plain(message proto.Message) (value map[string]any, err error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	return value, json.Unmarshal(text, &value)
}

func name(resource any, key string) string {
	text, _ := resource.(map[string]any)[key].(string)
	return text
}

func index(resources []any, key string) map[string]any {
	out := map[string]any{}
	for _, resource := range resources {
		out[name(resource, key)] = resource
	}
	return out
}

// Puts in place what a bootstrap would have to ask a server for.
type inliner struct{ routes, endpoints map[string]any }

func (in *inliner) visit(value any) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			in.visit(item)
		}
	case map[string]any:
		if filters, ok := value["http_filters"].([]any); ok {
			value["http_filters"] = slices.DeleteFunc(filters, istioOnly)
		}
		if rds, ok := value["rds"].(map[string]any); ok {
			value["route_config"] = in.routes[name(rds, "route_config_name")]
			delete(value, "rds")
		}
		if value["type"] == "EDS" {
			cluster := name(value, "name")
			value["type"] = "STATIC"
			value["load_assignment"] = in.endpoints[cluster]
			delete(value, "eds_cluster_config")
		}
		// A name alone is a secret of the bootstrap itself.
		delete(value, "sds_config")
		for _, item := range value {
			in.visit(item)
		}
	}
}

// Waypoints tell each other about workloads by filters that only Istio's build of Envoy has.
func istioOnly(filter any) bool {
	config, _ := filter.(map[string]any)["typed_config"].(map[string]any)
	return strings.HasPrefix(name(config, "type_url"), "type.googleapis.com/io.istio.")
}
