//! Many secrets in one request, each decided and told on its own.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{
    json::{Object, json, parse},
    message::{BatchGet, BatchGetAnswer, BatchGetError, BatchGetItem, BatchGetSecret},
    problem::Problem,
    secrets::{Call, shown},
};
use crate::{
    audit::Operation,
    policy::{CollectionPermit, Permit, Verb},
    secret::{Catalog, NameEncoding, SecretField, SecretRef, SecretVersion},
};

/// The most secrets of one batch.
pub(super) const MOST_ITEMS: usize = 100;
/// As much of what was asked for is repeated.
const MAX_NAME: usize = 512;

// === impl Call ===

impl Call<'_> {
    pub(super) async fn batch_get(&self, body: &[u8]) -> Result<Response<Bytes>, Problem> {
        // Whoever may get nothing is told so, as the mesh tells it.
        let any = self.snapshot.policies.authorize_collection(self.principal, Verb::Get);
        if let Err(denial) = any.as_ref().map(CollectionPermit::decision) {
            let asked = || Some(Operation::collection(Verb::Get, None));
            self.recorder.record(Err(denial), Some(self.principal), asked);
        }
        any?;
        let BatchGet { secrets } = parse(body)?;
        let items: Vec<BatchGetItem> = secrets.into_iter().map(|Object(item)| item).collect();
        if items.len() > MOST_ITEMS {
            return Err(Problem::body(format!("secrets has more than {MOST_ITEMS} entries")));
        }
        for (at, item) in items.iter().enumerate() {
            item.check(at)?;
        }
        let catalog = &self.snapshot.catalog;
        let (mut permits, mut places, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (at, item) in items.iter().enumerate() {
            // The first is what the request itself has taken.
            let share = match at {
                0 => Ok(()),
                _ => self.share(),
            };
            let permit = share
                .and_then(|()| item.located(catalog))
                .and_then(|it| Ok(self.authorize(Verb::Get, &it)?));
            match permit {
                Ok(permit) => {
                    permits.push(permit);
                    places.push(at);
                }
                Err(problem) => problems.push((at, problem)),
            }
        }
        let found = self.snapshot.resolver.read_each(&permits, self.call()).await;
        let mut secrets = Vec::new();
        for ((at, permit), found) in places.iter().zip(&permits).zip(&found) {
            match found {
                Ok(found) => {
                    let secret = shown(Permit::secret(permit), &found.record);
                    secrets.push(BatchGetSecret { index: *at, secret });
                }
                Err(error) => problems.push((*at, error.clone().into())),
            }
        }
        problems.sort_by_key(|(at, _)| *at);
        let error = |(at, problem): &(usize, Problem)| BatchGetError {
            index: *at,
            name: items[*at].asked_for(),
            code: problem.code(),
            error: problem.error().to_owned(),
            retry_after: problem.retry_after(),
        };
        let errors = problems.iter().map(error).collect();
        Ok(json(StatusCode::OK, &BatchGetAnswer { secrets, errors }))
    }
}

// === impl BatchGetItem ===

impl BatchGetItem {
    /// What makes the whole request unclear, rather than one secret of it unknown.
    fn check(&self, at: usize) -> Result<(), Problem> {
        let parts = [&self.backend, &self.version, &self.field];
        match (&self.name, &self.r#ref) {
            (Some(_), None) => Ok(()),
            (None, Some(_)) if parts.iter().all(|part| part.is_none()) => Ok(()),
            (None, Some(_)) => Err(Problem::body(format!(
                "secrets[{at}].ref has backend, version and field in it"
            ))),
            (None, None) | (Some(_), Some(_)) => {
                Err(Problem::body(format!("secrets[{at}] needs either name or ref")))
            }
        }
    }

    fn located(&self, catalog: &Catalog) -> Result<SecretRef, Problem> {
        let Self { name, r#ref, backend, version, field } = self;
        if let Some(reference) = r#ref {
            return Ok(catalog.parse_reference(reference)?);
        }
        let name = name.as_deref().unwrap_or_default();
        let mut secret = catalog.locate(name, NameEncoding::Plain, backend.as_deref())?;
        secret.version =
            version.as_deref().map(SecretVersion::parse).transpose()?.unwrap_or_default();
        secret.field = field.as_deref().map(SecretField::parse).transpose()?;
        Ok(secret)
    }

    fn asked_for(&self) -> &str {
        let whole = self.name.as_deref().or(self.r#ref.as_deref()).unwrap_or_default();
        &whole[..whole.floor_char_boundary(MAX_NAME)]
    }
}
