//! Single questions that stand for whole areas: values that no policy mentions stand for all
//! that none does.

use std::{borrow::Cow, fmt, sync::Arc};

use super::{Bound, Cell, Piece, Span, Toward, Whom, cell::What, piece::a_name, unify::Sym};
use crate::{
    identity::{Principal, ProofKind, ProofSet, ServiceAccount, Supposed, TrustDomain},
    policy::{
        Connection, Decision, Denial, HttpRequest, PolicySet, Question, Reason, Verb,
        request::Attribute,
        rule::{Among, DestinationRule, Policy, Shape, Subject, Target},
        template::{Part, Template},
    },
    secret::{Catalog, NameEncoding, SecretField, SecretRef},
};

/// A question, in owned form. Prints as `can-i` takes it, without flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// About one secret.
    Secret(Verb, Box<SecretRef>, Toward),
    /// About all that may be listed or created.
    Collection(Verb),
    /// About a request.
    Http {
        /// Its method.
        method: Arc<str>,
        /// Its host.
        host: Arc<str>,
        /// Its path.
        path: Arc<str>,
        /// The workload that it is for.
        destination: Option<ServiceAccount>,
    },
    /// About a TCP connection.
    Connection(Option<ServiceAccount>),
}

/// Makes callers and questions that are as unlike all that policies mention as can be.
pub(in crate::policy) struct Sample<'s> {
    token: String,
    /// Whether any template is for values without `--` only.
    guarded: bool,
    /// Attributes of destinations that policies ask for.
    bound: Vec<Attribute>,
    pub(in crate::policy) catalog: &'s Catalog,
    pub(in crate::policy) domains: &'s [TrustDomain],
}

// === impl Ask ===

impl Ask {
    /// What the policies decide.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn decide(&self, set: &Arc<PolicySet>, principal: &Principal) -> Result<Decision, Denial> {
        let (secret, destination);
        let question = match self {
            Self::Secret(verb, of, toward) => {
                (secret, destination) = (Cow::Borrowed(&**of), toward.destination());
                Question::Secret { verb: *verb, secret, destination, by: None }
            }
            Self::Collection(verb) => Question::Collection { verb: *verb, by: None },
            Self::Http { method, host, path, destination } => {
                let request = HttpRequest::new(method, host, path, destination.clone());
                Question::Http(request.map_err(|_| Denial::new(Reason::Malformed))?)
            }
            Self::Connection(destination) => {
                Question::Connection(Connection { destination: destination.clone() })
            }
        };
        set.decide(principal, &question)
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = |destination: &Option<ServiceAccount>| match destination {
            Some(destination) => format!(" at {destination}"),
            None => String::new(),
        };
        match self {
            Self::Secret(verb, secret, toward) => {
                write!(f, "{verb} {secret}")?;
                let toward = toward.to_string();
                if toward.is_empty() { Ok(()) } else { write!(f, " toward {toward}") }
            }
            Self::Collection(verb) => write!(f, "{verb} as such"),
            Self::Http { method, host, path, destination } => {
                write!(f, "{method} http://{host}{path}{}", to(destination))
            }
            Self::Connection(destination) => write!(f, "connect{}", to(destination)),
        }
    }
}

// === impl Sample ===

impl<'s> Sample<'s> {
    pub(in crate::policy) fn new<'p>(
        policies: impl Iterator<Item = &'p Arc<Policy>>,
        also: &str,
        catalog: &'s Catalog,
        domains: &'s [TrustDomain],
    ) -> Self {
        let mut texts = also.to_owned();
        let (mut guarded, mut bound) = (false, Vec::new());
        for policy in policies {
            policy.from.iter().for_each(|from| collect_subject(from, &mut texts));
            for target in &policy.to {
                collect_target(target, &mut texts, &mut guarded);
                collect_bound(target, &mut bound);
            }
        }
        let texts = texts.to_ascii_lowercase();
        let numbered = (0..).map(|number: u32| format!("zq{number}"));
        let token = std::iter::once("zq".to_owned())
            .chain(numbered)
            .find(|token| !texts.contains(token.as_str()))
            .expect("texts are finite");
        Self { token, guarded, bound, catalog, domains }
    }

    /// A text that no policy mentions.
    pub(in crate::policy) fn fresh(&self, which: u16) -> String {
        format!("{}{which}x", self.token)
    }

    /// The value, unless it is one that no policy mentions.
    pub(in crate::policy) fn known(&self, value: &Arc<str>) -> Option<Arc<str>> {
        (**value != *self.fresh(0)).then(|| value.clone())
    }

    pub(in crate::policy) fn is_fresh_workload(&self, account: &ServiceAccount) -> bool {
        *account.namespace() == *self.fresh(0)
    }

    /// Callers of whom no more is known than this: one for each way to be unlike others.
    pub(in crate::policy) fn accounts(&self, bound: &Bound) -> Vec<ServiceAccount> {
        let fill = |text: &[Sym], dashed: bool| {
            let mut bytes = String::new();
            for sym in text {
                match sym {
                    Sym::Letter(letter) => bytes.push(char::from(*letter)),
                    Sym::Unknown(which) => {
                        bytes.push_str(&self.fresh(*which));
                        if dashed {
                            bytes.push_str("--");
                            bytes.push_str(&self.fresh(*which));
                        }
                    }
                }
            }
            bytes
        };
        let ways: &[_] = match self.guarded {
            true => &[(false, false), (true, false), (false, true), (true, true)],
            false => &[(false, false)],
        };
        let mut accounts = Vec::new();
        for (namespace, account) in ways {
            let namespace = fill(&bound.namespace, *namespace);
            let account = fill(&bound.account, *account);
            if let Ok(account) = ServiceAccount::new(&namespace, &account)
                && !accounts.contains(&account)
            {
                accounts.push(account);
            }
        }
        accounts
    }

    /// The least that proves whom an entry is about: one way, or each single proof if it asks
    /// for none.
    pub(in crate::policy) fn proofs(from: &Subject) -> Vec<(ProofSet, bool)> {
        match (from.bound_to_pod, from.require == ProofSet::default()) {
            (true, _) => vec![(from.require.with(ProofKind::Token), true)],
            (false, false) => vec![(from.require, false)],
            (false, true) => {
                ProofKind::ALL.into_iter().map(|kind| (ProofSet::from(kind), false)).collect()
            }
        }
    }

    /// The configured trust domains that an entry is about.
    pub(in crate::policy) fn domains_of(&self, from: &Subject) -> Vec<TrustDomain> {
        let listed = &from.trust_domains;
        let named = self.domains.iter().filter(|one| listed.is_empty() || listed.contains(one));
        named.cloned().collect()
    }

    pub(in crate::policy) fn principal(
        &self,
        account: &ServiceAccount,
        domain: &TrustDomain,
        (proofs, bound_to_pod): (ProofSet, bool),
    ) -> Option<Principal> {
        let (service_account, trust_domain) = (account.clone(), Some(domain.clone()));
        let supposed = Supposed { service_account, trust_domain, proofs, bound_to_pod };
        supposed.principal(self.domains).ok()
    }

    /// Questions within a piece of an Allow, and within a Deny if one is given: as few rules
    /// as can be hold for them.
    pub(in crate::policy) fn asks(
        &self,
        piece: &Piece,
        allow: &Cell<'_>,
        deny: Option<&Cell<'_>>,
        principal: &Principal,
    ) -> Vec<Ask> {
        match (piece, deny.map(|deny| deny.what)) {
            (Piece::Secret { .. }, Some(What::Http(_)))
            | (Piece::Http { .. } | Piece::Connection { .. }, Some(What::Secrets(..))) => vec![],
            (Piece::Secret { .. }, deny) => self.secrets(piece, allow, deny, principal),
            (Piece::Collection(verb), _) => vec![Ask::Collection(*verb)],
            (Piece::Http { .. }, deny) => self.requests(piece, deny),
            (Piece::Connection { destination }, deny) => {
                let destinations = self.workloads(destination.as_ref(), deny);
                destinations.into_iter().map(|one| Ask::Connection(Some(one))).collect()
            }
        }
    }

    fn secrets(
        &self,
        piece: &Piece,
        allow: &Cell<'_>,
        deny: Option<What<'_>>,
        principal: &Principal,
    ) -> Vec<Ask> {
        let Piece::Secret { backend, verb, field, toward, .. } = piece else { return vec![] };
        let What::Secrets(_, pattern) = allow.what else { return vec![] };
        let Some(names) = Span::of_shape(&pattern.shape, principal) else { return vec![] };
        let denied = match deny {
            Some(What::Secrets(rule, pattern)) => {
                if !rule.verbs.contains(*verb) || !pattern.covers(backend) {
                    return vec![];
                }
                Some((rule, pattern))
            }
            _ => None,
        };
        let names = match denied {
            None => Some(names),
            Some((_, pattern)) => {
                Span::of_shape(&pattern.shape, principal).and_then(|denied| names.meet(&denied))
            }
        };
        let grammar = self.catalog.backend(backend.as_str()).map(|(_, entry)| &entry.grammar);
        let name =
            names.zip(grammar).and_then(|(names, grammar)| a_name(&names, grammar, &self.fresh(0)));
        let Some(name) = name else { return vec![] };
        let fields: Vec<Option<String>> = match (field, denied) {
            // No other question can be asked.
            _ if !verb.takes_part() => vec![None],
            (Some(field), _) => vec![Some(field.to_string())],
            (None, Some((rule, _))) if !rule.fields.is_empty() => {
                rule.fields.iter().map(|field| Some(field.inside(&self.fresh(0)))).collect()
            }
            (None, _) => vec![Some(self.fresh(0))],
        };
        let towards = match verb {
            Verb::Use => self.towards(toward, denied.map(|(rule, _)| &*rule.destinations)),
            _ => vec![Toward::default()],
        };
        let mut asks = Vec::new();
        for field in &fields {
            let locate = self.catalog.locate(&name, NameEncoding::Plain, Some(backend.as_str()));
            let field = field.as_deref().map(SecretField::parse).transpose();
            let (Ok(mut secret), Ok(field)) = (locate, field) else { continue };
            secret.field = field;
            let ask =
                |toward: &Toward| Ask::Secret(*verb, Box::new(secret.clone()), toward.clone());
            asks.extend(towards.iter().map(ask));
        }
        asks
    }

    fn towards(&self, toward: &Toward, denied: Option<&[DestinationRule]>) -> Vec<Toward> {
        let fresh: Arc<str> = self.fresh(0).into();
        let anywhere = [DestinationRule::default()];
        let entries = denied.filter(|entries| !entries.is_empty()).unwrap_or(&anywhere);
        let mut all = Vec::new();
        for entry in entries {
            let values = |attribute| match (toward.get(attribute), entry.list(attribute)) {
                (Some(given), _) => vec![Some(given.clone())],
                (None, Among::OneOf(listed)) => listed.iter().cloned().map(Some).collect(),
                (None, Among::Unset | Among::Any) if self.bound.contains(&attribute) => {
                    vec![Some(fresh.clone())]
                }
                // Nobody looks at it.
                (None, Among::Unset | Among::Any) => vec![None],
            };
            let path = |span: &Span| match self.bound.contains(&Attribute::Path) {
                true => Span::One(self.a_path(span)),
                false => Span::Any,
            };
            let paths = toward.paths.meet_paths(&entry.paths);
            let paths: Vec<_> = paths.iter().map(path).collect();
            all.extend(Toward::combined(values, &paths));
        }
        all
    }

    /// Some path of the span that no policy mentions, if there are others.
    fn a_path(&self, span: &Span) -> Arc<str> {
        match span {
            Span::Any => format!("/{}", self.fresh(0)).into(),
            Span::Prefix(prefix) => format!("{prefix}{}", self.fresh(0)).into(),
            Span::One(one) => one.clone(),
        }
    }

    fn requests(&self, piece: &Piece, deny: Option<What<'_>>) -> Vec<Ask> {
        let Piece::Http { host, method, paths, destination } = piece else { return vec![] };
        let fresh: Arc<str> = self.fresh(0).into();
        let denied = match deny {
            Some(What::Http(rule)) => Some(rule),
            _ => None,
        };
        let values = |given: &Option<Arc<str>>, list: Option<&Among<Arc<str>>>| match (given, list)
        {
            (Some(given), _) => vec![given.clone()],
            (None, Some(Among::OneOf(listed))) => listed.clone(),
            (None, _) => vec![fresh.clone()],
        };
        let spans = match denied {
            Some(rule) => paths.meet_paths(&rule.paths),
            None => vec![paths.clone()],
        };
        let mut asks = Vec::new();
        for destination in self.workloads(destination.as_ref(), deny) {
            for host in values(host, denied.map(|rule| &rule.hosts)) {
                for method in values(method, denied.map(|rule| &rule.methods)) {
                    asks.extend(spans.iter().map(|span| Ask::Http {
                        method: method.clone(),
                        host: host.clone(),
                        path: self.a_path(span),
                        destination: Some(destination.clone()),
                    }));
                }
            }
        }
        asks
    }

    fn workloads(
        &self,
        given: Option<&ServiceAccount>,
        deny: Option<What<'_>>,
    ) -> Vec<ServiceAccount> {
        match (given, deny) {
            (Some(given), _) => vec![given.clone()],
            (None, Some(What::Http(rule))) if !rule.destinations.is_empty() => {
                rule.destinations.clone()
            }
            (None, _) => self.accounts(&Bound::of(&Whom::everyone())).into_iter().take(1).collect(),
        }
    }
}

fn collect_subject(from: &Subject, texts: &mut String) {
    let mut add = |text: &str| {
        texts.push_str(text);
        texts.push('\n');
    };
    let except = &from.except;
    let names = from.namespaces.iter().chain(&from.prefixes);
    names.chain(&except.namespaces).chain(&except.prefixes).for_each(|text| add(text));
    for account in from.accounts.iter().chain(&except.accounts) {
        add(account.namespace());
        add(account.name());
    }
}

fn collect_target(target: &Target, texts: &mut String, guarded: &mut bool) {
    let mut add = |text: &str| {
        texts.push_str(text);
        texts.push('\n');
    };
    match target {
        Target::Secrets(rule) => {
            for pattern in &rule.patterns {
                *guarded |= pattern.is_guarded();
                if let Shape::Exact(template) | Shape::Prefix(template) = &pattern.shape {
                    literals(template).for_each(&mut add);
                }
            }
            rule.fields.iter().for_each(|field| add(field.as_str()));
            for entry in &rule.destinations {
                let lists = Attribute::ALL.map(|attribute| entry.list(attribute));
                lists.iter().flat_map(|list| list.listed()).for_each(|text| add(text));
            }
        }
        Target::Http(rule) => {
            let lists = [&rule.hosts, &rule.methods, &rule.paths];
            lists.iter().flat_map(|list| list.listed()).for_each(|text| add(text));
            rule.destinations.iter().for_each(|account| add(&account.to_string()));
        }
    }
}

fn collect_bound(target: &Target, bound: &mut Vec<Attribute>) {
    let Target::Secrets(rule) = target else { return };
    for attribute in Attribute::ALL {
        let is_set = |entry: &DestinationRule| entry.list(attribute).is_set();
        if !bound.contains(&attribute) && rule.destinations.iter().any(is_set) {
            bound.push(attribute);
        }
    }
}

fn literals(template: &Template) -> impl Iterator<Item = &str> {
    template.parts.iter().filter_map(|part| match part {
        Part::Literal(text) => Some(&**text),
        Part::Value(_) => None,
    })
}
