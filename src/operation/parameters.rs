//! What a query says about an operation.

use std::borrow::Cow;

use super::InvalidOperation;

/// The most names of one page.
const MOST_NAMES: usize = 1000;

/// The parameters that any operation knows.
#[derive(Default)]
pub(super) struct Parameters<'a> {
    pub(super) backend: Option<Cow<'a, str>>,
    pub(super) version: Option<Cow<'a, str>>,
    pub(super) field: Option<Cow<'a, str>>,
    pub(super) page: PageParameters,
    pub(super) force: bool,
    pub(super) refresh: bool,
}

/// Which part of a listing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageParameters {
    /// What the names begin with, as sent.
    pub prefix: Option<String>,
    /// The most names in the answer, 1 to 1000; all of them without.
    pub limit: Option<usize>,
    /// Where to go on, as an answer said.
    pub cursor: Option<String>,
}

// === impl Parameters ===

impl<'a> Parameters<'a> {
    /// Unknown parameters are ignored, as vaultmux-server does; known ones given
    /// twice are refused, since two readers could choose differently.
    pub(super) fn parse(query: Option<&'a str>) -> Result<Self, InvalidOperation> {
        let mut found = Self::default();
        let (mut force, mut refresh) = (None, None);
        let (mut prefix, mut limit, mut cursor) = (None, None, None);
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let (slot, name) = match &*key {
                "backend" => (&mut found.backend, "backend"),
                "version" => (&mut found.version, "version"),
                "field" => (&mut found.field, "field"),
                "prefix" => (&mut prefix, "prefix"),
                "limit" => (&mut limit, "limit"),
                "cursor" => (&mut cursor, "cursor"),
                "force" => (&mut force, "force"),
                "refresh" => (&mut refresh, "refresh"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(InvalidOperation::Parameter(name));
            }
        }
        let flag = |value: Option<Cow<'_, str>>, name| match value.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(InvalidOperation::Parameter(name)),
        };
        found.force = flag(force, "force")?;
        found.refresh = flag(refresh, "refresh")?;
        let limit = limit.map(|limit| match limit.bytes().all(|b| b.is_ascii_digit()) {
            true => limit.parse().ok().filter(|limit| (1..=MOST_NAMES).contains(limit)),
            false => None,
        });
        found.page = PageParameters {
            prefix: prefix.map(Cow::into_owned),
            limit: limit.map(|it| it.ok_or(InvalidOperation::Parameter("limit"))).transpose()?,
            cursor: cursor.map(Cow::into_owned),
        };
        Ok(found)
    }
}
