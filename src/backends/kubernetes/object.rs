//! Secret objects on the wire: the parts of them that are read, and the bodies that
//! are sent. Values are borrowed from the answer's buffer, which is wiped.
//!
//! Annotations are not read: `kubectl apply` leaves copies of values in them.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use zeroize::Zeroizing;

use crate::{
    backends::{BackendError, SecretPage},
    secret::{NameEncoding, NameGrammar, SecretValue},
};

/// All values of one object together, in bytes; the API server's limit.
pub(super) const MAX_VALUE: usize = 1 << 20;

/// The label that says who made an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const US: &str = "vaultmux-mesh";

/// Types that are out of bounds. The first two let their holder act as somebody else in
/// the cluster; a release has the values of other secrets in it.
const OUT_OF_BOUNDS: [&str; 3] =
    ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token", "helm.sh/release.v1"];

/// A Secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object<'a> {
    metadata: Metadata,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    pub(super) immutable: bool,
    #[serde(default, borrow, deserialize_with = "map_or_null")]
    pub(super) data: BTreeMap<String, Option<Text<'a>>>,
}

/// Text that is not copied unless it has escapes, which base64 never needs.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
    labels: BTreeMap<String, String>,
    managed_fields: Vec<ManagedField>,
}

#[derive(Deserialize)]
struct ManagedField {
    time: Option<Time>,
}

/// A page of Secrets, without values.
#[derive(Deserialize)]
pub(super) struct SecretList {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default, deserialize_with = "map_or_null")]
    items: Vec<Listed>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Listed {
    metadata: Metadata,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "map_or_null")]
    data: BTreeMap<String, IgnoredAny>,
}

/// What a write answers with: metadata alone, as was asked.
#[derive(Deserialize)]
pub(super) struct Written {
    metadata: Metadata,
}

fn map_or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a successful answer. The parser's own error may quote a value, so it is lost.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BackendError> {
    serde_json::from_slice(body).map_err(|_| BackendError::Unavailable(None))
}

// === impl Object ===

impl<'a> Object<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, BackendError> {
        let found: Self = parse(body)?;
        if found.metadata.resource_version.is_empty() {
            return Err(BackendError::Invalid("no version was returned".to_owned()));
        }
        Ok(found)
    }

    /// What policy allowed is one object: another's values are not passed off as its own.
    pub(super) fn must_be(&self, namespace: &str, name: &str) -> Result<(), BackendError> {
        match self.metadata.namespace == namespace && self.metadata.name == name {
            true => Ok(()),
            false => Err(BackendError::Invalid("another secret was returned".to_owned())),
        }
    }

    pub(super) fn is_out_of_bounds(&self) -> bool {
        OUT_OF_BOUNDS.contains(&&*self.kind)
    }

    pub(super) fn is_ours(&self) -> bool {
        self.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == US)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.data.contains_key(key)
    }

    pub(super) fn version(&self) -> Arc<str> {
        self.metadata.resource_version.as_str().into()
    }

    /// When the object last changed, as its field managers say. Its creation time would
    /// be that of its first version.
    pub(super) fn changed_at(&self) -> Option<SystemTime> {
        let times = self.metadata.managed_fields.iter().filter_map(|field| field.time.as_ref());
        times.max().map(|time| time.0.into())
    }

    pub(super) fn value(&self, key: &str) -> Result<SecretValue, BackendError> {
        let text = match self.data.get(key) {
            None => return Err(BackendError::NotFound),
            Some(None) => "",
            Some(Some(text)) => &text.0,
        };
        let value = STANDARD.decode(text);
        let value = value.map_err(|_| BackendError::Invalid("a value is not base64".to_owned()))?;
        Ok(SecretValue::new(value))
    }
}

// === impl SecretList ===

impl SecretList {
    pub(super) fn parse(body: &[u8]) -> Result<Self, BackendError> {
        parse(body)
    }

    pub(super) fn into_page(self, grammar: NameGrammar) -> SecretPage {
        let names = self
            .items
            .iter()
            .filter(|listed| !OUT_OF_BOUNDS.contains(&&*listed.kind))
            .flat_map(|listed| listed.data.keys().map(|key| (&listed.metadata.name, key)))
            .filter_map(|(name, key)| {
                grammar.canonical(&format!("{name}/{key}"), NameEncoding::Plain).ok()
            })
            .collect();
        let next = self.metadata.next;
        SecretPage { names, cursor: (!next.is_empty()).then_some(next) }
    }
}

// === impl Written ===

impl Written {
    /// The version that a write made.
    pub(super) fn version(body: &[u8]) -> Result<Arc<str>, BackendError> {
        let written: Self = parse(body)?;
        match written.metadata.resource_version.as_str() {
            "" => Err(BackendError::Invalid("no version was returned".to_owned())),
            version => Ok(version.into()),
        }
    }
}

/// Path and query of one page. What is out of bounds does not even leave the store.
pub(super) fn page(collection: &str, limit: usize, cursor: Option<&str>) -> String {
    let types = OUT_OF_BOUNDS.map(|kind| format!("type!={kind}")).join(",");
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &limit.to_string()).append_pair("fieldSelector", &types);
    if let Some(cursor) = cursor {
        query.append_pair("continue", cursor);
    }
    format!("{collection}?{}", query.finish())
}

/// A new object with one key.
pub(super) fn new(name: &str, key: &str, value: &SecretValue) -> Result<Bytes, BackendError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct New<'a> {
        api_version: &'a str,
        kind: &'a str,
        metadata: NewMetadata<'a>,
        r#type: &'a str,
        data: BTreeMap<&'a str, &'a str>,
    }
    #[derive(Serialize)]
    struct NewMetadata<'a> {
        name: &'a str,
        labels: BTreeMap<&'a str, &'a str>,
    }
    let value = encoded(value);
    let new = New {
        api_version: "v1",
        kind: "Secret",
        metadata: NewMetadata { name, labels: [(MANAGED_BY, US)].into() },
        r#type: "Opaque",
        data: [(key, value.as_str())].into(),
    };
    body(&new, value.len())
}

/// A merge patch that sets one key, or removes it, if the object still has this version.
pub(super) fn with_key(
    version: &str,
    key: &str,
    value: Option<&SecretValue>,
) -> Result<Bytes, BackendError> {
    #[derive(Serialize)]
    struct Change<'a> {
        metadata: BTreeMap<&'a str, &'a str>,
        data: BTreeMap<&'a str, Option<&'a str>>,
    }
    let value = value.map(encoded);
    let value = value.as_ref().map(|value| value.as_str());
    let change =
        Change { metadata: [("resourceVersion", version)].into(), data: [(key, value)].into() };
    body(&change, value.map_or(0, str::len))
}

/// The body of a delete that only hits this version.
pub(super) fn precondition(version: &str) -> Result<Bytes, BackendError> {
    #[derive(Serialize)]
    struct Delete<'a> {
        preconditions: BTreeMap<&'a str, &'a str>,
    }
    body(&Delete { preconditions: [("resourceVersion", version)].into() }, 0)
}

#[expect(clippy::disallowed_methods, reason = "this is where the value is sent to its store")]
fn encoded(value: &SecretValue) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(value.expose_secret()))
}

/// JSON in a buffer that is wiped, and large enough not to be moved while it fills.
fn body(content: &impl Serialize, value_len: usize) -> Result<Bytes, BackendError> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(value_len + 2048));
    serde_json::to_writer(&mut *buffer, content)
        .map_err(|_| BackendError::Invalid("the request could not be built".to_owned()))?;
    Ok(Bytes::from_owner(buffer))
}
