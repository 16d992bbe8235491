//! Which rules could match a request or connection in the mesh.
//!
//! Rules are found by the workload called if they name one, else by host, else
//! by path alone. A Deny that names workloads is also kept apart for requests
//! that do not show theirs.

use std::{collections::HashMap, sync::Arc};

use super::{Entry, prefix_map::PrefixMap};
use crate::{
    identity::ServiceAccount,
    policy::{
        request::{Connection, HttpRequest},
        rule::{Among, HttpRule},
    },
};

/// The mesh traffic of one bucket.
#[derive(Default)]
pub(super) struct HttpIndex {
    workloads: HashMap<ServiceAccount, Paths>,
    hosts: HashMap<Arc<str>, Paths>,
    any: Paths,
    /// Deny rules that name workloads, for requests without one.
    unknown: Paths,
    connections: Connections,
}

/// Rules by path.
#[derive(Default)]
struct Paths {
    any: Vec<Entry>,
    exact: HashMap<Arc<str>, Vec<Entry>>,
    prefixes: PrefixMap<Vec<Entry>>,
}

/// Rules by workload alone.
#[derive(Default)]
struct Connections {
    workloads: HashMap<ServiceAccount, Vec<Entry>>,
    any: Vec<Entry>,
    unknown: Vec<Entry>,
}

// === impl HttpIndex ===

impl HttpIndex {
    pub(super) fn insert(&mut self, entry: Entry, allow: bool, rule: &HttpRule) {
        let HttpRule { hosts, methods, paths, destinations } = rule;
        for workload in destinations {
            self.workloads.entry(workload.clone()).or_default().insert(entry, paths);
        }
        if destinations.is_empty() {
            match hosts {
                Among::OneOf(hosts) => {
                    for host in hosts {
                        self.hosts.entry(host.clone()).or_default().insert(entry, paths);
                    }
                }
                Among::Unset | Among::Any => self.any.insert(entry, paths),
            }
        } else if !allow {
            self.unknown.insert(entry, paths);
        }
        // A connection shows neither host, method nor path: that never
        // satisfies an Allow and always satisfies a Deny.
        if !allow || !(hosts.is_set() || methods.is_set() || paths.is_set()) {
            self.connections.insert(entry, allow, destinations);
        }
    }

    /// Calls `found` with every rule whose workloads and paths match.
    pub(super) fn visit_request(&self, request: &HttpRequest<'_>, found: &mut impl FnMut(Entry)) {
        let workload = match &request.destination {
            Some(workload) => self.workloads.get(workload),
            None => Some(&self.unknown),
        };
        let hosts = self.hosts.get(request.host());
        for paths in std::iter::once(&self.any).chain(hosts).chain(workload) {
            paths.visit(request.path(), found);
        }
    }

    /// Calls `found` with every rule whose workloads match, as far as rules can
    /// match a connection at all.
    pub(super) fn visit_connection(&self, connection: &Connection, found: &mut impl FnMut(Entry)) {
        let workload = match &connection.destination {
            Some(workload) => self.connections.workloads.get(workload),
            None => Some(&self.connections.unknown),
        };
        let entries = std::iter::once(&self.connections.any).chain(workload).flatten();
        entries.copied().for_each(found);
    }
}

// === impl Paths ===

impl Paths {
    fn insert(&mut self, entry: Entry, paths: &Among<Arc<str>>) {
        let Among::OneOf(paths) = paths else { return self.any.push(entry) };
        for path in paths {
            match path.ends_with('/') {
                true => self.prefixes.entry(path).push(entry),
                false => self.exact.entry(path.clone()).or_default().push(entry),
            }
        }
    }

    fn visit(&self, path: &str, found: &mut impl FnMut(Entry)) {
        let exact = self.exact.get(path).into_iter();
        let prefixes = self.prefixes.matches(path).map(|(_, entries)| entries);
        let all = std::iter::once(&self.any).chain(exact).chain(prefixes).flatten();
        all.copied().for_each(found);
    }
}

// === impl Connections ===

impl Connections {
    fn insert(&mut self, entry: Entry, allow: bool, destinations: &[ServiceAccount]) {
        for workload in destinations {
            self.workloads.entry(workload.clone()).or_default().push(entry);
        }
        if destinations.is_empty() {
            self.any.push(entry);
        } else if !allow {
            self.unknown.push(entry);
        }
    }
}
