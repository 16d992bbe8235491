package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	transport "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/test"
)

// Serves until it is told to end. The two lines it prints say where.
func serve(in *input, address, certificates string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	secret.RegisterSecretDiscoveryServiceServer(server, &agent{directory: certificates})
	go server.Serve(listener)
	fmt.Printf("certificates on %s\n", listener.Addr())

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	return test.Wrap(func(t test.Failer) {
		server := in.server(t, xds.FakeOptions{
			ListenerBuilder: func() (net.Listener, error) { return net.Listen("tcp", address) },
		})
		fmt.Printf("discovery on %s\n", server.Listener.Addr())
		<-ended
	})
}

// What istio-agent is to its Envoy: the workload's certificate and its authorities.
type agent struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	directory string
}

func (a *agent) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		// With a nonce it is an acknowledgement: the files do not change.
		if request.ResponseNonce != "" {
			continue
		}
		response := &discovery.DiscoveryResponse{
			TypeUrl: request.TypeUrl, VersionInfo: "1", Nonce: "1",
		}
		for _, name := range request.ResourceNames {
			resource, err := anypb.New(a.secret(name))
			if err != nil {
				return err
			}
			response.Resources = append(response.Resources, resource)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func (a *agent) secret(name string) *transport.Secret {
	file := func(name string) *core.DataSource {
		return &core.DataSource{Specifier: &core.DataSource_Filename{
			Filename: filepath.Join(a.directory, name),
		}}
	}
	if name == "ROOTCA" || name == "file-root:system" {
		return &transport.Secret{Name: name, Type: &transport.Secret_ValidationContext{
			ValidationContext: &transport.CertificateValidationContext{TrustedCa: file("ca.crt")},
		}}
	}
	return &transport.Secret{Name: name, Type: &transport.Secret_TlsCertificate{
		TlsCertificate: &transport.TlsCertificate{
			CertificateChain: file("tls.crt"), PrivateKey: file("tls.key"),
		},
	}}
}
