//! What is counted. No label ever holds a secret name, a raw path or anything
//! else that a caller chooses freely.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};

/// The service's metrics, registered once and handed to whoever counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Family<MethodLabels, Histogram, Buckets>,
    backend_errors: Family<BackendLabels, Counter>,
    backend_duration: Family<BackendCallLabels, Histogram, Buckets>,
    backend_retries: Family<BackendLabels, Counter>,
    backend_failovers: Family<BackendLabels, Counter>,
    backend_up: Family<BackendLabels, Gauge>,
    backend_in_flight: Family<BackendLabels, Gauge>,
    credentials_expiry: Family<BackendLabels, Gauge>,
    cache_lookups: Family<ResultLabels, Counter>,
    prefetches: Family<ResultLabels, Counter>,
    suspicions: Family<ResultLabels, Counter>,
    cache_entries: Gauge,
    cache_bytes: Gauge,
    decisions: Family<DecisionLabels, Counter>,
    audit_matches: Family<AuditLabels, Counter>,
    audit_written: Counter,
    audit_dropped: Counter,
    ext_proc_streams: Family<OutcomeLabels, Counter>,
    ext_proc_references: Family<OutcomeLabels, Counter>,
    ext_proc_surfaces: Family<SurfaceLabels, Counter>,
    ext_proc_bodies: Family<ResultLabels, Counter>,
    ext_proc_observed: Family<ResultLabels, Counter>,
    ext_authz_references: Family<OutcomeLabels, Counter>,
    token_verifications: Family<ResultLabels, Counter>,
    token_reviews: Family<ResultLabels, Counter>,
    token_cache_entries: Gauge,
    token_key_fetches: Family<ResultLabels, Counter>,
    token_keys_age: Gauge,
    policy_generation: Gauge,
    policy_info: Family<HashLabels, Gauge>,
    policies: Gauge,
    policy_rules: Gauge,
    policy_invalid_denies: Gauge,
    policy_loaded: Gauge,
    policy_load_duration: Gauge<f64, AtomicU64>,
    reload_problems: Gauge,
    reloads: Family<ResultLabels, Counter>,
    certificate_expiry: Family<ListenerLabels, Gauge>,
    peers_refused: Counter,
    connections: Gauge,
    connections_closed: Family<ReasonLabels, Counter>,
    rate_limited: Counter,
    watchers: Gauge,
    watch_events: Counter,
    watches_ended: Family<ReasonLabels, Counter>,
    webhook_notices: Family<WebhookLabels, Counter>,
    store_changes: Family<StoreChangeLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendCallLabels {
    backend: String,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SurfaceLabels {
    surface: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    edge: &'static str,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    policy: String,
    effect: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HashLabels {
    hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreChangeLabels {
    backend: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Buckets;

/// How a cache lookup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLookup {
    /// A value that was held.
    Hit,
    /// A name that was known to be missing.
    NegativeHit,
    /// A value that is past its time, since its store is being asked or cannot answer.
    Stale,
    /// A wait for a call to the store that another reader made.
    Shared,
    /// A call to the store.
    Miss,
}

/// How one store is doing.
#[derive(Clone, Copy, Debug)]
pub struct BackendGauges<'a> {
    /// Its configured name.
    pub backend: &'a str,
    /// Whether calls go through.
    pub up: bool,
    /// Calls under way.
    pub in_flight: usize,
    /// When the credentials in use run out, if known.
    pub credentials_expire: Option<SystemTime>,
}

/// How tokens are verified now.
#[derive(Clone, Copy, Debug)]
pub struct TokenGauges {
    /// Good tokens that are remembered.
    pub cached: u64,
    /// How old the issuer's keys are, if there are any.
    pub keys_age: Option<Duration>,
    /// How often they were fetched and how often that failed, if they are.
    pub key_fetches: Option<(u64, u64)>,
}

/// The policies that are in force.
#[derive(Clone, Copy, Debug)]
pub struct PolicyGauges<'a> {
    /// Counts the sets of this process.
    pub generation: u64,
    /// Of what they say.
    pub hash: &'a str,
    /// How many there are.
    pub policies: usize,
    /// How many `to` entries they have.
    pub rules: usize,
    /// How many Deny policies cannot be read, so that their subjects are denied everything.
    pub invalid_denies: usize,
}

/// The edge that asked for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The gRPC Authorization service.
    ExtAuthz,
    /// The gRPC ExternalProcessor service.
    ExtProc,
    /// The REST listener.
    Rest,
}

// === impl Metrics ===

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        // From a cached read (100 µs) to a store's worst (10 s).
        Histogram::new([
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0,
        ])
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("vaultmux_build", "The running version", version);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_duration: Family::new_with_constructor(Buckets),
            backend_errors: Family::default(),
            backend_duration: Family::new_with_constructor(Buckets),
            backend_retries: Family::default(),
            backend_failovers: Family::default(),
            backend_up: Family::default(),
            backend_in_flight: Family::default(),
            credentials_expiry: Family::default(),
            cache_lookups: Family::default(),
            prefetches: Family::default(),
            suspicions: Family::default(),
            cache_entries: Gauge::default(),
            cache_bytes: Gauge::default(),
            decisions: Family::default(),
            audit_matches: Family::default(),
            audit_written: Counter::default(),
            audit_dropped: Counter::default(),
            ext_proc_streams: Family::default(),
            ext_proc_references: Family::default(),
            ext_proc_surfaces: Family::default(),
            ext_proc_bodies: Family::default(),
            ext_proc_observed: Family::default(),
            ext_authz_references: Family::default(),
            token_verifications: Family::default(),
            token_reviews: Family::default(),
            token_cache_entries: Gauge::default(),
            token_key_fetches: Family::default(),
            token_keys_age: Gauge::default(),
            policy_generation: Gauge::default(),
            policy_info: Family::default(),
            policies: Gauge::default(),
            policy_rules: Gauge::default(),
            policy_invalid_denies: Gauge::default(),
            policy_loaded: Gauge::default(),
            policy_load_duration: Gauge::default(),
            reload_problems: Gauge::default(),
            reloads: Family::default(),
            certificate_expiry: Family::default(),
            peers_refused: Counter::default(),
            connections: Gauge::default(),
            connections_closed: Family::default(),
            rate_limited: Counter::default(),
            watchers: Gauge::default(),
            watch_events: Counter::default(),
            watches_ended: Family::default(),
            webhook_notices: Family::default(),
            store_changes: Family::default(),
        };
        registry.register("vaultmux_requests", "REST requests answered", metrics.requests.clone());
        registry.register(
            "vaultmux_request_duration_seconds",
            "Time from a REST request's header to its answer",
            metrics.request_duration.clone(),
        );
        registry.register(
            "vaultmux_backend_errors",
            "Calls to a store that failed, other than for a missing secret",
            metrics.backend_errors.clone(),
        );
        registry.register(
            "vaultmux_backend_duration_seconds",
            "Time that a store took for one call",
            metrics.backend_duration.clone(),
        );
        registry.register(
            "vaultmux_backend_retries",
            "Calls to a store that were made again",
            metrics.backend_retries.clone(),
        );
        registry.register(
            "vaultmux_backend_failovers",
            "Reads that another store answered for this one",
            metrics.backend_failovers.clone(),
        );
        registry.register(
            "vaultmux_backend_up",
            "0 while calls to a store are held back because it fails or throttles",
            metrics.backend_up.clone(),
        );
        registry.register(
            "vaultmux_backend_in_flight",
            "Calls to a store under way",
            metrics.backend_in_flight.clone(),
        );
        registry.register(
            "vaultmux_backend_credentials_expiry_timestamp_seconds",
            "When the credentials for a store run out, as Unix time",
            metrics.credentials_expiry.clone(),
        );
        registry.register(
            "vaultmux_cache_entries",
            "Secret versions and missing names held",
            metrics.cache_entries.clone(),
        );
        registry.register(
            "vaultmux_cache_bytes",
            "Approximate size of what is held",
            metrics.cache_bytes.clone(),
        );
        registry.register(
            "vaultmux_cache_lookups",
            "Reads of secrets by how the cache answered",
            metrics.cache_lookups.clone(),
        );
        registry.register(
            "vaultmux_decisions",
            "Authorisation decisions",
            metrics.decisions.clone(),
        );
        registry.register(
            "vaultmux_audit_matches",
            "Decisions that a policy in audit mode would have made",
            metrics.audit_matches.clone(),
        );
        registry.register(
            "vaultmux_audit_written",
            "Audit lines that the sink has taken",
            metrics.audit_written.clone(),
        );
        registry.register(
            "vaultmux_audit_dropped",
            "Audit lines that the sink did not take, or not in time",
            metrics.audit_dropped.clone(),
        );
        registry.register(
            "vaultmux_prefetches",
            "Fetches ahead of a request that will most likely ask, by what came of them",
            metrics.prefetches.clone(),
        );
        registry.register(
            "vaultmux_suspicions",
            "Secrets and issued tokens that a destination refused, by what came of it",
            metrics.suspicions.clone(),
        );
        registry.register(
            "vaultmux_ext_proc_streams",
            "ext_proc streams by how they ended",
            metrics.ext_proc_streams.clone(),
        );
        registry.register(
            "vaultmux_ext_proc_references",
            "Secret references met in requests, by outcome",
            metrics.ext_proc_references.clone(),
        );
        registry.register(
            "vaultmux_ext_proc_surfaces",
            "References and aliases met in cookies, paths, queries and bodies, by outcome",
            metrics.ext_proc_surfaces.clone(),
        );
        registry.register(
            "vaultmux_ext_proc_bodies",
            "Bodies that were not looked at or not let through, by reason",
            metrics.ext_proc_bodies.clone(),
        );
        registry.register(
            "vaultmux_ext_proc_observed",
            "Requests in observability mode that would have had secrets put into them, by outcome",
            metrics.ext_proc_observed.clone(),
        );
        registry.register(
            "vaultmux_ext_authz_references",
            "Secret references met in requests that ext_authz puts secrets into, by outcome",
            metrics.ext_authz_references.clone(),
        );
        registry.register(
            "vaultmux_token_verifications",
            "Bearer tokens that were shown, by what became of them",
            metrics.token_verifications.clone(),
        );
        registry.register(
            "vaultmux_token_reviews",
            "Questions to the API server about tokens, by how they ended",
            metrics.token_reviews.clone(),
        );
        registry.register(
            "vaultmux_token_cache_entries",
            "Good tokens that are remembered",
            metrics.token_cache_entries.clone(),
        );
        registry.register(
            "vaultmux_token_jwks_fetches",
            "Fetches of the token issuer's keys, by how they ended",
            metrics.token_key_fetches.clone(),
        );
        registry.register(
            "vaultmux_token_jwks_age_seconds",
            "Age of the token issuer's keys, -1 without any",
            metrics.token_keys_age.clone(),
        );
        registry.register(
            "vaultmux_policy_generation",
            "Which set of policies is in force, counted since the start",
            metrics.policy_generation.clone(),
        );
        registry.register(
            "vaultmux_policy_info",
            "The hash of what the policies in force say",
            metrics.policy_info.clone(),
        );
        registry.register("vaultmux_policies", "Policies in force", metrics.policies.clone());
        registry.register(
            "vaultmux_policy_rules",
            "What the policies in force have under to",
            metrics.policy_rules.clone(),
        );
        registry.register(
            "vaultmux_policy_invalid_denies",
            "Deny policies that cannot be read, so that their subjects are denied everything",
            metrics.policy_invalid_denies.clone(),
        );
        registry.register(
            "vaultmux_policy_load_timestamp_seconds",
            "When configuration and policies were last read and could be used, as Unix time",
            metrics.policy_loaded.clone(),
        );
        registry.register(
            "vaultmux_policy_load_duration_seconds",
            "Time from the first byte read to the swap, the last time",
            metrics.policy_load_duration.clone(),
        );
        registry.register(
            "vaultmux_reload_problems",
            "Why the last reload was refused, 0 if it was not",
            metrics.reload_problems.clone(),
        );
        registry.register(
            "vaultmux_reloads",
            "Reloads of configuration and policies together, and of certificates",
            metrics.reloads.clone(),
        );
        registry.register(
            "vaultmux_listener_certificate_expiry_timestamp_seconds",
            "When a listener's own certificate expires, as Unix time",
            metrics.certificate_expiry.clone(),
        );
        registry.register(
            "vaultmux_peers_refused",
            "Calls to ext_authz and ext_proc by peers that are not trusted",
            metrics.peers_refused.clone(),
        );
        registry.register(
            "vaultmux_rest_connections",
            "Open connections to the REST listener",
            metrics.connections.clone(),
        );
        registry.register(
            "vaultmux_rest_connections_closed",
            "Connections to the REST listener that were refused or closed, by why",
            metrics.connections_closed.clone(),
        );
        registry.register(
            "vaultmux_rate_limited",
            "Requests of callers that asked for more than their share",
            metrics.rate_limited.clone(),
        );
        registry.register(
            "vaultmux_watchers",
            "Clients that watch secrets for other versions",
            metrics.watchers.clone(),
        );
        registry.register(
            "vaultmux_watch_events",
            "Versions that watchers were told",
            metrics.watch_events.clone(),
        );
        registry.register(
            "vaultmux_watches_ended",
            "Watches that the service ended, by why",
            metrics.watches_ended.clone(),
        );
        registry.register(
            "vaultmux_webhook_notices",
            "Secrets that notices of stores were about, and notices that were refused",
            metrics.webhook_notices.clone(),
        );
        registry.register(
            "vaultmux_backend_changes",
            "Changes that stores told of by themselves",
            metrics.store_changes.clone(),
        );
        metrics.registry = registry;
        metrics
    }
}

impl Metrics {
    /// A REST request that was answered.
    pub fn request(&self, method: &http::Method, status: http::StatusCode, took: Duration) {
        let method = method_label(method);
        let status = status.as_u16();
        self.requests.get_or_create(&RequestLabels { method, status }).inc();
        self.request_duration.get_or_create(&MethodLabels { method }).observe(took.as_secs_f64());
    }

    /// A call to a store, and whether it failed.
    pub fn backend_call(
        &self,
        backend: &str,
        operation: &'static str,
        took: Duration,
        failed: bool,
    ) {
        let labels = BackendCallLabels { backend: backend.to_owned(), operation };
        self.backend_duration.get_or_create(&labels).observe(took.as_secs_f64());
        let errors =
            self.backend_errors.get_or_create(&BackendLabels { backend: backend.to_owned() });
        if failed {
            errors.inc();
        }
    }

    /// A call to a store that is made again.
    pub fn backend_retry(&self, backend: &str) {
        self.backend_retries.get_or_create(&BackendLabels { backend: backend.to_owned() }).inc();
    }

    /// A read that another store answered.
    pub fn failover(&self, backend: &str) {
        self.backend_failovers.get_or_create(&BackendLabels { backend: backend.to_owned() }).inc();
    }

    /// How the stores are doing now; those that are not among them are forgotten.
    pub fn backends<'a>(&self, backends: impl Iterator<Item = BackendGauges<'a>>) {
        for gauges in [&self.backend_up, &self.backend_in_flight, &self.credentials_expiry] {
            gauges.clear();
        }
        for BackendGauges { backend, up, in_flight, credentials_expire } in backends {
            let labels = BackendLabels { backend: backend.to_owned() };
            self.backend_up.get_or_create(&labels).set(i64::from(up));
            let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
            self.backend_in_flight.get_or_create(&labels).set(in_flight);
            let expiry = credentials_expire.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            if let Some(expiry) = expiry {
                let expiry = i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX);
                self.credentials_expiry.get_or_create(&labels).set(expiry);
            }
        }
    }

    /// What the cache holds now.
    pub fn cache_size(&self, entries: u64, bytes: u64) {
        self.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A read of a secret.
    pub fn cache_lookup(&self, lookup: CacheLookup) {
        let result = match lookup {
            CacheLookup::Hit => "hit",
            CacheLookup::NegativeHit => "negative_hit",
            CacheLookup::Stale => "stale",
            CacheLookup::Shared => "shared",
            CacheLookup::Miss => "miss",
        };
        self.cache_lookups.get_or_create(&ResultLabels { result }).inc();
    }

    /// An authorisation decision; `reason` is `allowed` or a denial's code.
    pub fn decision(&self, edge: Edge, denied: Option<&'static str>) {
        let outcome = if denied.is_some() { "denied" } else { "allowed" };
        let reason = denied.unwrap_or("allowed");
        let labels = DecisionLabels { edge: edge.as_str(), outcome, reason };
        self.decisions.get_or_create(&labels).inc();
    }

    /// A policy in audit mode that would have decided.
    pub fn audit_match(&self, policy: &str, allow: bool) {
        let effect = if allow { "Allow" } else { "Deny" };
        let labels = AuditLabels { policy: policy.to_owned(), effect };
        self.audit_matches.get_or_create(&labels).inc();
    }

    /// Audit lines that the sink has taken.
    pub fn audit_written(&self, lines: u64) {
        self.audit_written.inc_by(lines);
    }

    /// Audit lines that are lost.
    pub fn audit_dropped(&self, lines: u64) {
        self.audit_dropped.inc_by(lines);
    }

    /// A fetch ahead of a request.
    pub fn prefetch(&self, result: &'static str) {
        self.prefetches.get_or_create(&ResultLabels { result }).inc();
    }

    /// A secret, or a token that was issued for one, that a destination refused.
    pub fn suspicion(&self, result: &'static str) {
        self.suspicions.get_or_create(&ResultLabels { result }).inc();
    }

    /// An `ext_proc` stream that ended, and why, if it failed.
    pub fn ext_proc_stream(&self, failed: Option<&'static str>) {
        let result = if failed.is_some() { "error" } else { "ok" };
        let reason = failed.unwrap_or("none");
        self.ext_proc_streams.get_or_create(&OutcomeLabels { result, reason }).inc();
    }

    /// A secret reference met in a request: what became of it, and why.
    pub fn ext_proc_reference(&self, result: &'static str, reason: &'static str) {
        self.ext_proc_references.get_or_create(&OutcomeLabels { result, reason }).inc();
    }

    /// A reference or alias met outside of whole header values: where, and what became
    /// of it.
    pub fn ext_proc_surface(&self, surface: &'static str, result: &'static str) {
        self.ext_proc_surfaces.get_or_create(&SurfaceLabels { surface, result }).inc();
    }

    /// A body that was not looked at, or not let through, and why.
    pub fn ext_proc_body(&self, result: &'static str) {
        self.ext_proc_bodies.get_or_create(&ResultLabels { result }).inc();
    }

    /// A request that only passes by, and what would have become of it.
    pub fn ext_proc_observed(&self, result: &'static str) {
        self.ext_proc_observed.get_or_create(&ResultLabels { result }).inc();
    }

    /// The same, where `ext_authz` puts secrets into requests.
    pub fn ext_authz_reference(&self, result: &'static str, reason: &'static str) {
        self.ext_authz_references.get_or_create(&OutcomeLabels { result, reason }).inc();
    }

    /// A service account's token, or one of somebody else: what became of it.
    pub fn token_verification(&self, result: &'static str) {
        self.token_verifications.get_or_create(&ResultLabels { result }).inc();
    }

    /// A question to the API server about a token, and how it ended.
    pub fn token_review(&self, result: &'static str) {
        self.token_reviews.get_or_create(&ResultLabels { result }).inc();
    }

    /// How tokens are verified now.
    pub fn tokens(&self, TokenGauges { cached, keys_age, key_fetches }: TokenGauges) {
        self.token_cache_entries.set(i64::try_from(cached).unwrap_or(i64::MAX));
        let age = keys_age.map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.token_keys_age.set(age);
        if let Some((succeeded, failed)) = key_fetches {
            for (result, count) in [("ok", succeeded), ("error", failed)] {
                let counter = self.token_key_fetches.get_or_create(&ResultLabels { result });
                counter.inner().store(count, Ordering::Relaxed);
            }
        }
    }

    /// The policies that are in force from now on.
    pub fn policies(&self, gauges: PolicyGauges<'_>) {
        let PolicyGauges { generation, hash, policies, rules, invalid_denies } = gauges;
        let set = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.policy_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        set(&self.policies, policies);
        set(&self.policy_rules, rules);
        set(&self.policy_invalid_denies, invalid_denies);
        let labels = HashLabels { hash: hash.to_owned() };
        if self.policy_info.get(&labels).is_none() {
            self.policy_info.clear();
            self.policy_info.get_or_create(&labels).set(1);
        }
    }

    /// A load of configuration and policies that took effect.
    pub fn reloaded(&self, gauges: PolicyGauges<'_>, took: Duration) {
        self.policies(gauges);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.policy_loaded.set(i64::try_from(now).unwrap_or(i64::MAX));
        self.policy_load_duration.set(took.as_secs_f64());
        self.reload_problems.set(0);
        self.reloads.get_or_create(&ResultLabels { result: "ok" }).inc();
    }

    /// A load of configuration and policies that was refused for so many reasons.
    pub fn reload_refused(&self, problems: usize) {
        self.reload_problems.set(i64::try_from(problems).unwrap_or(i64::MAX));
        self.reloads.get_or_create(&ResultLabels { result: "error" }).inc();
    }

    /// The certificate that a listener shows from now on.
    pub fn certificate(&self, listener: &'static str, expiry: i64) {
        self.certificate_expiry.get_or_create(&ListenerLabels { listener }).set(expiry);
    }

    /// Certificates that changed and were taken into use, or could not be.
    pub fn reload_of_certificates(&self, taken: bool) {
        let result = if taken { "ok" } else { "error" };
        self.reloads.get_or_create(&ResultLabels { result }).inc();
    }

    /// A call by a peer that is not trusted.
    pub fn peer_refused(&self) {
        self.peers_refused.inc();
    }

    /// How many connections the REST listener has.
    pub fn connections(&self, open: usize) {
        self.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// A connection to the REST listener that was refused or closed.
    pub fn connection_closed(&self, reason: &'static str) {
        self.connections_closed.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A request beyond its caller's share.
    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// How many clients watch.
    pub fn watchers(&self, number: usize) {
        self.watchers.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// A version that a watcher is told.
    pub fn watch_event(&self) {
        self.watch_events.inc();
    }

    /// A watch that its client did not end.
    pub fn watch_ended(&self, reason: &'static str) {
        self.watches_ended.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// Secrets in a notice, or a notice that was refused. `webhook` is a configured name.
    pub fn webhook(&self, webhook: &str, result: &'static str, number: usize) {
        let labels = WebhookLabels { webhook: webhook.to_owned(), result };
        self.webhook_notices.get_or_create(&labels).inc_by(number as u64);
    }

    /// A store told that `one` secret may have changed, or that `any` may have.
    pub fn store_change(&self, backend: &str, kind: &'static str) {
        let labels = StoreChangeLabels { backend: backend.to_owned(), kind };
        self.store_changes.get_or_create(&labels).inc();
    }

    /// Everything, in the OpenMetrics text format.
    ///
    /// # Errors
    /// [`fmt::Error`] if a metric cannot be formatted.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Edge {
    /// The word used in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExtAuthz => "ext_authz",
            Self::ExtProc => "ext_proc",
            Self::Rest => "rest",
        }
    }
}

/// Callers may send any token as a method: labels know the usual ones.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_names_are_there_and_free_text_is_not() {
        let metrics = Metrics::default();
        let odd = http::Method::from_bytes(b"CANARY").expect("a token");
        metrics.request(&odd, http::StatusCode::OK, Duration::from_millis(3));
        metrics.backend_call("aws-prod", "get", Duration::from_millis(3), true);
        metrics.decision(Edge::ExtAuthz, Some("no_match"));
        for hash in ["00", "0123456789abcdef"] {
            let (policies, rules) = (3, 4);
            let gauges = PolicyGauges { generation: 7, hash, policies, rules, invalid_denies: 0 };
            metrics.reloaded(gauges, Duration::from_millis(1500));
        }
        metrics.reload_refused(2);
        let text = metrics.encode().expect("metrics are text");
        for line in [
            r#"vaultmux_requests_total{method="other",status="200"} 1"#,
            r#"vaultmux_backend_errors_total{backend="aws-prod"} 1"#,
            r#"vaultmux_decisions_total{edge="ext_authz",outcome="denied",reason="no_match"} 1"#,
            "vaultmux_policy_generation 7",
            r#"vaultmux_policy_info{hash="0123456789abcdef"} 1"#,
            "vaultmux_policies 3",
            "vaultmux_policy_rules 4",
            "vaultmux_policy_invalid_denies 0",
            "vaultmux_policy_load_duration_seconds 1.5",
            "vaultmux_reload_problems 2",
            r#"vaultmux_reloads_total{result="ok"} 2"#,
            r#"vaultmux_reloads_total{result="error"} 1"#,
            r#"vaultmux_request_duration_seconds_count{method="other"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("CANARY"), "{text}");
        assert_eq!(text.matches("vaultmux_policy_info{").count(), 1, "{text}");
    }
}
