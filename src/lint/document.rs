//! What a document is: Envoy's, Istio's, Envoy Gateway's, our own, or nothing that is known.

use super::tree::{self, Entry, Node, Unreadable};

/// A document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The file's place among the sources.
    pub(super) source: usize,
    /// The directory, if a kustomization says what becomes of it: what is in different ones
    /// need not be applied together.
    pub(super) set: Option<String>,
    /// Text in a ConfigMap: all that its reader has.
    pub(super) embedded: bool,
    pub(super) kind: Kind,
    pub(super) root: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What Envoy is started with.
    Bootstrap,
    /// What Envoy's admin page shows of itself.
    ConfigDump,
    /// A file of listeners, routes or clusters, as Envoy's file subscriptions read it.
    Resources,
    /// Where it stands in the document, as a path; empty for all of it.
    Mesh(&'static str),
    /// Our own configuration.
    Service,
    /// What kustomize makes of the files beside it.
    Kustomization,
    /// A Kubernetes object.
    Object(Object),
    /// Something that no rule is about, and what it calls itself.
    Other(String),
}

/// Who a Kubernetes object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// `security.istio.io`; empty for the core's own.
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Kinds that rules look at, with their groups.
const KNOWN: &[(&str, &str)] = &[
    ("", "ConfigMap"),
    ("", "Namespace"),
    ("", "Service"),
    ("gateway.envoyproxy.io", "ClientTrafficPolicy"),
    ("gateway.envoyproxy.io", "EnvoyExtensionPolicy"),
    ("gateway.envoyproxy.io", "SecurityPolicy"),
    ("gateway.networking.k8s.io", "GRPCRoute"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
    ("networking.istio.io", "DestinationRule"),
    ("networking.istio.io", "EnvoyFilter"),
    ("networking.istio.io", "ServiceEntry"),
    ("networking.istio.io", "Sidecar"),
    ("security.istio.io", "AuthorizationPolicy"),
    ("security.istio.io", "PeerAuthentication"),
];

/// Reads a file: its documents, and what is wrong with those that cannot be read.
pub(super) fn read(source: usize, text: &str) -> (Vec<Document>, Vec<Unreadable>) {
    let mut found = (Vec::new(), Vec::new());
    for document in tree::documents(text, 0) {
        match document {
            Ok(root) => take(source, root, &mut found),
            Err(error) => found.1.push(error),
        }
    }
    found
}

/// Does what kustomizations do to the files of their directories: gives them a namespace.
pub(super) fn kustomize(documents: &mut [Document], directory: impl Fn(usize) -> String) {
    let kustomizations: Vec<_> = documents
        .iter()
        .filter(|it| it.kind == Kind::Kustomization)
        .map(|it| (directory(it.source), it.root.text_at("namespace").to_owned()))
        .collect();
    for document in documents {
        let own = directory(document.source);
        let Some((set, namespace)) = kustomizations.iter().find(|(of, _)| *of == own) else {
            continue;
        };
        document.set = Some(set.clone());
        if let Kind::Object(object) = &mut document.kind
            && !namespace.is_empty()
            && object.kind != "Namespace"
        {
            object.namespace.clone_from(namespace);
        }
    }
}

fn take(source: usize, mut root: Node, found: &mut (Vec<Document>, Vec<Unreadable>)) {
    if root.text_at("kind").ends_with("List") && root.text_at("apiVersion") == "v1" {
        for item in root.take_items("items") {
            take(source, item, found);
        }
        return;
    }
    let kind = kind(&root);
    if let Kind::Object(object) = &kind
        && object.kind == "ConfigMap"
    {
        for entry in root.get("data").map(Node::entries).unwrap_or_default() {
            embedded(source, entry, found);
        }
        return;
    }
    if root.entries().is_empty() && !matches!(kind, Kind::Other(_)) {
        return;
    }
    found.0.push(Document { source, set: None, embedded: false, kind, root });
}

/// What a ConfigMap holds: Istio's mesh configuration, Envoy's or ours.
fn embedded(source: usize, entry: &Entry, found: &mut (Vec<Document>, Vec<Unreadable>)) {
    let file = [".yaml", ".yml", ".json"].iter().any(|end| entry.key.ends_with(end));
    if entry.key != "mesh" && !file {
        return;
    }
    let Some(text) = entry.node.text() else { return };
    // A block begins on the line below its key.
    let above = if text.contains('\n') { entry.line } else { entry.line.saturating_sub(1) };
    for document in tree::documents(text, above) {
        match document {
            Ok(root) => {
                let kind = match (&*entry.key, kind(&root)) {
                    ("mesh", _) => Kind::Mesh(""),
                    (_, kind) => kind,
                };
                // What else programs keep in ConfigMaps is no business of ours.
                if !matches!(kind, Kind::Other(_) | Kind::Object(_)) {
                    found.0.push(Document { source, set: None, embedded: true, kind, root });
                }
            }
            Err(error) if entry.key == "mesh" => found.1.push(error),
            Err(_) => {}
        }
    }
}

fn kind(root: &Node) -> Kind {
    let has = |key: &str| root.entries().iter().any(|entry| entry.key == key);
    let (version, name) = (root.text_at("apiVersion"), root.text_at("kind"));
    if !version.is_empty() && !name.is_empty() {
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        if group == "kustomize.config.k8s.io" {
            return Kind::Kustomization;
        }
        if name == "IstioOperator" {
            return Kind::Mesh("spec/meshConfig");
        }
        if !KNOWN.contains(&(group, name)) {
            return Kind::Other(format!("{name} of {version}"));
        }
        return Kind::Object(Object {
            group: group.to_owned(),
            kind: name.to_owned(),
            namespace: root.text_at("metadata/namespace").to_owned(),
            name: root.text_at("metadata/name").to_owned(),
        });
    }
    if root.get("static_resources").is_some() || root.get("dynamic_resources").is_some() {
        Kind::Bootstrap
    } else if !root.items_at("configs").is_empty() {
        Kind::ConfigDump
    } else if root.items_at("resources").iter().any(|item| item.typed().is_some()) {
        Kind::Resources
    } else if has("extensionProviders") {
        Kind::Mesh("")
    } else if has("meshConfig") {
        Kind::Mesh("meshConfig")
    } else if has("backends") && (has("listeners") || has("mode")) {
        Kind::Service
    } else if !name.is_empty() {
        Kind::Other(format!("{name} without apiVersion"))
    } else {
        Kind::Other("a document of no known kind".to_owned())
    }
}

// === impl Document ===

impl Document {
    /// Whether it may be applied together with another.
    pub(super) fn may_join(&self, other: &Self) -> bool {
        match (&self.set, &other.set) {
            (Some(own), Some(others)) => own == others,
            _ => true,
        }
    }

    /// Where Istio's mesh configuration stands in it.
    pub(super) fn mesh(&self) -> Option<&Node> {
        match self.kind {
            Kind::Mesh("") => Some(&self.root),
            Kind::Mesh(path) => self.root.at(path),
            _ => None,
        }
    }
}
