// The store behind kube-apiserver. etcd's own module cannot be built by path, because
// its go.mod replaces modules by folders; its entry point is a library, so this is it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
