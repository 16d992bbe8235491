//! Policies by the thousand, and questions about them.

use std::{fmt::Write, path::PathBuf};

use vaultmux_mesh::{
    identity::{Evidence, Principal, TrustDomain},
    policy::{Denial, Destination, HttpRequest, Policies, PolicySet, Reason, Verb},
    secret::{BackendName, Catalog, CatalogEntry, NameGrammar, SecretRef},
};

/// How many policies each namespace has of its own.
const EACH: usize = 5;
/// How many policies one file holds.
pub(crate) const FILE: usize = 1000;

/// What is asked, and by whom.
pub(crate) enum Question {
    Get(Principal, SecretRef),
    Use(Principal, SecretRef, Destination<'static>),
    Http(Principal, HttpRequest<'static>),
}

/// What is answered; none is an allow.
pub(crate) type Answer = Option<Reason>;

/// One sort of question, which has the same answer in every namespace.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) answer: Answer,
    question: fn(&str) -> Question,
}

/// What is asked of every namespace with policies of its own.
pub(crate) const KINDS: [Kind; 7] = [
    Kind {
        name: "own namespace, by template",
        answer: None,
        question: |ns| Question::get(ns, "web", &format!("{ns}/db")),
    },
    Kind {
        name: "named service account",
        answer: None,
        question: |ns| Question::get(ns, "api", &format!("shared/{ns}/token")),
    },
    Kind {
        name: "use toward a destination",
        answer: None,
        question: |ns| {
            let destination = Destination {
                cluster: Some(CLUSTER),
                host: Some(STRIPE),
                ..Destination::default()
            };
            Question::Use(principal(ns, "api"), secret("shared/stripe"), destination)
        },
    },
    Kind {
        name: "HTTP request, by path",
        answer: None,
        question: |ns| Question::http(ns, "api", "/orders/4711/lines"),
    },
    Kind {
        name: "no rule matches",
        answer: Some(Reason::NoMatch),
        question: |ns| Question::get(ns, "api", "elsewhere/db"),
    },
    Kind {
        name: "Deny overrides Allow",
        answer: Some(Reason::DeniedByPolicy),
        question: |ns| Question::get(ns, "api", &format!("{ns}/root/key")),
    },
    Kind {
        name: "HTTP request, no rule matches",
        answer: Some(Reason::NoMatch),
        question: |ns| Question::http(ns, "api", "/admin/4711/lines"),
    },
];

const CLUSTER: &str = "outbound|443||api.stripe.com";
const STRIPE: &str = "api.stripe.com";
const ORDERS: &str = "orders.shop.svc.cluster.local";

/// One policy for everyone and, for one namespace after the other, five of its own.
pub(crate) fn policy(number: usize) -> String {
    let namespace = namespace(number.saturating_sub(1) / EACH);
    let (effect, from, to) = match number.checked_sub(1).map(|number| number % EACH) {
        None => (
            "Allow",
            "namespaces: ['*']".to_owned(),
            "secrets: {backends: [aws], prefixes: ['{namespace}/'], verbs: [get, list]}".to_owned(),
        ),
        Some(0) => (
            "Allow",
            format!("serviceAccounts: [{namespace}/api]"),
            format!(
                "secrets: {{backends: [aws], names: [shared/{namespace}/token], verbs: [get]}}"
            ),
        ),
        Some(1) => (
            "Deny",
            format!("namespaces: [{namespace}]"),
            format!("secrets: {{prefixes: ['{namespace}/root/'], verbs: ['*']}}"),
        ),
        Some(2) => (
            "Allow",
            format!("namespaces: [{namespace}]"),
            format!("http: {{hosts: [{ORDERS}], methods: [GET], paths: [/orders/, /health]}}"),
        ),
        Some(3) => (
            "Allow",
            format!("serviceAccounts: [{namespace}/api]"),
            format!(
                "secrets: {{backends: [aws], names: [shared/stripe], verbs: [use], \
                 destinations: [{{hosts: [{STRIPE}], clusters: ['{CLUSTER}']}}]}}"
            ),
        ),
        Some(_) => (
            "Allow",
            format!("namespaces: [{namespace}]"),
            format!("http: {{hosts: [{namespace}.test], paths: ['/{namespace}/']}}"),
        ),
    };
    document(number, effect, &from, &to)
}

/// How many namespaces have all of their policies.
pub(crate) fn namespaces(policies: usize) -> usize {
    (policies - 1) / EACH
}

pub(crate) fn namespace(number: usize) -> String {
    format!("team-{number}")
}

/// A policy of one rule.
pub(crate) fn document(number: usize, effect: &str, from: &str, to: &str) -> String {
    format!(
        "---\napiVersion: vaultmux.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: \
         p{number:06}}}\nspec:\n  effect: {effect}\n  from: [{{{from}}}]\n  to: [{{{to}}}]\n"
    )
}

/// Documents in files that are no larger than is read.
pub(crate) fn files(documents: impl Iterator<Item = String>) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for (number, document) in documents.enumerate() {
        if number % FILE == 0 {
            files.push((PathBuf::from(format!("{:03}.yaml", number / FILE)), String::new()));
        }
        let (_, text) = files.last_mut().expect("one was begun");
        let _ = write!(text, "{document}");
    }
    files
}

/// A set of so many policies.
pub(crate) fn set(policies: usize) -> PolicySet {
    compile(&files((0..policies).map(policy)))
}

pub(crate) fn compile(files: &[(PathBuf, String)]) -> PolicySet {
    let policies = Policies::parse(files, &catalog()).expect("valid policies");
    PolicySet::compile(&policies, 1)
}

pub(crate) fn catalog() -> Catalog {
    let backend = BackendName::parse("aws").expect("valid");
    let entry = CatalogEntry { grammar: NameGrammar::new("/_+=.@-", 512) };
    Catalog::new([(backend, entry)].into(), None, Vec::new()).expect("consistent")
}

pub(crate) fn principal(namespace: &str, account: &str) -> Principal {
    let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    let mut evidence = Evidence::default();
    evidence.add_mtls(&id, "");
    let domains = [TrustDomain::parse("cluster.local").expect("valid")];
    evidence.principal(&domains).expect("a valid proof")
}

pub(crate) fn secret(name: &str) -> SecretRef {
    catalog().parse_reference(&format!("secret://aws/{name}")).expect("valid")
}

// === impl Kind ===

impl Kind {
    /// Asked by a workload of the namespace.
    pub(crate) fn of(&self, namespace: &str) -> Question {
        (self.question)(namespace)
    }
}

// === impl Question ===

impl Question {
    pub(crate) fn get(namespace: &str, account: &str, name: &str) -> Self {
        Self::Get(principal(namespace, account), secret(name))
    }

    pub(crate) fn http(namespace: &str, account: &str, path: &'static str) -> Self {
        let request = HttpRequest::new("GET", ORDERS, path, None).expect("canonical");
        Self::Http(principal(namespace, account), request)
    }

    /// Has it decided. The outcome is dropped here: that is part of the cost.
    #[inline(never)]
    pub(crate) fn ask(&self, set: &PolicySet) -> Answer {
        let reason = |denial: Denial| denial.reason;
        match self {
            Self::Get(who, secret) => set.authorize(who, Verb::Get, secret).err().map(reason),
            Self::Use(who, secret, to) => set.authorize_use(who, secret, to).err().map(reason),
            Self::Http(who, request) => set.authorize_http(who, request).err().map(reason),
        }
    }
}
