//! This service's own policies: one for each rule.

use std::{fmt::Write, path::PathBuf};

use vaultmux_mesh::{
    identity::{Evidence, Principal, TrustDomain},
    policy::{Policies, PolicySet, Verb},
    secret::{BackendName, Catalog, CatalogEntry, NameGrammar, SecretRef},
};

use crate::{
    Engine,
    rules::{Question, Rules, account, named, root},
};

pub(crate) struct Mesh {
    set: PolicySet,
    questions: Vec<(Principal, SecretRef)>,
}

impl Mesh {
    pub(crate) fn new(rules: &Rules, questions: &[Question]) -> Self {
        let mut text = String::new();
        let mut policy = |name: &str, effect: &str, from: &str, secrets: &str| {
            let _ = write!(
                text,
                "---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\n\
                 metadata: {{name: {name}}}\nspec:\n  effect: {effect}\n  from: [{{{from}}}]\n  \
                 to: [{{secrets: {{{secrets}}}}}]\n"
            );
        };
        let own = "prefixes: ['{namespace}/'], verbs: [get, list]";
        policy("own", "Allow", "namespaces: ['*']", own);
        for namespace in rules.namespaces() {
            let from = format!("serviceAccounts: [{}]", account(&namespace));
            let secrets = format!("names: [{}], verbs: [get]", named(&namespace));
            policy(&format!("named-{namespace}"), "Allow", &from, &secrets);
            let from = format!("namespaces: [{namespace}]");
            let secrets = format!("prefixes: [{}], verbs: ['*']", root(&namespace));
            policy(&format!("root-{namespace}"), "Deny", &from, &secrets);
        }
        let backend = BackendName::parse("aws").expect("valid");
        let entry = CatalogEntry { grammar: NameGrammar::new("/_+=.@-", 512) };
        let catalog = Catalog::new([(backend, entry)].into(), None, Vec::new()).expect("one");
        let policies = Policies::parse(&[(PathBuf::from("p.yaml"), text)], &catalog);
        let set = PolicySet::compile(&policies.expect("valid policies"), 1);
        let question = |question: &Question| {
            let (namespace, name) = question.account.split_once('/').expect("namespace/name");
            let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}");
            let mut evidence = Evidence::default();
            evidence.add_mtls(&id, "");
            let domains = [TrustDomain::parse("cluster.local").expect("valid")];
            let secret = catalog.parse_reference(&format!("secret://aws/{}", question.secret));
            (evidence.principal(&domains).expect("a proof"), secret.expect("valid"))
        };
        Self { set, questions: questions.iter().map(question).collect() }
    }
}

impl Engine for Mesh {
    fn name(&self) -> &'static str {
        "vaultmux-mesh"
    }

    fn allows(&mut self, question: usize) -> bool {
        let (principal, secret) = &self.questions[question];
        self.set.authorize(principal, Verb::Get, secret).is_ok()
    }
}
