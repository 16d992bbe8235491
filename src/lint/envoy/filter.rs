//! The filters of an HTTP chain, wherever their configuration stands, and their order.

use super::read::Named;
use crate::lint::{Findings, rules, tree::Node};

/// Envoy's name of the filter in chains and per route.
pub(in crate::lint) const AUTHZ: &str = "envoy.filters.http.ext_authz";
pub(in crate::lint) const PROC: &str = "envoy.filters.http.ext_proc";

/// The types of our filters. There is another ext_authz for connections.
pub(super) const TYPES: [&str; 2] = [
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
];

/// A filter of an HTTP filter chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::lint) struct Filter<'a> {
    /// What routes call it; empty if nothing says.
    pub(in crate::lint) name: &'a str,
    /// With its package.
    pub(in crate::lint) type_name: &'a str,
    pub(in crate::lint) config: &'a Node,
    /// Its place in the chain.
    pub(in crate::lint) entry: &'a Node,
    /// Where its configuration stands, if that is another source than the chain's.
    pub(in crate::lint) source: Option<usize>,
    /// What chooses the requests that it is for.
    pub(in crate::lint) matcher: Option<Matcher<'a>>,
}

/// A tree that looks at a request and says what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(in crate::lint) struct Matcher<'a> {
    pub(super) tree: &'a Node,
    /// Whether it chooses filters to run, rather than requests that skip one.
    pub(super) chooses: bool,
}

// === impl Filter ===

impl<'a> Filter<'a> {
    /// Reads an entry of `http_filters`, or the value of an EnvoyFilter's patch: one filter, or
    /// those that a composite one chooses from.
    pub(in crate::lint) fn read(entry: &'a Node, named: &Named<'a>) -> Vec<Self> {
        let name = entry.text_at("name");
        let (typed, source) = match entry.get("typed_config") {
            Some(config) => (config.typed(), None),
            None => {
                let found = named.filters.get(name);
                let elsewhere = found.and_then(|it| it.node.get("typed_config"));
                let default = entry.at("config_discovery/default_config");
                let source = elsewhere.and(found).map(|it| it.source);
                (elsewhere.or(default).and_then(Node::typed), source)
            }
        };
        let Some((type_name, config)) = typed else { return Vec::new() };
        let whole = Self { name, type_name, config, entry, source, matcher: None };
        whole.unwrapped(config)
    }

    fn unwrapped(self, holder: &'a Node) -> Vec<Self> {
        if self.type_name.ends_with("matching.v3.ExtensionWithMatcher") {
            let inner = self.config.at("extension_config/typed_config").and_then(Node::typed);
            let Some((type_name, config)) = inner else { return Vec::new() };
            let tree = self.config.get("xds_matcher").or_else(|| self.config.get("matcher"));
            let matcher = tree.map(|tree| Matcher { tree, chooses: false });
            let inner = Self { type_name, config, matcher, ..self };
            return inner.unwrapped(self.config);
        }
        if !self.type_name.ends_with("composite.v3.Composite") {
            return vec![self];
        }
        let tree = self.matcher.map(|it| it.tree).or_else(|| self.config.get("matcher"));
        let matcher = tree.map(|tree| Matcher { tree, chooses: true });
        let chosen: Vec<_> = TYPES
            .into_iter()
            .flat_map(|type_name| {
                let configs = holder.typed_below(type_name).into_iter();
                configs.map(move |config| Self { type_name, config, matcher, ..self })
            })
            .collect();
        if chosen.is_empty() { vec![self] } else { chosen }
    }

    pub(in crate::lint) fn line(&self) -> u64 {
        self.entry.line
    }

    /// Runs only where a route says so.
    pub(in crate::lint) fn is_disabled(&self) -> bool {
        self.entry.true_at("disabled")
    }

    pub(in crate::lint) fn is_authz(&self) -> bool {
        self.type_name.ends_with("filters.http.ext_authz.v3.ExtAuthz")
    }

    pub(in crate::lint) fn is_proc(&self) -> bool {
        self.type_name.ends_with("filters.http.ext_proc.v3.ExternalProcessor")
    }

    fn is_router(&self) -> bool {
        self.type_name.ends_with("filters.http.router.v3.Router")
    }

    /// Answers requests, or reads what ext_authz is to write.
    fn is_consumer(&self) -> bool {
        let reads = |text: &str| text.contains(AUTHZ) || text.contains("x-vaultmux-");
        self.type_name.ends_with("filters.http.cache.v3.CacheConfig")
            || (!self.is_authz() && !self.is_proc() && self.config.find_text(&reads).is_some())
    }

    /// Puts its own word in the place of what the client says about its certificate.
    pub(super) fn replaces_client_cert(&self) -> bool {
        let mutations = self.config.items_at("mutations/request_mutations").iter();
        let overwrites = |mutation: &Node| {
            let header = mutation.text_at("append/header/key");
            header.eq_ignore_ascii_case("x-forwarded-client-cert")
                && mutation.text_at("append/append_action") == "OVERWRITE_IF_EXISTS_OR_ADD"
        };
        self.type_name.ends_with("header_mutation.v3.HeaderMutation")
            && !self.is_disabled()
            && mutations.into_iter().any(overwrites)
    }
}

pub(super) fn all<'a>(list: &'a [Node], named: &Named<'a>) -> Vec<Filter<'a>> {
    list.iter().flat_map(|entry| Filter::read(entry, named)).collect()
}

pub(super) fn check_order(filters: &[Filter<'_>], found: &mut Findings<'_>) {
    let authz = filters.iter().position(Filter::is_authz);
    let router = filters.iter().position(Filter::is_router);
    for (at, filter) in filters.iter().enumerate() {
        if router.is_some_and(|router| at > router) {
            found.add(&rules::FILTER_AFTER_ROUTER, filter.line());
        }
        if authz.is_some_and(|authz| at < authz) {
            if filter.is_proc() {
                found.add(&rules::PROC_BEFORE_AUTHZ, filter.line());
            } else if filter.is_consumer() {
                found.add(&rules::AUTHZ_AFTER_CONSUMER, filter.line());
            }
        }
    }
}
