//! What `lint` says is not asked about, with a real Envoy whose service is gone: what passes there
//! was not asked about.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Client, Envoy, Upstream};

/// One listener.
struct Shape {
    name: &'static str,
    filters: Value,
    routes: Value,
    /// The request's path and one header.
    request: (&'static str, &'static str, &'static str),
    status: u16,
    /// What finds it.
    rule: Option<&'static str>,
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.{name}")
}

/// The filter, which has more to say about itself.
fn ask(more: &Value) -> Value {
    let mut config = json!({
        "@type": kind("extensions.filters.http.ext_authz.v3.ExtAuthz"),
        "grpc_service": {"envoy_grpc": {"cluster_name": "gone"}, "timeout": "1s"},
    });
    config.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    config
}

fn chain(config: &Value) -> Value {
    json!([{"name": "ask", "typed_config": config}])
}

fn plain() -> Value {
    chain(&ask(&json!({})))
}

/// The filter behind a tree of matchers.
fn matched(tree: &Value) -> Value {
    chain(&json!({
        "@type": kind("extensions.common.matching.v3.ExtensionWithMatcher"),
        "xds_matcher": tree,
        "extension_config": {"name": "ask", "typed_config": ask(&json!({}))},
    }))
}

fn composite(tree: &Value) -> Value {
    chain(&json!({
        "@type": kind("extensions.common.matching.v3.ExtensionWithMatcher"),
        "xds_matcher": tree,
        "extension_config": {
            "name": "any",
            "typed_config": {"@type": kind("extensions.filters.http.composite.v3.Composite")},
        },
    }))
}

fn tree(header: &str, map: &str, value: &str, action: &Value) -> Value {
    json!({"matcher_tree": {
        "input": {"name": "header", "typed_config": {
            "@type": kind("type.matcher.v3.HttpRequestHeaderMatchInput"),
            "header_name": header,
        }},
        map: {"map": {value: {"action": action}}},
    }})
}

fn skip() -> Value {
    let kind = kind("extensions.filters.common.matcher.action.v3.SkipFilter");
    json!({"name": "skip", "typed_config": {"@type": kind}})
}

fn run(more: &Value) -> Value {
    let mut action = json!({
        "@type": kind("extensions.filters.http.composite.v3.ExecuteFilterAction"),
        "typed_config": {"name": "ask", "typed_config": ask(&json!({}))},
    });
    action.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    json!({"name": "run", "typed_config": action})
}

fn with(mut tree: Value, otherwise: &Value) -> Value {
    tree["on_no_match"] = json!({"action": otherwise});
    tree
}

fn off() -> Value {
    json!({"ask": {"@type": kind("config.route.v3.FilterConfig"), "disabled": true}})
}

fn per_route(said: &Value) -> Value {
    let mut config =
        json!({"@type": kind("extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute")});
    config.as_object_mut().expect("a map").extend(said.as_object().expect("a map").clone());
    json!({"ask": config})
}

fn route(more: &Value) -> Value {
    let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
    route.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    route
}

fn host(more: &Value, routes: &[Value]) -> Value {
    let mut host = json!({"name": "all", "domains": ["*"], "routes": routes});
    host.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    json!({"virtual_hosts": [host]})
}

/// A route that callers choose, and the one for all others.
fn chosen(by: &Value) -> Value {
    let mut matches = json!({"prefix": "/"});
    matches.as_object_mut().expect("a map").extend(by.as_object().expect("a map").clone());
    let first = route(&json!({"match": matches, "typed_per_filter_config": off()}));
    host(&json!({}), &[first, route(&json!({}))])
}

fn usual() -> Value {
    host(&json!({}), &[route(&json!({}))])
}

/// Two routes, of which a header that the client did not send chooses the first.
fn tiers() -> Value {
    let header = json!([{"name": "x-tier", "string_match": {"exact": "1"}}]);
    let first = json!({
        "match": {"prefix": "/", "headers": header},
        "direct_response": {"status": 418},
    });
    host(&json!({}), &[first, route(&json!({}))])
}

/// Lua behind the filter, which lets requests pass here.
fn scripted(more: &Value) -> Value {
    let script = "function envoy_on_request(h) h:headers():replace('x-tier', '1') end";
    let mut lua = json!({
        "@type": kind("extensions.filters.http.lua.v3.Lua"),
        "default_source_code": {"inline_string": script},
    });
    lua.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    json!([
        {"name": "ask", "typed_config": ask(&json!({"failure_mode_allow": true}))},
        {"name": "lua", "typed_config": lua},
    ])
}

const NOTHING: (&str, &str, &str) = ("/", "x-unused", "1");
const DEBUG: (&str, &str, &str) = ("/", "x-debug", "1");
const OFF: Option<&str> = Some("authz-disabled");
const CHOSEN: Option<&str> = Some("authz-disabled-by-caller");

fn shapes() -> Vec<Shape> {
    let shape = |name, filters, routes, request, status, rule| Shape {
        name,
        filters,
        routes,
        request,
        status,
        rule,
    };
    let none = json!({});
    let part = |said: &Value| chain(&ask(&json!({"filter_enabled": said})));
    let denies = ask(&json!({
        "filter_enabled": {"default_value": {"numerator": 0}},
        "deny_at_disable": {"runtime_key": "x", "default_value": true},
    }));
    let disabled = json!([{"name": "ask", "disabled": true, "typed_config": ask(&none)}]);
    let on = per_route(&json!({"check_settings": {}}));
    let here = |said: Value| json!({"typed_per_filter_config": said});
    let weighted = |said: Value| {
        let cluster = json!({"name": "upstream", "weight": 1, "typed_per_filter_config": said});
        let action = json!({"weighted_clusters": {"clusters": [cluster]}});
        host(&json!({}), &[route(&json!({"route": action}))])
    };
    let mut all = usual();
    all["typed_per_filter_config"] = per_route(&json!({"disabled": true}));
    let mut by_tree = host(&none, &[]);
    let action = |mut route: Value| {
        route["@type"] = kind("config.route.v3.Route").into();
        json!({"name": "route", "typed_config": route})
    };
    let first = action(route(&here(off())));
    by_tree["virtual_hosts"][0]["matcher"] =
        with(tree("x-debug", "exact_match_map", "1", &first), &action(route(&none)));
    let skips = |header| tree(header, "exact_match_map", "1", &skip());
    let runs = |more: &Value| tree(":path", "prefix_match_map", "/a", &run(more));
    let sampled = tree(
        ":path",
        "prefix_match_map",
        "/",
        &run(&json!({"sample_percent": {"default_value": {"numerator": 0}}})),
    );
    let cookie = json!({"cookies": [{"name": "debug", "string_match": {"exact": "1"}}]});
    let query = json!({"query_parameters": [{"name": "debug", "present_match": true}]});
    let nobody = json!({"default_value": {"numerator": 0}});
    let unsaid = json!({"default_value": {"denominator": "MILLION"}});
    let runtime = json!({"runtime_key": "ask.some", "default_value": {"numerator": 100}});
    let host_off = |route_says: Value| host(&here(off()), &[route(&here(route_says))]);
    vec![
        shape("asked", plain(), usual(), NOTHING, 403, None),
        shape("disabled", disabled.clone(), usual(), NOTHING, 200, OFF),
        shape(
            "disabled, and on",
            disabled,
            host(&here(on.clone()), &[route(&none)]),
            NOTHING,
            403,
            None,
        ),
        shape("no part", part(&nobody), usual(), NOTHING, 200, OFF),
        shape("no part, unsaid", part(&unsaid), usual(), NOTHING, 200, OFF),
        shape("no part, by runtime", part(&runtime), usual(), NOTHING, 200, OFF),
        shape("denied instead", chain(&denies), usual(), NOTHING, 403, None),
        shape("host", plain(), host(&here(off()), &[route(&none)]), NOTHING, 200, OFF),
        shape("host, not its route", plain(), host_off(on), NOTHING, 403, None),
        shape("all hosts", plain(), all, NOTHING, 200, OFF),
        shape("a share", plain(), weighted(off()), NOTHING, 200, OFF),
        shape(
            "a share, by the filter's own",
            plain(),
            weighted(per_route(&json!({"disabled": true}))),
            NOTHING,
            200,
            OFF,
        ),
        shape("cookie", plain(), chosen(&cookie), ("/", "cookie", "debug=1"), 200, CHOSEN),
        shape("query", plain(), chosen(&query), ("/?debug=1", "x-unused", "1"), 200, CHOSEN),
        shape(
            "grpc",
            plain(),
            chosen(&json!({"grpc": {}})),
            ("/", "content-type", "application/grpc"),
            200,
            CHOSEN,
        ),
        shape("tree of routes", plain(), by_tree, DEBUG, 200, CHOSEN),
        shape("tree of skips", matched(&skips("x-debug")), usual(), DEBUG, 200, CHOSEN),
        shape(
            "skipped otherwise",
            matched(&with(skips(":path"), &skip())),
            usual(),
            NOTHING,
            200,
            OFF,
        ),
        shape("composite", composite(&runs(&none)), usual(), NOTHING, 200, OFF),
        shape(
            "composite for all",
            composite(&with(runs(&none), &run(&none))),
            usual(),
            NOTHING,
            403,
            None,
        ),
        shape("composite by chance", composite(&sampled), usual(), NOTHING, 200, OFF),
        shape("rerouted", scripted(&none), tiers(), NOTHING, 418, Some("route-cache-cleared")),
        shape(
            "not rerouted",
            scripted(&json!({"clear_route_cache": false})),
            tiers(),
            NOTHING,
            200,
            None,
        ),
    ]
}

fn listener(shape: &Shape) -> Value {
    let mut filters = shape.filters.clone();
    let router = kind("extensions.filters.http.router.v3.Router");
    let list = filters.as_array_mut().expect("a list");
    list.push(json!({"name": "router", "typed_config": {"@type": router}}));
    let manager =
        kind("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    json!({
        "name": shape.name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": {
            "@type": manager,
            "stat_prefix": "lint",
            "http_filters": filters,
            "route_config": shape.routes,
        }}]}],
    })
}

fn bootstrap(listeners: &[Value], upstream: u16) -> String {
    let cluster = |name: &str, port: u16| {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
        let endpoint = json!({"lb_endpoints": [{"endpoint": {"address": address}}]});
        json!({
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
        })
    };
    let mut gone = cluster("gone", 1);
    let options = kind("extensions.upstreams.http.v3.HttpProtocolOptions");
    gone["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": options,
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    });
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "layered_runtime": {"layers": [{"name": "set", "static_layer": {"ask": {"some": 0}}}]},
        "static_resources": {
            "listeners": listeners,
            "clusters": [cluster("upstream", upstream), gone],
        },
    })
    .to_string()
}

/// The rules about what is not asked about, or not about what becomes of it.
fn found(bootstrap: &str) -> Vec<String> {
    use std::io::Write as _;
    let mut child = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["lint", "-", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(bootstrap.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut rules: Vec<_> = report["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|finding| finding["rule"].as_str().expect("text").to_owned())
        .filter(|rule| rule.starts_with("authz-disabled") || rule == "route-cache-cleared")
        .collect();
    rules.dedup();
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lint_finds_is_what_envoy_lets_pass() {
    let upstream = Upstream::start().await;
    let shapes = shapes();
    let listeners: Vec<_> = shapes.iter().map(listener).collect();
    let port = upstream.address.port();
    let envoy = Envoy::start(&bootstrap(&listeners, port)).await;
    for (shape, listener) in shapes.iter().zip(&listeners) {
        let rules = found(&bootstrap(std::slice::from_ref(listener), port));
        let expected: Vec<_> = shape.rule.iter().map(|rule| (*rule).to_owned()).collect();
        assert_eq!(rules, expected, "{}", shape.name);
        let (path, header, value) = shape.request;
        let client = Client::plain(envoy.address(shape.name));
        let answer = client.request("GET", "app.test", path, &[(header, value)]).await;
        assert_eq!(answer.status, shape.status, "{}", shape.name);
    }
}
