//! One connection to a plugin: who may be behind its socket, and what it says it is.

use std::{
    fmt, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    sync::{Mutex, PoisonError},
};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, Uri};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::Instant};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{ServiceExt, util::MapResponse};

use super::{
    MAX_MESSAGE, PluginInfo, PluginSettings, ask,
    error::SessionOver,
    proto::{Capabilities, GetInfoRequest, secret_store_client::SecretStoreClient},
};
use crate::backends::{
    BackendError,
    failure::{cause, chain},
};

/// The protocol versions that we speak.
const MIN_PROTOCOL: u32 = 1;
const MAX_PROTOCOL: u32 = 1;

/// Longest name or version of a plugin that is shown.
const MAX_SHOWN: usize = 64;

/// How tonic reads the details of a status. It panics if it cannot.
const DETAILS: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) type Wire = MapResponse<Channel, fn(http::Response<Body>) -> http::Response<Body>>;
pub(super) type Client = SecretStoreClient<Wire>;

/// A connection that was checked, to a plugin that we can talk to.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) wire: Wire,
    pub(super) info: PluginInfo,
    pub(super) capabilities: Capabilities,
    socket: SocketId,
}

/// Which socket it is: one that was removed and made anew is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

// === impl Session ===

impl Session {
    /// Connects, looks at who answers, and asks what it is.
    pub(super) async fn open(
        settings: &PluginSettings,
        request_id: &str,
        deadline: Instant,
    ) -> Result<Self, BackendError> {
        let path = settings.socket.display();
        let own = own_uid().map_err(|error| unavailable(&format!("own uid: {error}")))?;
        check_directory(settings, own)?;
        let socket = SocketId::of(&settings.socket)?;
        let stream = UnixStream::connect(&settings.socket).await.map_err(|error| {
            let text = format!("{path}: {error}");
            match error.kind() {
                io::ErrorKind::PermissionDenied => refused(text),
                _ => unavailable(&text),
            }
        })?;
        let peer = stream.peer_cred().map_err(|error| unavailable(&format!("{path}: {error}")))?;
        if !settings.allows(peer.uid(), own) {
            return Err(refused(format!(
                "{path}: the plugin runs as uid {}, allowed_uids are {}",
                peer.uid(),
                settings.allowed(own)
            )));
        }
        let channel = channel(stream).await?;
        let wire: Wire = channel.map_response(readable as fn(_) -> _);
        let client = SecretStoreClient::new(wire.clone()).max_decoding_message_size(MAX_MESSAGE);
        let asked = GetInfoRequest { min_protocol: MIN_PROTOCOL, max_protocol: MAX_PROTOCOL };
        let mut asking = client.clone();
        let info = asking.get_info(ask(asked, request_id, deadline)).await;
        let info =
            info.map_err(|status| super::error::from_grpc(&status, request_id))?.into_inner();
        let (min, max) = (info.min_protocol, info.max_protocol);
        if min > max || max < MIN_PROTOCOL || min > MAX_PROTOCOL {
            return Err(BackendError::Invalid(format!(
                "the plugin speaks protocol {min} to {max}, this service {MIN_PROTOCOL} to \
                 {MAX_PROTOCOL}"
            )));
        }
        let capabilities = info.capabilities.unwrap_or_default();
        let info = PluginInfo {
            name: shown(info.name),
            version: shown(info.version),
            protocol: max.min(MAX_PROTOCOL),
            protocols: (min, max),
            capabilities: words(&capabilities),
            max_value: max_value(&capabilities),
        };
        tracing::info!(
            plugin.socket = %path,
            plugin.name = %info.name,
            plugin.version = %info.version,
            plugin.protocol = info.protocol,
            plugin.uid = peer.uid(),
            "plugin connected"
        );
        Ok(Self { client, wire, info, capabilities, socket })
    }

    /// Whether it still is the plugin behind this path: one whose socket was taken
    /// away or replaced gets no more calls, even if it still runs.
    pub(super) fn is_of(&self, socket: &Path) -> bool {
        SocketId::of(socket).is_ok_and(|id| id == self.socket)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("info", &self.info).finish_non_exhaustive()
    }
}

/// A channel over this one stream. Where tonic would connect anew by itself, nobody
/// would look at who answers: that is an error here, and the session is over.
async fn channel(stream: UnixStream) -> Result<Channel, BackendError> {
    let stream = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.map(TokioIo::new).ok_or(SessionOver))
    });
    // The host goes to the plugin as `:authority`; nothing is looked up.
    let channel = Endpoint::from_static("http://plugin").connect_with_connector(connector).await;
    channel.map_err(|error| BackendError::Unavailable(Some(chain(&error))))
}

/// Takes out details of a status that cannot be read: see [`DETAILS`].
fn readable(response: http::Response<Body>) -> http::Response<Body> {
    const KEY: &str = "grpc-status-details-bin";
    fn clean(headers: &mut HeaderMap) {
        if headers.get_all(KEY).iter().any(|value| DETAILS.decode(value).is_err()) {
            headers.remove(KEY);
        }
    }
    let (mut head, body) = response.into_parts();
    clean(&mut head.headers);
    let body = body.map_frame(|mut frame| {
        frame.trailers_mut().map(clean);
        frame
    });
    http::Response::from_parts(head, Body::new(body))
}

/// Whoever can write to the directory can put another socket in place.
fn check_directory(settings: &PluginSettings, own: u32) -> Result<(), BackendError> {
    let directory = directory(&settings.socket);
    let path = directory.display();
    let found = std::fs::metadata(directory)
        .map_err(|error| unavailable(&format!("directory {path}: {error}")))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if owner != own && owner != 0 && !settings.allows(owner, own) {
        let text = "who is neither root, this service's own nor one of allowed_uids";
        return Err(refused(format!("directory {path} belongs to uid {owner}, {text}")));
    }
    if mode & 0o022 != 0 {
        let text = "others than its owner could put another socket there";
        return Err(refused(format!("directory {path} has mode {mode:04o}: {text}")));
    }
    Ok(())
}

/// Where a socket lies.
pub(super) fn directory(socket: &Path) -> &Path {
    match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Our own uid, by way of the kernel: the standard library does not tell.
fn own_uid() -> io::Result<u32> {
    let (ours, _other) = UnixStream::pair()?;
    Ok(ours.peer_cred()?.uid())
}

fn refused(text: String) -> BackendError {
    BackendError::PermissionDenied(Some(cause(text)))
}

fn unavailable(text: &str) -> BackendError {
    BackendError::Unavailable(Some(cause(text.to_owned())))
}

/// A plugin's text, short and on one line.
fn shown(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_SHOWN));
    text.replace(char::is_control, " ")
}

fn words(can: &Capabilities) -> Vec<&'static str> {
    let words = [
        (can.writable, "writable"),
        (can.list, "list"),
        (can.pages, "pages"),
        (can.history, "history"),
        (can.previous, "previous"),
        (can.empty_values, "empty_values"),
        (can.slashes, "slashes"),
        (can.recoverable, "recoverable"),
        (can.watch, "watch"),
    ];
    words.into_iter().filter_map(|(has, word)| has.then_some(word)).collect()
}

/// What the plugin says, if that fits a message.
fn max_value(can: &Capabilities) -> usize {
    // Room for a name and a version of the longest kind.
    let fits = MAX_MESSAGE - 4096;
    match usize::try_from(can.max_value_bytes) {
        Ok(0) | Err(_) => fits,
        Ok(said) => said.min(fits),
    }
}

// === impl SocketId ===

impl SocketId {
    /// The socket at a path, without following a link there.
    pub(super) fn of(path: &Path) -> Result<Self, BackendError> {
        let found = std::fs::symlink_metadata(path)
            .map_err(|error| unavailable(&format!("{}: {error}", path.display())))?;
        if !found.file_type().is_socket() {
            return Err(refused(format!("{} is not a socket", path.display())));
        }
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}
