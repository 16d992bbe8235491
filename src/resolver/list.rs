//! What is asked anew each time: names and versions.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache as MokaCache;
use tokio::time::timeout_at;

use super::{
    Call, MOST_NAMES, ResolveError, Resolver, share_of,
    upstream::{Class, Operation, Upstream},
};
use crate::{
    backends::{BackendError, VersionEntry},
    identity::Principal,
    policy::{CollectionPermit, Permit, Verb},
    secret::{BackendName, SecretName},
};

/// How long a listing serves the pages after its first.
const KEPT: Duration = Duration::from_secs(60);
/// The bytes of listings that are kept.
const KEPT_BYTES: u64 = 16 << 20;
/// What a name costs beyond its text, roughly.
const NAME_OVERHEAD: usize = 32;
/// Names that are looked at before others get the thread.
const NAMES_AT_A_TIME: usize = 2048;

/// Which part of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// What the names begin with.
    pub prefix: &'a str,
    /// The last name of the part before; none for the first part.
    pub after: Option<&'a str>,
    /// The most names in it.
    pub limit: usize,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamePage {
    /// In order.
    pub names: Vec<SecretName>,
    /// Whether the caller may see any after these.
    pub more: bool,
}

/// Whole listings, whoever asked for them: what a caller may see of one is decided on
/// each page.
#[derive(Clone)]
pub(super) struct Listings(MokaCache<ListingKey, Arc<[SecretName]>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct ListingKey {
    store: u64,
    /// Only for stores whose secrets live in their callers' namespaces.
    namespace: Option<Arc<str>>,
}

// === impl Listings ===

impl Listings {
    pub(super) fn new() -> Self {
        let weight = |_: &ListingKey, names: &Arc<[SecretName]>| {
            let bytes = names.iter().map(|name| name.as_str().len() + NAME_OVERHEAD).sum::<usize>();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let kept = MokaCache::builder().max_capacity(KEPT_BYTES).weigher(weight);
        Self(kept.time_to_live(KEPT).build())
    }

    pub(super) fn tidy(&self) {
        self.0.run_pending_tasks();
    }
}

// === impl Resolver ===

impl Resolver {
    /// Lists the names in one backend that the permit admits, in order.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn list(
        &self,
        permit: &CollectionPermit,
        backend: &BackendName,
        call: impl Into<Call>,
    ) -> Result<Vec<SecretName>, ResolveError> {
        self.list_under(permit, backend, "", call).await
    }

    /// The same, as far as names begin with `prefix`.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn list_under(
        &self,
        permit: &CollectionPermit,
        backend: &BackendName,
        prefix: &str,
        call: impl Into<Call>,
    ) -> Result<Vec<SecretName>, ResolveError> {
        let admitted =
            |name: &SecretName| name.as_str().starts_with(prefix) && permit.admits(backend, name);
        self.walk(permit, backend, &call.into(), admitted).await
    }

    /// As [`Resolver::list`], a part of it. The first part is as the store has it now; the
    /// others are of a listing that may be a minute old, so that the store, which has its
    /// names in no useful order, need not list them all for each.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn page(
        &self,
        permit: &CollectionPermit,
        backend: &BackendName,
        page: Page<'_>,
        call: impl Into<Call>,
    ) -> Result<NamePage, ResolveError> {
        let call = call.into();
        let upstream = self.shared.upstream(backend)?;
        let namespace = upstream.store.is_per_namespace().then(|| permit.principal().namespace());
        let key = ListingKey { store: upstream.id, namespace: namespace.map(Into::into) };
        let kept = page.after.and_then(|_| self.shared.listings.0.get(&key));
        let names: Arc<[SecretName]> = match kept {
            Some(names) => names,
            None => {
                let names = self.walk(permit, backend, &call, |_| true).await?;
                let names = Arc::<[SecretName]>::from(names);
                self.shared.listings.0.insert(key, Arc::clone(&names));
                names
            }
        };
        let start = names.partition_point(|name| match page.after {
            Some(after) if after >= page.prefix => name.as_str() <= after,
            _ => name.as_str() < page.prefix,
        });
        let mut found = NamePage::default();
        for (looked_at, name) in names[start..].iter().enumerate() {
            if !name.as_str().starts_with(page.prefix) {
                break;
            }
            // A caller that may list little of much does not hold the thread for all of it.
            if looked_at % NAMES_AT_A_TIME == NAMES_AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
            if !permit.admits(backend, name) {
                continue;
            }
            if found.names.len() == page.limit {
                found.more = true;
                break;
            }
            found.names.push(name.clone());
        }
        Ok(found)
    }

    /// All names of a store that are to be kept, in order.
    async fn walk(
        &self,
        permit: &CollectionPermit,
        backend: &BackendName,
        call: &Call,
        keep: impl Fn(&SecretName) -> bool,
    ) -> Result<Vec<SecretName>, ResolveError> {
        if permit.verb() != Verb::List {
            return Err(ResolveError::Internal);
        }
        let upstream = Arc::clone(self.shared.upstream(backend)?);
        let store = upstream.store.within(permit.principal().namespace());
        let (mut names, mut listed) = (Vec::new(), 0);
        let mut cursor: Option<Arc<str>> = None;
        loop {
            let (store, from) = (Arc::clone(&store), cursor.clone());
            let page = move || {
                let (store, from) = (Arc::clone(&store), from.clone());
                async move { store.list(from.as_deref()).await }
            };
            let page =
                self.ask_once(&upstream, "list", None, (call, permit.principal()), page).await?;
            listed += page.names.len();
            names.extend(page.names.into_iter().filter(&keep));
            let next = page.cursor.map(Arc::from);
            let refused = |text: &str| ResolveError::Backend {
                backend: backend.clone(),
                error: BackendError::Invalid(text.to_owned()),
            };
            match next {
                None => break,
                // A store that goes in circles would keep us until the deadline.
                Some(next) if cursor.as_ref() == Some(&next) => {
                    return Err(refused("its listing does not move on"));
                }
                Some(_) if listed > MOST_NAMES => {
                    return Err(refused("it lists more than 100000 names"));
                }
                Some(next) => cursor = Some(next),
            }
        }
        names.sort_unstable();
        // Between two pages a store may move a name.
        names.dedup();
        Ok(names)
    }

    /// Lists the versions of the secret that a `get` permit is for.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn versions(
        &self,
        permit: &Permit,
        call: impl Into<Call>,
    ) -> Result<Vec<VersionEntry>, ResolveError> {
        if permit.verb() != Verb::Get {
            return Err(ResolveError::Internal);
        }
        let (secret, call) = (permit.secret(), call.into());
        let upstream = Arc::clone(self.shared.upstream(&secret.backend)?);
        let (store, name) =
            (upstream.store.within(permit.principal().namespace()), secret.name.clone());
        let versions = move || {
            let (store, name) = (Arc::clone(&store), name.clone());
            async move { store.versions(&name).await }
        };
        let asked = (&call, permit.principal());
        self.ask_once(&upstream, "versions", Some(&secret.name), asked, versions).await
    }

    /// Asks something that is not cached. In a task of its own: a caller that gives up
    /// says nothing about the store.
    async fn ask_once<T, F>(
        &self,
        upstream: &Arc<Upstream>,
        word: &'static str,
        name: Option<&SecretName>,
        (call, principal): (&Call, &Principal),
        ask: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<T, ResolveError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BackendError>> + Send,
    {
        let (upstream, until) = (Arc::clone(upstream), self.shared.until());
        let (name, request_id) = (name.cloned(), call.request_id.clone());
        let principal = share_of(principal);
        let asking = tokio::spawn(async move {
            let operation = Operation {
                word,
                class: Class::List,
                name: name.as_ref(),
                repeatable: true,
                request_id,
                principal,
            };
            let answer = upstream.call(operation, until, ask).await;
            answer.map_err(|error| ResolveError::Backend { backend: upstream.name.clone(), error })
        });
        match timeout_at(call.deadline, asking).await {
            Err(_) => Err(ResolveError::Deadline),
            Ok(Err(_)) => Err(ResolveError::Internal),
            Ok(Ok(answer)) => answer,
        }
    }
}
