//! From checked settings to a snapshot.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    audit::{AuditLog, InvalidSink},
    backends::{self, Store},
    config::{BackendSettings, Config, IdentityConfig, Mode, WebhookConfig},
    identity::{GrantError, GrantKeys, TokenSetupError, TokenVerifier},
    metrics::{Metrics, PolicyGauges},
    policy::{LoadFailure, Loader, Policies, PolicySet},
    resolver::{Opened, Resolver},
    secret::BackendName,
    snapshot::{Load, Shares, Snapshot},
    webhook::Webhooks,
};

/// A snapshot, and what the next reload begins with.
pub(super) struct Built {
    pub(super) snapshot: Snapshot,
    pub(super) loader: Loader,
}

/// Settings that turned out not to be usable.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Policies that cannot be used; each problem is a line. It ends in the log, so
    /// `check` alone quotes what is wrong.
    #[error("{}", .0.unquoted())]
    Policies(LoadFailure),
    /// A store that cannot be opened.
    #[error("backends.{backend}: {message}")]
    Backend {
        /// Which store.
        backend: BackendName,
        /// Why not.
        message: String,
    },
    /// Tokens that could not be verified this way.
    #[error("identity.service_account_tokens: {0}")]
    Tokens(#[from] TokenSetupError),
    /// A grant key file that cannot be used.
    #[error("identity.grant.key_file {path}: {message}")]
    GrantKeys {
        /// Which file.
        path: String,
        /// Why not.
        message: String,
    },
    /// A webhook whose key file cannot be used.
    #[error("webhooks.{name}: {path}: {message}")]
    Webhook {
        /// Which webhook.
        name: String,
        /// Which file.
        path: String,
        /// Why not.
        message: String,
    },
    /// No random key for grants.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// An audit sink that cannot be written to.
    #[error(transparent)]
    Audit(#[from] InvalidSink),
}

/// Builds the snapshot of a start.
pub(super) async fn first(config: &Config, metrics: Arc<Metrics>) -> Result<Built, BuildError> {
    let started = Instant::now();
    let mut loader = Loader::default();
    let policies = load(config, &mut loader).map_err(BuildError::Policies)?;
    let set = Arc::new(PolicySet::compile(&policies, 1));
    let took = started.elapsed();
    let resolver = resolver(config, Arc::clone(&metrics), None).await?;
    let grants = Arc::new(grant_keys(&config.identity)?);
    let tokens = tokens(&config.identity, Arc::clone(&metrics), None).await?;
    let audit = AuditLog::start(config.audit.as_ref(), &metrics)?;
    log_generation(&set, took);
    metrics.reloaded(gauges(&set, 0), took);
    let shares = Shares::succeeding(&config.limits, None);
    let webhooks = webhooks(config, None)?;
    let snapshot =
        snapshot(config, set, Load::now(), resolver, tokens, grants, shares, webhooks, audit);
    Ok(Built { snapshot, loader })
}

#[expect(clippy::too_many_arguments, reason = "each is built apart, and may be kept")]
pub(super) fn snapshot(
    config: &Config,
    policies: Arc<PolicySet>,
    load: Load,
    resolver: Resolver,
    tokens: Option<Arc<TokenVerifier>>,
    grants: Arc<GrantKeys>,
    shares: Shares,
    webhooks: Arc<Webhooks>,
    audit: AuditLog,
) -> Snapshot {
    Snapshot {
        catalog: Arc::clone(&config.catalog),
        policies,
        load,
        resolver,
        trust_domains: config.identity.trust_domains.clone().into(),
        local: config.identity.local.clone(),
        forwarded: config.identity.forwarded.clone(),
        proxies_are_workloads: config.identity.proxies_are_workloads,
        tokens,
        grants,
        secret_routes: config.secret_routes.clone(),
        injections: Arc::clone(&config.injections),
        substitutions: config.substitutions.clone(),
        upstreams: config.upstreams.clone(),
        check_injection: config.check_injection.clone(),
        suspect_statuses: Arc::clone(&config.suspect_statuses),
        limits: config.limits,
        shares,
        webhooks,
        audit,
    }
}

pub(super) fn log_generation(set: &PolicySet, took: Duration) {
    let (generation, policies) = (set.generation(), set.policies());
    tracing::info!(
        policy.generation = generation.number,
        policy.hash = %generation.hash,
        policies = policies.len(),
        rules = policies.rules(),
        duration_ms = took.as_secs_f64() * 1000.0,
        "policies in force"
    );
}

/// What metrics tell of a set that denies everything to the subjects of so many policies.
pub(super) fn gauges(set: &PolicySet, invalid_denies: usize) -> PolicyGauges<'_> {
    let (generation, policies) = (set.generation(), set.policies());
    PolicyGauges {
        generation: generation.number,
        hash: &generation.hash,
        policies: policies.len(),
        rules: policies.rules(),
        invalid_denies,
    }
}

/// Reads the policies that a configuration names, or implies.
///
/// # Errors
/// Every problem in every file.
pub fn load_policies(config: &Config) -> Result<Policies, LoadFailure> {
    load(config, &mut Loader::default())
}

/// The same; what the loader knows of the files is not parsed again.
pub(super) fn load(config: &Config, loader: &mut Loader) -> Result<Policies, LoadFailure> {
    if let Some(text) = config.embedded_policies {
        let source = ("(--dev) policies".into(), text.to_owned());
        return Policies::parse(&[source], &config.catalog);
    }
    match (&config.identity.local, config.mode) {
        // The cloud store's own IAM is the boundary; the pod is the only caller.
        (Some(local), Mode::Sidecar) if config.policies.is_empty() => {
            Ok(Policies::sidecar_default(&local.service_account))
        }
        _ => loader.load(&config.policies, &config.catalog),
    }
}

/// The verifier of service accounts' tokens, if they are to count. It has asked nobody yet.
pub(super) async fn tokens(
    identity: &IdentityConfig,
    metrics: Arc<Metrics>,
    before: Option<&TokenVerifier>,
) -> Result<Option<Arc<TokenVerifier>>, BuildError> {
    let Some(settings) = identity.tokens.clone() else { return Ok(None) };
    let trust_domain = identity.trust_domains[0].clone();
    Ok(Some(TokenVerifier::connect(settings, trust_domain, metrics, before).await?))
}

/// The keys that seal and open grants: those of the file, or a random one.
///
/// # Errors
/// [`BuildError::GrantKeys`] for a file that cannot be used.
pub fn grant_keys(identity: &IdentityConfig) -> Result<GrantKeys, BuildError> {
    let ttl = identity.grant.ttl;
    let Some(path) = &identity.grant.key_file else { return Ok(GrantKeys::random(ttl)?) };
    let failed =
        |message: String| BuildError::GrantKeys { path: path.display().to_string(), message };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let text = zeroize::Zeroizing::new(text);
    GrantKeys::parse(&text, ttl).map_err(|error| failed(error.to_string()))
}

/// Who may tell that secrets have changed, with their keys as the files hold them now.
///
/// # Errors
/// [`BuildError::Webhook`] for a file that cannot be used.
pub fn webhooks(config: &Config, before: Option<&Webhooks>) -> Result<Arc<Webhooks>, BuildError> {
    let read = |(name, webhook): (&String, &WebhookConfig)| {
        let settings = webhook.settings().map_err(|(path, message)| BuildError::Webhook {
            name: name.clone(),
            path: path.display().to_string(),
            message,
        })?;
        Ok((name.clone(), settings))
    };
    let settings = config.webhooks.iter().map(read).collect::<Result<_, BuildError>>()?;
    Ok(Arc::new(Webhooks::new(settings, before)?))
}

/// Opens the stores. Those whose settings did not change are taken over from `before`,
/// with their connections and credentials, and with what is cached and known of them.
pub(super) async fn resolver(
    config: &Config,
    metrics: Arc<Metrics>,
    before: Option<(&Config, &Resolver)>,
) -> Result<Resolver, BuildError> {
    let (mut kept, mut opened) = (Vec::new(), HashMap::new());
    for (name, settings) in &config.backends {
        let same = before.is_some_and(|(old, resolver)| {
            let same = old.backends.iter().any(|(n, s)| n == name && s == settings);
            same && old.limits.backend_timeout == config.limits.backend_timeout
                && resolver.has(name)
        });
        if same {
            kept.push(name.clone());
            continue;
        }
        let store = open(settings, config.limits.backend_timeout)
            .await
            .map_err(|message| BuildError::Backend { backend: name.clone(), message })?;
        tracing::info!(secret.backend = %name, kind = settings.kind(), "backend configured");
        opened.insert(name.clone(), store);
    }
    let settings = config.resolver.clone();
    let Some((_, before)) = before else { return Ok(Resolver::new(opened, settings, metrics)) };
    let opened = opened.into_iter().map(|(name, store)| (name, Opened::New(store)));
    let kept = kept.into_iter().map(|name| (name, Opened::Kept));
    Ok(before.succeeded_by(opened.chain(kept).collect(), settings))
}

async fn open(settings: &BackendSettings, timeout: Duration) -> Result<Store, String> {
    #[cfg(not(any(
        feature = "aws",
        feature = "azure",
        feature = "gcp",
        feature = "kubernetes",
        feature = "plugin",
        feature = "vault"
    )))]
    let _ = timeout;
    match settings {
        BackendSettings::Memory { secrets } => {
            let secrets = secrets.iter().map(|(name, value)| (name.clone(), value.value().clone()));
            Ok(backends::memory::MemoryBackend::new(secrets).into())
        }
        BackendSettings::File { path } => {
            let opened = backends::file::FileBackend::open(path);
            let opened = opened.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(opened.into())
        }
        #[cfg(feature = "aws")]
        BackendSettings::Aws(settings) => {
            let connected = backends::aws::AwsBackend::connect(settings.clone(), timeout).await;
            Ok(connected.map_err(|error| error.to_string())?.into())
        }
        #[cfg(feature = "azure")]
        BackendSettings::Azure(settings) => {
            let opened = backends::azure::AzureBackend::new(settings.clone(), timeout);
            Ok(opened.map_err(|error| error.to_string())?.into())
        }
        #[cfg(feature = "gcp")]
        BackendSettings::Gcp(settings) => {
            let connected = backends::gcp::GcpBackend::connect(settings.clone(), timeout).await;
            Ok(connected.map_err(|error| error.to_string())?.into())
        }
        #[cfg(feature = "kubernetes")]
        BackendSettings::Kubernetes(settings) => {
            let connected = backends::kubernetes::connect(settings.clone(), timeout).await;
            connected.map_err(|error| error.to_string())
        }
        #[cfg(feature = "plugin")]
        BackendSettings::Plugin(settings) => {
            Ok(backends::plugin::PluginBackend::new(settings.clone(), timeout).into())
        }
        #[cfg(feature = "vault")]
        BackendSettings::Vault(settings) => {
            let connected = backends::vault::VaultBackend::connect(settings.clone(), timeout);
            Ok(connected.map_err(|error| error.to_string())?.into())
        }
    }
}
