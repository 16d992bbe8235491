//! What a caller may ask about itself, and what it is told.

use std::time::Duration;

use super::*;
use crate::audit::{AuditLog, AuditSettings, Decisions, Sink};

const PATH: &str = "/v1/authorize";

async fn ask(client: &Client, body: &str) -> (StatusCode, Value) {
    client.call("POST", PATH, body).await
}

/// A client of other policies than the fixture's.
fn under(policies: &str) -> Client {
    let client = Client::local();
    let mut snapshot = (*client.current.load_full()).clone();
    snapshot.policies = Arc::new(fixture::policies(&fixture::config(fixture::CONFIG), policies));
    client.current.store(snapshot);
    client
}

#[tokio::test]
async fn strangers_are_refused_and_other_methods_do_nothing() {
    let stranger = Client::new(None);
    for (method, body) in
        [("POST", r#"{"verb":"get","secret":"prod/key"}"#), ("GET", ""), ("POST", "{")]
    {
        let (status, answer) = stranger.call(method, PATH, body).await;
        assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &json!("no_identity")));
    }
    let client = Client::local();
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
        let request = Request::builder().method(method).uri(PATH).body(Body::empty());
        let response = client.send(request.expect("valid")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()["allow"], "POST, OPTIONS");
    }
    for path in ["/v1/authorize/", "/v1/authorizes", "/V1/authorize"] {
        assert_eq!(client.call("POST", path, "{}").await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn the_answer_is_what_would_be_decided() {
    let client = Client::local();
    let (status, answer) = ask(&client, r#"{"verb":"get","secret":"prod/key"}"#).await;
    assert_eq!(status, StatusCode::OK);
    let mut rest = answer.clone();
    let id = rest.as_object_mut().expect("an object").remove("decision_id").expect("an id");
    assert!(id.as_str().is_some_and(|id| id.len() > 16), "{answer}");
    let hash = client.current.load().policies.generation().hash.to_string();
    let expected = json!({
        "allowed": true, "principal": "spiffe://cluster.local/ns/prod/sa/api", "proofs": ["local"],
        "reason": null, "policy": "own-namespace", "rule": 0, "generation": 1,
        "policy_hash": hash, "nearest": null,
    });
    assert_eq!(rest, expected);

    let cluster = "destination cluster evil is not among stripe";
    for (body, allowed, reason, unmet) in [
        (r#"{"verb":"delete","secret":"prod/no-such-secret"}"#, true, None, None),
        (r#"{"verb":"get","ref":"secret://local/prod/key#a"}"#, true, None, None),
        (
            r#"{"verb":"get","secret":"prod/key","backend":"local","version":"7","field":"/a"}"#,
            true,
            None,
            None,
        ),
        (r#"{"verb":"get","secret":"other/key"}"#, false, Some("no_match"), None),
        (
            r#"{"verb":"get","secret":"shared/stripe"}"#,
            false,
            Some("no_match"),
            Some("verb get is not among use"),
        ),
        (
            r#"{"verb":"use","secret":"shared/stripe","destination":{"host":"api.stripe.test","cluster":"stripe"}}"#,
            true,
            None,
            None,
        ),
        (
            r#"{"verb":"use","secret":"shared/stripe","destination":{"host":"api.stripe.test","cluster":"evil"}}"#,
            false,
            Some("no_match"),
            Some(cluster),
        ),
        (
            r#"{"verb":"use","secret":"shared/stripe","destination":{"host":"api.stripe.test"}}"#,
            false,
            Some("missing_attribute"),
            Some("destination cluster is not known"),
        ),
        (r#"{"method":"GET","url":"http://ORDERS.test:80/orders/1?x"}"#, true, None, None),
        (r#"{"method":"GET","host":"orders.test","path":"/orders/1"}"#, true, None, None),
        (
            r#"{"method":"PUT","host":"any.test","path":"/x","destination":"shop/orders-db"}"#,
            true,
            None,
            None,
        ),
        (
            r#"{"method":"POST","url":"http://orders.test/orders/1"}"#,
            false,
            Some("no_match"),
            Some("method POST is not among GET"),
        ),
        (
            r#"{"method":"POST","url":"http://elsewhere.test/"}"#,
            false,
            Some("no_match"),
            Some("the destination workload is not known"),
        ),
    ] {
        let (status, answer) = ask(&client, body).await;
        assert_eq!(status, StatusCode::OK, "{body}: {answer}");
        assert_eq!(
            (&answer["allowed"], &answer["reason"]),
            (&json!(allowed), &json!(reason)),
            "{body}"
        );
        let told = answer["nearest"]["unmet"].as_array().and_then(|unmet| unmet[0].as_str());
        assert_eq!(told, unmet, "{body}: {answer}");
    }
}

#[tokio::test]
async fn nothing_is_told_of_what_policies_say_about_others() {
    let policies = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: hidden-others}
spec:
  effect: Allow
  from: [{serviceAccounts: [hidden-ops/hidden-root, hidden-ops/hidden-backup]}]
  to:
    - secrets: {names: [prod/key, other/key], verbs: ["*"]}
    - http: {hosts: [orders.test], methods: [GET]}
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: shared-with-me}
spec:
  effect: Allow
  from:
    - serviceAccounts: [prod/api, hidden-ops/hidden-root]
      except: {serviceAccounts: [hidden-ops/hidden-except]}
      require: [token]
  to:
    - secrets: {names: [prod/key, hidden/secret], verbs: [get]}
    - http: {hosts: [orders.test, hidden.test], paths: [/orders/, /hidden/], destinations: [hidden-ops/hidden-db]}
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: hidden-own-rule}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api]}]
  to: [{secrets: {names: [hidden/list], verbs: [list]}}]
"#;
    let client = under(policies);
    let token = "the identity is not proven by token";
    let workload = "the destination workload is not known";
    for (body, nearest) in [
        (
            r#"{"verb":"get","secret":"prod/key"}"#,
            json!({"policy": "shared-with-me", "rule": 0, "unmet": [token]}),
        ),
        (r#"{"verb":"get","secret":"other/key"}"#, Value::Null),
        (r#"{"verb":"get","secret":"another/key"}"#, Value::Null),
        (
            r#"{"method":"GET","url":"http://orders.test/orders/1"}"#,
            json!({"policy": "shared-with-me", "rule": 1, "unmet": [token, workload]}),
        ),
        (r#"{"method":"GET","url":"http://orders.test/x"}"#, Value::Null),
        (
            r#"{"method":"GET","url":"http://orders.test/orders/","destination":"shop/db"}"#,
            Value::Null,
        ),
    ] {
        let (status, answer) = ask(&client, body).await;
        assert_eq!((status, &answer["nearest"]), (StatusCode::OK, &nearest), "{body}");
        assert_eq!(answer["policy"], Value::Null, "{body}");
        let answer = answer.to_string();
        // Nor where a policy is written.
        for secret in ["hidden", "policies.yaml", "yaml"] {
            assert!(!answer.contains(secret), "{secret} in {answer}");
        }
    }
}

#[tokio::test]
async fn questions_that_can_be_read_in_two_ways_are_refused() {
    let client = Client::local();
    let canary = fixture::CANARY;
    for body in [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "{}".into(),
        r#"{"verb":"get"}"#.into(),
        r#"{"secret":"prod/key"}"#.into(),
        r#"{"verb":"GET","secret":"prod/key"}"#.into(),
        r#"{"verb":"steal","secret":"prod/key"}"#.into(),
        r#"{"verb":"get","secret":"prod/key"} x"#.into(),
        r#"{"verb":"get","verb":"get","secret":"prod/key"}"#.into(),
        format!(r#"{{"verb":"get","secret":"prod/key","note":"{canary}"}}"#),
        r#"{"verb":"get","secret":"prod/key","ref":"secret://local/prod/key"}"#.into(),
        r#"{"verb":"get","ref":"secret://local/prod/key","field":"a"}"#.into(),
        r#"{"verb":"get","ref":"secret://none/prod/key"}"#.into(),
        r#"{"verb":"get","ref":"prod/key"}"#.into(),
        r#"{"verb":"get","secret":"../key"}"#.into(),
        r#"{"verb":"get","secret":"prod/key","backend":"none"}"#.into(),
        r#"{"verb":"update","secret":"prod/key","version":"1"}"#.into(),
        r#"{"verb":"get","secret":"prod/key","destination":{"host":"a"}}"#.into(),
        r#"{"verb":"use","secret":"shared/stripe","destination":"shop/orders"}"#.into(),
        r#"{"verb":"use","secret":"shared/stripe","destination":{"host":"A.test"}}"#.into(),
        r#"{"verb":"use","secret":"shared/stripe","destination":{"host":"a","region":"1"}}"#.into(),
        r#"{"verb":"use","secret":"shared/stripe","destination":{"host":"a","host":"b"}}"#.into(),
        r#"{"verb":"get","secret":"prod/key","method":"GET"}"#.into(),
        r#"{"method":"GET"}"#.into(),
        r#"{"url":"http://a.test/"}"#.into(),
        r#"{"method":"GET","url":"ftp://a.test/"}"#.into(),
        r#"{"method":"GET","url":"http://a.test/","host":"a.test"}"#.into(),
        r#"{"method":"GET","host":"a.test"}"#.into(),
        r#"{"method":"G T","url":"http://a.test/"}"#.into(),
        r#"{"method":"GET","url":"http://a.test/x/../y"}"#.into(),
        r#"{"method":"GET","url":"http://u@a.test/"}"#.into(),
        r#"{"method":"GET","url":"http://a.test/","destination":"shop"}"#.into(),
        r#"{"method":"GET","url":"http://a.test/","destination":{"host":"a"}}"#.into(),
        r#"{"method":"GET","url":"http://vaultmux.test/v1/secrets/prod/key"}"#.into(),
    ] {
        let (status, answer) = ask(&client, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {answer}");
        assert!(answer["error"].is_string(), "{body}");
        assert!(!answer.to_string().contains(canary), "{answer}");
    }
    let large = format!(r#"{{"verb":"get","secret":"{}"}}"#, "x".repeat(5000));
    assert_eq!(ask(&client, &large).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_question_is_no_decision_and_no_store_hears_of_it() {
    let directory = tempfile::tempdir().expect("make a directory");
    let audit = directory.path().join("audit");
    let metrics = Arc::new(Metrics::default());
    let gate = fixture::Gate::new(&[("prod/key", fixture::CANARY)], 0);
    let mut snapshot = fixture::over(&fixture::config(fixture::CONFIG), gate.clone(), &metrics);
    let settings = AuditSettings { sink: Sink::File(audit.clone()), decisions: Decisions::All };
    snapshot.audit = AuditLog::start(Some(&settings), &metrics).expect("opens");
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    let current = Current::new(snapshot.clone());
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(current.clone(), Arc::clone(&metrics), settings).into_router();
    let client = Client { router, current, metrics };
    for body in [r#"{"verb":"get","secret":"prod/key"}"#, r#"{"verb":"list","secret":"other/key"}"#]
    {
        assert_eq!(ask(&client, body).await.0, StatusCode::OK);
    }
    let recorded = async || {
        snapshot.audit.flush(Duration::from_secs(30)).await;
        let counted = client.metrics.encode().expect("text");
        let counted = counted.lines().filter(|line| line.starts_with("vaultmux_decisions_total{"));
        (std::fs::read_to_string(&audit).expect("text").lines().count(), counted.count())
    };
    assert_eq!(recorded().await, (0, 0));
    assert_eq!(gate.calls(), 0);
    // A stranger is refused, which is one.
    let forged = Request::post(PATH).header("x-vaultmux-grant", "x").body(Body::empty());
    assert_eq!(client.send(forged.expect("valid")).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(recorded().await, (1, 1));
}
