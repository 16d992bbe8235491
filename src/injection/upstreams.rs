//! Toward which clusters secrets may go at all, whatever policies say. Pure.

use std::sync::Arc;

/// What the operator says of how clusters are reached. Nothing that a proxy sends with a
/// request tells it, so a cluster of which nothing is said gets no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// Those that are reached through TLS, and those that get secrets all the same.
    clusters: Arc<[String]>,
    /// Any cluster gets them, also one that the proxy does not name.
    any: bool,
}

/// What names any cluster.
const ANY: &str = "*";

// === impl Upstreams ===

impl Upstreams {
    /// Clusters as Envoy names them.
    ///
    /// # Errors
    /// Why these cannot be meant.
    pub fn new(encrypted: Vec<String>, cleartext: Vec<String>) -> Result<Self, String> {
        if encrypted.iter().any(|name| name == ANY) {
            return Err(format!("tls_clusters: {ANY:?} would say that nothing is in clear text"));
        }
        if encrypted.iter().chain(&cleartext).any(String::is_empty) {
            return Err("a cluster has a name".to_owned());
        }
        if let Some(both) = encrypted.iter().find(|name| cleartext.contains(name)) {
            return Err(format!("{both} is among tls_clusters and among cleartext_clusters"));
        }
        let any = cleartext.iter().any(|name| name == ANY);
        if any && (cleartext.len() > 1 || !encrypted.is_empty()) {
            return Err(format!("cleartext_clusters: beside {ANY:?} no other name counts"));
        }
        Ok(Self { clusters: encrypted.into_iter().chain(cleartext).collect(), any })
    }

    /// Whether secrets may go to this cluster. To one that the proxy does not name they may
    /// not, unless they may go to any.
    #[must_use]
    pub fn admit(&self, cluster: Option<&str>) -> bool {
        self.any || self.clusters.iter().any(|name| Some(name.as_str()) == cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(encrypted: &[&str], cleartext: &[&str]) -> Result<Upstreams, String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Upstreams::new(owned(encrypted), owned(cleartext))
    }

    #[test]
    fn what_is_not_said_to_be_encrypted_gets_nothing() {
        let none: &[&str] = &[];
        for (encrypted, cleartext, cluster, expected) in [
            (none, none, None, false),
            (none, none, Some("a"), false),
            (&["a"], none, None, false),
            (&["a"], none, Some("b"), false),
            (&["a"], &["b"], Some("*"), false),
            (none, &["b"], Some("a"), false),
            (none, &["b"], Some(""), false),
            (&["a"], none, Some("a"), true),
            (&["a"], &["b"], Some("b"), true),
            (none, &["*"], Some("c"), true),
            (none, &["*"], None, true),
        ] {
            let upstreams = upstreams(encrypted, cleartext).expect("valid");
            assert_eq!(
                upstreams.admit(cluster),
                expected,
                "{encrypted:?} {cleartext:?} {cluster:?}"
            );
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let none: &[&str] = &[];
        for (encrypted, cleartext, why) in [
            (&["*"][..], none, "would say"),
            (&[""], none, "a name"),
            (none, &["a", ""], "a name"),
            (&["a", "b"], &["b"], "b is among"),
            (&["a"], &["*"], "beside"),
            (none, &["*", "a"], "beside"),
        ] {
            let refused = upstreams(encrypted, cleartext).expect_err("refused");
            assert!(refused.contains(why), "{refused}");
        }
    }
}
