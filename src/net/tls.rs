//! Certificates of our own listeners, on rustls with aws-lc-rs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

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

/// Reads the files of a listener.
pub(super) fn acceptor(config: &TlsConfig, alpn: &[&str]) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&config.cert_file)?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file).map_err(|source| TlsError::Read {
        path: config.key_file.clone(),
        what: "a private key",
        source,
    })?;
    let unusable = |path: &Path, source: Box<dyn std::error::Error + Send + Sync>| {
        TlsError::Unusable { path: path.to_owned(), source }
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| unusable(&config.cert_file, source.into()))?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| unusable(path, source.into()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|source| unusable(path, source.into()))?,
            )
        }
    };
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|source| unusable(&config.cert_file, source.into()))?;
    server.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WHAT: &str = "a certificate";
    let read = |source| TlsError::Read { path: path.to_owned(), what: WHAT, source };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read)?
        .collect::<Result<_, _>>()
        .map_err(read)?;
    match found.is_empty() {
        true => Err(TlsError::Empty { path: path.to_owned(), what: WHAT }),
        false => Ok(found),
    }
}

/// Reads the files of a listener and says whether they can be used.
///
/// # Errors
/// [`TlsError`].
pub fn check_tls(config: &TlsConfig) -> Result<(), TlsError> {
    acceptor(config, &[]).map(drop)
}
