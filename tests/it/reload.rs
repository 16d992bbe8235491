//! Files that change under a running service.

mod docs;
mod mount;
mod places;
mod under_load;

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Service, sized};

const CONFIG: &str = r#"
mode: development
listeners:
  grpc: {address: "127.0.0.1:0"}
  rest: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
identity: {local: {namespace: prod, service_account: api}}
backends:
  local: {type: memory, secrets: {prod/key: v1, other/key: v1}}
policies: [policies]
"#;

fn allow(name: &str, prefix: &str) -> String {
    format!(
        "apiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  effect: Allow\n  from: [{{namespaces: [prod]}}]\n  \
         to: [{{secrets: {{prefixes: [{prefix}], verbs: [get, create]}}}}]\n"
    )
}

async fn start() -> Service {
    let policy = allow("first", "prod/");
    Service::start(&[("config.yaml", CONFIG), ("policies/a.yaml", &policy)]).await
}

async fn read(service: &Service, name: &str) -> u16 {
    service.rest_client().get("vaultmux.test", &format!("/v1/secrets/{name}")).await.status
}

async fn metrics(service: &Service) -> String {
    let answer = service.admin_client().get("admin", "/metrics").await;
    String::from_utf8(answer.body.to_vec()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_policies_take_effect_without_a_signal() {
    let service = start().await;
    assert_eq!((read(&service, "prod/key").await, read(&service, "other/key").await), (200, 403));
    fs::write(service.path("policies/b.yaml"), allow("second", "other/")).expect("write");
    service.logged(&["policies in force", r#""policy.generation":2"#]).await;
    assert_eq!((read(&service, "prod/key").await, read(&service, "other/key").await), (200, 200));
    fs::remove_file(service.path("policies/a.yaml")).expect("remove");
    service.logged(&["policies in force", r#""policy.generation":3"#]).await;
    assert_eq!((read(&service, "prod/key").await, read(&service, "other/key").await), (403, 200));
    let metrics = metrics(&service).await;
    assert!(metrics.lines().any(|line| line == "vaultmux_policy_generation 3"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_leaves_the_last_good_policies_in_force() {
    let service = start().await;
    let broken = ["a: [", &allow("first", "prod"), "kind: Other\n"];
    for (at, broken) in broken.into_iter().enumerate() {
        // Written elsewhere and moved: half a file is another kind of broken.
        fs::write(service.path("new"), broken).expect("write");
        fs::rename(service.path("new"), service.path("policies/a.yaml")).expect("move");
        service.refused(at + 1).await;
        let line = service.logged(&["reload refused", "policies/a.yaml:"]).await;
        assert_eq!(line["level"], "ERROR");
        assert_eq!(read(&service, "prod/key").await, 200, "{broken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_of_an_unreadable_deny_are_denied() {
    let service = start().await;
    assert_eq!(read(&service, "prod/key").await, 200);
    let deny = allow("stop", "prod").replace("Allow", "Deny");
    fs::write(service.path("policies/deny.yaml"), deny).expect("write");
    service.logged(&["its subjects are denied everything"]).await;
    assert_eq!(read(&service, "prod/key").await, 403);
    fs::remove_file(service.path("policies/deny.yaml")).expect("remove");
    service.logged(&["policies in force", r#""policy.generation":3"#]).await;
    assert_eq!(read(&service, "prod/key").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_allow_beside_a_valid_deny_denies_nobody_more() {
    let service = start().await;
    let deny = allow("stop", "other/").replace("Allow", "Deny");
    fs::write(service.path("policies/deny.yaml"), deny).expect("write");
    service.logged(&["policies in force", r#""policy.generation":2"#]).await;
    fs::write(service.path("policies/broken.yaml"), allow("broken", "prod")).expect("write");
    service.logged(&["reload refused", "policies/broken.yaml:"]).await;
    assert_eq!(read(&service, "prod/key").await, 200, "last good stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mode_needs_a_restart() {
    let cluster =
        CONFIG.replace("identity: {local: {namespace: prod, service_account: api}}\n", "");
    let service =
        Service::start(&[("config.yaml", &cluster), ("policies/a.yaml", &allow("a", "prod/"))])
            .await;
    assert_eq!(read(&service, "prod/key").await, 401);
    let other = CONFIG.replace("mode: development", "mode: sidecar").replace(
        "local: {type: memory, secrets: {prod/key: v1, other/key: v1}}",
        "local: {type: aws_secrets_manager, region: us-east-1}",
    );
    fs::write(service.path("config.yaml"), other).expect("write");
    service.logged(&["reload refused", "mode: Development cannot become Sidecar"]).await;
    assert_eq!(read(&service, "prod/key").await, 401, "nothing of it took effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_read_again_and_a_broken_one_is_not_used() {
    let service = start().await;
    let create = async |name: &str| {
        let body = crate::harness::sized(format!(r#"{{"name":"{name}","value":"x"}}"#));
        service.rest_client().send("POST", "vaultmux.test", "/v1/secrets", &[], body).await.status
    };
    assert_eq!(create("prod/kept").await, 201);
    let path = service.path("config.yaml");
    fs::write(&path, format!("{CONFIG}nonsense: 1\n")).expect("write");
    service.logged(&["reload refused", "unknown field `nonsense`"]).await;
    assert_eq!(read(&service, "prod/key").await, 200);
    fs::write(&path, format!("{CONFIG}telemetry: {{log: {{level: debug}}}}\n")).expect("write");
    service.logged(&["reloaded, policies unchanged", r#""policy.generation":1"#]).await;
    assert_eq!(read(&service, "prod/kept").await, 200, "the same store, since it did not change");
    service.logged(&[r#""level":"DEBUG""#, r#""message":"decision""#]).await;
    let moved = CONFIG.replacen("127.0.0.1:0", "127.0.0.1:1", 1);
    fs::write(&path, moved).expect("write");
    let line: Value = service.logged(&["need a restart"]).await;
    assert_eq!(line["keys"], "listeners");
    assert_eq!(read(&service, "prod/key").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_did_not_change_goes_on() {
    let service = start().await;
    let made = service
        .rest_client()
        .send(
            "POST",
            "vaultmux.test",
            "/v1/secrets",
            &[],
            sized(r#"{"name":"prod/new","value":"x"}"#),
        )
        .await;
    assert_eq!(made.status, 201);
    let changed = CONFIG.replace("policies:", "cache: {ttl: 1s}\npolicies:");
    fs::write(service.path("config.yaml"), changed).expect("write");
    service.reloaded(2).await;
    assert_eq!(read(&service, "prod/new").await, 200, "a memory store made anew would be empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_the_same_is_no_new_generation() {
    let service = start().await;
    let before = state(&service).await;
    let path = service.path("policies/a.yaml");
    let text = fs::read_to_string(&path).expect("text");
    let changes: [&dyn Fn(); 3] = [
        &|| fs::write(&path, &text).expect("write"),
        &|| fs::write(&path, format!("# why\n{text}")).expect("write"),
        &|| fs::rename(&path, service.path("policies/b.yaml")).expect("rename"),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        change();
        service.reloaded(at + 2).await;
        let now = state(&service).await;
        for key in ["generation", "hash", "loaded_at"] {
            assert_eq!(now[key], before[key], "{key} after change {at}");
        }
        assert_eq!(read(&service, "prod/key").await, 200);
    }
    let files = state(&service).await["files"].clone();
    assert!(files[0]["path"].as_str().expect("text").ends_with("policies/b.yaml"), "{files}");
    service.logged(&["reloaded, policies unchanged"]).await;
}

/// What `/policies` answers.
async fn state(service: &Service) -> Value {
    service.admin_client().get("admin", "/policies").await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_in_force_are_told() {
    let service = start().await;
    let line = service.logged(&["policies in force", r#""policy.generation":1"#]).await;
    let first = state(&service).await;
    let hash = first["hash"].as_str().expect("text").to_owned();
    assert_eq!((&line["policy.hash"], hash.len()), (&first["hash"], 16));
    assert_eq!((&line["policies"], &line["rules"]), (&json!(1), &json!(1)));
    assert!(line["duration_ms"].is_number(), "{line}");
    let audited =
        allow("second", "other/").replace("effect: Allow", "effect: Allow\n  mode: Audit");
    fs::write(service.path("policies/b.yaml"), audited).expect("write");
    service.reloaded(2).await;
    let second = state(&service).await;
    assert_ne!(second["hash"], first["hash"]);
    let of = |key: &str| second[key].clone();
    let counts = ["generation", "policies", "rules", "audit_policies", "file_count"].map(of);
    assert_eq!(counts, [2, 2, 2, 1, 2].map(Value::from));
    assert_eq!((of("last_refusal"), of("denied_subjects")), (Value::Null, json!([])));
    let at = second["loaded_at"].as_str().expect("text");
    assert!(at.ends_with('Z') && at.len() == 20, "{at}");
    assert_eq!(second["files"][1]["policies"], 1);
    let metrics = metrics(&service).await;
    let series: Vec<_> =
        metrics.lines().filter(|line| line.starts_with("vaultmux_policy_info{")).collect();
    let new = second["hash"].as_str().expect("text");
    assert_eq!(series, [format!(r#"vaultmux_policy_info{{hash="{new}"}} 1"#)]);
    for line in ["vaultmux_policies 2", "vaultmux_policy_rules 2", "vaultmux_reload_problems 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_tells_the_place_and_no_secret() {
    let service = start().await;
    let broken = allow("stop", "canary-prefix").replace("Allow", "Deny");
    fs::write(service.path("policies/deny.yaml"), broken).expect("write");
    service.refused(1).await;
    let said = state(&service).await;
    let place = &said["last_refusal"]["problems"][0];
    assert!(place["file"].as_str().expect("text").ends_with("policies/deny.yaml"), "{said}");
    assert_eq!((&place["policy"], &place["line"]), (&json!("stop"), &json!(7)));
    assert_eq!(place["key"], "spec.to[0].secrets.prefixes[0]");
    assert_eq!(said["denied_subjects"], json!([[{"namespaces": ["prod"]}]]));
    assert_eq!((&said["invalid_denies"], &said["generation"]), (&json!(1), &json!(2)));
    assert_eq!(service.metric("vaultmux_policy_invalid_denies").await, Some(1.0));
    assert_eq!(service.metric("vaultmux_reload_problems").await, Some(1.0));
    service.logged(&["reload refused", "spec.to[0].secrets.prefixes[0]: cannot be used"]).await;
    // Another mistake beside it neither lifts the denial nor makes it a new one.
    fs::write(service.path("policies/broken.yaml"), "a: [").expect("write");
    service.refused(2).await;
    assert_eq!(state(&service).await["generation"], 2);
    // Nor does a file of which nothing can be read any more.
    fs::write(service.path("policies/deny.yaml"), "b: [").expect("write");
    service.refused(3).await;
    assert_eq!(read(&service, "prod/key").await, 403);
    for name in ["broken", "deny"] {
        fs::remove_file(service.path(&format!("policies/{name}.yaml"))).expect("remove");
    }
    service.logged(&["policies in force", r#""policy.generation":3"#]).await;
    assert_eq!(read(&service, "prod/key").await, 200);
    let mended = state(&service).await;
    assert_eq!((&mended["last_refusal"], &mended["denied_subjects"]), (&Value::Null, &json!([])));
    assert_eq!(service.metric("vaultmux_policy_invalid_denies").await, Some(0.0));
    assert!(!service.logs().concat().contains("canary"), "{:?}", service.logs());
    assert!(!said.to_string().contains("canary"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_is_told() {
    let service = start().await;
    fs::write(service.path("new"), "nonsense: 1\n").expect("write");
    fs::rename(service.path("new"), service.path("config.yaml")).expect("rename");
    service.refused(1).await;
    let refusal = state(&service).await["last_refusal"].clone();
    assert_eq!(
        (&refusal["about"], &refusal["problem_count"]),
        (&json!("configuration"), &json!(0))
    );
}
