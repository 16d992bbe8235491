//! Where secrets may be used, one value at a time.

use std::{fmt, sync::Arc};

use super::Span;
use crate::policy::request::{Attribute, Destination};

/// Where a secret may be used. What is not given is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Toward {
    /// The routed cluster.
    pub cluster: Option<Arc<str>>,
    /// The route.
    pub route: Option<Arc<str>>,
    /// The port that the client's connection was made to.
    pub port: Option<Arc<str>>,
    /// The downstream server name.
    pub sni: Option<Arc<str>>,
    /// The request's scheme.
    pub scheme: Option<Arc<str>>,
    /// The request's host.
    pub host: Option<Arc<str>>,
    /// The request's method.
    pub method: Option<Arc<str>>,
    /// The request's paths.
    pub paths: Span,
}

// === impl Toward ===

impl Toward {
    /// All of these values with all of the others, in their order. Of paths there are spans.
    pub(in crate::policy) fn combined(
        values: impl Fn(Attribute) -> Vec<Option<Arc<str>>>,
        paths: &[Span],
    ) -> Vec<Self> {
        let mut all = vec![Self::default()];
        for attribute in Attribute::ALL.into_iter().filter(|one| *one != Attribute::Path) {
            let values = values(attribute);
            let with = |toward: &Self| {
                let toward = toward.clone();
                values.clone().into_iter().map(move |value| {
                    let mut toward = toward.clone();
                    toward.set(attribute, value);
                    toward
                })
            };
            all = all.iter().flat_map(with).collect();
        }
        let with = |toward: Self| {
            paths.iter().map(move |paths| Self { paths: paths.clone(), ..toward.clone() })
        };
        all.into_iter().flat_map(with).collect()
    }

    /// The value of an attribute other than the path.
    pub(in crate::policy) fn get(&self, attribute: Attribute) -> Option<&Arc<str>> {
        match attribute {
            Attribute::Cluster => self.cluster.as_ref(),
            Attribute::Route => self.route.as_ref(),
            Attribute::Port => self.port.as_ref(),
            Attribute::Sni => self.sni.as_ref(),
            Attribute::Scheme => self.scheme.as_ref(),
            Attribute::Host => self.host.as_ref(),
            Attribute::Method => self.method.as_ref(),
            Attribute::Path => None,
        }
    }

    fn set(&mut self, attribute: Attribute, value: Option<Arc<str>>) {
        match attribute {
            Attribute::Cluster => self.cluster = value,
            Attribute::Route => self.route = value,
            Attribute::Port => self.port = value,
            Attribute::Sni => self.sni = value,
            Attribute::Scheme => self.scheme = value,
            Attribute::Host => self.host = value,
            Attribute::Method => self.method = value,
            Attribute::Path => {}
        }
    }

    /// The destination with all that is given.
    #[must_use]
    pub fn destination(&self) -> Destination<'_> {
        Destination {
            host: self.host.as_deref(),
            cluster: self.cluster.as_deref(),
            route: self.route.as_deref(),
            sni: self.sni.as_deref(),
            port: self.port.as_deref(),
            scheme: self.scheme.as_deref(),
            method: self.method.as_deref(),
            path: match &self.paths {
                Span::One(path) => Some(path),
                Span::Any | Span::Prefix(_) => None,
            },
        }
    }
}

impl fmt::Display for Toward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for attribute in Attribute::ALL {
            if let Some(value) = self.get(attribute) {
                write!(f, "{before}{} {value}", attribute.in_words())?;
                before = ", ";
            }
        }
        match &self.paths {
            Span::Any => Ok(()),
            paths => write!(f, "{before}path {paths}"),
        }
    }
}
