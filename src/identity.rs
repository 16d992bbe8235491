//! Who is calling: evidence, and the principal that it proves.
//!
//! An edge collects what a request shows about its caller in [`Evidence`];
//! [`Evidence::principal`] is the only way to a [`Principal`]. Nothing
//! unverified is ever called a principal. Uses
//! [`crate::apiserver`] and [`crate::flight`] alone.

mod certificate;
mod evidence;
mod forwarded;
mod grant;
mod peer;
mod spiffe;
mod token;

pub use certificate::CertificateError;
pub use evidence::{Evidence, IdentityError, Principal, ProofKind, ProofSet};
pub use forwarded::{ForwardedPosition, InvalidForwarded, forwarded_client};
pub use grant::{GrantError, GrantKeys, GrantScope};
pub use peer::{Peer, PeerAddress, PeerPatterns};
pub use spiffe::{InvalidSpiffeId, ServiceAccount, SpiffeId, TrustDomain, is_namespace};
pub use token::{
    Pod, ReviewSettings, Reviewed, Reviewer, Revocations, TokenError, TokenRefusal, WatchGuard,
};
