//! Who may do one thing: the callers of every rule that allows it, without those whom Deny
//! rules take away again.

use std::sync::Arc;

use super::{
    Destination, HttpRequest, PolicySet, Verb,
    region::{Bound, RuleRef, Sample, TooMuch, Whom, unify, whoms},
    rule::{Held, HttpRule, Pattern, Policy, SecretRule, Shape, Subject, Target},
    template::Template,
};
use crate::{
    identity::{ProofSet, TrustDomain},
    secret::{Catalog, SecretRef},
};

/// Callers that are told apart at most, to see whether anyone is left.
const MAX_ASKED: u64 = 20_000_000;

/// Callers who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The rule that allows it.
    pub rule: RuleRef,
    /// Who they are.
    pub whom: Whom,
    /// Their trust domains, of those that are configured.
    pub trust_domains: Vec<TrustDomain>,
    /// What must prove them.
    pub require: ProofSet,
    /// Whether by a token that is bound to a pod.
    pub bound_to_pod: bool,
    /// Whom the rule leaves out.
    pub except: Vec<Whom>,
    /// Whom Deny rules take away.
    pub denied: Vec<Denied>,
}

/// Callers whom a Deny takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The Deny.
    pub rule: RuleRef,
    /// Who they are.
    pub whom: Whom,
    /// Their trust domains.
    pub trust_domains: Vec<TrustDomain>,
    /// Whom the Deny leaves out.
    pub except: Vec<Whom>,
}

/// One thing that may be done.
#[derive(Clone, Debug)]
pub enum Deed<'a> {
    /// With a secret.
    Secret(Verb, &'a SecretRef, Destination<'a>),
    /// In the mesh.
    Http(&'a HttpRequest<'a>),
}

/// Whom a rule is about.
struct About<'p> {
    rule: RuleRef,
    from: &'p Subject,
    whom: Whom,
}

// === impl PolicySet ===

impl PolicySet {
    /// Everyone who may do that, in the order of policies and rules. Policies in audit mode
    /// do not count.
    ///
    /// # Errors
    /// [`TooMuch`] if that cannot be told in sensible time.
    pub fn holders(
        self: &Arc<Self>,
        deed: &Deed<'_>,
        catalog: &Catalog,
        trust_domains: &[TrustDomain],
    ) -> Result<Vec<Holder>, TooMuch> {
        let policies = &self.policies.policies;
        let mentioned = match deed {
            Deed::Secret(_, secret, _) => secret.name.as_str(),
            Deed::Http(_) => "",
        };
        let sample = Sample::new(policies.iter(), mentioned, catalog, trust_domains);
        let enforced = |allow| {
            let in_force = policies.iter().filter(move |it| !it.audit && it.allow == allow);
            in_force.map(|policy| about(policy, deed)).collect::<Option<Vec<_>>>()
        };
        let too_much = TooMuch(MAX_ASKED);
        let denies: Vec<_> = enforced(false).ok_or(too_much)?.into_iter().flatten().collect();
        let mut classes: Vec<Whom> =
            denies.iter().flat_map(|deny| deny.from.except.whoms()).collect();
        classes.sort();
        classes.dedup();
        classes.insert(0, Whom::everyone());
        let mut holders = Vec::new();
        let mut asked = 0;
        for allow in enforced(true).ok_or(too_much)?.into_iter().flatten() {
            let domains = sample.domains_of(allow.from);
            let mut someone = false;
            for class in &classes {
                asked += 1 + domains.len() as u64;
                if asked > MAX_ASKED {
                    return Err(too_much);
                }
                let Some(class) = allow.whom.meet(class) else { continue };
                let accounts = sample.accounts(&Bound::of(&class));
                let one = |domain| {
                    accounts.iter().any(|account| {
                        allow.from.names(account)
                            && Sample::proofs(allow.from)
                                .first()
                                .and_then(|proofs| sample.principal(account, domain, *proofs))
                                .is_some_and(|principal| deed.is_allowed(self, &principal))
                    })
                };
                someone = domains.iter().any(one);
                if someone {
                    break;
                }
            }
            if someone {
                holders.push(allow.holder(domains, &denies, &sample));
            }
        }
        Ok(holders)
    }
}

/// Whom the policy's rules about the deed are about; none if that is too much work.
fn about<'p>(policy: &'p Policy, deed: &Deed<'_>) -> Option<Vec<About<'p>>> {
    let mut all = Vec::new();
    for (rule, target) in policy.to.iter().enumerate() {
        let name = match (target, deed) {
            (Target::Secrets(rule), Deed::Secret(verb, secret, destination)) => {
                if !speaks_of(rule, policy.allow, *verb, secret, destination) {
                    continue;
                }
                Some((&rule.patterns, *secret))
            }
            (Target::Http(rule), Deed::Http(request)) => {
                if !speaks_of_request(rule, policy.allow, request) {
                    continue;
                }
                None
            }
            (Target::Secrets(_), Deed::Http(_)) | (Target::Http(_), Deed::Secret(..)) => continue,
        };
        for from in policy.from.iter() {
            for whom in whoms(from) {
                let mut met = match name {
                    None => vec![whom],
                    Some((patterns, secret)) => callers(patterns, secret, &whom)?,
                };
                met.sort();
                met.dedup();
                let rule = RuleRef::new(policy, rule);
                all.extend(met.into_iter().map(|whom| About { rule: rule.clone(), from, whom }));
            }
        }
    }
    Some(all)
}

fn speaks_of(
    rule: &SecretRule,
    allow: bool,
    verb: Verb,
    secret: &SecretRef,
    destination: &Destination<'_>,
) -> bool {
    let held = || match rule.residue(allow, secret.field.as_ref(), destination) {
        Held::Yes => true,
        Held::Unknown(_) => !allow,
        Held::No => false,
    };
    rule.verbs.contains(verb) && held()
}

fn speaks_of_request(rule: &HttpRule, allow: bool, request: &HttpRequest<'_>) -> bool {
    let workload = match &request.destination {
        _ if rule.destinations.is_empty() => true,
        None => !allow,
        Some(workload) => rule.destinations.contains(workload),
    };
    workload
        && rule.hosts.holds(Some(request.host())) == Held::Yes
        && rule.methods.holds(Some(request.method())) == Held::Yes
        && rule.paths.holds_path(Some(request.path())) == Held::Yes
}

/// Those of the callers for whom a pattern has the secret's name.
fn callers(patterns: &[Pattern], secret: &SecretRef, whom: &Whom) -> Option<Vec<Whom>> {
    let name = Shape::Exact(Template::literal_of(secret.name.as_str()));
    let mut met = Vec::new();
    for pattern in patterns.iter().filter(|pattern| pattern.covers(&secret.backend)) {
        let found = match &pattern.shape {
            Shape::Any => vec![whom.clone()],
            shape => unify(whom, shape, &name)?.iter().map(Bound::to_whom).collect(),
        };
        met.extend(found);
    }
    if met.contains(whom) {
        met = vec![whom.clone()];
    }
    Some(met)
}

// === impl Deed ===

impl Deed<'_> {
    fn is_allowed(&self, set: &Arc<PolicySet>, who: &crate::identity::Principal) -> bool {
        match self {
            Self::Secret(Verb::Use, secret, to) => set.authorize_use(who, secret, to).is_ok(),
            Self::Secret(verb, secret, _) => set.authorize(who, *verb, secret).is_ok(),
            Self::Http(request) => set.authorize_http(who, request).is_ok(),
        }
    }
}

// === impl About ===

impl About<'_> {
    fn holder(
        self,
        domains: Vec<TrustDomain>,
        denies: &[About<'_>],
        sample: &Sample<'_>,
    ) -> Holder {
        let within = |whoms: &mut dyn Iterator<Item = Whom>, whom: &Whom| {
            let mut met: Vec<_> = whoms.filter_map(|one| one.meet(whom)).collect();
            met.sort();
            met.dedup();
            met
        };
        let mut denied: Vec<Denied> = Vec::new();
        for deny in denies {
            let Some(whom) = self.whom.meet(&deny.whom) else { continue };
            let theirs = sample.domains_of(deny.from).into_iter();
            let trust_domains: Vec<_> = theirs.filter(|one| domains.contains(one)).collect();
            let except = within(&mut deny.from.except.whoms(), &whom);
            let excepted = within(&mut self.from.except.whoms(), &whom);
            // Nobody is left whom it could deny.
            if trust_domains.is_empty() || except.contains(&whom) || excepted.contains(&whom) {
                continue;
            }
            let one = Denied { rule: deny.rule.clone(), whom, trust_domains, except };
            if !denied.contains(&one) {
                denied.push(one);
            }
        }
        let Subject { require, bound_to_pod, except, .. } = self.from;
        Holder {
            rule: self.rule,
            trust_domains: domains,
            require: *require,
            bound_to_pod: *bound_to_pod,
            except: within(&mut except.whoms(), &self.whom),
            whom: self.whom,
            denied,
        }
    }
}
