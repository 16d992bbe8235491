//! Reads configuration, policies and certificates again when they change, and swaps
//! them whole. Certificates stand for themselves: neither they nor policies wait for
//! the other to be usable.
//!
//! What cannot be used leaves the last good snapshot in force, with one addition:
//! subjects of a Deny policy that cannot be read are denied until it can.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::ModifyKind};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::build::{self, Built};
use crate::{
    config::{Config, Environment},
    metrics::Metrics,
    net::Certificates,
    policy::{Policies, PolicySet},
    snapshot::Current,
    telemetry::LogLevel,
};

/// Tells when files change.
pub(super) struct Watch {
    /// What is watched.
    directories: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
    /// Dropping it ends the watch.
    watcher: Option<RecommendedWatcher>,
}

/// Changes that come together are read together: an editor or a ConfigMap update
/// touches several files.
const QUIET: Duration = Duration::from_millis(200);
/// However many changes come, they are read after this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

pub(super) struct Reloader {
    watch: Watch,
    config: Config,
    environment: Environment,
    current: Current,
    metrics: Arc<Metrics>,
    log_level: LogLevel,
    /// The policies of the last load that could be used.
    policies: Policies,
    generation: u64,
    certificates: Vec<Arc<Certificates>>,
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
        let policies = built.policies;
        let certificates = Vec::new();
        Self {
            watch,
            config,
            environment,
            current,
            metrics,
            log_level,
            policies,
            generation: 1,
            certificates,
        }
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
        if let Err(error) = self.try_reload().await {
            self.metrics.reload(None);
            // A line each, so that none is lost in a long one.
            for line in error.lines() {
                tracing::error!("reload refused, last good configuration stays: {line}");
            }
        }
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

    async fn try_reload(&mut self) -> Result<(), String> {
        let mut config = match &self.config.path {
            Some(path) => Config::load_again(path, &self.environment, &self.config.plugins)
                .map_err(|error| error.to_string())?,
            None => self.config.clone(),
        };
        if config.mode != self.config.mode {
            // The mode decides what the listeners, which stay, may be open to.
            let (from, to) = (self.config.mode, config.mode);
            return Err(format!("mode: {from:?} cannot become {to:?} without a restart"));
        }
        self.warn_of_restart(&config);
        // They stay as they were bound, and so do the files to watch for them.
        config.listeners = self.config.listeners.clone();
        if config.plugins != self.config.plugins {
            config.plugins.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        let policies = match build::load_policies(&config) {
            Ok(policies) => policies,
            Err(failure) => {
                self.deny(&failure.denied);
                return Err(failure.to_string());
            }
        };
        let before = self.current.load_full();
        let same_stores =
            config.backends == self.config.backends && config.resolver == self.config.resolver;
        let resolver = match same_stores {
            true => before.resolver.clone(),
            false => {
                let before = Some((&self.config, &before.resolver));
                build::resolver(&config, Arc::clone(&self.metrics), before)
                    .await
                    .map_err(|error| error.to_string())?
            }
        };
        // A random key is kept, or grants in flight would be refused.
        let random_before = self.config.identity.grant.key_file.is_none();
        let grants = match config.identity.grant == self.config.identity.grant && random_before {
            true => Arc::clone(&before.grants),
            false => {
                Arc::new(build::grant_keys(&config.identity).map_err(|error| error.to_string())?)
            }
        };
        // Kept with what is cached, unless how tokens are verified has changed.
        let (old, new) = (&self.config.identity, &config.identity);
        let tokens = match old.tokens == new.tokens && old.trust_domains == new.trust_domains {
            true => before.tokens.clone(),
            false => build::tokens(new, Arc::clone(&self.metrics), before.tokens.as_deref())
                .await
                .map_err(|error| error.to_string())?,
        };
        self.log_level.set(&config.log.level).map_err(|error| error.to_string())?;
        // Last of what can fail: from here on lines go to the new sink.
        let audit = before.audit.succeeded_by(config.audit.as_ref(), &self.metrics);
        let audit = audit.map_err(|error| error.to_string())?;
        self.generation += 1;
        let set = PolicySet::compile(&policies, self.generation);
        let snapshot = build::snapshot(&config, set, resolver, tokens, grants, audit);
        let policies_in_force = Arc::clone(&snapshot.policies);
        self.current.store(snapshot);
        self.metrics.reload(Some(self.generation));
        build::log_generation(&policies_in_force);
        if directories(&config) != self.watch.directories {
            self.watch = Watch::start(&config);
        }
        self.policies = policies;
        self.config = config;
        Ok(())
    }

    /// Keeps the last good policies, but denies these subjects everything.
    fn deny(&mut self, denied: &[crate::policy::Subjects]) {
        if denied.is_empty() {
            return;
        }
        let before = self.current.load_full();
        self.generation += 1;
        let set = PolicySet::compile_denying(&self.policies, denied, self.generation);
        let mut snapshot = (*before).clone();
        snapshot.policies = Arc::new(set);
        self.current.store(snapshot);
        self.metrics.policy_generation(self.generation);
        tracing::error!(
            policy.generation = self.generation,
            "a Deny policy cannot be read: its subjects are denied everything until it can"
        );
    }

    fn warn_of_restart(&self, config: &Config) {
        let mut changed = Vec::new();
        if config.listeners != self.config.listeners {
            changed.push("listeners");
        }
        if config.ext_proc != self.config.ext_proc {
            changed.push("ext_proc.message_budget or mode_override");
        }
        if config.log.format != self.config.log.format {
            changed.push("telemetry.log.format");
        }
        if !changed.is_empty() {
            tracing::warn!(keys = changed.join(", "), "these changes need a restart");
        }
    }
}

// === impl Watch ===

impl Watch {
    /// Starts watching. Do so before reading the files: a change in between must
    /// not be missed.
    pub(super) fn start(config: &Config) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let directories = directories(config);
        let watcher = watch(&directories, Files::of(config), sender.clone());
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files cannot be watched, send SIGHUP after a change");
        }
        if config.plugins.directory.is_some() {
            // Plugins start when we do: one that came after the directory was read and
            // before it was watched is found by reading again.
            let _ = sender.try_send(());
        }
        Self { directories, changes, watcher: watcher.ok() }
    }

    /// Waits for a change, and then until there are no more for a moment.
    async fn changed(&mut self) {
        if self.watcher.is_none() || self.changes.recv().await.is_none() {
            return std::future::pending().await;
        }
        // Whoever can touch a file must not put a revocation off for ever.
        let latest = Instant::now() + LONGEST_WAIT;
        let mut quiet = Instant::now() + QUIET;
        while let Ok(Some(())) = timeout_at(quiet.min(latest), self.changes.recv()).await {
            quiet = Instant::now() + QUIET;
        }
    }
}

/// Directories, not files: a ConfigMap is updated by renaming a link that stands
/// beside the file.
fn directories(config: &Config) -> BTreeSet<PathBuf> {
    let mut directories: BTreeSet<_> = config.path.iter().map(|path| parent(path)).collect();
    directories.extend(config.policies.iter().map(|path| itself_or_parent(path)));
    directories.extend(config.identity.grant.key_file.iter().map(|path| parent(path)));
    directories.extend(config.plugins.directory.as_deref().map(itself_or_parent));
    directories.extend(tls_files(config).map(|path| parent(path)));
    directories
}

fn tls_files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let listeners = [&config.listeners.grpc, &config.listeners.rest].into_iter();
    listeners.filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
        let client_ca = tls.client_ca.as_ref().map(|ca| &ca.file);
        [&tls.cert_file, &tls.key_file].into_iter().chain(client_ca)
    })
}

/// Which files of the watched directories matter. Others, such as a log, may be written
/// all the time.
struct Files {
    named: Vec<PathBuf>,
    plugins: Option<PathBuf>,
}

// === impl Files ===

impl Files {
    fn of(config: &Config) -> Self {
        let named = config.path.iter().chain(&config.policies);
        let named = named.chain(&config.identity.grant.key_file).chain(&config.plugins.directory);
        let named = named.chain(tls_files(config));
        Self { named: named.cloned().collect(), plugins: config.plugins.directory.clone() }
    }

    fn matter(&self, event: &notify::Event) -> bool {
        is_change(&event.kind) && event.paths.iter().any(|path| self.matters(path, &event.kind))
    }

    fn matters(&self, path: &Path, kind: &EventKind) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if self.named.iter().any(|named| named.file_name() == path.file_name()) {
            return true;
        }
        // Sockets come and go; that one was touched means nothing, and any plugin can.
        if extension == "sock" && path.parent() == self.plugins.as_deref() {
            return !matches!(kind, EventKind::Modify(_)) || is_rename(kind);
        }
        // `..data` is the link that an updated ConfigMap or Secret is behind.
        matches!(&*extension, "yaml" | "yml") || name.starts_with("..")
    }
}

fn is_rename(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Modify(ModifyKind::Name(_)))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn itself_or_parent(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_owned() } else { parent(path) }
}

fn watch(
    directories: &BTreeSet<PathBuf>,
    files: Files,
    sender: mpsc::Sender<()>,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| files.matter(&event)) {
            // Full means that a reload is due already.
            let _ = sender.try_send(());
        }
    })?;
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Whether an event is more than someone reading. Our own reload reads every file:
/// taken for a change, that would start the next one.
fn is_change(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_))
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn only_files_that_are_read_matter() {
        let files = Files {
            named: vec!["/etc/vm/config".into(), "/etc/vm/policies".into()],
            plugins: Some("/run/plugins".into()),
        };
        let touched = EventKind::Modify(ModifyKind::Any);
        let made = EventKind::Create(CreateKind::Any);
        let moved = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        for (path, kind, expected) in [
            ("/etc/vm/config", touched, true),
            ("/etc/vm/policies/a.yaml", touched, true),
            ("/etc/vm/policies/..data", moved, true),
            ("/etc/vm/service.log", touched, false),
            ("/etc/vm/policies/a.yaml.swp", made, false),
            ("/run/plugins/hsm.sock", made, true),
            ("/run/plugins/hsm.sock", moved, true),
            ("/run/plugins/hsm.sock", EventKind::Remove(RemoveKind::Any), true),
            ("/run/plugins/hsm.sock", touched, false),
            ("/run/plugins/hsm.db", touched, false),
        ] {
            assert_eq!(files.matters(path.as_ref(), &kind), expected, "{path} {kind:?}");
        }
    }

    #[test]
    fn reading_a_file_is_no_change() {
        for kind in [AccessKind::Read, AccessKind::Open(AccessMode::Read), AccessKind::Any] {
            assert!(!is_change(&EventKind::Access(kind)), "{kind:?}");
        }
        for kind in [
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Remove(RemoveKind::File),
        ] {
            assert!(is_change(&kind), "{kind:?}");
        }
    }
}
