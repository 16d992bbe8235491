//! Who policies let in: whether anyone is kept out, of the service and of what waypoints guard.

use super::{Mesh, hosts::ServiceHost, is_custom, selector, targets};
use crate::lint::{
    Finding,
    document::{Document, Object},
    rules,
    tree::{Entry, Node},
};

type Labels<'a> = Vec<(&'a str, &'a str)>;

// === impl Mesh ===

impl<'a> Mesh<'a> {
    /// A set of files that has policies, and none that keeps others from the service itself.
    pub(super) fn check_protected(&self, hosts: &[ServiceHost<'_>], list: &mut Vec<Finding>) {
        if self.custom().next().is_none() && self.objects("Service").next().is_none() {
            return;
        }
        let mut told = Vec::new();
        for host in hosts {
            let Some((name, namespace)) = host.service() else { continue };
            if told.contains(&namespace) || self.is_protected(name, namespace, host.port) {
                continue;
            }
            told.push(namespace);
            let detail = format!("namespace {namespace:?}");
            let found = &mut host.document.findings(list);
            found.add_with(&rules::SERVICE_UNPROTECTED, host.line, detail);
        }
    }

    fn is_protected(&self, name: &str, namespace: &str, port: Option<f64>) -> bool {
        let labels = self.labels_behind(name, namespace);
        let port = self.port_behind(name, namespace, port);
        let mut protected = false;
        for (policy, object) in self.objects("AuthorizationPolicy") {
            let here = object.namespace == namespace || self.is_root(&object.namespace);
            if !here || !targets(policy).is_empty() {
                continue;
            }
            let mut about = policy.root.items_at("spec/rules").iter();
            let about_port = |rule: &&Node| covers(rule, port.as_deref());
            match policy.root.text_at("spec/action") {
                "" | "ALLOW" if about.clone().filter(about_port).all(lets_some_in) => {
                    protected |= may_select(policy, labels.as_ref());
                }
                // Whatever others say, this one lets everyone in.
                "" | "ALLOW" if surely_selects(policy, labels.as_ref()) => return false,
                "DENY" if about.any(|rule| keeps_others_out(rule) && about_port(&rule)) => {
                    protected |= may_select(policy, labels.as_ref());
                }
                _ => {}
            }
        }
        protected
    }

    /// Whether nobody but waypoints can reach what a CUSTOM policy is for at one: they are what
    /// asks about it.
    pub(in crate::lint) fn is_bypassed(&self, policy: &Document, object: &Object) -> bool {
        let namespace = &*object.namespace;
        targets(policy).iter().any(|target| match target.text_at("kind") {
            "Service" => {
                let labels = self.labels_behind(target.text_at("name"), namespace);
                !self.only_from_waypoint(policy, namespace, labels.as_ref())
            }
            "Gateway" if self.is_waypoint(target.text_at("name"), namespace) => {
                let services = self.objects("Service").filter(|(_, it)| it.namespace == namespace);
                let mut labels: Vec<_> =
                    services.map(|(_, it)| self.labels_behind(&it.name, namespace)).collect();
                if labels.is_empty() {
                    labels.push(None);
                }
                labels.iter().any(|it| !self.only_from_waypoint(policy, namespace, it.as_ref()))
            }
            _ => false,
        })
    }

    fn is_waypoint(&self, name: &str, namespace: &str) -> bool {
        self.objects("Gateway").any(|(it, object)| {
            object.name == name
                && object.namespace == namespace
                && it.root.text_at("spec/gatewayClassName") == "istio-waypoint"
        })
    }

    /// Whether a policy lets nobody but waypoints reach workloads that have these labels, if they
    /// are known.
    pub(in crate::lint) fn only_from_waypoint(
        &self,
        asking: &Document,
        namespace: &str,
        labels: Option<&Labels<'_>>,
    ) -> bool {
        let mut closed = false;
        for (policy, object) in self.objects("AuthorizationPolicy") {
            let here = object.namespace == namespace || self.is_root(&object.namespace);
            if !here
                || !targets(policy).is_empty()
                || !may_select(policy, labels)
                || !policy.may_join(asking)
            {
                continue;
            }
            let about = policy.root.items_at("spec/rules");
            match policy.root.text_at("spec/action") {
                "" | "ALLOW" => {
                    let tight = |rule: &Node| {
                        self.names_waypoints(rule, ["principals", "serviceAccounts"])
                            || (lets_some_in(rule) && !covers(rule, None))
                    };
                    if !about.iter().all(tight) {
                        return false;
                    }
                    closed = true;
                }
                "DENY" => {
                    closed |= about.iter().any(|rule| {
                        let names = ["notPrincipals", "notServiceAccounts"];
                        rule.items_at("to").is_empty()
                            && rule.items_at("when").is_empty()
                            && self.names_waypoints(rule, names)
                    });
                }
                _ => {}
            }
        }
        closed
    }

    fn names_waypoints(&self, rule: &Node, lists: [&str; 2]) -> bool {
        let waypoints: Vec<_> = self
            .objects("Gateway")
            .filter(|(it, _)| it.root.text_at("spec/gatewayClassName") == "istio-waypoint")
            .map(|(_, object)| object)
            .collect();
        // Where none is given, whoever is named may be one.
        let is_one = |name: &str, own: fn(&Object, &str) -> bool| {
            !name.contains('*')
                && (waypoints.is_empty() || waypoints.iter().any(|it| own(it, name)))
        };
        let by_principal = |it: &Object, name: &str| {
            name.ends_with(&format!("/ns/{}/sa/{}", it.namespace, it.name))
        };
        let by_account = |it: &Object, name: &str| {
            let (space, name) = name.split_once('/').unwrap_or((&it.namespace, name));
            space == it.namespace && name == it.name
        };
        let from = rule.items_at("from");
        !from.is_empty()
            && from.iter().all(|from| {
                let names = |list: &str| from.texts_at(&format!("source/{list}"));
                let (principals, accounts) = (names(lists[0]), names(lists[1]));
                let all = principals.len() + accounts.len();
                all > 0
                    && principals.iter().all(|it| is_one(it, by_principal))
                    && accounts.iter().all(|it| is_one(it, by_account))
            })
    }

    /// The labels of the pods behind a Kubernetes Service, if it is given.
    pub(in crate::lint) fn labels_behind(&self, name: &str, namespace: &str) -> Option<Labels<'a>> {
        let (service, _) = self.service(name, namespace)?;
        let labels = service.root.at("spec/selector").map(Node::entries)?;
        Some(pairs(labels))
    }

    /// A policy's ports are those of the pods.
    fn port_behind(&self, name: &str, namespace: &str, port: Option<f64>) -> Option<String> {
        let number = port?;
        let listed = self.service(name, namespace).and_then(|(service, _)| {
            let mut ports = service.root.items_at("spec/ports").iter();
            let own = ports.find(|it| it.get("port").and_then(Node::number) == port)?;
            own.get("targetPort").and_then(Node::number)
        });
        Some(listed.unwrap_or(number).to_string())
    }

    fn service(&self, name: &str, namespace: &str) -> Option<(&'a Document, &'a Object)> {
        let mut services = self.objects("Service");
        services.find(|(_, object)| object.name == name && object.namespace == namespace)
    }

    /// Whether a CUSTOM policy has checks of the service checked.
    pub(in crate::lint) fn asks_about_itself(&self, policy: &Document, object: &Object) -> bool {
        if !is_custom(policy) || !targets(policy).is_empty() {
            return false;
        }
        let about = |port: Option<&str>| {
            policy.root.items_at("spec/rules").iter().any(|rule| covers(rule, port))
        };
        let hosts = self.hosts();
        let mut hosts = hosts.iter().filter(|host| host.grpc).peekable();
        if hosts.peek().is_none() {
            let all = selector(policy).is_empty();
            return all && self.is_root(&object.namespace) && about(Some("9191"));
        }
        hosts.any(|host| {
            let Some((name, namespace)) = host.service() else { return false };
            let here = object.namespace == namespace || self.is_root(&object.namespace);
            let labels = self.labels_behind(name, namespace);
            let port = self.port_behind(name, namespace, host.port);
            here && surely_selects(policy, labels.as_ref()) && about(port.as_deref())
        })
    }
}

/// Whether a rule is about a port: of all, if none is given.
fn covers(rule: &Node, port: Option<&str>) -> bool {
    let to = rule.items_at("to");
    to.is_empty()
        || to.iter().any(|to| {
            let ports = |list: &str| -> Vec<String> {
                let items = to.items_at(&format!("operation/{list}")).iter();
                items.filter_map(|it| Some(it.number()?.to_string())).collect()
            };
            let (only, not) = (ports("ports"), ports("notPorts"));
            match port {
                Some(port) => {
                    (only.is_empty() || only.iter().any(|it| it == port))
                        && !not.iter().any(|it| it == port)
                }
                None => only.is_empty(),
            }
        })
}

/// Whether an ALLOW rule names whom it lets in, rather than everyone.
fn lets_some_in(rule: &Node) -> bool {
    let from = rule.items_at("from");
    let sources = !from.is_empty() && from.iter().all(|it| names_some(it, ""));
    let mut conditions = rule.items_at("when").iter();
    sources
        || conditions.any(|when| {
            let values = when.texts_at("values");
            !values.is_empty()
                && match when.text_at("key") {
                    "source.principal" => values.iter().all(|it| is_narrow_principal(it)),
                    "source.namespace" | "source.serviceAccount" => {
                        values.iter().all(|it| is_narrow(it))
                    }
                    _ => false,
                }
        })
}

/// Whether a DENY rule is about all but those that it names.
fn keeps_others_out(rule: &Node) -> bool {
    rule.items_at("when").is_empty() && rule.items_at("from").iter().any(|it| names_some(it, "not"))
}

/// Whether a source names principals, namespaces or service accounts that are not everyone's.
fn names_some(from: &Node, not: &str) -> bool {
    let listed = |key: &str, narrow: fn(&str) -> bool| {
        let key = match not {
            "" => format!("source/{key}"),
            not => format!("source/{not}{key}"),
        };
        let names = from.texts_at(&key);
        !names.is_empty() && names.iter().all(|name| narrow(name))
    };
    listed("principals", is_narrow_principal)
        || listed("namespaces", is_narrow)
        || listed("serviceAccounts", is_narrow)
}

/// A pattern narrows only if a whole namespace is in what it leaves open.
fn is_narrow_principal(pattern: &str) -> bool {
    if !pattern.contains('*') {
        return !pattern.is_empty();
    }
    let namespace = pattern.split_once("/ns/").and_then(|(_, rest)| rest.split_once('/'));
    namespace.is_some_and(|(namespace, _)| !namespace.is_empty() && !namespace.contains('*'))
}

fn is_narrow(name: &str) -> bool {
    let named = name.trim_matches('*');
    named.len() > 1 || (!named.is_empty() && named == name)
}

/// Whether a policy selects all pods with these labels.
fn surely_selects(policy: &Document, labels: Option<&Labels<'_>>) -> bool {
    let wanted = selector(policy);
    wanted.is_empty() || labels.is_some_and(|own| wanted.iter().all(|it| own.contains(it)))
}

/// Whether a policy may select pods with these labels: pods have more than a Service asks for.
fn may_select(policy: &Document, labels: Option<&Labels<'_>>) -> bool {
    let other = |wanted: &(&str, &str)| {
        labels.is_some_and(|own| own.iter().any(|it| it.0 == wanted.0 && it.1 != wanted.1))
    };
    !selector(policy).iter().any(other)
}

/// Labels in the order of their names.
pub(super) fn pairs(entries: &[Entry]) -> Labels<'_> {
    // What is no text is no label that anyone has, but narrows all the same.
    let pairs = entries.iter().map(|it| (&*it.key, it.node.text().unwrap_or_default()));
    let mut found: Vec<_> = pairs.collect();
    found.sort_unstable();
    found
}
