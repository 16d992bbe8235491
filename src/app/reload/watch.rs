//! Tells when files change: by the kernel's word where there is one, and by looking
//! now and then, since not every file system says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::ModifyKind};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at, timeout_at},
};

use crate::config::Config;

/// Changes that come together are read together: an editor or a ConfigMap update
/// touches several files.
const QUIET: Duration = Duration::from_millis(200);
/// However many changes come, they are read after this.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long a change can stay unseen where the kernel does not tell of it.
const LOOK: Duration = Duration::from_secs(30);
/// Longer chains of links are nobody's intent.
const MAX_LINKS: usize = 64;

/// Tells when files change.
pub(in crate::app) struct Watch {
    files: Files,
    /// How the files looked before they were read.
    seen: Look,
    sender: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
    /// Dropping it ends the watch.
    watcher: Option<RecommendedWatcher>,
}

/// What the kernel is asked about.
struct Watched {
    directories: BTreeSet<PathBuf>,
    /// What stands there under one of these names matters, whatever it is.
    names: BTreeSet<OsString>,
}

/// Where files are and since when they are as they are.
type Look = BTreeMap<PathBuf, Option<Stamp>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Which files matter. Others in their directories, such as a log, may be written all
/// the time.
#[derive(Clone, Default)]
struct Files {
    paths: Vec<PathBuf>,
    plugins: Option<PathBuf>,
}

// === impl Watch ===

impl Watch {
    /// Starts watching. Do so before reading the files: a change in between must
    /// not be missed.
    pub(in crate::app) fn start(config: &Config) -> Self {
        let watch = Self::of(Files::of(config));
        if config.plugins.directory.is_some() {
            // Plugins start when we do: one that came after the directory was read and
            // before it was watched is found by reading again.
            let _ = watch.sender.try_send(());
        }
        watch
    }

    fn of(files: Files) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let mut watch = Self { files, seen: Look::new(), sender, changes, watcher: None };
        watch.renew();
        watch
    }

    /// Call this before the files are read again: whatever directories stand there now are
    /// watched from now on, and compared with how they look now.
    pub(super) fn renew(&mut self) {
        // Always anew: a directory that was removed and made again, or moved away and back,
        // may look the same, but is no longer watched.
        let watcher = watch(&self.files.watched(), &self.files, &self.sender);
        self.watcher = watcher.inspect_err(not_watched).ok();
        self.seen = self.files.look();
    }

    /// Watches the files of another configuration, which has been read already.
    pub(super) fn follow(&mut self, config: &Config) {
        let files = Files::of(config);
        if files.paths != self.files.paths {
            self.files = files;
            self.renew();
            // They may have changed before they were watched.
            let _ = self.sender.try_send(());
        }
    }

    /// Waits for a change, and then until there are no more for a moment.
    pub(super) async fn changed(&mut self) {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // There is a sender of our own, so it never ends.
                _ = self.changes.recv() => break,
                _ = looks.tick() => {
                    let files = self.files.clone();
                    let look = spawn_blocking(move || files.look()).await;
                    if look.is_ok_and(|look| look != self.seen) {
                        return;
                    }
                }
            }
        }
        // Whoever can touch a file must not put a revocation off for ever.
        let latest = Instant::now() + LONGEST_WAIT;
        let mut quiet = Instant::now() + QUIET;
        while let Ok(Some(())) = timeout_at(quiet.min(latest), self.changes.recv()).await {
            quiet = Instant::now() + QUIET;
        }
    }
}

// === impl Files ===

impl Files {
    fn of(config: &Config) -> Self {
        let paths = config.path.iter().chain(&config.policies);
        let paths = paths.chain(&config.identity.grant.key_file).chain(&config.plugins.directory);
        let webhooks = config.webhooks.values().filter_map(|webhook| webhook.key_file.as_ref());
        let paths = paths.chain(tls_files(config)).chain(webhooks);
        Self { paths: paths.cloned().collect(), plugins: config.plugins.directory.clone() }
    }

    /// Where a change may be one of these files. Directories, not files: a `ConfigMap`
    /// is updated by renaming a link that stands beside the file.
    fn watched(&self) -> Watched {
        let mut found = BTreeSet::new();
        let mut names = BTreeSet::new();
        for path in &self.paths {
            found.insert(path.clone());
            // It may be removed and made anew, or be a link to be replaced, as may each
            // link on the way.
            for place in replaceable(path) {
                found.insert(parent(&place));
                names.extend(place.file_name().map(OsStr::to_owned));
            }
        }
        found.retain(|path| path.is_dir());
        Watched { directories: found, names }
    }

    /// Looks at each file, and at each that a directory holds, without reading.
    fn look(&self) -> Look {
        let mut look = Look::new();
        for path in &self.paths {
            look.insert(path.clone(), Stamp::of(path));
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = path.file_name().unwrap_or_default();
                if is_read(name) || name == "..data" || is_socket(&path) {
                    let stamp = Stamp::of(&path);
                    look.insert(path, stamp);
                }
            }
        }
        look
    }

    fn matter(&self, names: &BTreeSet<OsString>, event: &notify::Event) -> bool {
        // Events were lost: one of them may have been a revocation.
        event.need_rescan()
            || is_change(&event.kind)
                && event.paths.iter().any(|path| self.matters(names, path, &event.kind))
    }

    fn matters(&self, names: &BTreeSet<OsString>, path: &Path, kind: &EventKind) -> bool {
        let name = path.file_name().unwrap_or_default();
        if names.contains(name) {
            return true;
        }
        // Sockets come and go; that one was touched means nothing, and any plugin can.
        if is_socket(path) && path.parent() == self.plugins.as_deref() {
            return !matches!(kind, EventKind::Modify(_)) || is_rename(kind);
        }
        // `..data` is the link that an updated ConfigMap or Secret is behind.
        is_read(name) || name.as_encoded_bytes().starts_with(b"..")
    }
}

fn tls_files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    let listeners = [&config.listeners.grpc, &config.listeners.rest].into_iter();
    listeners.filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
        let client_ca = tls.client_ca.as_ref().map(|ca| &ca.file);
        [&tls.cert_file, &tls.key_file].into_iter().chain(client_ca)
    })
}

/// The path itself, and every link that is followed on the way to what it leads to.
fn replaceable(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut ways = vec![path.to_owned()];
    while let Some(way) = ways.pop() {
        for place in way.ancestors() {
            let Ok(target) = fs::read_link(place) else { continue };
            if found.len() >= MAX_LINKS {
                return found;
            }
            found.push(place.to_owned());
            let target = parent(place).join(target);
            let rest = way.strip_prefix(place).expect("an ancestor");
            // An empty rest would leave a slash behind, and what has one is no link.
            ways.push(if rest.as_os_str().is_empty() { target } else { target.join(rest) });
        }
    }
    found
}

fn is_read(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "yaml" || end == "yml")
}

fn is_socket(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "sock")
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

fn watch(
    watched: &Watched,
    files: &Files,
    sender: &mpsc::Sender<()>,
) -> notify::Result<RecommendedWatcher> {
    let (files, names, sender) = (files.clone(), watched.names.clone(), sender.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may stand for events that did not come.
        if event.map_or(true, |event| files.matter(&names, &event)) {
            // Full means that a reload is due already.
            let _ = sender.try_send(());
        }
    })?;
    for directory in &watched.directories {
        // The others are watched all the same.
        if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
            not_watched(&error);
        }
    }
    Ok(watcher)
}

fn not_watched(error: &notify::Error) {
    let every_s = LOOK.as_secs();
    tracing::warn!(%error, every_s, "files cannot be watched, they are looked at now and then");
}

/// Whether an event is more than someone reading. Our own reload reads every file:
/// taken for a change, that would start the next one.
fn is_change(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_))
}

// === impl Stamp ===

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests;
