//! Where requests go, as the operator says of proxies that cannot say it themselves.

use std::sync::Arc;

use crate::{
    identity::{PeerPatterns, SpiffeId},
    policy::canonical_host,
};

/// How `ext_authz` deals with secrets in requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckInjection {
    /// Whether it puts them there itself.
    pub inject: bool,
    /// Whether it has them fetched for `ext_proc`, which comes after it.
    pub prefetch: bool,
    /// Where requests go of which the route says nothing.
    pub destinations: Arc<[StatedDestination]>,
}

/// That certain proxies route requests for a host to one destination only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedDestination {
    /// The proxies, by identity: others may send the same host elsewhere.
    pub proxies: PeerPatterns,
    /// Authorities, as the client sends them, but for letters' case.
    pub hosts: Vec<String>,
    /// The cluster that they are routed to.
    pub cluster: Option<String>,
    /// The route that they take.
    pub route: Option<String>,
}

// === impl CheckInjection ===

impl Default for CheckInjection {
    fn default() -> Self {
        Self { inject: false, prefetch: true, destinations: Arc::new([]) }
    }
}

// === impl StatedDestination ===

impl StatedDestination {
    /// Whether an authority can be looked up: a host, or a host with a port.
    #[must_use]
    pub fn is_authority(text: &str) -> bool {
        canonical_host(text).is_ok_and(|host| {
            let rest = text.strip_prefix(&*host);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }

    /// Whether it is about requests for this authority that this proxy asks about. Another
    /// spelling of the same host may take another route, so it is not compared by what it
    /// means.
    #[must_use]
    pub fn is_about(&self, proxy: &SpiffeId, authority: &str) -> bool {
        self.proxies.admit_id(proxy)
            && self.hosts.iter().any(|host| host.eq_ignore_ascii_case(authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_proxies_and_spellings_count() {
        let gateway = "spiffe://cluster.local/ns/egress/sa/gateway".to_owned();
        let stated = StatedDestination {
            proxies: PeerPatterns::parse(&[gateway]).expect("valid"),
            hosts: vec!["api.test".into(), "api.test:443".into()],
            cluster: Some("c".into()),
            route: None,
        };
        for (proxy, authority, expected) in [
            ("ns/egress/sa/gateway", "api.test", true),
            ("ns/egress/sa/gateway", "API.test:443", true),
            ("ns/egress/sa/gateway", "api.test:8443", false),
            ("ns/egress/sa/gateway", "api.test.", false),
            ("ns/egress/sa/gateway", "evil.api.test", false),
            ("ns/egress/sa/gateway", "", false),
            ("ns/egress/sa/gateway2", "api.test", false),
            ("ns/other/sa/gateway", "api.test", false),
        ] {
            let proxy = SpiffeId::parse(&format!("spiffe://cluster.local/{proxy}")).expect("valid");
            assert_eq!(stated.is_about(&proxy, authority), expected, "{proxy} {authority}");
        }
        for (text, expected) in [
            ("api.test", true),
            ("api.test:443", true),
            ("[::1]:443", true),
            ("API.test", false),
            ("api.test.", false),
            ("", false),
            ("a b", false),
            ("*.test", false),
        ] {
            assert_eq!(StatedDestination::is_authority(text), expected, "{text}");
        }
    }
}
