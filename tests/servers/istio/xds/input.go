package main

import (
	"fmt"
	"os"
	"strings"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
	"sigs.k8s.io/yaml"
)

// What istiod is told.
type input struct {
	mesh *meshconfig.MeshConfig
	// Istio's own kinds, and all others, each as one YAML stream.
	istio, kubernetes []string
}

func read(values string, manifests []string) (*input, error) {
	in := &input{}
	text, err := os.ReadFile(values)
	if err != nil {
		return nil, err
	}
	var chart struct {
		MeshConfig map[string]any `json:"meshConfig"`
	}
	if err := yaml.Unmarshal(text, &chart); err != nil {
		return nil, fmt.Errorf("%s: %w", values, err)
	}
	text, err = yaml.Marshal(chart.MeshConfig)
	if err != nil {
		return nil, err
	}
	if in.mesh, err = mesh.ApplyMeshConfigDefaults(string(text)); err != nil {
		return nil, fmt.Errorf("%s: %w", values, err)
	}
	for _, file := range manifests {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, document := range strings.Split("\n"+string(text), "\n---") {
			if err := in.add(document); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return in, nil
}

func (in *input) add(document string) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal([]byte(document), &head); err != nil {
		return err
	}
	group, _, _ := strings.Cut(head.APIVersion, "/")
	switch {
	case head.Kind == "":
	case strings.HasSuffix(group, ".istio.io"):
		in.istio = append(in.istio, document)
		if head.Kind == "ServiceEntry" {
			// What is behind a waypoint is looked up in the cluster.
			in.kubernetes = append(in.kubernetes, document)
		}
	default:
		in.kubernetes = append(in.kubernetes, document)
	}
	return nil
}

func (in *input) server(t test.Failer, options xds.FakeOptions) *xds.FakeDiscoveryServer {
	options.MeshConfig = in.mesh
	options.ConfigString = strings.Join(in.istio, "\n---\n")
	options.KubernetesObjectString = strings.Join(in.kubernetes, "\n---\n")
	return xds.NewFakeDiscoveryServer(t, options)
}
