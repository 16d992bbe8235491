//! Signers of injections, in the configuration.

use std::{collections::BTreeMap, path::PathBuf};

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{schema, value::Context},
    injection::{InvalidInjection, Template, is_fixed},
    secret::Catalog,
    signing::{
        ClientAuthentication, Digest, Encoding, Endpoint, GitHubApp, Hmac, KeyEncoding, Message,
        OAuth2, Timestamp, TokenScheme,
    },
};

const GITHUB: &str = "https://api.github.com";

/// A keyed hash over parts of the request, in a header.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Hmac", extend("dependencies" = {"timestamp_header": ["timestamp"]}))]
pub(super) struct HmacFile {
    /// The key: one reference alone.
    #[schemars(with = "schema::OneReference")]
    key: String,
    /// What the secret's bytes are; `raw` by default.
    #[serde(default)]
    key_encoding: KeyEncodingFile,
    /// Which hash; `sha256` by default.
    #[serde(default)]
    algorithm: DigestFile,
    /// What is signed: text with `{method}`, `{host}`, `{target}`, `{path}`, `{query}`,
    /// `{timestamp}`, `{body}`, `{body_sha256}` and `{header:<name>}` in it.
    #[schemars(with = "schema::SignedMessage")]
    message: String,
    /// The header with the signature.
    #[schemars(with = "schema::HeaderName", extend("not" = schema::fixed_headers()))]
    header: String,
    /// What stands before the signature, as in `sha256=`.
    #[serde(default)]
    #[schemars(with = "Option<schema::SomeText>")]
    prefix: Option<String>,
    /// How the signature is written; `hex` by default.
    #[serde(default)]
    encoding: EncodingFile,
    /// How `{timestamp}` is written; `unix` by default.
    timestamp: Option<TimestampFile>,
    /// The header that tells the time that was signed.
    #[schemars(with = "Option<schema::HeaderName>", extend("not" = schema::fixed_headers()))]
    timestamp_header: Option<String>,
}

#[derive(Deserialize, Clone, Copy, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum KeyEncodingFile {
    /// The key itself.
    #[default]
    Raw,
    /// Its base64.
    Base64,
    /// Its hexadecimal digits.
    Hex,
}

#[derive(Deserialize, Clone, Copy, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum DigestFile {
    /// HMAC-SHA-256.
    #[default]
    Sha256,
    /// HMAC-SHA-512.
    Sha512,
}

#[derive(Deserialize, Clone, Copy, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum EncodingFile {
    /// Small hexadecimal digits.
    #[default]
    Hex,
    /// Base64 with padding.
    Base64,
    /// Base64 for URLs, without padding.
    Base64url,
}

#[derive(Deserialize, Clone, Copy, Default, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum TimestampFile {
    /// Seconds since 1970.
    #[default]
    Unix,
    /// Milliseconds since 1970.
    UnixMs,
    /// As in `2026-01-31T12:00:00Z`.
    Rfc3339,
}

/// AWS Signature Version 4 in place of the client's own, which it makes with keys of no
/// value. What it signed for stays: service, region, headers and the hash of the body.
#[cfg(feature = "aws")]
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SigV4")]
pub(super) struct SigV4File {
    /// The id of the access key: text with or without references in it.
    #[schemars(with = "schema::SomeText")]
    access_key_id: String,
    /// The access key: one reference alone.
    #[schemars(with = "schema::OneReference")]
    secret_access_key: String,
    /// The session token of temporary credentials: one reference alone.
    #[schemars(with = "Option<schema::OneReference>")]
    session_token: Option<String>,
    /// Regions that may be signed for, as `us-east-1`.
    #[schemars(with = "crate::json_schema::shape::NonEmpty<schema::AwsRegion>")]
    regions: Vec<String>,
    /// Services that may be signed for, as in credentials: `s3`, `dynamodb`.
    #[schemars(with = "crate::json_schema::shape::NonEmpty<schema::AwsRegion>")]
    services: Vec<String>,
}

/// A token by the client credentials grant of OAuth 2.0.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "OAuth2")]
pub(super) struct OAuth2File {
    /// The token endpoint; `https`, or `http` on this machine.
    #[schemars(with = "schema::IssuerUrl")]
    token_url: String,
    /// PEM certificates to trust in place of the system's.
    ca_file: Option<PathBuf>,
    /// Who asks: text with or without references in it.
    #[schemars(with = "schema::SomeText")]
    client_id: String,
    /// What proves it: one reference alone.
    #[schemars(with = "schema::OneReference")]
    client_secret: String,
    /// Where both stand; `basic` by default.
    #[serde(default)]
    client_authentication: AuthenticationFile,
    /// Scopes, separated by spaces.
    #[schemars(with = "Option<schema::SomeText>")]
    scope: Option<String>,
    /// Whom the token is for, as some issuers call it.
    #[schemars(with = "Option<schema::SomeText>")]
    audience: Option<String>,
    /// Whom the token is for, as in RFC 8707.
    #[schemars(with = "Option<schema::SomeText>")]
    resource: Option<String>,
    /// The header with the token; `authorization` by default.
    #[schemars(with = "Option<schema::HeaderName>", extend("not" = schema::fixed_headers()))]
    header: Option<String>,
}

#[derive(Deserialize, Clone, Copy, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum AuthenticationFile {
    /// In the header (`client_secret_basic`).
    #[default]
    Basic,
    /// In the form (`client_secret_post`).
    Post,
}

/// A GitHub App's token.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "GitHubApp",
    extend("dependencies" = {
        "repositories": ["installation_id"], "permissions": ["installation_id"],
    })
)]
pub(super) struct GitHubAppFile {
    /// The app's id or its client id.
    #[schemars(with = "schema::SomeText")]
    app_id: String,
    /// The private key that GitHub gave, in PEM: one reference alone.
    #[schemars(with = "schema::OneReference")]
    private_key: String,
    /// Where the app is installed; without it requests carry the app's own token.
    installation_id: Option<u64>,
    /// Only these of the installation's repositories, by name without owner.
    #[serde(default)]
    #[schemars(with = "Vec<schema::SomeText>")]
    repositories: Vec<String>,
    /// Only these of the installation's permissions, as in `contents: read`.
    #[serde(default)]
    permissions: BTreeMap<String, PermissionFile>,
    /// The API; `https://api.github.com` by default.
    #[schemars(with = "Option<schema::IssuerUrl>")]
    api_url: Option<String>,
    /// PEM certificates to trust in place of the system's.
    ca_file: Option<PathBuf>,
    /// How the token stands in `Authorization`; `bearer` by default.
    #[serde(default)]
    scheme: SchemeFile,
}

#[derive(Deserialize, Clone, Copy, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum PermissionFile {
    Read,
    Write,
    Admin,
}

#[derive(Deserialize, Clone, Copy, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum SchemeFile {
    /// For the API.
    #[default]
    Bearer,
    /// As the password of `x-access-token`, for Git over HTTPS.
    Basic,
}

fn template(key: &str, text: &str, catalog: &Catalog) -> Result<Template, String> {
    let template = Template::parse(text, catalog);
    let template = template.map_err(|error| format!("{key}: {error}"))?;
    match template.parts().is_empty() {
        true => Err(format!("{key}: cannot be empty")),
        false => Ok(template),
    }
}

/// Parts of a secret around it would not be the secret.
fn reference(key: &str, text: &str, catalog: &Catalog) -> Result<Template, String> {
    let template = template(key, text, catalog)?;
    match (template.references().count(), template.parts().len()) {
        (1, 1) => Ok(template),
        (0, _) => Err(format!("{key}: {}", InvalidInjection::NoReference)),
        _ => Err(format!("{key}: must be one reference alone")),
    }
}

fn header(key: &str, name: &str) -> Result<HeaderName, String> {
    let header = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{key}: {name:?} is not a header name"))?;
    if is_fixed(header.as_str()) {
        return Err(format!("{key}: {header} cannot be set by ext_proc"));
    }
    if header.as_str().starts_with("x-vaultmux-") {
        return Err(format!("{key}: {header} is the service's own"));
    }
    Ok(header)
}

/// Text that a header or a form can hold.
fn text(key: &str, text: Option<String>) -> Result<Option<String>, String> {
    match text {
        Some(text) if text.is_empty() || text.contains(char::is_control) => {
            Err(format!("{key}: must be text without control characters"))
        }
        text => Ok(text),
    }
}

fn endpoint(
    key: &str,
    address: &str,
    ca_file: Option<PathBuf>,
    context: &Context<'_>,
) -> Result<Endpoint, String> {
    let ca_file = ca_file.map(|path| context.resolve(path));
    Endpoint::parse(address, ca_file).map_err(|error| format!("{key}: {address:?} {error}"))
}

// === impl HmacFile ===

impl HmacFile {
    pub(super) fn check(self, catalog: &Catalog) -> Result<Hmac, String> {
        let message =
            Message::parse(&self.message).map_err(|error| format!("hmac.message: {error}"))?;
        if !message.has_timestamp() && (self.timestamp.is_some() || self.timestamp_header.is_some())
        {
            return Err("hmac.timestamp: the message has no {timestamp}".to_owned());
        }
        let form = match self.timestamp.unwrap_or_default() {
            TimestampFile::Unix => Timestamp::Seconds,
            TimestampFile::UnixMs => Timestamp::Milliseconds,
            TimestampFile::Rfc3339 => Timestamp::Rfc3339,
        };
        let told = self.timestamp_header.map(|name| header("hmac.timestamp_header", &name));
        let (signature, told) = (header("hmac.header", &self.header)?, told.transpose()?);
        if told.as_ref() == Some(&signature) {
            return Err(format!("hmac.timestamp_header: {signature} is the signature's"));
        }
        Ok(Hmac {
            key: reference("hmac.key", &self.key, catalog)?,
            key_encoding: match self.key_encoding {
                KeyEncodingFile::Raw => KeyEncoding::Raw,
                KeyEncodingFile::Base64 => KeyEncoding::Base64,
                KeyEncodingFile::Hex => KeyEncoding::Hex,
            },
            digest: match self.algorithm {
                DigestFile::Sha256 => Digest::Sha256,
                DigestFile::Sha512 => Digest::Sha512,
            },
            timestamp: message.has_timestamp().then_some((form, told)),
            message,
            header: signature,
            prefix: text("hmac.prefix", self.prefix)?.unwrap_or_default(),
            encoding: match self.encoding {
                EncodingFile::Hex => Encoding::Hex,
                EncodingFile::Base64 => Encoding::Base64,
                EncodingFile::Base64url => Encoding::Base64Url,
            },
        })
    }
}

// === impl SigV4File ===

#[cfg(feature = "aws")]
impl SigV4File {
    pub(super) fn check(self, catalog: &Catalog) -> Result<crate::signing::SigV4, String> {
        for (key, names) in [("regions", &self.regions), ("services", &self.services)] {
            let valid = |name: &String| {
                let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
                (1..=63).contains(&name.len()) && name.bytes().all(inner)
            };
            if names.is_empty() {
                return Err(format!("sigv4.{key}: cannot be empty"));
            }
            if let Some(name) = names.iter().find(|name| !valid(name)) {
                return Err(format!("sigv4.{key}: {name:?} is none"));
            }
        }
        let token = self.session_token;
        let token = token.map(|token| reference("sigv4.session_token", &token, catalog));
        Ok(crate::signing::SigV4 {
            access_key_id: template("sigv4.access_key_id", &self.access_key_id, catalog)?,
            secret_access_key: reference(
                "sigv4.secret_access_key",
                &self.secret_access_key,
                catalog,
            )?,
            session_token: token.transpose()?,
            regions: self.regions,
            services: self.services,
        })
    }
}

// === impl OAuth2File ===

impl OAuth2File {
    pub(super) fn check(self, catalog: &Catalog, context: &Context<'_>) -> Result<OAuth2, String> {
        let name = self.header.as_deref().unwrap_or("authorization");
        Ok(OAuth2 {
            endpoint: endpoint("oauth2.token_url", &self.token_url, self.ca_file, context)?,
            client_id: template("oauth2.client_id", &self.client_id, catalog)?,
            client_secret: reference("oauth2.client_secret", &self.client_secret, catalog)?,
            authentication: match self.client_authentication {
                AuthenticationFile::Basic => ClientAuthentication::Basic,
                AuthenticationFile::Post => ClientAuthentication::Post,
            },
            scope: text("oauth2.scope", self.scope)?,
            audience: text("oauth2.audience", self.audience)?,
            resource: text("oauth2.resource", self.resource)?,
            header: header("oauth2.header", name)?,
        })
    }
}

// === impl GitHubAppFile ===

impl GitHubAppFile {
    pub(super) fn check(
        self,
        catalog: &Catalog,
        context: &Context<'_>,
    ) -> Result<GitHubApp, String> {
        let narrowed = !self.repositories.is_empty() || !self.permissions.is_empty();
        if narrowed && self.installation_id.is_none() {
            return Err("github_app.installation_id: repositories and permissions are of an \
                        installation"
                .to_owned());
        }
        let address = self.api_url.as_deref().unwrap_or(GITHUB);
        let level = |level| match level {
            PermissionFile::Read => "read".to_owned(),
            PermissionFile::Write => "write".to_owned(),
            PermissionFile::Admin => "admin".to_owned(),
        };
        let permissions = self.permissions.into_iter();
        Ok(GitHubApp {
            api: endpoint("github_app.api_url", address, self.ca_file, context)?,
            app_id: text("github_app.app_id", Some(self.app_id))?.unwrap_or_default(),
            private_key: reference("github_app.private_key", &self.private_key, catalog)?,
            installation_id: self.installation_id,
            repositories: self.repositories,
            permissions: permissions.map(|(name, is)| (name, level(is))).collect(),
            scheme: match self.scheme {
                SchemeFile::Bearer => TokenScheme::Bearer,
                SchemeFile::Basic => TokenScheme::Basic,
            },
        })
    }
}
