//! What becomes of a request's headers.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

fn headers_of(message: &mut ProcessingRequest) -> &mut Vec<HeaderValue> {
    match &mut message.request {
        Some(Request::RequestHeaders(headers)) => {
            &mut headers.headers.get_or_insert_default().headers
        }
        _ => panic!("not request headers"),
    }
}

fn without(mut message: ProcessingRequest, attribute: &str) -> ProcessingRequest {
    for attributes in message.attributes.values_mut() {
        attributes.fields.remove(attribute);
    }
    message
}

fn with(mut message: ProcessingRequest, attribute: &str, text: &str) -> ProcessingRequest {
    for attributes in message.attributes.values_mut() {
        let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
        attributes.fields.insert(attribute.to_owned(), value);
    }
    message
}

#[tokio::test]
async fn references_that_may_not_be_used_are_refused() {
    let service = Service::start().await;
    let bearer = |name: &str| format!("Bearer {{{{secret://local/{name}}}}}");
    let key = bearer("use/key");
    let good = || request("/v1/charges", &[("authorization", &key)]);
    let single = |value: &str| request("/", &[("authorization", value)]);
    let mut elsewhere = good();
    headers_of(&mut elsewhere)[1].raw_value = b"evil.test".to_vec();
    let cases = [
        (401, "vaultmux_denied_no_identity", without(good(), "connection.mtls")),
        (
            403,
            "vaultmux_denied_no_match",
            with(
                good(),
                "connection.uri_san_peer_certificate",
                "spiffe://cluster.local/ns/prod/sa/other",
            ),
        ),
        (403, "vaultmux_denied_no_match", with(good(), "xds.cluster_name", "evil")),
        (403, "vaultmux_denied_no_match", elsewhere),
        (403, "binding_attribute_missing:xds.cluster_name", without(good(), "xds.cluster_name")),
        // Readable, but not to be injected; and not in any policy.
        (403, "vaultmux_denied_no_match", single(&bearer("readable"))),
        (403, "vaultmux_denied_no_match", single(&bearer("other"))),
        (400, "vaultmux_reference_refused:invalid", single("{{secret://nowhere/a}}")),
        (400, "vaultmux_reference_refused:unclosed", single("Bearer {{secret://local/a")),
        (400, "vaultmux_reference_refused:position", single("x={{secret://local/use/key}}")),
        (
            400,
            "vaultmux_reference_refused:position",
            request("/?key={{secret://local/use/key}}", &[]),
        ),
        (
            400,
            "vaultmux_reference_refused:position",
            request("/", &[("host", "{{secret://local/use/key}}")]),
        ),
        (502, "vaultmux_backend_not_found", single(&bearer("use/absent"))),
        (502, "vaultmux_backend_no_field", single(&bearer("use/json#absent"))),
        (502, "vaultmux_backend_permission_denied", single(&bearer("use/refused"))),
        (503, "vaultmux_backend_unavailable", single(&bearer("use/down"))),
        (503, "vaultmux_backend_budget_exceeded", single(&bearer("use/slow"))),
        (
            502,
            "vaultmux_value_unfit:control_character:secret://local/use/split",
            single(&bearer("use/split")),
        ),
        // Last: a store that throttles is left alone for a while.
        (503, "vaultmux_backend_throttled", single(&bearer("use/busy"))),
    ];
    for (code, details, message) in cases {
        let answer = service.ask(message).await.expect("an answer");
        let (found, why, body) = status(&answer);
        assert_eq!((found, why), (code, details), "{body}");
        assert!(body.contains(r#""request_id""#), "{body}");
        assert!(!body.contains("use/") && !body.contains(CANARY), "{body}");
    }
    // A value that is not put in is none that was.
    assert!(
        service.counts(
            r#"vaultmux_ext_proc_references_total{result="invalid_value",reason="value"} 1"#
        )
    );
    let metrics = service.metrics.encode().expect("text");
    assert!(!metrics.contains(r#"references_total{result="resolved"}"#), "{metrics}");
    // One bad reference spoils the request, and nothing is put in.
    let mixed = [("authorization", key.as_str()), ("x-key", "{{secret://local/other}}")];
    let answer = service.ask(request("/", &mixed)).await.expect("an answer");
    assert_eq!(status(&answer).0, 403);
}

#[tokio::test]
async fn references_become_values_toward_the_bound_destination() {
    let service = Service::start().await;
    let basic = |plain: &str| format!("Basic {}", STANDARD.encode(plain));
    let cases = [
        ("{{secret://local/use/key}}", CANARY.to_owned()),
        ("Bearer {{secret://local/use/key}}", format!("Bearer {CANARY}")),
        ("token {{secret://local/use/newline}}", format!("token {CANARY}")),
        ("{{secret://local/use/json#user}}", CANARY.to_owned()),
        (&basic("me:{{secret://local/use/key}}"), basic(&format!("me:{CANARY}"))),
        (
            &basic("{{secret://local/use/json#user}}:{{secret://local/use/key}}"),
            basic(&format!("{CANARY}:{CANARY}")),
        ),
    ];
    for (sent, expected) in cases {
        let answer = service.ask(request("/", &[("x-key", sent)])).await.expect("an answer");
        assert_eq!(mutated(&answer), [("x-key".to_owned(), expected)], "{sent}");
        assert!(answer.mode_override.is_some());
    }
    assert!(
        service.counts(r#"vaultmux_ext_proc_references_total{result="resolved",reason="none"} 7"#)
    );
}

#[tokio::test]
async fn values_in_either_field_of_a_header_are_read() {
    let service = Service::start().await;
    let mut message = request("/", &[("x-key", "")]);
    let header = headers_of(&mut message).last_mut().expect("some");
    header.value = "{{secret://local/use/key}}".to_owned();
    let answer = service.ask(message).await.expect("an answer");
    assert_eq!(mutated(&answer), [("x-key".to_owned(), CANARY.to_owned())]);
}

#[tokio::test]
async fn requests_without_reference_go_on_as_they_are() {
    let service = Service::start().await;
    let plain = [("authorization", "Bearer abc"), ("cookie", "a=b; c={{x}}")];
    let cases = [
        anonymous("GET", "api.stripe.com", "/", &plain),
        anonymous("GET", "", "", &[]),
        anonymous("GET", "a b", "*", &plain),
        // Their bodies are REST's.
        anonymous("POST", "vaultmux.test", "/v1/secrets", &[]),
        anonymous("PUT", "vaultmux.test", "/v1/secrets/a", &[]),
        anonymous("POST", "vaultmux.test", "/v1/secrets:batchGet", &[]),
        anonymous("GET", "vaultmux.test", "/v1/secretsx", &[]),
        anonymous("GET", "other.test", "/v1/secrets/readable", &[]),
    ];
    for message in cases {
        let answer = service.ask(message).await.expect("an answer");
        match &answer.response {
            Some(Response::RequestHeaders(headers)) => assert!(headers.response.is_none()),
            _ => panic!("not an answer to request headers: {}", status(&answer).0),
        }
        assert!(answer.mode_override.is_some());
    }
}

#[tokio::test]
async fn injection_replaces_what_the_client_sent_and_needs_the_same_permit() {
    let service = Service::start().await;
    let expected = [("authorization".to_owned(), format!("Bearer {CANARY}"))];
    for sent in [vec![], vec![("authorization", "x{{secret://nowhere/a}}")]] {
        let answer = service.ask(request("/inject?a=b", &sent)).await.expect("an answer");
        assert_eq!(mutated(&answer), expected);
    }
    let both = [("x-key", "{{secret://local/use/key}}")];
    let answer = service.ask(request("/inject", &both)).await.expect("an answer");
    assert_eq!(mutated(&answer).len(), 2);

    let unknown = without(request("/inject", &[]), "connection.mtls");
    let unbound = without(request("/inject", &[]), "xds.cluster_name");
    for (code, message) in [(401, unknown), (403, unbound)] {
        let answer = service.ask(message).await.expect("an answer");
        assert_eq!(status(&answer).0, code);
    }
}

#[tokio::test]
async fn rules_for_headers_that_cannot_be_set_refuse() {
    let change = |snapshot: &mut Snapshot| {
        let mut injection = snapshot.injections[0].clone();
        injection.headers[0].0 = http::header::HOST;
        snapshot.injections = Arc::new([injection]);
    };
    let service = Service::start_with(change).await;
    let answer = service.ask(request("/inject", &[])).await.expect("an answer");
    let (code, details, _) = status(&answer);
    assert_eq!((code, details), (500, "vaultmux_header_not_settable:host"));
}

#[tokio::test]
async fn one_of_several_values_is_replaced_in_its_place() {
    let service = Service::start().await;
    let sent = [("x-key", "first"), ("x-key", "{{secret://local/use/key}}"), ("x-key", "last")];
    let answer = service.ask(request("/", &sent)).await.expect("an answer");
    let values: Vec<_> = mutated(&answer).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["first", CANARY, "last"]);
    let Some(Response::RequestHeaders(headers)) = answer.response else { panic!("mutated") };
    let mutation = headers.response.and_then(|common| common.header_mutation).expect("some");
    assert_eq!(mutation.remove_headers, ["x-key"]);
}

#[tokio::test]
async fn grpc_requests_are_refused_with_a_grpc_status() {
    let service = Service::start().await;
    for (content_type, expected) in [
        ("application/grpc", Some(7)),
        ("application/grpc+proto", Some(7)),
        ("application/grpc-web", None),
        ("application/json", None),
    ] {
        let sent = [("content-type", content_type), ("x-key", "{{secret://local/a}}")];
        let answer = service.ask(request("/", &sent)).await.expect("an answer");
        let Some(Response::ImmediateResponse(response)) = answer.response else {
            panic!("refused")
        };
        let code = response.grpc_status.map(|grpc| grpc.status);
        assert_eq!(code, expected, "{content_type}");
    }
}

#[tokio::test]
async fn secret_operations_are_answered_as_rest_does() {
    let service = Service::start().await;
    let attributes = request("/", &[]).attributes;
    let ask = async |method: &str, target: &str| {
        let sent = [("x-request-id", "req-1")];
        let message = anonymous(method, "vaultmux.test", target, &sent);
        let message = ProcessingRequest { attributes: attributes.clone(), ..message };
        let answer = service.ask(message).await.expect("an answer");
        match answer.response {
            Some(Response::ImmediateResponse(response)) => response,
            _ => panic!("not an immediate response"),
        }
    };
    for (method, target, code) in [
        ("GET", "/v1/secrets/readable", 200),
        ("HEAD", "/v1/secrets/readable", 200),
        ("GET", "/v1/secrets/absent", 404),
        ("GET", "/v1/secrets/other", 403),
        ("DELETE", "/v1/secrets/readable", 403),
        ("PATCH", "/v1/secrets/readable", 405),
        ("OPTIONS", "/v1/secrets/readable", 204),
        ("GET", "/v1/versions/other", 403),
        ("GET", "/v1/secrets/%2e%2e", 400),
        ("GET", "/v1/secrets/a\\b", 400),
        ("G T", "/v1/secrets/readable", 400),
    ] {
        let response = ask(method, target).await;
        assert_eq!(response.status.map(|s| s.code), Some(code), "{method} {target}");
        let shown = response.body.windows(CANARY.len()).any(|w| w == CANARY.as_bytes());
        assert_eq!(shown, method == "GET" && code == 200, "{method} {target}");
        let headers = response.headers.expect("some").set_headers;
        let header = |name: &str| {
            let mut found = headers.iter().filter_map(|option| option.header.as_ref());
            found.find(|header| header.key == name).map(|header| header.raw_value.as_slice())
        };
        assert_eq!(header("x-request-id"), Some(&b"req-1"[..]));
        assert_eq!(header("cache-control"), Some(&b"no-store"[..]));
        assert!(header("content-length").is_none());
    }
}

/// What the client's own request says binds too, and what the proxy does not tell denies.
#[tokio::test]
async fn use_is_bound_to_port_scheme_method_and_path() {
    let policy = POLICY.replace(
        "destinations: [{hosts:",
        "destinations: [{ports: ['443'], schemes: [https], methods: [GET], paths: [/v1/], hosts:",
    );
    assert_ne!(policy, POLICY);
    let service = Service::start_with(|snapshot| {
        let policies = Policies::parse(&[("test.yaml".into(), policy)], &snapshot.catalog);
        let policies = PolicySet::compile(&policies.expect("valid policy"), 1);
        snapshot.policies = Arc::new(policies);
    })
    .await;
    let port = |mut message: ProcessingRequest, kind: Kind| {
        for attributes in message.attributes.values_mut() {
            let value = Value { kind: Some(kind.clone()) };
            attributes.fields.insert("destination.port".to_owned(), value);
        }
        message
    };
    let sent = |target: &str, headers: &[(&str, &str)]| {
        let key = ("x-key", "{{secret://local/use/key}}");
        let message = request(target, &[headers, &[key]].concat());
        port(message, Kind::NumberValue(443.0))
    };
    let https = [(":scheme", "https")];
    let good = || sent("/v1/charges?a=b", &https);
    let hidden = |name: &str| {
        let mut message = good();
        headers_of(&mut message).retain(|header| header.key != name);
        message
    };
    let mut posted = good();
    headers_of(&mut posted)[0].raw_value = b"POST".to_vec();
    let rows = [
        (without(good(), "destination.port"), "binding_attribute_missing:destination.port"),
        (port(good(), Kind::NumberValue(443.5)), "binding_attribute_missing:destination.port"),
        (
            port(good(), Kind::StringValue("443".into())),
            "binding_attribute_missing:destination.port",
        ),
        (port(good(), Kind::NumberValue(80.0)), "vaultmux_denied_no_match"),
        (hidden(":scheme"), "binding_attribute_missing:request.scheme"),
        (sent("/v1/charges", &[(":scheme", "http")]), "vaultmux_denied_no_match"),
        (hidden(":method"), "binding_attribute_missing:request.method"),
        (posted, "vaultmux_denied_no_match"),
        (hidden(":path"), "binding_attribute_missing:request.path"),
        // A path of more than one reading is none.
        (sent("/v1/../admin", &https), "binding_attribute_missing:request.path"),
        (sent("/v1/%2e%2e/admin", &https), "binding_attribute_missing:request.path"),
        (sent("/v1//a", &https), "binding_attribute_missing:request.path"),
        (sent("/v1x", &https), "vaultmux_denied_no_match"),
        (sent("/v1", &https), "vaultmux_denied_no_match"),
    ];
    for (message, details) in rows {
        let answer = service.ask(message).await.expect("an answer");
        assert_eq!((status(&answer).0, status(&answer).1), (403, details));
    }
    let shown = with(hidden(":scheme"), "request.scheme", "https");
    let target = with(hidden(":path"), "request.path", "/v1/charges?a=b");
    for message in [good(), shown, target] {
        let answer = service.ask(message).await.expect("an answer");
        assert_eq!(mutated(&answer), [("x-key".to_owned(), CANARY.to_owned())]);
    }
}

/// What was put into the first attempt may still be in it, whoever is asked now.
#[tokio::test]
async fn redirects_that_the_proxy_follows_are_refused_where_secrets_may_be_in_them() {
    let service = Service::start().await;
    let refused = (403, "vaultmux_internal_redirect");
    let from = |url: &'static str| ("x-envoy-original-url", url);
    let rows = [
        (vec![from("https://api.stripe.com/v1")], refused),
        (vec![from("http://API.stripe.com:443/v1?a=b")], refused),
        (vec![from("https://api.stripe.com./")], refused),
        (vec![from("nonsense")], refused),
        (vec![from("")], refused),
        (vec![from("http://app.test/"), from("http://app.test/")], refused),
        // Toward this one nobody may use anything.
        (vec![from("http://app.test/a")], (0, "")),
    ];
    for (headers, expected) in rows {
        for host in ["evil.test", "api.stripe.com"] {
            let mut headers = headers.clone();
            headers.push(("x-key", CANARY));
            let message = anonymous("GET", host, "/", &headers);
            let answer = service.ask(message).await.expect("an answer");
            assert_eq!((status(&answer).0, status(&answer).1), expected, "{headers:?}");
        }
    }
}

/// Whatever the client says in the parameter, and however it writes its name.
#[tokio::test]
async fn rules_set_parameters_of_the_query() {
    let service = Service::start_with(|snapshot| {
        let parse = |text| Template::parse(text, &snapshot.catalog).expect("valid");
        let mut injection = snapshot.injections[0].clone();
        injection.headers.clear();
        injection.query = vec![
            ("key".to_owned(), parse("k-{{secret://local/use/key}}")),
            ("again".to_owned(), parse("{{secret://local/use/odd}}")),
        ];
        snapshot.injections = Arc::new([injection]);
    })
    .await;
    let set = format!("key=k-{CANARY}&again=a%26b%3D%2F%2B%25");
    for (sent, kept) in [
        ("/inject", "/inject?"),
        ("/inject?", "/inject?"),
        ("/inject?a=b", "/inject?a=b&"),
        ("/inject?key=mine&a=b&key", "/inject?a=b&"),
        ("/inject?k%65y=mine&&KEY=2&keys=3", "/inject?KEY=2&keys=3&"),
    ] {
        let answer = service.ask(request(sent, &[])).await.expect("an answer");
        assert_eq!(mutated(&answer), [(":path".to_owned(), format!("{kept}{set}"))], "{sent}");
    }
}

/// Nobody reads answers: nothing is fetched, and what would be done is counted.
#[tokio::test]
async fn what_is_only_observed_is_counted() {
    let service = Service::start().await;
    let key = [("x-key", "{{secret://local/use/key}}")];
    let elsewhere = with(request("/", &key), "xds.cluster_name", "evil");
    for (mut message, injects, refuses) in [
        (request("/", &[]), 0, 0),
        (request("/", &key), 1, 0),
        (request("/inject", &[]), 2, 0),
        (elsewhere, 2, 1),
        (anonymous("GET", "api.stripe.com", "/inject", &[]), 2, 2),
        (request("/", &[("x-key", "x={{secret://local/use/key}}")]), 2, 3),
        (request("/", &[("x-envoy-original-url", "https://api.stripe.com/")]), 2, 4),
        (anonymous("GET", "vaultmux.test", "/v1/secrets/readable", &[]), 2, 4),
    ] {
        message.observability_mode = true;
        let mut exchange = service.open().await;
        exchange.send(message).await;
        drop(exchange.requests);
        let answer = exchange.answers.message().await.expect("no error");
        assert!(answer.is_none(), "an answer");
        for (result, count) in [("would_inject", injects), ("would_refuse", refuses)] {
            let line = format!(r#"vaultmux_ext_proc_observed_total{{result="{result}"}} {count}"#);
            assert!(count == 0 || service.counts(&line), "{line}");
        }
    }
    let fetched = r#"vaultmux_ext_proc_references_total{result="resolved",reason="none"} "#;
    let metrics = service.metrics.encode().expect("text");
    assert!(!metrics.contains(fetched), "{metrics}");
}
