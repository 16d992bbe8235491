// A Google Secret Manager for tests, on loopback and in memory. The messages, the JSON and
// the routes are Google's own, taken from the descriptor its Go client ships; what the
// methods do (store.go) is ours, written after the service's documentation.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on; port 0 takes a free one")
	token := flag.String("token", "", "the only bearer token to accept; empty accepts anyone")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, "listen failed:", err)
		os.Exit(1)
	}
	routes := routesOf(secretmanagerpb.File_google_cloud_secretmanager_v1_service_proto)
	// The one line on standard output; a test reads it to learn the port.
	fmt.Printf("listening on http://%s\n", listener.Addr())
	err = http.Serve(listener, &gateway{
		routes:  routes,
		service: &secretmanagerpb.SecretManagerService_ServiceDesc,
		server:  newStore(),
		token:   *token,
	})
	fmt.Fprintln(os.Stderr, "serve failed:", err)
	os.Exit(1)
}
