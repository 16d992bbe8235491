//! Reads: forms, fields, entity tags, age, versions; writes under conditions.

use super::*;
use crate::fixture::Gate;

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "vaultmux.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(request.body(Body::from(body.to_owned())).expect("valid")).await
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text"))
}

#[tokio::test]
async fn a_secret_has_the_form_that_is_accepted() {
    let client = Client::local();
    let body = r#"{"name":"prod/bin","value_base64":"/wD+"}"#;
    client.call("POST", "/v1/secrets", body).await;
    let empty = send(&client, "GET", "/v1/secrets/prod/key", &[("accept", "text/html")], "").await;
    assert_eq!(empty.status(), StatusCode::NOT_ACCEPTABLE);
    assert_eq!(header(&empty, "content-type"), "application/problem+json");
    let forbidden = send(&client, "GET", "/v1/secrets/other/key", &[("accept", "x/y")], "").await;
    assert_eq!(forbidden.status(), StatusCode::FORBIDDEN, "who may not read is told nothing else");
    let raw = [("accept", "application/octet-stream")];
    let response = send(&client, "GET", "/v1/secrets/prod/bin", &raw, "").await;
    assert_eq!(header(&response, "content-type"), "application/octet-stream");
    assert_eq!(header(&response, "vary"), "accept");
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    assert_eq!(&bytes[..], b"\xff\0\xfe");
    let response = send(&client, "HEAD", "/v1/secrets/prod/bin", &raw, "").await;
    assert_eq!(header(&response, "content-length"), "3");
    let response = send(&client, "GET", "/v1/secrets/prod/key?field=a", &raw, "").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND, "no such field");
}

#[tokio::test]
async fn fields_are_parts_of_json() {
    let client = Client::local();
    let body = json!({"name": "prod/json", "value": r#"{"a":"x","b":{"c":[1,"y"]}}"#});
    client.call("POST", "/v1/secrets", &body.to_string()).await;
    for (field, expected) in
        [("a", Some("x")), ("b", Some(r#"{"c":[1,"y"]}"#)), ("/b/c/1", Some("y")), ("c", None)]
    {
        let path = format!("/v1/secrets/prod/json?field={field}");
        let (status, answer) = client.call("GET", &path, "").await;
        let found = (status == StatusCode::OK).then(|| answer["value"].as_str().expect("text"));
        assert_eq!(found, expected, "{field}");
    }
}

#[tokio::test]
async fn who_has_it_already_is_told_so() {
    let client = Client::local();
    let path = "/v1/secrets/prod/key";
    let first = send(&client, "GET", path, &[], "").await;
    let tag = header(&first, "etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() == 24, "{tag}");
    assert_eq!(header(&send(&client, "HEAD", path, &[], "").await, "etag"), tag);
    for method in ["GET", "HEAD"] {
        let same = send(&client, method, path, &[("if-none-match", &tag)], "").await;
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        assert_eq!((header(&same, "etag"), header(&same, "cache-control")), (&*tag, "no-store"));
        assert!(!same.headers().contains_key("content-length"), "{:?}", same.headers());
        assert_eq!(text(same).await, "");
    }
    let raw = [("accept", "application/octet-stream"), ("if-none-match", &*tag)];
    let other = send(&client, "GET", path, &raw, "").await;
    assert_eq!(other.status(), StatusCode::OK, "another form is another thing");
    assert_ne!(header(&other, "etag"), tag);
    let unmet = send(&client, "GET", path, &[("if-match", "\"x\"")], "").await;
    assert_eq!(unmet.status(), StatusCode::PRECONDITION_FAILED);

    client.call("PUT", path, r#"{"value":"new"}"#).await;
    let changed = send(&client, "GET", path, &[("if-none-match", &tag)], "").await;
    assert_eq!(changed.status(), StatusCode::OK);
    assert_ne!(header(&changed, "etag"), tag);
    // Gone and made anew it has the old version's number, and is another thing.
    client.call("DELETE", path, "").await;
    client.call("POST", "/v1/secrets", r#"{"name":"prod/key","value":"anew"}"#).await;
    let anew = send(&client, "GET", path, &[("if-none-match", &tag)], "").await;
    assert_eq!(anew.status(), StatusCode::OK);
    // Others may not learn by a tag whether it is the same.
    let stolen = send(&client, "GET", "/v1/secrets/other/key", &[("if-none-match", "*")], "").await;
    assert_eq!(stolen.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn writes_keep_to_their_conditions() {
    let client = Client::local();
    let path = "/v1/secrets/prod/key";
    let tag = async |headers: &[(&str, &str)]| {
        header(&send(&client, "GET", path, headers, "").await, "etag").to_owned()
    };
    let old = tag(&[]).await;
    let put = async |headers: &[(&str, &str)], value: &str| {
        let body = json!({"value": value}).to_string();
        let response = send(&client, "PUT", path, headers, &body).await;
        let status = response.status();
        (status, text(response).await)
    };
    let (status, _) = put(&[("if-match", &old)], "2").await;
    assert_eq!(status, StatusCode::OK);
    for (name, value) in [("if-match", &*old), ("if-match", "W/\"x\""), ("if-none-match", "*")] {
        let (status, answer) = put(&[(name, value)], "lost").await;
        assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{name}: {value}");
        assert!(answer.contains(r#""code":"precondition_failed""#), "{answer}");
        let response = send(&client, "DELETE", path, &[(name, value)], "").await;
        assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED, "{name}: {value}");
    }
    assert_eq!(client.call("GET", path, "").await.1["value"], "2");
    assert_eq!(put(&[("if-match", "*")], "3").await.0, StatusCode::OK);
    // Either form of it will do.
    let raw = tag(&[("accept", "application/octet-stream")]).await;
    let both = format!("\"other\", {raw}");
    assert_eq!(put(&[("if-match", &both)], "4").await.0, StatusCode::OK);
    let missing = send(&client, "PUT", "/v1/secrets/prod/none", &[("if-match", &raw)], "{}").await;
    assert_eq!(missing.status(), StatusCode::BAD_REQUEST);
    let body = r#"{"value":"x"}"#;
    let missing = send(&client, "PUT", "/v1/secrets/prod/none", &[("if-match", &raw)], body).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);

    // Of writers who all saw the same one wins.
    let seen = tag(&[]).await;
    let writes = (0..8).map(|number| {
        let (client, seen) = (&client, seen.clone());
        async move {
            let body = json!({"value": format!("w{number}")}).to_string();
            send(client, "PUT", path, &[("if-match", &seen)], &body).await.status()
        }
    });
    let mut outcomes = futures_util::future::join_all(writes).await;
    outcomes.sort();
    let (won, lost) = outcomes.split_first().expect("eight");
    assert_eq!(*won, StatusCode::OK);
    assert!(lost.iter().all(|status| *status == StatusCode::PRECONDITION_FAILED), "{lost:?}");
    let last = tag(&[]).await;
    let deleted = send(&client, "DELETE", path, &[("if-match", &last)], "").await;
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_how_old_it_is_and_how_it_was_had() {
    let metrics = Arc::new(Metrics::default());
    let gate = Gate::new(&[("prod/key", "x")], 2);
    let mut snapshot = fixture::over(&fixture::config(fixture::CONFIG), gate.clone(), &metrics);
    snapshot.local = SpiffeId::parse("spiffe://cluster.local/ns/prod/sa/api").ok();
    let current = Current::new(snapshot);
    let settings = RestSettings { local_listener: true, require_request_header: false };
    let router = Rest::new(current.clone(), Arc::clone(&metrics), settings).into_router();
    let client = Client { router, current, metrics };
    let had = async |query: &str| {
        let path = format!("/v1/secrets/prod/key{query}");
        let response = send(&client, "GET", &path, &[], "").await;
        assert_eq!(response.status(), StatusCode::OK);
        (header(&response, "age").to_owned(), header(&response, "cache-status").to_owned())
    };
    let first = had("").await;
    assert_eq!(first, ("0".into(), "vaultmux-mesh; fwd=miss".into()));
    tokio::time::advance(Duration::from_secs(7)).await;
    let (age, status) = had("").await;
    assert_eq!(age, "7");
    // The TTL is up to a tenth shorter than 60 s.
    let left = status.strip_prefix("vaultmux-mesh; hit; ttl=").and_then(|left| left.parse().ok());
    assert!(left.is_some_and(|left: u32| (46..=53).contains(&left)), "{status}");
    let fresh = had("?refresh=true").await;
    assert_eq!(fresh, ("0".into(), "vaultmux-mesh; fwd=request".into()));
    // The store does not answer: stale, and while it hangs again.
    tokio::time::advance(Duration::from_secs(70)).await;
    let (age, status) = had("").await;
    assert_eq!(age, "70");
    assert!(status.starts_with("vaultmux-mesh; hit; ttl=-"), "{status}");
    tokio::time::advance(Duration::from_secs(60)).await;
    let (_, status) = had("").await;
    assert!(status.ends_with("; detail=store-unavailable"), "{status}");
}

#[tokio::test]
async fn versions_are_told_without_values_to_those_who_may_read_them() {
    let client = Client::local();
    client.call("PUT", "/v1/secrets/prod/key", r#"{"value":"two"}"#).await;
    let (status, answer) = client.call("GET", "/v1/versions/prod%2Fkey", "").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["name"], &answer["backend"]), (&json!("prod/key"), &json!("local")));
    let versions = answer["versions"].as_array().expect("a list");
    let seen: Vec<_> =
        versions.iter().map(|it| (&it["version"], &it["stages"], &it["enabled"])).collect();
    let (latest, previous) = (json!(["latest"]), json!(["previous"]));
    let yes = json!(true);
    assert_eq!(seen, [(&json!("2"), &latest, &yes), (&json!("1"), &previous, &yes)]);
    assert!(versions[0]["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{answer}");
    assert!(!answer.to_string().contains("two"), "{answer}");
    for (path, status) in [
        ("/v1/versions/other/key", StatusCode::FORBIDDEN),
        ("/v1/versions/other/none", StatusCode::FORBIDDEN),
        // To use it is not to read it.
        ("/v1/versions/shared/stripe", StatusCode::FORBIDDEN),
        ("/v1/versions/prod/none", StatusCode::NOT_FOUND),
        ("/v1/versions/prod/../x", StatusCode::BAD_REQUEST),
        ("/v1/versions/prod/key?version=1", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(client.call("GET", path, "").await.0, status, "{path}");
    }
}
