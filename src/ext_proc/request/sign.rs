//! Credentials that are made of the request and of secrets.

use std::time::SystemTime;

use envoy_types::pb::envoy::service::ext_proc::v3::HeaderMutation;

use super::{Exchange, Used};
use crate::{
    api::{Refusal, settable},
    ext_proc::mutation,
    identity::Principal,
    secret::SecretRef,
    signing::{Body, Signer, Unsigned},
};

impl Exchange<'_> {
    /// Adds what signers make of the request and their secrets.
    pub(super) async fn sign(
        &self,
        principal: &Principal,
        signers: &[&Signer],
        body: Body<'_>,
        mutation: &mut HeaderMutation,
        used: &mut Used,
    ) -> Result<(), Refusal> {
        if signers.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = signers.iter().flat_map(|signer| signer.headers()).collect();
        settable(names.iter().map(|name| name.as_str()))?;
        let secrets = signers.iter().flat_map(|signer| signer.references());
        let fetched = self.injector(principal).fetch(secrets).await?;
        let value = |secret: &SecretRef| fetched.value(secret);
        for signer in signers {
            let target = mutation::target_after(mutation).unwrap_or(self.head.target).to_owned();
            let headers = mutation::headers_after(self.head.headers(), mutation);
            let unsigned = Unsigned {
                method: self.head.method,
                target: &target,
                authority: self.head.authority,
                headers: &headers,
                body,
                now: SystemTime::now(),
            };
            let mut signed = signer.sign(&unsigned, &value, self.tokens, self.deadline).await?;
            used.issued.extend(signed.issued.take());
            mutation::sign(mutation, signed);
        }
        used.extend(fetched);
        Ok(())
    }
}
