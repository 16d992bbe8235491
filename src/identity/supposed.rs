//! A principal that nobody has shown: for questions about policies by whoever may read
//! them, never for a request.

use super::{
    evidence::{Evidence, IdentityError, Principal, ProofKind, ProofSet},
    spiffe::{ServiceAccount, SpiffeId, TrustDomain},
    token::Pod,
};

/// Who is supposed to ask, and how that would be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supposed {
    /// The service account.
    pub service_account: ServiceAccount,
    /// Its trust domain; the first configured one without.
    pub trust_domain: Option<TrustDomain>,
    /// How the identity would be proven.
    pub proofs: ProofSet,
    /// Whether the token would be bound to a pod.
    pub bound_to_pod: bool,
}

// === impl Supposed ===

impl Supposed {
    /// A service account that shows a certificate of the mesh.
    #[must_use]
    pub fn by_certificate(service_account: ServiceAccount) -> Self {
        let proofs = ProofKind::Mtls.into();
        Self { service_account, trust_domain: None, proofs, bound_to_pod: false }
    }

    /// The principal that such proofs would make.
    ///
    /// # Errors
    /// [`IdentityError`] if there are no proofs, or the trust domain is none of
    /// `trust_domains`.
    pub fn principal(&self, trust_domains: &[TrustDomain]) -> Result<Principal, IdentityError> {
        let trust_domain = self.trust_domain.as_ref().or(trust_domains.first());
        let trust_domain = trust_domain.ok_or(IdentityError::ForeignTrustDomain)?.clone();
        let mut evidence = Evidence::default();
        if self.proofs != ProofSet::default() {
            let id = SpiffeId { trust_domain, service_account: self.service_account.clone() };
            let pod = self.bound_to_pod.then(|| Pod { name: "any".into(), uid: "any".into() });
            evidence.suppose(id, self.proofs, pod);
        }
        evidence.principal(trust_domains)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_supposed_is_what_policies_see() {
        let domain = |text| TrustDomain::parse(text).expect("valid");
        let domains = [domain("a.test"), domain("b.test")];
        let account = ServiceAccount::parse("prod/api").expect("valid");
        let plain = Supposed::by_certificate(account);
        let principal = plain.principal(&domains).expect("a principal");
        assert_eq!(principal.to_string(), "spiffe://a.test/ns/prod/sa/api");
        assert_eq!(principal.proofs().to_string(), "mtls");
        assert!(!principal.is_bound_to_pod());

        let proofs = [ProofKind::Mtls, ProofKind::Token].into_iter().collect();
        let trust_domain = Some(domain("b.test"));
        let bound = Supposed { trust_domain, proofs, bound_to_pod: true, ..plain.clone() };
        let principal = bound.principal(&domains).expect("a principal");
        assert_eq!(principal.trust_domain().as_str(), "b.test");
        assert_eq!(principal.proofs().to_string(), "mtls+token");
        assert!(principal.is_bound_to_pod());

        let foreign = Supposed { trust_domain: Some(domain("c.test")), ..plain.clone() };
        assert_eq!(foreign.principal(&domains), Err(IdentityError::ForeignTrustDomain));
        let unproven = Supposed { proofs: ProofSet::default(), ..plain };
        assert_eq!(unproven.principal(&domains), Err(IdentityError::Missing));
        assert_eq!(bound.principal(&[]), Err(IdentityError::ForeignTrustDomain));
    }
}
