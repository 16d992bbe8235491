//! Secret names in policies: exact names and prefixes, with placeholders.
//!
//! A placeholder stands for a part of the principal. Kubernetes allows `-` in
//! namespaces, and `-` and `.` in service accounts, so a placeholder must be
//! followed by something that its value cannot hold; else the area of `pay`
//! would reach into the area of `pay-roll`.

use std::fmt;

use crate::{
    identity::Principal,
    secret::{InvalidName, NameEncoding, NameGrammar},
};

/// What a prefix may end in.
pub(super) const SEPARATORS: [char; 4] = ['/', '-', '_', '.'];

/// A name or prefix, as parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Template {
    pub(super) parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Literal(Box<str>),
    Value(Placeholder),
}

/// A piece that the principal fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Placeholder {
    pub(super) source: ValueOf,
    /// Followed by `--` in an Allow: values that contain `--` match nothing. What is
    /// ambiguous satisfies a Deny.
    pub(super) guarded: bool,
}

/// Which part of the principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ValueOf {
    Namespace,
    ServiceAccount,
}

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidTemplate {
    #[error("is empty")]
    Empty,
    #[error("a prefix must end in one of / - _ . so that `test` never matches `testing`")]
    PrefixEnd,
    #[error("unknown expression in braces, known are {{namespace}} and {{serviceAccount}}")]
    Brace,
    #[error("two placeholders without a separator between them are ambiguous")]
    Adjacent,
    #[error(
        "{{namespace}}- is ambiguous: `pay-` would reach `pay-roll-db`, since namespaces may \
         contain `-`; use {{namespace}} with / _ or ., or {{namespace}}--"
    )]
    NamespaceDash,
    #[error(
        "{{serviceAccount}}{0} is ambiguous, since service accounts may contain `{0}`; use \
         {{serviceAccount}} with / or _, or {{serviceAccount}}--"
    )]
    AccountSeparator(char),
    #[error("a placeholder must be followed by a separator or stand at the end of a name")]
    Unbounded,
}

// === impl Template ===

impl Template {
    pub(super) fn name(text: &str) -> Result<Self, InvalidTemplate> {
        Self::parse(text)
    }

    pub(super) fn prefix(text: &str) -> Result<Self, InvalidTemplate> {
        let template = Self::parse(text)?;
        if text.ends_with(SEPARATORS) { Ok(template) } else { Err(InvalidTemplate::PrefixEnd) }
    }

    /// A name as it is, without placeholders.
    pub(super) fn literal_of(name: &str) -> Self {
        Self { parts: vec![Part::Literal(name.into())] }
    }

    /// As a Deny has it: whatever the caller's values are, they are filled in.
    pub(super) fn unguarded(mut self) -> Self {
        for part in &mut self.parts {
            if let Part::Value(placeholder) = part {
                placeholder.guarded = false;
            }
        }
        self
    }

    fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        if text.is_empty() {
            return Err(InvalidTemplate::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let literal = rest.find(['{', '}']).unwrap_or(rest.len());
            if literal > 0 {
                parts.push(Part::Literal(rest[..literal].into()));
                rest = &rest[literal..];
                continue;
            }
            let (source, after) = if let Some(after) = rest.strip_prefix("{namespace}") {
                (ValueOf::Namespace, after)
            } else if let Some(after) = rest.strip_prefix("{serviceAccount}") {
                (ValueOf::ServiceAccount, after)
            } else {
                return Err(InvalidTemplate::Brace);
            };
            check_boundary(source, after)?;
            parts.push(Part::Value(Placeholder { source, guarded: after.starts_with("--") }));
            rest = after;
        }
        Ok(Self { parts })
    }

    /// The text, if there is no placeholder.
    pub(super) fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether any name of the grammar could match. `tail` stands for what
    /// follows a prefix.
    pub(super) fn possible(&self, grammar: &NameGrammar, tail: &str) -> Result<(), InvalidName> {
        let mut sample = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => sample.push_str(text),
                Part::Value(_) => sample.push('x'),
            }
        }
        let check = |name: &str| grammar.canonical(name, NameEncoding::Plain).map(drop);
        // The prefix may end before the slash of an object's key.
        if grammar.object_key && !tail.is_empty() && !sample.contains('/') {
            return check(&format!("{sample}{tail}/{tail}"));
        }
        check(&(sample + tail))
    }

    /// Whether only some principals can fill in every placeholder.
    pub(super) fn is_guarded(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Value(value) if value.guarded))
    }

    /// As stores that ignore case see it.
    pub(super) fn to_lower_case(&self) -> Self {
        let parts = self.parts.iter().map(|part| match part {
            Part::Literal(text) => Part::Literal(text.to_ascii_lowercase().into()),
            Part::Value(placeholder) => Part::Value(*placeholder),
        });
        Self { parts: parts.collect() }
    }

    /// What is left of `name` after the template, if it starts with it.
    pub(super) fn strip<'n>(&self, principal: &Principal, name: &'n str) -> Option<&'n str> {
        self.parts.iter().try_fold(name, |rest, part| match part {
            Part::Literal(text) => rest.strip_prefix(&**text),
            Part::Value(placeholder) => rest.strip_prefix(placeholder.value(principal)?),
        })
    }

    /// Whether the principal can fill in every placeholder.
    pub(super) fn applies_to(&self, principal: &Principal) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Literal(_) => true,
            Part::Value(placeholder) => placeholder.value(principal).is_some(),
        })
    }
}

fn check_boundary(source: ValueOf, after: &str) -> Result<(), InvalidTemplate> {
    let mut following = after.chars();
    match (source, following.next(), following.next()) {
        (_, Some('-'), Some('-')) | (_, Some('/' | '_') | None, _) => Ok(()),
        (_, Some('{'), _) => Err(InvalidTemplate::Adjacent),
        (ValueOf::Namespace, Some('.'), _) => Ok(()),
        (ValueOf::Namespace, Some('-'), _) => Err(InvalidTemplate::NamespaceDash),
        (ValueOf::ServiceAccount, Some(separator @ ('-' | '.')), _) => {
            Err(InvalidTemplate::AccountSeparator(separator))
        }
        _ => Err(InvalidTemplate::Unbounded),
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(text),
            Part::Value(Placeholder { source: ValueOf::Namespace, .. }) => {
                f.write_str("{namespace}")
            }
            Part::Value(Placeholder { source: ValueOf::ServiceAccount, .. }) => {
                f.write_str("{serviceAccount}")
            }
        })
    }
}

// === impl Placeholder ===

impl Placeholder {
    /// What the principal fills in; `None` if that would be ambiguous.
    pub(super) fn value(self, principal: &Principal) -> Option<&str> {
        let value = match self.source {
            ValueOf::Namespace => principal.namespace(),
            ValueOf::ServiceAccount => principal.service_account().name(),
        };
        (!self.guarded || !value.contains("--")).then_some(value)
    }

    /// Distinct for distinct placeholders, below [`Placeholder::SLOTS`].
    pub(super) fn slot(self) -> usize {
        2 * usize::from(self.source == ValueOf::ServiceAccount) + usize::from(self.guarded)
    }

    pub(super) const SLOTS: usize = 4;

    /// The placeholder of that slot.
    pub(super) fn of_slot(slot: usize) -> Self {
        let source = if slot & 2 == 0 { ValueOf::Namespace } else { ValueOf::ServiceAccount };
        Self { source, guarded: slot & 1 == 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_templates_are_refused() {
        use InvalidTemplate as E;
        let cases = [
            ("", E::Empty),
            ("{namespace}-", E::NamespaceDash),
            ("{namespace}-db/", E::NamespaceDash),
            ("{namespace}--{namespace}-", E::NamespaceDash),
            ("{serviceAccount}-", E::AccountSeparator('-')),
            ("{serviceAccount}.", E::AccountSeparator('.')),
            ("{serviceAccount}.-/", E::AccountSeparator('.')),
            ("{namespace}{serviceAccount}/", E::Adjacent),
            ("{namespace}db/", E::Unbounded),
            ("{namespace}=/", E::Unbounded),
            ("{namespace}}/", E::Unbounded),
            ("{Namespace}/", E::Brace),
            ("{name}/", E::Brace),
            ("${namespace", E::Brace),
            ("a}/", E::Brace),
            ("{{namespace}}/", E::Brace),
            ("{}/", E::Brace),
            ("test", E::PrefixEnd),
            ("{namespace}", E::PrefixEnd),
            ("test+", E::PrefixEnd),
        ];
        for (text, expected) in cases {
            assert_eq!(Template::prefix(text), Err(expected), "{text}");
        }
        for text in ["{namespace}db", "x{namespace}-y", "{serviceAccount}.x"] {
            assert!(Template::name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn templates_print_as_written() {
        for text in ["a/", "{namespace}/", "{namespace}--", "{namespace}.{serviceAccount}_"] {
            assert_eq!(Template::prefix(text).expect(text).to_string(), text);
        }
        for text in ["x/{namespace}", "{namespace}/{serviceAccount}", "x{serviceAccount}--y"] {
            assert_eq!(Template::name(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn slots_are_distinct() {
        for slot in 0..Placeholder::SLOTS {
            assert_eq!(Placeholder::of_slot(slot).slot(), slot);
        }
    }
}
