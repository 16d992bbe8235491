//! The rules, and what is asked.

/// Who may read what:
///
/// - every service account what is below its own namespace (one rule),
/// - in each namespace, `api` one secret by its full name (one rule each),
/// - but nobody of a namespace what is below its `root/` (one rule each).
pub(crate) struct Rules {
    pub(crate) namespaces: usize,
}

/// One sort of question.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Own,
    Named,
    Denied,
    Foreign,
}

/// A service account wants to read a secret.
pub(crate) struct Question {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    /// `namespace/name`.
    pub(crate) account: String,
    pub(crate) secret: String,
}

/// The account that has a secret by name.
pub(crate) fn account(namespace: &str) -> String {
    format!("{namespace}/api")
}

/// What it has.
pub(crate) fn named(namespace: &str) -> String {
    format!("shared/{namespace}/token")
}

/// What is denied.
pub(crate) fn root(namespace: &str) -> String {
    format!("{namespace}/root/")
}

/// What a namespace has.
pub(crate) fn own(namespace: &str) -> String {
    format!("{namespace}/")
}

// === impl Rules ===

impl Rules {
    /// About as many.
    pub(crate) fn new(rules: usize) -> Self {
        Self { namespaces: (rules - 1) / 2 }
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.namespaces).map(namespace)
    }
}

fn namespace(number: usize) -> String {
    format!("team-{number}")
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Own, Self::Named, Self::Denied, Self::Foreign];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "own namespace",
            Self::Named => "by name",
            Self::Denied => "denied although in the own namespace",
            Self::Foreign => "of somebody else",
        }
    }

    pub(crate) fn allowed(self) -> bool {
        matches!(self, Self::Own | Self::Named)
    }
}

// === impl Question ===

impl Question {
    pub(crate) fn new(kind: Kind, number: usize) -> Self {
        let namespace = namespace(number);
        let secret = match kind {
            Kind::Own => format!("{}db", own(&namespace)),
            Kind::Named => named(&namespace),
            Kind::Denied => format!("{}key", root(&namespace)),
            Kind::Foreign => "elsewhere/db".to_owned(),
        };
        Self { kind, account: account(&namespace), namespace, secret }
    }

    /// Every prefix of the secret's name, as far as a separator.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &str> {
        self.secret.match_indices('/').map(|(at, _)| &self.secret[..=at])
    }
}
