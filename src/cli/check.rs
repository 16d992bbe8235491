//! `check`: is this configuration, with its policies, one that `serve` would run?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Answer, Output, print};
use crate::{
    app::{grant_keys, load_policies},
    config::{Config, Environment},
    policy::PolicySet,
};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
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
        let Findings { errors, warnings, plugins, summary } = self.findings();
        match self.output {
            Output::Json => {
                let findings = json!({
                    "valid": errors.is_empty(),
                    "errors": errors,
                    "warnings": warnings,
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
        Ok(if errors.is_empty() { Answer::Yes } else { Answer::No })
    }

    fn findings(&self) -> Findings {
        let environment = Environment::of_process();
        let config = match Config::load(&self.config, &environment) {
            Ok(config) => config,
            Err(error) => {
                let errors = vec![error.to_string()];
                return Findings { errors, warnings: vec![], plugins: vec![], summary: None };
            }
        };
        let mut errors = Vec::new();
        let warnings = config.warnings().into_iter().map(str::to_owned).collect();
        let listeners = [&config.listeners.grpc, &config.listeners.rest];
        for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            if let Err(error) = crate::net::check_tls(tls) {
                errors.push(format!("{:#}", anyhow::Error::from(error)));
            }
        }
        if let Err(error) = grant_keys(&config.identity) {
            errors.push(error.to_string());
        }
        if let Some(audit) = &config.audit
            && let Err(error) = audit.sink.check()
        {
            errors.push(error.to_string());
        }
        let summary = match load_policies(&config) {
            Err(failure) => {
                errors.extend(failure.to_string().lines().map(str::to_owned));
                None
            }
            Ok(policies) => {
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
        Findings { errors, warnings, plugins, summary }
    }
}
