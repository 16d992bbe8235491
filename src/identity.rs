//! Who is calling: evidence, and the principal that it proves.
//!
//! An edge collects what a request shows about its caller in [`Evidence`];
//! [`Evidence::principal`] is the only way to a [`Principal`]. Nothing
//! unverified is ever called a principal. Depends on nothing else in the crate.

mod certificate;
mod evidence;
mod grant;
mod peer;
mod spiffe;

pub use certificate::CertificateError;
pub use evidence::{Evidence, IdentityError, Principal, ProofKind, ProofSet};
pub use grant::{GrantError, GrantKeys, GrantScope};
pub use peer::{Peer, PeerAddress, PeerPatterns};
pub use spiffe::{InvalidSpiffeId, ServiceAccount, SpiffeId, TrustDomain, is_namespace};
