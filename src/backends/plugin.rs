//! Stores in other processes: plugins that speak `proto/vaultmux/plugin/v1` on a unix
//! socket. docs/plugins.md is for those who write one.
//!
//! A plugin is not trusted further than it must be: its socket and its uid are checked
//! on every connection, and what it answers is checked like any input.

mod changes;
mod connection;
mod error;
mod probe;
// Generated.
#[rustfmt::skip]
#[allow(clippy::all, missing_docs, unreachable_pub)]
mod proto;
mod watch;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tonic::{Request, Response, Status, metadata::MetadataValue};

pub use self::probe::{Report, probe};
use self::{
    changes::Position,
    connection::{Client, Session},
    error::{from_grpc, is_of_transport, was_not_sent},
    proto::{
        Capabilities, CreateRequest, DeleteRequest, GetRequest, ListRequest, UpdateRequest,
        VersionsRequest,
    },
    watch::Watch,
};
use super::{BackendError, CallContext, Changes, SecretBackend, SecretPage, VersionEntry};
use crate::secret::{
    NameEncoding, NameGrammar, SecretName, SecretRecord, SecretValue, SecretVersion,
};

/// Names that we ask for in one page of a listing.
const PAGE: u32 = 100;

/// The most names of a page that is taken, whatever the plugin can do.
const MAX_NAMES: usize = 10_000;

/// The longest answer in bytes; the default of gRPC.
const MAX_MESSAGE: usize = 4 << 20;

/// The longest page token in bytes: it travels through our own API.
const MAX_TOKEN: usize = 4096;

/// Which plugin, and who it may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginSettings {
    /// Its socket.
    pub socket: PathBuf,
    /// As whom it may run; by default as root or as whoever we run.
    pub allowed_uids: Option<Vec<u32>>,
    /// Goes before every name, without a separator of its own.
    pub prefix: String,
}

/// What a plugin says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginInfo {
    /// What it is called.
    pub name: String,
    /// Its release.
    pub version: String,
    /// The version of the protocol that we speak with it.
    pub protocol: u32,
    /// Lowest and highest version of the protocol that it speaks.
    pub protocols: (u32, u32),
    /// What it can do, by the words of `plugin.proto`.
    pub capabilities: Vec<&'static str>,
    /// The longest value in bytes.
    pub max_value: usize,
}

/// A store behind a unix socket.
///
/// Connects when first called, and again whenever the connection has ended or the
/// socket is another one. Each method is one call; the first one on a connection is
/// preceded by GetInfo.
///
/// - Directory: must belong to root, to us or to one of the allowed uids, and nobody
///   else may write there; otherwise all calls are [`BackendError::PermissionDenied`].
/// - No socket, or nobody behind it: [`BackendError::Unavailable`] at once.
/// - Names and values that the plugin says it cannot hold are not sent.
pub struct PluginBackend {
    settings: PluginSettings,
    timeout: Duration,
    session: Mutex<Option<Arc<Session>>>,
    watch: StdMutex<Option<Watch>>,
    /// Where the last watch of changes ended.
    position: Arc<Position>,
}

/// A value on its way into a request: shared, and wiped like any other.
struct Plaintext(SecretValue);

// === impl PluginSettings ===

impl PluginSettings {
    /// Whether a plugin, or the owner of its directory, may have this uid.
    fn allows(&self, uid: u32, own: u32) -> bool {
        match &self.allowed_uids {
            Some(allowed) => allowed.contains(&uid),
            None => uid == own || uid == 0,
        }
    }

    /// The same in words.
    fn allowed(&self, own: u32) -> String {
        let default = [own, 0];
        let uids = self.allowed_uids.as_deref().unwrap_or(&default);
        uids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    }
}

// === impl PluginBackend ===

impl PluginBackend {
    /// The names that may be sent to a plugin: those of AWS, which is the most that any
    /// store takes. The plugin refuses those that it cannot hold.
    pub const GRAMMAR: NameGrammar = NameGrammar::new("/_+=.@-", 512);

    /// Prepares for a plugin that need not be there yet; `timeout` is for one call with
    /// all that comes before it.
    #[must_use]
    pub fn new(settings: PluginSettings, timeout: Duration) -> Self {
        let watch = StdMutex::new(Watch::start(&settings.socket));
        let position = Arc::default();
        Self { settings, timeout, session: Mutex::default(), watch, position }
    }

    /// Connects, unless connected, and says what the plugin is.
    ///
    /// # Errors
    /// As any call.
    pub async fn info(&self) -> Result<PluginInfo, BackendError> {
        let deadline = Instant::now() + self.timeout;
        let session = timeout_at(deadline, self.session(&request_id(), deadline)).await;
        Ok(session.map_err(|_| BackendError::TimedOut)??.info.clone())
    }

    fn full_name(&self, name: &SecretName) -> String {
        format!("{}{name}", self.settings.prefix)
    }

    /// The connection, made if there is none. Whoever waits for one that another call
    /// makes does so under a deadline of its own.
    async fn session(
        &self,
        request_id: &str,
        deadline: Instant,
    ) -> Result<Arc<Session>, BackendError> {
        let mut current = self.session.lock().await;
        if let Some(session) = &*current
            && session.is_of(&self.settings.socket)
        {
            return Ok(Arc::clone(session));
        }
        *current = None;
        self.keep_watching();
        let session = Arc::new(Session::open(&self.settings, request_id, deadline).await?);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Ends a session, unless that has been done already.
    async fn forget(&self, over: &Arc<Session>) {
        let mut current = self.session.lock().await;
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, over)) {
            *current = None;
        }
    }

    /// The directory may have been missing before.
    fn keep_watching(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.is_none() {
            *watch = Watch::start(&self.settings.socket);
        }
    }

    /// Until when whoever asked waits, and the id of the request.
    fn asked(&self) -> (Instant, String) {
        let latest = Instant::now() + self.timeout;
        let Some(context) = CallContext::current() else { return (latest, request_id()) };
        let id = context.request_id.map_or_else(request_id, |id| id.to_string());
        (latest.min(context.deadline), id)
    }

    /// Makes one call if the plugin can do it, and returns the answer with the session
    /// that it came by.
    async fn call<Q, A, F>(
        &self,
        message: Q,
        can: impl Fn(&Session) -> Result<(), BackendError> + Send + Sync,
        send: impl Fn(Client, Request<Q>) -> F + Send + Sync,
    ) -> Result<(A, Arc<Session>), BackendError>
    where
        Q: Clone + Send + Sync,
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let (deadline, request_id) = self.asked();
        let call = async {
            let mut first = true;
            loop {
                let session = self.session(&request_id, deadline).await?;
                can(&session)?;
                let request = ask(message.clone(), &request_id, deadline);
                let status = match send(session.client.clone(), request).await {
                    Ok(answer) => return Ok((answer.into_inner(), session)),
                    Err(status) => status,
                };
                if is_of_transport(&status) {
                    self.forget(&session).await;
                }
                if !(first && was_not_sent(&status)) {
                    return Err(from_grpc(&status, &request_id));
                }
                first = false;
            }
        };
        timeout_at(deadline, call).await.unwrap_or(Err(BackendError::TimedOut))
    }
}

#[async_trait]
impl SecretBackend for PluginBackend {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        let full_name = self.full_name(name);
        let version = match version {
            SecretVersion::Latest => String::new(),
            SecretVersion::Selected(text) => text.to_string(),
        };
        let message = GetRequest { name: full_name.clone(), version };
        let send = |mut client: Client, request| async move { client.get(request).await };
        let (found, session) = self.call(message, |_| Ok(()), send).await?;
        // First of all: from here on it is wiped, whatever comes next.
        let value = SecretValue::new(found.value);
        if found.name != full_name {
            return Err(nonsense("another secret was returned"));
        }
        if value.len() > session.info.max_value {
            return Err(nonsense("a longer value was returned than the plugin can hold"));
        }
        let created_at = found.created_at.and_then(time);
        Ok(SecretRecord { value, version: version_id(&found.version)?, created_at })
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        let token = cursor.unwrap_or_default();
        let prefix = &self.settings.prefix;
        let message =
            ListRequest { prefix: prefix.clone(), page_size: PAGE, page_token: token.to_owned() };
        let can = |session: &Session| match session.capabilities.list {
            true => Ok(()),
            false => Err(BackendError::Invalid("the plugin does not list".to_owned())),
        };
        let send = |mut client: Client, request| async move { client.list(request).await };
        let (page, session) = self.call(message, can, send).await?;
        let most = if session.capabilities.pages { PAGE as usize } else { MAX_NAMES };
        if page.names.len() > most {
            return Err(nonsense("a page was returned that is longer than asked for"));
        }
        let next = page.next_page_token;
        if !session.capabilities.pages && !next.is_empty() {
            return Err(nonsense("a page token came of a plugin that says it has no pages"));
        }
        if next.len() > MAX_TOKEN || (next == token && !next.is_empty()) {
            return Err(nonsense("the page token is too long or the one that was sent"));
        }
        let names = page.names.iter().filter_map(|name| {
            let rest = name.strip_prefix(prefix.as_str())?;
            Self::GRAMMAR.canonical(rest, NameEncoding::Plain).ok()
        });
        Ok(SecretPage {
            names: names.collect(),
            cursor: Some(next).filter(|next| !next.is_empty()),
        })
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let message = CreateRequest { name: self.full_name(name), value: Plaintext::of(value) };
        let can = |session: &Session| can_hold(session, value);
        let send = |mut client: Client, request| async move { client.create(request).await };
        let (made, _) = self.call(message, can, send).await?;
        version_id(&made.version)
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        let message = UpdateRequest { name: self.full_name(name), value: Plaintext::of(value) };
        let can = |session: &Session| can_hold(session, value);
        let send = |mut client: Client, request| async move { client.update(request).await };
        let (made, _) = self.call(message, can, send).await?;
        version_id(&made.version)
    }

    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        let message = DeleteRequest { name: self.full_name(name), force };
        let can = |session: &Session| can_write(&session.capabilities);
        let send = |mut client: Client, request| async move { client.delete(request).await };
        self.call(message, can, send).await.map(|_| ())
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        let message = VersionsRequest { name: self.full_name(name) };
        let send = |mut client: Client, request| async move { client.versions(request).await };
        let (listed, _) = self.call(message, |_| Ok(()), send).await?;
        listed.versions.iter().map(entry).collect()
    }

    /// What is known since the plugin said what it can do; before, nothing is refused.
    fn accepts(&self, value: &SecretValue) -> Result<(), BackendError> {
        let session = self.session.try_lock().ok().and_then(|session| session.clone());
        match session.filter(|session| session.is_of(&self.settings.socket)) {
            Some(session) => can_hold(&session, value),
            None => Ok(()),
        }
    }

    async fn watch(&self) -> Result<Option<Changes>, BackendError> {
        self.open_watch().await.map(Some)
    }
}

impl fmt::Debug for PluginBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginBackend").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A request with what every call carries.
fn ask<Q>(message: Q, request_id: &str, deadline: Instant) -> Request<Q> {
    let mut request = Request::new(message);
    if let Ok(id) = MetadataValue::try_from(request_id) {
        request.metadata_mut().insert("x-request-id", id);
    }
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

/// Leads from our log to that of the plugin.
/// An id of our own, for calls that nobody in particular asked for.
fn request_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn can_write(can: &Capabilities) -> Result<(), BackendError> {
    match can.writable {
        true => Ok(()),
        false => Err(BackendError::Invalid("the plugin is read-only".to_owned())),
    }
}

fn can_hold(session: &Session, value: &SecretValue) -> Result<(), BackendError> {
    can_write(&session.capabilities)?;
    if value.is_empty() && !session.capabilities.empty_values {
        return Err(BackendError::Invalid("the plugin takes no empty value".to_owned()));
    }
    let max = session.info.max_value;
    if value.len() > max {
        return Err(BackendError::Invalid(format!("the plugin takes values up to {max} bytes")));
    }
    Ok(())
}

fn nonsense(text: &str) -> BackendError {
    BackendError::Invalid(text.to_owned())
}

/// An id that [`SecretBackend::get`] accepts again.
fn version_id(id: &str) -> Result<Arc<str>, BackendError> {
    match SecretVersion::parse(id) {
        Ok(SecretVersion::Selected(id)) => Ok(id),
        Ok(SecretVersion::Latest) | Err(_) => Err(nonsense("no usable version was returned")),
    }
}

/// A time of the years 1 to 9999, which is what the protocol knows: whoever prints it
/// is not to be surprised.
fn time(stamp: prost_types::Timestamp) -> Option<SystemTime> {
    let known = -62_135_596_800..=253_402_300_799;
    known.contains(&stamp.seconds).then(|| SystemTime::try_from(stamp).ok())?
}

fn entry(listed: &proto::Version) -> Result<VersionEntry, BackendError> {
    let stage = |stage: &String| match SecretVersion::parse(stage) {
        Ok(_) => Ok(Arc::from(stage.as_str())),
        Err(_) => Err(nonsense("no usable stage was returned")),
    };
    Ok(VersionEntry {
        id: version_id(&listed.id)?,
        stages: listed.stages.iter().map(stage).collect::<Result<_, _>>()?,
        created_at: listed.created_at.and_then(time),
        enabled: listed.enabled,
    })
}

// === impl Plaintext ===

impl Plaintext {
    fn of(value: &SecretValue) -> Bytes {
        Bytes::from_owner(Self(value.clone()))
    }
}

impl AsRef<[u8]> for Plaintext {
    #[expect(clippy::disallowed_methods, reason = "this is where the value is sent to its store")]
    fn as_ref(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
