// Says which of the custom resources on its standard input, YAML documents, have fields that their
// types do not have. The API server would say it as well, with everybody's CRDs installed. Alerts and
// dashboards must also ask what Prometheus understands.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	envoygateway "github.com/envoyproxy/gateway/api/v1alpha1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	gatewaybeta "sigs.k8s.io/gateway-api/apis/v1beta1"
	"sigs.k8s.io/yaml"
)

// Istio's types read JSON leniently; the messages within them do not.
var specs = map[string]func() proto.Message{
	"security.istio.io/v1 AuthorizationPolicy": func() proto.Message { return &security.AuthorizationPolicy{} },
	"security.istio.io/v1 PeerAuthentication":  func() proto.Message { return &security.PeerAuthentication{} },
	"networking.istio.io/v1 DestinationRule":   func() proto.Message { return &networking.DestinationRule{} },
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		certmanager.AddToScheme, envoygateway.AddToScheme, monitoring.AddToScheme,
		gateway.Install, gatewaybeta.Install,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	types := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var object struct {
			APIVersion, Kind string
			Metadata         struct{ Name string }
			Spec             json.RawMessage
			// Of a dashboard.
			Title  string
			Panels []struct{ Targets []struct{ Expr string } }
		}
		text, err := yaml.YAMLToJSONStrict(document)
		if err == nil {
			err = json.Unmarshal(text, &object)
		}
		if err != nil {
			return err
		}
		if object.Kind == "" && object.Panels == nil {
			continue
		}
		for _, panel := range object.Panels {
			for _, target := range panel.Targets {
				if err := query(target.Expr); err != nil {
					return err
				}
			}
		}
		if object.Panels != nil {
			fmt.Println("dashboard", object.Title)
			continue
		}
		what := object.APIVersion + " " + object.Kind
		if spec, known := specs[what]; known {
			err = protojson.Unmarshal(object.Spec, spec())
		} else {
			var read runtime.Object
			read, _, err = types.Decode(text, nil, nil)
			if rules, are := read.(*monitoring.PrometheusRule); are && err == nil {
				err = alerts(rules)
			}
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", what, object.Metadata.Name, err)
		}
		fmt.Println(what, object.Metadata.Name)
	}
}

func alerts(rules *monitoring.PrometheusRule) error {
	for _, group := range rules.Spec.Groups {
		for _, rule := range group.Rules {
			if err := query(rule.Expr.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Whether Prometheus would take it, with what Grafana puts in place of its variables.
func query(text string) error {
	text = strings.ReplaceAll(text, "$__rate_interval", "5m")
	if _, err := parser.NewParser(parser.Options{}).ParseExpr(text); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return nil
}
