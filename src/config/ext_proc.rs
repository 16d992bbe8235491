//! How `ext_proc` behaves, and what it injects.

mod signing;

use std::time::Duration;

use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

#[cfg(feature = "aws")]
use self::signing::SigV4File;
use self::signing::{GitHubAppFile, HmacFile, OAuth2File};
use super::{
    error::{ConfigError, line},
    schema,
    value::{Context, Period},
};
use crate::{
    injection::{InjectedValue, Injection, InjectionMatch, InvalidInjection, Template, is_fixed},
    secret::Catalog,
    signing::Signer,
};

/// How `ext_proc` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtProcConfig {
    /// How long a header phase may wait for secrets. Keep it below Envoy's
    /// `message_timeout` (200 ms unless set): after that Envoy answers 504 itself.
    pub message_budget: Duration,
    /// Whether to switch off phases that have no work.
    pub mode_override: bool,
}

/// How `ext_proc` behaves, and what it injects.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ExtProc")]
pub(super) struct ExtProcFile {
    /// How long a header phase may wait for secrets; `150ms` by default. Keep it below Envoy's
    /// `message_timeout` (200 ms unless set): after that Envoy answers 504 itself.
    #[schemars(with = "Option<schema::LongerThanZero>")]
    message_budget: Option<Spanned<Period>>,
    /// Whether to switch off phases that have no work; true by default. Needs Envoy's
    /// `allow_mode_override`.
    mode_override: Option<bool>,
    /// Secrets that are put into requests without a reference. A rule grants nothing: the
    /// caller still needs a policy with `use`.
    #[schemars(with = "Vec<InjectionFile>")]
    injections: Vec<Spanned<InjectionFile>>,
}

/// A rule that injects. Needs something to set: headers, or what signs the request.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "Injection",
    // Without `match` there would be no destination, which is refused.
    extend(
        "required" = ["name", "match"],
        "anyOf" = schema::any_of(&INJECTED)
    )
)]
struct InjectionFile {
    /// Names the rule in logs; no two have one name.
    name: String,
    /// Which requests it is for.
    #[serde(default)]
    r#match: MatchFile,
    /// Headers to set, in place of what the client sent.
    #[serde(default)]
    set_headers: Vec<HeaderFile>,
    /// An `authorization` header with a user and a password.
    basic: Option<BasicFile>,
    /// A keyed hash over the request.
    hmac: Option<HmacFile>,
    /// A signature for AWS, in place of the client's own.
    #[cfg(feature = "aws")]
    sigv4: Option<SigV4File>,
    /// A token by OAuth 2.0 client credentials.
    oauth2: Option<OAuth2File>,
    /// A GitHub App's token.
    github_app: Option<GitHubAppFile>,
}

/// What a rule can set, by its key.
#[cfg(feature = "aws")]
const INJECTED: [&str; 6] = ["set_headers", "basic", "hmac", "sigv4", "oauth2", "github_app"];
#[cfg(not(feature = "aws"))]
const INJECTED: [&str; 5] = ["set_headers", "basic", "hmac", "oauth2", "github_app"];

/// Requests: all given fields must hold, and of a field any entry. Needs `hosts` or `clusters`.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Match", extend("anyOf" = schema::any_of(&["hosts", "clusters"])))]
struct MatchFile {
    /// Hosts of the request, without port.
    #[schemars(with = "Vec<schema::Host>")]
    hosts: Vec<String>,
    /// Clusters that Envoy routes to, as it names them.
    clusters: Vec<String>,
    /// Paths without query; with a slash at its end one is a prefix, without it is exact.
    #[schemars(with = "Vec<schema::Path>")]
    paths: Vec<String>,
    /// Methods.
    #[schemars(with = "Vec<schema::Method>")]
    methods: Vec<String>,
}

/// A header to set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Header")]
struct HeaderFile {
    /// Name of the header. Not `host`, those of the message's length, Envoy's nor the
    /// service's own.
    #[schemars(with = "schema::HeaderName", extend("not" = schema::fixed_headers()))]
    name: String,
    /// Text with references in it, as in `Bearer {{secret://aws-prod/shared/stripe#key}}`.
    #[schemars(with = "schema::WithReference")]
    value: String,
}

/// User and password, at least one of them a reference.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Basic", extend("anyOf" = schema::a_reference(&["username", "password"])))]
struct BasicFile {
    /// The user: text with or without references in it.
    username: String,
    /// The password: text with or without references in it.
    password: String,
}

// === impl ExtProcFile ===

impl ExtProcFile {
    pub(super) fn check(
        self,
        catalog: &Catalog,
        context: &Context<'_>,
    ) -> Result<(ExtProcConfig, Vec<Injection>), ConfigError> {
        let message_budget = match self.message_budget {
            None => Duration::from_millis(150),
            Some(budget) if budget.value.0.is_zero() => {
                let (at, key) = (line(&budget), "ext_proc.message_budget");
                return Err(ConfigError::key(context.path, at, key, "must be longer than 0"));
            }
            Some(budget) => budget.value.0,
        };
        let config =
            ExtProcConfig { message_budget, mode_override: self.mode_override.unwrap_or(true) };
        let mut injections: Vec<Injection> = Vec::new();
        for file in self.injections {
            let at = line(&file);
            let name = file.value.name.clone();
            let key = format!("ext_proc.injections.{name}");
            let refuse = |message: String| ConfigError::key(context.path, at, &key, message);
            if injections.iter().any(|seen| seen.name == name) {
                return Err(refuse("another injection has this name".to_owned()));
            }
            injections.push(injection(file.value, catalog, context).map_err(refuse)?);
        }
        Ok((config, injections))
    }
}

fn injection(
    file: InjectionFile,
    catalog: &Catalog,
    context: &Context<'_>,
) -> Result<Injection, String> {
    let text = |error: InvalidInjection| error.to_string();
    let MatchFile { hosts, clusters, paths, methods } = file.r#match;
    if hosts.is_empty() && clusters.is_empty() {
        return Err("match needs hosts or clusters: a rule for every destination is none".into());
    }
    for path in &paths {
        if crate::policy::canonical_path(path) != Ok(path.as_str()) {
            return Err(format!("match.paths: {path:?} is not a canonical path"));
        }
    }
    let method = |method: String| {
        Method::from_bytes(method.as_bytes())
            .map_err(|_| format!("match.methods: {method:?} is not a method"))
    };
    let matcher = InjectionMatch {
        hosts: InjectionMatch::canonical_hosts(&hosts).map_err(text)?,
        clusters,
        paths,
        methods: methods.into_iter().map(method).collect::<Result<_, _>>()?,
    };
    let mut headers = Vec::new();
    for header in file.set_headers {
        let name = HeaderName::from_bytes(header.name.as_bytes())
            .map_err(|_| format!("set_headers: {:?} is not a header name", header.name))?;
        if is_fixed(name.as_str()) {
            return Err(format!("set_headers: {name} cannot be set by ext_proc"));
        }
        if name.as_str().starts_with("x-vaultmux-") {
            return Err(format!("set_headers: {name} is the service's own"));
        }
        let value = Template::parse(&header.value, catalog)
            .map_err(|error| format!("set_headers.{name}: {error}"))?;
        headers.push((name, InjectedValue::Text(value)));
    }
    if let Some(basic) = file.basic {
        let username = Template::parse(&basic.username, catalog).map_err(text)?;
        let password = Template::parse(&basic.password, catalog).map_err(text)?;
        headers.push((http::header::AUTHORIZATION, InjectedValue::Basic { username, password }));
    }
    let mut signers = Vec::new();
    if let Some(hmac) = file.hmac {
        signers.push(Signer::Hmac(hmac.check(catalog)?));
    }
    #[cfg(feature = "aws")]
    if let Some(sigv4) = file.sigv4 {
        signers.push(Signer::SigV4(sigv4.check(catalog)?));
    }
    if let Some(oauth2) = file.oauth2 {
        signers.push(Signer::OAuth2(oauth2.check(catalog, context)?));
    }
    if let Some(app) = file.github_app {
        signers.push(Signer::GitHubApp(app.check(catalog, context)?));
    }
    if headers.is_empty() && signers.is_empty() {
        let (last, others) = INJECTED.split_last().ok_or("nothing can be injected")?;
        let others = others.join(", ");
        return Err(format!("{others} or {last} is needed: the rule injects nothing"));
    }
    for (at, (name, value)) in headers.iter().enumerate() {
        if value.references().next().is_none() {
            return Err(format!("{name}: {}", InvalidInjection::NoReference));
        }
        if headers[..at].iter().any(|(seen, _)| seen == name) {
            return Err(format!("{name} is set twice"));
        }
    }
    let mut set: Vec<_> = headers.iter().map(|(name, _)| name.clone()).collect();
    for name in signers.iter().flat_map(Signer::headers) {
        if set.contains(&name) {
            return Err(format!("{name} is set twice"));
        }
        set.push(name);
    }
    Ok(Injection { name: file.name, matcher, headers, signers })
}
