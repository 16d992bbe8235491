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
    /// Fetches what signers make credentials of.
    pub(super) async fn fetch_keys(
        &self,
        principal: &Principal,
        signers: &[&Signer],
        used: &mut Used,
    ) -> Result<(), Refusal> {
        let names: Vec<_> = signers.iter().flat_map(|signer| signer.headers()).collect();
        settable(names.iter().map(|name| name.as_str()))?;
        let secrets = signers.iter().flat_map(|signer| signer.references());
        let injector = self.injector(principal);
        let fetched = injector.fetch(secrets).await?;
        // What is made of them always fits.
        used.extend(injector.placed(fetched.len(), Ok::<_, Refusal>(fetched))?);
        Ok(())
    }

    /// Whether one of them signs a body that was not seen yet.
    pub(super) fn needs_body(
        &self,
        signers: &[&Signer],
        body: Body<'_>,
        mutation: &HeaderMutation,
    ) -> bool {
        let target = mutation::target_after(mutation).unwrap_or(self.head.target);
        let headers = mutation::headers_after(self.head.headers(), mutation);
        let unsigned = self.unsigned(target, &headers, body);
        matches!(body, Body::Unseen) && signers.iter().any(|signer| signer.needs_body(&unsigned))
    }

    /// Makes the credentials that wait for the body: what changes in the head that has been
    /// changed so.
    pub(in crate::ext_proc) async fn sign_body(
        &self,
        body: &[u8],
        mut mutation: HeaderMutation,
        used: &mut Used,
    ) -> Result<HeaderMutation, Refusal> {
        let signers = self.injected(self.head.path()).signers;
        let (set, removed) = (mutation.set_headers.len(), mutation.remove_headers.len());
        self.sign(&signers, Body::Whole(body), &mut mutation, used).await?;
        Ok(HeaderMutation {
            set_headers: mutation.set_headers.split_off(set),
            remove_headers: mutation.remove_headers.split_off(removed),
        })
    }

    /// Adds what signers make of the request and of secrets that were fetched.
    pub(super) async fn sign(
        &self,
        signers: &[&Signer],
        body: Body<'_>,
        mutation: &mut HeaderMutation,
        used: &mut Used,
    ) -> Result<(), Refusal> {
        for signer in signers {
            let target = mutation::target_after(mutation).unwrap_or(self.head.target).to_owned();
            let headers = mutation::headers_after(self.head.headers(), mutation);
            let unsigned = self.unsigned(&target, &headers, body);
            let mut signed = {
                let value = |secret: &SecretRef| used.value(secret);
                signer.sign(&unsigned, &value, self.tokens, self.deadline).await?
            };
            used.issued.extend(signed.issued.take());
            mutation::sign(mutation, signed);
        }
        Ok(())
    }

    fn unsigned<'u>(
        &'u self,
        target: &'u str,
        headers: &'u [(&'u str, &'u [u8])],
        body: Body<'u>,
    ) -> Unsigned<'u> {
        Unsigned {
            method: self.head.method,
            target,
            authority: self.head.authority,
            headers,
            body,
            now: SystemTime::now(),
        }
    }
}
