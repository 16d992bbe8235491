//! Issuers as a server on this machine: what they are sent, and what they may answer.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::signing::{
    ClientAuthentication, Endpoint, GitHubApp, InvalidEndpoint, IssueError, OAuth2, TokenScheme,
    github,
};

/// The RSA key of RFC 7515, appendix A.2, in both forms.
const PKCS1: &str = include_str!("rfc7515.pem");
const PKCS8: &str = include_str!("rfc7515-pkcs8.pem");

/// Answers in order what it is told, and remembers what it was sent.
struct Issuer {
    url: String,
    asked: Arc<Mutex<Vec<(http::request::Parts, String)>>>,
    answers: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
}

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header("location", "http://127.0.0.1:1/");
    answer.body(Full::new(body.into())).expect("valid")
}

impl Issuer {
    async fn start(answers: impl IntoIterator<Item = Response<Full<Bytes>>>) -> Self {
        // Fails only if there is one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let (record, next) = (Arc::clone(&asked), Arc::clone(&answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (record, next) = (Arc::clone(&record), Arc::clone(&next));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (record, next) = (Arc::clone(&record), Arc::clone(&next));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.expect("a whole body").to_bytes();
                        let body = String::from_utf8(body.to_vec()).expect("text");
                        record.lock().expect("no panic").push((head, body));
                        let answer = next.lock().expect("no panic").pop_front();
                        Ok::<_, Infallible>(answer.expect("no more is asked"))
                    }
                });
                tokio::spawn(async move {
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, asked, answers }
    }

    fn asked(&self) -> Vec<(http::request::Parts, String)> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

fn oauth2(issuer: &Issuer) -> OAuth2 {
    OAuth2 {
        endpoint: Endpoint::parse(&format!("{}/token", issuer.url), None).expect("valid"),
        client_id: template("s6BhdRkqt3"),
        client_secret: template("{{secret://local/key}}"),
        authentication: ClientAuthentication::Basic,
        scope: None,
        audience: None,
        resource: None,
        header: http::header::AUTHORIZATION,
    }
}

/// The answer of RFC 6749, section 5.1, of the type that RFC 6750 defines.
const GRANTED: &str =
    r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":3600}"#;

#[tokio::test]
async fn clients_show_themselves_as_rfc_6749_says() {
    let issuer = Issuer::start((0..4).map(|_| answer(200, GRANTED))).await;
    let tokens = AccessTokens::default();
    let request = get("api.test", "/", &[]);
    let post = OAuth2 { authentication: ClientAuthentication::Post, ..oauth2(&issuer) };
    let full = OAuth2 {
        client_id: template("a b:ü"),
        scope: Some("read write".to_owned()),
        audience: Some("https://api.test/".to_owned()),
        resource: Some("urn:x".to_owned()),
        ..oauth2(&issuer)
    };
    let rows = [
        // The example of section 2.3.1.
        (
            oauth2(&issuer),
            "gX1fBat3bV",
            Some("Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"),
            "grant_type=client_credentials",
        ),
        (
            post,
            "7Fjfp0ZBr1KtDRbnfVdmIw",
            None,
            "grant_type=client_credentials&client_id=s6BhdRkqt3\
             &client_secret=7Fjfp0ZBr1KtDRbnfVdmIw",
        ),
        // Encoded before it is base64: `a+b%3A%C3%BC:p%2Fw`.
        (
            full,
            "p/w\n",
            Some("Basic YStiJTNBJUMzJUJDOnAlMkZ3"),
            "grant_type=client_credentials&scope=read+write\
             &audience=https%3A%2F%2Fapi.test%2F&resource=urn%3Ax",
        ),
    ];
    for (oauth2, secret, authorization, form) in rows {
        let signer = Signer::OAuth2(oauth2);
        assert!(!signer.needs_body(&request));
        let secrets: [(&str, &[u8]); 1] = [("key", secret.as_bytes())];
        for _ in 0..3 {
            let signed = sign(&signer, &request, &secrets, &tokens).await.expect("a token");
            let expected = "Bearer 2YotnFZFEjr1zCsicMWpAA";
            assert_eq!(header(&signed, "authorization").as_deref(), Some(expected));
            let issued = signed.issued.expect("a token");
            assert_eq!(text(issued.value()), "2YotnFZFEjr1zCsicMWpAA");
        }
        let [(head, body)] = &issuer.asked()[..] else { panic!("asked once") };
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/token"));
        let sent = head.headers.get("authorization").map(|value| value.to_str().expect("text"));
        assert_eq!((sent, body.as_str()), (authorization, form));
        assert_eq!(head.headers["content-type"], "application/x-www-form-urlencoded");
    }
    // A rotated secret is another client to us: the issuer decides anew.
    let rotated: [(&str, &[u8]); 1] = [("key", b"rotated")];
    sign(&Signer::OAuth2(oauth2(&issuer)), &request, &rotated, &tokens).await.expect("a token");
    assert_eq!(issuer.asked().len(), 1);
    assert!(issuer.answers.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn answers_without_a_token_are_none() {
    let token = |token: &str, kind: &str, more: &str| {
        format!(r#"{{"access_token":"{token}","token_type":"{kind}"{more}}}"#)
    };
    let large = token(&"a".repeat(70_000), "Bearer", "");
    let long = token(&"a".repeat(17_000), "Bearer", "");
    let rows = [
        (
            answer(400, format!(r#"{{"error":"invalid_client","x":"{CANARY}"}}"#)),
            IssueError::Refused,
        ),
        (answer(401, CANARY), IssueError::Refused),
        (answer(403, ""), IssueError::Refused),
        (answer(429, ""), IssueError::Unavailable),
        (answer(500, GRANTED), IssueError::Unavailable),
        (answer(503, ""), IssueError::Unavailable),
        // The secret does not go where the answer points.
        (answer(302, ""), IssueError::NoToken),
        (answer(307, ""), IssueError::NoToken),
        (answer(201, GRANTED), IssueError::NoToken),
        (answer(200, ""), IssueError::NoToken),
        (answer(200, "[]"), IssueError::NoToken),
        (answer(200, r#"{"access_token":"a"}"#), IssueError::NoToken),
        (answer(200, token("a", "mac", "")), IssueError::NoToken),
        (answer(200, token("", "Bearer", "")), IssueError::NoToken),
        (answer(200, token("a b", "Bearer", "")), IssueError::NoToken),
        (answer(200, token(r"a\r\nx-admin: 1", "Bearer", "")), IssueError::NoToken),
        (answer(200, token("ä", "Bearer", "")), IssueError::NoToken),
        (answer(200, long), IssueError::NoToken),
        (answer(200, large), IssueError::Unavailable),
    ];
    for (number, (answer, expected)) in rows.into_iter().enumerate() {
        let issuer = Issuer::start([answer]).await;
        let signer = Signer::OAuth2(oauth2(&issuer));
        let secrets: [(&str, &[u8]); 1] = [("key", CANARY.as_bytes())];
        let tokens = AccessTokens::default();
        let got = sign(&signer, &get("api.test", "/", &[]), &secrets, &tokens).await;
        assert_eq!(got.map(|_| ()), Err(SigningError::Issue(expected)), "row {number}");
        assert_eq!(issuer.asked().len(), 1, "row {number}");
    }
    // Nobody is there.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let issuer = Issuer { url, ..Issuer::start([]).await };
    let secrets: [(&str, &[u8]); 1] = [("key", CANARY.as_bytes())];
    let signer = Signer::OAuth2(oauth2(&issuer));
    let got = sign(&signer, &get("api.test", "/", &[]), &secrets, &AccessTokens::default()).await;
    assert_eq!(got.map(|_| ()), Err(SigningError::Issue(IssueError::Unavailable)));
}

#[tokio::test]
async fn lifetimes_are_read_in_every_form() {
    let rows = [
        "",
        r#","expires_in":3600"#,
        r#","expires_in":"3600""#,
        r#","expires_in":3599.5"#,
        r#","expires_in":-1"#,
        r#","expires_in":1e300"#,
        r#","expires_in":null"#,
    ];
    for more in rows {
        let body = format!(r#"{{"access_token":"a","token_type":"bearer"{more}}}"#);
        let issuer = Issuer::start([answer(200, body)]).await;
        let secrets: [(&str, &[u8]); 1] = [("key", b"secret")];
        let signer = Signer::OAuth2(oauth2(&issuer));
        let tokens = AccessTokens::default();
        let signed = sign(&signer, &get("api.test", "/", &[]), &secrets, &tokens).await;
        assert_eq!(header(&signed.expect("a token"), "authorization").as_deref(), Some("Bearer a"));
    }
}

#[test]
fn secrets_are_not_sent_in_clear_text() {
    let rows = [
        ("http://issuer.test/token", Err(InvalidEndpoint::ClearText)),
        ("http://127.0.0.1.evil.test/token", Err(InvalidEndpoint::ClearText)),
        ("ftp://issuer.test/", Err(InvalidEndpoint::Url)),
        ("https://user:pass@issuer.test/", Err(InvalidEndpoint::Url)),
        ("https://issuer.test/?a", Err(InvalidEndpoint::Url)),
        ("https://issuer.test/#a", Err(InvalidEndpoint::Url)),
        ("issuer.test", Err(InvalidEndpoint::Url)),
        ("https://issuer.test/token", Ok(())),
        ("http://127.0.0.1:1/token", Ok(())),
        ("http://[::1]:1/token", Ok(())),
        ("http://localhost/token", Ok(())),
    ];
    for (address, expected) in rows {
        assert_eq!(Endpoint::parse(address, None).map(|_| ()), expected, "{address}");
    }
}

/// RFC 7515, appendix A.2: header, claims and signature.
#[test]
fn json_web_signatures_are_those_of_rfc_7515() {
    let claims =
        "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
    let expected = "eyJhbGciOiJSUzI1NiJ9\
        .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
        cGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
        .cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7\
        AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4\
        BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
        0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv\
        hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
        p0igcN_IoypGlUPQGe77Rw";
    for pem in [PKCS1, PKCS8] {
        let key = github::signing_key(pem).expect("a key");
        let unsigned = github::unsigned(r#"{"alg":"RS256"}"#, claims);
        assert_eq!(github::rs256(unsigned, &key).expect("signed").as_str(), expected);
    }
    for pem in ["", "key", &PKCS1.replace("MII", "AAA"), &PKCS1.replace("RSA PRIVATE", "PUBLIC")] {
        assert!(github::signing_key(pem).is_none());
    }
}

fn app(issuer: &Issuer) -> GitHubApp {
    GitHubApp {
        api: Endpoint::parse(&format!("{}/api/v3/", issuer.url), None).expect("valid"),
        app_id: "12345".to_owned(),
        private_key: template("{{secret://local/key}}"),
        installation_id: Some(678),
        repositories: vec!["one".to_owned()],
        permissions: vec![("contents".to_owned(), "read".to_owned())],
        scheme: TokenScheme::Bearer,
    }
}

fn claims(jwt: &str) -> serde_json::Value {
    let claims = jwt.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON")
}

#[tokio::test]
async fn an_app_gets_its_installations_token() {
    let granted = r#"{"token":"ghs_16C7e42F292c6912E7","expires_at":"2023-11-14T23:13:20Z"}"#;
    let issuer = Issuer::start((0..2).map(|_| answer(201, granted))).await;
    let request = get("api.github.com", "/repos/o/one", &[]);
    let secrets: [(&str, &[u8]); 1] = [("key", PKCS1.as_bytes())];
    let tokens = AccessTokens::default();
    for _ in 0..2 {
        let signed = sign(&Signer::GitHubApp(app(&issuer)), &request, &secrets, &tokens).await;
        let value = header(&signed.expect("a token"), "authorization");
        assert_eq!(value.as_deref(), Some("Bearer ghs_16C7e42F292c6912E7"));
    }
    let [(head, body)] = &issuer.asked()[..] else { panic!("asked once") };
    assert_eq!(head.uri.path(), "/api/v3/app/installations/678/access_tokens");
    assert_eq!(head.headers["accept"], "application/vnd.github+json");
    assert_eq!(body, r#"{"permissions":{"contents":"read"},"repositories":["one"]}"#);
    let jwt = head.headers["authorization"].to_str().expect("text");
    let jwt = jwt.strip_prefix("Bearer ").expect("a bearer token");
    let now = 1_700_000_000_u64;
    let expected = serde_json::json!({"iat": now - 60, "exp": now + 480, "iss": "12345"});
    assert_eq!(claims(jwt), expected);

    // Git wants it as a password.
    let git = GitHubApp { scheme: TokenScheme::Basic, installation_id: Some(9), ..app(&issuer) };
    let signed = sign(&Signer::GitHubApp(git), &request, &secrets, &tokens).await;
    let value = header(&signed.expect("a token"), "authorization").expect("set");
    assert_eq!(value, "Basic eC1hY2Nlc3MtdG9rZW46Z2hzXzE2QzdlNDJGMjkyYzY5MTJFNw==");
}

#[tokio::test]
async fn an_app_without_installation_shows_its_own_token() {
    let issuer = Issuer::start([]).await;
    let own = GitHubApp {
        installation_id: None,
        repositories: vec![],
        permissions: vec![],
        ..app(&issuer)
    };
    let secrets: [(&str, &[u8]); 1] = [("key", PKCS8.as_bytes())];
    let request = get("api.github.com", "/app", &[]);
    let signed = sign(&Signer::GitHubApp(own), &request, &secrets, &AccessTokens::default()).await;
    let value = header(&signed.expect("a token"), "authorization").expect("set");
    assert_eq!(claims(value.strip_prefix("Bearer ").expect("bearer"))["iss"], "12345");
    assert!(issuer.asked().is_empty());
}

#[tokio::test]
async fn apps_that_github_refuses_get_nothing() {
    let unfit = SigningError::Unfit(crate::fixture::reference("secret://local/key"));
    let rows = [
        (Some(answer(401, "{}")), PKCS1, SigningError::Issue(IssueError::Refused)),
        (Some(answer(404, "{}")), PKCS1, SigningError::Issue(IssueError::Refused)),
        (Some(answer(502, "")), PKCS1, SigningError::Issue(IssueError::Unavailable)),
        (Some(answer(200, "{}")), PKCS1, SigningError::Issue(IssueError::NoToken)),
        (
            Some(answer(201, r#"{"token":"a","expires_at":"soon"}"#)),
            PKCS1,
            SigningError::Issue(IssueError::NoToken),
        ),
        (None, "canary-is-no-key", unfit),
    ];
    for (answer, key, expected) in rows {
        let issuer = Issuer::start(answer).await;
        let secrets: [(&str, &[u8]); 1] = [("key", key.as_bytes())];
        let request = get("api.github.com", "/", &[]);
        let tokens = AccessTokens::default();
        let got = sign(&Signer::GitHubApp(app(&issuer)), &request, &secrets, &tokens).await;
        assert_eq!(got.map(|_| ()), Err(expected));
    }
}
