//! Policies that have two providers asked about one workload.

use std::collections::HashMap;

use super::{Mesh, selector, targets};
use crate::lint::{
    Finding,
    document::{Document, Object},
    rules,
};

/// More labels than anyone selects by; bounds how many parts of a selector are looked up.
const MOST_LABELS: usize = 8;

/// Where a policy holds. Two that have one of these in common meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place<'a> {
    set: Set<'a>,
    namespace: Namespace<'a>,
    what: What<'a>,
}

/// Files that are applied together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Set<'a> {
    Any,
    Unsaid,
    One(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Namespace<'a> {
    Any,
    One(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What<'a> {
    Target(&'a str, &'a str),
    /// In the order of their names.
    Labels(Vec<(&'a str, &'a str)>),
}

/// The first policies of two different providers.
type Known = Vec<(usize, usize)>;

// === impl Mesh ===

impl<'a> Mesh<'a> {
    pub(super) fn check_two_providers(&self, list: &mut Vec<Finding>) {
        let policies: Vec<_> = self.custom().collect();
        let mut names: HashMap<&str, usize> = HashMap::new();
        let providers: Vec<_> = policies
            .iter()
            .map(|(it, _)| {
                let next = names.len();
                *names.entry(it.root.text_at("spec/provider/name")).or_insert(next)
            })
            .collect();
        let mut known: HashMap<Place<'_>, Known> = HashMap::new();
        for (at, (document, object)) in policies.iter().enumerate() {
            for place in self.holds(document, object) {
                let first = known.entry(place).or_default();
                if first.len() < 2 && first.iter().all(|(_, other)| *other != providers[at]) {
                    first.push((at, providers[at]));
                }
            }
        }
        let mut clashes: HashMap<usize, usize> = HashMap::new();
        for (at, (document, object)) in policies.iter().enumerate() {
            let places = self.looks(document, object);
            let met = places.iter().filter_map(|place| known.get(place)).flatten();
            for (other, _) in met.filter(|(_, provider)| *provider != providers[at]) {
                let (first, second) = ((*other).min(at), (*other).max(at));
                let with = clashes.entry(second).or_insert(first);
                *with = first.min(*with);
            }
        }
        for (second, first) in clashes {
            let ((document, _), (other, of)) = (policies[second], policies[first]);
            let spec = document.root.get("spec");
            let line = spec.map_or(document.root.line, |spec| spec.line_of("provider"));
            let detail = format!(
                "{:?} here and {:?} of policy {:?}",
                document.root.text_at("spec/provider/name"),
                other.root.text_at("spec/provider/name"),
                of.name
            );
            document.findings(list).add_with(&rules::TWO_PROVIDERS, line, detail);
        }
    }

    /// All places where others may find a policy.
    fn holds(&self, document: &'a Document, object: &'a Object) -> Vec<Place<'a>> {
        let own = document.set.as_deref().map_or(Set::Unsaid, Set::One);
        let what = match targets(document).is_empty() {
            true => vec![What::Labels(selector(document))],
            false => named(document),
        };
        self.places(&[own, Set::Any], &[Namespace::One(&object.namespace), Namespace::Any], &what)
    }

    /// All places where a policy finds others: those that select what it does, or more.
    fn looks(&self, document: &'a Document, object: &'a Object) -> Vec<Place<'a>> {
        let sets = match document.set.as_deref() {
            Some(set) => vec![Set::One(set), Set::Unsaid],
            None => vec![Set::Any],
        };
        let namespaces = match self.is_root(&object.namespace) {
            true => vec![Namespace::Any],
            false => vec![Namespace::One(&object.namespace), Namespace::One(self.root_namespace)],
        };
        let what = match targets(document).is_empty() {
            true => parts(&selector(document)).into_iter().map(What::Labels).collect(),
            false => named(document),
        };
        self.places(&sets, &namespaces, &what)
    }

    fn places(
        &self,
        sets: &[Set<'a>],
        namespaces: &[Namespace<'a>],
        what: &[What<'a>],
    ) -> Vec<Place<'a>> {
        let mut found = Vec::with_capacity(sets.len() * namespaces.len() * what.len());
        for &set in sets {
            for &namespace in namespaces {
                found.extend(what.iter().map(|it| Place { set, namespace, what: it.clone() }));
            }
        }
        found
    }
}

fn named(document: &Document) -> Vec<What<'_>> {
    let targets = targets(document).into_iter();
    targets.map(|to| What::Target(to.text_at("kind"), to.text_at("name"))).collect()
}

/// All parts of a selector, itself among them.
fn parts<'a>(labels: &[(&'a str, &'a str)]) -> Vec<Vec<(&'a str, &'a str)>> {
    let looked_at = labels.len().min(MOST_LABELS);
    let part = |bits: usize| {
        let labels = labels.iter().enumerate();
        labels.filter(|(at, _)| bits & (1 << at) != 0).map(|(_, label)| *label).collect()
    };
    let mut found: Vec<_> = (0..1_usize << looked_at).map(part).collect();
    if labels.len() > looked_at {
        found.push(labels.to_vec());
    }
    found
}
