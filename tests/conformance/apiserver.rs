//! A real Kubernetes API server on a real etcd, without nodes or controllers: Secrets,
//! RBAC, TokenRequest and TokenReview are all in the API server.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::{Server, free_port, program};

/// The cluster's administrator, who may do everything.
const ADMIN: &str = "admin-token";

/// A running API server; ends when dropped.
pub(crate) struct ApiServer {
    pub(crate) url: String,
    /// What to trust: the server's certificate and its CA, as PEM.
    pub(crate) ca_file: PathBuf,
    pub(crate) admin_token: &'static str,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    client: reqwest::Client,
    // Ends before the store that it would wait for.
    server: Server,
    etcd: Server,
}

// === impl ApiServer ===

impl ApiServer {
    /// Starts one with an empty store.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with more flags.
    pub(crate) async fn start_with(flags: &[&str]) -> Self {
        let etcd = Server::start(&program("etcd"), |_| {
            [
                "--data-dir=etcd",
                "--log-level=warn",
                "--unsafe-no-fsync",
                // Sockets of these names, in the server's directory.
                "--listen-client-urls=unix://client:1",
                "--advertise-client-urls=unix://client:1",
                "--listen-peer-urls=unix://peer:1",
                "--initial-advertise-peer-urls=http://localhost:0",
                "--initial-cluster=default=http://localhost:0",
            ]
            .map(str::to_owned)
            .into()
        });
        loop {
            if let Some((server, url, client)) = serve(&etcd, flags).await {
                let ca_file = server.dir.path().join("certs/apiserver.crt");
                let kubeconfig = server.dir.path().join("admin.kubeconfig");
                let user = format!("token: {ADMIN}");
                fs::write(&kubeconfig, kubeconfig_text(&url, &ca_file, &user)).expect("written");
                let started =
                    Self { url, ca_file, admin_token: ADMIN, kubeconfig, client, server, etcd };
                started.has_bootstrapped().await;
                return started;
            }
        }
    }

    /// A kubeconfig for the holder of a token, which is in a file of its own beside it.
    pub(crate) fn kubeconfig_of(&self, name: &str, token: &str) -> PathBuf {
        let directory = self.server.dir.path();
        let path = directory.join(format!("{name}.kubeconfig"));
        fs::write(directory.join(format!("{name}.token")), token).expect("written");
        let user = format!("tokenFile: {name}.token");
        fs::write(&path, kubeconfig_text(&self.url, &self.ca_file, &user)).expect("written");
        path
    }

    /// A call with somebody's token; status and answer.
    pub(crate) async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
    ) -> (u16, Value) {
        let call = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let call = match body {
            Value::Null => call,
            body => call.header("content-type", kind).body(body.to_string()),
        };
        let answer = call.send().await.expect("answered");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("readable");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A call of the administrator's that has to succeed.
    pub(crate) async fn admin(&self, method: Method, path: &str, body: Value) -> Value {
        let what = format!("{method} {path}");
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let (status, answer) = self.call(ADMIN, method, path, kind, &body).await;
        assert!((200..300).contains(&status), "{what}: {status}: {answer}");
        answer
    }

    pub(crate) async fn create_namespace(&self, name: &str) {
        let body = json!({"metadata": {"name": name}});
        self.admin(Method::POST, "/api/v1/namespaces", body).await;
    }

    /// Creates the objects of a YAML file, of one document or more.
    pub(crate) async fn apply(&self, yaml: &str) {
        for document in yaml.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).expect("YAML");
            let path = collection(&object);
            self.admin(Method::POST, &path, object).await;
        }
    }

    /// Deletes what [`Self::apply`] made.
    pub(crate) async fn remove(&self, yaml: &str) {
        for document in yaml.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).expect("YAML");
            let name = object["metadata"]["name"].as_str().expect("a name");
            let path = format!("{}/{name}", collection(&object));
            self.admin(Method::DELETE, &path, Value::Null).await;
        }
    }

    /// The key that signs service accounts' tokens, as PEM.
    pub(crate) fn signing_key(&self) -> PathBuf {
        self.server.dir.path().join("certs/apiserver.key")
    }

    /// Starts it again with another key that signs tokens; those of the first stay good.
    pub(crate) async fn rotate_key(&mut self) {
        let directory = self.server.dir.path();
        let [private, public] = ["new.key", "new.pub"].map(|name| directory.join(name));
        let key = rcgen::KeyPair::generate().expect("a key");
        fs::write(&private, key.serialize_pem()).expect("written");
        fs::write(&public, key.public_key_pem()).expect("written");
        // The last signing key counts, and every other one.
        let flags = [
            format!("--service-account-signing-key-file={}", private.display()),
            format!("--service-account-key-file={}", public.display()),
        ];
        let flags = flags.each_ref().map(String::as_str);
        let (url, etcd) = (&self.url, self.etcd.dir.path());
        let arguments = |directory: &Path| arguments(url, etcd, directory, &flags);
        self.server.restart(&program("kube-apiserver"), arguments).await;
        let client = &self.client;
        let ready = async |_: &str| {
            let answer = client.get(format!("{url}/readyz")).bearer_auth(ADMIN).send().await;
            answer.is_ok_and(|answer| answer.status().is_success()).then_some(())
        };
        self.server.ready(ready).await;
    }

    /// How many requests for objects of this kind it has answered.
    pub(crate) async fn requests(&self, resource: &str) -> u64 {
        let (_, metrics) = self.call(ADMIN, Method::GET, "/metrics", "", &Value::Null).await;
        let label = format!("resource=\"{resource}\"");
        let metrics = metrics.as_str().expect("text").lines();
        let counters = metrics.filter(|line| line.starts_with("apiserver_request_total{"));
        let counts = counters.filter(|line| line.contains(&label)).map(|line| {
            let count = line.rsplit(' ').next().expect("a value");
            count.parse::<f64>().expect("a number") as u64
        });
        counts.sum()
    }

    /// A token of an existing service account; of the server's own audience if none is
    /// given.
    pub(crate) async fn token(&self, namespace: &str, account: &str, audiences: &[&str]) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({"spec": {"audiences": audiences, "expirationSeconds": 3600}});
        let made = self.admin(Method::POST, &path, body).await;
        made["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// `kube-system` comes some moments after readiness.
    async fn has_bootstrapped(&self) {
        crate::servers::until("namespaces", async || {
            let path = "/api/v1/namespaces/kube-system";
            let (status, _) = self.call(ADMIN, Method::GET, path, "", &Value::Null).await;
            (status == 200).then_some(())
        })
        .await;
    }
}

/// Starts the API server; `None` if somebody took its port.
async fn serve(etcd: &Server, flags: &[&str]) -> Option<(Server, String, reqwest::Client)> {
    let directory = TempDir::new().expect("temporary directory");
    let tokens = format!("{ADMIN},admin,admin,system:masters\n");
    fs::write(directory.path().join("tokens.csv"), tokens).expect("written");
    let url = format!("https://127.0.0.1:{}", free_port());
    let mut server = Server::start_in(directory, &program("kube-apiserver"), |directory| {
        arguments(&url, etcd.dir.path(), directory, flags)
    });
    let ca_file = server.dir.path().join("certs/apiserver.crt");
    let client = server
        .ready(async |log| {
            if log.contains("address already in use") {
                return Some(None);
            }
            let bundle = Certificate::from_pem_bundle(&fs::read(&ca_file).ok()?).ok()?;
            let client = reqwest::Client::builder()
                .tls_certs_only(bundle)
                .no_proxy()
                .timeout(Duration::from_secs(20))
                .build()
                .ok()?;
            let answer = client.get(format!("{url}/readyz")).bearer_auth(ADMIN).send().await;
            answer.is_ok_and(|answer| answer.status().is_success()).then_some(Some(client))
        })
        .await;
    client.map(|client| (server, url, client))
}

fn arguments(url: &str, etcd: &Path, directory: &Path, flags: &[&str]) -> Vec<String> {
    let port = url.rsplit(':').next().expect("a port");
    let (etcd, directory) = (etcd.display(), directory.display());
    let mut arguments = vec![
        format!("--etcd-servers=unix://{etcd}/client:1"),
        format!("--secure-port={port}"),
        format!("--cert-dir={directory}/certs"),
        format!("--token-auth-file={directory}/tokens.csv"),
        // No key has to be made: that of the server's certificate signs tokens as well.
        format!("--service-account-signing-key-file={directory}/certs/apiserver.key"),
        format!("--service-account-key-file={directory}/certs/apiserver.key"),
        format!("--service-account-jwks-uri={url}/openid/v1/jwks"),
    ];
    let fixed = [
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
        "--service-account-issuer=https://kubernetes.default.svc",
    ];
    arguments.extend(fixed.into_iter().chain(flags.iter().copied()).map(str::to_owned));
    arguments
}

fn kubeconfig_text(url: &str, ca_file: &Path, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
         clusters: [{{name: test, cluster: {{server: \"{url}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: test, user: {{{user}}}}}]\n",
        ca_file.display()
    )
}

/// Where objects of this kind are.
fn collection(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").expect("a kind");
    let group = match text("/apiVersion").expect("a version") {
        "v1" => "/api/v1".to_owned(),
        version => format!("/apis/{version}"),
    };
    let namespace = match text("/metadata/namespace") {
        Some(namespace) => format!("/namespaces/{namespace}"),
        None => String::new(),
    };
    format!("{group}{namespace}/{}s", kind.to_ascii_lowercase())
}
