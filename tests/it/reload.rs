//! Files that change under a running service.

use std::{fs, time::Duration};

use serde_json::Value;

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

/// The line of the counter, if there is one yet.
async fn refused_reloads(service: &Service) -> Option<String> {
    let refused = |line: &&str| line.starts_with(r#"vaultmux_reloads_total{result="error"}"#);
    metrics(service).await.lines().find(refused).map(str::to_owned)
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
async fn a_config_map_that_swaps_its_links_is_noticed() {
    let service = start().await;
    let (policies, link) = (service.path("policies"), |target: &str, at| {
        std::os::unix::fs::symlink(target, at).expect("link")
    });
    fs::create_dir(policies.join("..v1")).expect("make");
    fs::write(policies.join("..v1/b.yaml"), allow("second", "absent/")).expect("write");
    link("..v1", policies.join("..data"));
    link("..data/b.yaml", policies.join("b.yaml"));
    service.logged(&["policies in force", r#""policy.generation":2"#]).await;
    assert_eq!(read(&service, "other/key").await, 403);
    // As kubelet does it: the new content beside the old, then one rename.
    fs::create_dir(policies.join("..v2")).expect("make");
    fs::write(policies.join("..v2/b.yaml"), allow("second", "other/")).expect("write");
    link("..v2", policies.join("..tmp"));
    fs::rename(policies.join("..tmp"), policies.join("..data")).expect("swap");
    let put_in_force = async {
        while read(&service, "other/key").await != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), put_in_force).await;
    waited.expect("the swap is noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_leaves_the_last_good_policies_in_force() {
    let service = start().await;
    for broken in ["a: [", &allow("first", "prod"), "kind: Other\n"] {
        let before = refused_reloads(&service).await;
        // Written elsewhere and moved: half a file is another kind of broken.
        fs::write(service.path("new"), broken).expect("write");
        fs::rename(service.path("new"), service.path("policies/a.yaml")).expect("move");
        service.hang_up();
        let counted = async {
            while refused_reloads(&service).await == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), counted).await.expect("counted");
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
    service.logged(&["policies in force", r#""policy.generation":2"#]).await;
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
    service.logged(&["policies in force", r#""policy.generation":2"#]).await;
    assert_eq!(read(&service, "prod/new").await, 200, "a memory store made anew would be empty");
}
