//! A plugin that does what a test says: honest by default, over the memory backend.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{net::UnixListener, runtime::Runtime, sync::broadcast};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Server};

use super::proto::{
    Capabilities, CreateRequest, CreateResponse, DeleteRequest, DeleteResponse, GetInfoRequest,
    GetInfoResponse, GetRequest, GetResponse, ListRequest, ListResponse, UpdateRequest,
    UpdateResponse, Version, VersionsRequest, VersionsResponse, WatchRequest, WatchResponse,
    secret_store_server::{SecretStore, SecretStoreServer},
};
use crate::{
    backends::{BackendError, SecretBackend, memory::MemoryBackend},
    secret::{NameEncoding, SecretName, SecretValue, SecretVersion},
};

/// What a plugin does with a call.
pub(super) enum Reply {
    /// As it should.
    Honest,
    Hang,
    Refuse(Status),
    /// An answer that differs from the honest one.
    Info(GetInfoResponse),
    Get(GetResponse),
    List(ListResponse),
    Create(CreateResponse),
    Versions(VersionsResponse),
    /// These, and then the end.
    Watch(Vec<Result<WatchResponse, Status>>),
}

type Behaviour = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

#[derive(Clone)]
struct Fake {
    secrets: Arc<MemoryBackend>,
    behaviour: Arc<Mutex<Behaviour>>,
    calls: Arc<Mutex<Vec<(&'static str, MetadataMap)>>>,
    /// Names that were written.
    written: broadcast::Sender<String>,
    /// The positions that watches were to go on from.
    positions: Arc<Mutex<Vec<String>>>,
}

/// A running plugin with a runtime of its own, so that it can die all at once.
pub(super) struct FakePlugin {
    fake: Fake,
    runtime: Option<Runtime>,
    pub(super) socket: PathBuf,
}

// === impl FakePlugin ===

impl FakePlugin {
    /// Listens on a socket; whatever lies there is removed, as plugins do.
    pub(super) fn start(socket: &Path) -> Self {
        let fake = Fake {
            secrets: Arc::new(MemoryBackend::new([])),
            behaviour: Arc::new(Mutex::new(Arc::new(|_: &str| Reply::Honest))),
            calls: Arc::default(),
            written: broadcast::channel(64).0,
            positions: Arc::default(),
        };
        let mut plugin = Self { fake, runtime: None, socket: socket.to_owned() };
        plugin.restart();
        plugin
    }

    /// Answers every call from now on by this function of its method's name.
    pub(super) fn on(&self, behaviour: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        *self.fake.behaviour.lock().expect("not poisoned") = Arc::new(behaviour);
    }

    /// Refuses everything but GetInfo.
    pub(super) fn refuse(&self, status: impl Fn() -> Status + Send + Sync + 'static) {
        self.on(move |method| match method {
            "GetInfo" => Reply::Honest,
            _ => Reply::Refuse(status()),
        });
    }

    /// The calls since the last time.
    pub(super) fn calls(&self) -> Vec<(&'static str, MetadataMap)> {
        std::mem::take(&mut *self.fake.calls.lock().expect("not poisoned"))
    }

    /// The names of the methods called since the last time.
    pub(super) fn methods(&self) -> Vec<&'static str> {
        self.calls().into_iter().map(|(method, _)| method).collect()
    }

    /// The positions that watches were to go on from.
    pub(super) fn positions(&self) -> Vec<String> {
        self.fake.positions.lock().expect("not poisoned").clone()
    }

    /// Ends it without a word; the socket stays behind.
    pub(super) fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Starts it again, with the same secrets, on a new socket of the same name.
    pub(super) fn restart(&mut self) {
        self.die();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let _ = std::fs::remove_file(&self.socket);
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(&self.socket).expect("bound")
        };
        let server = SecretStoreServer::new(self.fake.clone()).max_decoding_message_size(8 << 20);
        runtime.spawn(async move {
            let (_reporter, health) = tonic_health::server::health_reporter();
            Server::builder()
                .add_service(server)
                .add_service(health)
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for FakePlugin {
    fn drop(&mut self) {
        self.die();
    }
}

/// What an honest plugin over the memory backend says.
pub(super) fn info() -> GetInfoResponse {
    GetInfoResponse {
        name: "fake".to_owned(),
        version: "1.2.3".to_owned(),
        min_protocol: 1,
        max_protocol: 1,
        capabilities: Some(Capabilities {
            writable: true,
            list: true,
            pages: true,
            history: true,
            previous: true,
            empty_values: true,
            slashes: true,
            recoverable: false,
            max_value_bytes: 1 << 20,
            watch: true,
        }),
    }
}

// === impl Fake ===

impl Fake {
    /// Notes the call; refuses or hangs if told to, or returns a lie to tell.
    async fn take<Q>(
        &self,
        method: &'static str,
        request: Request<Q>,
    ) -> Result<(Q, Reply), Status> {
        let (metadata, _, message) = request.into_parts();
        self.calls.lock().expect("not poisoned").push((method, metadata));
        let behaviour = Arc::clone(&self.behaviour.lock().expect("not poisoned"));
        match behaviour(method) {
            Reply::Hang => std::future::pending().await,
            Reply::Refuse(status) => Err(status),
            reply => Ok((message, reply)),
        }
    }
}

fn name(raw: &str) -> Result<SecretName, Status> {
    let name = MemoryBackend::GRAMMAR.canonical(raw, NameEncoding::Plain);
    name.map_err(|error| Status::invalid_argument(error.to_string()))
}

fn status(error: BackendError) -> Status {
    match error {
        BackendError::NotFound => Status::not_found("no such secret"),
        BackendError::Conflict => Status::already_exists("taken"),
        other => Status::invalid_argument(other.to_string()),
    }
}

#[tonic::async_trait]
impl SecretStore for Fake {
    async fn get_info(
        &self,
        request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(match self.take("GetInfo", request).await?.1 {
            Reply::Info(info) => info,
            _ => info(),
        }))
    }

    #[expect(clippy::disallowed_methods, reason = "a store hands out its values")]
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let (message, reply) = self.take("Get", request).await?;
        if let Reply::Get(lie) = reply {
            return Ok(Response::new(lie));
        }
        let version = match message.version.as_str() {
            "" => SecretVersion::Latest,
            text => SecretVersion::parse(text).map_err(|_| Status::not_found("no such version"))?,
        };
        let found = self.secrets.get(&name(&message.name)?, &version).await.map_err(status)?;
        Ok(Response::new(GetResponse {
            name: message.name,
            value: found.value.expose_secret().to_vec(),
            version: found.version.to_string(),
            created_at: found.created_at.map(Into::into),
        }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (message, reply) = self.take("List", request).await?;
        if let Reply::List(lie) = reply {
            return Ok(Response::new(lie));
        }
        let cursor = Some(message.page_token.as_str()).filter(|token| !token.is_empty());
        let page = self.secrets.list(cursor).await.map_err(status)?;
        Ok(Response::new(ListResponse {
            names: page.names.iter().map(ToString::to_string).collect(),
            next_page_token: page.cursor.unwrap_or_default(),
        }))
    }

    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateResponse>, Status> {
        let (message, reply) = self.take("Create", request).await?;
        if let Reply::Create(lie) = reply {
            return Ok(Response::new(lie));
        }
        let value = SecretValue::new(message.value);
        let version = self.secrets.create(&name(&message.name)?, &value).await.map_err(status)?;
        let _ = self.written.send(message.name);
        Ok(Response::new(CreateResponse { version: version.to_string() }))
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let (message, _) = self.take("Update", request).await?;
        let value = SecretValue::new(message.value);
        let version = self.secrets.update(&name(&message.name)?, &value).await.map_err(status)?;
        let _ = self.written.send(message.name);
        Ok(Response::new(UpdateResponse { version: version.to_string() }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let (message, _) = self.take("Delete", request).await?;
        self.secrets.delete(&name(&message.name)?, message.force).await.map_err(status)?;
        let _ = self.written.send(message.name);
        Ok(Response::new(DeleteResponse {}))
    }

    async fn versions(
        &self,
        request: Request<VersionsRequest>,
    ) -> Result<Response<VersionsResponse>, Status> {
        let (message, reply) = self.take("Versions", request).await?;
        if let Reply::Versions(lie) = reply {
            return Ok(Response::new(lie));
        }
        let entries = self.secrets.versions(&name(&message.name)?).await.map_err(status)?;
        let versions = entries.into_iter().map(|entry| Version {
            id: entry.id.to_string(),
            stages: entry.stages.iter().map(ToString::to_string).collect(),
            created_at: entry.created_at.map(Into::into),
            enabled: entry.enabled,
        });
        Ok(Response::new(VersionsResponse { versions: versions.collect() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let written = self.written.subscribe();
        let (message, reply) = self.take("Watch", request).await?;
        self.positions.lock().expect("not poisoned").push(message.position);
        if let Reply::Watch(lies) = reply {
            return Ok(Response::new(stream::iter(lies).boxed()));
        }
        // It remembers nothing, so it can go on from nowhere.
        let first = WatchResponse { resync: true, ..WatchResponse::default() };
        let rest = stream::unfold(written, |mut written| async {
            let name = written.recv().await.ok()?;
            let answer = WatchResponse { names: vec![name], ..WatchResponse::default() };
            Some((Ok(answer), written))
        });
        Ok(Response::new(stream::iter([Ok(first)]).chain(rest).boxed()))
    }
}
