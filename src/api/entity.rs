//! Entity tags and what callers ask of them (RFC 9110, sections 8.8.3 and 13.1), and how
//! old a value is.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::accept::Form;
use crate::{
    identity::{GrantKeys, Tag, TagPurpose},
    resolver::{Condition, Freshness, Origin},
    secret::{SecretRecord, SecretRef},
};

/// Tells how a value was had (RFC 9211).
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const RAW: &str = ".raw";

/// What `If-Match` or `If-None-Match` names.
enum Named {
    Any,
    /// The tags that could be ours.
    These(Vec<EntityTag>),
}

/// One of our tags as a caller sent it.
struct EntityTag {
    tag: Tag,
    form: Form,
    weak: bool,
}

/// What a request asks of the state of a secret.
pub(super) struct Preconditions {
    matching: Option<Named>,
    none_matching: Option<Named>,
}

/// The strong tag of one form of a secret. By a key of ours, over what it is and holds: it
/// tells nobody else whether two secrets have the same value.
pub(super) fn entity_tag(
    keys: &GrantKeys,
    secret: &SecretRef,
    record: &SecretRecord,
    form: Form,
) -> HeaderValue {
    let tag = with_parts(secret, record, |parts| keys.tags().make(TagPurpose::Entity, parts));
    let form = match form {
        Form::Json => "",
        Form::Raw => RAW,
    };
    let text = format!("\"{}{form}\"", URL_SAFE_NO_PAD.encode(tag));
    HeaderValue::try_from(text).expect("letters and digits")
}

#[expect(clippy::disallowed_methods, reason = "hashed with a key of ours")]
fn with_parts<T>(secret: &SecretRef, record: &SecretRecord, then: impl FnOnce(&[&[u8]]) -> T) -> T {
    let field = secret.field.as_ref().map_or("", |field| field.as_str());
    then(&[
        secret.backend.as_str().as_bytes(),
        secret.name.as_str().as_bytes(),
        record.version.as_bytes(),
        field.as_bytes(),
        // A secret made anew may have the version of the one before it.
        record.value.expose_secret(),
    ])
}

/// `Age` in seconds, and `Cache-Status`.
pub(super) fn cache_headers(origin: Origin) -> (HeaderValue, HeaderValue) {
    let ttl = |Freshness { left, late, .. }: Freshness| match late.is_zero() {
        true => left.as_secs().to_string(),
        // Rounded up: what has just become stale is stale.
        false => format!("-{}", late.as_secs() + 1),
    };
    let (age, status) = match origin {
        Origin::Cache(freshness) => {
            (freshness.age.as_secs(), format!("vaultmux-mesh; hit; ttl={}", ttl(freshness)))
        }
        Origin::Spare(freshness) => (
            freshness.age.as_secs(),
            format!("vaultmux-mesh; hit; ttl={}; detail=store-unavailable", ttl(freshness)),
        ),
        Origin::Store { joined, past_cache } => {
            let why = if past_cache { "request" } else { "miss" };
            let collapsed = if joined { "; collapsed" } else { "" };
            (0, format!("vaultmux-mesh; fwd={why}{collapsed}"))
        }
    };
    (HeaderValue::from(age), HeaderValue::try_from(status).expect("letters and digits"))
}

// === impl Preconditions ===

impl Preconditions {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            matching: Named::of(headers, header::IF_MATCH),
            none_matching: Named::of(headers, header::IF_NONE_MATCH),
        }
    }

    /// Whether `If-Match` allows a read of this.
    pub(super) fn allow_read(
        &self,
        keys: &GrantKeys,
        secret: &SecretRef,
        record: &SecretRecord,
        form: Form,
    ) -> bool {
        let named = self.matching.as_ref();
        named.is_none_or(|named| named.is_met(keys, secret, record, Some(form), false))
    }

    /// Whether the caller of a read has this already.
    pub(super) fn has(
        &self,
        keys: &GrantKeys,
        secret: &SecretRef,
        record: &SecretRecord,
        form: Form,
    ) -> bool {
        let named = self.none_matching.as_ref();
        named.is_some_and(|named| named.is_met(keys, secret, record, Some(form), true))
    }

    /// What a write asks of the current version; none where it asks nothing but that there
    /// is one. Either form of it will do.
    pub(super) fn of_write(self, keys: &Arc<GrantKeys>, secret: &SecretRef) -> Option<Condition> {
        let Self { matching, none_matching } = self;
        if matches!((&matching, &none_matching), (None | Some(Named::Any), None)) {
            return None;
        }
        let (keys, secret) = (Arc::clone(keys), secret.clone());
        Some(Box::new(move |record| {
            let met = |named: &Named, weakly| named.is_met(&keys, &secret, record, None, weakly);
            matching.as_ref().is_none_or(|named| met(named, false))
                && !none_matching.as_ref().is_some_and(|named| met(named, true))
        }))
    }
}

// === impl Named ===

impl Named {
    fn of(headers: &HeaderMap, name: HeaderName) -> Option<Self> {
        let mut sent = headers.get_all(name).iter().peekable();
        sent.peek()?;
        let texts: Vec<_> = sent.filter_map(|value| value.to_str().ok()).collect();
        let items: Vec<_> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
        Some(match items.as_slice() {
            ["*"] => Self::Any,
            // What is no tag of ours matches nothing.
            items => Self::These(items.iter().filter_map(|item| EntityTag::parse(item)).collect()),
        })
    }

    fn is_met(
        &self,
        keys: &GrantKeys,
        secret: &SecretRef,
        record: &SecretRecord,
        form: Option<Form>,
        weakly: bool,
    ) -> bool {
        let Self::These(tags) = self else { return true };
        tags.iter().any(|sent| {
            (weakly || !sent.weak)
                && form.is_none_or(|form| form == sent.form)
                && with_parts(secret, record, |parts| {
                    keys.tags().verify(TagPurpose::Entity, parts, &sent.tag)
                })
        })
    }
}

// === impl EntityTag ===

impl EntityTag {
    fn parse(text: &str) -> Option<Self> {
        let (text, weak) = match text.strip_prefix("W/") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let text = text.strip_prefix('"')?.strip_suffix('"')?;
        let (text, form) = match text.strip_suffix(RAW) {
            Some(text) => (text, Form::Raw),
            None => (text, Form::Json),
        };
        let tag = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        Some(Self { tag, form, weak })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        fixture,
        secret::{SecretField, SecretName, SecretValue},
    };

    fn name(text: &str) -> SecretName {
        let plain = crate::secret::NameEncoding::Plain;
        crate::backends::memory::MemoryBackend::GRAMMAR.canonical(text, plain).expect("valid")
    }

    fn record(version: &str, value: &str) -> SecretRecord {
        SecretRecord { value: SecretValue::new(value), version: version.into(), created_at: None }
    }

    #[test]
    fn a_tag_is_of_one_state_and_one_form_of_one_secret() {
        let keys = GrantKeys::random(Duration::from_secs(1)).expect("random bytes");
        let secret = SecretRef::latest(fixture::local(), name("prod/key"));
        let field = SecretField::parse("a").ok();
        let others = [
            entity_tag(&keys, &secret, &record("1", "v"), Form::Raw),
            entity_tag(&keys, &secret, &record("2", "v"), Form::Json),
            entity_tag(&keys, &secret, &record("1", "w"), Form::Json),
            entity_tag(
                &keys,
                &SecretRef { field, ..secret.clone() },
                &record("1", "v"),
                Form::Json,
            ),
            entity_tag(
                &keys,
                &SecretRef::latest(fixture::local(), name("prod/other")),
                &record("1", "v"),
                Form::Json,
            ),
            entity_tag(
                &GrantKeys::random(Duration::from_secs(1)).expect("random bytes"),
                &secret,
                &record("1", "v"),
                Form::Json,
            ),
        ];
        let tag = entity_tag(&keys, &secret, &record("1", "v"), Form::Json);
        assert!(others.iter().all(|other| *other != tag), "{others:?}");
        assert_eq!(entity_tag(&keys, &secret, &record("1", "v"), Form::Json), tag);

        let asked = |name: HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            Preconditions::of(&headers)
        };
        let tag = tag.to_str().expect("text");
        let weak = format!("W/{tag}");
        let many = format!("\"x\", \"a,b\" ,{tag}");
        let raw = others[0].to_str().expect("text");
        for (value, read, has, write) in [
            (tag, true, true, true),
            (&many, true, true, true),
            ("*", true, true, true),
            (&weak, false, true, false),
            (raw, false, false, true),
            ("\"x\"", false, false, false),
            ("", false, false, false),
            (tag.trim_matches('"'), false, false, false),
        ] {
            let (record, form) = (record("1", "v"), Form::Json);
            let matching = asked(header::IF_MATCH, value);
            assert_eq!(matching.allow_read(&keys, &secret, &record, form), read, "{value}");
            let none_matching = asked(header::IF_NONE_MATCH, value);
            assert_eq!(none_matching.has(&keys, &secret, &record, form), has, "{value}");
            let keys = Arc::new(GrantKeys::random(Duration::from_secs(1)).expect("random bytes"));
            let own = entity_tag(&keys, &secret, &record, Form::Json);
            let value = value.replace(tag, own.to_str().expect("text"));
            let own_raw = entity_tag(&keys, &secret, &record, Form::Raw);
            let value = value.replace(raw, own_raw.to_str().expect("text"));
            let condition = asked(header::IF_MATCH, &value).of_write(&keys, &secret);
            let holds = condition.is_none_or(|holds| holds(&record));
            assert_eq!(holds, write, "{value}");
        }
        assert!(asked(header::ACCEPT, "x").of_write(&Arc::new(keys), &secret).is_none());
    }

    #[test]
    fn how_a_value_was_had_is_told_as_in_rfc_9211() {
        let (zero, second) = (Duration::ZERO, Duration::from_millis(1500));
        let fresh = Freshness { age: second, left: Duration::from_secs(58), late: zero };
        let stale = Freshness { age: Duration::from_secs(61), left: zero, late: second };
        for (origin, age, status) in [
            (Origin::Cache(fresh), "1", "vaultmux-mesh; hit; ttl=58"),
            (Origin::Cache(stale), "61", "vaultmux-mesh; hit; ttl=-2"),
            (Origin::Spare(stale), "61", "vaultmux-mesh; hit; ttl=-2; detail=store-unavailable"),
            (Origin::Store { joined: false, past_cache: false }, "0", "vaultmux-mesh; fwd=miss"),
            (
                Origin::Store { joined: true, past_cache: false },
                "0",
                "vaultmux-mesh; fwd=miss; collapsed",
            ),
            (Origin::Store { joined: false, past_cache: true }, "0", "vaultmux-mesh; fwd=request"),
        ] {
            let (found_age, found) = cache_headers(origin);
            assert_eq!(found_age, age);
            assert_eq!(found, status);
        }
    }
}
