//! Which versions of watched secrets are known, and who is told when one changes.
//!
//! Nothing here asks a store: what fetches find is noted, for names that somebody
//! watches, and what is outdated is told to its watchers, who then read it.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use super::cache::first_segment;
use crate::secret::{BackendName, SecretName};

/// How many changes are remembered for watchers that come back, and how far behind one
/// may be that is still there.
const REMEMBERED: usize = 1024;
/// How long a name is followed that nobody watches any more: its watcher may come back.
const LINGER: Duration = Duration::from_secs(600);
/// How many of them.
const MOST_LINGERING: usize = 10_000;

/// Where a secret is: in a store, for some in their caller's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The store.
    pub backend: BackendName,
    /// Only for stores whose secrets live in their callers' namespaces.
    pub namespace: Option<Arc<str>>,
    /// Canonical.
    pub name: SecretName,
}

/// What watchers are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The store has another version than before: none if the secret is gone.
    Version {
        /// Of which secret.
        place: Place,
        /// Its current version.
        version: Option<Arc<str>>,
        /// How many changes there have been, with this one.
        sequence: u64,
    },
    /// It is likely to have; whoever reads it now finds out.
    Outdated {
        /// Which secret.
        place: Place,
    },
    /// Any secret of a store may have.
    AllOutdated {
        /// Which store.
        backend: BackendName,
    },
}

/// What a watcher missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It has just come, or nobody knows any more: it has to look for itself.
    Unknown,
    /// These changes, in order.
    News(Vec<News>),
}

/// A watcher was so slow that news for it are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lagged;

pub(super) struct Changes {
    sender: broadcast::Sender<News>,
    followed: Mutex<Followed>,
    /// So that a fetch takes no lock where nobody watches anything.
    places: AtomicUsize,
    ids: hmac::Key,
}

#[derive(Default)]
struct Followed {
    sequence: u64,
    remembered: VecDeque<News>,
    known: HashMap<Place, Known>,
}

struct Known {
    watchers: usize,
    /// `None` as long as no fetch has told.
    version: Option<Option<Arc<str>>>,
    /// When a fetch last told.
    read: Option<Instant>,
    /// The sequence from which on no change was missed.
    since: u64,
    /// When the last watcher went.
    left: Option<Instant>,
}

/// Hears of changes of some secrets, until it is dropped.
pub struct Watch {
    changes: Arc<Changes>,
    receiver: broadcast::Receiver<News>,
    places: Vec<Place>,
}

// === impl Changes ===

impl Changes {
    pub(super) fn new() -> Arc<Self> {
        // Without random bytes nobody's place is known again, which is all there is to it.
        let mut key = [0; 32];
        let _ = aws_lc_rs::rand::fill(&mut key);
        Arc::new(Self {
            sender: broadcast::channel(REMEMBERED).0,
            followed: Mutex::default(),
            places: AtomicUsize::new(0),
            ids: hmac::Key::new(hmac::HMAC_SHA256, &key),
        })
    }

    /// Follows these secrets. `last` is the id of the last change that the watcher saw.
    pub(super) fn watch(
        self: &Arc<Self>,
        places: Vec<Place>,
        last: Option<&str>,
    ) -> (Watch, Missed) {
        let mut followed = self.followed();
        // Under the lock: what is found from now on comes this way.
        let receiver = self.sender.subscribe();
        let last = last.and_then(|id| self.sequence_of(id));
        let missed = last.and_then(|last| followed.after(last, &places));
        let since = followed.sequence;
        for place in &places {
            let known = followed.known.entry(place.clone()).or_insert_with(|| Known {
                watchers: 0,
                version: None,
                read: None,
                since,
                left: None,
            });
            known.watchers += 1;
            known.left = None;
        }
        self.places.store(followed.known.len(), Ordering::Release);
        drop(followed);
        let watch = Watch { changes: Arc::clone(self), receiver, places };
        (watch, missed.map_or(Missed::Unknown, Missed::News))
    }

    /// A fetch found this version, or that there is none.
    pub(super) fn found(&self, place: impl FnOnce() -> Place, version: Option<&Arc<str>>) {
        if self.places.load(Ordering::Acquire) == 0 {
            return;
        }
        let place = place();
        let mut followed = self.followed();
        let sequence = followed.sequence + 1;
        let Some(known) = followed.known.get_mut(&place) else { return };
        known.read = Some(Instant::now());
        let before = known.version.replace(version.cloned());
        match before {
            Some(before) if before.as_ref() != version => {}
            Some(_) | None => return,
        }
        let news = News::Version { place, version: version.cloned(), sequence };
        followed.sequence = sequence;
        if followed.remembered.len() == REMEMBERED {
            followed.remembered.pop_front();
        }
        followed.remembered.push_back(news.clone());
        // Under the lock, so that all hear of it in order. Nobody listens: so be it.
        let _ = self.sender.send(news);
    }

    /// What is known of a secret may have changed.
    pub(super) fn outdated(&self, place: impl FnOnce() -> Place) {
        if self.places.load(Ordering::Acquire) == 0 {
            return;
        }
        let place = place();
        let mut followed = self.followed();
        if let Some(known) = followed.known.get_mut(&place) {
            known.read = None;
            let _ = self.sender.send(News::Outdated { place });
        }
    }

    /// The same of all names that begin with this segment.
    pub(super) fn outdated_segment(
        &self,
        backend: &BackendName,
        namespace: Option<&str>,
        segment: &str,
    ) {
        if self.places.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut followed = self.followed();
        for (place, known) in &mut followed.known {
            if place.backend == *backend
                && place.namespace.as_deref() == namespace
                && first_segment(&place.name) == segment
            {
                known.read = None;
                let _ = self.sender.send(News::Outdated { place: place.clone() });
            }
        }
    }

    /// The same of all names of a store.
    pub(super) fn outdated_all(&self, backend: &BackendName) {
        if self.places.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut followed = self.followed();
        let of_it = followed.known.iter_mut().filter(|(place, _)| place.backend == *backend);
        of_it.for_each(|(_, known)| known.read = None);
        // One for all: there may be more of them than a watcher may be behind.
        let _ = self.sender.send(News::AllOutdated { backend: backend.clone() });
    }

    /// Lets go of names that nobody has watched for long.
    pub(super) fn tidy(&self) {
        let mut followed = self.followed();
        let lingering = |known: &Known| known.left.is_some();
        followed.known.retain(|_, known| known.left.is_none_or(|left| left.elapsed() < LINGER));
        if followed.known.values().filter(|known| lingering(known)).count() > MOST_LINGERING {
            followed.known.retain(|_, known| !lingering(known));
        }
        self.places.store(followed.known.len(), Ordering::Release);
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a place in the order of changes. It tells nobody how many there are of
    /// secrets that are not theirs: each time it looks different.
    fn id(&self, sequence: u64) -> String {
        let nonce = fastrand::u64(..).to_be_bytes();
        let hidden = (sequence ^ self.mask(b"mask", &nonce)).to_be_bytes();
        let tag = self.mask(b"mark", &[nonce, hidden].concat()).to_be_bytes();
        let mut id = String::with_capacity(48);
        for byte in nonce.into_iter().chain(hidden).chain(tag) {
            let _ = write!(id, "{byte:02x}");
        }
        id
    }

    fn sequence_of(&self, id: &str) -> Option<u64> {
        let plain = id.len() == 48 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let part = |at: usize| u64::from_str_radix(id.get(at..at + 16)?, 16).ok();
        let (nonce, hidden, tag) = match plain {
            true => (part(0)?.to_be_bytes(), part(16)?.to_be_bytes(), part(32)?),
            false => return None,
        };
        let ours = self.mask(b"mark", &[nonce, hidden].concat()) == tag;
        ours.then(|| u64::from_be_bytes(hidden) ^ self.mask(b"mask", &nonce))
    }

    fn mask(&self, purpose: &[u8], text: &[u8]) -> u64 {
        let tag = hmac::sign(&self.ids, &[purpose, text].concat());
        let mut first = [0; 8];
        first.copy_from_slice(&tag.as_ref()[..8]);
        u64::from_be_bytes(first)
    }
}

// === impl Followed ===

impl Followed {
    /// What changed of these places after `last`; `None` if some of it is not known.
    fn after(&self, last: u64, places: &[Place]) -> Option<Vec<News>> {
        let followed = |place| self.known.get(place).is_some_and(|known| known.since <= last);
        let oldest = self.sequence - self.remembered.len() as u64;
        if last > self.sequence || last < oldest || !places.iter().all(followed) {
            return None;
        }
        let missed = self.remembered.iter().filter(|news| match news {
            News::Version { place, sequence, .. } => *sequence > last && places.contains(place),
            News::Outdated { .. } | News::AllOutdated { .. } => false,
        });
        Some(missed.cloned().collect())
    }
}

// === impl Watch ===

impl Watch {
    /// The next news of these secrets.
    ///
    /// # Errors
    /// [`Lagged`]: some are lost, so that there is no telling what did not change.
    pub async fn next(&mut self) -> Result<News, Lagged> {
        loop {
            match self.receiver.recv().await {
                Ok(news) if news.is_of(&self.places) => return Ok(news),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Err(Lagged),
                // The sender lives as long as we do.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The id of all that has been told up to a change, or up to now.
    #[must_use]
    pub fn id(&self, sequence: Option<u64>) -> String {
        let sequence = sequence.unwrap_or_else(|| self.changes.followed().sequence);
        self.changes.id(sequence)
    }

    /// Whether the store has been asked about a secret within `period`, by anyone.
    #[must_use]
    pub fn is_fresh(&self, place: &Place, period: Duration) -> bool {
        let followed = self.changes.followed();
        let read = followed.known.get(place).and_then(|known| known.read);
        read.is_some_and(|read| read.elapsed() < period)
    }

    /// What the last fetch found, if there was one.
    #[must_use]
    pub fn known(&self, place: &Place) -> Option<Option<Arc<str>>> {
        self.changes.followed().known.get(place)?.version.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut followed = self.changes.followed();
        for place in &self.places {
            if let Some(known) = followed.known.get_mut(place) {
                known.watchers -= 1;
                known.left = (known.watchers == 0).then(Instant::now);
            }
        }
    }
}

// === impl News ===

impl News {
    fn is_of(&self, places: &[Place]) -> bool {
        match self {
            Self::Version { place, .. } | Self::Outdated { place } => places.contains(place),
            Self::AllOutdated { backend } => places.iter().any(|it| it.backend == *backend),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture,
        secret::{NameEncoding, NameGrammar},
    };

    fn place(name: &str) -> Place {
        let name = NameGrammar::new("/_+=.@-", 512).canonical(name, NameEncoding::Plain);
        Place { backend: fixture::local(), namespace: None, name: name.expect("valid") }
    }

    fn find(changes: &Changes, name: &str, version: Option<&str>) {
        let version = version.map(Arc::from);
        changes.found(|| place(name), version.as_ref());
    }

    async fn next(watch: &mut Watch) -> Option<(String, Option<String>)> {
        let news = tokio::time::timeout(Duration::from_millis(1), watch.next()).await.ok()?;
        match news.expect("not lagging") {
            News::Version { place, version, .. } => {
                Some((place.name.to_string(), version.map(|version| version.to_string())))
            }
            News::Outdated { place } => Some((place.name.to_string(), Some("outdated".into()))),
            News::AllOutdated { backend } => Some((backend.to_string(), Some("all".into()))),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_another_version_of_a_watched_secret_is_news() {
        let changes = Changes::new();
        find(&changes, "a", Some("0"));
        let (mut watch, missed) = changes.watch(vec![place("a"), place("b")], None);
        assert_eq!(missed, Missed::Unknown);
        for version in ["1", "1"] {
            find(&changes, "a", Some(version));
        }
        assert_eq!(next(&mut watch).await, None, "the first that is heard of is no change");
        find(&changes, "c", Some("1"));
        find(&changes, "c", Some("2"));
        find(&changes, "a", Some("2"));
        find(&changes, "a", None);
        changes.outdated(|| place("b"));
        assert_eq!(next(&mut watch).await, Some(("a".into(), Some("2".into()))));
        assert_eq!(next(&mut watch).await, Some(("a".into(), None)));
        assert_eq!(next(&mut watch).await, Some(("b".into(), Some("outdated".into()))));
        assert_eq!(next(&mut watch).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_watches_a_store_hears_what_is_outdated_there() {
        let changes = Changes::new();
        let places = vec![place("a/x"), place("a/y"), place("b"), place("ab/x")];
        let (mut watch, _) = changes.watch(places, None);
        let (local, other) = (fixture::local(), BackendName::parse("other").expect("valid"));
        changes.outdated_segment(&local, Some("prod"), "a");
        changes.outdated_segment(&other, None, "a");
        changes.outdated_segment(&local, None, "none");
        changes.outdated_all(&other);
        assert_eq!(next(&mut watch).await, None);
        changes.outdated_segment(&local, None, "a");
        let told = [next(&mut watch).await, next(&mut watch).await];
        for name in ["a/x", "a/y"] {
            assert!(told.contains(&Some((name.into(), Some("outdated".into())))), "{told:?}");
        }
        changes.outdated_all(&local);
        assert_eq!(next(&mut watch).await, Some(("local".into(), Some("all".into()))));
        assert_eq!(next(&mut watch).await, None);
        for name in ["a/x", "b"] {
            assert!(!watch.is_fresh(&place(name), Duration::from_secs(60)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_hears_what_it_missed_or_that_nobody_knows() {
        let changes = Changes::new();
        let (watch, _) = changes.watch(vec![place("a")], None);
        find(&changes, "a", Some("1"));
        let start = watch.id(None);
        find(&changes, "a", Some("2"));
        let after_two = watch.id(None);
        assert_ne!(watch.id(None), after_two, "ids cannot be compared");
        drop(watch);
        find(&changes, "a", Some("3"));
        let missed = |names: &[&str], id: &str| {
            let places = names.iter().map(|name| place(name)).collect();
            match changes.watch(places, Some(id)).1 {
                Missed::Unknown => None,
                Missed::News(news) => Some(news.len()),
            }
        };
        assert_eq!(missed(&["a"], &start), Some(2));
        assert_eq!(missed(&["a"], &after_two), Some(1));
        assert_eq!(missed(&["a", "b"], &after_two), None, "b was not followed then");
        let forged = format!("{}0", &start[..47]);
        let forged = if forged == start { format!("{}1", &start[..47]) } else { forged };
        for id in ["", "1", &forged, &Changes::new().id(1), &"é".repeat(24)] {
            assert_eq!(missed(&["a"], id), None, "{id}");
        }
        // More than is remembered.
        for version in 0..=REMEMBERED {
            find(&changes, "a", Some(&version.to_string()));
        }
        assert_eq!(missed(&["a"], &after_two), None);
        // Nobody was there for long.
        let now = changes.watch(vec![place("a")], None).0.id(None);
        assert_eq!(missed(&["a"], &now), Some(0));
        tokio::time::advance(LINGER).await;
        changes.tidy();
        assert_eq!(missed(&["a"], &now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_does_not_listen_is_told_that_it_lost_something() {
        let changes = Changes::new();
        let (mut watch, _) = changes.watch(vec![place("a")], None);
        for version in 0..=2 * REMEMBERED {
            find(&changes, "a", Some(&version.to_string()));
        }
        assert_eq!(watch.next().await, Err(Lagged));
    }
}
