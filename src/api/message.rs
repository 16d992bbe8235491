//! What the secrets API reads and writes as JSON.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{json::Object, problem::ProblemCode};

/// A part of a listing.
#[derive(Serialize, ToSchema)]
pub(super) struct SecretNames {
    /// Those that the caller may list, in order.
    pub(super) secrets: Vec<String>,
    /// Where the next part starts; left out at the end, and where no limit was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}

/// One version of a secret.
#[derive(Serialize, ToSchema)]
pub(super) struct Secret<'a> {
    /// Its name, in canonical form.
    pub(super) name: &'a str,
    /// The value, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a str>,
    /// The value, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) value_base64: Option<Zeroizing<String>>,
    /// How the value is encoded, if it is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) encoding: Option<Encoding>,
    /// The store that holds it.
    pub(super) backend: &'a str,
    /// The store's id or number for this version.
    pub(super) version: &'a str,
    /// When this version was made, if the store says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
}

/// How a value that is not text is shown.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    /// RFC 4648, section 4, with padding.
    Base64,
}

/// A secret that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct Created<'a> {
    /// As it was sent.
    pub(super) name: &'a str,
}

/// A secret that was given another value.
#[derive(Serialize, ToSchema)]
pub(super) struct Updated<'a> {
    /// Its name, in canonical form.
    pub(super) name: &'a str,
    /// The store's id or number for the new version.
    pub(super) version: &'a str,
}

/// A secret to make. Either `value` or `value_base64` is there, and not empty.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateSecret {
    /// Its name.
    #[serde(default, deserialize_with = "present")]
    pub(super) name: Option<String>,
    /// Text.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) value: Option<Zeroizing<String>>,
    /// Any bytes, in base64 (RFC 4648, section 4).
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) value_base64: Option<Zeroizing<String>>,
    /// The store; where the name leads without.
    #[serde(default, deserialize_with = "present")]
    pub(super) backend: Option<String>,
}

/// A value to give a secret. Either `value` or `value_base64` is there, and not empty.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateSecret {
    /// Text.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) value: Option<Zeroizing<String>>,
    /// Any bytes, in base64 (RFC 4648, section 4).
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    pub(super) value_base64: Option<Zeroizing<String>>,
}

/// Secrets to read at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchGet {
    /// Up to 100.
    #[schema(value_type = Vec<BatchGetItem>)]
    pub(super) secrets: Vec<Object<BatchGetItem>>,
}

/// One of them: by `name`, or by `ref` alone.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchGetItem {
    /// Its name.
    #[serde(default, deserialize_with = "present")]
    pub(super) name: Option<String>,
    /// All of it, as `secret://backend/name?version=1#field`.
    #[serde(default, deserialize_with = "present")]
    pub(super) r#ref: Option<String>,
    /// The store; where the name leads without.
    #[serde(default, deserialize_with = "present")]
    pub(super) backend: Option<String>,
    /// Which version; the latest without.
    #[serde(default, deserialize_with = "present")]
    pub(super) version: Option<String>,
    /// Which part of a JSON value: a key, or a JSON pointer.
    #[serde(default, deserialize_with = "present")]
    pub(super) field: Option<String>,
}

/// What was read, and what could not be.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchGetAnswer<'a> {
    /// In the order of the request.
    pub(super) secrets: Vec<BatchGetSecret<'a>>,
    /// In the order of the request.
    pub(super) errors: Vec<BatchGetError<'a>>,
}

/// A secret that was read.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchGetSecret<'a> {
    /// Its place in the request, from 0.
    pub(super) index: usize,
    /// The secret.
    #[serde(flatten)]
    pub(super) secret: Secret<'a>,
}

/// A secret that could not be read.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchGetError<'a> {
    /// Its place in the request, from 0.
    pub(super) index: usize,
    /// The name or reference that was asked for, up to 512 bytes of it.
    pub(super) name: &'a str,
    /// What a read of it alone would have been refused with.
    pub(super) code: ProblemCode,
    /// The same for people.
    pub(super) error: String,
    /// How long to wait before it is asked for again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_after: Option<u64>,
}

/// Which versions of a secret there are.
#[derive(Serialize, ToSchema)]
pub(super) struct SecretVersions<'a> {
    /// Its name, in canonical form.
    pub(super) name: &'a str,
    /// The store that holds it.
    pub(super) backend: &'a str,
    /// The newest first, as far as the store says.
    pub(super) versions: Vec<VersionOfSecret>,
}

/// What a store says of one version.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionOfSecret {
    /// The store's id or number.
    pub(super) version: String,
    /// Stages or aliases that lead to it.
    pub(super) stages: Vec<String>,
    /// When it was made, if the store says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
    /// Whether it can be read.
    pub(super) enabled: bool,
}

/// That the service runs.
#[derive(Serialize, ToSchema)]
pub struct Health<'a> {
    /// The default store, if there is one.
    pub backend: Option<&'a str>,
    /// `healthy`.
    pub status: &'static str,
}

/// A member that is there has a value: null is none.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
