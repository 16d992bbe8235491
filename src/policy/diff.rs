//! What two sets of policies decide differently: found by asking, never by comparing texts.
//!
//! Say that the second set allows a question that the first does not. Then an Allow of the
//! second holds for it, and in the first either a Deny holds or no Allow does. Whatever else
//! is true of the question only adds rules that hold. So it is enough to ask, for every Allow
//! of the second, one question that as few other rules as possible hold for; and for every
//! Deny of the first one more, within both. What makes rules hold for fewer are exceptions, so
//! all of that is asked again among those whom any exception names. A pair that both sets
//! have decides alike in both: only what one of them lacks is looked at. [`Sample`] makes
//! the questions, and no difference is reported that was not seen in an answer.

mod narrow;

use std::{collections::HashSet, sync::Arc};

use self::narrow::{narrowed, pieces};
use super::{
    PolicySet, Reason,
    region::{
        Ask, Bound, Cell, Piece, RuleRef, Sample, TooMuch, What, Whom, cells, has_placeholder,
        unify,
    },
    rule::Pattern,
};
use crate::{
    identity::{Principal, ProofSet, TrustDomain},
    secret::{Catalog, SecretRef},
};

/// Pairs of rules and questions that are looked at, at most.
const MAX_STEPS: u64 = 100_000_000;

/// Access that some callers gain or lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Gained, or else lost.
    pub gained: bool,
    /// Who.
    pub whom: Whom,
    /// Only some of them: of those whose namespace and service account are alike in part.
    pub only_some: bool,
    /// In which trust domain.
    pub trust_domain: TrustDomain,
    /// Proven at least so.
    pub proofs: ProofSet,
    /// Whether by a token that is bound to a pod.
    pub bound_to_pod: bool,
    /// What; names may hold `{namespace}` and `{serviceAccount}`.
    pub piece: Piece,
    /// The rule that gives the access, in the set that has it.
    pub rule: RuleRef,
    /// The Deny that takes it away, in the set that has not.
    pub denied_by: Option<RuleRef>,
    /// A caller and a question that are decided differently.
    pub witness: (Principal, Ask),
}

/// Both sets, as seen from the one that allows.
struct Comparison<'c, 'p> {
    gained: bool,
    allowing: &'c Arc<PolicySet>,
    other: &'c Arc<PolicySet>,
    denies: &'c [Cell<'p>],
    /// Exceptions, everyone first.
    classes: &'c [Whom],
    sample: &'c Sample<'c>,
    steps: &'c mut u64,
    changes: &'c mut Vec<Change>,
}

/// A pair of rules that is looked at, or an Allow alone, and one piece of what it allows.
#[derive(Clone, Copy)]
struct Look<'l, 'p> {
    allow: &'l Cell<'p>,
    piece: &'l Piece,
    deny: Option<&'l Cell<'p>>,
    domain: &'l TrustDomain,
    proofs: (ProofSet, bool),
}

/// What the second set allows and the first does not, and the other way round, in the order of
/// policies and rules. `progress` is told how many of how many rules were looked at.
///
/// # Errors
/// [`TooMuch`] if that cannot be told in sensible time.
pub fn diff(
    old: &Arc<PolicySet>,
    new: &Arc<PolicySet>,
    catalog: &Catalog,
    trust_domains: &[TrustDomain],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Change>, TooMuch> {
    let policies = || old.policies.policies.iter().chain(new.policies.policies.iter());
    let sample = Sample::new(policies(), "", catalog, trust_domains);
    let mut classes: Vec<Whom> = policies()
        .filter(|policy| !policy.audit)
        .flat_map(|policy| policy.from.iter())
        .flat_map(|from| from.except.whoms())
        .collect();
    classes.sort();
    classes.dedup();
    classes.insert(0, Whom::everyone());
    let (old_cells, new_cells) = (cells(&old.policies.policies)?, cells(&new.policies.policies)?);
    let old_keys: HashSet<_> = old_cells.iter().map(Cell::key).collect();
    let new_keys: HashSet<_> = new_cells.iter().map(Cell::key).collect();
    let total = old_cells.len() + new_cells.len();
    let (mut steps, mut done, mut changes) = (0, 0, Vec::new());
    let sides = [
        (true, (new, &new_cells, &new_keys), (old, &old_cells, &old_keys)),
        (false, (old, &old_cells, &old_keys), (new, &new_cells, &new_keys)),
    ];
    for (gained, (allowing, allows, allowing_keys), (other, others, other_keys)) in sides {
        let denies = |all: bool| -> Vec<_> {
            let denies = others.iter().filter(|cell| !cell.policy.allow);
            denies.filter(|cell| all || !allowing_keys.contains(&cell.key())).cloned().collect()
        };
        let (all, missing) = (denies(true), denies(false));
        for allow in allows {
            progress(done, total);
            done += 1;
            if !allow.policy.allow {
                continue;
            }
            let changed = !other_keys.contains(&allow.key());
            let denies: &[_] = if changed { &all } else { &missing };
            if !changed && denies.is_empty() {
                continue;
            }
            Comparison {
                gained,
                allowing,
                other,
                denies,
                classes: &classes,
                sample: &sample,
                steps: &mut steps,
                changes: &mut changes,
            }
            .look(allow, changed)?;
        }
    }
    let listed: HashSet<_> = changes
        .iter()
        .filter_map(|change| match &change.piece {
            Piece::Secret { verb, .. } => Some((change.key(), *verb, change.whom.clone())),
            _ => None,
        })
        .collect();
    // Whoever gains the right to list something may ask for the list: that is no news.
    changes.retain(|change| match &change.piece {
        Piece::Collection(verb) => !listed.contains(&(change.key(), *verb, change.whom.clone())),
        _ => true,
    });
    Ok(changes)
}

// === impl Change ===

impl Change {
    /// All that is the same of what one rule gives the same callers.
    fn key(&self) -> (bool, TrustDomain, ProofSet, bool, Arc<str>, usize) {
        let RuleRef { policy, rule, .. } = &self.rule;
        let domain = self.trust_domain.clone();
        (self.gained, domain, self.proofs, self.bound_to_pod, policy.clone(), *rule)
    }
}

// === impl Comparison ===

impl<'p> Comparison<'_, 'p> {
    fn look(&mut self, allow: &Cell<'p>, changed: bool) -> Result<(), TooMuch> {
        let near = self.denies.iter().filter(|deny| allow.whom.meet(&deny.whom).is_some());
        let near: Vec<_> = near.collect();
        self.step(self.denies.len())?;
        if !changed && near.is_empty() {
            return Ok(());
        }
        let domains = self.sample.domains_of(allow.from);
        let proofs = Sample::proofs(allow.from);
        for piece in pieces(allow, self.sample.catalog)? {
            for (domain, proofs) in
                domains.iter().flat_map(|one| proofs.iter().map(move |p| (one, *p)))
            {
                let look = Look { allow, piece: &piece, deny: None, domain, proofs };
                if changed {
                    // What is so for all of them need not be said of some of them again.
                    if self.among(&self.classes[..1], look)? {
                        continue;
                    }
                    self.among(&self.classes[1..], look)?;
                }
                for deny in &near {
                    let look = Look { deny: Some(*deny), ..look };
                    self.step(1)?;
                    if look.may_meet(deny) {
                        self.among(self.classes, look)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks among these classes of callers; whether any answer differs.
    fn among(&mut self, classes: &[Whom], look: Look<'_, 'p>) -> Result<bool, TooMuch> {
        let whom = match look.deny {
            None => Some(look.allow.whom.clone()),
            Some(deny) => look.allow.whom.meet(&deny.whom),
        };
        let Some(whom) = whom else { return Ok(false) };
        let mut differs = false;
        for class in classes {
            self.step(1)?;
            let Some(whom) = whom.meet(class) else { continue };
            for bound in look.bounds(&whom)? {
                differs |= self.ask(&bound, look)?;
            }
        }
        Ok(differs)
    }

    fn ask(&mut self, bound: &Bound, look: Look<'_, 'p>) -> Result<bool, TooMuch> {
        let mut differs = false;
        for account in self.sample.accounts(bound) {
            let named = |cell: &Cell<'_>| cell.from.names(&account);
            if !named(look.allow) || !look.deny.is_none_or(named) {
                continue;
            }
            let caller = self.sample.principal(&account, look.domain, look.proofs);
            let Some(caller) = caller else { continue };
            for ask in self.sample.asks(look.piece, look.allow, look.deny, &caller) {
                self.step(1)?;
                if self.differs(&ask, &caller) {
                    differs = true;
                    self.record(bound, look, &caller, ask);
                }
            }
        }
        Ok(differs)
    }

    fn differs(&self, ask: &Ask, caller: &Principal) -> bool {
        ask.decide(self.allowing, caller).is_ok() && ask.decide(self.other, caller).is_err()
    }

    fn record(&mut self, bound: &Bound, look: Look<'_, 'p>, caller: &Principal, ask: Ask) {
        let whom = bound.to_whom();
        let piece = narrowed(look, &whom, self.sample, caller, &ask);
        let rule = look.allow.rule_ref();
        let (proofs, bound_to_pod) = look.proofs;
        // Those of one rule follow one another.
        let said = self.changes.iter().rev().take_while(|one| one.rule == rule).take(500);
        let is_said = |one: &Change| {
            one.gained == self.gained
                && one.trust_domain == *look.domain
                && (one.proofs, one.bound_to_pod) == look.proofs
                && one.piece == piece
                && (one.only_some != bound.is_whole() || !one.only_some)
                && one.whom.meet(&whom).as_ref() == Some(&whom)
        };
        if said.into_iter().any(is_said) {
            return;
        }
        let ask = self.plainer(ask, caller);
        let denied_by = match ask.decide(self.other, caller) {
            Err(denial) if denial.reason == Reason::DeniedByPolicy => {
                let place = self.other.place(&denial.decision);
                let policy = denial.decision.policy.zip(denial.decision.rule).zip(place);
                policy.map(|((policy, rule), place)| RuleRef { policy, rule, place })
            }
            _ => None,
        };
        self.changes.push(Change {
            gained: self.gained,
            whom,
            only_some: !bound.is_whole(),
            trust_domain: look.domain.clone(),
            proofs,
            bound_to_pod,
            piece,
            rule,
            denied_by,
            witness: (caller.clone(), ask),
        });
    }

    /// The same question about the whole secret, if its answer differs too.
    fn plainer(&self, ask: Ask, caller: &Principal) -> Ask {
        let Ask::Secret(verb, secret, toward) = &ask else { return ask };
        let whole = SecretRef { field: None, ..(**secret).clone() };
        let whole = Ask::Secret(*verb, Box::new(whole), toward.clone());
        if self.differs(&whole, caller) { whole } else { ask }
    }

    fn step(&mut self, steps: usize) -> Result<(), TooMuch> {
        *self.steps += steps as u64;
        if *self.steps > MAX_STEPS { Err(TooMuch(MAX_STEPS)) } else { Ok(()) }
    }
}

// === impl Look ===

impl Look<'_, '_> {
    /// Whether the Deny could be about the piece, whoever asks.
    fn may_meet(&self, deny: &Cell<'_>) -> bool {
        let domains = &deny.from.trust_domains;
        (domains.is_empty() || domains.contains(self.domain))
            && match (self.piece, deny.what) {
                (Piece::Secret { verb, backend, .. }, What::Secrets(rule, pattern)) => {
                    rule.verbs.contains(*verb) && pattern.covers(backend)
                }
                (Piece::Collection(verb), What::Secrets(rule, _)) => rule.verbs.contains(*verb),
                (Piece::Http { .. } | Piece::Connection { .. }, What::Http(_)) => true,
                (Piece::Secret { .. } | Piece::Collection(_), What::Http(_))
                | (Piece::Http { .. } | Piece::Connection { .. }, What::Secrets(..)) => false,
            }
    }

    /// Who of them could be asked about something that both rules speak of.
    fn bounds(&self, whom: &Whom) -> Result<Vec<Bound>, TooMuch> {
        match (self.piece, self.allow.what, self.deny.map(|deny| deny.what)) {
            (
                Piece::Secret { .. },
                What::Secrets(_, Pattern { shape: ours, .. }),
                Some(What::Secrets(_, Pattern { shape: theirs, .. })),
            ) if has_placeholder(ours) || has_placeholder(theirs) => {
                unify(whom, ours, theirs).ok_or(TooMuch(MAX_STEPS))
            }
            _ => Ok(vec![Bound::of(whom)]),
        }
    }
}
