//! Which path is what.

use super::docs::DocsFile;
use crate::{
    api::{AUTHORIZE_METHODS, AUTHORIZE_PATH},
    operation::{SECRETS_PATH, SecretPath},
};

/// What a path is for. A new route is a variant, a line in [`Route::find`], its methods,
/// and what `rest` does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'p> {
    /// `/health`.
    Health,
    /// `/openapi.json`.
    OpenApi,
    /// `/docs` and its files.
    Docs(DocsFile),
    /// `/v1/authorize`.
    Authorize,
    /// `/v1/secrets` and what belongs to it.
    Secrets(SecretPath<'p>),
}

// === impl Route ===

impl<'p> Route<'p> {
    pub(super) fn find(path: &'p str) -> Option<Self> {
        match path {
            "/health" => Some(Self::Health),
            "/openapi.json" => Some(Self::OpenApi),
            AUTHORIZE_PATH => Some(Self::Authorize),
            path => match SecretPath::find(SECRETS_PATH, path) {
                Some(found) => Some(Self::Secrets(found)),
                None => DocsFile::find(path).map(Self::Docs),
            },
        }
    }

    /// The methods that do something there, as in an `Allow` header.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Self::Health | Self::OpenApi | Self::Docs(_) => "GET, HEAD, OPTIONS",
            Self::Authorize => AUTHORIZE_METHODS,
            Self::Secrets(path) => path.methods(),
        }
    }
}
