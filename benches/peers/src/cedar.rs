//! Cedar, in the two ways that it could be used here: a policy for each rule, and a few
//! policies over entities that carry what each account may do.
//!
//! Service accounts are in their namespaces and secrets in folders, so that prefixes are
//! ancestors: Cedar has those at hand.

use std::{collections::BTreeSet, fmt::Write, str::FromStr};

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request};
use serde_json::{Value, json};

use crate::{
    Engine,
    rules::{Question, Rules, account, named, own, root},
};

/// A policy for each rule, and with each question its entities.
pub(crate) struct PolicyEach {
    authorizer: Authorizer,
    policies: PolicySet,
    questions: Vec<(Request, Entities)>,
}

/// Three policies, and a store of all entities.
pub(crate) struct DataDriven {
    authorizer: Authorizer,
    policies: PolicySet,
    entities: Entities,
    questions: Vec<Request>,
}

const OWN: &str = r#"permit(principal, action in [Action::"get", Action::"list"], resource)
when { resource in principal.folder };
"#;

const BY_DATA: &str = r#"permit(principal, action == Action::"get", resource)
when { principal.readable.contains(resource) };
forbid(principal, action, resource)
when { resource in principal.namespace.denied };
"#;

fn uid(kind: &str, id: &str) -> Value {
    json!({"type": kind, "id": id})
}

fn reference(kind: &str, id: &str) -> Value {
    json!({"__entity": uid(kind, id)})
}

fn entity(uid: Value, attrs: Value, parents: Vec<Value>) -> Value {
    json!({"uid": uid, "attrs": attrs, "parents": parents})
}

/// A secret or a folder, in the folder that is given by the longest prefix.
fn secret(question: &Question) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut parents = Vec::new();
    for folder in question.folders() {
        let uid = uid("Folder", folder);
        found.push((uid.to_string(), entity(uid.clone(), json!({}), parents)));
        parents = vec![uid];
    }
    let uid = uid("Secret", &question.secret);
    found.push((uid.to_string(), entity(uid, json!({}), parents)));
    found
}

fn request(question: &Question) -> Request {
    let uid = |kind: &str, id: &str| EntityUid::from_str(&format!("{kind}::\"{id}\""));
    let principal = uid("ServiceAccount", &question.account).expect("a uid");
    let resource = uid("Secret", &question.secret).expect("a uid");
    let action = uid("Action", "get").expect("a uid");
    Request::new(principal, action, resource, Context::empty(), None).expect("no schema to break")
}

fn entities(entities: Vec<Value>) -> Entities {
    Entities::from_json_value(Value::Array(entities), None).expect("entities")
}

// === impl PolicyEach ===

impl PolicyEach {
    pub(crate) fn new(rules: &Rules, questions: &[Question]) -> Self {
        let mut text = OWN.to_owned();
        for namespace in rules.namespaces() {
            let (account, named, root) = (account(&namespace), named(&namespace), root(&namespace));
            let _ = writeln!(
                text,
                "permit(principal == ServiceAccount::\"{account}\", action == Action::\"get\", \
                 resource == Secret::\"{named}\");\n\
                 forbid(principal in Namespace::\"{namespace}\", action, \
                 resource in Folder::\"{root}\");"
            );
        }
        let question = |question: &Question| {
            let attributes = json!({"folder": reference("Folder", &own(&question.namespace))});
            let namespace = uid("Namespace", &question.namespace);
            let account = uid("ServiceAccount", &question.account);
            let mut all: Vec<_> = secret(question).into_iter().map(|(_, entity)| entity).collect();
            all.push(entity(namespace.clone(), json!({}), Vec::new()));
            all.push(entity(account, attributes, vec![namespace]));
            (request(question), entities(all))
        };
        Self {
            authorizer: Authorizer::new(),
            policies: text.parse().expect("policies"),
            questions: questions.iter().map(question).collect(),
        }
    }
}

impl Engine for PolicyEach {
    fn name(&self) -> &'static str {
        "Cedar, a policy for each"
    }

    fn allows(&mut self, question: usize) -> bool {
        let (request, entities) = &self.questions[question];
        let answer = self.authorizer.is_authorized(request, &self.policies, entities);
        answer.decision() == Decision::Allow
    }
}

// === impl DataDriven ===

impl DataDriven {
    pub(crate) fn new(rules: &Rules, questions: &[Question]) -> Self {
        let mut all = Vec::new();
        for namespace in rules.namespaces() {
            let attributes = json!({"denied": [reference("Folder", &root(&namespace))]});
            all.push(entity(uid("Namespace", &namespace), attributes, Vec::new()));
            let attributes = json!({
                "folder": reference("Folder", &own(&namespace)),
                "namespace": reference("Namespace", &namespace),
                "readable": [reference("Secret", &named(&namespace))],
            });
            let account = uid("ServiceAccount", &account(&namespace));
            all.push(entity(account, attributes, Vec::new()));
        }
        let mut known = BTreeSet::new();
        for (id, entity) in questions.iter().flat_map(secret) {
            if known.insert(id) {
                all.push(entity);
            }
        }
        Self {
            authorizer: Authorizer::new(),
            policies: format!("{OWN}{BY_DATA}").parse().expect("policies"),
            entities: entities(all),
            questions: questions.iter().map(request).collect(),
        }
    }
}

impl Engine for DataDriven {
    fn name(&self) -> &'static str {
        "Cedar, rules as entities"
    }

    fn allows(&mut self, question: usize) -> bool {
        let request = &self.questions[question];
        let answer = self.authorizer.is_authorized(request, &self.policies, &self.entities);
        answer.decision() == Decision::Allow
    }
}
