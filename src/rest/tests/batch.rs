//! Many secrets in one request.

use super::*;
use crate::fixture::Gate;

const PATH: &str = "/v1/secrets:batchGet";

async fn ask(client: &Client, body: &str) -> (StatusCode, Value) {
    client.call("POST", PATH, body).await
}

#[tokio::test]
async fn batches_that_are_unclear_are_refused_as_a_whole() {
    let client = Client::local();
    let canary = fixture::CANARY;
    let many = vec![json!({"name": "prod/key"}); 101];
    let many = json!({"secrets": many}).to_string();
    for (body, error) in [
        ("", "request body is required"),
        ("{}", "request body lacks a member"),
        ("[]", "request body is not an object"),
        (r#"[[{"name":"prod/key"}]]"#, "request body is not an object"),
        (r#"{"secrets":[["prod/key"]]}"#, "a member of the wrong type: secrets[0]"),
        (r#"{"secrets":{}}"#, "request body has a member of the wrong type: secrets"),
        (r#"{"secrets":["prod/key"]}"#, "request body has a member of the wrong type: secrets[0]"),
        (r#"{"secrets":[{"name":1}]}"#, "a member of the wrong type: secrets[0].name"),
        (r#"{"secrets":[],"secrets":[]}"#, "has a member twice"),
        (r#"{"secrets":[{"canary-7f3a9b":1}]}"#, "a member that is not known: secrets[0]"),
        (r#"{"secrets":[]} canary-7f3a9b"#, "something follows it"),
        (r#"{"secrets":[{"name":"prod/key"},{}]}"#, "secrets[1] needs either name or ref"),
        (
            r#"{"secrets":[{"name":"prod/key","ref":"secret://local/prod/key"}]}"#,
            "secrets[0] needs either name or ref",
        ),
        (
            r#"{"secrets":[{"ref":"secret://local/prod/key","field":"a"}]}"#,
            "secrets[0].ref has backend, version and field in it",
        ),
        (&many, "secrets has more than 100 entries"),
    ] {
        let padded = Request::post(PATH).header("host", "vaultmux.test");
        let padded = padded.body(Body::from(body.to_owned())).expect("valid");
        let mut snapshot = (*client.current.load_full()).clone();
        snapshot.limits.request_body = 1 << 20;
        client.current.store(snapshot);
        let response = client.send(padded).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
        let answer = text(response).await;
        assert!(answer.contains(error), "{body}: {answer}");
        assert!(!answer.contains(canary), "{answer}");
    }
}

#[tokio::test]
async fn each_secret_of_a_batch_is_taken_from_the_callers_share() {
    let client = Client::local();
    let mut snapshot = (*client.current.load_full()).clone();
    snapshot.limits.per_principal_rps = std::num::NonZeroU32::new(2);
    snapshot.shares = crate::snapshot::Shares::succeeding(&snapshot.limits, None);
    client.current.store(snapshot);
    let body = json!({"secrets": vec![json!({"name": "prod/key"}); 100]}).to_string();
    let (status, answer) = ask(&client, &body).await;
    assert_eq!(status, StatusCode::OK);
    // Four at once, and what comes in while the test runs.
    let (read, refused) = (&answer["secrets"], answer["errors"].as_array().expect("a list"));
    assert!(read.as_array().is_some_and(|read| (4..50).contains(&read.len())), "{answer}");
    assert!(refused.len() > 50, "{answer}");
    for error in refused {
        assert_eq!(error["code"], "too_many_requests");
        assert!(error["retry_after"].as_u64().is_some_and(|wait| wait > 0), "{error}");
    }
    assert_eq!(ask(&client, r#"{"secrets":[]}"#).await.0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn whoever_may_read_nothing_is_refused_whatever_the_body() {
    let stranger = Client::new(None);
    assert_eq!(ask(&stranger, "{").await.0, StatusCode::UNAUTHORIZED);
    let mut snapshot = (*stranger.current.load_full()).clone();
    let config = fixture::config(fixture::CONFIG);
    let policies = fixture::POLICIES.replace(r#"verbs: ["*"]"#, "verbs: [list]");
    snapshot.policies = Arc::new(fixture::policies(&config, &policies));
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    stranger.current.store(snapshot);
    for body in [r#"{"secrets":[]}"#, "{"] {
        let (status, answer) = ask(&stranger, body).await;
        assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    }
}

#[tokio::test]
async fn each_secret_is_decided_and_told_on_its_own_and_in_order() {
    let client = Client::local();
    let binary = r#"{"name":"prod/bin","value_base64":"/wD+"}"#;
    assert_eq!(client.call("POST", "/v1/secrets", binary).await.0, StatusCode::CREATED);
    let json_value = r#"{"name":"prod/json","value":"{\"a\":\"x\",\"b\":2}"}"#;
    assert_eq!(client.call("POST", "/v1/secrets", json_value).await.0, StatusCode::CREATED);
    let long = "x".repeat(600);
    let body = json!({"secrets": [
        {"name": "prod/nested/key"},
        {"name": "other/key"},
        {"name": "prod/none"},
        {"name": "other/none"},
        {"ref": "secret://local/prod/json?version=1#a"},
        {"name": "prod/json", "field": "b", "backend": "local"},
        {"name": "prod/json", "field": "c"},
        {"name": "prod/nested/key", "version": "7"},
        {"name": "../x"},
        {"name": "prod/key", "backend": "none"},
        {"ref": "secret://local/"},
        {"name": "prod/bin"},
        {"name": "prod/nested/key", "version": "latest"},
        {"name": long},
        {"name": "shared/stripe"},
    ]});
    let (status, answer) = ask(&client, &body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let read: Vec<_> = answer["secrets"].as_array().expect("a list").iter().collect();
    let seen = |secret: &&Value| {
        let value = secret["value"].as_str().or(secret["value_base64"].as_str());
        (secret["index"].as_u64(), value.map(str::to_owned))
    };
    let read: Vec<_> = read.iter().map(seen).collect();
    let expected = [(0, "nested"), (4, "x"), (5, "2"), (11, "/wD+"), (12, "nested")];
    assert_eq!(read, expected.map(|(at, value)| (Some(at), Some(value.to_owned()))));
    let first = &answer["secrets"][0];
    assert_eq!((&first["name"], &first["version"]), (&json!("prod/nested/key"), &json!("1")));

    let errors = answer["errors"].as_array().expect("a list");
    let seen = |error: &Value| {
        (error["index"].as_u64().expect("a number"), error["code"].as_str().map(str::to_owned))
    };
    let expected = [
        (1, "forbidden"),
        (2, "not_found"),
        (3, "forbidden"),
        (6, "not_found"),
        (7, "not_found"),
        (8, "invalid_reference"),
        (9, "invalid_reference"),
        (10, "invalid_reference"),
        (13, "invalid_reference"),
        (14, "forbidden"),
    ];
    let expected = expected.map(|(at, code)| (at, Some(code.to_owned())));
    assert_eq!(errors.iter().map(seen).collect::<Vec<_>>(), expected);
    // Whether it is there or not.
    let (there, not_there) = (&errors[0], &errors[2]);
    assert_eq!((&there["name"], &not_there["name"]), (&json!("other/key"), &json!("other/none")));
    assert_eq!(there["error"], not_there["error"]);
    assert_eq!(errors[7]["name"], "secret://local/");
    assert_eq!(errors[8]["name"].as_str().map(str::len), Some(512));
    assert_eq!(ask(&client, r#"{"secrets":[]}"#).await.1, json!({"secrets": [], "errors": []}));
}

#[tokio::test]
async fn what_is_asked_for_twice_is_fetched_once_and_few_at_a_time() {
    let metrics = Arc::new(Metrics::default());
    let names: Vec<_> = (0..20).map(|number| format!("prod/k{number}")).collect();
    let secrets: Vec<_> = names.iter().map(|name| (name.as_str(), r#"{"a":"1"}"#)).collect();
    let gate = Gate::new(&secrets, 0);
    let uncached = format!("{}\ncache: {{ttl: 0s, negative_ttl: 0s}}\n", fixture::CONFIG);
    let mut snapshot = fixture::over(&fixture::config(&uncached), gate.clone(), &metrics);
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    let current = Current::new(snapshot);
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(current.clone(), Arc::clone(&metrics), settings).into_router();
    let client = Client { router, current, metrics };
    let items: Vec<_> = names
        .iter()
        .flat_map(|name| [json!({"name": name}), json!({"name": name, "field": "a"})])
        .collect();
    let body = json!({"secrets": items}).to_string();
    let asking = tokio::spawn(async move { ask(&client, &body).await });
    let under_way = async {
        while gate.calls() < 8 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.calls()
    };
    assert_eq!(under_way.await, 8);
    gate.open.add_permits(1000);
    let (status, answer) = asking.await.expect("no panic");
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["secrets"].as_array().map(Vec::len), Some(40), "{answer}");
    assert_eq!(gate.calls(), 20);
}
