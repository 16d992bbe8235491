//! `can-i`: the decision that the service would make, and why.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::{
    Answer, Output,
    asked::{Around, Asked},
    load, print, reach,
    suppose::{Suppose, supposed},
    verdict,
};
use crate::{
    app::load_policies,
    identity::{Principal, ProofKind},
    policy::{Explanation, PolicySet},
};

#[derive(Debug, Args)]
pub(super) struct CanI {
    /// The service account, as namespace/name.
    #[arg(value_name = "NS/SA")]
    service_account: String,
    /// get, list, create, update, delete or use; for a URL its method.
    #[arg(required_unless_present = "all")]
    verb: Option<String>,
    /// A secret's name, a reference secret://backend/name#field, or a URL.
    #[arg(value_name = "SECRET|URL", required_unless_present = "all")]
    target: Option<String>,
    /// List everything that the service account may reach instead.
    #[arg(
        long,
        conflicts_with_all = [
            "verb", "target", "cluster", "route", "sni", "host", "port", "scheme", "method",
            "path", "destination",
        ]
    )]
    all: bool,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    suppose: Suppose,
    #[command(flatten)]
    around: Around,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

// === impl CanI ===

impl CanI {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let Self { service_account, verb, target, all, config, suppose, around, output } = self;
        let config = load(&config)?;
        let policies = load_policies(&config).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        let set = PolicySet::compile(&policies, 1);
        let principal = suppose.principal(&service_account, &config.identity.trust_domains)?;
        if all {
            return reach::answer(&config, &set, &principal, output);
        }
        let (verb, target) = verb.zip(target).context("a verb and what it is about are missing")?;
        let around = around.canonical()?;
        let explanation = match around.read(&config, &verb, &target)? {
            Asked::Secret(verb, secret, to) => set.explain_secret(&principal, verb, &secret, &to),
            Asked::Http(request) => set.explain_http(&principal, &request),
            Asked::Ambiguous => set.refuse(),
        };
        Ok(report(output, &set, &principal, &explanation))
    }
}

fn report(
    output: Output,
    set: &PolicySet,
    principal: &Principal,
    explanation: &Explanation,
) -> Answer {
    match output {
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
