// An Azure Key Vault for tests, on loopback and in memory. The JSON of its answers comes
// from Microsoft's own Go types; routes, errors and behaviour (vault.go) are ours, written
// after the service's documentation. One process is one vault and the directory that
// issues its tokens.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to serve HTTPS on; port 0 takes a free one")
	identity := flag.String("identity-listen", "127.0.0.1:0", "address of the managed identity's token endpoint, HTTP")
	certificate := flag.String("certificate", "", "file that the certificate to trust is written to, as PEM (required)")
	settle := flag.Duration("settle", 0, "how long a deletion or recovery stays under way")
	lifetime := flag.Duration("token-lifetime", time.Hour, "how long a token is accepted")
	flag.Parse()
	if err := serve(*listen, *identity, *certificate, *settle, *lifetime); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(listen, identity, file string, settle, lifetime time.Duration) error {
	certificate, err := makeCertificate(file)
	if err != nil {
		return fmt.Errorf("write certificate failed: %w", err)
	}
	vaultListener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen failed: %w", err)
	}
	identityListener, err := net.Listen("tcp", identity)
	if err != nil {
		return fmt.Errorf("listen failed: %w", err)
	}
	directory := &directory{lifetime: lifetime, issued: map[string]time.Time{}}
	vault := newVault(directory, settle)
	// Not a ServeMux: it would answer a path with dots by a redirect.
	routes := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/oauth2/v2.0/token") {
			directory.exchange(w, r)
			return
		}
		vault.ServeHTTP(w, r)
	})

	// A test reads these two lines to learn the ports.
	fmt.Printf("listening on https://%s\n", vaultListener.Addr())
	fmt.Printf("identity on http://%s/msi/token\n", identityListener.Addr())
	failed := make(chan error, 2)
	go func() {
		failed <- http.Serve(identityListener, http.HandlerFunc(directory.managedIdentity))
	}()
	go func() {
		server := &http.Server{Handler: routes, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
		failed <- server.ServeTLS(vaultListener, "", "")
	}()
	return <-failed
}

// makeCertificate writes an issuer's certificate to file and answers one that it issued.
// They are two, because some clients refuse an issuer as a server. The keys stay in memory.
func makeCertificate(file string) (tls.Certificate, error) {
	issuer := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "issuer for tests"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "key vault for tests"},
		NotBefore:    issuer.NotBefore,
		NotAfter:     issuer.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:     []string{"localhost", "*.localhost", "*.vault.azure.net", "login.microsoftonline.com"},
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	issuerDER, err := x509.CreateCertificate(rand.Reader, issuer, issuer, &issuerKey.PublicKey, issuerKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, server, issuer, &serverKey.PublicKey, issuerKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuerDER})
	return tls.Certificate{Certificate: [][]byte{serverDER}, PrivateKey: serverKey}, os.WriteFile(file, text, 0o644)
}
