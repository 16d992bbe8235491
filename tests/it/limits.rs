//! What one caller may not do to the others: large, slow, malformed, too many.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Service, chunked, sized};

/// Longer than anything takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{namespaces: [payments]}]
  to: [{secrets: {prefixes: ["zq-"], verbs: ["*"]}}]
"#;

async fn start(limits: &str) -> Service {
    let config = format!(
        r#"
mode: development
listeners:
  grpc: {{address: "127.0.0.1:0"}}
  rest: {{address: "127.0.0.1:0"}}
  admin: {{address: "127.0.0.1:0"}}
identity:
  trust_domains: [cluster.local]
  local: {{namespace: payments, service_account: api}}
backends: {{local: {{type: memory, secrets: {{zq-orders: canary-orders}}}}}}
policies: [policies.yaml]
limits: {limits}
"#
    );
    Service::start(&[("config.yaml", &config), ("policies.yaml", POLICIES)]).await
}

async fn connect(service: &Service, text: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(service.rest()).await.expect("connected");
    // One that was refused may be closed already.
    let _ = stream.write_all(text).await;
    stream
}

/// All that comes until the service closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text)).await;
    assert!(read.is_ok(), "not closed after {:?}", String::from_utf8_lossy(&text));
    String::from_utf8_lossy(&text).into_owned()
}

async fn names(service: &Service) -> Value {
    service.rest_client().get("vaultmux.test", "/v1/secrets").await.json::<Value>()["secrets"]
        .take()
}

/// Q9.
#[tokio::test(flavor = "multi_thread")]
async fn sixty_megabytes_are_refused_and_leave_memory_flat() {
    let service = start("{}").await;
    let client = service.rest_client();
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
    let before = service.peak_memory();
    let body = vec![b'x'; 60 << 20];
    for body in [sized(body.clone()), chunked(body.clone(), 64 << 10)] {
        let answer = client.send("POST", "vaultmux.test", "/v1/secrets", &[], body).await;
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert_eq!(answer.json::<Value>()["code"], "body_too_large");
    }
    let grown = service.peak_memory().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
}

/// Whoever holds many connections and does nothing costs a few KiB for each.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cost_little() {
    const CONNECTIONS: u64 = 1000;
    let service = start("{}").await;
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
    let before = service.peak_memory();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = connect(&service, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let told = timeout(PATIENCE, stream.read(&mut [0; 1024])).await.expect("in time");
        assert!(told.expect("readable") > 0);
        idle.push(stream);
    }
    assert_eq!(service.metric("vaultmux_rest_connections").await, Some(CONNECTIONS as f64));
    let each = service.peak_memory().saturating_sub(before) / CONNECTIONS;
    eprintln!("{each} bytes for each of {CONNECTIONS} idle connections");
    assert!(each < 48 << 10, "{each} bytes each");
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_first_sends_no_body_in_vain() {
    let service = start("{}").await;
    let head = "POST /v1/secrets HTTP/1.1\r\nhost: vaultmux.test\r\nexpect: 100-continue\r\n\
                content-length: 60000000\r\n\r\n";
    let mut stream = connect(&service, head.as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded_in_size_and_number() {
    let service = start("{}").await;
    let client = service.rest_client();
    let long = "x".repeat(70 << 10);
    let many: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, "1")).collect();
    for headers in [&[("x-long", &*long)][..], &many] {
        let answer = client.request("GET", "vaultmux.test", "/v1/secrets/zq-orders", headers).await;
        assert_eq!(answer.status, 431);
    }
    let path = "/v1/secrets/zq-orders";
    let headers = [("x-long", &*long)];
    let answer = client.http2().try_send("GET", "vaultmux.test", path, &headers, sized("")).await;
    assert!(answer.is_ok_and(|answer| answer.status == 431));
    let fits = "x".repeat(20 << 10);
    let headers = [("x", &*fits)];
    assert_eq!(client.request("GET", "vaultmux.test", path, &headers).await.status, 200);
}

/// R2, R4 to R6, and Q10.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_its_share_and_health_and_admin_have_no_limit() {
    let service = start("{per_principal_rps: 2}").await;
    let client = service.rest_client();
    // All at once, so that no machine is too slow for it.
    let asked = (0..60).map(|_| client.get("vaultmux.test", "/v1/secrets/zq-orders"));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status)));
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 4);
    let refused = answers.into_iter().find(|answer| answer.status != 200);
    let refused = refused.expect("a share that ends");
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=2).contains(&wait), "{wait}");
    let body: Value = refused.json();
    assert_eq!((&body["code"], body["error"].is_string()), (&"too_many_requests".into(), true));
    for _ in 0..20 {
        assert_eq!(client.get("vaultmux.test", "/health").await.status, 200);
        assert_eq!(service.admin_client().get("admin", "/livez").await.status, 200);
    }
    assert!(service.metric("vaultmux_rate_limited_total").await.is_some_and(|count| count >= 1.0));
    // Shares come back.
    let allowed =
        async { while client.get("vaultmux.test", "/v1/secrets/zq-orders").await.status != 200 {} };
    timeout(PATIENCE, allowed).await.expect("served again");
}

/// R1 and R3: a share of five a second is ten at once; and R2, R4 to R6 are above.
#[tokio::test(flavor = "multi_thread")]
async fn within_its_share_nobody_is_refused() {
    for (share, calls) in [(5, 4), (5, 10), (1, 2), (100, 200)] {
        let service = start(&format!("{{per_principal_rps: {share}}}")).await;
        let client = service.rest_client();
        let asked = (0..calls).map(|_| client.get("vaultmux.test", "/v1/secrets/zq-orders"));
        let answers = futures_util::future::join_all(asked).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{share} {calls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_keep_others_out() {
    let service = start("{connections: 8, header_timeout: 1s}").await;
    let mut slow = Vec::new();
    for _ in 0..30 {
        slow.push(connect(&service, b"GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: vaul").await);
        let answer = service.rest_client().get("vaultmux.test", "/v1/secrets/zq-orders").await;
        assert_eq!(answer.status, 200);
    }
    for stream in &mut slow {
        assert_eq!(rest(stream).await, "");
    }
}

/// In one write with a whole request, over HTTP/1.1; after the beginning of a connection,
/// over HTTP/2. Without their own limit these would stay for `idle_timeout`.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_is_timed_wherever_it_comes() {
    let service = start("{header_timeout: 1s, idle_timeout: 1h}").await;
    let get = "GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: vaultmux.test\r\n";
    let mut pipelined = connect(&service, format!("{get}\r\n{get}").as_bytes()).await;
    let answers = rest(&mut pipelined).await;
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frames.extend(frame(4, 0, 0, &[]));
    // HEADERS with END_STREAM, without END_HEADERS.
    frames.extend(frame(1, 1, 1, &[0x82, 0x86, 0x84]));
    rest(&mut connect(&service, &frames).await).await;
    let closed = r#"vaultmux_rest_connections_closed_total{reason="slow_head"}"#;
    let counted = async {
        while service.metric(closed).await != Some(2.0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("both are counted");
}

/// RFC 9112, section 3.2, and RFC 9113, section 8.3.1.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_not_clear_are_refused() {
    let service = start("{}").await;
    for (request, status) in [
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: a\r\nhost: a\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: a\r\nHost: b\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost:\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: a b\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: a/b\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: u@a\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: a:99999\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.0\r\nhost: a\r\nhost: b\r\n", "400"),
        ("GET /health HTTP/1.1\r\n", "400"),
        ("GET /authz/public HTTP/1.1\r\n", "400"),
        ("GET /v1/secrets/zq-orders HTTP/1.0\r\n", "200"),
        ("GET /v1/secrets/zq-orders HTTP/1.1\r\nhost: [::1]:80\r\nconnection: close\r\n", "200"),
        ("GET http://a/v1/secrets/zq-orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\n", "200"),
    ] {
        let mut stream = connect(&service, format!("{request}\r\n").as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert_eq!(answer.get(9..12), Some(status), "{request}: {answer}");
        let refused = answer.contains(r#""error":"the request needs one host""#);
        assert_eq!(refused, status == "400", "{request}: {answer}");
        assert!(answer.contains("x-frame-options: DENY\r\n"), "{request}: {answer}");
    }
    // `:method: GET`, `:scheme: http`, `:path: /health`, and what else there is.
    let head = b"\x82\x86\x04\x07/health";
    let host = |name: &[u8], value: &[u8]| {
        let mut field = vec![0, u8::try_from(name.len()).expect("short")];
        field.extend(name);
        field.push(u8::try_from(value.len()).expect("short"));
        field.extend(value);
        field
    };
    for (fields, status) in [
        (vec![], 400),
        (vec![(":authority", "a"), ("host", "b")], 400),
        (vec![(":authority", "u@a")], 400),
        (vec![("host", "a"), ("host", "a")], 400),
        (vec![("host", "a")], 200),
        (vec![(":authority", "a"), ("host", "a")], 200),
        (vec![(":authority", "a")], 200),
    ] {
        let mut block = head.to_vec();
        for (name, value) in &fields {
            block.extend(host(name.as_bytes(), value.as_bytes()));
        }
        let mut text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        text.extend(frame(4, 0, 0, &[]));
        text.extend(frame(1, 0x5, 1, &block));
        let mut stream = connect(&service, &text).await;
        assert_eq!(first_status(&mut stream).await, Some(status), "{fields:?}");
    }
}

/// The status in the first HEADERS frame that comes, as the encoder of the service writes
/// it: 200 and 400 are in the static table. `None` if the stream is reset instead.
async fn first_status(stream: &mut TcpStream) -> Option<u16> {
    let read = async {
        loop {
            let mut start = [0; 9];
            stream.read_exact(&mut start).await.ok()?;
            let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.ok()?;
            match (start[3], payload.first()) {
                (1, Some(0x88)) => return Some(200),
                (1, Some(0x8c)) => return Some(400),
                (1, other) => panic!("another status: {other:?}"),
                (3 | 7, _) => return None,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, read).await.expect("in time")
}

/// What the HTTP library refuses by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_problem_and_counted() {
    let service = start("{}").await;
    let long = format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    let many = format!("GET /health HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(150));
    for (request, status, code) in [
        ("canary nonsense\r\n\r\n", 400, "malformed_request"),
        ("GET /health HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n", 400, "malformed_request"),
        ("GET /\u{7f} HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed_request"),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n", 400, "malformed_request"),
        (&long, 431, "head_too_large"),
        (&many, 431, "head_too_large"),
    ] {
        let series = format!(r#"vaultmux_requests_total{{method="other",status="{status}"}}"#);
        let before = service.metric(&series).await.unwrap_or_default();
        let answer = rest(&mut connect(&service, request.as_bytes()).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        for line in [
            "content-type: application/problem+json",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "cache-control: no-store",
            "connection: close",
            &format!("content-length: {}", body.len()),
        ] {
            assert!(head.lines().any(|found| found == line), "no {line} in {head}");
        }
        let problem: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()));
        let id = problem["request_id"].as_str().expect("text");
        assert!(head.contains(&format!("x-request-id: {id}")), "{head}");
        service.logged(&[id, &format!("\"status\":{status}")]).await;
        assert_eq!(service.metric(&series).await, Some(before + 1.0));
    }
    assert!(service.logs().iter().all(|line| !line.contains("canary")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up() {
    let service = start("{backend_timeout: 200ms}").await;
    let head =
        "POST /v1/secrets HTTP/1.1\r\nhost: vaultmux.test\r\ncontent-length: 40\r\n\r\n{\"name";
    let mut stream = connect(&service, head.as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains(r#""code":"body_too_slow""#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_two_readings_store_nothing() {
    let service = start("{}").await;
    let body = r#"{"name":"zq-smuggled","value":"canary-x"}"#;
    let (length, hex) = (body.len(), format!("{:x}", body.len()));
    let inner = format!(
        "POST /v1/secrets HTTP/1.1\r\nhost: vaultmux.test\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let chunks = format!("{hex}\r\n{body}\r\n0\r\n\r\n");
    // The fields of a head, and what follows it.
    let shapes = [
        (format!("content-length: {length}\r\ntransfer-encoding: chunked"), chunks.clone()),
        (format!("transfer-encoding: chunked\r\ncontent-length: {length}"), chunks.clone()),
        (format!("content-length: 4\r\ncontent-length: {length}"), body.to_owned()),
        (format!("content-length: 0, {length}"), body.to_owned()),
        (format!("content-length: +{length}"), body.to_owned()),
        (format!("content-length: -{length}"), body.to_owned()),
        (format!("content-length: 0x{hex}"), body.to_owned()),
        ("content-length: 99999999999999999999999".to_owned(), body.to_owned()),
        (format!("content-length : {length}"), body.to_owned()),
        ("transfer-encoding : chunked".to_owned(), chunks.clone()),
        ("transfer-encoding: xchunked".to_owned(), chunks.clone()),
        ("transfer-encoding: chunked, identity".to_owned(), chunks.clone()),
        ("transfer-encoding: chunked, chunked".to_owned(), chunks.clone()),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked".to_owned(), chunks.clone()),
        ("transfer-encoding: gzip, chunked".to_owned(), chunks.clone()),
        ("transfer-encoding: ,chunked".to_owned(), chunks.clone()),
        ("transfer-encoding: identity".to_owned(), inner.clone()),
        ("transfer-encoding: chunked".to_owned(), format!("0x{hex}\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked".to_owned(), format!("-{hex}\r\n{body}\r\n0\r\n\r\n")),
        ("transfer-encoding: chunked".to_owned(), format!("{hex} \n{body}\r\n0\r\n\r\n")),
        (
            "transfer-encoding: chunked".to_owned(),
            format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n"),
        ),
        ("transfer-encoding: chunked".to_owned(), format!("{hex}\r\n{body}xx0\r\n\r\n")),
        ("x: y\r\n z: folded".to_owned(), inner.clone()),
        ("x\0y: z".to_owned(), inner.clone()),
    ];
    for (fields, follows) in shapes {
        let text = format!(
            "POST /v1/secrets HTTP/1.1\r\nhost: vaultmux.test\r\n{fields}\r\n\r\n{follows}"
        );
        let mut stream = connect(&service, text.as_bytes()).await;
        let answer = rest(&mut stream).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{fields:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{fields:?}: {answer}");
        assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]), "{fields:?}");
    }
    // A method that begins as HTTP/2 does switches nothing off.
    let text = format!(
        "PROPFIND /health HTTP/1.1\r\nhost: a\r\n\r\nPOST /v1/secrets HTTP/1.1\r\nhost: a\r\n\
         content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"
    );
    let answer = rest(&mut connect(&service, text.as_bytes()).await).await;
    assert!(!answer.contains("HTTP/1.1 2"), "{answer}");
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
    // Names of a mebibyte, in the target and in a body.
    let long = "n".repeat(1 << 20);
    let text = format!("GET /v1/secrets/{long} HTTP/1.1\r\nhost: a\r\n\r\n");
    let answer = rest(&mut connect(&service, text.as_bytes()).await).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let named = format!(r#"{{"name":"{}","value":"canary-x"}}"#, &long[..(1 << 20) - 100]);
    let text = format!(
        "POST /v1/secrets HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{named}",
        named.len()
    );
    let answer = rest(&mut connect(&service, text.as_bytes()).await).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{}", &answer[..answer.len().min(300)]);
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
    // HTTP/1.0 knows no chunks, and two equal lengths are one.
    let old = format!("POST /v1/secrets HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
    let answer = rest(&mut connect(&service, old.as_bytes()).await).await;
    assert!(answer.starts_with("HTTP/1.") && answer[9..].starts_with('4'), "{answer}");
    assert_eq!(names(&service).await, serde_json::json!(["zq-orders"]));
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_end_their_connection_and_no_other() {
    let service = start("{}").await;
    let mut text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    text.extend(frame(4, 0, 0, &[]));
    // :method GET, :scheme http, :path /, :authority a
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    for number in 0..20_000 {
        let stream = 2 * number + 1;
        text.extend(frame(1, 0x5, stream, &head));
        text.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(service.rest()).await.expect("connected");
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let both = async {
        // Either may fail: the connection is reset.
        let _ = tokio::join!(write.write_all(&text), read.read_to_end(&mut answer));
    };
    timeout(PATIENCE, both).await.expect("the connection is ended");
    // GOAWAY with ENHANCE_YOUR_CALM, unless the reset came first.
    let calm = [0_u8, 0, 0, 0xb];
    assert!(
        answer.is_empty() || answer.windows(4).any(|window| window == calm),
        "{} bytes",
        answer.len()
    );
    for client in [service.rest_client(), service.rest_client().http2()] {
        let answer = client.get("vaultmux.test", "/v1/secrets/zq-orders").await;
        assert_eq!(answer.status, 200);
    }
}

/// Q11, of a body that still comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_at_the_end_is_finished() {
    let mut service = start("{}").await;
    let body = r#"{"name":"zq-late","value":"canary-late"}"#;
    let (first, last) = body.split_at(10);
    let head = format!(
        "POST /v1/secrets HTTP/1.1\r\nhost: vaultmux.test\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    let mut stream = connect(&service, head.as_bytes()).await;
    // The service waits for the body now.
    let mut read = [0; 64];
    let told = timeout(PATIENCE, stream.read(&mut read)).await.expect("in time").expect("readable");
    assert!(read[..told].starts_with(b"HTTP/1.1 100"), "{:?}", &read[..told]);
    stream.write_all(first.as_bytes()).await.expect("sent");
    let mut idle = connect(&service, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let told = timeout(PATIENCE, idle.read(&mut [0; 1024])).await.expect("in time");
    assert!(told.expect("readable") > 0);
    service.terminate();
    service.logged(&["draining"]).await;
    assert_eq!(rest(&mut idle).await, "");
    stream.write_all(last.as_bytes()).await.expect("sent");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(service.exit_code().await, 0);
    assert!(service.logs().iter().all(|line| !line.contains("canary")));
}

/// Every limit that can be set is in the table of `docs/limits.md`, and no other.
#[test]
fn the_documented_limits_are_those_that_there_are() {
    let read = |path: &str| std::fs::read_to_string(crate::harness::repository(path));
    let schema: Value =
        serde_json::from_str(&read("docs/schema/config.json").expect("schema")).expect("JSON");
    let limits = schema["definitions"]["Limits"]["properties"].as_object().expect("an object");
    let mut expected: Vec<_> = limits.keys().cloned().collect();
    let page = read("docs/limits.md").expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut found: Vec<_> = rows.map(str::to_owned).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}
