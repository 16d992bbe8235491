//! A value that was read, and how it was had.

use super::{Freshness, ResolveError, field};
use crate::{policy::Permit, secret::SecretRecord};

/// A value, and how it was had.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The value.
    pub record: SecretRecord,
    /// How it was had.
    pub origin: Origin,
}

/// How a value was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the cache, fresh or while it is fetched anew.
    Cache(Freshness),
    /// From the cache, because its store could not answer.
    Spare(Freshness),
    /// From its store.
    Store {
        /// By a fetch that was under way for another caller.
        joined: bool,
        /// Because the caller asked for it.
        past_cache: bool,
    },
}

// === impl Resolved ===

impl Resolved {
    /// The part that the permit is for.
    pub(super) fn part(self, permit: &Permit) -> Result<Self, ResolveError> {
        let Some(field) = &permit.secret().field else { return Ok(self) };
        let record = field::extract(self.record, field).ok_or(ResolveError::NoField)?;
        Ok(Self { record, ..self })
    }
}
