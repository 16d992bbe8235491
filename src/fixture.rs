//! Snapshots for tests: a memory backend, policies from YAML, local identities.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::{
    audit::AuditLog,
    backends::{
        BackendError, SecretBackend, SecretPage, Store, VersionEntry, memory::MemoryBackend,
    },
    config::{BackendSettings, Config, Environment},
    identity::{Evidence, GrantKeys, Principal, TrustDomain},
    metrics::Metrics,
    policy::{Policies, PolicySet},
    resolver::Resolver,
    secret::{
        BackendName, Catalog, CatalogEntry, NameGrammar, SecretName, SecretRecord, SecretRef,
        SecretValue, SecretVersion,
    },
    snapshot::{Shares, Snapshot},
};

/// What no log, metric or error body may ever hold.
pub(crate) const CANARY: &str = "canary-7f3a9b";

/// A configuration with one memory backend `local`.
pub(crate) const CONFIG: &str = "
mode: development
backends:
  local:
    type: memory
    secrets:
      prod/key: canary-7f3a9b
      prod/nested/key: nested
      other/key: foreign
      shared/stripe: canary-7f3a9b
secret_routes: [{hosts: [vaultmux.test], prefix: /v1/secrets}]
";

/// Own namespace, and `use` of the shared secret toward one cluster.
pub(crate) const POLICIES: &str = r#"
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: own-namespace}
spec:
  effect: Allow
  from: [{namespaces: ["*"]}]
  to:
    - secrets: {prefixes: ["{namespace}/"], verbs: ["*"]}
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: inject-stripe}
spec:
  effect: Allow
  from: [{namespaces: [prod]}]
  to:
    - secrets:
        names: [shared/stripe]
        verbs: [use]
        destinations: [{hosts: [api.stripe.test], clusters: [stripe]}]
---
apiVersion: vaultmux.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders}
spec:
  effect: Allow
  from: [{serviceAccounts: [prod/api]}]
  to:
    - http: {hosts: [orders.test], methods: [GET], paths: ["/orders/"]}
    - http: {destinations: [shop/orders-db]}
"#;

/// A checked configuration.
pub(crate) fn config(yaml: &str) -> Config {
    Config::parse(yaml, Path::new("test.yaml"), &Environment::default()).expect("valid config")
}

/// A compiled set.
pub(crate) fn policies(config: &Config, yaml: &str) -> PolicySet {
    let source = ("policies.yaml".into(), yaml.to_owned());
    let policies = Policies::parse(&[source], &config.catalog).expect("valid policies");
    PolicySet::compile(&policies, 1)
}

/// [`CONFIG`] and [`POLICIES`], over the configured memory backend.
pub(crate) fn snapshot(metrics: &Arc<Metrics>) -> Snapshot {
    let config = config(CONFIG);
    let BackendSettings::Memory { secrets } = &config.backends[0].1 else { panic!("memory") };
    let secrets = secrets.iter().map(|(name, value)| (name.clone(), value.value().clone()));
    let store: Arc<dyn SecretBackend> = Arc::new(MemoryBackend::new(secrets));
    let mut snapshot = over(&config, store, metrics);
    // It takes a runtime, which many tests do without.
    snapshot.check_injection.prefetch = false;
    snapshot
}

/// The same over another store.
pub(crate) fn over(
    config: &Config,
    store: Arc<dyn SecretBackend>,
    metrics: &Arc<Metrics>,
) -> Snapshot {
    let stores = HashMap::from([(config.backends[0].0.clone(), Store::Shared(store))]);
    Snapshot {
        catalog: Arc::clone(&config.catalog),
        policies: Arc::new(policies(config, POLICIES)),
        load: crate::snapshot::Load::now(),
        resolver: Resolver::new(stores, config.resolver.clone(), Arc::clone(metrics)),
        trust_domains: config.identity.trust_domains.clone().into(),
        local: config.identity.local.clone(),
        forwarded: config.identity.forwarded.clone(),
        proxies_are_workloads: config.identity.proxies_are_workloads,
        tokens: None,
        grants: Arc::new(GrantKeys::random(Duration::from_secs(30)).expect("random bytes")),
        secret_routes: config.secret_routes.clone(),
        injections: Arc::clone(&config.injections),
        substitutions: config.substitutions.clone(),
        upstreams: config.upstreams.clone(),
        check_injection: config.check_injection.clone(),
        suspect_statuses: Arc::clone(&config.suspect_statuses),
        limits: config.limits,
        shares: Shares::succeeding(&config.limits, None),
        webhooks: Arc::default(),
        audit: AuditLog::off(),
    }
}

/// `namespace/name` as a certificate of the mesh proves it.
pub(crate) fn principal(account: &str) -> Principal {
    let (namespace, name) = account.split_once('/').expect("namespace/name");
    let mut evidence = Evidence::default();
    evidence.add_mtls(&format!("spiffe://cluster.local/ns/{namespace}/sa/{name}"), "");
    let domains = [TrustDomain::parse("cluster.local").expect("valid")];
    evidence.principal(&domains).expect("valid evidence")
}

/// A store that counts, and answers only when it is let.
pub(crate) struct Gate {
    store: MemoryBackend,
    /// One permit lets one call through.
    pub(crate) open: Semaphore,
    calls: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(secrets: &[(&str, &str)], open: usize) -> Arc<Self> {
        let name = |text: &str| {
            let plain = crate::secret::NameEncoding::Plain;
            MemoryBackend::GRAMMAR.canonical(text, plain).expect("valid name")
        };
        let secrets = secrets.iter().map(|(key, value)| (name(key), SecretValue::new(*value)));
        Arc::new(Self {
            store: MemoryBackend::new(secrets.collect::<Vec<_>>()),
            open: Semaphore::new(open),
            calls: AtomicUsize::new(0),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn pass(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.open.acquire().await.expect("never closed").forget();
    }
}

#[async_trait]
impl SecretBackend for Gate {
    async fn get(
        &self,
        name: &SecretName,
        version: &SecretVersion,
    ) -> Result<SecretRecord, BackendError> {
        // What the store holds when the call reaches it, however long it takes.
        let found = self.store.get(name, version).await;
        self.pass().await;
        found
    }

    async fn list(&self, cursor: Option<&str>) -> Result<SecretPage, BackendError> {
        self.pass().await;
        self.store.list(cursor).await
    }

    async fn create(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.store.create(name, value).await
    }

    async fn update(
        &self,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<Arc<str>, BackendError> {
        self.store.update(name, value).await
    }

    async fn delete(&self, name: &SecretName, force: bool) -> Result<(), BackendError> {
        self.store.delete(name, force).await
    }

    async fn versions(&self, name: &SecretName) -> Result<Vec<VersionEntry>, BackendError> {
        self.store.versions(name).await
    }
}

/// The name of the one backend.
pub(crate) fn local() -> BackendName {
    BackendName::parse("local").expect("valid")
}

/// One backend `local`, which is the default, of the usual grammar.
pub(crate) fn catalog() -> Catalog {
    let backend = BackendName::parse("local").expect("valid");
    let grammar = NameGrammar::new("/_+=.@-", 512);
    let backends = [(backend.clone(), CatalogEntry { grammar })];
    Catalog::new(backends.into(), Some(backend), vec![]).expect("valid")
}

/// A reference to one of its secrets.
pub(crate) fn reference(text: &str) -> SecretRef {
    catalog().parse_reference(text).expect("valid")
}
