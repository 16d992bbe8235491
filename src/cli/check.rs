//! `check`: is this configuration, with its policies, one that `serve` would run?

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Answer, Output, print};
use crate::{
    app::{grant_keys, load_policies, webhooks},
    config::{Config, ConfigError, Environment},
    identity::ProofKind,
    policy::{Finding, LoadFailure, PolicyProblem, PolicySet, Surroundings, unread_files},
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
    errors: Vec<Mistake>,
    /// Of the configuration, then those of the policies as text.
    warnings: Vec<String>,
    /// Of the policies.
    policies: Vec<Finding>,
    /// Backends that are sockets in the directory of plugins.
    plugins: Vec<String>,
    summary: Option<String>,
}

/// What `serve` would not start with.
enum Mistake {
    Config(ConfigError),
    Policies(LoadFailure),
    /// Something that the configuration names.
    Named(String),
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
                    "errors": errors.iter().flat_map(Mistake::to_json).collect::<Vec<_>>(),
                    "warnings": warnings,
                    "findings": policies.iter().map(to_json).collect::<Vec<_>>(),
                    "plugins": plugins,
                });
                print(&findings.to_string());
            }
            Output::Text => {
                let lines = errors.iter().flat_map(Mistake::in_words);
                lines.for_each(|line| print(&format!("error: {line}")));
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
                return Findings { errors: vec![Mistake::Config(error)], ..Findings::default() };
            }
        };
        let mut errors = Vec::new();
        let mut warnings: Vec<_> = config.warnings().into_iter().map(str::to_owned).collect();
        let listeners = [&config.listeners.grpc, &config.listeners.rest];
        for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            if let Err(error) = crate::net::check_tls(tls) {
                errors.push(Mistake::Named(format!("{:#}", anyhow::Error::from(error))));
            }
        }
        if let Err(error) = grant_keys(&config.identity) {
            errors.push(Mistake::Named(error.to_string()));
        }
        if let Err(error) = webhooks(&config, None) {
            errors.push(Mistake::Named(error.to_string()));
        }
        if let Some(audit) = &config.audit
            && let Err(error) = audit.sink.check()
        {
            errors.push(Mistake::Named(error.to_string()));
        }
        let mut found = unread_files(&config.policies);
        let summary = match load_policies(&config) {
            Err(failure) => {
                errors.push(Mistake::Policies(failure));
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

// === impl Mistake ===

impl Mistake {
    /// A line each.
    fn in_words(&self) -> Vec<String> {
        let text = match self {
            Self::Config(error) => error.to_string(),
            Self::Policies(failure) => failure.to_string(),
            Self::Named(text) => return vec![text.clone()],
        };
        text.lines().map(str::to_owned).collect()
    }

    /// An object each, with what findings have of them.
    fn to_json(&self) -> Vec<Value> {
        match self {
            Self::Config(error) => {
                let (file, line, key, message) = error.parts();
                let file = file.display().to_string();
                vec![
                    json!({"file": file, "line": line, "policy": null, "key": key, "message": message}),
                ]
            }
            Self::Policies(failure) => {
                failure.problems.iter().map(|problem| place_json(problem).into()).collect()
            }
            Self::Named(text) => {
                vec![
                    json!({"file": null, "line": null, "policy": null, "key": null, "message": text}),
                ]
            }
        }
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

fn to_json(finding: &Finding) -> Value {
    let mut members = place_json(&finding.place);
    members.insert("code".to_owned(), finding.kind.as_str().into());
    members.insert("rule".to_owned(), finding.rule.into());
    members.into()
}

/// Where something is, and what.
fn place_json(place: &PolicyProblem) -> Map<String, Value> {
    let PolicyProblem { file, line, policy, key, message } = place;
    let members = [
        ("file", file.display().to_string().into()),
        ("line", (*line != 0).then_some(*line).into()),
        ("policy", policy.clone().into()),
        ("key", (!key.is_empty()).then(|| key.clone()).into()),
        ("message", message.clone().into()),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
