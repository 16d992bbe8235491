//! Secrets that are put into requests without the workload asking: rules that
//! name the requests, the headers, and templates with references in them.
//!
//! A rule grants nothing: whoever applies it still needs a `use` permit for
//! every reference, for this caller and this destination.

mod aliases;
mod encoding;
mod finder;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod render;
mod scan;
mod scanner;
mod stated;
mod substitution;
mod surface;
mod upstreams;

use std::{borrow::Cow, fmt};

use http::{HeaderName, Method};

pub use render::{RenderedHeader, Unfit, UnfitReason, render_headers};
pub use scan::{HeaderText, Refused, Rewrite, is_encoded, is_same, scan_headers};
pub use stated::{CheckInjection, StatedDestination};

use crate::{
    policy::{Attribute, Destination, canonical_host},
    secret::{Catalog, InvalidReference, SecretRef},
    signing::Signer,
};

pub use self::{
    aliases::{Unaliased, without_aliases},
    encoding::{Encoding, NotText},
    finder::Finder,
    scanner::{Progress, Resolution, Scanner, Skipped},
    substitution::{Alias, InvalidAlias, Matched, Substitution, Substitutions, Target},
    surface::{Surface, Surfaces, Unwritable, Violation},
    upstreams::Upstreams,
};

/// Where a reference starts in traffic; it ends with [`CLOSE`].
pub const OPEN: &str = "{{secret://";
/// Where a reference ends in traffic.
pub const CLOSE: &str = "}}";

/// One injection rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// Names the rule in logs and details.
    pub name: String,
    /// Which requests it is for.
    pub matcher: InjectionMatch,
    /// Headers to set, replacing what the client sent.
    pub headers: Vec<(HeaderName, InjectedValue)>,
    /// Parameters of the query to set, replacing what the client sent.
    pub query: Vec<(String, Template)>,
    /// What makes more headers, of the request as it will be.
    pub signers: Vec<Signer>,
}

/// All given fields must hold; inside a field any entry suffices. An attribute
/// that the proxy did not send matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectionMatch {
    /// Canonical hosts.
    pub hosts: Vec<String>,
    /// Clusters, as Envoy names them.
    pub clusters: Vec<String>,
    /// A prefix if it ends in `/`, else exact.
    pub paths: Vec<String>,
    /// Exact.
    pub methods: Vec<Method>,
    /// Ports that clients connect to, in digits.
    pub ports: Vec<String>,
    /// As clients ask, `https` or `http`.
    pub schemes: Vec<String>,
}

/// Whether a rule is for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Nobody knows, for want of this.
    Open(Attribute),
}

/// What an injected header holds once its references are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InjectedValue {
    /// The template itself.
    Text(Template),
    /// `Basic` and the base64 of `username:password` (RFC 7617).
    Basic {
        /// Without colon.
        username: Template,
        /// Any text.
        password: Template,
    },
}

/// Text with references in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Stands as it is.
    Literal(String),
    /// Replaced by the secret's value.
    Reference(SecretRef),
}

/// Why a template or a matcher was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInjection {
    /// A reference that is not closed.
    #[error("reference is not closed by }}}}")]
    Unclosed,
    /// A reference that cannot be parsed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A template without any reference.
    #[error("value holds no {{{{secret://...}}}} reference")]
    NoReference,
    /// A literal part that no header can hold.
    #[error("value holds a control character")]
    Control,
    /// A host that is not one.
    #[error("malformed host {0:?}")]
    Host(String),
}

/// Whether a header is never rewritten: it routes the request or frames its
/// body, or Envoy would drop the change without a word.
#[must_use]
pub fn is_fixed(name: &str) -> bool {
    const FIXED: [&str; 3] = ["host", "content-length", "transfer-encoding"];
    const ENVOY: &[u8] = b"x-envoy-";
    name.starts_with(':')
        || FIXED.iter().any(|fixed| name.eq_ignore_ascii_case(fixed))
        || name.as_bytes().get(..ENVOY.len()).is_some_and(|head| head.eq_ignore_ascii_case(ENVOY))
}

/// Whether the target is one that has no path, as of a tunnel.
#[must_use]
pub fn is_pathless(method: &str, target: &str) -> bool {
    matches!((method, target), ("CONNECT", "") | ("OPTIONS", "*"))
}

/// The headers that rules set. Of several rules for one header the first wins.
pub fn rules<'a>(matching: impl Iterator<Item = &'a Injection>) -> Vec<Rewrite<'a>> {
    let mut rewrites: Vec<Rewrite<'a>> = Vec::new();
    for (name, value) in matching.flat_map(|injection| &injection.headers) {
        if !rewrites.iter().any(|rewrite| rewrite.name == name) {
            let value = HeaderText::Resolved(Cow::Borrowed(value));
            rewrites.push(Rewrite { name: name.clone(), values: vec![value] });
        }
    }
    rewrites
}

// === impl Template ===

impl Template {
    /// Parses text with any number of `{{secret://…}}` in it.
    ///
    /// # Errors
    /// [`InvalidInjection`].
    pub fn parse(text: &str, catalog: &Catalog) -> Result<Self, InvalidInjection> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find(OPEN) {
            let after = &rest[start + 2..];
            let end = after.find(CLOSE).ok_or(InvalidInjection::Unclosed)?;
            if start > 0 {
                parts.push(Part::Literal(rest[..start].to_owned()));
            }
            parts.push(Part::Reference(catalog.parse_reference(&after[..end])?));
            rest = &after[end + CLOSE.len()..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        if text.contains(|c: char| c.is_control() && c != '\t') {
            return Err(InvalidInjection::Control);
        }
        Ok(Self(parts))
    }

    /// The parts in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The references in order.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        self.0.iter().filter_map(|part| match part {
            Part::Reference(secret) => Some(secret),
            Part::Literal(_) => None,
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Literal(text) => f.write_str(text)?,
                Part::Reference(secret) => write!(f, "{{{{{secret}}}}}")?,
            }
        }
        Ok(())
    }
}

// === impl InjectedValue ===

impl InjectedValue {
    /// The references in order.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let (first, second) = match self {
            Self::Text(text) => (text, None),
            Self::Basic { username, password } => (username, Some(password)),
        };
        first.references().chain(second.into_iter().flat_map(Template::references))
    }
}

// === impl InjectionMatch ===

impl InjectionMatch {
    /// Brings the configured hosts into canonical form.
    ///
    /// # Errors
    /// [`InvalidInjection::Host`].
    pub fn canonical_hosts(hosts: &[String]) -> Result<Vec<String>, InvalidInjection> {
        let canonical = |host: &String| {
            let canonical = canonical_host(host).ok().filter(|_| !host.contains(':'));
            canonical
                .map(|host| host.into_owned())
                .ok_or_else(|| InvalidInjection::Host(host.clone()))
        };
        hosts.iter().map(canonical).collect()
    }

    /// Whether the rule is for this request, or would be if the proxy had told the cluster.
    #[must_use]
    pub fn could_match(&self, method: &str, path: Option<&str>, to: &Destination<'_>) -> bool {
        let cluster = to.cluster.or(self.clusters.first().map(String::as_str));
        self.matches(method, path, &Destination { cluster, ..*to })
    }

    /// Whether the rule is for this request. `path` is canonical, without query.
    #[must_use]
    pub fn matches(&self, method: &str, path: Option<&str>, to: &Destination<'_>) -> bool {
        self.fit(method, path, to) == Fit::Yes
    }

    /// Whether the rule is for this request, where it can be told. A path of more than one
    /// reading is none.
    #[must_use]
    pub fn fit(&self, method: &str, path: Option<&str>, to: &Destination<'_>) -> Fit {
        let exact = |attribute, wanted: &[String], seen| {
            fit(attribute, wanted, seen, |wanted, seen| wanted == seen)
        };
        let method = Some(method).filter(|method| !method.is_empty());
        let fits = [
            fit(Attribute::Path, &self.paths, path, |wanted, path| match wanted.ends_with('/') {
                true => path.starts_with(wanted.as_str()),
                false => path == wanted,
            }),
            fit(Attribute::Method, &self.methods, method, |wanted, method| {
                wanted.as_str() == method
            }),
            exact(Attribute::Host, &self.hosts, to.host),
            exact(Attribute::Cluster, &self.clusters, to.cluster),
            exact(Attribute::Port, &self.ports, to.port),
            exact(Attribute::Scheme, &self.schemes, to.scheme),
        ];
        match fits.contains(&Fit::No) {
            true => Fit::No,
            false => fits.into_iter().find(|fit| *fit != Fit::Yes).unwrap_or(Fit::Yes),
        }
    }
}

fn fit<W>(
    attribute: Attribute,
    wanted: &[W],
    seen: Option<&str>,
    is: impl Fn(&W, &str) -> bool,
) -> Fit {
    match seen {
        _ if wanted.is_empty() => Fit::Yes,
        None => Fit::Open(attribute),
        Some(seen) if wanted.iter().any(|wanted| is(wanted, seen)) => Fit::Yes,
        Some(_) => Fit::No,
    }
}
