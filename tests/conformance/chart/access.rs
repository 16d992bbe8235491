//! Who is let in, and what pods get: what has to hold for all values.

use serde_json::{Value, json};

use super::{
    helm::{Helm, Release, documents, object},
    situations,
};

#[test]
fn nobody_is_let_in_who_is_not_named() {
    let helm = Helm::new();
    for release in situations() {
        let text = helm.template(&release, "1.36").expect_good();
        assert!(!text.contains("failOpen: true"), "{}", release.name);
        let manifests = documents(&text);
        for policy in manifests.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            for rule in list(&policy["spec"]["ingress"]) {
                // What comes through Istio's tunnel is named by the policy below.
                let tunnel = rule["ports"][0]["port"] == 15008;
                assert!(tunnel || !list(&rule["from"]).is_empty(), "{}: {rule}", release.name);
                assert_eq!(list(&rule["ports"]).len(), 1, "{}: {rule}", release.name);
            }
        }
        for policy in manifests.iter().filter(|object| object["kind"] == "AuthorizationPolicy") {
            let rules = list(&policy["spec"]["rules"]);
            match policy["spec"]["action"].as_str() {
                // Without rules it would never ask.
                Some("CUSTOM") => assert!(!rules.is_empty(), "{policy}"),
                Some("ALLOW") => {
                    let named = |rule: &Value| {
                        !list(&rule["from"]).is_empty()
                            && !list(&rule["to"][0]["operation"]["ports"]).is_empty()
                    };
                    assert!(rules.iter().all(named), "{policy}");
                }
                action => panic!("{action:?}: {policy}"),
            }
        }
    }
    let set = |name: &str, values: &str| {
        let mut release = Release::ci(name);
        let file = helm.write("set.yaml", values).display().to_string();
        release.arguments.extend(["--values".to_owned(), file]);
        documents(&helm.template(&release, "1.36").expect_good())
    };
    let ports = |manifests: &[Value]| -> Vec<Value> {
        let policy = object(manifests, "NetworkPolicy", "vaultmux-mesh");
        let rules = list(&policy["spec"]["ingress"]).iter();
        rules.map(|rule| rule["ports"][0]["port"].clone()).collect()
    };
    assert_eq!(ports(&set("no-policies", "{}")), ["admin"], "nobody asks");
    let nobody_named = set("no-policies", "networkPolicy: {grpcFrom: [{namespaceSelector: {}}]}");
    assert_eq!(ports(&nobody_named), ["admin"], "the port is on loopback");
    assert_eq!(ports(&set("aws", "{}")), ["grpc", "admin"], "no REST unless it is enabled");
    let service = |manifests: &[Value]| -> Vec<Value> {
        let ports = &object(manifests, "Service", "vaultmux-mesh")["spec"]["ports"];
        list(ports).iter().map(|port| port["name"].clone()).collect()
    };
    assert_eq!(service(&nobody_named), ["admin"]);
    assert_eq!(service(&set("aws", "{}")), ["grpc", "admin"]);
    let rest = "listeners: {rest: {enabled: true}}\n";
    assert_eq!(ports(&set("aws", rest)), ["grpc", "admin"], "no REST unless somebody is named");
    let nobody = "networkPolicy: {grpcFrom: []}\ntests: {enabled: false}\n";
    assert_eq!(ports(&set("aws", nobody)), [Value::Null; 0]);
    let somebody = format!("{rest}networkPolicy: {{restFrom: [{{namespaceSelector: {{}}}}]}}");
    assert_eq!(ports(&set("aws", &somebody)), ["grpc", "rest", "admin"]);
    let none = "{namespaces: [], principals: []}";
    let nobody = format!("istio: {{callers: {{grpc: {none}, rest: {none}, admin: {none}}}}}");
    let manifests = set("istio", &nobody);
    let policy = &object(&manifests, "AuthorizationPolicy", "vaultmux-mesh")["spec"];
    assert_eq!(policy["action"], "ALLOW");
    assert_eq!(policy["rules"], Value::Null, "an ALLOW policy without rules lets nobody in");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn only_what_needs_it_restarts_pods_or_gets_tokens() {
    let helm = Helm::new();
    let pod = |name: &str, set: &[&str]| {
        let mut release = Release::ci(name);
        release.arguments.extend(set.iter().flat_map(|it| ["--set".to_owned(), (*it).to_owned()]));
        let manifests = documents(&helm.template(&release, "1.36").expect_good());
        object(&manifests, "Deployment", "vaultmux-mesh")["spec"]["template"].clone()
    };
    let first = pod("tokens", &[]);
    for (set, restarts) in [
        ("config.cache.ttl=30s", true),
        ("listeners.admin.port=9999", true),
        (r"policies.tokens\.yaml[0].metadata.name=other", false),
        ("replicaCount=5", false),
    ] {
        assert_eq!(pod("tokens", &[set]) != first, restarts, "{set}");
    }
    let without = ["restartOnConfigChange=false"];
    let both = ["restartOnConfigChange=false", "config.cache.ttl=30s"];
    assert_eq!(pod("tokens", &without), pod("tokens", &both));

    let tokens = |name: &str, set: &[&str]| -> Vec<Value> {
        let pod = pod(name, set);
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let sources =
            volumes.iter().filter_map(|it| it["projected"]["sources"].as_array()).flatten();
        let tokens = sources.map(|source| source["serviceAccountToken"].clone());
        tokens.filter(|token| !token.is_null()).collect()
    };
    let own = json!({"path": "token", "expirationSeconds": 3607});
    let vault = json!({"path": "token", "audience": "vault", "expirationSeconds": 3600});
    for (name, set, expected) in [
        ("aws", vec![], vec![]),
        ("aws", vec!["kubernetesApi.token=always"], vec![&own]),
        ("tokens", vec![], vec![&own]),
        ("tokens", vec!["kubernetesApi.token=never"], vec![]),
        ("kubernetes", vec![], vec![&own]),
        ("envoy-gateway", vec![], vec![&vault]),
    ] {
        let found = tokens(name, &set);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{name} {set:?}");
    }
}
