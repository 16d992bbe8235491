//! Many reads at once.

use futures_util::{StreamExt, stream};

use super::{Call, ResolveError, Resolved, Resolver};
use crate::policy::{Permit, Verb};

/// Reads of one batch that are under way at a time.
const PARALLEL: usize = 8;

// === impl Resolver ===

impl Resolver {
    /// Reads as [`Resolver::resolve`] does, each permit's value in its place. What several
    /// permits are for, be it different fields of it, is fetched once.
    pub async fn read_each(
        &self,
        permits: &[Permit],
        call: impl Into<Call>,
    ) -> Vec<Result<Resolved, ResolveError>> {
        let call = &call.into();
        let same = |a: &Permit, b: &Permit| {
            let (a, b) = (a.secret(), b.secret());
            a.backend == b.backend && a.name == b.name && a.version == b.version
        };
        // There are few of them: not worth a map.
        let first_of = |permit| permits.iter().position(|other| same(permit, other));
        let firsts: Vec<usize> = permits.iter().filter_map(first_of).collect();
        let mut reads = Vec::new();
        for (at, permit) in permits.iter().enumerate() {
            if firsts[at] == at {
                reads.push(self.read_at(at, permit, call));
            }
        }
        let found: Vec<_> = stream::iter(reads).buffer_unordered(PARALLEL).collect().await;
        let of = |(permit, first): (&Permit, &usize)| {
            let found = found.iter().find(|(at, _)| at == first);
            let whole = found.map_or(Err(ResolveError::Internal), |(_, found)| found.clone());
            whole.and_then(|whole| whole.part(permit))
        };
        permits.iter().zip(&firsts).map(of).collect()
    }

    async fn read_at(
        &self,
        at: usize,
        permit: &Permit,
        call: &Call,
    ) -> (usize, Result<Resolved, ResolveError>) {
        match permit.verb() {
            Verb::Get => (at, self.whole(permit, call, false).await),
            _ => (at, Err(ResolveError::Internal)),
        }
    }
}
