//! Says in the log when a plugin's socket appears, vanishes or is replaced. Calls do
//! not depend on it: they look at the socket themselves.

use std::path::{Path, PathBuf};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

use super::connection::{SocketId, directory};

/// Dropping it ends the watch.
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
}

/// The socket as it was last seen.
struct Seen {
    path: PathBuf,
    last: Option<SocketId>,
}

// === impl Watch ===

impl Watch {
    /// Watches the directory of a socket; `None` if that cannot be watched, most
    /// likely because it is not there yet.
    pub(super) fn start(socket: &Path) -> Option<Self> {
        let mut seen = Seen { path: socket.to_owned(), last: SocketId::of(socket).ok() };
        let noticed = move |event: notify::Result<Event>| {
            if let Ok(event) = event
                && event.paths.iter().any(|path| path.file_name() == seen.path.file_name())
            {
                seen.look();
            }
        };
        let mut watcher = notify::recommended_watcher(noticed).ok()?;
        watcher.watch(directory(socket), RecursiveMode::NonRecursive).ok()?;
        Some(Self { _watcher: watcher })
    }
}

// === impl Seen ===

impl Seen {
    fn look(&mut self) {
        let now = SocketId::of(&self.path).ok();
        let before = std::mem::replace(&mut self.last, now);
        let path = self.path.display();
        match (before, now) {
            (None, Some(_)) => tracing::info!(plugin.socket = %path, "plugin socket appeared"),
            (Some(_), None) => tracing::warn!(plugin.socket = %path, "plugin socket vanished"),
            (Some(before), Some(now)) if before != now => {
                tracing::info!(plugin.socket = %path, "plugin socket was replaced or changed");
            }
            _ => {}
        }
    }
}
