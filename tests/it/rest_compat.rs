//! What clients of vaultmux-server see of the running program: its behaviour row by row,
//! and where ours differs on purpose.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Service, sized};

const POLICY: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: all}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api]}]
  to: [{secrets: {names: ["*"], verbs: ["*"]}}]
"#;

async fn start(secrets: &str) -> Service {
    let config = format!(
        "mode: development\n\
         listeners:\n  grpc: {{address: '127.0.0.1:0'}}\n  rest: {{address: '127.0.0.1:0'}}\n  \
         admin: {{address: '127.0.0.1:0'}}\n\
         identity: {{local: {{namespace: prod, service_account: api}}}}\n\
         backends: {{local: {{type: memory, secrets: {secrets}}}}}\n\
         policies: [policies/]\n"
    );
    Service::start(&[("config.yaml", &config), ("policies/all.yaml", POLICY)]).await
}

async fn call(client: &Client, method: &str, path: &str, body: &str) -> Answer {
    client.send(method, "vaultmux.test", path, &[], sized(body.to_owned())).await
}

/// What is expected of an answer.
enum Is {
    /// This JSON.
    Json(Value),
    /// A problem with this `error`.
    Error(&'static str),
    /// A problem whose `error` begins so.
    Begins(&'static str),
    /// A problem of any text.
    AnyError,
    /// No body.
    Empty,
}

/// A row of the reference: its number, the request, the status, and the body. `Differs`
/// says how vaultmux-server answers where we do not.
type Row = (&'static str, &'static str, String, String, u16, Is, Differs);

enum Differs {
    No,
    /// In this.
    From(&'static str),
}

fn name(name: &str) -> String {
    json!({"name": name, "value": "v"}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_reference_hold() {
    use Differs::{From, No};
    let at = |name: &str| format!("/v1/secrets/{name}");
    let all = || "/v1/secrets".to_owned();
    let none = String::new;
    let traversal = "secret name cannot contain '..' (path traversal)";
    let characters = "secret name can only contain alphanumeric characters";
    let exists = "secret already exists";
    let missing = "secret not found";
    let text_404 = "404 as text";
    let long = |length: usize| "x".repeat(length);
    let value = |value: &str| json!({ "value": value }).to_string();
    let rows: Vec<Row> = vec![
        ("L1", "GET", all(), none(), 200, Is::Json(json!({"secrets": []})), No),
        ("C1", "POST", all(), name("new-secret"), 201, Is::Json(json!({"name": "new-secret"})), No),
        ("C4", "POST", all(), name("new-secret"), 409, Is::Error(exists), No),
        ("L2", "GET", all(), none(), 200, Is::Json(json!({"secrets": ["new-secret"]})), No),
        ("G2", "GET", at("nonexistent"), none(), 404, Is::Error(missing), No),
        ("G4", "GET", at("New-Secret"), none(), 404, Is::Error(missing), No),
        ("C2", "POST", all(), r#"{"value":"v"}"#.into(), 400, Is::AnyError, No),
        ("C3", "POST", all(), r#"{"name":"a"}"#.into(), 400, Is::AnyError, No),
        ("C7", "POST", all(), "{}".into(), 400, Is::AnyError, No),
        ("C7", "POST", all(), "null".into(), 400, Is::AnyError, No),
        ("C7", "POST", all(), "[]".into(), 400, Is::AnyError, No),
        ("C7", "POST", all(), r#""x""#.into(), 400, Is::AnyError, No),
        ("C7", "POST", all(), none(), 400, Is::Error("request body is required"), No),
        ("C7", "POST", all(), "{bad".into(), 400, Is::Begins("request body is not valid JSON"), No),
        ("C8", "POST", all(), r#"{"name":"","value":"v"}"#.into(), 400, Is::AnyError, No),
        ("C8", "POST", all(), r#"{"name":null,"value":"v"}"#.into(), 400, Is::AnyError, No),
        ("C8", "POST", all(), r#"{"name":"a","value":""}"#.into(), 400, Is::AnyError, No),
        ("C8", "POST", all(), r#"{"name":"a","value":null}"#.into(), 400, Is::AnyError, No),
        ("C9", "POST", all(), r#"{"name":"a","value":1}"#.into(), 400, Is::AnyError, No),
        ("C9", "POST", all(), r#"{"name":{},"value":"v"}"#.into(), 400, Is::AnyError, No),
        (
            "C10",
            "POST",
            all(),
            r#"{"name":"blank","value":" "}"#.into(),
            201,
            Is::Json(json!({"name": "blank"})),
            No,
        ),
        (
            "C11",
            "POST",
            all(),
            r#"{"name":"a","value":"v","note":"x"}"#.into(),
            400,
            Is::Begins("request body has a member that is not known"),
            From("201"),
        ),
        ("C13", "POST", all(), "name=a&value=v".into(), 400, Is::AnyError, No),
        (
            "C15",
            "POST",
            all(),
            name(&long(512)),
            201,
            Is::Json(json!({"name": long(512)})),
            From("400 from 256 bytes on: 512 is what the store takes"),
        ),
        (
            "C15",
            "POST",
            all(),
            name(&long(513)),
            400,
            Is::Error("secret name cannot exceed 512 characters"),
            No,
        ),
        (
            "C15",
            "POST",
            all(),
            name(&"é".repeat(257)),
            400,
            Is::Error("secret name cannot exceed 512 characters"),
            No,
        ),
        (
            "C16",
            "POST",
            all(),
            r#"{"name":"a","value":"v"} x"#.into(),
            400,
            Is::Begins("request body is not valid JSON: something follows it"),
            From("201"),
        ),
        (
            "C16",
            "POST",
            all(),
            r#"{"NAME":"a","VALUE":"v"}"#.into(),
            400,
            Is::AnyError,
            From("201"),
        ),
        (
            "C16",
            "POST",
            all(),
            r#"{"name":"a","value":"v","value":"w"}"#.into(),
            400,
            Is::Begins("request body has a member twice"),
            From("201, the last one counts"),
        ),
        (
            "C16",
            "POST",
            all(),
            r#"{"name":"a","value":"\ud800"}"#.into(),
            400,
            Is::Begins("request body is not valid JSON: a string has half of a surrogate pair"),
            From("201 with U+FFFD"),
        ),
        (
            "U1",
            "PUT",
            at("new-secret"),
            value("updated-value"),
            200,
            Is::Json(json!({"name": "new-secret", "version": "2"})),
            From("no version"),
        ),
        ("U2", "PUT", at("none"), "{}".into(), 400, Is::AnyError, No),
        ("U3", "PUT", at("none"), value("v"), 404, Is::Error(missing), No),
        ("U3", "GET", at("none"), none(), 404, Is::Error(missing), No),
        (
            "U5",
            "PUT",
            at("a%5Cb"),
            "{bad".into(),
            400,
            Is::Error(r"secret name cannot contain '\' (path separator)"),
            No,
        ),
        ("D1", "DELETE", at("new-secret"), none(), 204, Is::Empty, No),
        ("D1", "GET", at("new-secret"), none(), 404, Is::Error(missing), No),
        ("D2", "DELETE", at("new-secret"), none(), 404, Is::Error(missing), No),
        ("N2", "POST", all(), name("../etc/passwd"), 400, Is::Error(traversal), No),
        ("N2", "POST", all(), name("../../secret"), 400, Is::Error(traversal), No),
        ("N2", "POST", all(), name("foo/../bar"), 400, Is::Error(traversal), No),
        (
            "N3",
            "POST",
            all(),
            name(r"foo\bar"),
            400,
            Is::Error(r"secret name cannot contain '\' (path separator)"),
            No,
        ),
        (
            "N4",
            "POST",
            all(),
            name("my/secret"),
            201,
            Is::Json(json!({"name": "my/secret"})),
            From("400: names have parts here"),
        ),
        ("N5", "POST", all(), name("my secret"), 400, Is::Begins(characters), No),
        ("N5", "POST", all(), name("secret#123"), 400, Is::Begins(characters), No),
        ("N5", "POST", all(), name("secret$var"), 400, Is::Begins(characters), No),
        ("N5", "POST", all(), name("secret%20"), 400, Is::Begins(characters), No),
        ("N5", "POST", all(), name("secret*"), 400, Is::Begins(characters), No),
        (
            "N5",
            "POST",
            all(),
            name("my.secret"),
            201,
            Is::Json(json!({"name": "my.secret"})),
            From("400: the store takes it"),
        ),
        (
            "N5",
            "POST",
            all(),
            name("secret@123"),
            201,
            Is::Json(json!({"name": "secret@123"})),
            From("400: the store takes it"),
        ),
        (
            "N6",
            "GET",
            at("a.b"),
            none(),
            404,
            Is::Error(missing),
            From("400: the store takes such names"),
        ),
        ("N6", "GET", at("a%20b"), none(), 400, Is::Begins(characters), No),
        ("N6", "GET", at("a%00b"), none(), 400, Is::Begins(characters), No),
        ("N6", "GET", at("%C3%A9"), none(), 400, Is::Begins(characters), No),
        ("N6", "GET", at("a;b"), none(), 400, Is::Begins(characters), No),
        ("N6", "GET", at("a:b"), none(), 400, Is::Begins(characters), No),
        ("N6", "POST", all(), name("a\n"), 400, Is::Begins(characters), No),
        ("N6", "POST", all(), name("a\0"), 400, Is::Begins(characters), No),
        ("N7", "GET", at(".."), none(), 400, Is::Error(traversal), No),
        ("N7", "GET", at("%2e%2e"), none(), 400, Is::Error(traversal), No),
        (
            "N8",
            "GET",
            at("a%5Cb"),
            none(),
            400,
            Is::Error(r"secret name cannot contain '\' (path separator)"),
            No,
        ),
        (
            "N9",
            "GET",
            at("my%2Fsecret"),
            none(),
            200,
            Is::Json(
                json!({"name": "my/secret", "value": "v", "backend": "local", "version": "1"}),
            ),
            From("404"),
        ),
        (
            "N9",
            "GET",
            at("my/secret"),
            none(),
            200,
            Is::Json(
                json!({"name": "my/secret", "value": "v", "backend": "local", "version": "1"}),
            ),
            From("404"),
        ),
        ("N9", "GET", at("my//secret"), none(), 400, Is::AnyError, From("404")),
        (
            "N10",
            "GET",
            at(&long(513)),
            none(),
            400,
            Is::Error("secret name cannot exceed 512 characters"),
            No,
        ),
        ("N11", "GET", at("%zz"), none(), 400, Is::AnyError, No),
        (
            "H1",
            "GET",
            "/health".into(),
            none(),
            200,
            Is::Json(json!({"backend": "local", "status": "healthy"})),
            No,
        ),
        ("X1", "GET", "/unknown".into(), none(), 404, Is::Error("no such path"), From(text_404)),
        ("X1", "GET", "/metrics".into(), none(), 404, Is::Error("no such path"), From(text_404)),
        (
            "X1",
            "GET",
            "//v1/secrets".into(),
            none(),
            404,
            Is::Error("no such path"),
            From(text_404),
        ),
        ("X1", "GET", "/V1/secrets".into(), none(), 404, Is::Error("no such path"), From(text_404)),
        ("X1", "PATCH", at("a"), none(), 405, Is::Error("method not allowed"), From(text_404)),
        ("X1", "POST", at("a"), none(), 405, Is::Error("method not allowed"), From(text_404)),
        ("X1", "DELETE", all(), none(), 405, Is::Error("method not allowed"), From(text_404)),
        ("X1", "TRACE", at("a"), none(), 405, Is::Error("method not allowed"), From(text_404)),
        ("X1", "HEAD", at("my.secret"), none(), 200, Is::Empty, From(text_404)),
        ("X1", "OPTIONS", at("a"), none(), 204, Is::Empty, From(text_404)),
        (
            "X2",
            "GET",
            "/v1/secrets/".into(),
            none(),
            200,
            Is::Json(
                json!({"secrets": ["blank", "my.secret", "my/secret", "secret@123", long(512)]}),
            ),
            From("301"),
        ),
        (
            "X2",
            "POST",
            "/v1/secrets/".into(),
            name("slash"),
            201,
            Is::Json(json!({"name": "slash"})),
            From("307"),
        ),
    ];
    let service = start("{}").await;
    let client = service.rest_client();
    for (number, method, path, body, status, is, differs) in rows {
        let row = match differs {
            No => format!("{number}: {method} {path} {body}"),
            From(theirs) => format!("{number} (vaultmux-server: {theirs}): {method} {path} {body}"),
        };
        let answer = call(&client, method, &path, &body).await;
        assert_eq!(answer.status, status, "{row}: {}", answer.text());
        // S1 to S5.
        for (header, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("x-xss-protection", "1; mode=block"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(header), value, "{row}");
        }
        assert!(!answer.header("x-request-id").is_empty(), "{row}");
        if status == 201 {
            // vaultmux-server has none.
            let place = answer.header("location").to_owned();
            assert_eq!(
                place,
                format!("/v1/secrets/{}", answer.json::<Value>()["name"].as_str().expect("a name")),
                "{row}"
            );
            assert_eq!(call(&client, "GET", &place, "").await.status, 200, "{row}");
        }
        match is {
            Is::Json(mut expected) => {
                // S6.
                assert_eq!(
                    answer.header("content-type"),
                    "application/json; charset=utf-8",
                    "{row}"
                );
                let found: Value = answer.json();
                if let Some(made) = found.get("created_at") {
                    expected["created_at"] = made.clone();
                }
                assert_eq!(found, expected, "{row}");
            }
            Is::Empty => {
                assert_eq!(answer.text(), "", "{row}");
                let counted = answer.headers.contains_key("content-length");
                assert_eq!(counted, method == "HEAD", "{row}");
            }
            Is::Error(_) | Is::Begins(_) | Is::AnyError => {
                assert_eq!(answer.header("content-type"), "application/problem+json", "{row}");
                let found: Value = answer.json();
                let error = found["error"].as_str().expect("a string");
                match is {
                    Is::Error(expected) => assert_eq!(error, expected, "{row}"),
                    Is::Begins(start) => assert!(error.starts_with(start), "{row}: {error}"),
                    Is::Json(_) | Is::AnyError | Is::Empty => {}
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_back() {
    let service = start("{test-secret: test-value, b: x, c: x}").await;
    let client = service.rest_client();
    for path in ["/v1/secrets/test-secret", "/v1/secrets/test-secret?x=1"] {
        // G1 and G5.
        let read: Value = call(&client, "GET", path, "").await.json();
        let seen = (&read["name"], &read["value"]);
        assert_eq!(seen, (&json!("test-secret"), &json!("test-value")), "G1, G5: {path}");
    }
    let listed: Value = call(&client, "GET", "/v1/secrets", "").await.json();
    assert_eq!(listed, json!({"secrets": ["b", "c", "test-secret"]}), "L3");
    // C14: also what HTML and JSON would escape.
    let value = "<a>&é\0\u{2028}\u{1F511}";
    let body = json!({"name": "odd", "value": value}).to_string();
    assert_eq!(call(&client, "POST", "/v1/secrets", &body).await.status, 201);
    let read: Value = call(&client, "GET", "/v1/secrets/odd", "").await.json();
    assert_eq!(read["value"], value, "C14");
    // C12.
    let text = [("content-type", "text/plain")];
    let body = sized(name("as-text"));
    let made = client.send("POST", "vaultmux.test", "/v1/secrets", &text, body).await;
    assert_eq!(made.status, 201, "C12");
    // N1.
    let long = "x".repeat(255);
    for name in
        ["my-secret", "secret_123", "MySecret", "a", "-", "_", "123", "---___123___---", &long]
    {
        let body = self::name(name);
        let answer = call(&client, "POST", "/v1/secrets", &body).await;
        assert_eq!(answer.status, 201, "N1: {name}");
        let answer = call(&client, "GET", &format!("/v1/secrets/{name}"), "").await;
        assert_eq!(answer.status, 200, "N1: {name}");
    }
    let body = json!({"name": "named", "value": "v", "backend": "local"}).to_string();
    let made = call(&client, "POST", "/v1/secrets", &body).await;
    assert_eq!(made.header("location"), "/v1/secrets/named?backend=local");
    // Q5.
    let body = json!({"name": "binary", "value_base64": "/wD+"}).to_string();
    assert_eq!(call(&client, "POST", "/v1/secrets", &body).await.status, 201, "Q5");
    let read: Value = call(&client, "GET", "/v1/secrets/binary", "").await.json();
    assert_eq!((&read["value_base64"], &read["encoding"]), (&json!("/wD+"), &json!("base64")));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_come_at_once_one_is_served() {
    let service = start("{old: x}").await;
    let client = service.rest_client();
    let body = name("new");
    let made = join_all((0..4).map(|_| call(&client, "POST", "/v1/secrets", &body))).await;
    let mut made: Vec<_> = made.iter().map(|answer| answer.status).collect();
    made.sort_unstable();
    assert_eq!(made, [201, 409, 409, 409], "Q1");
    let gone = join_all((0..3).map(|_| call(&client, "DELETE", "/v1/secrets/old", ""))).await;
    let mut gone: Vec<_> = gone.iter().map(|answer| answer.status).collect();
    gone.sort_unstable();
    assert_eq!(gone, [204, 404, 404], "Q2");
}
