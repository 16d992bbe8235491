//! The claims of a service account's token, as the API server writes them.

use std::sync::Arc;

use serde::Deserialize;

use super::json::{Object, given};
use crate::identity::{
    ServiceAccount,
    token::{Pod, TokenRefusal},
};

/// How the subject of every service account's token begins.
pub(super) const SUBJECT: &str = "system:serviceaccount:";

/// What a token says, read but not verified.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawClaims")]
pub(in crate::identity::token) struct Claims {
    /// `iss`: the cluster.
    pub(in crate::identity::token) issuer: String,
    /// `aud`: whom it is for; at least one.
    pub(in crate::identity::token) audiences: Vec<String>,
    /// `sub`: whose it is.
    pub(in crate::identity::token) account: ServiceAccount,
    /// `exp`, in seconds since the epoch.
    pub(in crate::identity::token) expires: u64,
    /// `iat`, likewise.
    pub(in crate::identity::token) issued: Option<u64>,
    /// `nbf`, likewise.
    pub(in crate::identity::token) not_before: Option<u64>,
    /// `jti`: unlike that of any other token.
    pub(in crate::identity::token) id: Option<Arc<str>>,
    /// The service account's UID.
    pub(in crate::identity::token) account_uid: Option<Arc<str>>,
    /// The pod that it ends with.
    pub(in crate::identity::token) pod: Option<Pod>,
    /// The node that the pod was on.
    pub(in crate::identity::token) node: Option<Arc<str>>,
}

/// The claims as they stand in the payload. Absent is `None`; `null` is an error.
#[derive(Deserialize)]
pub(super) struct RawClaims {
    iss: String,
    sub: String,
    #[serde(default)]
    aud: Audiences,
    exp: u64,
    #[serde(default, deserialize_with = "given")]
    iat: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    jti: Option<String>,
    #[serde(default, deserialize_with = "given", rename = "kubernetes.io")]
    kubernetes: Option<Object<Binding>>,
}

/// RFC 7519, section 4.1.3: one alone need not be in an array.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

/// What the token is bound to. Unknown members are left to later clusters; a
/// Secret (`secret`) is one that the API server alone can tell to be there still.
#[derive(Deserialize)]
struct Binding {
    namespace: String,
    serviceaccount: Object<Named>,
    #[serde(default, deserialize_with = "given")]
    pod: Option<Object<Named>>,
    #[serde(default, deserialize_with = "given")]
    node: Option<Object<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default, deserialize_with = "given")]
    uid: Option<String>,
}

// === impl Claims ===

impl TryFrom<RawClaims> for Claims {
    type Error = TokenRefusal;

    fn try_from(raw: RawClaims) -> Result<Self, TokenRefusal> {
        let malformed = TokenRefusal::Malformed;
        let account = raw.sub.strip_prefix(SUBJECT).and_then(|of| of.split_once(':'));
        let (namespace, name) = account.ok_or(malformed)?;
        let account = ServiceAccount::new(namespace, name).map_err(|_| malformed)?;
        let audiences = match raw.aud {
            Audiences::One(audience) => vec![audience],
            Audiences::Many(audiences) => audiences,
        };
        if audiences.is_empty() {
            return Err(TokenRefusal::Audience);
        }
        let mut claims = Self {
            issuer: raw.iss,
            audiences,
            account,
            expires: raw.exp,
            issued: raw.iat,
            not_before: raw.nbf,
            id: raw.jti.map(Into::into),
            account_uid: None,
            pod: None,
            node: None,
        };
        let Some(Object(binding)) = raw.kubernetes else { return Ok(claims) };
        let Object(account) = binding.serviceaccount;
        let (pod, node) = (binding.pod.map(|pod| pod.0), binding.node.map(|node| node.0));
        let bound = (binding.namespace.as_str(), account.name.as_str());
        if bound != (claims.account.namespace(), claims.account.name()) {
            return Err(malformed);
        }
        let objects = [Some(&account), pod.as_ref(), node.as_ref()];
        if objects.into_iter().flatten().any(Named::is_nameless) {
            return Err(malformed);
        }
        claims.account_uid = account.uid.map(Into::into);
        claims.node = node.map(|node| node.name.into());
        claims.pod = match pod {
            None => None,
            // A name alone could be that of the next pod.
            Some(Named { uid: None, .. }) => return Err(malformed),
            Some(Named { name, uid: Some(uid) }) => {
                Some(Pod { name: name.into(), uid: uid.into() })
            }
        };
        Ok(claims)
    }
}

// === impl Audiences ===

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

// === impl Named ===

impl Named {
    fn is_nameless(&self) -> bool {
        self.name.is_empty() || self.uid.as_ref().is_some_and(String::is_empty)
    }
}
