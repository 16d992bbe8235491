//! Credentials that are made for one request: signatures over it, and tokens that an
//! issuer gives for a secret. The workload holds neither, and the upstream never sees the
//! secret itself.
//!
//! A signer grants nothing: whoever applies one needs a `use` permit for every reference
//! in it, for this caller and this destination. Nothing here has a `Debug` that shows a
//! value, and no error quotes one.

mod endpoint;
mod fill;
mod github;
mod hmac;
mod issued;
mod oauth2;
#[cfg(feature = "aws")]
mod sigv4;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use http::HeaderName;
use tokio::time::Instant;
use zeroize::Zeroizing;

#[cfg(feature = "aws")]
pub use self::sigv4::SigV4;
pub use self::{
    endpoint::{Endpoint, InvalidEndpoint},
    github::{GitHubApp, TokenScheme},
    hmac::{Digest, Encoding, Hmac, InvalidMessage, KeyEncoding, Message, Timestamp},
    issued::{AccessToken, AccessTokens, IssueError},
    oauth2::{ClientAuthentication, OAuth2},
};
use crate::secret::{SecretRef, SecretValue};

/// What makes the credentials of a rule. Holds references, no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// A keyed hash over parts of the request.
    Hmac(Hmac),
    /// The signature that AWS asks for, in place of the client's own.
    #[cfg(feature = "aws")]
    SigV4(SigV4),
    /// A token by the client credentials grant.
    OAuth2(OAuth2),
    /// A GitHub App's token.
    GitHubApp(GitHubApp),
}

/// A request as the upstream will get it, but for its credentials. Without `Debug`, since
/// headers carry secrets.
pub struct Unsigned<'a> {
    /// As sent.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Host and port.
    pub authority: &'a str,
    /// Without pseudo headers, in order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// What is known of the body.
    pub body: Body<'a>,
    /// The time that signatures tell.
    pub now: SystemTime,
}

/// What is known of a request's body.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Nothing: it was not seen.
    Unseen,
}

/// What becomes of a request. Without `Debug`.
#[derive(Default)]
pub struct Signed {
    /// Headers to set, in place of the client's.
    pub headers: Vec<(HeaderName, SecretValue)>,
    /// Headers of the client's own credentials, to be removed.
    pub removed: Vec<&'static str>,
    /// Another path and query.
    pub target: Option<Zeroizing<String>>,
    /// The token that an issuer gave, which the upstream must not give back, and may refuse.
    pub issued: Option<AccessToken>,
}

/// Finds the value of a secret that was resolved for this request.
pub type Values<'v> = &'v (dyn Fn(&SecretRef) -> Option<&'v SecretValue> + Sync);

/// Why a request cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The request has no credentials to be replaced, or none that can be read.
    #[error("the request has no signature to replace")]
    Unsigned,
    /// The client asks for a region or a service that the rule does not name.
    #[error("the request is for a region or service that may not be signed for")]
    Scope,
    /// The signature would have to go on inside the body.
    #[error("chunk signatures cannot be replaced")]
    ChunkSigned,
    /// The signature covers the body, which was not seen.
    #[error("the body has to be seen to be signed")]
    BodyUnseen,
    /// The signature covers a header that the request does not have.
    #[error("the request lacks a header that is signed")]
    MissingHeader,
    /// It has more than one reading.
    #[error("the request cannot be signed as it is")]
    Malformed,
    /// The secret cannot be used for this; the reference is named, the value is not.
    #[error("{0} cannot be used to sign")]
    Unfit(SecretRef),
    /// The issuer gave no token.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Our own fault.
    #[error("internal error")]
    Internal,
}

// === impl Signer ===

impl Signer {
    /// The references in it.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let templates = match self {
            Self::Hmac(hmac) => [Some(&hmac.key), None, None],
            #[cfg(feature = "aws")]
            Self::SigV4(aws) => {
                [Some(&aws.access_key_id), Some(&aws.secret_access_key), aws.session_token.as_ref()]
            }
            Self::OAuth2(oauth2) => [Some(&oauth2.client_id), Some(&oauth2.client_secret), None],
            Self::GitHubApp(app) => [Some(&app.private_key), None, None],
        };
        templates.into_iter().flatten().flat_map(crate::injection::Template::references)
    }

    /// The headers that it sets, whatever the client sent in them.
    #[must_use]
    pub fn headers(&self) -> Vec<HeaderName> {
        match self {
            Self::Hmac(hmac) => {
                let timestamp = hmac.timestamp.as_ref().and_then(|(_, header)| header.clone());
                [Some(hmac.header.clone()), timestamp].into_iter().flatten().collect()
            }
            #[cfg(feature = "aws")]
            Self::SigV4(_) => sigv4::HEADERS.map(HeaderName::from_static).to_vec(),
            Self::OAuth2(oauth2) => vec![oauth2.header.clone()],
            Self::GitHubApp(_) => vec![http::header::AUTHORIZATION],
        }
    }

    /// Whether this request cannot be signed before its body is seen.
    #[must_use]
    pub fn needs_body(&self, request: &Unsigned<'_>) -> bool {
        match self {
            Self::Hmac(hmac) => hmac.message.covers_body(),
            #[cfg(feature = "aws")]
            Self::SigV4(_) => SigV4::covers_body(request),
            Self::OAuth2(_) | Self::GitHubApp(_) => {
                let _ = request;
                false
            }
        }
    }

    /// Makes the credentials, of secrets that were resolved for this request.
    ///
    /// # Errors
    /// [`SigningError`].
    pub async fn sign(
        &self,
        request: &Unsigned<'_>,
        values: Values<'_>,
        tokens: &AccessTokens,
        deadline: Instant,
    ) -> Result<Signed, SigningError> {
        match self {
            Self::Hmac(hmac) => hmac.sign(request, values),
            #[cfg(feature = "aws")]
            Self::SigV4(aws) => aws.sign(request, values),
            Self::OAuth2(oauth2) => oauth2.sign(values, tokens, deadline).await,
            Self::GitHubApp(app) => app.sign(request.now, values, tokens, deadline).await,
        }
    }
}

// === impl Unsigned ===

impl<'a> Unsigned<'a> {
    /// All values of a header.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let headers = self.headers.iter().filter(move |(is, _)| is.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| *value)
    }

    /// The one value of a header, if it is text.
    #[cfg(feature = "aws")]
    fn value(&self, name: &str) -> Result<Option<&'a str>, SigningError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => {
                std::str::from_utf8(value).map(Some).map_err(|_| SigningError::Malformed)
            }
            (Some(_), Some(_)) => Err(SigningError::Malformed),
        }
    }
}

// === impl SigningError ===

impl SigningError {
    /// The word in response details.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Scope => "scope",
            Self::ChunkSigned => "chunk_signed",
            Self::BodyUnseen => "body_unseen",
            Self::MissingHeader => "missing_header",
            Self::Malformed => "malformed",
            Self::Unfit(_) => "unfit",
            Self::Issue(error) => error.as_str(),
            Self::Internal => "internal",
        }
    }
}
