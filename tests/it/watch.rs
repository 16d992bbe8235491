//! Watching secrets through the program, over a real connection.

use std::{fs, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Service, check_events, repository, sized};

/// Longer than anything takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity:
  trust_domains: [cluster.local]
  local: {namespace: payments, service_account: api}
backends: {local: {type: file, path: "{directory}/secrets"}}
policies: [policies.yaml]
cache: {ttl: 1s}
limits: {watch_heartbeat: 1s}
"#;

const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own}
spec:
  effect: Allow
  from: [{namespaces: [payments]}]
  to: [{secrets: {prefixes: ["zq-"], verbs: ["*"]}}]
"#;

struct Events {
    stream: TcpStream,
    text: String,
    read: usize,
}

impl Events {
    async fn open(service: &Service, query: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(service.rest()).await.expect("connected");
        let request = format!("GET /v1/watch?{query} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        Self { stream, text: String::new(), read: 0 }
    }

    /// Waits for this text after what was waited for before.
    async fn wait(&mut self, wanted: &str) {
        let arrived = async {
            loop {
                if let Some(at) = self.text[self.read..].find(wanted) {
                    self.read += at + wanted.len();
                    return true;
                }
                let mut bytes = [0; 4096];
                match self.stream.read(&mut bytes).await {
                    Ok(0) | Err(_) => return false,
                    Ok(read) => self.text.push_str(&String::from_utf8_lossy(&bytes[..read])),
                }
            }
        };
        let arrived = timeout(PATIENCE, arrived).await;
        assert!(matches!(arrived, Ok(true)), "no {wanted:?} in\n{}", self.text);
    }

    /// What has arrived, without the lengths of its chunks.
    fn plain(&self) -> String {
        let (head, body) = self.text.split_once("\r\n\r\n").expect("a whole head");
        let lines = body.split("\r\n").filter(|line| u32::from_str_radix(line, 16).is_err());
        format!("{head}\r\n\r\n{}", lines.collect::<String>())
    }

    /// The last id.
    fn id(&self) -> String {
        let id = self.text.lines().rev().find_map(|line| line.strip_prefix("id: "));
        id.expect("an id").to_owned()
    }
}

async fn start() -> Service {
    Service::start(&[
        ("config.yaml", CONFIG),
        ("policies.yaml", POLICIES),
        ("secrets/zq-orders", "canary-one"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_writes_and_lost_rights_are_told() {
    let mut service = start().await;
    let mut events = Events::open(&service, "name=zq-orders&name=zq-new", "").await;
    events.wait("HTTP/1.1 200").await;
    events.wait("text/event-stream").await;
    events.wait("retry: 3000\nid: ").await;
    events.wait("event: version\ndata: {\"name\":\"zq-orders\",\"backend\":\"local\",").await;
    // Somebody rotates it in the store.
    fs::write(service.path("secrets/zq-orders"), "canary-two").expect("rotated");
    events.wait("event: version\ndata: {\"name\":\"zq-orders\"").await;
    let body = sized(r#"{"name":"zq-new","value":"canary-new"}"#);
    let client = service.rest_client();
    assert_eq!(client.send("POST", "a", "/v1/secrets", &[], body).await.status, 201);
    events.wait("event: version\ndata: {\"name\":\"zq-new\"").await;
    let id = events.id();
    drop(events);
    assert_eq!(client.request("DELETE", "a", "/v1/secrets/zq-new", &[]).await.status, 204);
    assert_eq!(client.get("a", "/v1/secrets/zq-new").await.status, 404);
    let back = format!("last-event-id: {id}\r\n");
    let mut events = Events::open(&service, "name=zq-orders&name=zq-new", &back).await;
    events
        .wait("event: version\ndata: {\"name\":\"zq-new\",\"backend\":\"local\",\"version\":null}")
        .await;
    assert!(!events.text.contains("resync"), "{}", events.text);
    let mut lost = Events::open(&service, "name=zq-orders", "last-event-id: 1\r\n").await;
    lost.wait("event: resync\ndata: {}").await;
    lost.wait("event: version").await;
    assert_eq!(service.metric("vaultmux_watchers").await, Some(2.0));

    let other = POLICIES.replace("payments", "elsewhere");
    fs::write(service.path("policies.yaml"), other).expect("written");
    service.hang_up();
    for events in [&mut events, &mut lost] {
        events.wait("event: end\ndata: {\"code\":\"forbidden\"}").await;
        assert!(!events.text.contains("canary"), "{}", events.text);
        // What has arrived of the stream is what the document says.
        check_events("/v1/watch", &events.plain());
    }
    let mut refused = Events::open(&service, "name=zq-orders", "").await;
    refused.wait("HTTP/1.1 403").await;
    service.terminate();
    assert_eq!(service.exit_code().await, 0);
    for line in service.logs() {
        assert!(!line.contains("canary") && !line.contains("zq-"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_watchers() {
    let mut service = start().await;
    let mut events = Events::open(&service, "name=zq-orders", "").await;
    events.wait("event: version").await;
    service.terminate();
    events.wait("event: end\ndata: {\"code\":\"stopping\"}").await;
    assert_eq!(service.exit_code().await, 0);
    assert!(service.logs().iter().all(|line| !line.contains("grace is over")));
}

/// The stream in `docs/watch.md` is what its configuration and command give.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_stream_is_what_there_is() {
    let page = fs::read_to_string(repository("docs/watch.md")).expect("the page");
    let blocks: Vec<_> = page.split("```").skip(1).step_by(2).collect();
    let block = |start: &str| {
        let found = blocks.iter().find_map(|block| block.strip_prefix(start));
        found.unwrap_or_else(|| panic!("no block of {start}"))
    };
    let ports = "  grpc: {address: \"127.0.0.1:0\"}\n  admin: {address: \"127.0.0.1:0\"}\n  rest:";
    let config = block("yaml\n# vaultmux.yaml\n").replace("  rest:", ports).replace(":8080", ":0");
    let policies = block("yaml\n# policies.yaml\n");
    let service = Service::start(&[("config.yaml", &config), ("policies.yaml", policies)]).await;
    let command = block("sh\n").trim();
    let query = command.split_once('?').and_then(|(_, query)| query.strip_suffix('\''));
    let mut events = Events::open(&service, query.expect("a query"), "").await;
    // Ids differ each time.
    let lines = block("text\n").lines().map(|line| line.split("id: ").next().expect("a start"));
    let mut written = false;
    for line in lines.filter(|line| !line.is_empty()) {
        if line.contains("\"version\":\"2\"") && !written {
            let body = sized(r#"{"value":"second"}"#);
            let client = service.rest_client();
            let put = client.send("PUT", "a", "/v1/secrets/payments/db", &[], body).await;
            assert_eq!(put.status, 200);
            written = true;
        }
        if !line.starts_with("event:") {
            events.wait(line).await;
        }
    }
    assert!(written, "{page}");
}
