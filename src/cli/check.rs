//! `check`: is this configuration, with its policies, one that `serve` would run?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Answer, Output, print};
use crate::{
    app::{grant_keys, load_policies, webhooks},
    config::{Config, Environment},
    identity::ProofKind,
    policy::{Finding, PolicySet, Surroundings, unread_files},
};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Exit with 1 if there are warnings, too.
    #[arg(long)]
    deny_warnings: bool,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    /// Of the configuration, then those of the policies as text.
    warnings: Vec<String>,
    /// Of the policies.
    policies: Vec<Finding>,
    /// Backends that are sockets in the directory of plugins.
    plugins: Vec<String>,
    summary: Option<String>,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        // A file that is not there is a wrong command, not a wrong configuration.
        std::fs::metadata(&self.config)
            .map_err(|error| anyhow::anyhow!("{}: {error}", self.config.display()))?;
        let Findings { errors, warnings, policies, plugins, summary } = self.findings();
        match self.output {
            Output::Json => {
                let findings = json!({
                    "valid": errors.is_empty(),
                    "errors": errors,
                    "warnings": warnings,
                    "findings": policies.iter().map(to_json).collect::<Vec<_>>(),
                    "plugins": plugins,
                });
                print(&findings.to_string());
            }
            Output::Text => {
                errors.iter().for_each(|error| print(&format!("error: {error}")));
                warnings.iter().for_each(|warning| print(&format!("warning: {warning}")));
                plugins.iter().for_each(|name| print(&format!("plugin found: {name}")));
                summary.iter().for_each(|summary| print(summary));
            }
        }
        let good = errors.is_empty() && (!self.deny_warnings || warnings.is_empty());
        Ok(if good { Answer::Yes } else { Answer::No })
    }

    fn findings(&self) -> Findings {
        let environment = Environment::of_process();
        let config = match Config::load(&self.config, &environment) {
            Ok(config) => config,
            Err(error) => {
                return Findings { errors: vec![error.to_string()], ..Findings::default() };
            }
        };
        let mut errors = Vec::new();
        let mut warnings: Vec<_> = config.warnings().into_iter().map(str::to_owned).collect();
        let listeners = [&config.listeners.grpc, &config.listeners.rest];
        for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            if let Err(error) = crate::net::check_tls(tls) {
                errors.push(format!("{:#}", anyhow::Error::from(error)));
            }
        }
        if let Err(error) = grant_keys(&config.identity) {
            errors.push(error.to_string());
        }
        if let Err(error) = webhooks(&config, None) {
            errors.push(error.to_string());
        }
        if let Some(audit) = &config.audit
            && let Err(error) = audit.sink.check()
        {
            errors.push(error.to_string());
        }
        let mut found = unread_files(&config.policies);
        let summary = match load_policies(&config) {
            Err(failure) => {
                errors.extend(failure.to_string().lines().map(str::to_owned));
                None
            }
            Ok(policies) => {
                found.extend(policies.review(&surroundings(&config)));
                let set = PolicySet::compile(&policies, 1);
                Some(format!(
                    "{}: ok, {} backends, {} policies ({})",
                    self.config.display(),
                    config.backends.len(),
                    policies.len(),
                    set.generation().hash
                ))
            }
        };
        let summary = summary.filter(|_| errors.is_empty());
        let plugins = config.plugins.names.iter().map(ToString::to_string).collect();
        warnings.extend(found.iter().map(ToString::to_string));
        Findings { errors, warnings, policies: found, plugins, summary }
    }
}

fn surroundings(config: &Config) -> Surroundings<'_> {
    let identity = &config.identity;
    let all = ProofKind::ALL.into_iter();
    // Whoever else has the keys may seal grants with proofs that are not known here.
    let others = identity.grant.key_file.is_some();
    let proofs = all.filter(|proof| match proof {
        ProofKind::Mtls | ProofKind::Grant => true,
        ProofKind::Token => others || identity.tokens.is_some(),
        ProofKind::Waypoint => others || identity.forwarded.is_some(),
        ProofKind::Local => others || identity.local.is_some(),
    });
    Surroundings {
        catalog: &config.catalog,
        trust_domains: &identity.trust_domains,
        proofs: proofs.collect(),
        bound_to_pod: others || identity.tokens.is_some(),
    }
}

fn to_json(finding: &Finding) -> serde_json::Value {
    let place = &finding.place;
    json!({
        "code": finding.kind.as_str(),
        "file": place.file.display().to_string(),
        "line": (place.line != 0).then_some(place.line),
        "policy": place.policy,
        "rule": finding.rule,
        "key": (!place.key.is_empty()).then_some(&place.key),
        "message": place.message,
    })
}
