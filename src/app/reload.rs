//! Reads configuration, policies and certificates again when they change, and swaps
//! them whole. Certificates stand for themselves: neither they nor policies wait for
//! the other to be usable.
//!
//! What cannot be used leaves the last good snapshot in force, with one addition:
//! subjects of a Deny policy that cannot be read are denied until it can. What is
//! long work, such as reading, compiling or freeing many policies, is done on threads
//! that serve no requests.

mod watch;

use std::{fs, mem, path::Path, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::Instant,
};

pub(super) use self::watch::Watch;
use super::build::{self, Built};
use crate::{
    config::{Config, Environment},
    metrics::Metrics,
    net::Certificates,
    policy::{LoadFailure, Loader, Policies, PolicySet},
    snapshot::{Current, Load, Shares, Snapshot},
    telemetry::LogLevel,
};

/// How often a configuration is read again that changes while it and its policies are.
const TRIES: usize = 3;

/// How often is looked whether policies that were replaced are still in use.
const RETIREMENT: Duration = Duration::from_secs(1);

pub(super) struct Reloader {
    watch: Watch,
    config: Arc<Config>,
    environment: Environment,
    current: Current,
    metrics: Arc<Metrics>,
    log_level: LogLevel,
    loader: Loader,
    certificates: Vec<Arc<Certificates>>,
}

/// What a reload found.
struct Reading {
    config: Config,
    policies: Result<Policies, LoadFailure>,
}

/// Why a reload changes nothing.
enum Refused {
    Policies(LoadFailure),
    Other(String),
}

// === impl Reloader ===

impl Reloader {
    pub(super) fn new(
        watch: Watch,
        config: Config,
        environment: Environment,
        built: Built,
        current: Current,
        metrics: Arc<Metrics>,
        log_level: LogLevel,
    ) -> Self {
        let (config, loader) = (Arc::new(config), built.loader);
        let certificates = Vec::new();
        Self { watch, config, environment, current, metrics, log_level, loader, certificates }
    }

    /// Reads these again as well.
    pub(super) fn with_certificates(mut self, certificates: Vec<Arc<Certificates>>) -> Self {
        for one in &certificates {
            self.metrics.certificate(one.listener(), one.expiry());
        }
        self.certificates = certificates;
        self
    }

    /// Reloads on SIGHUP and on changes of the files; never returns.
    pub(super) async fn run(&mut self) {
        let mut hangup = signal(SignalKind::hangup()).expect("SIGHUP can be caught");
        loop {
            tokio::select! {
                _ = hangup.recv() => {}
                () = self.watch.changed() => {}
            }
            self.reload().await;
        }
    }

    pub(super) async fn reload(&mut self) {
        self.reload_certificates();
        // Whoever renamed the file must not wait for a policy to be mended.
        if let Err(error) = self.current.load().audit.reopen() {
            tracing::error!(%error, "the audit file stays open as it was");
        }
        let (said, failure) = match self.try_reload().await {
            Ok(()) => return,
            Err(Refused::Policies(failure)) => (failure.unquoted(), Some(failure)),
            Err(Refused::Other(said)) => (said, None),
        };
        self.metrics.reload_refused(failure.as_ref().map_or(1, |failure| failure.problems.len()));
        // A line each, so that none is lost in a long one.
        for line in said.lines() {
            tracing::error!("reload refused, last good configuration stays: {line}");
        }
        self.remember(failure).await;
    }

    fn reload_certificates(&self) {
        for one in &self.certificates {
            let listener = one.listener();
            match one.reload() {
                Ok(false) => {}
                Ok(true) => {
                    self.metrics.certificate(listener, one.expiry());
                    self.metrics.reload_of_certificates(true);
                }
                Err(error) => {
                    self.metrics.reload_of_certificates(false);
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::error!(listener, error, "certificates refused, last good ones stay");
                }
            }
        }
    }

    async fn try_reload(&mut self) -> Result<(), Refused> {
        let started = Instant::now();
        self.watch.renew();
        let Reading { mut config, policies } = self.read().await?;
        self.warn_of_restart(&config);
        // They stay as they were bound, and so do the files to watch for them.
        config.listeners = self.config.listeners.clone();
        if config.plugins != self.config.plugins {
            config.plugins.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        let policies = policies.map_err(Refused::Policies)?;
        let before = self.current.load_full();
        let same_stores =
            config.backends == self.config.backends && config.resolver == self.config.resolver;
        let resolver = match same_stores {
            true => before.resolver.clone(),
            false => {
                let before = Some((&*self.config, &before.resolver));
                build::resolver(&config, Arc::clone(&self.metrics), before).await?
            }
        };
        // A random key is kept, or grants in flight would be refused.
        let random_before = self.config.identity.grant.key_file.is_none();
        let grants = match config.identity.grant == self.config.identity.grant && random_before {
            true => Arc::clone(&before.grants),
            false => Arc::new(build::grant_keys(&config.identity)?),
        };
        // Kept with what is cached, unless how tokens are verified has changed.
        let (old, new) = (&self.config.identity, &config.identity);
        let tokens = match old.tokens == new.tokens && old.trust_domains == new.trust_domains {
            true => before.tokens.clone(),
            false => {
                build::tokens(new, Arc::clone(&self.metrics), before.tokens.as_deref()).await?
            }
        };
        // What decides the same is no other generation, however it is written.
        let same_decisions = before.load.denied.is_empty()
            && policies.say_the_same_as(before.policies.policies())
            && config.catalog == before.catalog;
        let number = before.policies.generation().number + u64::from(!same_decisions);
        let set = match same_decisions && policies.files() == before.policies.policies().files() {
            true => Arc::clone(&before.policies),
            // Where policies stand has changed at least, and reports tell it.
            false => blocking(move || PolicySet::compile(&policies, number)).await?.into(),
        };
        self.log_level.set(&config.log.level).map_err(|error| Refused::Other(error.to_string()))?;
        // Last of what can fail: from here on lines go to the new sink.
        let audit = before.audit.succeeded_by(config.audit.as_ref(), &self.metrics);
        let audit = audit.map_err(|error| Refused::Other(error.to_string()))?;
        let load = match same_decisions {
            true => Load { refusal: None, ..before.load.clone() },
            false => Load::now(),
        };
        let shares = Shares::succeeding(&config.limits, Some(&before.shares));
        let webhooks = build::webhooks(&config, Some(&before.webhooks))?;
        let set_in_force = Arc::clone(&set);
        let snapshot = build::snapshot(
            &config,
            set_in_force,
            load,
            resolver,
            tokens,
            grants,
            shares,
            webhooks,
            audit,
        );
        self.swap(&before, snapshot);
        let took = started.elapsed();
        self.metrics.reloaded(build::gauges(&set, 0), took);
        match same_decisions {
            true => tracing::info!(
                policy.generation = set.generation().number,
                policy.hash = %set.generation().hash,
                "reloaded, policies unchanged"
            ),
            false => build::log_generation(&set, took),
        }
        self.watch.follow(&config);
        self.config = Arc::new(config);
        Ok(())
    }

    async fn read(&mut self) -> Result<Reading, Refused> {
        let (config, environment) = (Arc::clone(&self.config), self.environment.clone());
        let mut loader = mem::take(&mut self.loader);
        let (reading, loader) = blocking(move || {
            let reading = read(&config, &environment, &mut loader);
            (reading, loader)
        })
        .await?;
        self.loader = loader;
        reading.map_err(Refused::Other)
    }

    /// Keeps the last good policies and what was wrong with the next, and denies everything
    /// to the subjects of Deny policies that cannot be read.
    async fn remember(&self, failure: Option<LoadFailure>) {
        let before = self.current.load_full();
        let mut snapshot = (*before).clone();
        snapshot.load = before.load.refused(failure.as_ref());
        if before.load.denied.len() == snapshot.load.denied.len() {
            return self.current.store(snapshot);
        }
        let (old, denied) = (Arc::clone(&before.policies), Arc::clone(&snapshot.load.denied));
        let number = old.generation().number + 1;
        let compile = move || PolicySet::compile_denying(old.policies(), &denied, number);
        match blocking(compile).await {
            Ok(set) => snapshot.policies = set.into(),
            // Nothing else tells who is denied: then it is everybody.
            Err(_) => snapshot.policies = PolicySet::deny_all().into(),
        }
        let denied = snapshot.load.denied.len();
        self.metrics.policies(build::gauges(&snapshot.policies, denied));
        self.swap(&before, snapshot);
        tracing::error!(
            policy.generation = number,
            "a Deny policy cannot be read: its subjects are denied everything until it can"
        );
    }

    /// Puts a snapshot in force, and sees to it that no request has to free the old policies.
    fn swap(&self, before: &Snapshot, snapshot: Snapshot) {
        let old = Arc::clone(&before.policies);
        self.current.store(snapshot);
        tokio::spawn(async move {
            // Whoever has them still may drop them, but is not the last to.
            while Arc::strong_count(&old) > 1 {
                tokio::time::sleep(RETIREMENT).await;
            }
            let _ = spawn_blocking(move || drop(old)).await;
        });
    }

    fn warn_of_restart(&self, config: &Config) {
        let mut changed = Vec::new();
        if config.listeners != self.config.listeners {
            changed.push("listeners");
        }
        if config.connections != self.config.connections {
            changed.push("limits of connections");
        }
        if config.ext_proc != self.config.ext_proc {
            changed.push(
                "ext_proc.message_budget, max_message_timeout, duplex_budget, body_limit, modes \
                 or mode_override",
            );
        }
        if config.log.format != self.config.log.format {
            changed.push("telemetry.log.format");
        }
        if !changed.is_empty() {
            tracing::warn!(keys = changed.join(", "), "these changes need a restart");
        }
    }
}

/// Reads configuration and policies, both as they were at one time where both are in one
/// `ConfigMap`.
fn read(
    before: &Config,
    environment: &Environment,
    loader: &mut Loader,
) -> Result<Reading, String> {
    let Some(path) = &before.path else {
        let policies = build::load(before, loader);
        return Ok(Reading { config: before.clone(), policies });
    };
    let place = |path: &Path| fs::canonicalize(path).ok();
    let mut at = place(path);
    for _ in 0..TRIES {
        let reading = read_once(path, before, environment, loader);
        let now = place(path);
        if now == at {
            return reading;
        }
        at = now;
    }
    Err(format!("{}: keeps changing while it is read", path.display()))
}

fn read_once(
    path: &Path,
    before: &Config,
    environment: &Environment,
    loader: &mut Loader,
) -> Result<Reading, String> {
    let config = Config::load_again(path, environment, &before.plugins)
        .map_err(|error| error.to_string())?;
    if config.mode != before.mode {
        // The mode decides what the listeners, which stay, may be open to.
        let (from, to) = (before.mode, config.mode);
        return Err(format!("mode: {from:?} cannot become {to:?} without a restart"));
    }
    let policies = build::load(&config, loader);
    Ok(Reading { config, policies })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let done = spawn_blocking(work).await;
    done.map_err(|error| Refused::Other(format!("reading the files failed: {error}")))
}

// === impl Refused ===

impl From<build::BuildError> for Refused {
    fn from(error: build::BuildError) -> Self {
        Self::Other(error.to_string())
    }
}
