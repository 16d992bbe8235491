//! What several documents say together: which providers there are, where the service runs,
//! which namespaces are ambient.

use super::{
    Finding,
    document::{Document, Object},
    rules,
    tree::Node,
};

/// All documents, and what is known from them.
#[derive(Debug)]
pub(super) struct Mesh<'a> {
    documents: &'a [Document],
    providers: Vec<Provider<'a>>,
    /// There is a mesh configuration, so that a provider that is not in it does not exist.
    complete: bool,
    /// Whose policies hold for all namespaces.
    root_namespace: &'a str,
}

/// Whom Istio may ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Provider<'a> {
    document: &'a Document,
    pub(super) name: &'a str,
    /// Its own node.
    pub(super) entry: &'a Node,
    /// What is under `envoyExtAuthzGrpc` or `envoyExtAuthzHttp`.
    pub(super) settings: &'a Node,
    pub(super) grpc: bool,
}

/// A host of the service, as the mesh names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceHost<'a> {
    document: &'a Document,
    line: u64,
    host: &'a str,
    port: Option<f64>,
    grpc: bool,
}

// === impl Mesh ===

impl<'a> Mesh<'a> {
    pub(super) fn new(documents: &'a [Document]) -> Self {
        let meshes = || documents.iter().filter_map(|it| Some((it, it.mesh()?)));
        let providers = meshes().flat_map(|(document, mesh)| providers(document, mesh));
        let root = meshes().map(|(_, mesh)| mesh.text_at("rootNamespace"));
        Self {
            documents,
            providers: providers.collect(),
            complete: meshes().any(|(_, mesh)| mesh.get_even_empty("extensionProviders")),
            root_namespace: root
                .into_iter()
                .find(|name| !name.is_empty())
                .unwrap_or("istio-system"),
        }
    }

    /// The providers that a document holds.
    pub(super) fn providers_of(&self, document: &Document) -> impl Iterator<Item = &Provider<'a>> {
        self.providers.iter().filter(move |provider| std::ptr::eq(provider.document, document))
    }

    /// All objects of a kind.
    pub(super) fn objects(
        &self,
        kind: &'static str,
    ) -> impl Iterator<Item = (&'a Document, &'a Object)> {
        self.documents.iter().filter_map(move |it| Some((it, it.object(kind)?)))
    }

    /// Policies that have Istio ask a provider.
    pub(super) fn custom(&self) -> impl Iterator<Item = (&'a Document, &'a Object)> {
        self.objects("AuthorizationPolicy").filter(|(it, _)| is_custom(it))
    }

    /// Whether its policies hold for all namespaces.
    pub(super) fn is_root(&self, namespace: &str) -> bool {
        namespace == self.root_namespace
    }

    pub(super) fn is_ambient(&self, namespace: &str) -> bool {
        let mode = "metadata/labels/istio.io/dataplane-mode";
        self.objects("Namespace")
            .any(|(it, object)| object.name == namespace && label(it, mode) == "ambient")
    }

    /// Whether an ALLOW policy of the namespace names who may reach its pods.
    pub(super) fn has_companion(&self, namespace: &str) -> bool {
        self.objects("AuthorizationPolicy").any(|(it, object)| {
            object.namespace == namespace
                && ["", "ALLOW"].contains(&it.root.text_at("spec/action"))
                && !has_targets(it)
                && names_sources(it)
        })
    }

    /// The hosts that the service has in this mesh.
    fn hosts(&self) -> Vec<ServiceHost<'a>> {
        let mut found = Vec::new();
        for provider in &self.providers {
            let Some(service) = provider.settings.get("service") else { continue };
            found.push(ServiceHost {
                document: provider.document,
                line: service.line,
                host: service.text().unwrap_or_default(),
                port: provider.settings.get("port").and_then(Node::number),
                grpc: provider.grpc,
            });
        }
        for (document, _) in self.objects("EnvoyFilter") {
            let is_cluster = |text: &str| text.starts_with("outbound|");
            for patch in document.root.items_at("spec/configPatches") {
                let filter = patch.at("patch/value/typed_config");
                let Some((name, config)) = filter.and_then(Node::typed) else { continue };
                if !name.contains(".ext_authz.") && !name.contains(".ext_proc.") {
                    continue;
                }
                let cluster = config.get("grpc_service").and_then(|it| it.find_text(&is_cluster));
                let Some((line, cluster)) = cluster else { continue };
                let mut parts = cluster.split('|').skip(1);
                let port = parts.next().and_then(|port| port.parse().ok());
                let host = parts.nth(1).unwrap_or_default();
                found.push(ServiceHost { document, line, host, port, grpc: true });
            }
        }
        found.retain(|host| !host.host.is_empty());
        found
    }

    /// Rules about what is missing in all documents together.
    pub(super) fn check(&self, list: &mut Vec<Finding>) {
        self.check_providers(list);
        self.check_two_providers(list);
        let hosts = self.hosts();
        for host in &hosts {
            self.check_port(*host, list);
        }
        self.check_protected(&hosts, list);
        for (document, object) in self.objects("Sidecar") {
            check_sidecar(document, object, &hosts, list);
        }
    }

    fn check_providers(&self, list: &mut Vec<Finding>) {
        for (document, _) in self.custom() {
            let found = &mut document.findings(list);
            let name = document.root.text_at("spec/provider/name");
            let spec = document.root.get("spec");
            let line = spec.map_or(document.root.line, |spec| spec.line_of("provider"));
            if name.is_empty() {
                found.add_with(&rules::PROVIDER_MISSING, line, "it names none");
            } else if self.complete && !self.providers.iter().any(|it| it.name == name) {
                found.add_with(&rules::PROVIDER_MISSING, line, format!("{name:?}"));
            }
        }
    }

    fn check_two_providers(&self, list: &mut Vec<Finding>) {
        let policies: Vec<_> = self.custom().collect();
        let provider = |it: &Document| it.root.text_at("spec/provider/name").to_owned();
        for (at, (second, object)) in policies.iter().enumerate() {
            let other = policies[..at].iter().find(|(first, of)| {
                provider(first) != provider(second)
                    && self.meet((first, &of.namespace), (second, &object.namespace))
            });
            if let Some((first, of)) = other {
                let spec = second.root.get("spec");
                let line = spec.map_or(second.root.line, |spec| spec.line_of("provider"));
                let detail = format!(
                    "{:?} here and {:?} of policy {:?}",
                    provider(second),
                    provider(first),
                    of.name
                );
                second.findings(list).add_with(&rules::TWO_PROVIDERS, line, detail);
            }
        }
    }

    /// Whether two policies may hold for one workload.
    fn meet(&self, left: (&Document, &str), right: (&Document, &str)) -> bool {
        let ((left, left_in), (right, right_in)) = (left, right);
        if left.set.is_some() && right.set.is_some() && left.set != right.set {
            return false;
        }
        let everywhere = |namespace| self.is_root(namespace);
        if left_in != right_in && !everywhere(left_in) && !everywhere(right_in) {
            return false;
        }
        let targets = |it: &Document| -> Vec<(String, String)> {
            let listed = it.root.items_at("spec/targetRefs").iter();
            let all = listed.chain(it.root.at("spec/targetRef"));
            all.map(|to| (to.text_at("kind").to_owned(), to.text_at("name").to_owned())).collect()
        };
        let (left_to, right_to) = (targets(left), targets(right));
        if !left_to.is_empty() || !right_to.is_empty() {
            return left_to.iter().any(|target| right_to.contains(target));
        }
        let labels = |it: &Document| -> Vec<(String, String)> {
            let labels = it.root.at("spec/selector/matchLabels").map(Node::entries);
            let labels = labels.unwrap_or_default().iter();
            labels.map(|it| (it.key.clone(), it.node.text().unwrap_or_default().into())).collect()
        };
        let (left, right) = (labels(left), labels(right));
        // One that asks for all the other does, and more, is met where the other is.
        left.iter().all(|label| right.contains(label))
            || right.iter().all(|label| left.contains(label))
    }

    /// The port of the service has to be known as gRPC.
    fn check_port(&self, host: ServiceHost<'_>, list: &mut Vec<Finding>) {
        let Some((name, namespace)) = host.service() else { return };
        for (document, object) in self.objects("Service") {
            if !host.grpc || object.name != name || object.namespace != namespace {
                continue;
            }
            for port in document.root.items_at("spec/ports") {
                if port.get("port").and_then(Node::number) != host.port {
                    continue;
                }
                let protocol = port.text_at("appProtocol");
                let named = port.text_at("name").split('-').next();
                let known = ["grpc", "http2", "kubernetes.io/h2c"].contains(&protocol)
                    || (protocol.is_empty() && matches!(named, Some("grpc" | "http2")));
                if !known {
                    let detail = format!("port {:?}", port.text_at("name"));
                    document.findings(list).add_with(&rules::SERVICE_NOT_HTTP2, port.line, detail);
                }
            }
        }
    }

    /// A set of files that has policies, and none for the service itself.
    fn check_protected(&self, hosts: &[ServiceHost<'_>], list: &mut Vec<Finding>) {
        if self.custom().next().is_none() && self.objects("Service").next().is_none() {
            return;
        }
        let mut known = Vec::new();
        for host in hosts {
            let Some((_, namespace)) = host.service() else { continue };
            if known.contains(&namespace) {
                continue;
            }
            known.push(namespace);
            let protected = self.objects("AuthorizationPolicy").any(|(it, object)| {
                object.namespace == namespace && !is_custom(it) && names_sources(it)
            });
            if !protected {
                let detail = format!("namespace {namespace:?}");
                let found = &mut host.document.findings(list);
                found.add_with(&rules::SERVICE_UNPROTECTED, host.line, detail);
            }
        }
    }
}

// === impl ServiceHost ===

impl<'a> ServiceHost<'a> {
    /// The name and namespace of its Kubernetes Service, if it is one.
    fn service(&self) -> Option<(&'a str, &'a str)> {
        let host = self.host.rsplit('/').next()?;
        let mut labels = host.split('.');
        let (name, namespace) = (labels.next()?, labels.next()?);
        (labels.next() == Some("svc")).then_some((name, namespace))
    }

    /// Whether a Sidecar's `namespace/host` covers it.
    fn covered_by(&self, entry: &str, own_namespace: &str) -> bool {
        let Some((namespace, pattern)) = entry.split_once('/') else { return false };
        let host = self.host.rsplit('/').next().unwrap_or_default();
        let lives_in = self.service().map(|(_, namespace)| namespace);
        let right_namespace = match namespace {
            "*" => true,
            "." => lives_in.is_none_or(|it| it == own_namespace),
            "~" => false,
            other => lives_in.is_none_or(|it| it == other),
        };
        let right_host = match pattern.strip_prefix('*') {
            Some(end) => host.ends_with(end),
            None => host == pattern,
        };
        right_namespace && right_host
    }
}

fn providers<'a>(
    document: &'a Document,
    mesh: &'a Node,
) -> impl Iterator<Item = Provider<'a>> + use<'a> {
    mesh.items_at("extensionProviders").iter().filter_map(move |entry| {
        let grpc = entry.get("envoyExtAuthzGrpc");
        let settings = grpc.or_else(|| entry.get("envoyExtAuthzHttp"))?;
        let name = entry.text_at("name");
        Some(Provider { document, name, entry, settings, grpc: grpc.is_some() })
    })
}

fn check_sidecar(
    document: &Document,
    object: &Object,
    hosts: &[ServiceHost<'_>],
    list: &mut Vec<Finding>,
) {
    let Some(egress) = document.root.at("spec/egress") else { return };
    let entries: Vec<_> = egress.items().iter().flat_map(|one| one.texts_at("hosts")).collect();
    let mut named = Vec::new();
    for host in hosts {
        let covered = entries.iter().any(|entry| host.covered_by(entry, &object.namespace));
        if !covered && !named.contains(&host.host) {
            named.push(host.host);
            let found = &mut document.findings(list);
            found.add_with(&rules::SIDECAR_TRIMS_SERVICE, egress.line, host.host);
        }
    }
}

pub(super) fn is_custom(document: &Document) -> bool {
    document.root.text_at("spec/action") == "CUSTOM"
}

pub(super) fn has_targets(document: &Document) -> bool {
    !document.root.items_at("spec/targetRefs").is_empty()
        || document.root.at("spec/targetRef").is_some()
}

/// Whether a policy is about who is calling.
fn names_sources(document: &Document) -> bool {
    let mut rules = document.root.items_at("spec/rules").iter();
    rules.any(|rule| !rule.items_at("from").is_empty())
}

/// A label or annotation, whose name may have slashes: `path/to/map/` and then its name.
pub(super) fn label<'a>(document: &'a Document, path: &str) -> &'a str {
    let (map, name) = match path.match_indices('/').nth(1) {
        Some((at, _)) => (&path[..at], &path[at + 1..]),
        None => return "",
    };
    let entries = document.root.at(map).map(Node::entries).unwrap_or_default();
    let found = entries.iter().find(|entry| entry.key == name);
    found.map_or("", |entry| match entry.node.is_true() {
        true => "true",
        false => entry.node.text().unwrap_or_default(),
    })
}
