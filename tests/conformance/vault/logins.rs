//! Every way to get a token, and to keep one.

use std::time::SystemTime;

use axum::{Router, routing::post};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

fn unix_time() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("past 1970").as_secs()
}

#[tokio::test]
async fn tokens_are_renewed_and_replaced() {
    let bao = Bao::start().await;
    let auth = bao.app_role("", json!({})).await;
    let backend = connect(VaultSettings { auth, ..bao.settings() });
    assert_eq!(bao.tokens().await.len(), 0, "nobody logs in before the first call");
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    let made = bao.tokens().await;
    assert_eq!(made.len(), 1);
    let before = backend.credentials_expire().expect("known");
    later(LOGIN * 2 / 3 + 1).await;
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    servers::until("renewed", async || {
        (backend.credentials_expire().expect("known") > before).then_some(())
    })
    .await;
    let renewed = bao.tokens().await;
    assert_eq!(renewed.len(), 1, "it is the same token");
    assert!(renewed[0]["last_renewal_time"].is_number(), "{renewed:?}");
    // As here everybody's clock is right, an expired one is gone there too.
    later(LOGIN + 1).await;
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    assert_eq!(bao.tokens().await.len(), 2);

    for token in bao.tokens().await {
        let accessor = json!({"accessor": token["accessor"]});
        bao.call("POST", "auth/token/revoke-accessor", accessor).await;
    }
    later(11).await;
    let calls = futures_util::future::join_all((0..20).map(|_| get(&backend, "db"))).await;
    assert!(calls.into_iter().all(|call| kind(call) == "not_found"));
    assert_eq!(bao.tokens().await.len(), 1, "one login for all");
}

#[tokio::test]
async fn batch_tokens_are_replaced_before_they_run_out() {
    let bao = Bao::start().await;
    let auth = bao.app_role("", json!({"token_type": "batch"})).await;
    let backend = connect(VaultSettings { auth, ..bao.settings() });
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    let before = backend.credentials_expire().expect("known");
    later(LOGIN * 2 / 3 + 1).await;
    assert_eq!(kind(get(&backend, "db").await), "not_found");
    servers::until("replaced", async || {
        (backend.credentials_expire().expect("known") > before).then_some(())
    })
    .await;
    assert_eq!(kind(get(&backend, "db").await), "not_found");
}

#[tokio::test]
async fn wrong_credentials_are_a_denial() {
    let bao = Bao::start().await;
    bao.app_role("", json!({})).await;
    let unknown = VaultAuth::AppRole {
        mount: "approle".to_owned(),
        role_id: "mesh".to_owned(),
        secret_id: Some(credential("canary-92e1")),
        secret_id_file: None,
    };
    let no_mount = VaultAuth::Kubernetes {
        mount: "nowhere".to_owned(),
        role: "mesh".to_owned(),
        token_file: bao.server.dir.path().join("log"),
    };
    for auth in [token("canary-92e1"), unknown, no_mount] {
        let backend = connect(VaultSettings { auth, ..bao.settings() });
        let error = get(&backend, "db").await.expect_err("denied");
        assert_eq!(error.kind(), "permission_denied");
        assert!(!format!("{error:?}").contains("canary-92e1"), "{error:?}");
    }
}

#[tokio::test]
async fn a_jwt_logs_in() {
    let bao = Bao::start().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    bao.call("POST", "sys/auth/jwt", json!({"type": "jwt"})).await;
    let config = json!({"jwt_validation_pubkeys": [key.public_key_pem()]});
    bao.call("POST", "auth/jwt/config", config).await;
    bao.policy("get", r#"path "secret/data/*" { capabilities = ["read"] }"#).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
        "bound_subject": "system:serviceaccount:vaultmux:vaultmux-mesh",
        "token_policies": ["get"], "token_ttl": LOGIN,
    });
    bao.call("POST", "auth/jwt/role/mesh", role).await;
    bao.call("POST", "secret/data/db", json!({"data": {"a": 1}})).await;
    let token_file = bao.server.dir.path().join("jwt");
    let auth = VaultAuth::Jwt {
        mount: "jwt".to_owned(),
        role: "mesh".to_owned(),
        token_file: token_file.clone(),
    };
    let sign = |audience: &str| {
        let now = unix_time();
        let claims = json!({
            "aud": audience, "iat": now, "exp": now + 300,
            "sub": "system:serviceaccount:vaultmux:vaultmux-mesh",
        });
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).expect("signed")
    };
    std::fs::write(&token_file, sign("elsewhere")).expect("written");
    let backend = connect(VaultSettings { auth, ..bao.settings() });
    assert_eq!(kind(get(&backend, "db").await), "permission_denied");
    // The kubelet has put another one there.
    std::fs::write(&token_file, sign("vault")).expect("written");
    later(6).await;
    assert_eq!(text(get(&backend, "db").await.expect("found")), r#"{"a":1}"#);
}

/// Vault asks the cluster about the token; here a cluster of one answer.
#[tokio::test]
async fn a_service_account_logs_in() {
    let review = async |asked: String| {
        let asked: Value = serde_json::from_str(&asked).unwrap_or_default();
        let token = asked["spec"]["token"].as_str().unwrap_or_default();
        let claims = token.split('.').nth(1).unwrap_or_default();
        let answer = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "status": {"authenticated": !claims.is_empty(), "audiences": asked["spec"]["audiences"], "user": {
                "username": "system:serviceaccount:vaultmux:vaultmux-mesh", "uid": "4711",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:vaultmux"],
            }},
        });
        ([("content-type", "application/json")], answer.to_string())
    };
    let router = Router::new().route("/apis/authentication.k8s.io/v1/tokenreviews", post(review));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let cluster = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let bao = Bao::start().await;
    let authority = rcgen::generate_simple_self_signed(["unused".to_owned()]).expect("made");
    bao.call("POST", "sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
    let config = json!({
        "kubernetes_host": cluster, "token_reviewer_jwt": "reviewer",
        "disable_local_ca_jwt": true, "kubernetes_ca_cert": authority.cert.pem(),
    });
    bao.call("POST", "auth/kubernetes/config", config).await;
    bao.policy("get", r#"path "secret/data/*" { capabilities = ["read"] }"#).await;
    for (role, namespace) in [("mesh", "vaultmux"), ("other", "elsewhere")] {
        let role_settings = json!({
            "bound_service_account_names": ["vaultmux-mesh"],
            "bound_service_account_namespaces": [namespace], "token_policies": ["get"],
        });
        bao.call("POST", &format!("auth/kubernetes/role/{role}"), role_settings).await;
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let now = unix_time();
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "iat": now, "exp": now + 300,
        "sub": "system:serviceaccount:vaultmux:vaultmux-mesh", "aud": ["vault"],
        "kubernetes.io": {
            "namespace": "vaultmux", "serviceaccount": {"name": "vaultmux-mesh", "uid": "4711"},
        },
    });
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    let jwt = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).expect("signed");
    let token_file = bao.server.dir.path().join("jwt");
    std::fs::write(&token_file, jwt).expect("written");
    bao.call("POST", "secret/data/db", json!({"data": {"a": 1}})).await;
    for (role, expected) in [("mesh", "ok"), ("other", "permission_denied")] {
        let auth = VaultAuth::Kubernetes {
            mount: "kubernetes".to_owned(),
            role: role.to_owned(),
            token_file: token_file.clone(),
        };
        let backend = connect(VaultSettings { auth, ..bao.settings() });
        let read = get(&backend, "db").await;
        assert_eq!(kind(read), expected, "{role}");
    }
}
