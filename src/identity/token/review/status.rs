//! The API server's verdict, and what of it is believed.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

use super::Reviewed;
use crate::identity::{
    ServiceAccount,
    token::{Pod, TokenRefusal},
};

/// A TokenReview, without the token that it repeats.
#[derive(Deserialize)]
pub(super) struct Review {
    kind: String,
    status: Status,
}

/// Go leaves out what is empty.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    authenticated: bool,
    audiences: Option<Vec<String>>,
    error: Option<String>,
    user: Option<User>,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<HashMap<String, Vec<String>>>,
}

// === impl Review ===

impl Review {
    /// Reads an answer; `None` if it is none.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let review: Self = serde_json::from_slice(body).ok()?;
        (review.kind == "TokenReview").then_some(review)
    }

    /// Takes an answer for a yes only where all of it says so.
    pub(super) fn verdict(
        self,
        audiences: &[Arc<str>],
        expected: &ServiceAccount,
    ) -> Result<Reviewed, TokenRefusal> {
        let Status { authenticated, audiences: granted, error, user } = self.status;
        if !authenticated || error.is_some_and(|error| !error.is_empty()) {
            return Err(TokenRefusal::Unauthenticated);
        }
        // A server that does not know audiences leaves them out, and checked none.
        let granted = granted.unwrap_or_default();
        if !audiences.iter().any(|ours| granted.iter().any(|granted| **granted == **ours)) {
            return Err(TokenRefusal::Audience);
        }
        let user = user.ok_or(TokenRefusal::OtherUser)?;
        let (namespace, name) = (expected.namespace(), expected.name());
        let group = format!("system:serviceaccounts:{namespace}");
        if user.username != format!("system:serviceaccount:{namespace}:{name}")
            || !user.groups.iter().flatten().any(|of| *of == group)
        {
            return Err(TokenRefusal::OtherUser);
        }
        let pod = match (user.extra("pod-name")?, user.extra("pod-uid")?) {
            (None, None) => None,
            (Some(name), Some(uid)) => Some(Pod { name, uid }),
            (Some(_), None) | (None, Some(_)) => return Err(TokenRefusal::OtherUser),
        };
        Ok(Reviewed {
            pod,
            node: user.extra("node-name")?,
            credential_id: user.extra("credential-id")?,
            account_uid: user.uid.filter(|uid| !uid.is_empty()).map(Into::into),
        })
    }
}

// === impl User ===

impl User {
    /// What the API server adds of the token; several values leave open which one holds.
    fn extra(&self, name: &str) -> Result<Option<Arc<str>>, TokenRefusal> {
        let key = format!("authentication.kubernetes.io/{name}");
        let values = self.extra.as_ref().and_then(|extra| extra.get(&key));
        match values.map_or(&[][..], Vec::as_slice) {
            [] => Ok(None),
            [value] if !value.is_empty() => Ok(Some(value.as_str().into())),
            _ => Err(TokenRefusal::OtherUser),
        }
    }
}
