//! The program with the roles that `docs/identity.md` gives it and no others: whom it
//! knows by their tokens, and what it sees of deletions.
//!
//! What became of a token is read from the program's own metrics.

use std::{collections::BTreeMap, fs, path::PathBuf};

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse,
    attribute_context::{HttpRequest, Request},
    authorization_client::AuthorizationClient,
    check_response::HttpResponse,
};
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tonic::{Code, transport::Endpoint};

use super::{ACCOUNTS, PODS, uid};
use crate::{
    apiserver::ApiServer,
    harness::{
        Service,
        mint::{Mint, now},
    },
    servers::{documented, until},
};

const PAGE: &str = "docs/identity.md";
const SERVERS_OWN: &str = "https://kubernetes.default.svc";
/// Who the documented roles are for.
const MESH: &str =
    "{apiVersion: v1, kind: ServiceAccount, metadata: {name: vaultmux-mesh, namespace: vaultmux}}";
/// Anyone may read `any`; `bound` takes a token that is bound to a pod, and so does the
/// application behind Envoy.
const POLICIES: &str = r#"apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: anyone}
spec:
  effect: Allow
  from: [{namespaces: [payments]}]
  to: [{secrets: {names: [any], verbs: [get]}}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: pods}
spec:
  effect: Allow
  from: [{serviceAccounts: [payments/api], require: [token], boundTo: pod}]
  to:
    - secrets: {names: [bound], verbs: [get]}
    - http: {hosts: [app.test], methods: [GET], paths: ["*"]}
"#;

/// A cluster in which the program has a service account, and roles or not.
struct Cluster {
    api: ApiServer,
    kubeconfig: PathBuf,
    /// The program's own token.
    token: String,
}

/// One test for all, so that the servers are started once and ended with it.
#[tokio::test(flavor = "multi_thread")]
async fn callers_are_known_by_their_tokens_with_the_documented_roles() {
    let mut cluster = Cluster::start().await;
    let (review, revocation) = (Role::of("token-review"), Role::of("revocation"));
    cluster.grant(&review).await;
    cluster.grant(&revocation).await;
    a_token_proves_what_the_cluster_says(&cluster).await;
    what_is_deleted_is_refused_at_once(&cluster).await;
    a_thousand_callers_with_one_token_are_one_review(&cluster).await;
    a_new_key_is_learnt_and_the_old_one_stays(&mut cluster).await;
    cluster.revoke(&revocation).await;
    without_a_watch_verdicts_hold_for_their_time(&cluster).await;
    cluster.revoke(&review).await;
    without_reviews_nobody_is_known(&cluster).await;
    keys_alone_take_no_role_and_see_no_deletion(&cluster).await;
    without_discovery_keys_are_missing(&cluster).await;
    cluster.grant(&review).await;
    an_outage_is_no_verdict(cluster).await;
}

/// A documented role, and what shows that it is there.
struct Role {
    yaml: String,
    proof: (Method, &'static str, Value),
}

// === impl Role ===

impl Role {
    fn of(name: &str) -> Self {
        let question = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
            "spec": {"token": "none"}});
        let proof = match name {
            "token-review" => {
                (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", question)
            }
            _ => (Method::GET, "/api/v1/pods?limit=1", Value::Null),
        };
        Self { yaml: documented(PAGE, &format!("rbac-{name}.yaml")), proof }
    }
}

// === impl Cluster ===

impl Cluster {
    async fn start() -> Self {
        let api = ApiServer::start().await;
        for namespace in ["payments", "vaultmux"] {
            api.create_namespace(namespace).await;
        }
        api.apply(MESH).await;
        let token = api.token("vaultmux", "vaultmux-mesh", &[]).await;
        let kubeconfig = api.kubeconfig_of("mesh", &token);
        Self { api, kubeconfig, token }
    }

    async fn grant(&self, role: &Role) {
        self.api.apply(&role.yaml).await;
        self.settles(role, true).await;
    }

    async fn revoke(&self, role: &Role) {
        self.api.remove(&role.yaml).await;
        self.settles(role, false).await;
    }

    /// The authoriser learns of roles some moments after they were made or removed.
    async fn settles(&self, role: &Role, allowed: bool) {
        let (method, path, body) = &role.proof;
        until(path, async || {
            let kind = "application/json";
            let (status, _) = self.api.call(&self.token, method.clone(), path, kind, body).await;
            (allowed == (status != 403)).then_some(())
        })
        .await;
    }

    /// The program, with these settings of `identity.service_account_tokens`.
    async fn service(&self, settings: &str) -> Service {
        let config = format!(
            "mode: development\nlisteners:\n  grpc: {{address: '127.0.0.1:0'}}\n  \
             rest: {{address: '127.0.0.1:0'}}\n  admin: {{address: '127.0.0.1:0'}}\n\
             identity:\n  service_account_tokens: {{audiences: [vaultmux], kubeconfig: {}, \
             {settings}}}\n\
             backends: {{local: {{type: memory, secrets: {{any: v1, bound: v1}}}}}}\n\
             policies: [policies.yaml]\n",
            self.kubeconfig.display()
        );
        Service::start(&[("config.yaml", &config), ("policies.yaml", POLICIES)]).await
    }

    async fn account(&self, name: &str) -> Value {
        self.api.admin(Method::POST, ACCOUNTS, json!({"metadata": {"name": name}})).await
    }

    /// A token of `payments/api`, bound to nothing.
    async fn free(&self, audiences: &[&str]) -> String {
        self.api.token("payments", "api", audiences).await
    }

    /// A pod of `payments/api` that never runs, and a token that is bound to it.
    async fn pod(&self, name: &str) -> String {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "serviceAccountName": "api", "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "i"}],
            },
        });
        let pod = self.api.admin(Method::POST, PODS, pod).await;
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid(&pod)});
        let spec = json!({"spec": {
            "audiences": ["vaultmux"], "expirationSeconds": 3600, "boundObjectRef": bound,
        }});
        let made = self.api.admin(Method::POST, &format!("{ACCOUNTS}/api/token"), spec).await;
        made["status"]["token"].as_str().expect("a token").to_owned()
    }

    async fn delete(&self, path: &str) {
        self.api.admin(Method::DELETE, path, Value::Null).await;
    }

    /// The token with other claims, signed by the cluster's own key: what the API server
    /// would have issued at another time or to somebody else.
    fn issued_otherwise(&self, token: &str, changes: &[(&str, Value)]) -> String {
        let (header, mut claims) = (decoded(token, 0), decoded(token, 1));
        for (claim, value) in changes {
            claims[*claim] = value.clone();
        }
        let pem = fs::read(self.api.signing_key()).expect("the server's key");
        let PrivateKeyDer::Pkcs1(key) = PrivateKeyDer::from_pem_slice(&pem).expect("PEM") else {
            panic!("not an RSA key");
        };
        let mut same = Header::new(Algorithm::RS256);
        same.kid = header["kid"].as_str().map(str::to_owned);
        let key = EncodingKey::from_rsa_der(key.secret_pkcs1_der());
        jsonwebtoken::encode(&same, &claims, &key).expect("signed")
    }
}

/// Header or claims of a token.
fn decoded(token: &str, part: usize) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let part = token.split('.').nth(part).expect("a part");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

/// How often tokens met with each fate.
async fn fates(service: &Service) -> BTreeMap<String, String> {
    let metrics = service.admin_client().get("admin", "/metrics").await.text();
    let start = "vaultmux_token_verifications_total{result=\"";
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(start)?.split_once("\"} "));
    lines.map(|(fate, count)| (fate.to_owned(), count.to_owned())).collect()
}

/// The status for a caller with this token, and what became of the token.
async fn ask(service: &Service, token: &str, secret: &str) -> (u16, String) {
    let before = fates(service).await;
    let status = get(service, token, secret).await;
    let after = fates(service).await.into_iter();
    let changed = after.filter(|(fate, count)| before.get(fate) != Some(count));
    (status, changed.map(|(fate, _)| fate).collect::<Vec<_>>().join(" "))
}

async fn get(service: &Service, token: &str, secret: &str) -> u16 {
    let headers = [("authorization", &*format!("Bearer {token}"))];
    let path = format!("/v1/secrets/{secret}");
    service.rest_client().request("GET", "vaultmux.test", &path, &headers).await.status
}

/// What `ext_authz` answers for a request with this token.
async fn check(service: &Service, token: &str) -> Result<CheckResponse, Code> {
    let endpoint = Endpoint::from_shared(format!("http://{}", service.grpc())).expect("a URL");
    let channel = endpoint.connect().await.expect("connected");
    let http = HttpRequest {
        method: "GET".into(),
        host: "app.test".into(),
        path: "/".into(),
        headers: [("authorization".to_owned(), format!("Bearer {token}"))].into(),
        ..HttpRequest::default()
    };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let request = CheckRequest { attributes: Some(attributes) };
    let answer = AuthorizationClient::new(channel).check(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.code())
}

fn status(answer: Result<CheckResponse, Code>) -> Result<i32, Code> {
    answer.map(|answer| answer.status.expect("a status").code)
}

fn was(status: u16, fate: &str) -> (u16, String) {
    (status, fate.to_owned())
}

async fn a_token_proves_what_the_cluster_says(cluster: &Cluster) {
    let settings = format!("verify: both, refuse_audiences: ['{SERVERS_OWN}']");
    let service = cluster.service(&settings).await;
    cluster.account("api").await;
    cluster.account("web").await;
    let bound = cluster.pod("api-0").await;
    cluster.api.apply(&documented(PAGE, "pod.yaml")).await;
    let free = cluster.free(&["vaultmux"]).await;
    let web = cluster.api.token("payments", "web", &["vaultmux"]).await;
    let own = cluster.free(&[]).await;
    assert_eq!(decoded(&own, 1)["aud"], json!([SERVERS_OWN]), "what it issues by default");
    let otherwise = |changes: &[(&str, Value)]| cluster.issued_otherwise(&free, changes);
    let (hour, year) = (3600, 365 * 24 * 3600);
    let past = |claim, ago| (claim, json!(now() - ago));
    let over = otherwise(&[past("iat", 2 * hour), past("nbf", 2 * hour), past("exp", hour)]);
    let long = otherwise(&[("exp", json!(now() + year))]);
    let early = otherwise(&[("nbf", json!(now() + hour)), ("exp", json!(now() + 2 * hour))]);
    let sub = ("sub", json!("system:serviceaccount:payments:web"));
    let torn = otherwise(std::slice::from_ref(&sub));
    let mut own_claims = decoded(&free, 1)["kubernetes.io"].clone();
    own_claims["serviceaccount"]["name"] = json!("web");
    let posing = otherwise(&[sub, ("kubernetes.io", own_claims)]);
    let elsewhere = otherwise(&[("iss", json!("https://elsewhere"))]);
    let id = decoded(&free, 0)["kid"].as_str().expect("a key id").to_owned();
    let resigned = |id: &str| {
        let header = json!({"alg": "RS256", "kid": id}).to_string();
        Mint::rsa("theirs").sign(&header, &decoded(&free, 1).to_string())
    };
    for (token, secret, expected, what) in [
        ("", "any", was(401, ""), "none"),
        (cluster.api.admin_token, "any", was(401, "foreign"), "the administrator's, no JWT"),
        (&cluster.free(&["other"]).await, "any", was(401, "audience"), "for others"),
        (&own, "any", was(401, "audience"), "for the API server"),
        (&cluster.free(&["vaultmux", SERVERS_OWN]).await, "any", was(401, "audience"), "both"),
        (&over, "any", was(401, "expired"), "over"),
        (&early, "any", was(401, "not_yet_valid"), "of the future"),
        (&long, "any", was(401, "lifetime"), "for a year"),
        (&resigned(&id), "any", was(401, "signature"), "of another key"),
        (&resigned("other"), "any", was(401, "unknown_key"), "of a key of another id"),
        (&elsewhere, "any", was(401, "issuer"), "of another issuer"),
        (&torn, "any", was(401, "malformed"), "whose claims differ"),
        // Only the API server knows that the uid is of somebody else.
        (&posing, "any", was(401, "unauthenticated"), "of an account with another uid"),
        (&web, "bound", was(403, "verified"), "of another service account"),
        (&free, "bound", was(403, "verified"), "not bound to a pod"),
        (&otherwise(&[("exp", json!(now() + 1800))]), "any", was(200, "verified"), "re-signed"),
        (&free, "any", was(200, "cached"), "good"),
        (&cluster.free(&["other", "vaultmux"]).await, "any", was(200, "verified"), "and other"),
        (&bound, "bound", was(200, "verified"), "bound to a pod"),
    ] {
        assert_eq!(ask(&service, token, secret).await, expected, "{what}");
    }

    let answer = check(&service, &bound).await.expect("answered");
    let Some(HttpResponse::OkResponse(allowed)) = answer.http_response else {
        panic!("denied: {:?}", answer.status.map(|status| status.code));
    };
    assert!(allowed.headers_to_remove.iter().any(|name| name == "authorization"));
    for (token, code) in [(&free, Code::PermissionDenied), (&over, Code::Unauthenticated)] {
        assert_eq!(status(check(&service, token).await), Ok(code as i32));
    }
    for line in service.logs().into_iter().chain(service.stdout()) {
        for token in [&bound, &free, &over, &own] {
            let signature = token.rsplit('.').next().expect("a signature");
            assert!(!line.contains(signature), "a token is in the log");
        }
    }
}

async fn watches(service: &Service) {
    for kind in ["pods", "serviceaccounts"] {
        service.logged(&["deletions revoke tokens at once", kind]).await;
    }
}

async fn what_is_deleted_is_refused_at_once(cluster: &Cluster) {
    // Longer than the test takes: no verdict ends by itself.
    let service = cluster.service("cache: {ttl: 1h}").await;
    watches(&service).await;
    let (bound, free) = (cluster.pod("api-1").await, cluster.free(&["vaultmux"]).await);
    for fate in ["verified", "cached"] {
        assert_eq!(ask(&service, &bound, "bound").await, was(200, fate));
        assert_eq!(ask(&service, &free, "any").await, was(200, fate));
    }
    cluster.delete(&format!("{PODS}/api-1")).await;
    refused(&service, &bound, was(401, "revoked")).await;
    assert_eq!(ask(&service, &free, "any").await, was(200, "cached"), "its account is there");

    cluster.delete(&format!("{ACCOUNTS}/api")).await;
    cluster.account("api").await;
    refused(&service, &free, was(401, "revoked")).await;
    let again = cluster.free(&["vaultmux"]).await;
    assert_eq!(ask(&service, &again, "any").await, was(200, "verified"), "of the new account");
}

/// Waits for the end of a token that was good; until then it has to stay so.
async fn refused(service: &Service, token: &str, expected: (u16, String)) {
    until(&expected.1, async || {
        let seen = ask(service, token, "any").await;
        assert!(seen == expected || seen.0 == 200, "{seen:?}, not {expected:?}");
        (seen == expected).then_some(())
    })
    .await;
}

async fn a_thousand_callers_with_one_token_are_one_review(cluster: &Cluster) {
    let service = cluster.service("verify: both").await;
    let token = cluster.free(&["vaultmux"]).await;
    let before = cluster.api.requests("tokenreviews").await;
    let answers = join_all((0..1000).map(|_| get(&service, &token, "any"))).await;
    assert_eq!(answers, [200; 1000]);
    assert_eq!(cluster.api.requests("tokenreviews").await - before, 1);
    // Garbage in the form of a token costs the API server nothing.
    let forged = Mint::rsa("theirs");
    let garbage = (0..100).map(|at| forged.with_id(&at.to_string()).token(json!({})));
    let garbage: Vec<_> = garbage.collect();
    let answers = join_all(garbage.iter().map(|token| get(&service, token, "any"))).await;
    assert_eq!(answers, [401; 100]);
    assert_eq!(cluster.api.requests("tokenreviews").await - before, 1);
}

async fn a_new_key_is_learnt_and_the_old_one_stays(cluster: &mut Cluster) {
    let services = [cluster.service("verify: both").await, cluster.service("verify: jwks").await];
    let old = cluster.free(&["vaultmux"]).await;
    for service in &services {
        assert_eq!(ask(service, &old, "any").await, was(200, "verified"));
    }
    cluster.api.rotate_key().await;
    let (new, later) = (cluster.free(&["vaultmux"]).await, cluster.free(&["vaultmux"]).await);
    assert_eq!(decoded(&old, 0)["alg"], "RS256");
    assert_eq!(decoded(&new, 0)["alg"], "ES256");
    for service in &services {
        // The keys were fetched a moment ago: an unknown one costs a fetch in half a minute.
        until("the new key", async || {
            let seen = ask(service, &new, "any").await;
            assert!(seen == was(401, "unknown_key") || seen.0 == 200, "{seen:?}");
            (seen.0 == 200).then_some(())
        })
        .await;
        assert_eq!(ask(service, &later, "any").await, was(200, "verified"));
        assert_eq!(get(service, &old, "any").await, 200);
    }
}

async fn without_a_watch_verdicts_hold_for_their_time(cluster: &Cluster) {
    let long = cluster.service("cache: {ttl: 1h}").await;
    let short = cluster.service("cache: {ttl: 1s}").await;
    for service in [&long, &short] {
        for kind in ["pods", "serviceaccounts"] {
            service.logged(&["we may not list and watch these", kind]).await;
        }
    }
    let bound = cluster.pod("api-2").await;
    for service in [&long, &short] {
        assert_eq!(ask(service, &bound, "bound").await, was(200, "verified"));
    }
    cluster.delete(&format!("{PODS}/api-2")).await;
    refused(&short, &bound, was(401, "unauthenticated")).await;
    assert_eq!(ask(&long, &bound, "bound").await, was(200, "cached"));
}

async fn without_reviews_nobody_is_known(cluster: &Cluster) {
    for verify in ["both", "token_review"] {
        let service = cluster.service(&format!("verify: {verify}")).await;
        let token = cluster.pod(&format!("api-{}", verify.replace('_', "-"))).await;
        assert_eq!(ask(&service, &token, "any").await, was(503, "unavailable"), "{verify}");
        service.logged(&["we may not review tokens", "create on tokenreviews"]).await;
        assert_eq!(status(check(&service, &token).await), Err(Code::Unavailable), "{verify}");
    }
}

async fn keys_alone_take_no_role_and_see_no_deletion(cluster: &Cluster) {
    let service = cluster.service("verify: jwks, jwks: {source: cluster}, watch: false").await;
    let before = cluster.api.requests("tokenreviews").await;
    let bound = cluster.pod("api-3").await;
    assert_eq!(ask(&service, &cluster.free(&[]).await, "any").await, was(401, "audience"));
    assert_eq!(ask(&service, &bound, "bound").await, was(200, "verified"));
    cluster.delete(&format!("{PODS}/api-3")).await;
    assert_eq!(ask(&service, &bound, "bound").await, was(200, "cached"));
    let another = cluster.service("verify: jwks, watch: false").await;
    assert_eq!(ask(&another, &bound, "bound").await, was(200, "verified"), "until it is over");
    assert_eq!(cluster.api.requests("tokenreviews").await, before);
}

async fn without_discovery_keys_are_missing(cluster: &Cluster) {
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/\
                system:service-account-issuer-discovery";
    let mut binding = cluster.api.admin(Method::GET, path, Value::Null).await;
    cluster.delete(path).await;
    let proof = (Method::GET, "/openid/v1/jwks", Value::Null);
    let role = Role { yaml: String::new(), proof };
    cluster.settles(&role, false).await;
    let service = cluster.service("verify: jwks, watch: false").await;
    let token = cluster.free(&["vaultmux"]).await;
    assert_eq!(ask(&service, &token, "any").await, was(503, "unavailable"));
    service.logged(&["system:service-account-issuer-discovery is missing"]).await;
    binding["metadata"] = json!({"name": binding["metadata"]["name"]});
    let (collection, _) = path.rsplit_once('/').expect("a path");
    cluster.api.admin(Method::POST, collection, binding).await;
    cluster.settles(&role, true).await;
    // Without a restart, as soon as the source is asked again.
    until("keys", async || (get(&service, &token, "any").await == 200).then_some(())).await;
}

async fn an_outage_is_no_verdict(cluster: Cluster) {
    let strict = cluster.service("cache: {ttl: 1h}").await;
    let lenient = cluster.service("cache: {ttl: 1s, stale_if_unavailable: 1h}").await;
    let (known, new) = (cluster.free(&["vaultmux"]).await, cluster.free(&["vaultmux"]).await);
    for service in [&strict, &lenient] {
        assert_eq!(ask(service, &known, "any").await, was(200, "verified"));
    }
    drop(cluster);
    for service in [&strict, &lenient] {
        until("an outage", async || {
            (ask(service, &new, "any").await == was(503, "unavailable")).then_some(())
        })
        .await;
        assert_eq!(status(check(service, &new).await), Err(Code::Unavailable));
    }
    assert_eq!(ask(&strict, &known, "any").await, was(200, "cached"));
    until("a stale verdict", async || {
        (ask(&lenient, &known, "any").await == was(200, "stale")).then_some(())
    })
    .await;
}
