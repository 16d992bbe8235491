//! Parts of what can be asked: whole areas of names, of callers, of requests. For questions
//! about policies as such, by people; decisions never use it.

mod cell;
mod piece;
mod sample;
mod toward;
mod unify;

use std::{fmt, sync::Arc};

pub(super) use self::{
    cell::{Cell, What, cells, whoms},
    piece::{a_name, http_pieces, secret_pieces},
    sample::Sample,
    unify::{Bound, has_placeholder, unify},
};
pub use self::{sample::Ask, toward::Toward};
use super::{
    Place,
    request::Verb,
    rule::{Among, Policy, Shape},
    template::{Part, Template},
};
use crate::{
    identity::{Principal, ServiceAccount},
    secret::BackendName,
};

/// Texts of which one rule speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// All of them.
    #[default]
    Any,
    /// Those that start so.
    Prefix(Arc<str>),
    /// This one.
    One(Arc<str>),
}

/// Service accounts of which one rule speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Whom {
    /// Their namespaces.
    pub namespace: Span,
    /// Their name, if not any.
    pub name: Option<Arc<str>>,
}

/// What may be asked for. What is not given is any.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// An operation on secrets of a backend.
    Secret {
        /// The backend.
        backend: BackendName,
        /// Their names.
        names: Span,
        /// The operation.
        verb: Verb,
        /// The one field of them.
        field: Option<Arc<str>>,
        /// For `use`: toward where.
        toward: Toward,
    },
    /// To ask for the list of secrets, or to create one: whichever.
    Collection(Verb),
    /// Requests in the mesh.
    Http {
        /// Their host.
        host: Option<Arc<str>>,
        /// Their method.
        method: Option<Arc<str>>,
        /// Their paths.
        paths: Span,
        /// The workload they are for.
        destination: Option<ServiceAccount>,
    },
    /// TCP connections in the mesh.
    Connection {
        /// The workload they are for.
        destination: Option<ServiceAccount>,
    },
}

/// One `to` entry of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy's name.
    pub policy: Arc<str>,
    /// Which of its `to` entries, from 0.
    pub rule: usize,
    /// Where that is written.
    pub place: Place,
}

/// There would be more to compare than anyone waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much to compare: more than {0} combinations; ask about fewer policies at a time")]
pub struct TooMuch(pub u64);

// === impl Span ===

impl Span {
    /// Whether it holds the text.
    #[must_use]
    pub fn contains(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::One(one) => **one == *text,
        }
    }

    /// What both hold.
    pub(super) fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, other) => Some(other.clone()),
            (Self::Prefix(_), Self::Any) => Some(self.clone()),
            (Self::Prefix(a), Self::Prefix(b)) if b.starts_with(&**a) => Some(other.clone()),
            (Self::Prefix(a), Self::Prefix(b)) => a.starts_with(&**b).then(|| self.clone()),
            (_, Self::One(one)) => self.contains(one).then(|| other.clone()),
            (Self::One(one), _) => other.contains(one).then(|| self.clone()),
        }
    }

    /// Whether it holds all of the other.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.meet(other).as_ref() == Some(other)
    }

    /// The names that a pattern stands for to this principal; none if none.
    pub(super) fn of_shape(shape: &Shape, principal: &Principal) -> Option<Self> {
        Some(match shape {
            Shape::Any => Self::Any,
            Shape::Exact(template) => Self::One(expand(template, principal)?.into()),
            Shape::Prefix(template) => Self::Prefix(expand(template, principal)?.into()),
        })
    }

    /// The paths that a rule lists.
    pub(super) fn of_paths(paths: &Among<Arc<str>>) -> Vec<Self> {
        match paths {
            Among::Unset | Among::Any => vec![Self::Any],
            Among::OneOf(paths) => paths.iter().map(Self::of_path).collect(),
        }
    }

    /// What it has in common with the paths that a rule lists.
    pub(super) fn meet_paths(&self, paths: &Among<Arc<str>>) -> Vec<Self> {
        Self::of_paths(paths).iter().filter_map(|span| self.meet(span)).collect()
    }

    /// A path as rules have it.
    fn of_path(path: &Arc<str>) -> Self {
        if path.ends_with('/') { Self::Prefix(path.clone()) } else { Self::One(path.clone()) }
    }
}

fn expand(template: &Template, principal: &Principal) -> Option<String> {
    let mut text = String::new();
    for part in &template.parts {
        text.push_str(match part {
            Part::Literal(literal) => literal,
            Part::Value(placeholder) => placeholder.value(principal)?,
        });
    }
    Some(text)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::One(one) => f.write_str(one),
        }
    }
}

// === impl Whom ===

impl Whom {
    /// Whoever there is.
    pub(super) fn everyone() -> Self {
        Self { namespace: Span::Any, name: None }
    }

    /// This one.
    pub(super) fn one(account: &ServiceAccount) -> Self {
        let namespace = Span::One(account.namespace().into());
        Self { namespace, name: Some(account.name().into()) }
    }

    /// All of these namespaces.
    pub(super) fn of(namespace: Span) -> Self {
        Self { namespace, name: None }
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contains(&self, account: &ServiceAccount) -> bool {
        self.namespace.contains(account.namespace())
            && self.name.as_ref().is_none_or(|name| **name == *account.name())
    }

    /// Who is among both.
    pub(super) fn meet(&self, other: &Self) -> Option<Self> {
        let name = match (&self.name, &other.name) {
            (Some(a), Some(b)) if a != b => return None,
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Some(Self { namespace: self.namespace.meet(&other.namespace)?, name })
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.name) {
            (Span::One(namespace), Some(name)) => write!(f, "{namespace}/{name}"),
            (Span::Any, None) => f.write_str("everyone"),
            (Span::Any, Some(name)) => write!(f, "service account {name} of every namespace"),
            (Span::One(namespace), None) => write!(f, "namespace {namespace}"),
            (Span::Prefix(prefix), None) => write!(f, "namespaces {prefix}*"),
            (Span::Prefix(prefix), Some(name)) => {
                write!(f, "service account {name} of namespaces {prefix}*")
            }
        }
    }
}

// === impl RuleRef ===

impl RuleRef {
    pub(super) fn new(policy: &Policy, rule: usize) -> Self {
        Self { policy: policy.name.clone(), rule, place: super::explain::place(policy, rule) }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, rule, place } = self;
        write!(f, "policy {policy}, spec.to[{rule}] ({place})")
    }
}
