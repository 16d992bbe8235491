//! `can-i`: the decision that the service would make, and why.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::{Answer, Output, load, print};
use crate::{
    app::load_policies,
    config::Config,
    identity::{Evidence, Principal, ServiceAccount, SpiffeId, TrustDomain},
    policy::{Destination, Explanation, HttpRequest, PolicySet, Verb, canonical_host},
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
    /// Trust domain of the service account; the first configured one if not given.
    #[arg(long)]
    trust_domain: Option<String>,
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
        let principal = self.principal(&config)?;
        let explanation = match self.target.split_once("://") {
            Some(("http" | "https", rest)) => self.explain_url(rest, &set, &principal)?,
            _ => self.explain_secret(&config, &set, &principal)?,
        };
        Ok(self.report(&principal, &explanation))
    }

    /// The principal as a certificate of the mesh would prove it.
    fn principal(&self, config: &Config) -> anyhow::Result<Principal> {
        let service_account = ServiceAccount::parse(&self.service_account)
            .with_context(|| format!("{:?} is not <namespace>/<name>", self.service_account))?;
        let domains = &config.identity.trust_domains;
        let trust_domain = match &self.trust_domain {
            None => domains[0].clone(),
            Some(name) => TrustDomain::parse(name).context("--trust-domain")?,
        };
        let mut evidence = Evidence::default();
        let id = SpiffeId { trust_domain, service_account };
        evidence.add_mtls(&id.to_string(), "");
        Ok(evidence.principal(domains)?)
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
        rest: &str,
        set: &PolicySet,
        principal: &Principal,
    ) -> anyhow::Result<Explanation> {
        let at = rest.find('/').unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        let path = if path.is_empty() { "/" } else { path };
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

    fn report(&self, principal: &Principal, explanation: &Explanation) -> Answer {
        let (decision, reason) = match &explanation.outcome {
            Ok(decision) => (decision, None),
            Err(denial) => (&denial.decision, Some(denial.reason)),
        };
        let answer = if reason.is_none() { Answer::Yes } else { Answer::No };
        if self.output == Output::Json {
            let nearest = explanation.nearest.as_ref().map(
                |near| json!({"policy": &*near.policy, "rule": near.rule, "unmet": near.unmet}),
            );
            print(
                &json!({
                    "allowed": answer == Answer::Yes,
                    "principal": principal.to_string(),
                    "reason": reason.map(|reason| reason.as_str()),
                    "policy": decision.policy.as_deref(),
                    "rule": decision.rule,
                    "nearest": nearest,
                })
                .to_string(),
            );
            return answer;
        }
        let by = match (&decision.policy, decision.rule) {
            (Some(policy), Some(rule)) => format!(" by policy {policy}, spec.to[{rule}]"),
            (Some(policy), None) => format!(" by policy {policy}"),
            (None, _) => String::new(),
        };
        match reason {
            None => print(&format!("allowed{by}")),
            Some(reason) => print(&format!("denied{by}: {}", reason.as_str())),
        }
        if let Some(near) = &explanation.nearest {
            print(&format!(
                "nearest rule that would allow: {}, spec.to[{}]",
                near.policy, near.rule
            ));
            near.unmet.iter().for_each(|unmet| print(&format!("  but {unmet}")));
        }
        answer
    }
}
