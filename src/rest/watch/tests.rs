//! Streams of events, driven without a socket.

use std::time::SystemTime;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::{
    backends::{SecretBackend, memory::MemoryBackend},
    fixture::{self, Gate},
    identity::{GrantScope, SpiffeId},
    metrics::Metrics,
    rest::RestSettings,
    secret::{NameEncoding, SecretName, SecretValue},
    snapshot::Current,
};

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";

struct Service {
    router: axum::Router,
    current: Current,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
}

/// What a client reads.
struct Events {
    body: Body,
    text: String,
}

impl Service {
    fn start(store: Arc<dyn SecretBackend>) -> Self {
        let metrics = Arc::new(Metrics::default());
        let config = fixture::config(fixture::CONFIG);
        let mut snapshot = fixture::over(&config, store, &metrics);
        snapshot.local = Some(SpiffeId::parse(API).expect("valid"));
        let current = Current::new(snapshot);
        let settings = RestSettings { local_listener: true, require_request_header: false };
        let stopping = CancellationToken::new();
        let rest = Rest::new(current.clone(), Arc::clone(&metrics), settings);
        let router = rest.stopping_on(stopping.clone()).into_router();
        Self { router, current, metrics, stopping }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.expect("never fails")
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::get(path).header("host", "vaultmux.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).expect("valid")).await
    }

    /// A stream, after its first lines; and the id in them.
    async fn watch(&self, query: &str, headers: &[(&str, &str)]) -> (Events, String) {
        let response = self.get(&format!("/v1/watch?{query}"), headers).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let mut events = Events { body: response.into_body(), text: String::new() };
        let hello = events.next().await;
        let id = hello.strip_prefix("retry: 3000\nid: ").expect("hello").to_owned();
        (events, id)
    }

    async fn put(&self, name: &str, value: &str) {
        let body = Body::from(format!(r#"{{"value":"{value}"}}"#));
        let request = Request::put(format!("/v1/secrets/{name}")).body(body).expect("valid");
        assert_eq!(self.send(request).await.status(), StatusCode::OK);
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = (*self.current.load_full()).clone();
        change(&mut snapshot);
        self.current.store(snapshot);
    }

    async fn measured(&self, line: &str) {
        for _ in 0..1000 {
            if self.metrics.encode().expect("text").lines().any(|found| found == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("no {line} in\n{}", self.metrics.encode().expect("text"));
    }
}

impl Events {
    /// The next block of lines; empty at the end.
    async fn next(&mut self) -> String {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return event;
            }
            match self.body.frame().await {
                None => return String::new(),
                Some(frame) => {
                    let data = frame.expect("never fails").into_data().expect("data");
                    self.text.push_str(std::str::from_utf8(&data).expect("text"));
                }
            }
        }
    }

    /// The next that says something: its kind, data and id.
    async fn event(&mut self) -> (String, String, String) {
        let mut event = self.next().await;
        while event.starts_with(':') {
            event = self.next().await;
        }
        let field = |name: &str| {
            let found = event.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_default().to_owned()
        };
        (field("event: "), field("data: "), field("id: "))
    }

    async fn version(&mut self, data: &str) -> String {
        let (kind, found, id) = self.event().await;
        assert_eq!((kind.as_str(), found.as_str()), ("version", data));
        id
    }

    async fn end(&mut self, code: &str) {
        let (kind, data, _) = self.event().await;
        assert_eq!((kind, data), ("end".into(), format!(r#"{{"code":"{code}"}}"#)));
        assert_eq!(self.next().await, "", "nothing follows");
    }
}

fn name(text: &str) -> SecretName {
    MemoryBackend::GRAMMAR.canonical(text, NameEncoding::Plain).expect("valid")
}

fn store(secrets: &[&str]) -> Arc<MemoryBackend> {
    let value = || SecretValue::new(fixture::CANARY);
    Arc::new(MemoryBackend::new(secrets.iter().map(|secret| (name(secret), value()))))
}

fn data(name: &str, version: &str) -> String {
    format!(r#"{{"name":"{name}","backend":"local","version":{version}}}"#)
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_not_watched() {
    let service = Service::start(store(&["prod/key", "other/key"]));
    for (path, status) in [
        ("/v1/watch", 400),
        ("/v1/watch?name=", 400),
        ("/v1/watch?name=prod/../key", 400),
        ("/v1/watch?name=other/key", 403),
        ("/v1/watch?name=other/none", 403),
        ("/v1/watch?name=prod/key&name=other/key", 403),
        ("/v1/watch/x?name=prod/key", 404),
    ] {
        let response = service.get(path, &[]).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    for (method, status) in [("HEAD", 405), ("POST", 405), ("OPTIONS", 204)] {
        let request = Request::builder().method(method).uri("/v1/watch?name=prod/key");
        let response = service.send(request.body(Body::empty()).expect("valid")).await;
        assert_eq!(response.status().as_u16(), status, "{method}");
        assert_eq!(response.headers()["allow"], "GET, OPTIONS");
    }
    let stranger = service.get("/v1/watch?name=prod/key", &[("via", "1.1 proxy")]).await;
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED);
    service.measured("vaultmux_watchers 0").await;
}

#[tokio::test(start_paused = true)]
async fn the_current_version_is_told_and_every_other_that_comes() {
    let service = Service::start(store(&["prod/key"]));
    let (mut events, _) = service.watch("name=prod/key&name=prod/new", &[]).await;
    events.version(&data("prod/key", "\"1\"")).await;
    service.put("prod/key", "canary-second").await;
    events.version(&data("prod/key", "\"2\"")).await;
    let body = Body::from(r#"{"name":"prod/new","value":"canary-new"}"#);
    let created = service.send(Request::post("/v1/secrets").body(body).expect("valid")).await;
    assert_eq!(created.status(), StatusCode::CREATED);
    events.version(&data("prod/new", "\"1\"")).await;
    let delete = Request::delete("/v1/secrets/prod/key").body(Body::empty()).expect("valid");
    assert_eq!(service.send(delete).await.status(), StatusCode::NO_CONTENT);
    events.version(&data("prod/key", "null")).await;
    assert_eq!(events.next().await, ": heartbeat");
    assert!(!events.text.contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_in_the_store_is_found_without_any_reader() {
    let store = store(&["prod/key"]);
    let service = Service::start(Arc::clone(&store) as Arc<dyn SecretBackend>);
    let (mut events, _) = service.watch("name=prod/key", &[]).await;
    events.version(&data("prod/key", "\"1\"")).await;
    store.update(&name("prod/key"), &SecretValue::new("rotated")).await.expect("updated");
    let started = Instant::now();
    events.version(&data("prod/key", "\"2\"")).await;
    assert!(started.elapsed() <= Duration::from_secs(90), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn however_many_watch_the_store_is_asked_once() {
    let store = Gate::new(&[("prod/key", "x")], 1000);
    let service = Service::start(Arc::clone(&store) as Arc<dyn SecretBackend>);
    let mut all = Vec::new();
    for _ in 0..20 {
        let (mut events, _) = service.watch("name=prod/key", &[]).await;
        events.version(&data("prod/key", "\"1\"")).await;
        all.push(events);
    }
    assert_eq!(store.calls(), 1);
    service.put("prod/key", "y").await;
    for events in &mut all {
        events.version(&data("prod/key", "\"2\"")).await;
    }
    assert_eq!(store.calls(), 2, "all of them looked, together");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_told_what_it_missed() {
    let service = Service::start(store(&["prod/key", "prod/nested/key"]));
    let query = "name=prod/key&name=prod/nested/key";
    let (mut events, _) = service.watch(query, &[]).await;
    events.event().await;
    let (_, _, id) = events.event().await;
    drop(events);
    service.put("prod/key", "second").await;
    // Someone reads it: that is when the service hears of the version.
    assert_eq!(service.get("/v1/secrets/prod/key", &[]).await.status(), StatusCode::OK);
    let (mut events, _) = service.watch(query, &[("last-event-id", &id)]).await;
    let last = events.version(&data("prod/key", "\"2\"")).await;
    assert_eq!(events.next().await, ": heartbeat", "and nothing that it knows already");
    drop(events);
    let (mut events, _) = service.watch(query, &[("last-event-id", &last)]).await;
    assert_eq!(events.next().await, ": heartbeat");
    drop(events);
    for unknown in ["1", "not an id", &id.to_uppercase().replace('A', "B")] {
        let (mut events, _) = service.watch(query, &[("last-event-id", unknown)]).await;
        let (kind, data, _) = events.event().await;
        assert_eq!((kind.as_str(), data.as_str()), ("resync", "{}"), "{unknown}");
        let both = [events.event().await.1, events.event().await.1];
        assert!(both.iter().any(|data| data.contains("prod/nested/key")), "{both:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rights_are_looked_at_again_before_anything_is_told() {
    let service = Service::start(store(&["prod/key"]));
    let (mut events, _) = service.watch("name=prod/key", &[]).await;
    events.version(&data("prod/key", "\"1\"")).await;
    service.put("prod/key", "second").await;
    events.version(&data("prod/key", "\"2\"")).await;
    let denied = fixture::POLICIES.replace("namespaces: [\"*\"]", "namespaces: [elsewhere]");
    let config = fixture::config(fixture::CONFIG);
    service.change(|snapshot| snapshot.policies = Arc::new(fixture::policies(&config, &denied)));
    let snapshot = service.current.load_full();
    snapshot.resolver.invalidate(&fixture::local(), None, &name("prod/key"));
    events.end("forbidden").await;
    assert_eq!(service.get("/v1/watch?name=prod/key", &[]).await.status(), StatusCode::FORBIDDEN);
    service.measured("vaultmux_watchers 0").await;
    service.measured("vaultmux_watches_ended_total{reason=\"forbidden\"} 1").await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_ends_ends_the_stream() {
    let service = Service::start(store(&["other/key"]));
    let snapshot = service.current.load_full();
    let scope = GrantScope { method: "GET", host: "vaultmux.test", path: "/v1/watch" };
    let caller = fixture::principal("other/app");
    let grant = snapshot.grants.seal(&caller, scope, SystemTime::now()).expect("sealed");
    let headers = [("x-vaultmux-grant", &*grant), ("x-forwarded-proto", "http")];
    let (mut events, _) = service.watch("name=other/key", &headers).await;
    events.version(&data("other/key", "\"1\"")).await;
    let started = Instant::now();
    events.end("unproven").await;
    assert!(started.elapsed() <= Duration::from_secs(40), "{:?}", started.elapsed());
    // Likewise one that is not believed any more.
    let (mut events, _) = {
        let service = Service::start(store(&["prod/key"]));
        let (mut events, id) = service.watch("name=prod/key", &[]).await;
        events.version(&data("prod/key", "\"1\"")).await;
        service.change(|snapshot| snapshot.local = None);
        (events, id)
    };
    events.end("unproven").await;
}

#[tokio::test(start_paused = true)]
async fn watchers_are_counted_by_caller_and_in_all() {
    let service = Service::start(store(&["prod/key"]));
    service.change(|snapshot| {
        snapshot.limits.watches = 3;
        snapshot.limits.watches_per_principal = 2;
    });
    let first = service.watch("name=prod/key", &[]).await;
    let _second = service.watch("name=prod/key", &[]).await;
    let refused = service.get("/v1/watch?name=prod/key", &[]).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
    drop(first);
    service.measured("vaultmux_watchers 1").await;
    let _third = service.watch("name=prod/key", &[]).await;
    service.change(|snapshot| {
        snapshot.limits.watches = 2;
        snapshot.limits.watches_per_principal = 9;
    });
    let refused = service.get("/v1/watch?name=prod/key", &[]).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_let_go() {
    let service = Service::start(store(&["prod/key"]));
    let (mut events, _) = service.watch("name=prod/key", &[]).await;
    for version in 0..QUEUE + 4 {
        service.put("prod/key", &version.to_string()).await;
        assert_eq!(service.get("/v1/secrets/prod/key", &[]).await.status(), StatusCode::OK);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::sleep(2 * STALL).await;
    service.measured("vaultmux_watches_ended_total{reason=\"slow\"} 1").await;
    service.measured("vaultmux_watchers 0").await;
    // When it reads on, it hears why nothing more comes.
    let mut kinds = Vec::new();
    for _ in 0..QUEUE {
        kinds.push(events.event().await.0);
    }
    assert!(kinds.iter().skip(1).all(|kind| kind == "version"), "{kinds:?}");
    events.end("slow").await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_all_streams() {
    let service = Service::start(store(&["prod/key"]));
    let (mut events, _) = service.watch("name=prod/key", &[]).await;
    events.version(&data("prod/key", "\"1\"")).await;
    service.stopping.cancel();
    events.end("stopping").await;
}
