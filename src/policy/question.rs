//! What may be asked of the policies, in one type: whoever asks again later, of the
//! audit stream or of a table of cases, asks as the service did.

use std::{borrow::Cow, sync::Arc};

use super::{
    CollectionPermit, Connection, Decision, Denial, Destination, Explanation, HttpRequest, Permit,
    PolicySet, Reason, Verb,
};
use crate::{
    identity::Principal,
    secret::{SecretRef, SecretVersion},
};

/// A question about one principal.
#[derive(Clone, Debug)]
pub enum Question<'a> {
    /// Something about one secret.
    Secret {
        /// What is to be done with it.
        verb: Verb,
        /// Which secret.
        secret: Cow<'a, SecretRef>,
        /// Where it is to be used; matters for `use` alone.
        destination: Destination<'a>,
        /// The request in the mesh that asks for it.
        by: Option<HttpRequest<'a>>,
    },
    /// Whether anything may be listed, created or read.
    Collection {
        /// `list`, `create` or `get`.
        verb: Verb,
        /// The request in the mesh that asks for it.
        by: Option<HttpRequest<'a>>,
    },
    /// A request in the mesh.
    Http(HttpRequest<'a>),
    /// A TCP connection in the mesh.
    Connection(Connection),
}

/// Why there is no such question about a secret: no request to the service asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unasked {
    /// Of a verb that is about the secret as a whole.
    #[error("version and field go with get and use")]
    Part,
    /// Of a verb that sends nothing anywhere.
    #[error("only use has a destination")]
    Destination,
}

// === impl Unasked ===

impl Unasked {
    /// Whether a verb goes with what else is asked.
    ///
    /// # Errors
    /// What it does not go with.
    pub fn check(verb: Verb, secret: &SecretRef, has_destination: bool) -> Result<(), Self> {
        let part = secret.field.is_some() || secret.version != SecretVersion::Latest;
        match (part && !verb.takes_part(), has_destination && verb != Verb::Use) {
            (true, _) => Err(Self::Part),
            (false, true) => Err(Self::Destination),
            (false, false) => Ok(()),
        }
    }
}

// === impl PolicySet ===

impl PolicySet {
    /// Decides. An operation on secrets that a request in the mesh asks for is decided by
    /// the secret's name, and a Deny for http covers it too: the caller chooses the host,
    /// and must not choose its way around a Deny by it.
    ///
    /// # Errors
    /// [`Denial`], with the reason.
    pub fn decide(
        self: &Arc<Self>,
        principal: &Principal,
        question: &Question<'_>,
    ) -> Result<Decision, Denial> {
        match question {
            Question::Secret { by: Some(by), .. } | Question::Collection { by: Some(by), .. } => {
                match self.veto(principal, by) {
                    Some(denial) => Err(denial),
                    None => self.decide_alone(principal, question),
                }
            }
            Question::Secret { by: None, .. }
            | Question::Collection { by: None, .. }
            | Question::Http(_)
            | Question::Connection(_) => self.decide_alone(principal, question),
        }
    }

    /// Decides and explains a refusal, for whoever may read all policies.
    #[must_use]
    pub fn explain(
        self: &Arc<Self>,
        principal: &Principal,
        question: &Question<'_>,
    ) -> Explanation {
        let outcome = self.decide(principal, question);
        let explained = match question {
            Question::Secret { verb, secret, destination, .. } => {
                self.explain_secret(principal, *verb, secret, destination)
            }
            Question::Http(request) => self.explain_http(principal, request),
            Question::Collection { .. } | Question::Connection(_) => {
                return Explanation { outcome, nearest: None };
            }
        };
        let nearest = explained.nearest.filter(|_| outcome.is_err());
        Explanation { outcome, nearest }
    }

    /// The answer to a request that has more than one reading: no rule is asked.
    #[must_use]
    pub fn refuse(&self) -> Explanation {
        Explanation { outcome: Err(self.deny(Reason::Malformed)), nearest: None }
    }

    fn decide_alone(
        self: &Arc<Self>,
        principal: &Principal,
        question: &Question<'_>,
    ) -> Result<Decision, Denial> {
        match question {
            Question::Secret { verb: Verb::Use, secret, destination, .. } => {
                let permit = self.authorize_use(principal, secret, destination);
                permit.map(|Permit { decision, .. }| decision)
            }
            Question::Secret { verb, secret, .. } => {
                let permit = self.authorize(principal, *verb, secret);
                permit.map(|Permit { decision, .. }| decision)
            }
            Question::Collection { verb, .. } => {
                let permit = self.authorize_collection(principal, *verb);
                permit.map(|CollectionPermit { decision, .. }| decision)
            }
            Question::Http(request) => self.authorize_http(principal, request),
            Question::Connection(connection) => self.authorize_connection(principal, connection),
        }
    }

    /// The Deny for requests in the mesh that also covers a secret operation.
    fn veto(&self, principal: &Principal, by: &HttpRequest<'_>) -> Option<Denial> {
        let denial = self.authorize_http(principal, by).err()?;
        match denial.reason {
            Reason::NoMatch | Reason::MissingAttribute(_) => None,
            Reason::NoIdentity
            | Reason::InvalidToken
            | Reason::InvalidIdentity
            | Reason::Malformed
            | Reason::DeniedByPolicy
            | Reason::PolicyInvalid => Some(denial),
        }
    }
}
