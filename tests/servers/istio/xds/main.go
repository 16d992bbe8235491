// Istio's own translation of manifests, without a cluster. `serve` is istiod's discovery
// server for a real Envoy, with a file-fed certificate service beside it; `dump` prints
// the same translation as a bootstrap that needs neither; `build` is kustomize.
//
//	istio-xds build DIRECTORY
//	istio-xds serve -mesh VALUES -tls DIRECTORY MANIFEST...
//	istio-xds dump -mesh VALUES -node NODE MANIFEST...
package main

import (
	"flag"
	"fmt"
	"os"

	"istio.io/istio/pkg/log"
)

func main() {
	// Standard output is for what was asked for.
	options := log.DefaultOptions()
	options.OutputPaths = []string{"stderr"}
	options.SetDefaultOutputLevel("all", log.WarnLevel)
	if err := log.Configure(options); err != nil {
		panic(err)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "istio-xds:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return fmt.Errorf("say build, serve or dump")
	}
	if arguments[0] == "build" && len(arguments) == 2 {
		return build(arguments[1])
	}
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	mesh := flags.String("mesh", "", "values of istiod's chart, of which meshConfig counts")
	listen := flags.String("listen", "127.0.0.1:0", "serve: address of the discovery server")
	tls := flags.String("tls", "", "serve: directory with tls.crt, tls.key and ca.crt")
	node := flags.String("node", "", "dump: the proxy, as Envoy's bootstraps name it")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	input, err := read(*mesh, flags.Args())
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "serve":
		return serve(input, *listen, *tls)
	case "dump":
		return dump(input, *node)
	}
	return fmt.Errorf("no command %q", arguments[0])
}
