//! `can-i`: the decision that the service would make, and why.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::{
    Answer, Output, load, print,
    suppose::{Suppose, supposed},
    verdict,
};
use crate::{
    app::load_policies,
    config::Config,
    identity::{Principal, ProofKind, ServiceAccount},
    operation::split_query,
    policy::{Destination, Explanation, HttpRequest, PolicySet, Verb, canonical_host, split_url},
    secret::{NameEncoding, SecretRef},
};

#[derive(Debug, Args)]
pub(super) struct CanI {
    /// The service account, as namespace/name.
    #[arg(value_name = "NS/SA")]
    service_account: String,
    /// get, list, create, update, delete or use; for a URL its method.
    verb: String,
    /// A secret's name, a reference secret://backend/name#field, or a URL.
    #[arg(value_name = "SECRET|URL")]
    target: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    suppose: Suppose,
    /// For `use`: the cluster that the request is routed to.
    #[arg(long)]
    cluster: Option<String>,
    /// For `use`: the route's name.
    #[arg(long)]
    route: Option<String>,
    /// For `use`: the server name of the downstream TLS handshake.
    #[arg(long)]
    sni: Option<String>,
    /// For `use`: the request's host.
    #[arg(long)]
    host: Option<String>,
    /// For a URL: the service account of the workload that serves it.
    #[arg(long, value_name = "NS/SA")]
    destination: Option<String>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

// === impl CanI ===

impl CanI {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let config = load(&self.config)?;
        let policies = load_policies(&config).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let set = PolicySet::compile(&policies, 1);
        let domains = &config.identity.trust_domains;
        let principal = self.suppose.principal(&self.service_account, domains)?;
        let explanation = match split_url(&self.target) {
            Some((host, path)) => {
                let below = canonical_host(host).is_ok_and(|host| {
                    config.secret_routes.below(&host, split_query(path).0).is_some()
                });
                anyhow::ensure!(!below, "{} is a secret route: ask about the secret", self.target);
                self.explain_url(host, path, &set, &principal)?
            }
            None => self.explain_secret(&config, &set, &principal)?,
        };
        Ok(self.report(&set, &principal, &explanation))
    }

    fn explain_secret(
        &self,
        config: &Config,
        set: &PolicySet,
        principal: &Principal,
    ) -> anyhow::Result<Explanation> {
        let verb = Verb::parse(&self.verb).with_context(|| {
            let verbs: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
            format!("{:?} is not one of {}", self.verb, verbs.join(", "))
        })?;
        let secret: SecretRef = match self.target.starts_with("secret://") {
            true => config.catalog.parse_reference(&self.target)?,
            false => config.catalog.locate(&self.target, NameEncoding::Plain, None)?,
        };
        let host = self.host.as_deref().map(canonical_host).transpose().context("--host")?;
        let destination = Destination {
            host: host.as_deref(),
            cluster: self.cluster.as_deref(),
            route: self.route.as_deref(),
            sni: self.sni.as_deref(),
        };
        Ok(set.explain_secret(principal, verb, &secret, &destination))
    }

    fn explain_url(
        &self,
        host: &str,
        path: &str,
        set: &PolicySet,
        principal: &Principal,
    ) -> anyhow::Result<Explanation> {
        let destination = match &self.destination {
            None => None,
            Some(text) => Some(ServiceAccount::parse(text).context("--destination")?),
        };
        if Verb::parse(&self.verb).is_some() {
            bail!("a URL needs a method such as GET instead of the verb {:?}", self.verb);
        }
        let request = HttpRequest::new(&self.verb, host, path, destination)?;
        Ok(set.explain_http(principal, &request))
    }

    fn report(&self, set: &PolicySet, principal: &Principal, explanation: &Explanation) -> Answer {
        match self.output {
            Output::Json => {
                let mut answer = verdict::to_json(set, explanation);
                answer["principal"] = principal.to_string().into();
                let proofs = principal.proofs().iter().map(ProofKind::as_str);
                answer["proofs"] = proofs.collect();
                answer["bound_to_pod"] = principal.is_bound_to_pod().into();
                print(&answer.to_string());
            }
            Output::Text => {
                print(&verdict::in_words(set, explanation));
                let nearest = explanation.nearest.iter();
                nearest.flat_map(verdict::nearest_in_words).for_each(|line| print(&line));
                supposed(principal, explanation).iter().for_each(|line| print(line));
            }
        }
        if explanation.outcome.is_ok() { Answer::Yes } else { Answer::No }
    }
}
