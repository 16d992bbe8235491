//! Whether what policies are bound to is there.

use super::{Mesh, targets};
use crate::lint::{
    Findings,
    document::{Document, Object},
    rules,
    tree::Node,
};

/// What rules know by name. Others are not missed.
const KINDS: [&str; 5] = ["Gateway", "GRPCRoute", "HTTPRoute", "Service", "ServiceEntry"];

// === impl Mesh ===

impl Mesh<'_> {
    /// Checks what a policy names. It is only missed where others of its kind are given.
    pub(in crate::lint) fn check_targets(
        &self,
        document: &Document,
        object: &Object,
        found: &mut Findings<'_>,
    ) {
        for target in targets(document) {
            let (kind, name) = (target.text_at("kind"), target.text_at("name"));
            let namespace = match target.text_at("namespace") {
                "" => &object.namespace,
                named => named,
            };
            let others = self.beside(document, kind);
            let here: Vec<_> = others.iter().filter(|(_, it)| it.namespace == namespace).collect();
            if here.iter().any(|(_, it)| it.name == name) {
                continue;
            }
            let elsewhere = others.iter().find(|(_, it)| it.name == name);
            if let Some((_, other)) = elsewhere {
                let detail = format!("{kind} {name:?} is in namespace {:?}", other.namespace);
                found.add_with(&rules::TARGET_ABSENT, target.line, detail);
            } else if !here.is_empty() {
                found.add_with(&rules::TARGET_ABSENT, target.line, format!("{kind} {name:?}"));
            }
        }
        for target in document.root.items_at("spec/targetSelectors") {
            let kind = target.text_at("kind");
            let wanted = target.get("matchLabels").map(Node::entries).unwrap_or_default();
            let fits = |it: &Document| {
                let labels = it.root.at("metadata/labels").map(Node::entries).unwrap_or_default();
                wanted.iter().all(|label| {
                    labels
                        .iter()
                        .any(|own| own.key == label.key && own.node.text() == label.node.text())
                })
            };
            let mut here = self.beside(document, kind);
            here.retain(|(_, it)| it.namespace == object.namespace);
            if !here.is_empty() && !here.iter().any(|(it, _)| fits(it)) {
                found.add_with(&rules::TARGET_ABSENT, target.line, format!("any {kind}"));
            }
        }
    }

    /// Objects of a kind that may be applied together with a document.
    fn beside(&self, document: &Document, kind: &str) -> Vec<(&Document, &Object)> {
        let Some(kind) = KINDS.iter().find(|it| **it == kind) else { return Vec::new() };
        self.objects(kind).filter(|(it, _)| it.may_join(document)).collect()
    }
}
