//! Which rules could match a request or connection in the mesh.
//!
//! Rules are found by the workload called if they name one, then by host, then by path. A
//! Deny that names workloads is also kept apart for requests that do not show theirs.

use std::{collections::HashMap, sync::Arc};

use smol_str::SmolStr;

use super::{
    build::{Crowded, Placed, Tables},
    leaf::{Effect, Entry, Leaf},
    map::Map,
    trie::Trie,
};
use crate::{
    identity::ServiceAccount,
    policy::{
        request::{Connection, HttpRequest, Verb},
        rule::{Among, HttpRule, Verbs},
    },
};

/// The mesh traffic of one set of subjects.
#[derive(Default)]
pub(super) struct HttpIndex {
    workloads: HashMap<ServiceAccount, Hosts>,
    any: Hosts,
    /// Deny rules that name workloads, for requests without one.
    unknown: Hosts,
    connections: Connections,
}

/// A rule for one path. Numbers are those of [`Tables`]; 0 asks nothing.
#[derive(Clone, Copy)]
pub(super) struct HttpEntry {
    pub(super) slot: u32,
    pub(super) condition: u32,
    pub(super) first: u32,
    pub(super) methods: u32,
    pub(super) effect: Effect,
    weight: u32,
}

/// Rules by host.
#[derive(Default)]
struct Hosts {
    any: Paths,
    listed: Map<SmolStr, Paths>,
}

/// Rules by path.
#[derive(Default)]
struct Paths {
    any: Leaf<HttpEntry>,
    exact: Map<SmolStr, Leaf<HttpEntry>>,
    /// Of the exact paths: longer ones are not looked up, which would read all of them.
    longest: usize,
    prefixes: Trie<HttpEntry>,
}

/// Rules by workload alone.
#[derive(Default)]
struct Connections {
    workloads: HashMap<ServiceAccount, Leaf<HttpEntry>>,
    any: Leaf<HttpEntry>,
    unknown: Leaf<HttpEntry>,
}

// === impl HttpIndex ===

impl HttpIndex {
    pub(super) fn insert(&mut self, placed: Placed, rule: &HttpRule, tables: &mut Tables) {
        let Placed { slot, condition, first, effect } = placed;
        let HttpRule { hosts, methods, paths, destinations } = rule;
        let weight = usize::from(condition != 0 || first != 0) + methods.listed().len();
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let methods_listed = tables.methods(methods);
        let entry = HttpEntry { slot, condition, first, methods: methods_listed, effect, weight };
        for workload in destinations {
            self.workloads.entry(workload.clone()).or_default().insert(entry, hosts, paths);
        }
        if destinations.is_empty() {
            self.any.insert(entry, hosts, paths);
        } else if !effect.allow {
            self.unknown.insert(entry, hosts, paths);
        }
        // A connection shows neither host, method nor path: that never
        // satisfies an Allow and always satisfies a Deny.
        if !effect.allow || !(hosts.is_set() || methods.is_set() || paths.is_set()) {
            self.connections.insert(HttpEntry { methods: 0, ..entry }, destinations);
        }
    }

    /// Drops what never decides; refuses what would make decisions slow.
    pub(super) fn settle(&mut self, tables: &mut Tables) -> Result<(), Crowded> {
        let hosts = [&mut self.any, &mut self.unknown].into_iter();
        let mut hosts = hosts.chain(self.workloads.values_mut());
        hosts.try_for_each(|hosts| hosts.settle(tables))?;
        let Connections { workloads, any, unknown } = &mut self.connections;
        for leaf in workloads.values_mut().chain([any, unknown]) {
            leaf.settle(0, tables)?;
        }
        Ok(())
    }

    /// Calls `found` with every rule whose workloads, hosts and paths match.
    pub(super) fn visit_request(
        &self,
        request: &HttpRequest<'_>,
        found: &mut impl FnMut(&HttpEntry),
    ) {
        let workload = match &request.destination {
            Some(workload) => self.workloads.get(workload),
            None => Some(&self.unknown),
        };
        for hosts in std::iter::once(&self.any).chain(workload) {
            hosts.any.visit(request.path(), found);
            if let Some(paths) = hosts.listed.get(request.host()) {
                paths.visit(request.path(), found);
            }
        }
    }

    /// Calls `found` with every rule whose workloads match, as far as rules can
    /// match a connection at all.
    pub(super) fn visit_connection(
        &self,
        connection: &Connection,
        found: &mut impl FnMut(&HttpEntry),
    ) {
        let Connections { workloads, any, unknown } = &self.connections;
        let workload = match &connection.destination {
            Some(workload) => workloads.get(workload),
            None => Some(unknown),
        };
        any.iter().chain(workload.into_iter().flat_map(Leaf::iter)).for_each(found);
    }
}

// === impl Hosts ===

impl Hosts {
    fn insert(&mut self, entry: HttpEntry, hosts: &Among<Arc<str>>, paths: &Among<Arc<str>>) {
        match hosts {
            Among::OneOf(hosts) => {
                for host in hosts {
                    self.listed.entry(&**host).insert(entry, paths);
                }
            }
            // Every request has a host.
            Among::Unset | Among::Any => self.any.insert(entry, paths),
        }
    }

    fn settle(&mut self, tables: &mut Tables) -> Result<(), Crowded> {
        self.listed.shrink();
        let mut paths = std::iter::once(&mut self.any).chain(self.listed.values_mut());
        paths.try_for_each(|paths| paths.settle(tables))
    }
}

// === impl Paths ===

impl Paths {
    fn insert(&mut self, entry: HttpEntry, paths: &Among<Arc<str>>) {
        let Among::OneOf(paths) = paths else { return self.any.push(entry) };
        for path in paths {
            match path.ends_with('/') {
                true => self.prefixes.leaf(path, &['/']).push(entry),
                false => {
                    self.longest = self.longest.max(path.len());
                    self.exact.entry(&**path).push(entry);
                }
            }
        }
    }

    fn settle(&mut self, tables: &mut Tables) -> Result<(), Crowded> {
        let any = self.any.settle(0, tables)?;
        self.exact.shrink();
        for leaf in self.exact.values_mut() {
            leaf.settle(any, tables)?;
        }
        self.prefixes.settle(any, tables)
    }

    fn visit(&self, path: &str, found: &mut impl FnMut(&HttpEntry)) {
        self.any.iter().for_each(&mut *found);
        if path.len() <= self.longest
            && let Some(leaf) = self.exact.get(path)
        {
            leaf.iter().for_each(&mut *found);
        }
        self.prefixes.visit(path, &['/'], found);
    }
}

// === impl Connections ===

impl Connections {
    fn insert(&mut self, entry: HttpEntry, destinations: &[ServiceAccount]) {
        for workload in destinations {
            self.workloads.entry(workload.clone()).or_default().push(entry);
        }
        if destinations.is_empty() {
            self.any.push(entry);
        } else if !entry.effect.allow {
            self.unknown.push(entry);
        }
    }
}

// === impl HttpEntry ===

impl Entry for HttpEntry {
    fn slot(&self) -> u32 {
        self.slot
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn verbs(&self) -> Verbs {
        // Any will do: requests in the mesh have none.
        Verbs::from_iter([Verb::Use])
    }

    fn asks(&self) -> [u32; 3] {
        [self.condition, self.methods, 0]
    }

    fn first(&self) -> u32 {
        self.first
    }

    fn set_first(&mut self, number: u32) {
        self.first = number;
    }

    fn weight(&self) -> usize {
        self.weight as usize
    }
}
