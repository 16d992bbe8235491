//! Values as they stand in the file: durations, sizes, relative paths.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{DiscoveredPlugins, Environment, schema};
use crate::json_schema::shape::text;

/// The longest duration that a setting can have.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What every check needs.
pub(super) struct Context<'a> {
    pub(super) path: &'a Path,
    #[cfg_attr(
        not(any(feature = "azure", feature = "gcp")),
        expect(dead_code, reason = "only stores that read their SDK's variables ask")
    )]
    pub(super) environment: &'a Environment,
    /// Those of the load before.
    #[cfg_attr(
        not(feature = "plugin"),
        expect(dead_code, reason = "there are none without the feature")
    )]
    pub(super) plugins: &'a DiscoveredPlugins,
}

/// A duration as `60s`, `5m`, `150ms`; `0` is none.
#[derive(Clone, Copy)]
pub(super) struct Period(pub(super) Duration);

/// A number of bytes as `64MiB`, `1MB` or plain.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) u64);

// === impl Context ===

impl Context<'_> {
    /// A path in the file, relative to the file.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        match self.path.parent() {
            Some(parent) => parent.join(path),
            None => path.as_ref().to_owned(),
        }
    }
}

// === impl Period ===

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let period = humantime::parse_duration(&text).map_err(|_| {
            D::Error::custom(format!("{text:?} is not a duration such as 150ms, 60s or 5m"))
        })?;
        // Adding it to a clock must not overflow, and nobody means longer.
        if period > LONGEST {
            return Err(D::Error::custom(format!("{text:?} is longer than a year")));
        }
        Ok(Self(period))
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [text::<schema::Duration>(), {"const": 0}]})
    }
}

// === impl Size ===

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| D::Error::custom(format!("{text:?} is not a size such as 64MiB")))
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [text::<schema::Bytes>(), {"type": "integer", "minimum": 0}],
        })
    }
}
