//! What Envoy Gateway would serve to a proxy, as a bootstrap that needs no server.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Where the bootstraps have certificates and keys. They come by discovery otherwise.
const CERTIFICATES: &str = "/etc/envoy/tls";

/// Makes a bootstrap of a configuration dump: what refers to discovery is put in place.
pub(super) fn of(dump: &Value) -> Value {
    let found = |kind: &str| {
        let configs = dump["configs"].as_array().expect("configs").iter();
        let is = |config: &&Value| config["@type"].as_str().is_some_and(|it| it.ends_with(kind));
        configs.clone().find(is).unwrap_or_else(|| panic!("no {kind}")).clone()
    };
    let list = |kind: &str, name: &str, inner: &str| -> Vec<Value> {
        let items = found(kind)[name].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| untyped(item.pointer(inner).expect("an item"))).collect()
    };
    let named = |items: Vec<Value>, key: &str| -> BTreeMap<String, Value> {
        items.into_iter().map(|item| (text(&item[key]), item)).collect()
    };
    let mut listeners = list("ListenersConfigDump", "dynamicListeners", "/activeState/listener");
    let mut clusters = list("ClustersConfigDump", "dynamicActiveClusters", "/cluster");
    let routes = named(list("RoutesConfigDump", "dynamicRouteConfigs", "/routeConfig"), "name");
    let endpoints = named(
        list("EndpointsConfigDump", "dynamicEndpointConfigs", "/endpointConfig"),
        "clusterName",
    );
    let mut secrets = BTreeMap::new();
    for listener in &mut listeners {
        each_object(listener, &mut |_, object| {
            if let Some(rds) = object.remove("rds") {
                object.insert("routeConfig".into(), routes[&text(&rds["routeConfigName"])].clone());
            }
        });
    }
    for cluster in &mut clusters {
        let cluster = cluster.as_object_mut().expect("an object");
        if let Some(eds) = cluster.remove("edsClusterConfig") {
            let name = eds.get("serviceName").unwrap_or(&cluster["name"]);
            let assignment = endpoints[&text(name)].clone();
            cluster.insert("loadAssignment".into(), assignment);
            cluster.insert("type".into(), "STATIC".into());
        }
    }
    for part in listeners.iter_mut().chain(&mut clusters) {
        each_object(part, &mut |key, object| {
            if object.remove("sdsConfig").is_some() {
                let name = text(&object["name"]);
                secrets.insert(name.clone(), secret(key, &name));
            }
        });
    }
    let bootstrap = found("BootstrapConfigDump");
    let address = json!({"socketAddress": {"address": "127.0.0.1", "portValue": 0}});
    json!({
        "admin": {"address": address},
        "layeredRuntime": bootstrap["bootstrap"]["layeredRuntime"],
        "staticResources": {
            "clusters": clusters,
            "listeners": listeners,
            "secrets": secrets.into_values().collect::<Vec<_>>(),
        },
    })
}

/// A secret that is read from files of its name.
fn secret(key: &str, name: &str) -> Value {
    let file = format!("{CERTIFICATES}/{}", name.replace('/', "."));
    if key.to_lowercase().contains("validation") {
        let authority = json!({"filename": format!("{file}.crt")});
        return json!({"name": name, "validationContext": {"trustedCa": authority}});
    }
    json!({"name": name, "tlsCertificate": {
        "certificateChain": {"filename": format!("{file}.crt")},
        "privateKey": {"filename": format!("{file}.key")},
    }})
}

/// Calls this with every object and the key that it is under.
fn each_object(value: &mut Value, change: &mut dyn FnMut(&str, &mut Map<String, Value>)) {
    fn walk(key: &str, value: &mut Value, change: &mut dyn FnMut(&str, &mut Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                change(key, object);
                object.iter_mut().for_each(|(key, value)| walk(key, value, change));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| walk(key, item, change)),
            _ => {}
        }
    }
    walk("", value, change);
}

/// A resource as a field that knows its type.
fn untyped(resource: &Value) -> Value {
    let mut resource = resource.clone();
    resource.as_object_mut().expect("an object").remove("@type");
    resource
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
