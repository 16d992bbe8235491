//! What lines hold, whoever asked, and what becomes of them when the sink is slow or gone.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::{
            auth::v3::{
                AttributeContext, CheckRequest,
                attribute_context::{HttpRequest, Peer, Request},
                authorization_server::Authorization,
            },
            ext_proc::v3::HttpHeaders,
        },
    },
    google::protobuf::{Struct, Value as Attribute, value::Kind},
};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{writer::Writer, *};
use crate::{
    api::{Api, ApiRequest, deadline},
    ext_authz::ExtAuthz,
    ext_proc::{ExtProcSettings, Processor, RequestHeaders, SecretProcessor},
    fixture::{self, CANARY},
    identity::IdentityError,
    metrics::Edge,
    operation::SecretPath,
    policy::{Denial, Destination, Reason},
    secret::SecretRef,
    snapshot::{Current, Snapshot},
};

const API: &str = "spiffe://cluster.local/ns/prod/sa/api";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A snapshot whose decisions go to a file.
struct Setup {
    snapshot: Snapshot,
    metrics: Arc<Metrics>,
    directory: TempDir,
}

impl Setup {
    fn new(decisions: Decisions) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let metrics = Arc::new(Metrics::default());
        let settings = settings(directory.path().join("audit"), decisions);
        let mut snapshot = fixture::snapshot(&metrics);
        snapshot.audit = AuditLog::start(Some(&settings), &metrics).expect("opens");
        Self { snapshot, metrics, directory }
    }

    /// The lines since the last time; no line ever holds the canary.
    async fn lines(&self) -> Vec<Value> {
        self.snapshot.audit.flush(Duration::from_secs(30)).await;
        let path = self.directory.path().join("audit");
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::File::create(&path).expect("empty it");
        assert!(!text.contains(CANARY), "{text}");
        let parse = |line| serde_json::from_str(line).expect("a line is one JSON object");
        text.lines().map(parse).collect()
    }

    async fn line(&self) -> Value {
        let lines = self.lines().await;
        let [line] = &lines[..] else { panic!("one decision is one line: {lines:?}") };
        line.clone()
    }

    async fn check(&self, principal: &str, http: Option<(&str, &str, &str)>) -> Value {
        let headers = [
            ("x-request-id", "r-1"),
            ("traceparent", TRACEPARENT),
            ("authorization", CANARY),
            ("cookie", CANARY),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let http = http.map(|(method, host, path)| HttpRequest {
            method: method.into(),
            host: host.into(),
            path: path.into(),
            headers: headers.into(),
            body: CANARY.into(),
            ..HttpRequest::default()
        });
        let peer = |principal: &str| Peer { principal: principal.into(), ..Peer::default() };
        let attributes = AttributeContext {
            source: Some(peer(principal)),
            destination: Some(peer("spiffe://cluster.local/ns/shop/sa/orders-db")),
            request: http.map(|http| Request { http: Some(http), ..Request::default() }),
            ..AttributeContext::default()
        };
        let service = ExtAuthz::new(Current::new(self.snapshot.clone()), self.metrics.clone());
        let request = CheckRequest { attributes: Some(attributes) };
        service.check(tonic::Request::new(request)).await.expect("an answer");
        self.line().await
    }

    async fn ask(&self, method: Method, below: &str, query: &str, body: &str) -> Value {
        let request = ApiRequest {
            method: &method,
            below: SecretPath::find("", below).expect("below the route"),
            query: Some(query),
            headers: &http::HeaderMap::new(),
            body: body.as_bytes(),
            request_id: "r-2",
            traceparent: Some(TRACEPARENT),
        };
        let principal = fixture::principal("prod/api");
        let deadline = deadline(Duration::from_secs(5));
        let api = Api::new(Arc::clone(&self.metrics), Edge::Rest);
        let _ = api.answer(&self.snapshot, Ok(&principal), request, deadline).await;
        self.line().await
    }

    /// What `ext_proc` writes about a request with these references.
    async fn inject(&self, principal: Option<&str>, cluster: &str, values: &[&str]) -> Vec<Value> {
        let header = |name: &str, value: &str| HeaderValue {
            key: name.to_owned(),
            raw_value: value.into(),
            ..HeaderValue::default()
        };
        let mut headers = vec![
            header(":method", "GET"),
            header(":path", &format!("/charges?q={CANARY}")),
            header(":authority", "API.stripe.test:443"),
            header("traceparent", TRACEPARENT),
            header("cookie", CANARY),
        ];
        headers.extend(values.iter().map(|value| header("x-key", value)));
        let text = |text: &str| Attribute { kind: Some(Kind::StringValue(text.into())) };
        let mut fields = HashMap::from([
            ("xds.cluster_name".to_owned(), text(cluster)),
            ("connection.requested_server_name".to_owned(), text("a\n{\"allowed\":true}")),
        ]);
        if let Some(principal) = principal {
            let mtls = Attribute { kind: Some(Kind::BoolValue(true)) };
            fields.insert("connection.mtls".to_owned(), mtls);
            fields.insert("connection.uri_san_peer_certificate".to_owned(), text(principal));
        }
        let headers =
            HttpHeaders { headers: Some(HeaderMap { headers }), ..HttpHeaders::default() };
        let attributes = [("envoy.filters.http.ext_proc".to_owned(), Struct { fields })];
        let request =
            RequestHeaders { headers, attributes: attributes.into(), ..RequestHeaders::default() };
        let current = Current::new(self.snapshot.clone());
        let message_budget = Duration::from_secs(5);
        let settings = ExtProcSettings { message_budget, ..ExtProcSettings::default() };
        let processor = SecretProcessor::new(current, Arc::clone(&self.metrics), settings);
        processor.on_request_headers(request).await;
        self.lines().await
    }
}

fn settings(path: PathBuf, decisions: Decisions) -> AuditSettings {
    AuditSettings { sink: Sink::File(path), decisions }
}

fn stripe() -> SecretRef {
    let catalog = fixture::config(fixture::CONFIG).catalog;
    catalog.parse_reference("secret://local/shared/stripe").expect("valid")
}

/// A line about a denied use of a secret.
fn denied(server_name: &str) -> AuditLine {
    let denial = Denial::new(Reason::NoMatch);
    let destination = Destination { sni: Some(server_name), ..Destination::default() };
    let operation = Operation::used(&stripe(), &destination);
    let principal = fixture::principal("prod/api");
    AuditLine::new(Edge::ExtProc, Err(&denial), Some(&principal), Some(operation))
}

#[tokio::test]
async fn a_line_of_ext_authz_holds_all_that_was_decided_on() {
    let setup = Setup::new(Decisions::All);
    let path = format!("/orders/1?token={CANARY}");
    let line = setup.check(API, Some(("GET", "ORDERS.test:443", &path))).await;
    let time = line["time"].as_str().expect("a time");
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{time}");
    assert!(line["decision_id"].as_str().is_some_and(|id| id.len() > 16), "{line}");
    let mut rest = line.clone();
    assert!(line["policy_hash"].as_str().is_some_and(|hash| hash.len() == 16), "{line}");
    for varying in ["time", "decision_id", "policy_hash"] {
        rest.as_object_mut().expect("an object").remove(varying);
    }
    let expected = json!({
        "edge": "ext_authz", "allowed": true, "reason": null,
        "policy": "orders", "rule": 0, "generation": 1,
        "principal": {
            "id": API, "trust_domain": "cluster.local", "namespace": "prod",
            "service_account": "api", "proofs": ["mtls"],
        },
        "operation": {
            "kind": "http", "method": "GET", "host": "orders.test", "path": "/orders/1",
            "destination": "shop/orders-db",
        },
        "audit_matches": [], "request_id": "r-1", "trace_id": TRACE,
    });
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn every_kind_of_operation_at_ext_authz_is_told() {
    let setup = Setup::new(Decisions::All);
    let http = |path: &str| {
        json!({
            "method": "GET", "host": "vaultmux.test", "path": path, "destination": "shop/orders-db",
        })
    };
    let canary = |path: &str| format!("{path}?backend=local&x={CANARY}");
    let (connection, host) =
        (json!({"kind": "connection", "destination": "shop/orders-db"}), "vaultmux.test");
    for (principal, request, reason, operation) in [
        (API, None, None, connection.clone()),
        ("", None, Some("no_identity"), connection),
        (
            "spiffe://cluster.local/ns/prod/sa/other",
            Some(("GET", "orders.test", canary("/admin"))),
            Some("no_match"),
            json!({
                "kind": "http", "method": "GET", "host": "orders.test", "path": "/admin",
                "destination": "shop/orders-db",
            }),
        ),
        (
            API,
            Some(("GET", host, "/v1/secrets/prod%2Fkey?version=7&field=a/b".to_owned())),
            None,
            json!({
                "kind": "secret", "verb": "get", "backend": "local", "secret": "prod/key",
                "version": "7", "field": "a/b", "http": http("/v1/secrets/prod/key"),
            }),
        ),
        (
            API,
            Some(("GET", host, canary("/v1/secrets"))),
            None,
            json!({
                "kind": "collection", "verb": "list", "backend": "local",
                "http": http("/v1/secrets"),
            }),
        ),
        // What is no operation, or nobody's, is the request that it was.
        ("", Some(("GET", host, canary("/v1/secrets/a"))), Some("no_identity"), {
            let mut operation = http("/v1/secrets/a");
            operation["kind"] = "http".into();
            operation
        }),
        (
            API,
            Some(("GET", "orders.test", canary("/a/../b"))),
            Some("malformed_request"),
            Value::Null,
        ),
        (API, Some(("GET", "a b", canary("/a"))), Some("malformed_request"), Value::Null),
        (
            API,
            Some(("GET", "orders.test", "/orders/\n{\"allowed\":true}".to_owned())),
            Some("malformed_request"),
            Value::Null,
        ),
    ] {
        let request = request.as_ref().map(|(method, host, path)| (*method, *host, &**path));
        let line = setup.check(principal, request).await;
        assert_eq!(line["reason"], json!(reason), "{request:?}");
        assert_eq!(line["allowed"], reason.is_none(), "{request:?}");
        assert_eq!(line["operation"], operation, "{request:?}");
        assert_eq!(line["principal"].is_null(), principal.is_empty(), "{request:?}");
        let read: AuditLine = serde_json::from_value(line.clone()).expect("can be read again");
        assert_eq!(serde_json::to_value(read).expect("JSON"), line);
    }
}

#[tokio::test]
async fn a_long_path_is_cut_with_a_mark() {
    let setup = Setup::new(Decisions::All);
    let just = format!("/orders/{}", "a".repeat(1024 - "/orders/".len()));
    for (path, cut) in [(just.clone(), Value::Null), (format!("{just}b"), json!(true))] {
        let line = setup.check(API, Some(("GET", "orders.test", &path))).await;
        let operation = &line["operation"];
        assert_eq!((&operation["path"], &operation["path_cut"]), (&json!(just), &cut));
    }
}

#[tokio::test]
async fn the_api_writes_a_line_a_decision_and_none_a_name() {
    let setup = Setup::new(Decisions::All);
    let value = format!(r#"{{"name": "prod/new", "value": "{CANARY}"}}"#);
    for (method, below, body, verb, secret, allowed) in [
        (Method::GET, "", "", "list", None, true),
        (Method::GET, "/prod/key", "", "get", Some("prod/key"), true),
        (Method::GET, "/other/key", "", "get", Some("other/key"), false),
        (Method::POST, "", &*value, "create", Some("prod/new"), true),
        (Method::PUT, "/prod/key", &*value, "update", Some("prod/key"), true),
        (Method::DELETE, "/prod/key", "", "delete", Some("prod/key"), true),
    ] {
        let what = format!("{method} {below}");
        let line = setup.ask(method, below, &format!("x={CANARY}"), body).await;
        assert_eq!((&line["edge"], &line["allowed"]), (&json!("rest"), &json!(allowed)), "{what}");
        assert_eq!((&line["request_id"], &line["trace_id"]), (&json!("r-2"), &json!(TRACE)));
        let operation = &line["operation"];
        assert_eq!((&operation["verb"], &operation["backend"]), (&json!(verb), &json!("local")));
        assert_eq!(operation["secret"], json!(secret), "{what}");
        let kind = if secret.is_some() { "secret" } else { "collection" };
        assert_eq!(operation["kind"], kind, "{what}");
    }
}

#[tokio::test]
async fn strangers_at_the_api_are_told_with_what_they_asked_for() {
    let setup = Setup::new(Decisions::Denied);
    let (method, api) = (Method::GET, Api::new(Arc::clone(&setup.metrics), Edge::Rest));
    let request = ApiRequest {
        method: &method,
        below: SecretPath::Item("prod/key"),
        query: None,
        headers: &http::HeaderMap::new(),
        body: &[],
        request_id: "r-2",
        traceparent: Some("00-nonsense"),
    };
    let nobody = Err(IdentityError::Missing);
    let _ = api.answer(&setup.snapshot, nobody, request, deadline(Duration::from_secs(5))).await;
    let line = setup.line().await;
    assert_eq!((&line["principal"], &line["trace_id"]), (&Value::Null, &Value::Null));
    assert_eq!(line["operation"]["secret"], "prod/key");
    let _ = api.deny(&setup.snapshot, Denial::new(Reason::InvalidIdentity), "r-3", None);
    let line = setup.line().await;
    assert_eq!((&line["reason"], &line["request_id"]), (&json!("invalid_identity"), &json!("r-3")));
}

#[tokio::test]
async fn a_use_is_told_with_its_destination() {
    let setup = Setup::new(Decisions::All);
    let reference = "{{secret://local/shared/stripe}}";
    let other = "{{secret://local/other/key#a}}";
    let lines = setup.inject(Some(API), "stripe", &[reference, other]).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let [used, refused] = &lines[..] else { panic!("one each: {lines:?}") };
    let expected = json!({
        "kind": "secret", "verb": "use", "backend": "local", "secret": "shared/stripe",
        "version": "latest", "field": null,
        "destination": {
            "host": "api.stripe.test", "cluster": "stripe", "route": null,
            "sni": "a\n{\"allowed\":true}", "method": "GET", "path": "/charges",
        },
    });
    assert_eq!((&used["operation"], &used["policy"]), (&expected, &json!("inject-stripe")));
    assert_eq!((&used["edge"], &used["trace_id"]), (&json!("ext_proc"), &json!(TRACE)));
    assert_eq!((&refused["allowed"], &refused["operation"]["field"]), (&json!(false), &json!("a")));
    let lines = setup.inject(None, "stripe", &[reference]).await;
    assert_eq!((lines.len(), &lines[0]["reason"]), (1, &json!("no_identity")), "{lines:?}");
    assert_eq!((&lines[0]["principal"], &lines[0]["operation"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn policies_in_audit_mode_are_told() {
    let mut setup = Setup::new(Decisions::All);
    let config = fixture::config(fixture::CONFIG);
    let trial = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: trial}
spec:
  effect: Deny
  mode: Audit
  from: [{namespaces: [prod]}]
  to: [{secrets: {names: [prod/key], verbs: [get]}}]
";
    let policies = format!("{}\n---{trial}", fixture::POLICIES);
    setup.snapshot.policies = Arc::new(fixture::policies(&config, &policies));
    let line = setup.ask(Method::GET, "/prod/key", "", "").await;
    let matched = json!([{"policy": "trial", "rule": 0, "effect": "Deny"}]);
    assert_eq!((&line["allowed"], &line["audit_matches"]), (&json!(true), &matched));
}

#[tokio::test]
async fn only_denials_are_written_if_so_wanted() {
    let setup = Setup::new(Decisions::Denied);
    setup.snapshot.audit.write(true, || panic!("not to be made"));
    setup.snapshot.audit.write(false, || denied("a"));
    assert_eq!(setup.lines().await.len(), 1);
    AuditLog::off().write(false, || panic!("not to be made"));
}

/// A sink that takes what it is let.
struct Gate {
    reached: mpsc::Sender<()>,
    open: mpsc::Receiver<io::Result<()>>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.reached.send(());
        self.open.recv().unwrap_or(Ok(()))?;
        self.written.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer over a gate.
struct Gated {
    writer: Writer,
    /// The gate opens for good when this is dropped.
    open: mpsc::Sender<io::Result<()>>,
    reached: mpsc::Receiver<()>,
    written: Arc<Mutex<Vec<u8>>>,
    metrics: Arc<Metrics>,
}

fn gated(capacity: usize) -> Gated {
    let ((open, wait), (tell, reached)) = (mpsc::channel(), mpsc::channel());
    let written = Arc::default();
    let gate = Gate { reached: tell, open: wait, written: Arc::clone(&written) };
    let metrics = Arc::new(Metrics::default());
    let writer = Writer::start(Box::new(gate), capacity, Arc::clone(&metrics)).expect("a thread");
    Gated { writer, open, reached, written, metrics }
}

fn text(written: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(written.lock().expect("not poisoned").clone()).expect("text")
}

fn counted(metrics: &Metrics) -> (u64, u64) {
    let text = metrics.encode().expect("text");
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.expect(name).trim().parse().expect("a number")
    };
    (value("vaultmux_audit_written_total"), value("vaultmux_audit_dropped_total"))
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_never_waits() {
    let Gated { writer, open, reached, written, metrics } = gated(4);
    writer.write(&denied("first"));
    reached.recv().expect("the thread is at the gate");
    for _ in 0..100 {
        writer.write(&denied("a"));
    }
    assert_eq!(counted(&metrics), (0, 96));
    drop(open);
    writer.flush().await;
    assert_eq!(counted(&metrics), (5, 96));
    assert_eq!(text(&written).lines().count(), 5);
}

#[tokio::test]
async fn lines_that_cannot_be_written_are_counted_and_spoil_no_other() {
    let Gated { writer, open, written, metrics, .. } = gated(64);
    open.send(Err(io::Error::from(io::ErrorKind::StorageFull))).expect("a reader");
    writer.write(&denied("lost"));
    drop(open);
    writer.flush().await;
    assert_eq!(counted(&metrics), (0, 1));
    writer.write(&denied("kept"));
    writer.flush().await;
    assert_eq!(counted(&metrics), (1, 1));
    let text = text(&written);
    // Half a line may be there: the next one begins anew.
    assert!(text.starts_with('\n') && text.contains("kept") && !text.contains("lost"), "{text}");
}

#[tokio::test]
async fn what_waits_is_written_when_the_last_holder_goes() {
    let Gated { writer, open, written, metrics, .. } = gated(64);
    for _ in 0..10 {
        writer.write(&denied("a"));
    }
    drop(writer);
    drop(open);
    let all = async {
        while counted(&metrics).0 < 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("written");
    assert_eq!(text(&written).lines().count(), 10);
}

#[tokio::test]
async fn a_sink_that_hangs_does_not_hold_up_the_end() {
    let directory = tempfile::tempdir().expect("make a directory");
    let Gated { writer, open, .. } = gated(64);
    let settings = settings(directory.path().join("audit"), Decisions::All);
    let log = AuditLog { writer: Some(Arc::new(writer)), settings: Some(Arc::new(settings)) };
    log.write(true, || denied("a"));
    let ended = log.flush(Duration::from_millis(10));
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it gives up");
    drop(open);
}

#[tokio::test]
async fn settings_change_without_losing_a_line() {
    let directory = tempfile::tempdir().expect("make a directory");
    let metrics = Arc::new(Metrics::default());
    let path = |name: &str| directory.path().join(name);
    let lines =
        |name: &str| std::fs::read_to_string(path(name)).map_or(0, |text| text.lines().count());
    let patience = Duration::from_secs(30);
    let one = settings(path("one"), Decisions::All);
    let log = AuditLog::start(Some(&one), &metrics).expect("opens");
    let mode = std::fs::metadata(path("one")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    log.write(true, || denied("a"));
    log.flush(patience).await;
    std::fs::rename(path("one"), path("one.1")).expect("rename");
    log.reopen().expect("opens");
    log.write(true, || denied("a"));
    log.flush(patience).await;
    assert_eq!((lines("one.1"), lines("one")), (1, 1));

    let gone = settings(path("not/there"), Decisions::All);
    assert!(log.succeeded_by(Some(&gone), &metrics).is_err());
    log.write(true, || denied("a"));
    let two = settings(path("two"), Decisions::All);
    log.flush(patience).await;
    assert_eq!(lines("one"), 2);
    let second = log.succeeded_by(Some(&two), &metrics).expect("opens");
    // Whoever began under the old settings writes to the new sink too.
    log.write(true, || denied("a"));
    second.write(true, || denied("a"));
    second.flush(patience).await;
    assert_eq!((lines("one"), lines("two")), (2, 2));

    let off = second.succeeded_by(None, &metrics).expect("nothing to open");
    off.write(true, || panic!("not to be made"));
    second.write(true, || denied("a"));
    off.flush(patience).await;
    assert_eq!(lines("two"), 3);
    let again = off.succeeded_by(Some(&one), &metrics).expect("opens");
    again.write(true, || denied("a"));
    again.flush(patience).await;
    assert_eq!((lines("one"), lines("two")), (3, 3));
}

#[test]
fn sinks_that_cannot_be_files_are_refused() {
    let directory = tempfile::tempdir().expect("make a directory");
    std::fs::write(directory.path().join("file"), "").expect("write");
    let check = |path: PathBuf| Sink::File(path).check().map_err(|error| error.to_string());
    assert_eq!(check(directory.path().join("audit")), Ok(()));
    assert_eq!(check(directory.path().join("file")), Ok(()));
    for (path, why) in [
        ("", "is not a regular file"),
        ("none/audit", "its directory: No such file"),
        ("file/audit", "its directory is not a directory"),
    ] {
        let error = check(directory.path().join(path)).expect_err(path);
        assert!(error.starts_with("audit.sink: file:/") && error.contains(why), "{error}");
    }
    assert!(check("/dev/null".into()).is_err());
}

/// The paths of all keys in the page's tables are those of a line that has all of them.
#[test]
fn every_field_is_documented_and_no_other() {
    fn keys(value: &Value, above: &str, found: &mut BTreeSet<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = format!("{above}{key}");
            let inner = match value {
                Value::Array(entries) => entries.first().unwrap_or(&Value::Null),
                value => value,
            };
            keys(inner, &format!("{path}."), found);
            found.insert(path);
        }
    }
    let http = AuditedHttp {
        method: "GET".into(),
        host: "a".into(),
        path: "/".into(),
        path_cut: true,
        destination: None,
    };
    let mut line = denied("a");
    line.audit_matches = vec![AuditedMatch { policy: "a".into(), rule: 0, effect: "Deny".into() }];
    let principal = line.principal.as_mut().expect("one");
    principal.pod = Some(AuditedPod { name: "a".into(), uid: "b".into() });
    principal.node = Some("a".into());
    principal.credential_id = Some("a".into());
    let path = format!("/{}", "a".repeat(5000));
    let all = Destination {
        port: Some("443"),
        scheme: Some("https"),
        method: Some("GET"),
        path: Some(&path),
        ..Destination::default()
    };
    line.operation = Some(Operation::used(&stripe(), &all));
    let Some(Operation::Secret { http: by, .. }) = &mut line.operation else { panic!("a secret") };
    *by = Some(http.clone());
    let mut found = BTreeSet::new();
    let collection = Operation::collection(crate::policy::Verb::List, Some(&fixture::local()));
    for operation in [
        line.operation.clone().expect("one"),
        Operation::Http(http),
        collection,
        Operation::connection(None),
    ] {
        line.operation = Some(operation);
        keys(&serde_json::to_value(&line).expect("JSON"), "", &mut found);
    }
    let page = include_str!("../../docs/audit.md");
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let documented: BTreeSet<String> = page.lines().filter_map(row).collect();
    assert_eq!(documented, found);
}
