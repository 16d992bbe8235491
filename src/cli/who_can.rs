//! `who-can`: everyone who may do one thing.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::{Value, json};

use super::{
    Answer, Output,
    asked::{Around, Asked},
    load, print,
    rows::{object, rule_json},
};
use crate::{
    app::load_policies,
    identity::{ProofKind, TrustDomain},
    policy::{Deed, Denied, Holder, InvalidRequest, PolicySet, Whom},
};

#[derive(Debug, Args)]
pub(super) struct WhoCan {
    /// get, list, create, update, delete or use; for a URL its method.
    verb: String,
    /// A secret's name, a reference secret://backend/name#field, or a URL.
    #[arg(value_name = "SECRET|URL")]
    target: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    around: Around,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

// === impl WhoCan ===

impl WhoCan {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let Self { verb, target, config, around, output } = self;
        let config = load(&config)?;
        let policies = load_policies(&config).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let set = Arc::new(PolicySet::compile(&policies, 1));
        let around = around.canonical()?;
        let asked = around.read(&config, &verb, &target)?;
        let deed = match &asked {
            Asked::Secret(verb, secret, to) => Deed::Secret(*verb, secret, *to),
            Asked::Http(request) => Deed::Http(request),
            // Nobody, whatever the policies say.
            Asked::Ambiguous => return Err(InvalidRequest::Path.into()),
        };
        let domains = &config.identity.trust_domains;
        let holders = set.holders(&deed, &config.catalog, domains)?;
        match output {
            Output::Text if holders.is_empty() => print("nobody"),
            Output::Text => {
                let lines = holders.iter().flat_map(|holder| in_words(holder, domains));
                lines.for_each(|line| print(&line));
            }
            Output::Json => {
                let holders: Vec<_> = holders.iter().map(to_json).collect();
                print(&json!({"verb": verb, "target": target, "holders": holders}).to_string());
            }
        }
        Ok(if holders.is_empty() { Answer::No } else { Answer::Yes })
    }
}

fn of_domains(some: &[TrustDomain], all: &[TrustDomain]) -> String {
    match some.len() == all.len() {
        true => String::new(),
        false => {
            let names: Vec<_> = some.iter().map(TrustDomain::as_str).collect();
            format!(" of trust domain {}", names.join(", "))
        }
    }
}

fn in_words(holder: &Holder, domains: &[TrustDomain]) -> Vec<String> {
    let Holder { rule, whom, trust_domains, require, bound_to_pod, except, denied } = holder;
    let mut first = format!("{whom}{}", of_domains(trust_domains, domains));
    let mut proofs: Vec<_> = require.iter().map(ProofKind::as_str).collect();
    if *bound_to_pod {
        proofs.retain(|proof| *proof != "token");
        proofs.push("a token that is bound to a pod");
    }
    if !proofs.is_empty() {
        first += &format!(", proven by {}", proofs.join(" and "));
    }
    let mut lines = vec![first, format!("  by {rule}")];
    lines.extend(except.iter().map(|whom| format!("  except {whom}")));
    lines.extend(denied.iter().map(|Denied { rule, whom, trust_domains: theirs, except }| {
        let of = of_domains(theirs, trust_domains);
        let but = match except.as_slice() {
            [] => String::new(),
            except => format!(" (but not {})", listed(except).join(", ")),
        };
        format!("  except {whom}{of}{but}: denied by {rule}")
    }));
    lines
}

fn listed(whoms: &[Whom]) -> Vec<String> {
    whoms.iter().map(ToString::to_string).collect()
}

fn to_json(holder: &Holder) -> Value {
    let domains =
        |all: &[TrustDomain]| -> Vec<String> { all.iter().map(ToString::to_string).collect() };
    let Holder { rule, whom, trust_domains, require, bound_to_pod, except, denied } = holder;
    let denied = denied.iter().map(|denied| {
        let who = json!({
            "who": denied.whom.to_string(),
            "trust_domains": domains(&denied.trust_domains),
            "except": listed(&denied.except),
        });
        object([who.as_object().cloned().unwrap_or_default(), rule_json(&denied.rule)])
    });
    let who = json!({
        "who": whom.to_string(),
        "trust_domains": domains(trust_domains),
        "proofs": require.iter().map(ProofKind::as_str).collect::<Vec<_>>(),
        "bound_to_pod": bound_to_pod,
        "except": listed(except),
        "denied": denied.collect::<Vec<_>>(),
    });
    object([who.as_object().cloned().unwrap_or_default(), rule_json(rule)])
}
