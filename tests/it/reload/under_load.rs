//! No wrong decision while policies are replaced under load.
//!
//! Two sets, A and B. Both allow what `always` asks for and deny what `never` asks for.
//! What `sometimes` asks for is allowed by A alone. The traps are allowed by no set, and by a
//! mixture of the two: one file of A has the Allow, another the Deny, and B has neither.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use envoy_types::pb::{envoy::service::auth::v3::CheckResponse, google::protobuf::value::Kind};
use serde_json::Value;
use tonic::transport::Channel;

use super::{CONFIG, mount::Mount};
use crate::{
    harness::Service,
    tokens::{channel, check, question, status},
};

const HOST: &str = "orders.test";
/// Between the first file and the last, so that reading all of them takes a while.
const FILLERS: usize = 30;
/// How many sets come into force at least while clients ask.
const SWAPS: f64 = 40.0;

fn policy(name: &str, effect: &str, account: &str, path: &str) -> String {
    format!(
        "---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  effect: {effect}\n  from: [{{serviceAccounts: [{account}]}}]\n  \
         to: [{{http: {{paths: [{path}]}}}}]\n"
    )
}

fn secrets(name: &str, effect: &str, prefix: &str) -> String {
    format!(
        "---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  effect: {effect}\n  from: [{{serviceAccounts: [prod/api]}}]\n  \
         to: [{{secrets: {{prefixes: [{prefix}], verbs: [get]}}}}]\n"
    )
}

/// The first file, the last one, and those between.
fn set(a: bool) -> Vec<(String, String)> {
    let always = [
        policy("always", "Allow", "prod/always", "/always/"),
        policy("guarded", "Allow", "prod/guarded", "/guarded/"),
        secrets("free", "Allow", "free/"),
    ];
    let (mut first, mut last) = (always.concat(), policy("last", "Allow", "prod/none", "/last/"));
    if a {
        first += &policy("some", "Allow", "prod/sometimes", "/some/");
        first += &policy("trap-allow", "Allow", "prod/sometimes", "/trap/");
        last += &policy("trap-deny", "Deny", "prod/sometimes", "/trap/");
        first += &policy("snare-deny", "Deny", "prod/sometimes", "/snare/");
        last += &policy("snare-allow", "Allow", "prod/sometimes", "/snare/");
        first += &secrets("secret-trap-allow", "Allow", "trap/");
        last += &secrets("secret-trap-deny", "Deny", "trap/");
    }
    let filler = |at| {
        let name = format!("m{at:02}");
        (format!("{name}.yaml"), policy(&name, "Allow", "prod/none", "/filler/"))
    };
    let mut files: Vec<_> = (0..FILLERS).map(filler).collect();
    files.insert(0, ("a.yaml".to_owned(), first));
    files.push(("z.yaml".to_owned(), last));
    files
}

fn swap(service: &Service, version: usize, files: &[(String, String)]) {
    let files: Vec<_> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
    Mount(&service.path("policies")).swap(version, &files);
}

async fn ask(channel: &Channel, account: &str, path: &str) -> CheckResponse {
    let mut asked = question(HOST, path, &[]);
    let attributes = asked.attributes.as_mut().expect("set");
    let id = format!("spiffe://cluster.local/ns/prod/sa/{account}");
    attributes.source.get_or_insert_default().principal = id;
    check(channel, asked).await.expect("answered")
}

fn metadata(answer: &CheckResponse, key: &str) -> Option<String> {
    match answer.dynamic_metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// Clients that ask until they are told to stop, and what they count.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    answers: AtomicUsize,
    of_a: AtomicUsize,
    of_b: AtomicUsize,
}

impl Clients {
    /// Every decision is one of A or of B, whichever the answer names.
    async fn ask_ext_authz(&self, channel: Channel, hashes: [String; 2]) {
        while !self.stop.load(Ordering::Relaxed) {
            for (account, path, allowed_by) in [
                ("always", "/always/x", [true, true]),
                ("sometimes", "/some/x", [true, false]),
                ("never", "/always/x", [false, false]),
                ("sometimes", "/trap/x", [false, false]),
                ("sometimes", "/snare/x", [false, false]),
            ] {
                let answer = ask(&channel, account, path).await;
                let hash = metadata(&answer, "policy_hash").expect("a policy was asked");
                let Some(set) = hashes.iter().position(|known| *known == hash) else {
                    panic!("{account} {path}: {hash} is of neither set: {answer:?}")
                };
                let expected = if allowed_by[set] { 200 } else { 403 };
                assert_eq!(status(&answer), expected, "{account} {path} by set {set}: {answer:?}");
                let counter = if set == 0 { &self.of_a } else { &self.of_b };
                counter.fetch_add(1, Ordering::Relaxed);
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn ask_rest(&self, service: &Service) {
        let client = service.rest_client();
        while !self.stop.load(Ordering::Relaxed) {
            for (name, expected) in [("free/key", 200), ("shut/key", 403), ("trap/key", 403)] {
                let answer = client.get("vaultmux.test", &format!("/v1/secrets/{name}")).await;
                assert_eq!(answer.status, expected, "{name}: {}", answer.text());
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits for answers to questions that were asked after this point.
    async fn answered(&self, more: usize) {
        let before = self.answers.load(Ordering::Relaxed);
        let answered = async {
            while self.answers.load(Ordering::Relaxed) < before + more {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answered).await.expect("clients go on");
    }
}

async fn hash(service: &Service) -> String {
    let state: Value = service.admin_client().get("admin", "/policies").await.json();
    state["hash"].as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_decision_is_wrong_while_policies_are_replaced() {
    let config = CONFIG
        .replace("{prod/key: v1, other/key: v1}", "{free/key: v1, shut/key: v1, trap/key: v1}");
    let service = Service::start(&[
        ("config.yaml", &config),
        ("policies/m00.yaml", &policy("m00", "Allow", "prod/none", "/filler/")),
    ])
    .await;
    let service = Arc::new(service);
    let (a, b) = (set(true), set(false));
    swap(&service, 0, &a);
    service.reloaded(2).await;
    let hash_a = hash(&service).await;
    swap(&service, 1, &b);
    service.reloaded(3).await;
    let hash_b = hash(&service).await;
    assert_ne!(hash_a, hash_b);

    let clients = Arc::new(Clients::default());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (clients, channel) = (Arc::clone(&clients), channel(&service).await);
        let hashes = [hash_a.clone(), hash_b.clone()];
        tasks.spawn(async move { clients.ask_ext_authz(channel, hashes).await });
    }
    let rest = (Arc::clone(&clients), Arc::clone(&service));
    tasks.spawn(async move { rest.0.ask_rest(&rest.1).await });

    // Signals, so that reloads do not wait for a moment of rest: they run into the swaps.
    let generation = "vaultmux_policy_generation";
    let (mut version, enough) = (1, 3.0 + SWAPS);
    let swaps = async {
        while service.metric(generation).await.unwrap_or_default() < enough {
            for files in [&a, &b, &a] {
                version += 1;
                swap(&service, version, files);
                service.hang_up();
                clients.answered(3).await;
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), swaps).await;
    assert!(
        done.is_ok(),
        "{:?} sets: {:?}",
        service.metric(generation).await,
        tasks.try_join_next()
    );
    let counts = [&clients.of_a, &clients.of_b].map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");

    // A broken Allow: the last good set goes on deciding.
    version += 1;
    swap(&service, version, &a);
    let at_rest = async {
        while hash(&service).await != hash_a {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), at_rest).await.expect("A is in force");
    let refused = service.metric(r#"vaultmux_reloads_total{result="error"}"#).await;
    let refused = refused.unwrap_or_default() as usize;
    let with = |text: &str| [&b[..], &[("zz.yaml".to_owned(), text.to_owned())]].concat();
    version += 1;
    swap(&service, version, &with(&policy("broken", "Allow", "prod/none", "no-path")));
    service.refused(refused + 1).await;
    clients.answered(50).await;
    assert_eq!(hash(&service).await, hash_a);

    // A broken Deny: as before, but its subject is denied everything.
    let probe = channel(&service).await;
    assert_eq!(status(&ask(&probe, "guarded", "/guarded/x").await), 200);
    version += 1;
    swap(&service, version, &with(&policy("broken", "Deny", "prod/guarded", "no-path")));
    service.logged(&["its subjects are denied everything"]).await;
    for again in 0..3 {
        let answer = ask(&probe, "guarded", "/guarded/x").await;
        assert_eq!(
            (status(&answer), metadata(&answer, "reason")),
            (403, Some("policy_invalid".into()))
        );
        clients.answered(20).await;
        service.hang_up();
        service.refused(refused + 3 + again).await;
    }
    version += 1;
    swap(&service, version, &b);
    let mended = async {
        while status(&ask(&probe, "guarded", "/guarded/x").await) != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), mended).await.expect("mended");
    assert_eq!(hash(&service).await, hash_b);
    clients.answered(50).await;
    clients.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no decision was wrong");
    }
}
