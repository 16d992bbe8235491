//! What one caller may reach: every rule that allows it something, with the names filled in,
//! and what Deny rules take away from that again.

use std::sync::Arc;

use super::{
    PolicySet,
    region::{Piece, RuleRef, Span, TooMuch, Toward, a_name, http_pieces, secret_pieces},
    rule::{Among, DestinationRule, HttpRule, Policy, SecretRule, Subject, Target},
};
use crate::{
    identity::{Principal, ProofKind, ProofSet, ServiceAccount},
    secret::{Catalog, SecretField},
};

/// Rules times Deny rules that are compared at most.
const MAX_COMPARED: u64 = 50_000_000;

/// Something that a caller may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reachable {
    /// The rule that allows it.
    pub rule: RuleRef,
    /// What it is.
    pub piece: Piece,
    /// What of it is denied.
    pub except: Vec<Exception>,
    /// Which proofs the caller would have to have for it, if those supposed are not enough.
    pub needs: Option<Needs>,
}

/// Proofs of an identity, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    /// The proofs.
    pub proofs: ProofSet,
    /// Whether the token must be bound to a pod.
    pub bound_to_pod: bool,
}

/// What a Deny takes away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exception {
    /// The Deny.
    pub rule: RuleRef,
    /// What both it and the Allow speak of. A field stands for all that is inside it or holds
    /// it, the whole value included; a request that does not show what is given here is
    /// denied, too.
    pub piece: Piece,
}

// === impl PolicySet ===

impl PolicySet {
    /// Everything that the principal may reach, in the order of policies and rules. Policies
    /// in audit mode do not count.
    ///
    /// # Errors
    /// [`TooMuch`] if that cannot be told in sensible time.
    pub fn reach(
        &self,
        principal: &Principal,
        catalog: &Catalog,
    ) -> Result<Vec<Reachable>, TooMuch> {
        let enforced = || self.policies.policies.iter().filter(|policy| !policy.audit);
        let account = principal.service_account();
        let domain = principal.trust_domain();
        let about = |from: &&Subject| {
            let domains = &from.trust_domains;
            from.names(account) && (domains.is_empty() || domains.contains(domain))
        };
        let denies: Vec<_> = enforced()
            .filter(|policy| !policy.allow && policy.from.iter().any(|from| about(&from)))
            .flat_map(|policy| (0..policy.to.len()).map(move |rule| (policy, rule)))
            .collect();
        let mut reachable = Vec::new();
        let mut compared: u64 = 0;
        for policy in enforced().filter(|policy| policy.allow) {
            let needs = needs(policy.from.iter().filter(about), principal);
            if needs.is_empty() {
                continue;
            }
            for (rule, target) in policy.to.iter().enumerate() {
                for piece in pieces(target, principal, catalog)? {
                    compared += denies.len() as u64 + 1;
                    if compared > MAX_COMPARED {
                        return Err(TooMuch(MAX_COMPARED));
                    }
                    let Some(except) = exceptions(&piece, &denies, principal) else { continue };
                    reachable.extend(needs.iter().map(|needs| Reachable {
                        rule: RuleRef::new(policy, rule),
                        piece: piece.clone(),
                        except: except.clone(),
                        needs: *needs,
                    }));
                }
            }
        }
        Ok(reachable)
    }
}

/// Which proofs a principal would need to be in one of the entries: the least ones, or only
/// none if its own are enough.
fn needs<'f>(from: impl Iterator<Item = &'f Subject>, who: &Principal) -> Vec<Option<Needs>> {
    let mut all: Vec<Needs> = Vec::new();
    for from in from {
        if from.is_proven_by(who) {
            return vec![None];
        }
        let mut proofs = who.proofs().union(from.require);
        let bound_to_pod = from.bound_to_pod || who.is_bound_to_pod();
        if bound_to_pod {
            proofs = proofs.with(ProofKind::Token);
        }
        let needs = Needs { proofs, bound_to_pod };
        if !all.iter().any(|less| needs.includes(less)) {
            all.retain(|more| !more.includes(&needs));
            all.push(needs);
        }
    }
    all.into_iter().map(Some).collect()
}

fn pieces(target: &Target, who: &Principal, catalog: &Catalog) -> Result<Vec<Piece>, TooMuch> {
    let rule = match target {
        Target::Http(rule) => return http_pieces(rule),
        Target::Secrets(rule) => rule,
    };
    let mut pieces = Vec::new();
    for pattern in &rule.patterns {
        if let Some(names) = Span::of_shape(&pattern.shape, who) {
            let fits = |grammar: &_| a_name(&names, grammar, "x").is_some();
            pieces.extend(secret_pieces(rule, pattern, &names, fits, catalog)?);
        }
    }
    Ok(pieces)
}

/// What the Deny rules take away of a piece; none if that is all of it.
fn exceptions(
    piece: &Piece,
    denies: &[(&Arc<Policy>, usize)],
    who: &Principal,
) -> Option<Vec<Exception>> {
    let mut all = Vec::new();
    for (policy, rule) in denies {
        let mut taken = Vec::new();
        match (&policy.to[*rule], piece) {
            (Target::Secrets(deny), Piece::Secret { .. }) => secrets(piece, deny, who, &mut taken),
            (Target::Http(deny), Piece::Http { .. }) => requests(piece, deny, &mut taken),
            (Target::Http(deny), Piece::Connection { destination }) => {
                let met = workloads(destination.as_ref(), &deny.destinations);
                taken.extend(met.into_iter().map(|destination| Piece::Connection { destination }));
            }
            (Target::Secrets(_), _) | (Target::Http(_), _) => {}
        }
        if taken.contains(piece) {
            return None;
        }
        if taken.is_empty() {
            continue;
        }
        taken.sort();
        taken.dedup();
        let rule = RuleRef::new(policy, *rule);
        all.extend(taken.into_iter().map(|piece| Exception { rule: rule.clone(), piece }));
    }
    Some(all)
}

fn secrets(piece: &Piece, deny: &SecretRule, who: &Principal, taken: &mut Vec<Piece>) {
    let Piece::Secret { backend, names, verb, field, toward } = piece else { return };
    if !deny.verbs.contains(*verb) {
        return;
    }
    let fields = match (field, deny.fields.as_slice()) {
        (field, []) => vec![field.clone()],
        (None, fields) => fields.iter().map(|one| Some(Arc::from(one.as_str()))).collect(),
        (Some(field), _) => {
            let asked = SecretField::parse(field).ok();
            let covered = deny.covers_field(false, asked.as_ref());
            if covered == super::rule::Held::No {
                return;
            }
            vec![Some(field.clone())]
        }
    };
    let anywhere = [DestinationRule::default()];
    let entries = if deny.destinations.is_empty() { &anywhere[..] } else { &deny.destinations };
    let towards: Vec<_> = entries.iter().flat_map(|entry| meet_toward(toward, entry)).collect();
    for pattern in deny.patterns.iter().filter(|pattern| pattern.covers(backend)) {
        let denied = Span::of_shape(&pattern.shape, who);
        let Some(names) = denied.and_then(|denied| names.meet(&denied)) else { continue };
        for field in &fields {
            taken.extend(towards.iter().map(|toward| Piece::Secret {
                backend: backend.clone(),
                names: names.clone(),
                verb: *verb,
                field: field.clone(),
                toward: toward.clone(),
            }));
        }
    }
}

fn meet_toward(toward: &Toward, entry: &DestinationRule) -> Vec<Toward> {
    let values = |attribute| meet_value(toward.get(attribute), entry.list(attribute));
    Toward::combined(values, &toward.paths.meet_paths(&entry.paths))
}

/// Of a Deny `*` is any, and what is missing.
fn meet_value(given: Option<&Arc<str>>, list: &Among<Arc<str>>) -> Vec<Option<Arc<str>>> {
    match (given, list) {
        (given, Among::Unset | Among::Any) => vec![given.cloned()],
        (None, Among::OneOf(listed)) => listed.iter().cloned().map(Some).collect(),
        (Some(given), Among::OneOf(listed)) if listed.contains(given) => vec![Some(given.clone())],
        (Some(_), Among::OneOf(_)) => vec![],
    }
}

fn requests(piece: &Piece, deny: &HttpRule, taken: &mut Vec<Piece>) {
    let Piece::Http { host, method, paths, destination } = piece else { return };
    let spans = paths.meet_paths(&deny.paths);
    for destination in workloads(destination.as_ref(), &deny.destinations) {
        for host in meet_value(host.as_ref(), &deny.hosts) {
            for method in meet_value(method.as_ref(), &deny.methods) {
                taken.extend(spans.iter().map(|paths| Piece::Http {
                    host: host.clone(),
                    method: method.clone(),
                    paths: paths.clone(),
                    destination: destination.clone(),
                }));
            }
        }
    }
}

fn workloads(
    given: Option<&ServiceAccount>,
    denied: &[ServiceAccount],
) -> Vec<Option<ServiceAccount>> {
    match given {
        given if denied.is_empty() => vec![given.cloned()],
        None => denied.iter().cloned().map(Some).collect(),
        Some(given) if denied.contains(given) => vec![Some(given.clone())],
        Some(_) => vec![],
    }
}

// === impl Needs ===

impl Needs {
    fn includes(&self, less: &Self) -> bool {
        self.proofs.contains(less.proofs) && (self.bound_to_pod || !less.bound_to_pod)
    }
}
