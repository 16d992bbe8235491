//! Whom a question supposes to ask: what `can-i` takes as flags.

use anyhow::Context;
use clap::Args;

use crate::{
    identity::{Principal, ProofKind, ProofSet, ServiceAccount, Supposed, TrustDomain},
    policy::Explanation,
};

/// How the identity would be proven.
#[derive(Debug, Args)]
pub(super) struct Suppose {
    /// Trust domain of the service account; the first configured one if not given.
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// How the identity is supposed to be proven: mtls, waypoint, token, grant, local.
    #[arg(long, value_name = "PROOF,…", value_delimiter = ',', default_value = "mtls")]
    proofs: Vec<String>,
    /// Suppose that the token is bound to a pod; goes with --proofs token.
    #[arg(long)]
    bound_to_pod: bool,
}

// === impl Suppose ===

impl Suppose {
    /// The service account `namespace/name` with these proofs.
    pub(super) fn principal(
        &self,
        account: &str,
        trust_domains: &[TrustDomain],
    ) -> anyhow::Result<Principal> {
        let service_account = ServiceAccount::parse(account)
            .with_context(|| format!("{account:?} is not <namespace>/<name>"))?;
        let trust_domain = self.trust_domain.as_deref().map(TrustDomain::parse).transpose();
        let proof = |text: &String| {
            ProofKind::parse(text).with_context(|| {
                let known = ProofKind::ALL.map(ProofKind::as_str).join(", ");
                format!("--proofs: {text:?} is not a proof, known are {known}")
            })
        };
        let proofs = self.proofs.iter().map(proof).collect::<anyhow::Result<ProofSet>>()?;
        anyhow::ensure!(
            !self.bound_to_pod || proofs.contains(ProofKind::Token.into()),
            "--bound-to-pod goes with --proofs token"
        );
        let supposed = Supposed {
            service_account,
            trust_domain: trust_domain.context("--trust-domain")?,
            proofs,
            bound_to_pod: self.bound_to_pod,
        };
        Ok(supposed.principal(trust_domains)?)
    }
}

/// What was supposed, if the answer depends on it: the nearest rule asks for other proofs.
pub(super) fn supposed(principal: &Principal, explanation: &Explanation) -> Option<String> {
    let by_proofs = explanation.nearest.as_ref()?.unmet_proofs;
    let bound = if principal.is_bound_to_pod() { ", bound to a pod" } else { "" };
    by_proofs.then(|| {
        format!(
            "supposed: an identity proven by {}{bound}; --proofs and --bound-to-pod suppose others",
            principal.proofs()
        )
    })
}
