//! Rules that another rule makes needless. Every rule is filed under its subjects and
//! names, and looked for under what could be wider than these.

use std::{collections::HashMap, sync::Arc};

use super::{Finding, FindingKind, cover::Comparison, place};
use crate::{
    identity::ServiceAccount,
    policy::{
        rule::{Among, Policy, Shape, Subject, Target},
        template::SEPARATORS,
    },
};

/// A rule with more combinations of subjects and names is not filed.
const MAX_PLACES: usize = 4_096;
/// What it costs to look at two rules at all, in steps of a [`Comparison`]. Where many rules
/// share a place, this is what ends the work.
const PAIR: usize = 3;

/// A subject as it is filed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who<'p> {
    Everyone,
    Prefix(&'p str),
    Namespace(&'p str),
    Account(&'p ServiceAccount),
}

/// A target as it is filed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum What<'p> {
    EveryName,
    Name(&'p str),
    NamesBelow(&'p str),
    Http(Value<'p>, Value<'p>),
}

/// A list of which one value counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Value<'p> {
    Unset,
    Any,
    Is(&'p str),
}

struct Rule<'p> {
    policy: &'p Policy,
    at: usize,
    target: &'p Target,
    /// Its names and prefixes as text.
    texts: Vec<String>,
}

struct Shelf<'p> {
    rules: &'p [Rule<'p>],
    places: HashMap<(Kind, Who<'p>, What<'p>), Vec<u32>>,
    comparison: Comparison,
    /// The first rule that is not filed.
    unfiled: Option<usize>,
}

/// Effect and mode.
type Kind = (bool, bool);

/// All rules that another one makes needless, and entries of `from` that are inside others.
pub(super) fn findings(policies: &[Arc<Policy>]) -> Vec<Finding> {
    let mut rules: Vec<Rule<'_>> = policies.iter().flat_map(|policy| Rule::all(policy)).collect();
    // Of two equals the later is the needless one.
    rules.sort_by_key(|rule| (rule.policy.origin.file.clone(), rule.line(), rule.at));
    let mut findings = Vec::new();
    let mut seen = HashMap::new();
    let mut shelf = Shelf::new(&rules);
    for (number, rule) in rules.iter().enumerate() {
        let words = (rule.kind(), &*rule.policy.from, rule.target);
        let first = *seen.entry(words).or_insert(number);
        let found = match first == number {
            true => shelf.wider(number, rule),
            false => Some((FindingKind::DuplicateRule, first)),
        };
        if let Some((kind, other)) = found {
            findings.push(rule.finding(kind, &rules[other]));
        }
    }
    for policy in policies.iter().filter(|policy| policy.from.len() > 1) {
        inside_another(policy, &mut shelf.comparison, &mut findings);
    }
    // Where the work became too much is not told: it was no rule's own fault.
    let large = shelf.unfiled.or(shelf.comparison.gave_up().then_some(0));
    findings.extend(large.map(|number| rules[number].not_compared()));
    findings
}

/// Entries of `from` that are inside another one of the same policy.
fn inside_another(policy: &Policy, comparison: &mut Comparison, findings: &mut Vec<Finding>) {
    let mut places: HashMap<Who<'_>, Vec<usize>> = HashMap::new();
    for (at, subject) in policy.from.iter().enumerate() {
        Who::all(subject).for_each(|who| places.entry(who).or_default().push(at));
    }
    for (at, subject) in policy.from.iter().enumerate() {
        let Some(who) = Who::all(subject).next() else { continue };
        let wider = who.wider().into_iter().filter_map(|who| places.get(&who));
        let mut found = None;
        for other in wider.flatten().copied() {
            let wide = &policy.from[other];
            if comparison.gave_up() || found.is_some() {
                break;
            }
            let inside = other != at
                && comparison.subject(wide, subject)
                && (other < at || !comparison.subject(subject, wide));
            found = inside.then_some(other);
        }
        if let Some(other) = found {
            let line = policy.origin.from[other];
            let message = format!("is inside spec.from[{other}], at line {line}; remove it");
            findings.push(Finding::of_subject(FindingKind::DuplicateSubject, policy, at, message));
        }
    }
}

// === impl Rule ===

impl<'p> Rule<'p> {
    fn all(policy: &'p Policy) -> impl Iterator<Item = Self> {
        policy.to.iter().enumerate().map(move |(at, target)| {
            let texts = match target {
                Target::Http(_) => Vec::new(),
                Target::Secrets(rule) => {
                    rule.patterns.iter().map(|pattern| pattern.shape.text()).collect()
                }
            };
            Self { policy, at, target, texts }
        })
    }

    fn kind(&self) -> Kind {
        (self.policy.allow, self.policy.audit)
    }

    fn line(&self) -> u64 {
        self.policy.origin.to[self.at]
    }

    /// Everything that the target is filed under.
    fn what(&self) -> Vec<What<'_>> {
        match self.target {
            Target::Secrets(rule) => rule
                .patterns
                .iter()
                .zip(&self.texts)
                .map(|(pattern, text)| match pattern.shape {
                    Shape::Any => What::EveryName,
                    Shape::Exact(_) => What::Name(text),
                    Shape::Prefix(_) => What::NamesBelow(text),
                })
                .collect(),
            Target::Http(rule) => {
                let paths = Value::all(&rule.paths);
                let hosts = Value::all(&rule.hosts);
                hosts
                    .into_iter()
                    .flat_map(|host| paths.iter().map(move |path| What::Http(host, *path)))
                    .take(MAX_PLACES + 1)
                    .collect()
            }
        }
    }

    fn finding(&self, kind: FindingKind, other: &Rule<'_>) -> Finding {
        let at = format!(
            "policy {:?}, spec.to[{}], at {}:{}",
            &*other.policy.name,
            other.at,
            other.policy.origin.file.display(),
            other.line()
        );
        let message = match kind {
            FindingKind::DuplicateRule => format!("says the same as {at}; remove one of them"),
            FindingKind::DeniedRule => {
                format!("allows nothing: all of it is denied by {at}; remove it or narrow the Deny")
            }
            _ => format!("changes nothing: it is inside {at}, which is wider; remove one of them"),
        };
        Finding::of_rule(kind, self.policy, self.at, message)
    }

    fn not_compared(&self) -> Finding {
        let message = "the set is too large to compare each rule with all others, from here on: \
                       not every duplicate is told";
        let origin = &self.policy.origin;
        let place = place(self.policy, origin.line, String::new(), message.to_owned());
        Finding { kind: FindingKind::NotCompared, place, rule: None }
    }
}

// === impl Shelf ===

impl<'p> Shelf<'p> {
    fn new(rules: &'p [Rule<'p>]) -> Self {
        let mut shelf =
            Self { rules, places: HashMap::new(), comparison: Comparison::new(), unfiled: None };
        for (number, rule) in rules.iter().enumerate() {
            let who: Vec<_> = rule.policy.from.iter().flat_map(Who::all).collect();
            let what = rule.what();
            if who.len().saturating_mul(what.len()) > MAX_PLACES {
                shelf.unfiled.get_or_insert(number);
                continue;
            }
            let number = u32::try_from(number).expect("files are too small for more rules");
            for (who, what) in who.iter().flat_map(|who| what.iter().map(move |what| (who, what))) {
                shelf.places.entry((rule.kind(), *who, *what)).or_default().push(number);
            }
        }
        shelf
    }

    /// A rule that makes this one needless: a Deny first, since that is what matters most.
    fn wider(&mut self, number: usize, rule: &Rule<'_>) -> Option<(FindingKind, usize)> {
        let who = rule.policy.from.iter().flat_map(Who::all).next()?.wider();
        let what = rule.what().first()?.wider();
        let allow = rule.kind() == (true, false);
        let kinds = allow.then_some((false, false)).into_iter().chain([rule.kind()]);
        for kind in kinds {
            let places =
                who.iter().flat_map(|who| what.iter().map(move |what| (kind, *who, *what)));
            for place in places {
                // The place's own life is longer than that of the key.
                let alike = self.places.get(&place).map_or(0, Vec::len);
                for at in 0..alike {
                    if self.comparison.gave_up() {
                        return None;
                    }
                    let other = self.places[&place][at] as usize;
                    if let Some(found) = self.compare(number, rule, other, kind) {
                        return Some((found, other));
                    }
                }
            }
        }
        None
    }

    fn compare(
        &mut self,
        number: usize,
        rule: &Rule<'_>,
        other: usize,
        kind: Kind,
    ) -> Option<FindingKind> {
        let wide = &self.rules[other];
        let comparison = &mut self.comparison;
        let mut covers = |wide: &Rule<'_>, narrow: &Rule<'_>| {
            comparison.spend(PAIR)
                && comparison.target(wide.target, narrow.target)
                && comparison.subjects(&wide.policy.from, &narrow.policy.from)
        };
        if other == number || !covers(wide, rule) {
            return None;
        }
        if kind != rule.kind() {
            return Some(FindingKind::DeniedRule);
        }
        match covers(rule, wide) {
            false if self.comparison.gave_up() => None,
            false => Some(FindingKind::ShadowedRule),
            true => (other < number).then_some(FindingKind::DuplicateRule),
        }
    }
}

// === impl Who ===

impl<'p> Who<'p> {
    /// Everything that the entry is filed under: its most exact list.
    fn all(subject: &'p Subject) -> impl Iterator<Item = Self> {
        let (accounts, namespaces) = (&subject.accounts, &subject.namespaces);
        let some = [accounts.is_empty(), namespaces.is_empty(), subject.prefixes.is_empty()];
        let everyone = some.iter().all(|empty| *empty).then_some(Self::Everyone);
        let namespaces = namespaces.iter().filter(move |_| some[0]);
        let prefixes = subject.prefixes.iter().filter(move |_| some[0] && some[1]);
        accounts
            .iter()
            .map(Self::Account)
            .chain(namespaces.map(|name| Self::Namespace(name)))
            .chain(prefixes.map(|prefix| Self::Prefix(prefix)))
            .chain(everyone)
    }

    /// Itself, and all that it is inside of.
    fn wider(self) -> Vec<Self> {
        let mut wider = vec![self, Self::Everyone];
        let text = match self {
            Self::Everyone => "",
            Self::Prefix(text) | Self::Namespace(text) => text,
            Self::Account(account) => {
                wider.push(Self::Namespace(account.namespace()));
                account.namespace()
            }
        };
        wider.extend(starts(text, &['-']).map(Self::Prefix));
        wider.dedup();
        wider
    }
}

// === impl What ===

impl What<'_> {
    /// Itself, and all that it is inside of.
    fn wider(self) -> Vec<Self> {
        match self {
            Self::EveryName => vec![self],
            Self::Name(text) | Self::NamesBelow(text) => {
                let mut wider = vec![self, Self::EveryName];
                wider.extend(starts(text, &SEPARATORS).map(Self::NamesBelow));
                wider
            }
            Self::Http(host, path) => {
                let paths = path.wider();
                let pair = |host| paths.iter().map(move |path| Self::Http(host, *path));
                host.wider().into_iter().flat_map(pair).collect()
            }
        }
    }
}

// === impl Value ===

impl<'p> Value<'p> {
    fn all(among: &'p Among<Arc<str>>) -> Vec<Self> {
        match among {
            Among::Unset => vec![Self::Unset],
            Among::Any => vec![Self::Any],
            Among::OneOf(values) => values.iter().map(|value| Self::Is(value)).collect(),
        }
    }

    /// A path is inside of others; a host has no slash.
    fn wider(self) -> Vec<Self> {
        let mut wider = vec![self, Self::Any, Self::Unset];
        if let Self::Is(text) = self {
            wider.extend(starts(text, &['/']).map(Self::Is));
        }
        wider
    }
}

/// The beginnings of a text that end in a separator, without the text itself.
fn starts<'t>(text: &'t str, separators: &'static [char]) -> impl Iterator<Item = &'t str> {
    let ends = text.match_indices(separators).map(|(at, separator)| at + separator.len());
    ends.filter(|end| *end < text.len()).map(|end| &text[..end])
}
