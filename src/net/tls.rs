//! Certificates of our own listeners, on rustls with aws-lc-rs. They are exchanged
//! while the listener serves: whoever has connected stays, whoever connects sees the
//! new ones.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::{
    RootCertStore, ServerConfig, crypto,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_rustls::TlsAcceptor;
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use crate::config::{ClientCa, TlsConfig};

/// The certificates in use by a listener.
pub struct Certificates {
    listener: &'static str,
    config: TlsConfig,
    alpn: Vec<Vec<u8>>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    server: Arc<ServerConfig>,
    /// Of the files they were read from.
    digest: digest::Digest,
    /// When the leaf expires.
    expiry: OffsetDateTime,
}

/// The contents of the files.
struct Files {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

const CERTIFICATE: &str = "a certificate";
const KEY: &str = "a private key";

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is missing, unreadable or not PEM.
    #[error("{path}: cannot read {what}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why not.
        source: pem::Error,
    },
    /// A file without what it should hold.
    #[error("{path}: does not hold {what}", path = .path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Files that do not go together.
    #[error("{path}: cannot be used", path = .path.display())]
    Unusable {
        /// The certificate or authority file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

// === impl Certificates ===

impl Certificates {
    /// Reads the certificates of `listener`; `alpn` are the protocols that it offers.
    pub(super) fn read(
        listener: &'static str,
        config: &TlsConfig,
        alpn: &[&str],
    ) -> Result<Self, TlsError> {
        let alpn: Vec<_> = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let loaded = Files::read(config)?.load(config, &alpn)?;
        let current = ArcSwap::from_pointee(loaded);
        let certificates = Self { listener, config: config.clone(), alpn, current };
        certificates.announce();
        Ok(certificates)
    }

    /// Does handshakes with the certificates that are in use now. Each set has a session
    /// cache of its own: what a former authority vouched for is not resumed.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().server))
    }

    /// Whose certificates they are.
    #[must_use]
    pub fn listener(&self) -> &'static str {
        self.listener
    }

    /// When the listener's own certificate expires, as Unix time.
    #[must_use]
    pub fn expiry(&self) -> i64 {
        self.current.load().expiry.unix_timestamp()
    }

    /// Reads the files again and uses what they hold from the next handshake on; all of
    /// it, or nothing. Returns whether they changed.
    ///
    /// # Errors
    /// [`TlsError`]; the certificates in use stay.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.config)?;
        if files.digest().as_ref() == self.current.load().digest.as_ref() {
            return Ok(false);
        }
        self.current.store(Arc::new(files.load(&self.config, &self.alpn)?));
        self.announce();
        Ok(true)
    }

    fn announce(&self) {
        let expiry = self.current.load().expiry;
        let listener = self.listener;
        let expires = expiry.format(&Rfc3339).unwrap_or_else(|_| expiry.to_string());
        if expiry < OffsetDateTime::now_utc() {
            tracing::warn!(listener, expires, "certificate in use has expired");
        } else {
            tracing::info!(listener, expires, "certificate in use");
        }
    }
}

// === impl Files ===

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let read = |path: &Path, what| {
            std::fs::read(path).map_err(|error| TlsError::Read {
                path: path.to_owned(),
                what,
                source: pem::Error::Io(error),
            })
        };
        let client_ca = config.client_ca.as_ref().map(|ca| read(&ca.file, CERTIFICATE));
        Ok(Self {
            chain: read(&config.cert_file, CERTIFICATE)?,
            key: Zeroizing::new(read(&config.key_file, KEY)?),
            client_ca: client_ca.transpose()?,
        })
    }

    /// Tells these contents from others, without keeping the key.
    fn digest(&self) -> digest::Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        let client_ca = self.client_ca.as_deref().unwrap_or_default();
        for part in [self.chain.as_slice(), self.key.as_slice(), client_ca] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.finish()
    }

    fn load(&self, config: &TlsConfig, alpn: &[Vec<u8>]) -> Result<Loaded, TlsError> {
        let unusable = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| {
            TlsError::Unusable { path: path.to_owned(), source }
        };
        let of_leaf = |source| unusable(&config.cert_file, source);
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let chain = certificates(&config.cert_file, &self.chain)?;
        let expiry = match parse_x509_certificate(&chain[0]) {
            Ok((_, leaf)) => leaf.validity().not_after.to_datetime(),
            Err(error) => return Err(of_leaf(error.into())),
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Read {
            path: config.key_file.clone(),
            what: KEY,
            source,
        })?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| of_leaf(source.into()))?;
        let builder = match (&config.client_ca, &self.client_ca) {
            (Some(ClientCa { file, required }), Some(authorities)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file, authorities)? {
                    roots.add(certificate).map_err(|source| unusable(file, source.into()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match required {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|source| unusable(file, source.into()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut server =
            builder.with_single_cert(chain, key).map_err(|source| of_leaf(source.into()))?;
        server.alpn_protocols = alpn.to_vec();
        Ok(Loaded { server: Arc::new(server), digest: self.digest(), expiry })
    }
}

/// At least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Read { path: path.to_owned(), what: CERTIFICATE, source })?;
    match found.is_empty() {
        true => Err(TlsError::Empty { path: path.to_owned(), what: CERTIFICATE }),
        false => Ok(found),
    }
}

/// Reads the files of a listener and says whether they can be used.
///
/// # Errors
/// [`TlsError`].
pub fn check_tls(config: &TlsConfig) -> Result<(), TlsError> {
    Files::read(config)?.load(config, &[]).map(drop)
}
