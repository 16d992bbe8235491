//! What is asked anew each time: names and versions.

use std::sync::Arc;

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

// === impl Resolver ===

impl Resolver {
    /// Lists the names in one backend that the permit admits.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn list(
        &self,
        permit: &CollectionPermit,
        backend: &BackendName,
        call: impl Into<Call>,
    ) -> Result<Vec<SecretName>, ResolveError> {
        if permit.verb() != Verb::List {
            return Err(ResolveError::Internal);
        }
        let call = call.into();
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
                self.ask_once(&upstream, "list", None, (&call, permit.principal()), page).await?;
            listed += page.names.len();
            names.extend(page.names.into_iter().filter(|name| permit.admits(backend, name)));
            let next = page.cursor.map(Arc::from);
            let refused = |text: &str| ResolveError::Backend {
                backend: backend.clone(),
                error: BackendError::Invalid(text.to_owned()),
            };
            match next {
                None => return Ok(names),
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
