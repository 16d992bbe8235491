//! AWS Signature Version 4, in place of a signature that the client made with keys of no
//! value: what it signed for is kept, who signed is replaced.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
        SigningParams, SigningSettings, UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use http::HeaderName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use super::{Body, Signed, SigningError, Unsigned, Values, fill::fill};
use crate::{injection::Template, operation::split_query, secret::SecretValue};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const CONTENT: &str = "x-amz-content-sha256";
const TOKEN: &str = "x-amz-security-token";
/// The headers that signing sets.
pub(super) const HEADERS: [&str; 4] = ["authorization", "x-amz-date", CONTENT, TOKEN];
/// Signed by some clients, and changed on the way.
const NOT_SIGNED: [&str; 12] = [
    "authorization",
    "connection",
    "expect",
    "host",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-amz-date",
    "x-amz-security-token",
    "x-amzn-trace-id",
];
/// What AWS encodes in a query.
const QUERY: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The longest that AWS lets a URL be valid.
const MAX_EXPIRES: u64 = 7 * 24 * 3600;

/// How to sign for AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigV4 {
    /// Whose key.
    pub access_key_id: Template,
    /// The key.
    pub secret_access_key: Template,
    /// For temporary credentials.
    pub session_token: Option<Template>,
    /// Regions that may be signed for.
    pub regions: Vec<String>,
    /// Services that may be signed for.
    pub services: Vec<String>,
}

/// What the client signed.
struct Scope<'a> {
    region: String,
    service: String,
    headers: Vec<String>,
    /// The rest of the query and how long the URL is to be valid, if that is signed.
    presigned: Option<(Vec<&'a str>, Duration)>,
}

// === impl SigV4 ===

impl SigV4 {
    /// Whether the request tells no hash of its body, so that it has to be seen.
    pub(super) fn covers_body(request: &Unsigned<'_>) -> bool {
        let presigned = Scope::of_query(request.target).is_ok_and(|scope| scope.is_some());
        !presigned && request.values(CONTENT).next().is_none()
    }

    pub(super) fn sign(
        &self,
        request: &Unsigned<'_>,
        values: Values<'_>,
    ) -> Result<Signed, SigningError> {
        let scope = match Scope::of_query(request.target)? {
            Some(scope) => scope,
            None => Scope::of_header(request)?,
        };
        if !self.regions.contains(&scope.region) || !self.services.contains(&scope.service) {
            return Err(SigningError::Scope);
        }
        let s3 = matches!(&*scope.service, "s3" | "s3-object-lambda" | "s3-outposts");
        let body = body(request, scope.presigned.is_some(), s3)?;
        let mut settings = SigningSettings::default();
        if s3 {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        let mut target = request.target.to_owned();
        match &scope.presigned {
            Some((query, expires)) => {
                settings.signature_location = SignatureLocation::QueryParams;
                settings.expires_in = Some(*expires);
                target = join(split_query(&target).0, query);
            }
            None if s3 || request.values(CONTENT).next().is_some() => {
                settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            }
            None => {}
        }
        let mut headers = vec![("host", request.authority)];
        for name in &scope.headers {
            let before = headers.len();
            for value in request.values(name) {
                let text = std::str::from_utf8(value).map_err(|_| SigningError::Malformed)?;
                headers.push((name, text));
            }
            if headers.len() == before {
                return Err(SigningError::MissingHeader);
            }
        }
        let credentials = self.credentials(values)?;
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&scope.region)
            .name(&scope.service)
            .time(request.now)
            .settings(settings)
            .build();
        let params = SigningParams::from(params.map_err(|_| SigningError::Internal)?);
        let uri = format!("https://{}{target}", request.authority);
        let signable = SignableRequest::new(request.method, uri, headers.into_iter(), body);
        let signable = signable.map_err(|_| SigningError::Malformed)?;
        let signed = sign(signable, &params).map_err(|_| SigningError::Malformed)?;
        let (headers, query) = signed.into_parts().0.into_parts();
        let headers = headers.into_iter().map(|header| {
            (HeaderName::from_static(header.name()), SecretValue::new(header.value()))
        });
        let headers: Vec<_> = headers.collect();
        let kept = |name: &str| headers.iter().any(|(set, _)| set == name);
        let removed = match scope.presigned {
            // What the client sent beside the query would be a second signature.
            Some(_) => vec!["authorization", "x-amz-date", TOKEN],
            None => [TOKEN].into_iter().filter(|name| !kept(name)).collect(),
        };
        let target = scope.presigned.map(|(mut pieces, _)| {
            let query: Vec<_> = query
                .iter()
                .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, &QUERY)))
                .collect();
            pieces.extend(query.iter().map(String::as_str));
            Zeroizing::new(join(split_query(request.target).0, &pieces))
        });
        Ok(Signed { headers, removed, target, issued: None })
    }

    fn credentials(&self, values: Values<'_>) -> Result<Credentials, SigningError> {
        let id = fill(&self.access_key_id, values)?;
        let secret = fill(&self.secret_access_key, values)?;
        let token = self.session_token.as_ref().map(|token| fill(token, values)).transpose()?;
        let token = token.map(|token| token.as_str().to_owned());
        Ok(Credentials::new(id.as_str(), secret.as_str(), token, None, "vaultmux-mesh"))
    }
}

/// What is signed of the body.
fn body<'r>(
    request: &Unsigned<'r>,
    presigned: bool,
    s3: bool,
) -> Result<SignableBody<'r>, SigningError> {
    if presigned && s3 {
        return Ok(SignableBody::UnsignedPayload);
    }
    match request.value(CONTENT)? {
        Some("UNSIGNED-PAYLOAD") => Ok(SignableBody::UnsignedPayload),
        Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER") => {
            Ok(SignableBody::StreamingUnsignedPayloadTrailer)
        }
        Some(other) if other.starts_with("STREAMING-") => Err(SigningError::ChunkSigned),
        Some(hash) if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(SignableBody::Precomputed(hash.to_ascii_lowercase()))
        }
        Some(_) => Err(SigningError::Malformed),
        None => match request.body {
            Body::Whole(body) => Ok(SignableBody::Bytes(body)),
            Body::Unseen => Err(SigningError::BodyUnseen),
        },
    }
}

fn join(path: &str, query: &[&str]) -> String {
    match query {
        [] => path.to_owned(),
        _ => format!("{path}?{}", query.join("&")),
    }
}

// === impl Scope ===

impl<'a> Scope<'a> {
    /// Reads `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.
    fn of_header(request: &Unsigned<'_>) -> Result<Self, SigningError> {
        let value = request.value("authorization")?.ok_or(SigningError::Unsigned)?;
        let fields = value.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(' '));
        let fields = fields.ok_or(SigningError::Unsigned)?;
        let (mut credential, mut headers) = (None, None);
        for field in fields.split(',') {
            let (name, value) = field.trim().split_once('=').ok_or(SigningError::Malformed)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => continue,
                _ => return Err(SigningError::Malformed),
            };
            if slot.replace(value).is_some() {
                return Err(SigningError::Malformed);
            }
        }
        Self::parse(credential, headers, None)
    }

    /// Reads `X-Amz-…` of a query, if it is signed.
    fn of_query(target: &'a str) -> Result<Option<Self>, SigningError> {
        let query = split_query(target).1.unwrap_or_default();
        let (mut credential, mut headers, mut expires) = (None, None, None);
        let (mut signed, mut rest) = (false, Vec::new());
        for piece in query.split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let slot = match name {
                "X-Amz-Algorithm" => {
                    signed = true;
                    if value != ALGORITHM {
                        return Err(SigningError::Unsigned);
                    }
                    continue;
                }
                "X-Amz-Credential" => &mut credential,
                "X-Amz-SignedHeaders" => &mut headers,
                "X-Amz-Expires" => &mut expires,
                "X-Amz-Date" | "X-Amz-Signature" | "X-Amz-Security-Token" => continue,
                _ => {
                    rest.push(piece);
                    continue;
                }
            };
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| SigningError::Malformed)?.into_owned();
            if slot.replace(value).is_some() {
                return Err(SigningError::Malformed);
            }
        }
        if !signed {
            return Ok(None);
        }
        let expires = expires.and_then(|seconds| seconds.parse().ok());
        let expires = expires.filter(|seconds| (1..=MAX_EXPIRES).contains(seconds));
        let expires = Duration::from_secs(expires.ok_or(SigningError::Malformed)?);
        let (credential, headers) = (credential.as_deref(), headers.as_deref());
        Self::parse(credential, headers, Some((rest, expires))).map(Some)
    }

    /// Key id, date, region, service and `aws4_request`; the id may have slashes.
    fn parse(
        credential: Option<&str>,
        headers: Option<&str>,
        presigned: Option<(Vec<&'a str>, Duration)>,
    ) -> Result<Self, SigningError> {
        let credential = credential.ok_or(SigningError::Malformed)?;
        let mut parts = credential.rsplitn(5, '/');
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let (Some("aws4_request"), Some(service), Some(region), Some(_), Some(_)) =
            (part(), part(), part(), part(), part())
        else {
            return Err(SigningError::Malformed);
        };
        let headers = headers.ok_or(SigningError::Malformed)?.split(';');
        let headers = headers.map(str::to_ascii_lowercase).filter(|name| !name.is_empty());
        let headers = headers
            .filter(|name| !NOT_SIGNED.contains(&&**name) && name != CONTENT)
            .filter(|name| !name.starts_with("x-envoy-") && !name.starts_with("x-forwarded-"));
        let (region, service) = (region.to_owned(), service.to_owned());
        Ok(Self { region, service, headers: headers.collect(), presigned })
    }
}
