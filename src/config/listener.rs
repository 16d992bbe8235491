//! Where to listen, with which certificates, and to whom.

use std::{fmt, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{
    Mode,
    error::{ConfigError, line},
    schema::{self, Uid},
    value::Context,
};
use crate::{identity::PeerPatterns, json_schema::shape::NonEmpty};

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
    /// Users beside our own and root whose processes a unix listener lets in.
    pub peer_uids: Vec<u32>,
    /// Who may ask `ext_authz` and `ext_proc`; whoever connects without.
    pub trusted_peers: Option<PeerPatterns>,
    /// Whether a loopback port answers `/health`, and nothing else, on all addresses.
    pub health_on_all_addresses: bool,
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
    /// Whose certificates clients show; none are asked for without.
    pub client_ca: Option<ClientCa>,
}

/// The authorities of client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCa {
    /// PEM.
    pub file: PathBuf,
    /// Whether a client without a certificate is refused, too.
    pub required: bool,
}

/// Where to listen.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Listeners")]
pub(super) struct ListenersFile {
    /// `ext_authz`, `ext_proc`, health and reflection, for Envoy.
    grpc: Option<GrpcFile>,
    /// The REST API.
    rest: Option<RestFile>,
    /// Probes, metrics and the state of backends.
    admin: Option<AdminFile>,
}

/// The listener for Envoy.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Grpc", extend("allOf" = schema::by_peer()))]
struct GrpcFile {
    /// `<ip>:<port>` or `unix:<path>`; `127.0.0.1:9191` without `grpc`.
    #[schemars(with = "schema::Address")]
    address: Spanned<String>,
    /// Certificates. Plaintext without.
    tls: Option<TlsFile>,
    /// Users beside the service's own and root whose processes a unix listener lets in;
    /// `[1337]` for Istio's proxy.
    #[schemars(with = "Option<Vec<Uid>>")]
    peer_uids: Option<Spanned<Vec<u32>>>,
    /// Who may ask `ext_authz` and `ext_proc`: SPIFFE IDs (`spiffe://<trust domain>/ns/
    /// <namespace>/sa/*` for all of a namespace), networks, or `unix`. Whoever connects by
    /// default.
    #[schemars(with = "Option<NonEmpty<schema::Peer>>")]
    trusted_peers: Option<Spanned<Vec<Spanned<String>>>>,
}

/// The listener of the REST API.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rest", extend("allOf" = schema::of_rest()))]
struct RestFile {
    /// `<ip>:<port>` or `unix:<path>`; `127.0.0.1:8080` by default.
    #[schemars(with = "Option<schema::Address>")]
    address: Option<Spanned<String>>,
    /// Certificates. Plaintext without.
    tls: Option<TlsFile>,
    /// Users beside the service's own and root whose processes a unix listener lets in.
    #[schemars(with = "Option<Vec<Uid>>")]
    peer_uids: Option<Spanned<Vec<u32>>>,
    /// Whether local callers must send `x-vaultmux-request`, which a browser or a tricked
    /// workload does not; by default in sidecar mode.
    require_request_header: Option<bool>,
    /// Whether `/health`, and nothing else, is answered on all addresses of the machine too,
    /// for the kubelet's probes of a sidecar. Of a loopback address without `tls` only; `true`
    /// where vaultmux-server's variables take the place of this file.
    #[schemars(with = "Option<bool>")]
    health_on_all_addresses: Option<Spanned<bool>>,
}

/// The listener of probes and metrics.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Admin")]
struct AdminFile {
    /// `<ip>:<port>` or `unix:<path>`; `127.0.0.1:9090` without `admin`.
    #[schemars(with = "schema::Address")]
    address: Spanned<String>,
}

/// Certificates of a listener. Files are read again when they change.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "Tls",
    extend("dependencies" = {"client_certificate": ["client_ca_file"]})
)]
struct TlsFile {
    /// Certificates in PEM, the listener's own first.
    cert_file: PathBuf,
    /// Its key in PEM.
    key_file: PathBuf,
    /// Authorities of clients' certificates in PEM. Without, none are asked for.
    client_ca_file: Option<PathBuf>,
    /// Whether a client must show a certificate; `required` by default.
    #[schemars(with = "Option<ClientCertificate>")]
    client_certificate: Option<Spanned<ClientCertificate>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum ClientCertificate {
    /// Connections without one are refused.
    Required,
    /// Clients may connect without one, and prove who they are otherwise.
    Optional,
}

/// A listener as the file has it, whichever it is.
struct ListenerFile<'a> {
    name: &'static str,
    default_port: u16,
    mode: Mode,
    context: &'a Context<'a>,
}

// === impl ListenersFile ===

impl ListenersFile {
    pub(super) fn check(self, mode: Mode, context: &Context<'_>) -> Result<Listeners, ConfigError> {
        let file = |name, default_port| ListenerFile { name, default_port, mode, context };
        let grpc = file("grpc", 9191);
        let grpc = match self.grpc {
            None => grpc.check(None, None, None)?,
            Some(of) => {
                let mut checked = grpc.check(Some(of.address), of.tls, of.peer_uids)?;
                let trusted = of.trusted_peers.map(|peers| grpc.trusted_peers(peers, &checked));
                checked.trusted_peers = trusted.transpose()?;
                checked
            }
        };
        // A browser or a tricked workload in the pod reaches loopback too.
        let mut require_request_header = mode == Mode::Sidecar;
        let rest = file("rest", 8080);
        let rest = match self.rest {
            None => rest.check(None, None, None)?,
            Some(of) => {
                require_request_header =
                    of.require_request_header.unwrap_or(require_request_header);
                let mut checked = rest.check(of.address, of.tls, of.peer_uids)?;
                if let Some(wanted) = of.health_on_all_addresses {
                    checked.health_on_all_addresses = rest.health(&wanted, &checked)?;
                }
                checked
            }
        };
        let admin = file("admin", 9090).check(self.admin.map(|of| of.address), None, None)?;
        Ok(Listeners { grpc, rest, admin, require_request_header })
    }
}

// === impl ListenerFile ===

impl ListenerFile<'_> {
    fn check(
        &self,
        address: Option<Spanned<String>>,
        tls: Option<TlsFile>,
        peer_uids: Option<Spanned<Vec<u32>>>,
    ) -> Result<ListenerConfig, ConfigError> {
        let address = match address {
            None => Address::Tcp(SocketAddr::from(([127, 0, 0, 1], self.default_port))),
            Some(text) => self.address(&text)?,
        };
        if let (Some(uids), Address::Tcp(_)) = (&peer_uids, &address) {
            return Err(self.refuse(
                line(uids),
                "peer_uids",
                "only unix sockets tell a peer's uid",
            ));
        }
        Ok(ListenerConfig {
            address,
            tls: tls.map(|tls| self.tls(tls)).transpose()?,
            peer_uids: peer_uids.map(|uids| uids.value).unwrap_or_default(),
            trusted_peers: None,
            health_on_all_addresses: false,
        })
    }

    fn health(
        &self,
        wanted: &Spanned<bool>,
        listener: &ListenerConfig,
    ) -> Result<bool, ConfigError> {
        let is_loopback =
            matches!(&listener.address, Address::Tcp(address) if address.ip().is_loopback());
        if wanted.value && (!is_loopback || listener.tls.is_some()) {
            let why = "goes with a loopback address and port without tls: others answer \
                       /health to whoever reaches them";
            return Err(self.refuse(line(wanted), "health_on_all_addresses", why));
        }
        Ok(wanted.value)
    }

    fn refuse(&self, line: Option<u64>, key: &str, why: impl fmt::Display) -> ConfigError {
        ConfigError::key(self.context.path, line, format!("listeners.{}.{key}", self.name), why)
    }

    fn address(&self, text: &Spanned<String>) -> Result<Address, ConfigError> {
        let refuse = |message: &str| {
            Err(self.refuse(line(text), "address", format!("{:?} {message}", text.value)))
        };
        let address = match text.value.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Address::Unix(self.context.resolve(path)),
            Some(_) => return refuse("has no path"),
            None => match text.value.parse() {
                Ok(address) => Address::Tcp(address),
                Err(_) => return refuse("is neither <ip>:<port> nor unix:<path>"),
            },
        };
        if self.mode == Mode::Sidecar && !address.is_local() {
            return refuse("is not a loopback address or unix socket, as sidecar mode requires");
        }
        Ok(address)
    }

    fn tls(&self, tls: TlsFile) -> Result<TlsConfig, ConfigError> {
        let required = tls.client_certificate.as_ref();
        if let (Some(required), None) = (required, &tls.client_ca_file) {
            let why = "needs client_ca_file: without it no certificate is asked for";
            return Err(self.refuse(line(required), "tls.client_certificate", why));
        }
        let required = required.is_none_or(|it| it.value == ClientCertificate::Required);
        Ok(TlsConfig {
            cert_file: self.context.resolve(&tls.cert_file),
            key_file: self.context.resolve(&tls.key_file),
            client_ca: tls
                .client_ca_file
                .map(|file| ClientCa { file: self.context.resolve(&file), required }),
        })
    }

    fn trusted_peers(
        &self,
        peers: Spanned<Vec<Spanned<String>>>,
        listener: &ListenerConfig,
    ) -> Result<PeerPatterns, ConfigError> {
        let refuse = |line, why: String| Err(self.refuse(line, "trusted_peers", why));
        if peers.value.is_empty() {
            return refuse(line(&peers), "an empty list would trust nobody".to_owned());
        }
        let is_unix = matches!(listener.address, Address::Unix(_));
        let authenticates = listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let mut entries = Vec::new();
        for entry in peers.value {
            let at = line(&entry);
            let one = match PeerPatterns::parse(std::slice::from_ref(&entry.value)) {
                Ok(one) => one,
                Err(why) => return refuse(at, why),
            };
            let why = if one.name_certificates() && !authenticates {
                "can match nobody: without tls.client_ca_file no certificate is asked for"
            } else if one.name_networks() && is_unix {
                "can match nobody: a unix socket has no IP addresses"
            } else if one.name_unix() && !is_unix {
                "can match nobody: this listener is not a unix socket"
            } else {
                entries.push(entry.value);
                continue;
            };
            return refuse(at, format!("{:?} {why}", entry.value));
        }
        PeerPatterns::parse(&entries).or_else(|why| refuse(None, why))
    }
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
