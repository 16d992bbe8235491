//! Policies in audit mode: counted, logged, told to the proxy, and without effect.

use serde_json::Value;

use crate::harness::{Mesh, Service};

/// Each would turn a decision round.
const POLICIES: &str = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: would-allow}
spec:
  effect: Allow
  mode: Audit
  from: [{namespaces: [shop, payments]}]
  to:
    - http: {hosts: [app.test], paths: [/admin/]}
    - secrets: {names: [zq-hidden], verbs: [get]}
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: would-deny}
spec:
  effect: Deny
  mode: Audit
  from: [{namespaces: [payments]}]
  to:
    - http: {hosts: [app.test], paths: [/public/]}
    - secrets: {names: [zq-orders], verbs: [get]}
";

async fn counted(service: &Service, policy: &str, effect: &str) -> u64 {
    let text = service.admin_client().get("admin", "/metrics").await.text();
    let line = format!(r#"vaultmux_audit_matches_total{{policy="{policy}",effect="{effect}"}} "#);
    let value = text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok());
    value.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_audit_policies_would_decide_is_told_and_not_done() {
    let reason = r#"reason: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%""#;
    let audit = r#"audit: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:audit)%""#;
    let mesh = Mesh::builder()
        .policies(POLICIES)
        .edit(reason, &format!("{reason}\n                  {audit}"))
        .start()
        .await;
    let rows = [
        ("app.test", "/admin/x", 403, "would-allow", "Allow"),
        ("app.test", "/public/x", 200, "would-deny", "Deny"),
        ("vaultmux.test", "/v1/secrets/zq-hidden", 403, "would-allow", "Allow"),
        ("vaultmux.test", "/v1/secrets/zq-orders", 200, "would-deny", "Deny"),
    ];
    for (number, (host, path, status, policy, effect)) in rows.into_iter().enumerate() {
        let before = counted(&mesh.service, policy, effect).await;
        let answer = mesh.api().get(host, path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(counted(&mesh.service, policy, effect).await > before, "{path}");
        let access = mesh.envoy.access(number).await;
        let told = access["audit"].to_string();
        assert!(told.contains(policy) && told.contains(effect), "{path}: {access}");
        assert_ne!(access["policy"], policy, "{path}: {access}");
        let allow = format!(r#""would_allow":{}"#, effect == "Allow");
        let name = format!(r#""policy.name":"{policy}""#);
        let line: Value = mesh.service.logged(&["audit policy matched", &name, &allow]).await;
        assert_eq!(line["level"], "INFO");
    }
    mesh.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_and_references_are_decided_as_without_them() {
    let uses = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: would-not-use}
spec:
  effect: Deny
  mode: Audit
  from: [{namespaces: [payments]}]
  to: [{secrets: {names: [zq-stripe], verbs: [use]}}]
";
    let mesh = Mesh::builder().policies(POLICIES).policies(uses).start().await;
    let rest = mesh.service.rest_client();
    for (name, status, policy, effect) in
        [("zq-orders", 200, "would-deny", "Deny"), ("zq-hidden", 403, "would-allow", "Allow")]
    {
        let answer = rest.get("vaultmux.test", &format!("/v1/secrets/{name}")).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(counted(&mesh.service, policy, effect).await, 1);
    }
    let headers = [("x-api-key", "{{secret://local/zq-stripe}}")];
    let answer = mesh.api().request("GET", "api.stripe.test", "/v1/charges", &headers).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(counted(&mesh.service, "would-not-use", "Deny").await, 1);
    mesh.finish().await;
}
