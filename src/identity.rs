//! Who is calling: evidence, and the principal that it proves.
//!
//! An edge collects what a request shows about its caller in [`Evidence`];
//! [`Evidence::principal`] is the only way to a [`Principal`]. Nothing
//! unverified is ever called a principal. Of this crate it uses what is below all
//! layers.

mod certificate;
mod evidence;
mod forwarded;
mod grant;
mod peer;
mod spiffe;
mod supposed;
mod token;

pub use certificate::CertificateError;
pub use evidence::{Evidence, IdentityError, Principal, ProofKind, ProofSet, certified};
pub use forwarded::{
    ForwardedClientCert, ForwardedPosition, InvalidForwarded, Messenger, forwarded_client,
};
pub use grant::{GrantError, GrantKeys, GrantScope, Seals, Tag, TagPurpose, Tags};
pub use peer::{Peer, PeerAddress, PeerPatterns};
pub use spiffe::{InvalidSpiffeId, ServiceAccount, SpiffeId, TrustDomain, is_namespace};
pub use supposed::Supposed;
#[cfg(test)]
pub(crate) use token::mint;
pub use token::{
    Bearer, Binding, KeyLocation, OidcSettings, OidcVerifier, Pod, ReviewSettings, Reviewed,
    Reviewer, Revocations, TokenError, TokenProof, TokenRefusal, TokenSettings, TokenSetupError,
    TokenVerification, TokenVerifier, WatchGuard,
};
