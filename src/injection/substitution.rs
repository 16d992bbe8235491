//! Rules about references that clients send: in which requests, and where in them, they
//! are looked for; and aliases, which stand for references.
//!
//! A rule grants nothing: whoever applies it still needs a `use` permit for every
//! reference, for this caller and this destination.

use std::{fmt, sync::Arc};

use super::{
    CLOSE, Fit, InjectionMatch,
    encoding::Encoding,
    finder::{Finder, Search},
    surface::{Surface, Surfaces, Violation},
};
use crate::{
    policy::{Attribute, Destination, Reason},
    secret::{Catalog, InvalidReference, SecretRef},
};

/// Shorter strings are met by accident.
const MIN_ALIAS: usize = 12;
const MAX_ALIAS: usize = 512;
const MAX_ALIASES: usize = 1000;

/// One rule about references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution {
    /// Names the rule in logs.
    pub name: String,
    /// Which requests it is for.
    pub matcher: InjectionMatch,
    /// Where references are looked for, beyond whole header values.
    pub surfaces: Surfaces,
    /// Whether such a request is refused if it has no reference.
    pub required: bool,
    /// Whether what was put into it is taken out of the response.
    pub redacts: bool,
}

/// A string that stands for a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Looks like what it stands for.
    pub text: String,
    /// What it stands for.
    pub secret: SecretRef,
    /// Whether the value has to be as long.
    pub same_length: bool,
    /// What is done if it may not be used, in place of what the rule says.
    pub on_violation: Option<Violation>,
}

/// An alias that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAlias {
    /// Too short, too long, or of characters that are written differently in places.
    #[error("an alias is {MIN_ALIAS} to {MAX_ALIAS} letters, digits or -._~")]
    Shape,
    /// Two aliases of which one is found in the other.
    #[error("alias {0:?} is a part of another")]
    Overlap(String),
    /// More than can be looked for.
    #[error("more than {MAX_ALIASES} aliases")]
    TooMany,
}

/// All rules and aliases.
#[derive(Clone)]
pub struct Substitutions {
    rules: Arc<[Substitution]>,
    aliases: Arc<[Alias]>,
    finders: [Arc<Finder>; 3],
}

/// What the rules say about one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Where references are looked for.
    pub surfaces: Surfaces,
    /// Whether the request is refused if it has none.
    pub required: bool,
    /// Whether what is put into it is taken out of the response.
    pub redacts: bool,
    /// What is not known of the request, though a rule that restricts it depends on it: it
    /// may not go on.
    pub open: Option<Attribute>,
}

/// What a reference or an alias names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The secret.
    pub secret: SecretRef,
    /// How long its value has to be, if that was promised.
    pub length: Option<usize>,
    /// What is done if it may not be used, in place of what the rule says.
    pub on_violation: Option<Violation>,
}

// === impl Substitution ===

impl Substitution {
    /// Whether requests are refused, or responses changed, over it.
    fn restricts(&self) -> bool {
        let denies = |surface| self.surfaces.get(surface) == Some(Violation::Deny);
        self.required || self.redacts || Surface::ALL.into_iter().any(denies)
    }
}

// === impl Matched ===

impl Matched {
    /// Why the request may not go on, whatever it carries.
    #[must_use]
    pub fn refused(&self) -> Option<Reason> {
        self.open.map(|attribute| match attribute {
            // The client's doing.
            Attribute::Path => Reason::Malformed,
            attribute => Reason::MissingAttribute(attribute),
        })
    }
}

// === impl Substitutions ===

impl Substitutions {
    /// Builds what is looked for.
    ///
    /// # Errors
    /// [`InvalidAlias`].
    pub fn new(rules: Vec<Substitution>, aliases: Vec<Alias>) -> Result<Self, InvalidAlias> {
        if aliases.len() > MAX_ALIASES {
            return Err(InvalidAlias::TooMany);
        }
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        for (at, alias) in aliases.iter().enumerate() {
            let text = alias.text.as_str();
            let length = (MIN_ALIAS..=MAX_ALIAS).contains(&text.len());
            if !length || !text.bytes().all(unreserved) {
                return Err(InvalidAlias::Shape);
            }
            let mut others = aliases.iter().enumerate().filter(|(other, _)| *other != at);
            if others.any(|(_, other)| other.text.contains(text)) {
                return Err(InvalidAlias::Overlap(text.to_owned()));
            }
        }
        let texts: Arc<[String]> = aliases.iter().map(|alias| alias.text.clone()).collect();
        let finders = [Encoding::Plain, Encoding::Percent, Encoding::Json]
            .map(|encoding| Arc::new(Finder::new(encoding, &texts)));
        Ok(Self { rules: rules.into(), aliases: aliases.into(), finders })
    }

    /// The rules in order.
    #[must_use]
    pub fn rules(&self) -> &[Substitution] {
        &self.rules
    }

    /// Whether there is nothing to look for but references in headers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.aliases.is_empty()
    }

    /// Whether there are aliases.
    #[must_use]
    pub fn has_aliases(&self) -> bool {
        !self.aliases.is_empty()
    }

    /// What is looked for in a request. `path` is canonical, without query. What is not known
    /// of the request switches no restriction off.
    #[must_use]
    pub fn matching(&self, method: &str, path: Option<&str>, to: &Destination<'_>) -> Matched {
        let mut matched = Matched::default();
        for rule in self.rules.iter() {
            match rule.matcher.fit(method, path, to) {
                Fit::No => {}
                Fit::Yes => {
                    matched.surfaces.extend(&rule.surfaces);
                    matched.required |= rule.required;
                    matched.redacts |= rule.redacts;
                }
                Fit::Open(attribute) => {
                    matched.redacts |= rule.redacts;
                    let path = attribute == Attribute::Path;
                    if rule.required || path && rule.restricts() {
                        matched.open.get_or_insert(attribute);
                    }
                }
            }
        }
        matched
    }

    /// Finds references and aliases on this surface.
    #[must_use]
    pub fn finder(&self, surface: Surface) -> Arc<Finder> {
        let at = match surface.encoding() {
            Encoding::Plain => 0,
            Encoding::Percent => 1,
            Encoding::Json => 2,
        };
        Arc::clone(&self.finders[at])
    }

    /// What is meant by a text that was found.
    ///
    /// # Errors
    /// [`InvalidReference`].
    pub fn target(&self, text: &str, catalog: &Catalog) -> Result<Target, InvalidReference> {
        if let Some(alias) = self.aliases.iter().find(|alias| alias.text == text) {
            return Ok(Target {
                secret: alias.secret.clone(),
                length: alias.same_length.then_some(alias.text.len()),
                on_violation: alias.on_violation,
            });
        }
        let inner = text.strip_prefix("{{").and_then(|text| text.strip_suffix(CLOSE));
        let secret = catalog.parse_reference(inner.unwrap_or(text))?;
        Ok(Target { secret, length: None, on_violation: None })
    }

    /// A header value with references in place of the aliases in it; none if it has none.
    #[must_use]
    pub fn without_aliases(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut replaced = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Search::Found(found) = self.finders[0].search(value, from) {
            from = found.at + found.length;
            let alias = self.aliases.iter().find(|alias| alias.text == found.text);
            if let Some(alias) = alias {
                replaced.extend_from_slice(&value[done..found.at]);
                replaced.extend_from_slice(format!("{{{{{}}}}}", alias.secret).as_bytes());
                done = from;
            }
        }
        (done > 0).then(|| {
            replaced.extend_from_slice(&value[done..]);
            replaced
        })
    }

    /// A path whose references and aliases are replaced by one letter, so that rules can
    /// look at the rest; none if it has none.
    #[must_use]
    pub fn plain_path(&self, path: &str) -> Option<String> {
        let mut plain = String::new();
        let (mut done, mut from) = (0, 0);
        while let Search::Found(found) = self.finders[1].search(path.as_bytes(), from) {
            plain.push_str(path.get(done..found.at)?);
            plain.push('x');
            from = found.at + found.length;
            done = from;
        }
        (done > 0).then(|| plain + path.get(done..).unwrap_or_default())
    }
}

impl Default for Substitutions {
    fn default() -> Self {
        Self::new(Vec::new(), Vec::new()).expect("nothing is invalid")
    }
}

impl fmt::Debug for Substitutions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aliases: Vec<_> = self.aliases.iter().map(|alias| &alias.text).collect();
        f.debug_struct("Substitutions")
            .field("rules", &self.rules)
            .field("aliases", &aliases)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Substitutions {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules && self.aliases == other.aliases
    }
}

impl Eq for Substitutions {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restrictions_hold_until_it_is_known_that_they_do_not() {
        let cluster = Some(Attribute::Cluster);
        let path = Some(Attribute::Path);
        let to = |cluster| Destination { cluster, ..Destination::default() };
        // What is restricted, where the request goes, its path; what is redacted, what is open.
        for (required, redacts, denies, seen, at, expected) in [
            (true, false, false, None, Some("/a/b"), (false, cluster)),
            (true, false, false, Some("x"), None, (false, path)),
            (true, false, false, None, Some("/b"), (false, None)),
            (true, false, false, Some("y"), None, (false, None)),
            (false, true, false, None, Some("/a/b"), (true, None)),
            (false, true, false, None, None, (true, path)),
            (false, true, false, Some("x"), None, (true, path)),
            (false, true, false, Some("y"), None, (false, None)),
            (false, false, true, Some("x"), None, (false, path)),
            (false, false, true, None, Some("/a/b"), (false, None)),
            (false, false, false, Some("x"), None, (false, None)),
        ] {
            let mut surfaces = Surfaces::default();
            surfaces.add(Surface::Json, if denies { Violation::Deny } else { Violation::Log });
            let matcher = InjectionMatch {
                clusters: vec!["x".into()],
                paths: vec!["/a/".into()],
                ..InjectionMatch::default()
            };
            let rule = Substitution { name: "r".into(), matcher, surfaces, required, redacts };
            let rules = Substitutions::new(vec![rule], Vec::new()).expect("valid");
            let matched = rules.matching("GET", at, &to(seen));
            let what = format!("{required} {redacts} {denies} {seen:?} {at:?}");
            assert_eq!((matched.redacts, matched.open), expected, "{what}");
            assert!(matched.surfaces.is_empty() && !matched.required, "{what}");
        }
    }
}
