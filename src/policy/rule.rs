//! Validated policies, and what one condition says about one request.
//!
//! Conditions answer with [`Held`], which keeps "the attribute is missing" apart
//! from "it is something else": the one satisfies a Deny, the other does not.

use std::{borrow::Cow, path::Path, sync::Arc};

use super::{
    request::{Attribute, Destination, Verb},
    template::Template,
};
use crate::{
    identity::{Principal, ProofSet, ServiceAccount, TrustDomain},
    secret::{BackendName, SecretField, SecretRef},
};

/// One policy.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) name: Arc<str>,
    pub(super) allow: bool,
    pub(super) audit: bool,
    pub(super) from: Arc<[Subject]>,
    pub(super) to: Vec<Target>,
    pub(super) origin: Origin,
}

/// Where a policy is written, for reports.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) file: Arc<Path>,
    /// Of its name.
    pub(super) line: u64,
    /// Of each `from` entry.
    pub(super) from: Vec<u64>,
    /// Of each `to` entry.
    pub(super) to: Vec<u64>,
}

/// One `from` entry. An empty list is a field that was not given, or `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) namespaces: Vec<Arc<str>>,
    pub(super) accounts: Vec<ServiceAccount>,
    pub(super) prefixes: Vec<Arc<str>>,
    pub(super) trust_domains: Vec<TrustDomain>,
    /// All of them must stand behind the principal.
    pub(super) require: ProofSet,
    /// One of them must be a token that is bound to a pod.
    pub(super) bound_to_pod: bool,
    pub(super) except: Except,
}

/// Whom an entry leaves out: whoever any of the lists names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Except {
    pub(super) namespaces: Vec<Arc<str>>,
    pub(super) accounts: Vec<ServiceAccount>,
    pub(super) prefixes: Vec<Arc<str>>,
}

/// One `to` entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Secrets(SecretRule),
    Http(HttpRule),
}

/// A `to` entry about secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SecretRule {
    /// As declared; `None` is any.
    pub(super) backends: Option<Arc<[BackendName]>>,
    /// Any of them.
    pub(super) patterns: Vec<Pattern>,
    /// Empty: not given.
    pub(super) fields: Vec<FieldPath>,
    pub(super) verbs: Verbs,
    /// Empty: not given. Otherwise any of them.
    pub(super) destinations: Vec<DestinationRule>,
}

/// Which names, and in which backends: stores that ignore case see another
/// spelling of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    pub(super) shape: Shape,
    pub(super) backends: Option<Arc<[BackendName]>>,
}

/// How a pattern compares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    Any,
    Exact(Template),
    Prefix(Template),
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Verbs(u8);

/// A field as the tokens of its JSON pointer: `a` and `/a` are one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FieldPath {
    text: Arc<str>,
    tokens: Vec<Box<str>>,
}

/// What a list says about an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Among<T> {
    /// No list was given.
    #[default]
    Unset,
    /// `*`: any value, but there must be one.
    Any,
    OneOf(Vec<T>),
}

/// Where a secret may be used. All given fields must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct DestinationRule {
    pub(super) hosts: Among<Arc<str>>,
    pub(super) clusters: Among<Arc<str>>,
    pub(super) routes: Among<Arc<str>>,
    pub(super) snis: Among<Arc<str>>,
    pub(super) ports: Among<Arc<str>>,
    pub(super) schemes: Among<Arc<str>>,
    pub(super) methods: Among<Arc<str>>,
    /// With a trailing `/` a prefix, else exact.
    pub(super) paths: Among<Arc<str>>,
}

/// A `to` entry about mesh traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct HttpRule {
    pub(super) hosts: Among<Arc<str>>,
    pub(super) methods: Among<Arc<str>>,
    /// With a trailing `/` a prefix, else exact.
    pub(super) paths: Among<Arc<str>>,
    /// Empty: not given.
    pub(super) destinations: Vec<ServiceAccount>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Yes,
    No,
    /// It would depend on something that the request does not show; the
    /// attribute is named where it is one that the proxy could send.
    Unknown(Option<Attribute>),
}

// === impl Subject ===

impl Subject {
    pub(super) fn everyone() -> Self {
        Self::default()
    }

    #[cfg(test)]
    pub(super) fn matches(&self, principal: &Principal) -> bool {
        self.names(principal.service_account())
            && (self.trust_domains.is_empty()
                || self.trust_domains.contains(principal.trust_domain()))
            && self.is_proven_by(principal)
    }

    /// Whether the principal has the proofs that the entry asks for.
    pub(super) fn is_proven_by(&self, principal: &Principal) -> bool {
        principal.proofs().contains(self.require)
            && (!self.bound_to_pod || principal.is_bound_to_pod())
    }

    /// Whether the entry is about this account, proofs aside.
    pub(super) fn names(&self, account: &ServiceAccount) -> bool {
        let namespace = account.namespace();
        (self.namespaces.is_empty() || self.namespaces.iter().any(|name| **name == *namespace))
            && (self.accounts.is_empty() || self.accounts.contains(account))
            && (self.prefixes.is_empty() || has_prefix(&self.prefixes, namespace))
            && !self.except.names(account)
    }

    /// Whether it is about anything in the namespace.
    pub(super) fn reaches(&self, namespace: &str) -> bool {
        (self.prefixes.is_empty() || has_prefix(&self.prefixes, namespace))
            && !self.except.namespaces.iter().any(|name| **name == *namespace)
            && !has_prefix(&self.except.prefixes, namespace)
    }
}

// === impl Except ===

impl Except {
    pub(super) fn names(&self, account: &ServiceAccount) -> bool {
        self.namespaces.iter().any(|name| **name == *account.namespace())
            || self.accounts.contains(account)
            || has_prefix(&self.prefixes, account.namespace())
    }
}

fn has_prefix(prefixes: &[Arc<str>], namespace: &str) -> bool {
    prefixes.iter().any(|prefix| namespace.starts_with(&**prefix))
}

// === impl Pattern ===

impl Pattern {
    pub(super) fn covers(&self, backend: &BackendName) -> bool {
        self.backends.as_ref().is_none_or(|backends| backends.contains(backend))
    }

    pub(super) fn matches(&self, principal: &Principal, name: &str) -> bool {
        match &self.shape {
            Shape::Any => true,
            Shape::Exact(template) => template.strip(principal, name) == Some(""),
            Shape::Prefix(template) => template.strip(principal, name).is_some(),
        }
    }

    /// As a Deny has it.
    pub(super) fn unguarded(self) -> Self {
        let Self { shape, backends } = self;
        let shape = match shape {
            Shape::Any => Shape::Any,
            Shape::Exact(template) => Shape::Exact(template.unguarded()),
            Shape::Prefix(template) => Shape::Prefix(template.unguarded()),
        };
        Self { shape, backends }
    }

    /// Whether only some principals can reach any name by this pattern.
    pub(super) fn is_guarded(&self) -> bool {
        match &self.shape {
            Shape::Any => false,
            Shape::Exact(template) | Shape::Prefix(template) => template.is_guarded(),
        }
    }

    /// Whether the principal can reach any name by this pattern.
    pub(super) fn applies_to(&self, principal: &Principal) -> bool {
        match &self.shape {
            Shape::Any => true,
            Shape::Exact(template) | Shape::Prefix(template) => template.applies_to(principal),
        }
    }
}

// === impl Shape ===

impl Shape {
    /// As written, with its placeholders.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(template) | Self::Prefix(template) => template.to_string(),
        }
    }
}

// === impl SecretRule ===

impl SecretRule {
    /// Fields and destination: what is left to decide once verb, backend and
    /// name match.
    pub(super) fn residue(
        &self,
        allow: bool,
        field: Option<&SecretField>,
        destination: &Destination<'_>,
    ) -> Held {
        match self.covers_field(allow, field) {
            Held::Yes => self.reaches(destination),
            // A Deny goes on to ask whether the destination could be another.
            Held::Unknown(_) if !allow => self.reaches(destination),
            other => other,
        }
    }

    /// The verbs that an Allow can hold for: where it names fields, those that can have one.
    pub(super) fn held_verbs(&self) -> impl Iterator<Item = Verb> {
        let whole = self.fields.is_empty();
        self.verbs.iter().filter(move |verb| whole || verb.takes_part())
    }

    /// Whether it is about the secret, whatever is done with it.
    pub(super) fn covers(&self, principal: &Principal, secret: &SecretRef) -> bool {
        self.backends.as_ref().is_none_or(|all| all.contains(&secret.backend))
            && self.patterns.iter().any(|pattern| {
                pattern.covers(&secret.backend) && pattern.matches(principal, secret.name.as_str())
            })
    }

    /// How many comparisons that may take.
    pub(super) fn residue_weight(&self) -> usize {
        self.fields.len() + self.destinations.iter().map(DestinationRule::weight).sum::<usize>()
    }

    /// An Allow names a field exactly. A Deny also covers what lies inside its
    /// field and what contains it, or the value would leak that way.
    pub(super) fn covers_field(&self, allow: bool, field: Option<&SecretField>) -> Held {
        if self.fields.is_empty() {
            return Held::Yes;
        }
        let Some(field) = field else { return Held::Unknown(None) };
        let covered = |rule: &FieldPath| match allow {
            true => rule.tokens.iter().map(|token| Cow::from(&**token)).eq(tokens(field)),
            false => rule.tokens.iter().zip(tokens(field)).all(|(ours, asked)| **ours == *asked),
        };
        if self.fields.iter().any(covered) { Held::Yes } else { Held::No }
    }

    /// Any destination entry is enough.
    pub(super) fn reaches(&self, destination: &Destination<'_>) -> Held {
        if self.destinations.is_empty() {
            return Held::Yes;
        }
        let mut found = Held::No;
        for rule in &self.destinations {
            match rule.held(destination) {
                Held::Yes => return Held::Yes,
                unknown @ Held::Unknown(_) if found == Held::No => found = unknown,
                _ => {}
            }
        }
        found
    }
}

// === impl FieldPath ===

impl FieldPath {
    pub(super) fn new(field: &SecretField) -> Self {
        let tokens = tokens(field).map(|token| token.into()).collect();
        Self { text: field.as_str().into(), tokens }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The pointer to what lies in the field under this key.
    pub(super) fn inside(&self, key: &str) -> String {
        let mut pointer = String::new();
        for token in self.tokens.iter().map(|token| &**token).chain([key]) {
            pointer.push('/');
            pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
        }
        pointer
    }
}

/// What a field is made of, from the outside in.
fn tokens(field: &SecretField) -> impl Iterator<Item = Cow<'_, str>> {
    let (key, pointer) = match field {
        SecretField::Key(key) => (Some(Cow::from(&**key)), ""),
        SecretField::Pointer(pointer) => (None, &**pointer),
    };
    // RFC 6901, section 4: ~1 before ~0.
    let unescaped = pointer.split('/').skip(1).map(|token| match token.contains('~') {
        true => Cow::from(token.replace("~1", "/").replace("~0", "~")),
        false => Cow::from(token),
    });
    key.into_iter().chain(unescaped)
}

// === impl DestinationRule ===

impl DestinationRule {
    pub(super) fn list(&self, attribute: Attribute) -> &Among<Arc<str>> {
        match attribute {
            Attribute::Cluster => &self.clusters,
            Attribute::Route => &self.routes,
            Attribute::Port => &self.ports,
            Attribute::Sni => &self.snis,
            Attribute::Scheme => &self.schemes,
            Attribute::Host => &self.hosts,
            Attribute::Method => &self.methods,
            Attribute::Path => &self.paths,
        }
    }

    pub(super) fn holds(&self, attribute: Attribute, value: Option<&str>) -> Held {
        let list = self.list(attribute);
        match attribute {
            Attribute::Sni => list.holds_sni(value),
            Attribute::Path => list.holds_path(value),
            _ => list.holds(value),
        }
    }

    pub(super) fn held(&self, destination: &Destination<'_>) -> Held {
        let mut found = Held::Yes;
        for attribute in Attribute::ALL {
            match self.holds(attribute, destination.get(attribute)) {
                Held::Yes => {}
                Held::No => return Held::No,
                Held::Unknown(_) if found != Held::Yes => {}
                Held::Unknown(_) => found = Held::Unknown(Some(attribute)),
            }
        }
        found
    }

    /// How many comparisons it may take.
    pub(super) fn weight(&self) -> usize {
        1 + Attribute::ALL
            .map(|attribute| self.list(attribute).listed().len())
            .iter()
            .sum::<usize>()
    }
}

// === impl Among ===

impl<T> Among<T> {
    pub(super) fn is_set(&self) -> bool {
        !matches!(self, Self::Unset)
    }
}

impl Among<Arc<str>> {
    /// The listed values; none for `*`.
    pub(super) fn listed(&self) -> &[Arc<str>] {
        match self {
            Self::OneOf(values) => values,
            Self::Unset | Self::Any => &[],
        }
    }

    pub(super) fn holds(&self, value: Option<&str>) -> Held {
        self.holds_by(value, |listed, value| listed == value)
    }

    /// Server names compare as DNS names do, whatever the client's spelling.
    pub(super) fn holds_sni(&self, value: Option<&str>) -> Held {
        let value = value.map(|sni| sni.strip_suffix('.').unwrap_or(sni));
        self.holds_by(value, str::eq_ignore_ascii_case)
    }

    pub(super) fn holds_path(&self, path: Option<&str>) -> Held {
        self.holds_by(path, |listed, path| match listed.ends_with('/') {
            true => path.starts_with(listed),
            false => path == listed,
        })
    }

    fn holds_by(&self, value: Option<&str>, same: impl Fn(&str, &str) -> bool) -> Held {
        match (self, value) {
            (Self::Unset, _) | (Self::Any, Some(_)) => Held::Yes,
            (Self::Any | Self::OneOf(_), None) => Held::Unknown(None),
            (Self::OneOf(list), Some(value)) if list.iter().any(|item| same(item, value)) => {
                Held::Yes
            }
            (Self::OneOf(_), Some(_)) => Held::No,
        }
    }
}

// === impl Verbs ===

impl Verbs {
    pub(super) fn contains(self, verb: Verb) -> bool {
        self.0 & verb as u8 != 0
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<T: IntoIterator<Item = Verb>>(verbs: T) -> Self {
        Self(verbs.into_iter().fold(0, |set, verb| set | verb as u8))
    }
}
