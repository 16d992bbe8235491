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
    let nobody = format!(
        "istio: {{callers: {{grpc: {none}, rest: {none}, admin: {none}}}}}\ntests: {{enabled: false}}\n"
    );
    let manifests = set("istio", &nobody);
    let policy = &object(&manifests, "AuthorizationPolicy", "vaultmux-mesh")["spec"];
    assert_eq!(policy["action"], "ALLOW");
    assert_eq!(policy["rules"], Value::Null, "an ALLOW policy without rules lets nobody in");
}

/// Behind a sidecar that takes no clear text, under a policy that lets nobody else in.
#[test]
fn the_pod_of_helm_test_gets_through_the_mesh() {
    let helm = Helm::new();
    let render = |set: &str| {
        let mut release = Release::ci("istio");
        release.arguments.extend(["--set".to_owned(), set.to_owned()]);
        documents(&helm.template(&release, "1.36").expect_good())
    };
    let strict = "istio.callers.admin=null";
    let manifests = render(strict);
    let peers = object(&manifests, "PeerAuthentication", "vaultmux-mesh");
    assert_eq!(peers["spec"]["mtls"]["mode"], "STRICT");
    let pod = object(&manifests, "Pod", "vaultmux-mesh-test");
    assert_eq!(pod["metadata"]["labels"]["sidecar.istio.io/inject"], "true");
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["sidecar.istio.io/nativeSidecar"], "true", "it ends");
    let proxy = annotations["proxy.istio.io/config"].as_str().expect("text");
    let proxy: Value = serde_json::from_str(proxy).expect("JSON");
    assert_eq!(proxy["holdApplicationUntilProxyStarts"], true);
    let account = pod["spec"]["serviceAccountName"].as_str().expect("an account of its own");
    let hook = &object(&manifests, "ServiceAccount", account)["metadata"]["annotations"];
    assert_eq!(
        (&hook["helm.sh/hook"], &hook["helm.sh/hook-weight"]),
        (&"test".into(), &"-1".into())
    );
    let rules = &object(&manifests, "AuthorizationPolicy", "vaultmux-mesh")["spec"]["rules"];
    let admin = list(rules).iter().find(|rule| rule["to"][0]["operation"]["ports"][0] == "9090");
    let source =
        json!([{"source": {"principals": [format!("*/ns/vaultmux-system/sa/{account}")]}}]);
    assert_eq!(admin.expect("a rule")["from"], source);
    let url = pod["spec"]["containers"][0]["args"][3].as_str().expect("a URL");
    assert!(url.ends_with(":9090/readyz"), "{url}");

    // In ambient mode ztunnel is there without a sidecar; without Istio there is no policy.
    let label = |manifests: &[Value]| {
        let pod = object(manifests, "Pod", "vaultmux-mesh-test");
        let account = &pod["spec"]["serviceAccountName"];
        (pod["metadata"]["labels"]["sidecar.istio.io/inject"].clone(), account.clone())
    };
    assert_eq!(label(&render("istio.sidecar=false")), (json!("false"), json!(account)));
    assert_eq!(label(&render("istio.enabled=false")), (json!("false"), Value::Null));
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
