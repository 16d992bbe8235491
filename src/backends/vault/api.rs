//! Calls to a KV mount in the name of the session.

use std::sync::Arc;

use http::Method;
use serde::Deserialize;

use super::{
    client::{Answer, Client, Request, encode},
    error::from_answer,
    session::Session,
};
use crate::{backends::BackendError, secret::SecretName};

/// A mount, and the session to call it with.
pub(super) struct Api {
    pub(super) client: Arc<Client>,
    pub(super) session: Arc<Session>,
    /// Of the KV engine, encoded.
    pub(super) mount: String,
    /// Goes before every name.
    pub(super) prefix: String,
}

#[derive(Deserialize)]
struct Listing {
    data: Keys,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

// === impl Api ===

impl Api {
    /// The path of a secret below the mount; `kind` is that of version 2, with
    /// its slash.
    pub(super) fn path(&self, kind: &str, name: &SecretName) -> String {
        format!("{}/{kind}{}{}", self.mount, encode(&self.prefix), encode(name.as_str()))
    }

    pub(super) async fn get(&self, target: String) -> Result<Answer, BackendError> {
        self.call(Request::get(target)).await
    }

    /// A call that answers nothing of interest.
    pub(super) async fn delete(&self, target: String) -> Result<(), BackendError> {
        let answer = self.call(Request::new(Method::DELETE, target)).await?;
        if answer.is_success() { Ok(()) } else { Err(from_answer(&answer)) }
    }

    /// The names in a folder (a path below the mount that ends in a slash), and
    /// its folders, which end in one; none of a folder that does not exist.
    pub(super) async fn keys(&self, folder: &str) -> Result<Vec<String>, BackendError> {
        // As a GET: proxies on the way may not know the method LIST.
        let target = format!("{}/{}?list=true", self.mount, encode(folder));
        let answer = self.get(target).await?;
        if answer.is_success() {
            let Listing { data } = answer.json()?;
            return Ok(data.keys);
        }
        match from_answer(&answer) {
            BackendError::NotFound => Ok(Vec::new()),
            error => Err(error),
        }
    }

    /// Sends a request, twice if the first token turns out not to be known any
    /// more: what was denied had no effect.
    pub(super) async fn call(&self, request: Request) -> Result<Answer, BackendError> {
        let token = self.session.token().await?;
        let answer = self.client.send(&request, Some(token.header())).await?;
        if answer.status != 403 {
            return Ok(answer);
        }
        match self.session.replacement(&token).await? {
            None => Ok(answer),
            Some(token) => self.client.send(&request, Some(token.header())).await,
        }
    }
}
