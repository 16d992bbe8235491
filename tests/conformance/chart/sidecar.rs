//! Sidecar mode: the API server itself adds the container.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    cluster::{create_pod, helm_in, restricted},
    helm::{CHART, Helm, Release, documents, object},
};
use crate::{apiserver::ApiServer, servers::until};

/// A pod as the workload's owner wrote it.
fn pod(name: &str, label: bool, rest: &Value) -> Value {
    let security = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let container = json!({"name": "app", "image": "i", "securityContext": security});
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": "api"}},
        "spec": {"serviceAccountName": "api", "containers": [container]},
    });
    if label {
        pod["metadata"]["labels"]["vaultmux.dev/inject"] = "true".into();
    }
    for (key, value) in rest.as_object().expect("fields") {
        pod["spec"][key] = value.clone();
    }
    if let Some(init) = pod["spec"]["initContainers"].as_array_mut() {
        init.iter_mut().for_each(|container| container["securityContext"] = security.clone());
    }
    pod
}

fn names(list: &Value) -> Vec<&str> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item["name"].as_str().expect("a name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn labelled_pods_get_the_container() {
    let api = ApiServer::start().await;
    for namespace in ["payments", "other"] {
        restricted(&api, namespace).await;
    }
    let helm = Helm::new();
    let release = Release::ci("sidecar");
    let place = ["install", "vaultmux-mesh", CHART, "--namespace", "payments"];
    helm_in(&helm, &api, &[&place[..], &["--values", release.file()]].concat());

    // The policy is in force some moments after it was made.
    let created = until("the policy", async || {
        let (status, created) = create_pod(&api, "payments", &pod("api-0", true, &json!({}))).await;
        assert_eq!(status, 201, "{created}");
        let done = !created["spec"]["initContainers"].is_null();
        if !done {
            let path = "/api/v1/namespaces/payments/pods/api-0?gracePeriodSeconds=0";
            api.admin(Method::DELETE, path, Value::Null).await;
        }
        done.then_some(created)
    })
    .await;
    let added = &created["spec"]["initContainers"][0];
    assert_eq!(added["name"], "vaultmux-mesh");
    assert_eq!(added["restartPolicy"], "Always", "a native sidecar");
    assert_eq!(added["startupProbe"]["exec"]["command"][1], "probe");
    assert_eq!(added["securityContext"]["runAsUser"], 65532);
    assert_eq!(added["resources"]["limits"]["memory"], "128Mi");
    let volumes = names(&created["spec"]["volumes"]);
    let mounts = names(&added["volumeMounts"]);
    assert!(mounts.iter().all(|mount| volumes.contains(mount)), "{volumes:?} {mounts:?}");
    assert_eq!(created["spec"]["containers"][0]["volumeMounts"], Value::Null, "app sees no token");

    let rest = json!({
        "initContainers": [{"name": "migrate", "image": "i"}],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    });
    let (status, created) = create_pod(&api, "payments", &pod("api-1", true, &rest)).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(names(&created["spec"]["initContainers"]), ["vaultmux-mesh", "migrate"]);
    assert_eq!(
        names(&created["spec"]["volumes"]),
        ["scratch", "vaultmux-config", "vaultmux-own-token"]
    );

    for (namespace, label) in [("payments", false), ("other", true)] {
        let (status, created) = create_pod(&api, namespace, &pod("plain", label, &json!({}))).await;
        assert_eq!(status, 201, "{created}");
        assert_eq!(created["spec"]["initContainers"], Value::Null, "{namespace} {label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_for_istio_is_a_restricted_pod() {
    let api = ApiServer::start().await;
    restricted(&api, "payments").await;
    let helm = Helm::new();
    let manifests = documents(&helm.template(&Release::ci("sidecar-istio"), "1.30").expect_good());
    let map = object(&manifests, "ConfigMap", "vaultmux-mesh-istio-template");
    let values: Value =
        serde_saphyr::from_str(map["data"]["values.yaml"].as_str().expect("text")).expect("YAML");
    let template = &values["sidecarInjectorWebhook"]["templates"]["vaultmux"];
    let template = template.as_str().expect("text");
    assert!(!template.contains("{{"), "nothing for the injector to expand");
    let template: Value = serde_saphyr::from_str(template).expect("YAML");
    let (status, created) =
        create_pod(&api, "payments", &pod("api", false, &template["spec"])).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(names(&created["spec"]["initContainers"]), ["vaultmux-mesh"]);
    assert_eq!(created["spec"]["initContainers"][0]["restartPolicy"], "Always");
}
