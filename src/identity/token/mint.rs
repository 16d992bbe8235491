//! Service-account tokens for tests, good ones and forged ones, and their keys.
//!
//! `tests/it` includes this file too, by path: it names nothing of the crate. Tokens
//! are signed here by hand, not by the library that verifies them.

#![allow(dead_code, reason = "each of its users takes a part")]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Who issues the tokens.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Whom they are for.
pub(crate) const AUDIENCE: &str = "vaultmux";
/// Whose they are, unless told otherwise.
pub(crate) const ACCOUNT: &str = "prod/api";
/// UID of every service account.
pub(crate) const ACCOUNT_UID: &str = "f4c4ad37-1d6c-4c5c-9f3c-0d6f0f6f1a01";
/// The pod that tokens are bound to.
pub(crate) const POD: &str = "api-7d9c5b8f6-x2x7k";
/// Its UID.
pub(crate) const POD_UID: &str = "0b6f3c5e-5a52-4f0e-8f0f-3f1f5f8f2b02";
/// The node that the pod is on.
pub(crate) const NODE: &str = "node-a";

/// A cluster that signs tokens with one key.
#[derive(Clone)]
pub(crate) struct Mint {
    id: String,
    key: Arc<Key>,
}

enum Key {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A key set as the API server serves it.
pub(crate) fn jwks<'m>(mints: impl IntoIterator<Item = &'m Mint>) -> String {
    json!({"keys": mints.into_iter().map(Mint::jwk).collect::<Vec<_>>()}).to_string()
}

/// The claims of a good token, as a cluster of today makes it; each has another `jti`.
pub(crate) fn claims(account: &str) -> Value {
    static TOKENS: AtomicU64 = AtomicU64::new(0);
    let (namespace, name) = account.split_once('/').expect("namespace/name");
    let id = TOKENS.fetch_add(1, Ordering::Relaxed);
    json!({
        "aud": [AUDIENCE],
        "exp": now() + 3600,
        "iat": now(),
        "iss": ISSUER,
        "jti": format!("5d0b6ad5-5a52-4f0e-8f0f-{id:012x}"),
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": NODE, "uid": "9f5b8c1e-62c1-4a55-a9c5-5f0f6f1a0303"},
            "pod": {"name": POD, "uid": POD_UID},
            "serviceaccount": {"name": name, "uid": ACCOUNT_UID},
        },
        "nbf": now(),
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

// === impl Mint ===

impl Mint {
    /// Signs with RS256. One id is one key in the whole process: making one takes long.
    pub(crate) fn rsa(id: &str) -> Self {
        let make = || Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key"));
        Self::new("rsa", id, make)
    }

    /// Signs with ES256.
    pub(crate) fn p256(id: &str) -> Self {
        let make = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self::new("p256", id, || Key::P256(make()))
    }

    /// Signs with ES384.
    pub(crate) fn p384(id: &str) -> Self {
        let make = || EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
        Self::new("p384", id, || Key::P384(make()))
    }

    fn new(kind: &'static str, id: &str, make: impl FnOnce() -> Key) -> Self {
        type Made = HashMap<(&'static str, String), Arc<OnceLock<Arc<Key>>>>;
        static MADE: OnceLock<Mutex<Made>> = OnceLock::new();
        let cell = {
            let mut made =
                MADE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(made.entry((kind, id.to_owned())).or_default())
        };
        let key = cell.get_or_init(|| Arc::new(make()));
        Self { id: id.to_owned(), key: Arc::clone(key) }
    }

    /// The same key under another id.
    pub(crate) fn with_id(&self, id: &str) -> Self {
        Self { id: id.to_owned(), key: Arc::clone(&self.key) }
    }

    /// The public key as the API server serves it.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &*self.key {
            Key::Rsa(_) => {
                let key = jsonwebtoken::DecodingKey::from_rsa_der(self.public_key());
                let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(&key, None).expect("RSA key");
                serde_json::to_value(&jwk).expect("JSON")
            }
            Key::P256(_) => self.point("P-256"),
            Key::P384(_) => self.point("P-384"),
        };
        patch(&mut jwk, json!({"use": "sig", "kid": self.id, "alg": self.algorithm()}));
        jwk
    }

    fn point(&self, curve: &str) -> Value {
        // A byte that says how it is encoded, then both coordinates.
        let coordinates = &self.public_key()[1..];
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"kty": "EC", "crv": curve, "x": x, "y": y})
    }

    /// A set with this key alone.
    pub(crate) fn jwks(&self) -> String {
        jwks([self])
    }

    /// A token of [`ACCOUNT`] whose claims are changed by a merge patch: `null`
    /// removes one.
    pub(crate) fn token(&self, changes: Value) -> String {
        self.token_for(ACCOUNT, changes)
    }

    /// A token of `namespace/name`.
    pub(crate) fn token_for(&self, account: &str, changes: Value) -> String {
        self.forge(account, json!({}), changes)
    }

    /// A token whose header is changed too, by a merge patch.
    pub(crate) fn token_with_header(&self, header: Value, changes: Value) -> String {
        self.forge(ACCOUNT, header, changes)
    }

    fn forge(&self, account: &str, header: Value, changes: Value) -> String {
        let mut claims = claims(account);
        patch(&mut claims, changes);
        let mut whole = json!({"alg": self.algorithm(), "kid": self.id});
        patch(&mut whole, header);
        self.sign(&whole.to_string(), &claims.to_string())
    }

    /// Signs any header and any payload, JSON or not, as the header's `alg` says:
    /// `none` leaves the signature empty, an HMAC takes the public key as secret, and
    /// what the key cannot do it does with its own algorithm.
    pub(crate) fn sign(&self, header: &str, payload: &str) -> String {
        let algorithm = serde_json::from_str::<Value>(header).ok();
        let algorithm = algorithm.as_ref().and_then(|header| header["alg"].as_str());
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let bytes = message.as_bytes();
        let random = SystemRandom::new();
        let signature = match (algorithm.unwrap_or_default(), &*self.key) {
            (none, _) if none.eq_ignore_ascii_case("none") => Vec::new(),
            ("HS256", _) => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, self.public_key());
                hmac::sign(&secret, bytes).as_ref().to_vec()
            }
            (algorithm, Key::Rsa(key)) => {
                let padding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, bytes, &mut signature).expect("sign");
                signature
            }
            (_, Key::P256(key) | Key::P384(key)) => {
                key.sign(&random, bytes).expect("sign").as_ref().to_vec()
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn algorithm(&self) -> &'static str {
        match &*self.key {
            Key::Rsa(_) => "RS256",
            Key::P256(_) => "ES256",
            Key::P384(_) => "ES384",
        }
    }

    /// DER of an RSA key, the uncompressed point of an elliptic curve's.
    fn public_key(&self) -> &[u8] {
        match &*self.key {
            Key::Rsa(key) => key.public_key().as_ref(),
            Key::P256(key) | Key::P384(key) => key.public_key().as_ref(),
        }
    }
}

/// Applies a JSON merge patch (RFC 7396).
fn patch(target: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else {
        *target = changes;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, change) in changes {
        match change {
            Value::Null => drop(target.as_object_mut().expect("an object").remove(&key)),
            change => patch(&mut target[key], change),
        }
    }
}
