//! Secrets in the headers of requests that are allowed: where they go, and where never.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use envoy_types::pb::envoy::config::core::v3::{
    Address, SocketAddress, address, socket_address::PortSpecifier,
};

use super::*;
use crate::{
    backends::{SecretBackend, memory::MemoryBackend},
    fixture::{CANARY, Gate},
    secret::{NameEncoding, SecretValue},
};

pub(super) const HOST: &str = "api.stripe.test";
pub(super) const KEY: &str = "{{secret://local/shared/stripe}}";
const GATEWAY: &str = "spiffe://cluster.local/ns/egress/sa/gateway";

pub(super) const INJECTING: &str = "
ext_authz:
  inject: true
  destinations:
    - {proxies: ['spiffe://cluster.local/ns/egress/sa/gateway'], hosts: [api.stripe.test], cluster: stripe}
ext_proc:
  tls_clusters: [stripe]
  injections:
    - name: ruled
      match: {hosts: [api.stripe.test], clusters: [stripe], paths: [/ruled/]}
      set_headers: [{name: authorization, value: 'Bearer {{secret://local/shared/stripe}}'}]
";

pub(super) const POLICIES: &str = "
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: uses}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to:
    - secrets: {names: [readable], verbs: [get]}
    - secrets:
        prefixes: [shared/]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [stripe]}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: traffic}
spec:
  effect: Allow
  from: [{namespaces: ['*']}]
  to: [{http: {hosts: [api.stripe.test, other.test]}}]
";

pub(super) fn over(more: &str, store: Arc<dyn SecretBackend>) -> (Snapshot, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let config = fixture::config(&format!("{}{more}", fixture::CONFIG));
    let mut snapshot = fixture::over(&config, store, &metrics);
    snapshot.policies = Arc::new(fixture::policies(&config, POLICIES));
    (snapshot, metrics)
}

fn service(more: &str) -> (ExtAuthz, Arc<Metrics>) {
    let secrets: [(&str, &[u8]); 4] = [
        ("shared/stripe", CANARY.as_bytes()),
        ("shared/trailing", b"canary-7f3a9b\r\n"),
        ("shared/inner", b"canary-7f3a9b\nx-admin: 1"),
        ("shared/bytes", b"canary-7f3a9b\xff"),
    ];
    let secrets = secrets.into_iter().map(|(name, value)| {
        let name = MemoryBackend::GRAMMAR.canonical(name, NameEncoding::Plain).expect("valid");
        (name, SecretValue::new(value))
    });
    let store = MemoryBackend::new(secrets.collect::<Vec<_>>());
    let (snapshot, metrics) = over(more, Arc::new(store));
    (ExtAuthz::new(Current::new(snapshot), Arc::clone(&metrics)), metrics)
}

async fn check(service: &ExtAuthz, case: Case) -> CheckResponse {
    let request = CheckRequest { attributes: Some(case.attributes) };
    let deadline = Instant::now() + Duration::from_secs(30);
    service.answer(&request, None, deadline).await.expect("nobody to be unavailable")
}

fn reason(response: &CheckResponse) -> String {
    let metadata = response.dynamic_metadata.as_ref().expect("always set");
    match metadata.fields.get("reason").and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(reason)) => reason.clone(),
        _ => String::new(),
    }
}

fn to_stripe() -> Case {
    Case::http("GET", HOST, "/v1/charges")
}

fn bound() -> Case {
    to_stripe().extension("vaultmux.cluster", "stripe")
}

#[tokio::test]
async fn nothing_but_a_bound_destination_gets_a_secret() {
    let (service, metrics) = service(INJECTING);
    let missing = "binding_attribute_missing:vaultmux.cluster";
    let denied = "vaultmux_denied_no_match";
    let refused = "vaultmux_reference_refused:position";
    let with = |case: Case| case.header("x-key", KEY);
    let names = |name: &str| bound().header("x-key", &format!("{{{{secret://local/{name}}}}}"));
    let long = format!("Bearer {}", KEY.repeat(33));
    let cases: Vec<(&str, Case, i32, &str)> = vec![
        ("a route that says nothing", with(to_stripe()), 403, missing),
        ("an empty word", with(to_stripe().extension("vaultmux.cluster", "")), 403, missing),
        ("the client's word", with(to_stripe().header("vaultmux.cluster", "stripe")), 403, missing),
        ("the route alone", with(to_stripe().extension("vaultmux.route", "stripe")), 403, missing),
        ("a cluster", with(to_stripe().extension("vaultmux.cluster", "evil")), 403, denied),
        (
            "a host",
            with(Case::http("GET", "other.test", "/").extension("vaultmux.cluster", "stripe")),
            403,
            denied,
        ),
        ("a caller", with(bound().principal("spiffe://cluster.local/ns/dev/sa/x")), 403, denied),
        ("another proxy", with(to_stripe().destination(&format!("{GATEWAY}2"))), 403, missing),
        (
            "another spelling of the host",
            with(Case::http("GET", "api.stripe.test:8443", "/").destination(GATEWAY)),
            403,
            missing,
        ),
        (
            "a route that says otherwise than the configuration",
            with(to_stripe().destination(GATEWAY).extension("vaultmux.cluster", "evil")),
            403,
            denied,
        ),
        ("a secret for nobody", names("readable"), 403, denied),
        ("a secret that is not there", names("shared/none"), 502, "vaultmux_backend_not_found"),
        (
            "a value with a line break",
            names("shared/inner"),
            502,
            "vaultmux_value_unfit:control_character:secret://local/shared/inner",
        ),
        (
            "a value that is no text",
            names("shared/bytes"),
            502,
            "vaultmux_value_unfit:not_text:secret://local/shared/bytes",
        ),
        ("inside other text", bound().header("x-key", &format!("a{KEY}")), 400, refused),
        ("joined values", bound().header("x-key", &format!("a,{KEY}")), 400, refused),
        (
            "values apart",
            bound().raw_header("x-key", b"a").raw_header("x-key", KEY.as_bytes()),
            400,
            refused,
        ),
        ("a header that routes", bound().raw_header(":path", KEY.as_bytes()), 400, refused),
        ("many", bound().header("x-key", &long), 400, refused),
        (
            "unknown backend",
            bound().header("x-key", "{{secret://none/k}}"),
            400,
            "vaultmux_reference_refused:invalid",
        ),
    ];
    for (name, case, status, expected) in cases {
        let response = check(&service, case).await;
        assert_eq!(answer(&response), Answer::Denied(status), "{name}");
        assert_eq!(reason(&response), expected, "{name}");
        assert!(!format!("{response:?}").contains(CANARY), "{name}");
    }
    let text = metrics.encode().expect("text");
    for (reason, count) in
        [("missing_attribute", 6), ("no_match", 5), ("position", 5), ("foreign", 1)]
    {
        let line = format!(
            r#"vaultmux_ext_authz_references_total{{result="denied",reason="{reason}"}} {count}"#
        );
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert!(
        text.contains(r#"vaultmux_ext_authz_references_total{result="failed",reason="store"} 1"#),
        "{text}"
    );
    let unfit = r#"vaultmux_ext_authz_references_total{result="invalid_value",reason="value"} 2"#;
    assert!(text.contains(unfit), "{text}");
    assert!(!text.contains("shared/"), "{text}");
}

#[tokio::test]
async fn a_bound_destination_gets_the_values_in_the_clients_place() {
    let (service, metrics) = service(INJECTING);
    let basic = |text: String| format!("Basic {}", STANDARD.encode(text));
    let ruled = || Case::http("GET", HOST, "/ruled/x").extension("vaultmux.cluster", "stripe");
    let bearer = format!("Bearer {CANARY}");
    let trailing = "{{secret://local/shared/trailing}}";
    let cases: Vec<(&str, Case, &str, String)> = vec![
        ("whole", bound().header("x-key", KEY), "x-key", CANARY.into()),
        ("raw", bound().raw_header("X-Key", KEY.as_bytes()), "x-key", CANARY.into()),
        ("a newline at the end", bound().header("x-key", trailing), "x-key", CANARY.into()),
        (
            "after a scheme",
            bound().header("authorization", &format!("Bearer {KEY}")),
            "authorization",
            bearer.clone(),
        ),
        (
            "basic",
            bound().header("authorization", &basic(format!("me:{KEY}"))),
            "authorization",
            basic(format!("me:{CANARY}")),
        ),
        ("a rule", ruled(), "authorization", bearer.clone()),
        (
            "a rule over the client",
            ruled().header("authorization", "mine"),
            "authorization",
            bearer,
        ),
        (
            "stated of the proxy",
            to_stripe().destination(GATEWAY).header("x-key", KEY),
            "x-key",
            CANARY.into(),
        ),
    ];
    for (name, case, header, expected) in cases {
        let response = check(&service, case.header("x-vaultmux-principal", "forged")).await;
        assert_eq!(answer(&response), Answer::Ok, "{name}: {}", reason(&response));
        let set = set_headers(&response);
        assert_eq!(set[header], expected, "{name}");
        assert!(set["x-vaultmux-principal"].starts_with(API), "{name}");
        let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("not ok") };
        // Envoy removes after it sets.
        let removed = &ok.headers_to_remove;
        assert!(removed.iter().all(|name| !set.contains_key(name)), "{name}: {removed:?}");
        assert!(removed.contains(&"x-vaultmux-grant".to_owned()), "{name}: {removed:?}");
        let metadata = format!("{:?}", response.dynamic_metadata);
        assert!(!metadata.contains(CANARY), "{name}");
    }
    let text = metrics.encode().expect("text");
    assert!(
        text.contains(r#"vaultmux_ext_authz_references_total{result="resolved",reason="none"} 8"#),
        "{text}"
    );
}

#[tokio::test]
async fn aliases_count_and_what_cannot_be_done_here_is_refused() {
    const ALIAS: &str = "sk_live_alias_0001";
    let rules = format!(
        "{INJECTING}  aliases: [{{alias: {ALIAS}, reference: 'secret://local/shared/stripe'}}]
  substitutions:
    - {{name: r, match: {{hosts: [api.stripe.test], paths: [/required/]}}, require: true}}
    - {{name: s, match: {{hosts: [api.stripe.test], paths: [/redacted/]}}, redact: true}}
    - {{name: t, match: {{clusters: [stripe], paths: [/bound/]}}, require: true}}
"
    );
    let (service, _) = super::inject::service(&rules);
    let to = |path: &str| Case::http("GET", HOST, path).extension("vaultmux.cluster", "stripe");
    let basic = |text: String| format!("Basic {}", STANDARD.encode(text));
    for (header, sent, expected) in [
        ("x-key", ALIAS.to_owned(), CANARY.to_owned()),
        ("authorization", format!("Bearer {ALIAS}"), format!("Bearer {CANARY}")),
        ("authorization", basic(format!("{ALIAS}:")), basic(format!("{CANARY}:"))),
    ] {
        let response = check(&service, to("/required/x").header(header, &sent)).await;
        assert_eq!(answer(&response), Answer::Ok, "{sent}: {}", reason(&response));
        assert_eq!(set_headers(&response)[header], expected, "{sent}");
    }
    for (path, sent, status, expected) in [
        ("/required/x", "plain", 403, "vaultmux_reference_required"),
        ("/redacted/x", KEY, 500, "vaultmux_mode_unable:ext_authz"),
    ] {
        let response = check(&service, to(path).header("x-key", sent)).await;
        assert_eq!(answer(&response), Answer::Denied(status), "{path}");
        assert_eq!(reason(&response), expected, "{path}");
    }
    // Whether the rule is for it, nobody told.
    let response = check(&service, Case::http("GET", HOST, "/bound/x")).await;
    assert_eq!(answer(&response), Answer::Denied(403));
    assert_eq!(reason(&response), "binding_attribute_missing:vaultmux.cluster");
    let elsewhere = INJECTING.replace("tls_clusters: [stripe]", "tls_clusters: [other]");
    let (elsewhere, _) = super::inject::service(&elsewhere);
    let response = check(&elsewhere, to("/").header("x-key", KEY)).await;
    assert_eq!(answer(&response), Answer::Denied(403));
    assert_eq!(reason(&response), "vaultmux_clear_text_upstream:ext_proc.tls_clusters");
    let unbound = Case::http("GET", HOST, "/").header("x-key", ALIAS);
    let response = check(&service, unbound).await;
    assert_eq!(answer(&response), Answer::Denied(403));
}

#[tokio::test]
async fn a_request_passes_as_it_is_where_nothing_is_to_be_injected() {
    let (injecting, metrics) = service(INJECTING);
    let (silent, _) = service("ext_authz: {prefetch: false}");
    for (name, service, case) in [
        ("no reference", &injecting, bound().header("x-key", "plain")),
        ("a route without", &injecting, bound().extension("vaultmux.inject", "off")),
        ("not switched on", &silent, bound()),
    ] {
        let case = match name {
            "no reference" => case,
            _ => case.header("x-key", KEY),
        };
        let response = check(service, case).await;
        assert_eq!(answer(&response), Answer::Ok, "{name}");
        let mut set: Vec<_> = set_headers(&response).into_keys().collect();
        set.sort_unstable();
        assert_eq!(set, ["x-vaultmux-decision-id", "x-vaultmux-principal"], "{name}");
    }
    let text = metrics.encode().expect("text");
    assert!(!text.contains("vaultmux_ext_authz_references_total{"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_too_slow_is_a_503_and_the_next_attempt_finds_the_value() {
    let store = Gate::new(&[("shared/stripe", CANARY)], 0);
    let (snapshot, metrics) = over(INJECTING, Arc::clone(&store) as _);
    let service = ExtAuthz::new(Current::new(snapshot), metrics);
    let ask = |wait: u64| {
        let request = CheckRequest { attributes: Some(bound().header("x-key", KEY).attributes) };
        let service = service.clone();
        let deadline = Instant::now() + Duration::from_millis(wait);
        async move { service.answer(&request, None, deadline).await.expect("an answer") }
    };
    let slow = ask(180).await;
    assert_eq!(answer(&slow), Answer::Denied(503));
    assert_eq!(reason(&slow), "vaultmux_backend_budget_exceeded");
    let Some(HttpResponse::DeniedResponse(denied)) = &slow.http_response else { panic!("denied") };
    let told = |name: &str| {
        let headers = denied.headers.iter().filter_map(|option| option.header.as_ref());
        headers.filter(|header| header.key == name).map(|header| header.value.clone()).next_back()
    };
    assert_eq!(told("retry-after").as_deref(), Some("1"));
    assert!(denied.body.contains("\"code\":\"backend_unavailable\""), "{}", denied.body);
    assert_eq!(
        told("x-vaultmux-decision-id").as_ref().map(|id| denied.body.contains(id)),
        Some(true)
    );
    store.open.add_permits(1);
    assert_eq!(set_headers(&ask(1000).await)["x-key"], CANARY);
    assert_eq!(store.calls(), 1);
}

#[tokio::test]
async fn use_is_bound_to_port_scheme_method_and_path() {
    let (mut snapshot, metrics) = over(INJECTING, Arc::new(MemoryBackend::new(Vec::new())));
    let config = fixture::config(&format!("{}{INJECTING}", fixture::CONFIG));
    let bound_to = "[{ports: ['443'], schemes: [https], methods: [GET], paths: [/v1/], hosts:";
    let policies = POLICIES.replace(
        "[{hosts: [api.stripe.test], clusters",
        &format!("{bound_to} [api.stripe.test], clusters"),
    );
    assert_ne!(policies, POLICIES);
    snapshot.policies = Arc::new(fixture::policies(&config, &policies));
    let service = ExtAuthz::new(Current::new(snapshot), metrics);
    let to = |method: &str, path: &str, scheme: &str, port: Option<u32>| {
        let mut case = Case::http(method, HOST, path)
            .extension("vaultmux.cluster", "stripe")
            .header("x-key", KEY);
        let request = case.attributes.request.as_mut().and_then(|it| it.http.as_mut());
        request.expect("http").scheme = scheme.to_owned();
        let address = port.map(|port| Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: "10.0.0.1".into(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..SocketAddress::default()
            })),
        });
        case.attributes.destination.get_or_insert_default().address = address;
        case
    };
    let rows = [
        (to("GET", "/v1/a", "https", None), "binding_attribute_missing:destination.address"),
        (to("GET", "/v1/a", "", Some(443)), "binding_attribute_missing:request.http.scheme"),
        (to("GET", "/v1/../a", "https", Some(443)), "malformed_request"),
        (to("GET", "/v1/a", "http", Some(443)), "vaultmux_denied_no_match"),
        (to("GET", "/v1/a", "https", Some(8443)), "vaultmux_denied_no_match"),
        (to("POST", "/v1/a", "https", Some(443)), "vaultmux_denied_no_match"),
        (to("GET", "/v2/a", "https", Some(443)), "vaultmux_denied_no_match"),
        // Allowed, and then there is no such secret.
        (to("GET", "/v1/a", "https", Some(443)), "vaultmux_backend_not_found"),
    ];
    for (case, expected) in rows {
        let response = check(&service, case).await;
        assert_eq!(reason(&response), expected);
    }
}

#[tokio::test]
async fn redirects_that_the_proxy_follows_are_refused_where_secrets_may_be_in_them() {
    let (service, _) = service(INJECTING);
    for (url, expected) in [
        ("https://api.stripe.test/v1/charges", "vaultmux_internal_redirect"),
        ("nonsense", "vaultmux_internal_redirect"),
        ("http://other.test/", ""),
    ] {
        let case = Case::http("GET", "other.test", "/").header("x-envoy-original-url", url);
        assert_eq!(reason(&check(&service, case).await), expected, "{url}");
    }
}

/// Where a rule opens them, as in `ext_proc`.
#[tokio::test]
async fn references_in_cookies_are_replaced_where_a_rule_opens_them() {
    let rules = |violation: &str| {
        format!(
            "{INJECTING}  substitutions:
    - {{name: c, match: {{hosts: [api.stripe.test], paths: [/open/]}}, surfaces: {{cookie: {violation}}}}}
"
        )
    };
    let (strict, _) = super::inject::service(&rules("deny"));
    let (inert, metrics) = super::inject::service(&rules("inert"));
    let to = |path: &str| Case::http("GET", HOST, path).extension("vaultmux.cluster", "stripe");
    let good = format!("lang=en; session={KEY}; a={KEY}");
    for service in [&strict, &inert] {
        let response = check(service, to("/open/x").header("cookie", &good)).await;
        assert_eq!(answer(&response), Answer::Ok, "{}", reason(&response));
        let expected = format!("lang=en; session={CANARY}; a={CANARY}");
        assert_eq!(set_headers(&response)["cookie"], expected);
        let response = check(service, to("/closed/x").header("cookie", &good)).await;
        assert_eq!(reason(&response), "vaultmux_reference_refused:position");
        let unfit = "a={{secret://local/shared/inner}}";
        let response = check(service, to("/open/x").header("cookie", unfit)).await;
        assert_eq!(reason(&response), "vaultmux_value_unfit:character:secret://local/shared/inner");
    }
    for (cookie, expected) in [
        ("a={{secret://local/readable}}", "vaultmux_denied_no_match"),
        ("a={{secret://none/k}}", "vaultmux_reference_refused:invalid"),
        ("a=%7B%7Bsecret://local/shared/stripe}}", "vaultmux_reference_refused:encoded"),
    ] {
        let response = check(&strict, to("/open/x").header("cookie", cookie)).await;
        assert_eq!(reason(&response), expected, "{cookie}");
        let response = check(&inert, to("/open/x").header("cookie", cookie)).await;
        assert_eq!(answer(&response), Answer::Ok, "{cookie}: {}", reason(&response));
        assert!(!set_headers(&response).contains_key("cookie"), "{cookie}");
    }
    let text = metrics.encode().expect("text");
    for kind in ["no_match", "foreign"] {
        let line = format!(r#"references_total{{result="inert",reason="{kind}"}} 1"#);
        assert!(text.contains(&line), "{line}: {text}");
    }
}
