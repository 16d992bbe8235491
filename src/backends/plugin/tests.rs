//! Plugins that are honest, and plugins that are not.

use std::{os::unix::fs::PermissionsExt, path::Path};

use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;

use super::{
    error::{ErrorInfo, RetryInfo, RichStatus},
    fake::{FakePlugin, Reply, info},
    proto::{
        Capabilities, CreateResponse, GetInfoResponse, GetResponse, ListResponse, Version,
        VersionsResponse, WatchResponse,
    },
    *,
};
use crate::backends::{
    Change,
    conformance::{self, Outcome, Profile},
    faults::{self, CANARY},
};

/// Of tests in which nothing hangs: a busy machine must not make them fail.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of those in which something does.
const TIMEOUT: Duration = Duration::from_millis(500);

fn directory() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}

fn settings(socket: &Path) -> PluginSettings {
    PluginSettings { socket: socket.to_owned(), ..PluginSettings::default() }
}

fn backend(socket: &Path) -> PluginBackend {
    PluginBackend::new(settings(socket), PATIENCE)
}

fn hasty(socket: &Path) -> PluginBackend {
    PluginBackend::new(settings(socket), TIMEOUT)
}

fn start() -> (TempDir, FakePlugin, PluginBackend) {
    let directory = directory();
    let socket = directory.path().join("fake.sock");
    let plugin = FakePlugin::start(&socket);
    let backend = backend(&socket);
    (directory, plugin, backend)
}

fn name(raw: &str) -> SecretName {
    conformance::name(PluginBackend::GRAMMAR, raw)
}

async fn get(backend: &PluginBackend) -> Result<SecretRecord, BackendError> {
    backend.get(&name("a"), &SecretVersion::Latest).await
}

/// The kind of an error with its causes.
fn shown<T>(result: Result<T, BackendError>) -> String {
    let Err(error) = result else { return "ok".to_owned() };
    let causes: Vec<_> =
        crate::backends::failure::causes(&error).map(ToString::to_string).collect();
    format!("{}: {}", error.kind(), causes.join(": "))
}

#[tokio::test]
async fn an_honest_plugin_conforms() {
    let (_directory, plugin, backend) = start();
    let odd_names = &["of.a_secret+1=2@x-y", "a/b/c/d"];
    let profile = Profile { odd_names, max_value: 1 << 20, ..Profile::new(PluginBackend::GRAMMAR) };
    conformance::assert_conforms(&backend, profile).await;
    let asked = plugin.methods().iter().filter(|method| **method == "GetInfo").count();
    assert_eq!(asked, 1, "GetInfo is asked once per connection");
}

#[tokio::test]
async fn a_prefix_is_added_and_taken_off() {
    let (_directory, plugin, all) = start();
    let prefix = "team-a/".to_owned();
    let ours = PluginSettings { prefix, ..settings(&plugin.socket) };
    let ours = PluginBackend::new(ours, PATIENCE);
    conformance::assert_conforms(&ours, Profile::new(PluginBackend::GRAMMAR)).await;
    let value = SecretValue::new("x");
    ours.create(&name("key"), &value).await.expect("created");
    all.create(&name("other"), &value).await.expect("created");
    all.get(&name("team-a/key"), &SecretVersion::Latest).await.expect("found");
    let listed = ours.list(None).await.expect("listed").names;
    assert_eq!(listed, [name("key")]);
}

#[tokio::test]
async fn every_call_has_a_deadline_and_an_id() {
    let (_directory, plugin, backend) = start();
    let _ = get(&backend).await;
    let calls = plugin.calls();
    let methods: Vec<_> = calls.iter().map(|(method, _)| *method).collect();
    assert_eq!(methods, ["GetInfo", "Get"]);
    let header =
        |at: usize, key: &str| calls[at].1.get(key).expect(key).to_str().expect("text").to_owned();
    assert_eq!(header(0, "x-request-id").len(), 32);
    assert_eq!(header(0, "x-request-id"), header(1, "x-request-id"));
    for at in [0, 1] {
        // Within the timeout of 10 s, in whatever unit.
        let text = header(at, "grpc-timeout");
        let (number, unit) = text.split_at(text.len() - 1);
        let nanos = number.parse::<u64>().expect("a number")
            * match unit {
                "n" => 1,
                "u" => 1_000,
                "m" => 1_000_000,
                _ => panic!("{text}"),
            };
        assert!((1..=10_000_000_000).contains(&nanos), "{text}");
    }
    let _ = get(&backend).await;
    assert_ne!(header(0, "x-request-id"), {
        let calls = plugin.calls();
        assert_eq!(calls.len(), 1, "connected once");
        calls[0].1.get("x-request-id").expect("id").to_str().expect("text").to_owned()
    });
}

fn rich(code: tonic::Code, type_name: &str, value: Vec<u8>) -> Status {
    let type_url = format!("type.googleapis.com/google.rpc.{type_name}");
    let other = prost_types::Any { type_url: "x/google.rpc.Help".into(), value: vec![1, 2, 3] };
    let details = vec![other, prost_types::Any { type_url, value }];
    Status::with_details(code, CANARY, RichStatus { details }.encode_to_vec().into())
}

fn reason(reason: &str, domain: &str) -> Status {
    let info = ErrorInfo { reason: reason.to_owned(), domain: domain.to_owned() };
    rich(tonic::Code::FailedPrecondition, "ErrorInfo", info.encode_to_vec())
}

fn retry(seconds: i64, nanos: i32) -> Status {
    let retry_delay = Some(prost_types::Duration { seconds, nanos });
    let info = RetryInfo { retry_delay };
    rich(tonic::Code::ResourceExhausted, "RetryInfo", info.encode_to_vec())
}

#[tokio::test]
async fn every_code_is_a_kind_of_error_on_every_method() {
    use tonic::Code as C;
    let (_directory, plugin, backend) = start();
    let code = |code: C| Status::new(code, CANARY);
    let waits = |millis: u64| format!("throttled {:?}", Some(Duration::from_millis(millis)));
    let rows: Vec<(Status, String)> = vec![
        (code(C::NotFound), "not_found".into()),
        (code(C::PermissionDenied), "permission_denied".into()),
        (code(C::Unauthenticated), "permission_denied".into()),
        (code(C::AlreadyExists), "conflict".into()),
        (reason("DISABLED", "vaultmux.dev"), "disabled".into()),
        (reason("PENDING_DELETION", "vaultmux.dev"), "pending_deletion".into()),
        (reason("DISABLED", "example.com"), "invalid".into()),
        (reason("OTHER", "vaultmux.dev"), "invalid".into()),
        (rich(C::FailedPrecondition, "ErrorInfo", vec![0xff; 9]), "invalid".into()),
        (Status::with_details(C::FailedPrecondition, CANARY, "x".into()), "invalid".into()),
        (code(C::FailedPrecondition), "invalid".into()),
        (code(C::ResourceExhausted), "throttled None".into()),
        (retry(7, 500_000_000), waits(7_500)),
        (retry(0, 0), waits(0)),
        (retry(1 << 40, 0), waits(3_600_000)),
        (retry(-1, 0), "throttled None".into()),
        (code(C::Unavailable), "unavailable".into()),
        (code(C::Internal), "unavailable".into()),
        (code(C::Unknown), "unavailable".into()),
        (code(C::Aborted), "unavailable".into()),
        (code(C::Cancelled), "unavailable".into()),
        (code(C::DataLoss), "unavailable".into()),
        (code(C::DeadlineExceeded), "timed_out".into()),
        (code(C::Unimplemented), "invalid".into()),
        (code(C::InvalidArgument), "invalid".into()),
        (code(C::OutOfRange), "invalid".into()),
    ];
    for (status, expected) in rows {
        let row = format!("{:?} {:?}", status.code(), status.details());
        plugin.refuse(move || {
            Status::with_details(status.code(), status.message(), status.details().to_vec().into())
        });
        for method in faults::ALL {
            let error = faults::call(&backend, &name("a"), *method).await.expect_err(&row);
            let kind = match &error {
                BackendError::Throttled { retry_after } => format!("throttled {retry_after:?}"),
                other => other.kind().to_owned(),
            };
            assert_eq!(kind, expected, "{row}: {method:?}");
            assert!(!error.to_string().contains(CANARY), "{row}: {error}");
            if matches!(error, BackendError::PermissionDenied(_) | BackendError::Unavailable(_)) {
                let logged = shown(Err::<(), _>(error));
                assert!(!logged.contains(CANARY) && logged.contains("request "), "{logged}");
            }
        }
    }
    let text = "invalid: the store refused the request: the plugin does not do this";
    plugin.refuse(|| Status::unimplemented(CANARY));
    assert_eq!(shown(get(&backend).await), text);
}

#[tokio::test]
async fn lies_are_refused() {
    let (_directory, plugin, backend) = start();
    let record = || GetResponse {
        name: "a".into(),
        value: b"x".to_vec(),
        version: "1".into(),
        created_at: None,
    };
    let long = "v".repeat(257);
    let lies: Vec<(&str, GetResponse)> = vec![
        ("another name", GetResponse { name: "b".into(), ..record() }),
        ("no name", GetResponse { name: String::new(), ..record() }),
        ("no version", GetResponse { version: String::new(), ..record() }),
        ("an ambiguous version", GetResponse { version: "latest".into(), ..record() }),
        ("a long version", GetResponse { version: long, ..record() }),
        ("an odd version", GetResponse { version: "1\n2".into(), ..record() }),
        ("more than it can hold", GetResponse { value: vec![0; (1 << 20) + 1], ..record() }),
        ("more than we read", GetResponse { value: vec![0; 5 << 20], ..record() }),
    ];
    for (row, lie) in lies {
        let lie = Arc::new(lie);
        plugin.on(move |method| match method {
            "Get" => Reply::Get(GetResponse::clone(&lie)),
            _ => Reply::Honest,
        });
        let shown = shown(get(&backend).await);
        assert!(shown.starts_with("invalid: "), "{row}: {shown}");
    }
    let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
    plugin.on(move |_| Reply::Get(GetResponse { created_at: Some(far), ..record() }));
    assert_eq!(get(&backend).await.expect("found").created_at, None, "no such time");

    for (row, names, next_page_token) in [
        ("a long page", vec!["a".to_owned(); 101], String::new()),
        ("the same page again", vec![], "token".to_owned()),
        ("a long token", vec![], "t".repeat(4097)),
    ] {
        plugin.on(move |_| {
            let next_page_token = next_page_token.clone();
            Reply::List(ListResponse { names: names.clone(), next_page_token })
        });
        let shown = shown(backend.list(Some("token")).await);
        assert!(shown.starts_with("invalid: "), "{row}: {shown}");
    }
    for (row, count, next_page_token, expected) in [
        ("all at once", 10_000, "", "ok"),
        ("too many", 10_001, "", "invalid: "),
        ("a token of no use", 1, "next", "invalid: "),
    ] {
        plugin.on(move |method| match method {
            "GetInfo" => {
                let capabilities = Capabilities { list: true, ..Capabilities::default() };
                Reply::Info(GetInfoResponse { capabilities: Some(capabilities), ..info() })
            }
            _ => {
                let names = vec!["a".to_owned(); count];
                Reply::List(ListResponse { names, next_page_token: next_page_token.to_owned() })
            }
        });
        match self::backend(&plugin.socket).list(None).await {
            Ok(page) => assert_eq!((page.names.len(), expected), (count, "ok"), "{row}"),
            Err(error) => assert!(shown::<()>(Err(error)).starts_with(expected), "{row}"),
        }
    }
    plugin.on(|_| {
        let names = ["../a", "a", "", "a//b", "a\0", "\u{e9}", "a/./b", "b c", "-"];
        let names = names.map(str::to_owned).to_vec();
        Reply::List(ListResponse { names, next_page_token: String::new() })
    });
    let page = backend.list(None).await.expect("listed");
    assert_eq!(page.names, [name("a"), name("-")], "left out as from any store");

    plugin.on(|_| Reply::Create(CreateResponse { version: String::new() }));
    let made = backend.create(&name("b"), &SecretValue::new("x")).await;
    assert!(shown(made).starts_with("invalid: "));
    for (id, stage) in [("", "current"), ("1", "a b")] {
        plugin.on(move |_| {
            let stages = vec![stage.to_owned()];
            let entry = Version { id: id.to_owned(), stages, ..Version::default() };
            Reply::Versions(VersionsResponse { versions: vec![entry] })
        });
        assert!(shown(backend.versions(&name("a")).await).starts_with("invalid: "));
    }
}

#[tokio::test]
async fn what_a_plugin_cannot_do_is_not_asked_of_it() {
    let (_directory, plugin, backend) = start();
    let nothing = Capabilities { max_value_bytes: 10, ..Capabilities::default() };
    let can =
        move |capabilities| move |_: &str| Reply::Info(GetInfoResponse { capabilities, ..info() });
    plugin.on(can(Some(nothing)));
    let value = SecretValue::new("x");
    let a = name("a");
    backend.accepts(&value).expect("nothing is known yet");
    for shown in [
        shown(backend.create(&a, &value).await),
        shown(backend.update(&a, &value).await),
        shown(backend.delete(&a, true).await),
        shown(backend.accepts(&value)),
    ] {
        assert!(shown.ends_with("the plugin is read-only"), "{shown}");
    }
    assert!(shown(backend.list(None).await).ends_with("does not list"));
    assert_eq!(plugin.methods(), ["GetInfo"]);
    assert_eq!(shown(get(&backend).await), "not_found: secret or version does not exist");

    let backend = self::backend(&plugin.socket);
    plugin.on(can(Some(Capabilities { writable: true, ..nothing })));
    for (value, text) in [("", "takes no empty value"), ("elevenbytes", "values up to 10 bytes")] {
        let shown = shown(backend.create(&a, &SecretValue::new(value)).await);
        assert!(shown.ends_with(text), "{shown}");
        let shown = self::shown(backend.accepts(&SecretValue::new(value)));
        assert!(shown.ends_with(text), "{shown}");
    }
    backend.accepts(&SecretValue::new("ten bytes.")).expect("short enough");
    backend.create(&a, &SecretValue::new("ten bytes.")).await.expect("created");

    let backend = self::backend(&plugin.socket);
    plugin.on(can(None));
    assert!(shown(backend.list(None).await).starts_with("invalid: "), "says nothing: can nothing");
}

#[tokio::test]
async fn a_plugin_of_another_protocol_is_refused_with_both_ranges() {
    let (_directory, plugin, backend) = start();
    for (min, max, accepted) in [(2, 3, false), (0, 0, false), (3, 1, false), (0, 9, true)] {
        plugin.on(move |_| {
            Reply::Info(GetInfoResponse { min_protocol: min, max_protocol: max, ..info() })
        });
        let found = backend.info().await;
        assert_eq!(found.is_ok(), accepted, "{min} to {max}");
        if !accepted {
            let expected =
                format!("the plugin speaks protocol {min} to {max}, this service 1 to 1");
            assert!(shown(found).ends_with(&expected));
        }
    }
    assert_eq!(backend.info().await.expect("connected").protocol, 1);
}

#[tokio::test]
async fn a_plugin_that_hangs_times_out_and_the_others_go_on() {
    let (_directory, plugin, _) = start();
    let (_other_directory, _other, other) = start();
    for hanging in ["Get", "GetInfo"] {
        plugin.on(move |method| match method {
            method if method == hanging => Reply::Hang,
            _ => Reply::Honest,
        });
        let backend = hasty(&plugin.socket);
        let started = Instant::now();
        let (hung, hung_too, fine) = tokio::join!(get(&backend), get(&backend), async {
            let found = get(&other).await;
            assert!(started.elapsed() < TIMEOUT, "it had to wait");
            found
        });
        for hung in [hung, hung_too] {
            assert_eq!(shown(hung), "timed_out: the store did not answer in time", "{hanging}");
        }
        assert!(started.elapsed() < 3 * TIMEOUT, "{:?}", started.elapsed());
        assert!(shown(fine).starts_with("not_found"));
    }
    // The one connection goes on too: it is the call that hung.
    let backend = hasty(&plugin.socket);
    plugin.on(|_| Reply::Honest);
    get(&backend).await.expect_err("not there");
    plugin.on(|method| match method {
        "List" => Reply::Hang,
        _ => Reply::Honest,
    });
    plugin.calls();
    let (listed, found) = tokio::join!(backend.list(None), get(&backend));
    assert!(shown(listed).starts_with("timed_out") && shown(found).starts_with("not_found"));
    assert!(!plugin.methods().contains(&"GetInfo"));
}

#[tokio::test]
async fn a_plugin_that_dies_is_unavailable_and_comes_back() {
    let (_directory, mut plugin, backend) = start();
    backend.create(&name("a"), &SecretValue::new("x")).await.expect("created");
    for _ in 0..3 {
        get(&backend).await.expect("found");
        // Mid-call.
        plugin.on(|_| Reply::Hang);
        let dies = async {
            while !plugin.methods().contains(&"Get") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            plugin.die();
        };
        let (dead, ()) = tokio::join!(get(&backend), dies);
        assert!(shown(dead).starts_with("unavailable: "));
        let started = Instant::now();
        let refused = shown(get(&backend).await);
        assert!(refused.starts_with("unavailable: "), "{refused}");
        // Reset, if the dying listener still took the connection.
        assert!(refused.contains("refused") || refused.contains("reset"), "{refused}");
        assert!(started.elapsed() < PATIENCE / 2, "it takes no timeout to know");
        plugin.on(|_| Reply::Honest);
        plugin.restart();
        get(&backend).await.expect("found at the first call");
        // Between calls: nothing is in flight that could tell.
        plugin.restart();
        get(&backend).await.expect("found at the first call");
    }
    std::fs::remove_file(&plugin.socket).expect("removed");
    let gone = shown(get(&backend).await);
    assert!(gone.starts_with("unavailable: ") && gone.contains("fake.sock"), "{gone}");
}

#[tokio::test]
async fn a_socket_that_is_replaced_gets_the_calls() {
    let (directory, plugin, backend) = start();
    backend.create(&name("a"), &SecretValue::new("old")).await.expect("created");
    let beside = FakePlugin::start(&directory.path().join("next.sock"));
    get(&backend).await.expect("found in the old one");
    std::fs::rename(&beside.socket, &plugin.socket).expect("renamed");
    assert!(shown(get(&backend).await).starts_with("not_found"), "the new one has no secrets");
    assert!(beside.methods().contains(&"Get"));
}

#[tokio::test]
async fn peers_and_directories_that_are_not_ours_are_refused() {
    let directory = directory();
    let socket = directory.path().join("fake.sock");
    let plugin = FakePlugin::start(&socket);
    let stranger = PluginSettings { allowed_uids: Some(vec![4_242_424]), ..settings(&socket) };
    let mut expected = "permission_denied: the store denied access: ".to_owned();
    expected += &format!("{}: the plugin runs as uid ", socket.display());
    let shown_error = shown(get(&PluginBackend::new(stranger, PATIENCE)).await);
    // Where we are not root, already the directory's owner is not allowed.
    let own = std::os::unix::fs::MetadataExt::uid(&directory.path().metadata().expect("there"));
    if own == 0 {
        assert!(shown_error.starts_with(&expected), "{shown_error}");
        assert!(shown_error.ends_with("allowed_uids are 4242424"), "{shown_error}");
    }
    assert!(shown_error.starts_with("permission_denied: "), "{shown_error}");
    assert_eq!(plugin.methods(), Vec::<&str>::new(), "not a word to a stranger");

    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(directory.path(), mode).expect("set");
    };
    for open in [0o777, 0o1777, 0o770, 0o702] {
        mode(open);
        let refused = shown(get(&backend(&socket)).await);
        assert!(refused.starts_with("permission_denied: "), "{open:o}: {refused}");
        assert!(refused.contains("could put another socket there"), "{refused}");
    }
    mode(0o755);
    let allowed = PluginSettings { allowed_uids: Some(vec![own]), ..settings(&socket) };
    assert!(shown(get(&PluginBackend::new(allowed, PATIENCE)).await).starts_with("not_found"));

    let file = directory.path().join("file.sock");
    std::fs::write(&file, "").expect("written");
    let link = directory.path().join("link.sock");
    std::os::unix::fs::symlink(&socket, &link).expect("linked");
    for path in [file, link] {
        let refused = shown(get(&backend(&path)).await);
        assert!(refused.ends_with("is not a socket"), "{refused}");
    }
    let nowhere = shown(get(&backend(Path::new("/nonexistent/a.sock"))).await);
    assert!(nowhere.starts_with("unavailable: "), "{nowhere}");
}

/// Serves whatever headers a test wants; tonic would not send them.
fn start_liar(socket: &Path, header: &'static str, value: &'static str, in_trailers: bool) {
    let listener = UnixListener::bind(socket).expect("bound");
    let answer = move |_: http::Request<hyper::body::Incoming>| async move {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-status", http::HeaderValue::from_static("9"));
        headers.insert(header, http::HeaderValue::from_static(value));
        let mut response =
            http::Response::builder().header("content-type", "application/grpc+proto");
        let mut frames = Vec::new();
        match in_trailers {
            true => frames.push(Ok(Frame::<Bytes>::trailers(headers))),
            false => response.headers_mut().expect("headers").extend(headers),
        }
        let frames = futures_util::stream::iter(frames);
        let body = BodyExt::boxed(StreamBody::new(frames));
        Ok::<_, std::convert::Infallible>(response.body::<BoxBody>(body).expect("valid"))
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(answer);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
}

type BoxBody = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

#[tokio::test]
async fn a_status_that_cannot_be_read_is_no_panic() {
    for in_trailers in [false, true] {
        for (header, value) in [
            ("grpc-status-details-bin", "!not base64!"),
            ("grpc-status-details-bin", "A"),
            ("grpc-message", "%ff%fe"),
            ("grpc-status", "4711"),
        ] {
            let directory = directory();
            let socket = directory.path().join("liar.sock");
            start_liar(&socket, header, value, in_trailers);
            let error = shown(get(&backend(&socket)).await);
            let kind = error.split(':').next().expect("a kind");
            assert!(matches!(kind, "invalid" | "unavailable"), "{header} {value}: {error}");
        }
    }
}

#[tokio::test]
async fn what_speaks_no_grpc_is_unavailable_or_times_out() {
    use tokio::io::AsyncWriteExt;
    for (what, kind) in [("", "unavailable"), ("HTTP/1.1 200 OK\r\n\r\n", "unavailable")] {
        let directory = directory();
        let socket = directory.path().join("other.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(what.as_bytes()).await;
            }
        });
        let error = shown(get(&backend(&socket)).await);
        assert!(error.starts_with(kind), "{what:?}: {error}");
    }
    // Accepts by way of the kernel's queue, and that is all.
    let directory = directory();
    let socket = directory.path().join("silent.sock");
    let _listener = UnixListener::bind(&socket).expect("bound");
    assert!(shown(get(&hasty(&socket)).await).starts_with("timed_out"));
}

#[tokio::test]
async fn the_probe_passes_an_honest_plugin_and_names_what_a_bad_one_does() {
    let (_directory, plugin, _backend) = start();
    let failed = async || {
        let report = probe(settings(&plugin.socket), PATIENCE).await.expect("connected");
        let failed = report.checks.into_iter().filter(|c| matches!(c.outcome, Outcome::Failed(_)));
        failed.map(|check| check.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(failed().await, Vec::<String>::new());
    plugin.on(|method| match method {
        "Get" => Reply::Refuse(Status::internal("Traceback")),
        _ => Reply::Honest,
    });
    let seen = failed().await;
    let crash = "FAILED   malformed names lead to no secret: \"\": Internal instead of";
    assert!(seen.iter().any(|line| line.starts_with(crash)), "{seen:#?}");
    plugin.on(|method| match method {
        "Create" => Reply::Refuse(Status::internal(format!("bad request: {CANARY_OF_PROBE}"))),
        _ => Reply::Honest,
    });
    let seen = failed().await;
    assert!(
        seen.contains(
            &"FAILED   refusals do not repeat the value: an error's message holds the value"
                .to_owned()
        ),
        "{seen:#?}"
    );
    plugin.on(|_| {
        let capabilities = Capabilities { list: true, ..Capabilities::default() };
        Reply::Info(GetInfoResponse { capabilities: Some(capabilities), ..info() })
    });
    let seen = failed().await;
    let lies = "FAILED   writing to a read-only plugin is refused: create succeeded";
    assert_eq!(seen, [lies]);
}

/// The one in probe.rs.
const CANARY_OF_PROBE: &str = "canary-9d41b7";

#[test]
fn messages_that_hold_values_have_no_debug() {
    // Does not compile if they had: both traits would give `shows`.
    trait NoDebug<A> {
        fn shows() {}
    }
    impl<T> NoDebug<()> for T {}
    impl<T: fmt::Debug> NoDebug<u8> for T {}
    <GetResponse as NoDebug<_>>::shows();
    <CreateRequest as NoDebug<_>>::shows();
    <UpdateRequest as NoDebug<_>>::shows();
}

fn told(names: &[&str], resync: bool, position: &str) -> Result<WatchResponse, tonic::Status> {
    let names = names.iter().map(ToString::to_string).collect();
    Ok(WatchResponse { names, resync, position: position.to_owned() })
}

/// What a stream tells until it ends.
async fn rest(changes: &mut Changes) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(change) = changes.next().await {
        seen.push(match change {
            Ok(Change::Secret(name)) => name.to_string(),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("error: {}", error.kind()),
        });
    }
    seen
}

#[tokio::test]
async fn changes_are_told_from_the_first_answer_on() {
    let (_directory, _plugin, backend) = start();
    let mut changes = backend.watch().await.expect("watching").expect("it can");
    let next = changes.next().await.expect("more").expect("no error");
    assert_eq!(next, Change::Any, "nobody knows what was before");
    for expected in ["a", "b/c"] {
        backend.create(&name(expected), &SecretValue::new("x")).await.expect("made");
        let next = changes.next().await.expect("more").expect("no error");
        assert_eq!(next, Change::Secret(name(expected)));
    }
    backend.delete(&name("a"), true).await.expect("deleted");
    let next = changes.next().await.expect("more").expect("no error");
    assert_eq!(next, Change::Secret(name("a")));
}

#[tokio::test]
async fn a_watch_goes_on_where_the_last_one_ended() {
    let directory = directory();
    let plugin = FakePlugin::start(&directory.path().join("fake.sock"));
    let settings = PluginSettings { prefix: "pay/".to_owned(), ..settings(&plugin.socket) };
    let backend = PluginBackend::new(settings, PATIENCE);
    let script = |answers: fn() -> Vec<Result<WatchResponse, tonic::Status>>| {
        plugin.on(move |method| match method {
            "Watch" => Reply::Watch(answers()),
            _ => Reply::Honest,
        });
    };
    let watch = async || {
        let mut changes = backend.watch().await.expect("watching").expect("it can");
        rest(&mut changes).await
    };
    script(|| {
        vec![
            told(&[], false, "1"),
            // Some are not ours, and some can be nobody's.
            told(&["pay/a", "other/b", "pay/../c", "pay/é", "pay/d/e"], false, "2"),
        ]
    });
    assert_eq!(watch().await, ["Any", "a", "d/e"], "the first time it knows nothing");
    script(|| vec![told(&["pay/f"], false, "3"), Err(tonic::Status::unavailable("canary"))]);
    assert_eq!(watch().await, ["f", "error: unavailable"]);
    script(|| vec![told(&[], true, "")]);
    assert_eq!(watch().await, ["Any"], "it cannot go on from there");
    script(|| vec![told(&[], false, "4")]);
    assert_eq!(watch().await, ["Any"], "it never says where it is");
    assert_eq!(plugin.positions(), ["", "2", "3", ""]);
}

#[tokio::test]
async fn nonsense_ends_a_watch_and_one_without_the_capability_is_not_asked() {
    let (_directory, plugin, _) = start();
    let backend = hasty(&plugin.socket);
    let long = "x".repeat(5000);
    let many = vec!["a"; 10_001];
    for (answers, expected) in [
        (vec![], "invalid"),
        (vec![told(&[], false, &long)], "invalid"),
        (vec![told(&many, false, "")], "invalid"),
        (vec![Err(tonic::Status::unimplemented(CANARY))], "invalid"),
        (vec![Err(tonic::Status::permission_denied(CANARY))], "permission_denied"),
    ] {
        plugin.on(move |method| match method {
            "Watch" => Reply::Watch(answers.clone()),
            _ => Reply::Honest,
        });
        let refused = backend.watch().await.err().expect("an error");
        assert_eq!(refused.kind(), expected);
        assert!(!refused.to_string().contains(CANARY), "{refused}");
    }
    plugin.on(|method| match method {
        "Watch" => Reply::Hang,
        _ => Reply::Honest,
    });
    assert_eq!(backend.watch().await.err().expect("an error").kind(), "timed_out");
    plugin.on(|_| {
        let capabilities = Capabilities { list: true, ..Capabilities::default() };
        Reply::Info(GetInfoResponse { capabilities: Some(capabilities), ..info() })
    });
    let backend = hasty(&plugin.socket);
    plugin.calls();
    assert_eq!(backend.watch().await.err().expect("an error").kind(), "invalid");
    assert_eq!(plugin.methods(), ["GetInfo"]);
}
