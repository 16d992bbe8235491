//! Where to listen, and with which certificates.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    Mode,
    error::{ConfigError, line},
    value::Context,
};

/// The three listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners {
    /// `ext_authz`, `ext_proc`, health and reflection.
    pub grpc: ListenerConfig,
    /// The REST API.
    pub rest: ListenerConfig,
    /// Probes and metrics.
    pub admin: ListenerConfig,
    /// Whether local callers of REST must send `x-vaultmux-request`.
    pub require_request_header: bool,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where.
    pub address: Address,
    /// Plaintext without.
    pub tls: Option<TlsConfig>,
}

/// A TCP address or the path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IP address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A socket file, made at start and removed at the end.
    Unix(PathBuf),
}

/// Certificates of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, leaf first.
    pub cert_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
    /// PEM; clients must then show a certificate of one of these authorities.
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenersFile {
    grpc: Option<TlsListenerFile>,
    rest: Option<RestListenerFile>,
    admin: Option<ListenerFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsListenerFile {
    address: Spanned<String>,
    tls: Option<TlsFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestListenerFile {
    address: Option<Spanned<String>>,
    tls: Option<TlsFile>,
    require_request_header: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerFile {
    address: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: Option<PathBuf>,
}

// === impl ListenersFile ===

impl ListenersFile {
    pub(super) fn check(self, mode: Mode, context: &Context<'_>) -> Result<Listeners, ConfigError> {
        let parts = |file: TlsListenerFile| (Some(file.address), file.tls);
        let (grpc, grpc_tls) = self.grpc.map_or((None, None), parts);
        let admin = self.admin.map(|file| file.address);
        // A browser or a tricked workload in the pod reaches loopback too.
        let mut require_request_header = mode == Mode::Sidecar;
        let (rest, rest_tls) = match self.rest {
            None => (None, None),
            Some(file) => {
                require_request_header =
                    file.require_request_header.unwrap_or(require_request_header);
                (file.address, file.tls)
            }
        };
        Ok(Listeners {
            grpc: listener("grpc", grpc, grpc_tls, 9191, mode, context)?,
            rest: listener("rest", rest, rest_tls, 8080, mode, context)?,
            admin: listener("admin", admin, None, 9090, mode, context)?,
            require_request_header,
        })
    }
}

fn listener(
    name: &str,
    address: Option<Spanned<String>>,
    tls: Option<TlsFile>,
    default_port: u16,
    mode: Mode,
    context: &Context<'_>,
) -> Result<ListenerConfig, ConfigError> {
    let tls = tls.map(|tls| TlsConfig {
        cert_file: context.resolve(&tls.cert_file),
        key_file: context.resolve(&tls.key_file),
        client_ca_file: tls.client_ca_file.map(|path| context.resolve(&path)),
    });
    let Some(text) = address else {
        let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], default_port)));
        return Ok(ListenerConfig { address, tls });
    };
    let refuse = |message: &str| {
        let key = format!("listeners.{name}.address");
        let message = format!("{:?} {message}", text.value);
        Err(ConfigError::key(context.path, line(&text), key, message))
    };
    let address = match text.value.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Address::Unix(context.resolve(path)),
        Some(_) => return refuse("has no path"),
        None => match text.value.parse() {
            Ok(address) => Address::Tcp(address),
            Err(_) => return refuse("is neither <ip>:<port> nor unix:<path>"),
        },
    };
    if mode == Mode::Sidecar && !address.is_local() {
        return refuse("is not a loopback address or unix socket, as sidecar mode requires");
    }
    Ok(ListenerConfig { address, tls })
}

// === impl Address ===

impl Address {
    /// Whether only processes on this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
