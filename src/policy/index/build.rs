//! From policies to the index: rules are gathered by subject, and subjects for which the same
//! is said share what was compiled.

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    hash::Hash,
    sync::Arc,
};

use super::{
    Bucket, Index, Rule, Targets,
    condition::{Condition, Exceptions, Requirements},
    first::{First, Named},
    http::HttpIndex,
    leaf::{Effect, MAX_WEIGHT},
    secrets::SecretIndex,
    subjects::SubjectMap,
};
use crate::{
    policy::{
        problem::PolicyProblem,
        rule::{Among, Policy, SecretRule, Target, Verbs},
    },
    secret::BackendName,
};

/// Too many rules that have to be compared one by one meet at one place.
#[derive(Debug)]
pub(super) struct Crowded {
    /// The rule that was one too many, among those of its subjects.
    pub(super) slot: u32,
}

/// A rule among those of some subjects.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Placed {
    pub(super) slot: u32,
    pub(super) condition: u32,
    /// Whom it excepts.
    pub(super) first: u32,
    pub(super) effect: Effect,
}

/// What entries refer to by number; 0 is none.
#[derive(Default)]
pub(super) struct Tables {
    conditions: Interner<Requirements>,
    firsts: Interner<First>,
    backends: Interner<Arc<[BackendName]>>,
    methods: Interner<Vec<Arc<str>>>,
    residues: Interner<SecretRule>,
}

/// Numbers for values: equal values get equal numbers, from 1.
struct Interner<T> {
    numbers: HashMap<Arc<T>, u32>,
    values: Vec<Arc<T>>,
}

/// A rule as one subject has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Draft {
    rule: u32,
    condition: u32,
    first: u32,
}

/// What one slot of some subjects says. Subjects with equal lists share their targets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Said {
    /// Equal for equal targets.
    target: u32,
    condition: u32,
    first: u32,
    effect: Effect,
}

struct Builder {
    rules: Vec<Rule>,
    /// For each rule, the number of its target.
    targets: Vec<u32>,
    tables: Tables,
    shared: HashMap<Box<[Said]>, Targets>,
    crowded: Vec<PolicyProblem>,
}

impl Index {
    /// Compiles policies, which are in the order of their names.
    ///
    /// # Errors
    /// Rules that would make decisions slow.
    pub(in crate::policy) fn build(policies: &[Arc<Policy>]) -> Result<Self, Vec<PolicyProblem>> {
        let mut targets = Interner::default();
        let mut builder = Builder {
            rules: Vec::new(),
            targets: Vec::new(),
            tables: Tables::default(),
            shared: HashMap::new(),
            crowded: Vec::new(),
        };
        let mut drafts = SubjectMap::<Vec<Draft>>::default();
        for policy in policies {
            let first = number(builder.rules.len());
            for (position, target) in policy.to.iter().enumerate() {
                let name = policy.name.clone();
                builder.rules.push(Rule { policy: policy.clone(), name, position });
                builder.targets.push(targets.number(target));
            }
            let rules = first..number(builder.rules.len());
            for from in policy.from.iter() {
                drafts.fill(from, |place, condition| {
                    let (condition, first) = builder.tables.condition(condition);
                    place.extend(rules.clone().map(|rule| Draft { rule, condition, first }));
                });
            }
        }
        let subjects = drafts.map(|drafts| builder.bucket(drafts));
        let Builder { mut rules, tables, crowded, .. } = builder;
        if !crowded.is_empty() {
            return Err(crowded);
        }
        rules.shrink_to_fit();
        let Tables { conditions, firsts, backends, methods, residues } = tables;
        Ok(Self {
            rules,
            subjects,
            conditions: conditions.into_values(),
            firsts: firsts.into_values(),
            backends: backends.into_values(),
            methods: methods.into_values(),
            residues: residues.into_values(),
        })
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).expect("policies are far fewer than their bytes, of which few fit in files")
}

// === impl Builder ===

impl Builder {
    fn bucket(&mut self, mut drafts: Vec<Draft>) -> Bucket {
        // Several subject entries of one policy may lead to one rule.
        drafts.sort_unstable();
        drafts.dedup();
        let said = |draft: &Draft| Said {
            target: self.targets[draft.rule as usize],
            condition: draft.condition,
            first: draft.first,
            effect: Effect::from(&*self.rules[draft.rule as usize].policy),
        };
        let key: Box<[Said]> = drafts.iter().map(said).collect();
        let targets = match self.shared.entry(key) {
            MapEntry::Occupied(same) => same.get().clone(),
            MapEntry::Vacant(new) => {
                let mut secrets: Option<SecretIndex> = None;
                let mut http: Option<HttpIndex> = None;
                for (slot, (draft, said)) in (0..).zip(drafts.iter().zip(new.key())) {
                    let Said { condition, first, effect, .. } = *said;
                    let placed = Placed { slot, condition, first, effect };
                    match self.rules[draft.rule as usize].target() {
                        Target::Secrets(rule) => {
                            let secrets = secrets.get_or_insert_default();
                            secrets.insert(placed, rule, &mut self.tables);
                        }
                        Target::Http(rule) => {
                            let http = http.get_or_insert_default();
                            http.insert(placed, rule, &mut self.tables);
                        }
                    }
                }
                let tables = &mut self.tables;
                let settled = secrets.as_mut().map_or(Ok(()), |it| it.settle(tables));
                let settled =
                    settled.and_then(|()| http.as_mut().map_or(Ok(()), |it| it.settle(tables)));
                if let Err(Crowded { slot }) = settled {
                    let rule = &self.rules[drafts[slot as usize].rule as usize];
                    self.crowded.push(crowded(rule));
                }
                let targets = Targets { secrets: secrets.map(Arc::new), http: http.map(Arc::new) };
                new.insert(targets).clone()
            }
        };
        Bucket { rules: drafts.iter().map(|draft| draft.rule).collect(), targets }
    }
}

fn crowded(rule: &Rule) -> PolicyProblem {
    let Rule { policy, position, .. } = rule;
    PolicyProblem {
        file: policy.origin.file.to_path_buf(),
        line: policy.origin.to.get(*position).copied().unwrap_or(policy.origin.line),
        policy: Some(policy.name.to_string()),
        key: format!("spec.to[{position}]"),
        message: format!(
            "is one rule too many at its names or paths: a decision would have to compare more \
             than {MAX_WEIGHT} conditions (proofs, exceptions, backends, fields, destinations, \
             methods, audit mode) of rules that meet there; say the same with fewer"
        ),
    }
}

// === impl Tables ===

impl Tables {
    /// The numbers of what it requires and of whom it excepts.
    fn condition(&mut self, condition: Condition) -> (u32, u32) {
        let Condition { requirements, exceptions } = condition;
        let required = match requirements.is_empty() {
            true => 0,
            false => self.conditions.number(requirements),
        };
        let first = match exceptions.is_empty() {
            true => 0,
            false => self.firsts.number(First::Of(exceptions)),
        };
        (required, first)
    }

    /// For rules, by slot and number, that differ in nothing but whom they except.
    pub(super) fn first_of(&mut self, rules: &[(u32, u32)]) -> u32 {
        let nobody = Exceptions::default();
        let rules: Vec<_> = rules
            .iter()
            .map(|(slot, number)| match self.firsts.value(*number) {
                Some(First::Of(exceptions)) => (*slot, exceptions),
                // Gathered once only.
                Some(First::By(_)) | None => (*slot, &nobody),
            })
            .collect();
        let first = First::By(Named::new(&rules));
        self.firsts.number(first)
    }

    pub(super) fn backends(&mut self, backends: Option<&Arc<[BackendName]>>) -> u32 {
        backends.map_or(0, |backends| self.backends.number(backends.clone()))
    }

    pub(super) fn methods(&mut self, methods: &Among<Arc<str>>) -> u32 {
        match methods {
            Among::OneOf(methods) => {
                let mut methods = methods.clone();
                methods.sort_unstable();
                self.methods.number(methods)
            }
            // Every request has a method.
            Among::Unset | Among::Any => 0,
        }
    }

    pub(super) fn residue(&mut self, rule: &SecretRule) -> u32 {
        let SecretRule { fields, destinations, .. } = rule;
        if fields.is_empty() && destinations.is_empty() {
            return 0;
        }
        self.residues.number(SecretRule {
            backends: None,
            patterns: Vec::new(),
            fields: fields.clone(),
            verbs: Verbs::default(),
            destinations: destinations.clone(),
        })
    }
}

// === impl Interner ===

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

impl<T: Eq + Hash> Interner<T> {
    fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let value = Arc::new(value);
        self.values.push(Arc::clone(&value));
        let number = number(self.values.len());
        self.numbers.insert(value, number);
        number
    }

    fn value(&self, number: u32) -> Option<&T> {
        self.values.get(usize::try_from(number).ok()?.checked_sub(1)?).map(|value| &**value)
    }

    /// The values in the order of their numbers, the first at 0.
    fn into_values(self) -> Box<[T]> {
        let Self { numbers, values } = self;
        drop(numbers);
        values.into_iter().filter_map(Arc::into_inner).collect()
    }
}
