//! The chart installed into an API server that admits restricted pods alone.

use reqwest::Method;
use serde_json::{Value, json};

use super::helm::{CHART, Helm, NAMESPACE, Release, documents, object};
use crate::{apiserver::ApiServer, servers::until};

/// A namespace that admits restricted pods alone.
pub(super) async fn restricted(api: &ApiServer, name: &str) {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let body = json!({"metadata": {"name": name, "labels": labels}});
    api.admin(Method::POST, "/api/v1/namespaces", body).await;
}

/// Creates a pod, and tells how that went.
pub(super) async fn create_pod(api: &ApiServer, namespace: &str, pod: &Value) -> (u16, Value) {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    api.call(api.admin_token, Method::POST, &path, "application/json", pod).await
}

pub(super) fn helm_in(helm: &Helm, api: &ApiServer, arguments: &[&str]) -> String {
    let kubeconfig = api.kubeconfig.display().to_string();
    helm.run(&[arguments, &["--kubeconfig", &kubeconfig]].concat()).expect_good()
}

/// What the API server says a service account may do in a namespace.
async fn rights(api: &ApiServer, token: &str, namespace: &str) -> Vec<(String, String)> {
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let question = json!({"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"namespace": namespace}});
    let (status, answer) = api.call(token, Method::POST, path, "application/json", &question).await;
    assert_eq!(status, 201, "{answer}");
    let mut found = Vec::new();
    let list = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.map(|item| item.as_str().expect("text").to_owned()).collect()
    };
    for rule in answer["status"]["resourceRules"].as_array().expect("rules") {
        for resource in list(&rule["resources"]) {
            for verb in list(&rule["verbs"]) {
                let names = list(&rule["resourceNames"]);
                let names = if names.is_empty() { String::new() } else { format!(" {names:?}") };
                found.push((format!("{resource}{names}"), verb));
            }
        }
    }
    // Everybody may ask about themselves.
    found.retain(|(resource, _)| !resource.starts_with("selfsubject"));
    found.sort();
    found
}

fn right(resource: &str, verb: &str) -> (String, String) {
    (resource.to_owned(), verb.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chart_installs_where_pods_are_restricted() {
    let api = ApiServer::start().await;
    restricted(&api, NAMESPACE).await;
    for namespace in ["shop", "istio-ingress", "edge"] {
        api.create_namespace(namespace).await;
    }
    let helm = Helm::new();
    // Without what needs custom resources.
    let plain = "metrics: {serviceMonitor: {enabled: false}, prometheusRule: {enabled: false}}\n\
                 tls: {certManager: {enabled: false}, secretName: certificate}\n\
                 istio: {enabled: false}\nenvoyGateway: {enabled: false}\n";
    let plain = helm.write("plain.yaml", plain).display().to_string();
    for name in
        ["tokens", "kubernetes", "aws", "no-policies", "istio", "istio-tls", "envoy-gateway"]
    {
        let release = Release::ci(name);
        let values = ["--namespace", NAMESPACE, "--values", release.file(), "--values", &plain];
        let install = ["install", "vaultmux-mesh", CHART];
        helm_in(&helm, &api, &[&install[..], &values].concat());
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/vaultmux-mesh");
        let deployment = api.admin(Method::GET, &path, Value::Null).await;
        pods_pass(&api, name, &deployment["spec"]["template"]).await;
        // The pod of `helm test` as well.
        let manifests = documents(&helm.template(&release, "1.36").expect_good());
        let mut test = object(&manifests, "Pod", "vaultmux-mesh-test").clone();
        test["metadata"]["name"] = format!("{name}-test").into();
        let (status, answer) = create_pod(&api, NAMESPACE, &test).await;
        assert_eq!(status, 201, "{name}: {answer}");
        assert_eq!(
            test["spec"]["containers"][0]["args"],
            json!([
                "probe",
                "--timeout",
                "10s",
                "http://vaultmux-mesh.vaultmux-system.svc:9090/readyz"
            ])
        );
        service_account_may(&api, name).await;
        grant_keys_stay(&api, &helm, &values).await;
        helm_in(&helm, &api, &["uninstall", "vaultmux-mesh", "--namespace", NAMESPACE]);
    }
}

/// No controller makes the pods here, so that the test does.
async fn pods_pass(api: &ApiServer, name: &str, template: &Value) {
    let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["name"] = name.into();
    let (status, answer) = create_pod(api, NAMESPACE, &pod).await;
    assert_eq!(status, 201, "{name}: {answer}");
    let spec = &answer["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
    let delay = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64();
    let (ends, grace) =
        (&spec["terminationGracePeriodSeconds"], if name == "kubernetes" { 10 } else { 25 });
    assert_eq!(ends.as_i64(), Some(delay.unwrap_or(0) + grace + 5), "{name}");
    // The same pod is refused once it asks for more.
    for (pointer, value) in [
        ("/spec/containers/0/securityContext/allowPrivilegeEscalation", json!(true)),
        ("/spec/containers/0/securityContext/capabilities", Value::Null),
        ("/spec/containers/0/securityContext/runAsUser", json!(0)),
        ("/spec/hostNetwork", json!(true)),
    ] {
        let mut bad = pod.clone();
        bad["metadata"]["name"] = "bad".into();
        let (parent, key) = pointer.rsplit_once('/').expect("a path");
        bad.pointer_mut(parent).expect("there")[key] = value;
        let (status, answer) = create_pod(api, NAMESPACE, &bad).await;
        assert_eq!(status, 403, "{pointer}: {answer}");
        assert!(answer["message"].as_str().expect("a reason").contains("restricted"), "{answer}");
    }
}

async fn service_account_may(api: &ApiServer, name: &str) {
    let token = api.token(NAMESPACE, "vaultmux-mesh", &[]).await;
    let expected: Vec<_> = match name {
        "tokens" => {
            let watched = ["pods", "serviceaccounts"];
            let watch =
                watched.into_iter().flat_map(|kind| ["list", "watch"].map(|v| right(kind, v)));
            watch.chain([right("tokenreviews", "create")]).collect()
        }
        _ => Vec::new(),
    };
    until("roles", async || (rights(api, &token, NAMESPACE).await == expected).then_some(())).await;
    if name == "kubernetes" {
        let expected = vec![right(r#"secrets ["db", "stripe"]"#, "get")];
        until("roles", async || (rights(api, &token, "shop").await == expected).then_some(()))
            .await;
    }
}

/// Replicas of before and after an upgrade open each other's grants.
async fn grant_keys_stay(api: &ApiServer, helm: &Helm, values: &[&str]) {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/vaultmux-mesh-grant");
    let keys = async || {
        let (_, secret) = api.call(api.admin_token, Method::GET, &path, "", &Value::Null).await;
        secret["data"]["keys"].as_str().map(str::to_owned)
    };
    let before = keys().await;
    let upgrade = ["upgrade", "vaultmux-mesh", CHART, "--set", "replicaCount=3"];
    helm_in(helm, api, &[&upgrade[..], values].concat());
    assert_eq!(keys().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_alone_take_one_right() {
    let api = ApiServer::start().await;
    restricted(&api, NAMESPACE).await;
    let helm = Helm::new();
    let release = Release::new(
        "reviews",
        "config:\n  identity: {service_account_tokens: {audiences: [vaultmux]}}\n  \
         backends: {aws: {type: aws_secrets_manager}}\n",
    );
    let install = ["install", "vaultmux-mesh", CHART, "--namespace", NAMESPACE];
    helm_in(&helm, &api, &[&install[..], &["--values", release.file()]].concat());
    let token = api.token(NAMESPACE, "vaultmux-mesh", &[]).await;
    let expected = vec![right("tokenreviews", "create")];
    until("the role", async || (rights(&api, &token, NAMESPACE).await == expected).then_some(()))
        .await;
    let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
        "spec": {"token": "none"}});
    for (method, path, body, expected) in [
        (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", &review, 201),
        (Method::GET, "/api/v1/pods", &Value::Null, 403),
        (Method::GET, "/api/v1/namespaces/vaultmux-system/secrets", &Value::Null, 403),
        (Method::GET, "/api/v1/namespaces/vaultmux-system/configmaps", &Value::Null, 403),
    ] {
        let (status, answer) = api.call(&token, method, path, "application/json", body).await;
        assert_eq!(status, expected, "{path}: {answer}");
    }
    let manifests = documents(&helm.template(&release, "1.36").expect_good());
    let config = &object(&manifests, "ConfigMap", "vaultmux-mesh")["data"]["vaultmux.yaml"];
    let config: Value = serde_saphyr::from_str(config.as_str().expect("text")).expect("YAML");
    assert_eq!(config["identity"]["service_account_tokens"]["watch"], false);
}
