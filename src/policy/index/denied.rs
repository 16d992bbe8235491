//! Whom Deny policies that cannot be read are about.

use super::{condition::Condition, subjects::SubjectMap};
use crate::{identity::Principal, policy::problem::Subjects};

/// Principals that are denied everything.
#[derive(Default)]
pub(in crate::policy) struct Denied(SubjectMap<Vec<Condition>>);

// === impl Denied ===

impl Denied {
    pub(in crate::policy) fn new(denied: &[Subjects]) -> Self {
        let mut map = SubjectMap::<Vec<Condition>>::default();
        for from in denied.iter().flat_map(|subjects| subjects.0.iter()) {
            map.fill(from, |place, condition| {
                if !place.contains(&condition) {
                    place.push(condition);
                }
            });
        }
        Self(map)
    }

    pub(in crate::policy) fn contains(&self, principal: &Principal) -> bool {
        self.0.of(principal).flatten().any(|condition| condition.holds(principal))
    }
}
