//! A certificate authority of its own for each test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// An authority, and the server files that the bootstraps in `envoy/` name.
pub(crate) struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

// === impl Certificates ===

impl Certificates {
    /// Writes `tls.crt`, `tls.key` (the proxy) and `ca.crt` to `directory`.
    pub(crate) fn create(directory: &Path) -> Self {
        Self::create_by("test authority", directory)
    }

    /// The same for an authority of that name: whoever trusts two has to tell them apart.
    pub(crate) fn create_by(authority: &str, directory: &Path) -> Self {
        // A second call in the same process finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = subject(authority);
        let key = KeyPair::generate().expect("make a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("sign the authority");
        fs::create_dir_all(directory).expect("make the certificate directory");
        let certificates = Self { authority, directory: directory.to_owned() };
        certificates.write("ca.crt", &certificates.authority.pem());
        certificates.proxy("spiffe://cluster.local/ns/gateway/sa/envoy");
        certificates
    }

    /// Writes the proxy's own certificate, which says whose proxy it is.
    pub(crate) fn proxy(&self, id: &str) {
        let hosts = ["vaultmux.test", "api.stripe.test", "app.test"].map(dns);
        self.save("tls", &self.issue(&[&[uri(id)], &hosts[..]].concat()));
    }

    /// The certificate of a service account in trust domain `cluster.local`.
    pub(crate) fn workload(&self, namespace: &str, service_account: &str) -> Identity {
        self.issue(&[uri(&format!("spiffe://cluster.local/ns/{namespace}/sa/{service_account}"))])
    }

    /// A certificate with these URI names, in this order.
    pub(crate) fn with_uris(&self, uris: &[&str]) -> Identity {
        self.issue(&uris.iter().map(|text| uri(text)).collect::<Vec<_>>())
    }

    /// A certificate with DNS names alone.
    pub(crate) fn with_dns(&self, names: &[&str]) -> Identity {
        self.issue(&names.iter().map(|name| dns(name)).collect::<Vec<_>>())
    }

    /// A certificate without alternative names; the subject is all it says.
    pub(crate) fn with_subject(&self, common_name: &str) -> Identity {
        self.sign(&[], common_name)
    }

    /// A certificate with all three.
    pub(crate) fn with_names(&self, common_name: &str, uris: &[&str], names: &[&str]) -> Identity {
        let uris = uris.iter().map(|text| uri(text));
        let names: Vec<_> = uris.chain(names.iter().map(|name| dns(name))).collect();
        self.sign(&names, common_name)
    }

    fn issue(&self, names: &[SanType]) -> Identity {
        self.sign(names, "workload")
    }

    fn sign(&self, names: &[SanType], common_name: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name = subject(common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("make a key");
        let certificate = params.signed_by(&key, &self.authority).expect("sign a certificate");
        Identity {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("own key"),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes `<name>.crt` and `<name>.key` beside the others.
    pub(crate) fn save(&self, name: &str, identity: &Identity) {
        self.write(&format!("{name}.crt"), &identity.certificate_pem);
        self.write(&format!("{name}.key"), &identity.key_pem);
    }

    /// TLS for a server of that name, which speaks HTTP/1.1 and HTTP/2.
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        let Identity { certificate, key, .. } = self.issue(&[dns(name)]);
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("own certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// TLS for a client that shows `identity`, if any.
    pub(crate) fn client(&self, identity: Option<Identity>) -> ClientConfig {
        self.client_trusting(&[], identity)
    }

    /// The same for a client that trusts these authorities as well.
    pub(crate) fn client_trusting(
        &self,
        others: &[&Self],
        identity: Option<Identity>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for trusted in [&[self], others].concat() {
            roots.add(trusted.authority.der().clone()).expect("own authority");
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        match identity {
            Some(Identity { certificate, key, .. }) => {
                config.with_client_auth_cert(vec![certificate], key).expect("own certificate")
            }
            None => config.with_no_client_auth(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("write a certificate file");
    }
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}
