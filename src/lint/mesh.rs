//! What several documents say together: which providers there are, where the service runs,
//! which namespaces are ambient.

mod access;
mod clash;
mod hosts;
mod target;

use std::collections::HashMap;

use super::{
    Finding,
    document::{Document, Kind, Object},
    rules,
    tree::Node,
};

/// All documents, and what is known from them.
#[derive(Debug)]
pub(super) struct Mesh<'a> {
    documents: &'a [Document],
    /// Those that are objects, by their kinds.
    objects: HashMap<&'a str, Vec<(&'a Document, &'a Object)>>,
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

// === impl Mesh ===

impl<'a> Mesh<'a> {
    pub(super) fn new(documents: &'a [Document]) -> Self {
        let meshes = || documents.iter().filter_map(|it| Some((it, it.mesh()?)));
        let providers = meshes().flat_map(|(document, mesh)| providers(document, mesh));
        let root = meshes().map(|(_, mesh)| mesh.text_at("rootNamespace"));
        let mut objects: HashMap<_, Vec<_>> = HashMap::new();
        for document in documents {
            if let Kind::Object(object) = &document.kind {
                objects.entry(&*object.kind).or_default().push((document, object));
            }
        }
        Self {
            documents,
            objects,
            providers: providers.collect(),
            complete: meshes().any(|(document, mesh)| {
                document.embedded || mesh.get_even_empty("extensionProviders")
            }),
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
        kind: &str,
    ) -> impl Iterator<Item = (&'a Document, &'a Object)> + Clone + use<'a, '_> {
        self.objects.get(kind).into_iter().flatten().copied()
    }

    /// Policies that have Istio ask a provider.
    pub(super) fn custom(&self) -> impl Iterator<Item = (&'a Document, &'a Object)> {
        self.objects("AuthorizationPolicy").filter(|(it, _)| is_custom(it))
    }

    /// Whether its policies hold for all namespaces.
    pub(super) fn is_root(&self, namespace: &str) -> bool {
        namespace == self.root_namespace
    }

    /// Whether pods that a policy is for are in ambient mode.
    pub(super) fn is_ambient(&self, policy: &Document, namespace: &str) -> bool {
        let mode = "metadata/labels/istio.io/dataplane-mode";
        self.objects("Namespace").any(|(it, object)| {
            (object.name == namespace || self.is_root(namespace))
                && label(it, mode) == "ambient"
                && it.may_join(policy)
        })
    }

    /// Whether our own configuration relies on proxies that let it choose phases.
    pub(super) fn overrides_heeded(&self) -> bool {
        let mut own = self.documents.iter().filter(|it| it.kind == Kind::Service);
        own.any(|it| it.root.true_at("ext_proc/mode_override"))
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
            hosts::check_sidecar(document, object, &hosts, list);
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

pub(super) fn is_custom(document: &Document) -> bool {
    document.root.text_at("spec/action") == "CUSTOM"
}

/// What a policy is bound to by name.
pub(super) fn targets(document: &Document) -> Vec<&Node> {
    let listed = document.root.items_at("spec/targetRefs").iter();
    listed.chain(document.root.at("spec/targetRef")).collect()
}

/// The labels that a policy selects by, in the order of their names; none selects all.
fn selector(document: &Document) -> Vec<(&str, &str)> {
    let labels = document.root.at("spec/selector/matchLabels").map(Node::entries);
    access::pairs(labels.unwrap_or_default())
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
