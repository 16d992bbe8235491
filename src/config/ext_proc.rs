//! How `ext_proc` behaves, and what it injects.

mod signing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    value::{Context, Period, Size},
};
use crate::{
    injection::{
        Alias, InjectedValue, Injection, InjectionMatch, InvalidInjection, Part, Substitution,
        Substitutions, Surface, Surfaces, Template, Upstreams, Violation, is_fixed,
    },
    secret::Catalog,
    signing::Signer,
};

/// A message has room for a little more than this.
const MAX_BODY: u64 = 15 << 20;

/// How `ext_proc` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtProcConfig {
    /// How long a header phase may wait for secrets. Keep it below Envoy's
    /// `message_timeout` (200 ms unless set): after that Envoy answers 504 itself.
    pub message_budget: Duration,
    /// What Envoy's `max_message_timeout` is: once the budget is over, it is asked for that
    /// much.
    pub max_message_timeout: Option<Duration>,
    /// How long a body may wait for secrets where Envoy does not wait at all, in duplex
    /// mode.
    pub duplex_budget: Duration,
    /// Whether to ask Envoy for the phases that there is work in, and no others.
    pub mode_override: bool,
    /// Whether that was said, and is no default: Envoy heeds it then.
    pub override_heeded: bool,
    /// How the filter is set, where it does not say so itself.
    pub modes: ConfiguredModes,
    /// Longest body that is taken as a whole, in bytes.
    pub body_limit: usize,
}

/// How the filter is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredModes {
    /// `request_body_mode`.
    pub request_body: ConfiguredMode,
    /// `response_body_mode`.
    pub response_body: ConfiguredMode,
    /// Whether `request_trailer_mode` is SEND.
    pub request_trailers: bool,
    /// Whether `response_trailer_mode` is SEND.
    pub response_trailers: bool,
}

/// How a filter sends bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(rename = "BodyMode")]
pub enum ConfiguredMode {
    /// Not at all.
    #[default]
    None,
    /// As a whole.
    Buffered,
    /// As a whole if it is short enough, else only its beginning.
    BufferedPartial,
    /// In chunks.
    Streamed,
    /// In chunks that Envoy forgets.
    FullDuplexStreamed,
}

/// All that the section says.
pub(super) struct Rules {
    pub(super) config: ExtProcConfig,
    pub(super) injections: Arc<[Injection]>,
    pub(super) substitutions: Substitutions,
    pub(super) upstreams: Upstreams,
    pub(super) suspect_statuses: Arc<[u16]>,
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
    /// What the filter's `max_message_timeout` is, longer than `message_budget`. Once the budget
    /// is over, Envoy is asked to wait for that long, and secrets may take nine tenths of it.
    /// Without it they have the budget alone.
    #[schemars(with = "Option<schema::LongerThanZero>")]
    max_message_timeout: Option<Spanned<Period>>,
    /// Statuses by which a destination says that a credential does not hold, such as 401. A
    /// secret that it answers so to is fetched again, every 30 s at most. None by default:
    /// responses are not looked at.
    #[schemars(with = "Vec<schema::Between<400, 599>>")]
    suspect_statuses: Vec<Spanned<u16>>,
    /// How long a body may wait for secrets in `FULL_DUPLEX_STREAMED`, where Envoy sets no
    /// limit; `5s` by default.
    #[schemars(with = "Option<schema::LongerThanZero>")]
    duplex_budget: Option<Spanned<Period>>,
    /// Whether to ask Envoy, request by request, for the phases that there is work in, and no
    /// others; true by default. Needs Envoy's `allow_mode_override`. Rules with `redact` rely on
    /// it only where `true` is written.
    mode_override: Option<bool>,
    /// The clusters that Envoy reaches through TLS, as it names them. No attribute tells which
    /// these are, and toward any other no secret is used, whatever policies say.
    #[schemars(with = "Vec<String>")]
    tls_clusters: Option<Spanned<Vec<String>>>,
    /// The clusters toward which secrets are used though they are reached in clear text, or
    /// through something that encrypts beside Envoy; `["*"]` for any, also where Envoy does not
    /// tell the cluster.
    #[schemars(with = "Vec<String>")]
    cleartext_clusters: Option<Spanned<Vec<String>>>,
    /// How the filter is set. Body modes count only where Envoy does not announce them, before
    /// 1.33; trailer modes it never announces.
    modes: ModesFile,
    /// Longest body that is held as a whole, `8MiB` by default. Beyond it the answer is 413.
    /// Bodies that are looked for references in chunks have no limit.
    #[schemars(with = "Option<Size>")]
    body_limit: Option<Spanned<Size>>,
    /// References that clients send, in places other than whole header values.
    #[schemars(with = "Vec<SubstitutionFile>")]
    substitutions: Vec<Spanned<SubstitutionFile>>,
    /// Strings that stand for references, for clients that check how a credential looks.
    #[schemars(with = "Vec<AliasFile>")]
    aliases: Vec<Spanned<AliasFile>>,
    /// Secrets that are put into requests without a reference. A rule grants nothing: the
    /// caller still needs a policy with `use`.
    #[schemars(with = "Vec<InjectionFile>")]
    injections: Vec<Spanned<InjectionFile>>,
}

/// How Envoy's filter is set.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Modes")]
struct ModesFile {
    /// The filter's `request_body_mode`; NONE by default.
    request_body: ConfiguredMode,
    /// The filter's `response_body_mode`; NONE by default.
    response_body: ConfiguredMode,
    /// Whether the filter's `request_trailer_mode` is SEND; false by default.
    request_trailers: bool,
    /// Whether the filter's `response_trailer_mode` is SEND; false by default.
    response_trailers: bool,
}

/// A rule about references that clients send. It grants nothing: the caller still needs a
/// policy with `use`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "Substitution",
    extend(
        "required" = ["name", "match"],
        "anyOf" = schema::any_of(&["surfaces", "require", "redact"])
    )
)]
struct SubstitutionFile {
    /// Names the rule in logs; no two have one name.
    name: String,
    /// Which requests it is for.
    #[serde(default)]
    r#match: MatchFile,
    /// Where references are looked for, and what is done about one that may not be used there.
    /// Whole header values, what follows `Bearer`, and `Basic` always count.
    #[serde(default)]
    surfaces: SurfacesFile,
    /// Whether a request without any reference is refused: it stops a stolen credential; false
    /// by default.
    #[serde(default)]
    require: bool,
    /// Whether what was put into the request becomes its reference again in the response's
    /// headers, body and trailers; false by default.
    #[serde(default)]
    redact: bool,
}

/// Places of a request, and what is done about a reference that may not be used there.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Surfaces")]
struct SurfacesFile {
    /// Values of cookies.
    cookie: Option<ViolationFile>,
    /// The query, percent-encoded.
    query: Option<ViolationFile>,
    /// Segments of the path, percent-encoded.
    path: Option<ViolationFile>,
    /// Strings of a JSON body.
    json: Option<ViolationFile>,
    /// A body of `application/x-www-form-urlencoded`.
    form: Option<ViolationFile>,
    /// A body of `text/*`.
    text: Option<ViolationFile>,
}

/// What is done about a reference that may not be used.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Violation")]
enum ViolationFile {
    /// The request is refused.
    Deny,
    /// It stays as it is, and is counted.
    Inert,
    /// It stays as it is, and is logged.
    Log,
}

/// A string that stands for a reference.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Alias")]
struct AliasFile {
    /// 12 to 512 letters, digits or `-._~`; no alias may be a part of another. Make it so that
    /// nobody meets it by accident.
    #[schemars(with = "schema::AliasText")]
    alias: String,
    /// The reference, as in `secret://aws-prod/shared/stripe#key`.
    #[schemars(with = "schema::Reference")]
    reference: String,
    /// Whether the value has to be as long as the alias, so that no length changes; false by
    /// default.
    #[serde(default)]
    same_length: bool,
    /// What is done if it may not be used, in place of what the rule says.
    on_violation: Option<ViolationFile>,
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
    /// Parameters of the query to set, in place of the client's, by name. A target is written to
    /// more logs than a header: prefer headers.
    #[serde(default)]
    #[schemars(with = "BTreeMap<schema::Parameter, schema::QueryText>")]
    query: BTreeMap<String, String>,
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
const INJECTED: [&str; 7] =
    ["set_headers", "basic", "query", "hmac", "sigv4", "oauth2", "github_app"];
#[cfg(not(feature = "aws"))]
const INJECTED: [&str; 6] = ["set_headers", "basic", "query", "hmac", "oauth2", "github_app"];

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
    /// Ports that clients connect to, as Envoy's `destination.port` tells them.
    #[schemars(with = "Vec<schema::Between<1, 65535>>")]
    ports: Vec<u16>,
    /// Schemes, as clients ask. How a cluster is reached they do not tell.
    schemes: Vec<Scheme>,
}

/// A request's scheme.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    /// `https`.
    Https,
    /// `http`.
    Http,
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
    ) -> Result<Rules, ConfigError> {
        let at = |list: &Option<Spanned<_>>| list.as_ref().map(line);
        let at = at(&self.cleartext_clusters).or(at(&self.tls_clusters)).flatten();
        let list = |list: Option<Spanned<Vec<_>>>| list.map(|list| list.value).unwrap_or_default();
        let upstreams = Upstreams::new(list(self.tls_clusters), list(self.cleartext_clusters))
            .map_err(|error| ConfigError::key(context.path, at, "ext_proc", error))?;
        let duplex_budget = match self.duplex_budget {
            None => Duration::from_secs(5),
            Some(budget) if budget.value.0.is_zero() => {
                let (at, key) = (line(&budget), "ext_proc.duplex_budget");
                return Err(ConfigError::key(context.path, at, key, "must be longer than 0"));
            }
            Some(budget) => budget.value.0,
        };
        let body_limit = match self.body_limit {
            None => 8 << 20,
            Some(limit) if limit.value.0 > MAX_BODY => {
                let (at, key) = (line(&limit), "ext_proc.body_limit");
                let message = "cannot be more than 15MiB: a body is one message";
                return Err(ConfigError::key(context.path, at, key, message));
            }
            Some(limit) => usize::try_from(limit.value.0).unwrap_or(usize::MAX),
        };
        let message_budget = match self.message_budget {
            None => Duration::from_millis(150),
            Some(budget) if budget.value.0.is_zero() => {
                let (at, key) = (line(&budget), "ext_proc.message_budget");
                return Err(ConfigError::key(context.path, at, key, "must be longer than 0"));
            }
            Some(budget) => budget.value.0,
        };
        let max_message_timeout = match self.max_message_timeout {
            Some(max) if max.value.0 <= message_budget => {
                let (at, key) = (line(&max), "ext_proc.max_message_timeout");
                let why = "must be longer than message_budget: there is no more time to ask for";
                return Err(ConfigError::key(context.path, at, key, why));
            }
            max => max.map(|max| max.value.0),
        };
        let statuses = self.suspect_statuses.iter().map(|status| match status.value {
            400..=599 => Ok(status.value),
            other => {
                let why = format!("{other} is not between 400 and 599");
                let (at, key) = (line(status), "ext_proc.suspect_statuses");
                Err(ConfigError::key(context.path, at, key, why))
            }
        });
        let suspect_statuses = statuses.collect::<Result<_, _>>()?;
        let config = ExtProcConfig {
            message_budget,
            max_message_timeout,
            duplex_budget,
            mode_override: self.mode_override.unwrap_or(true),
            override_heeded: self.mode_override == Some(true),
            modes: ConfiguredModes {
                request_body: self.modes.request_body,
                response_body: self.modes.response_body,
                request_trailers: self.modes.request_trailers,
                response_trailers: self.modes.response_trailers,
            },
            body_limit,
        };
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
        let mut rules: Vec<Substitution> = Vec::new();
        for file in self.substitutions {
            let at = line(&file);
            let name = file.value.name.clone();
            let key = format!("ext_proc.substitutions.{name}");
            let refuse = |message: String| ConfigError::key(context.path, at, &key, message);
            if rules.iter().any(|seen| seen.name == name) {
                return Err(refuse("another substitution has this name".to_owned()));
            }
            rules.push(substitution(file.value).map_err(refuse)?);
        }
        let mut aliases: Vec<Alias> = Vec::new();
        for file in self.aliases {
            let at = line(&file);
            let refuse =
                |message: String| ConfigError::key(context.path, at, "ext_proc.aliases", message);
            let AliasFile { alias, reference, same_length, on_violation } = file.value;
            let secret =
                catalog.parse_reference(&reference).map_err(|error| refuse(error.to_string()))?;
            let on_violation = on_violation.map(Violation::from);
            aliases.push(Alias { text: alias, secret, same_length, on_violation });
            // Checked one by one, so that the error has a line.
            Substitutions::new(Vec::new(), aliases.clone())
                .map_err(|error| refuse(error.to_string()))?;
        }
        let substitutions = Substitutions::new(rules, aliases)
            .map_err(|error| ConfigError::key(context.path, None, "ext_proc.aliases", error))?;
        let injections = injections.into();
        Ok(Rules { config, injections, substitutions, upstreams, suspect_statuses })
    }
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

impl From<ViolationFile> for Violation {
    fn from(file: ViolationFile) -> Self {
        match file {
            ViolationFile::Deny => Self::Deny,
            ViolationFile::Inert => Self::Inert,
            ViolationFile::Log => Self::Log,
        }
    }
}

fn substitution(file: SubstitutionFile) -> Result<Substitution, String> {
    let SubstitutionFile { name, r#match, surfaces: places, require, redact } = file;
    let mut surfaces = Surfaces::default();
    for (surface, violation) in [
        (Surface::Cookie, places.cookie),
        (Surface::Query, places.query),
        (Surface::Path, places.path),
        (Surface::Json, places.json),
        (Surface::Form, places.form),
        (Surface::Text, places.text),
    ] {
        if let Some(violation) = violation {
            surfaces.add(surface, violation.into());
        }
    }
    if surfaces.is_empty() && !require && !redact {
        return Err("surfaces, require or redact is needed: the rule does nothing".into());
    }
    let matcher = matcher(r#match)?;
    Ok(Substitution { name, matcher, surfaces, required: require, redacts: redact })
}

fn matcher(file: MatchFile) -> Result<InjectionMatch, String> {
    let MatchFile { hosts, clusters, paths, methods, ports, schemes } = file;
    if hosts.is_empty() && clusters.is_empty() {
        return Err("match needs hosts or clusters: a rule for every destination is none".into());
    }
    if ports.contains(&0) {
        return Err("match.ports: 0 is not a port".into());
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
    Ok(InjectionMatch {
        hosts: InjectionMatch::canonical_hosts(&hosts).map_err(|error| error.to_string())?,
        clusters,
        paths,
        methods: methods.into_iter().map(method).collect::<Result<_, _>>()?,
        ports: ports.iter().map(u16::to_string).collect(),
        schemes: schemes.into_iter().map(|scheme| scheme.as_str().to_owned()).collect(),
    })
}

fn injection(
    file: InjectionFile,
    catalog: &Catalog,
    context: &Context<'_>,
) -> Result<Injection, String> {
    let text = |error: InvalidInjection| error.to_string();
    let matcher = matcher(file.r#match)?;
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
    let mut query = Vec::new();
    let unreserved =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    for (name, value) in file.query {
        if name.is_empty() || !unreserved(&name) {
            return Err(format!("query: {name:?} is not of letters, digits or -._~"));
        }
        let value =
            Template::parse(&value, catalog).map_err(|error| format!("query.{name}: {error}"))?;
        if value.references().next().is_none() {
            return Err(format!("query.{name}: {}", InvalidInjection::NoReference));
        }
        let mut literals = value.parts().iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text),
            Part::Reference(_) => None,
        });
        if !literals.all(|text| unreserved(text)) {
            return Err(format!(
                "query.{name}: text around a reference is of letters, digits or -._~"
            ));
        }
        query.push((name, value));
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
    if headers.is_empty() && query.is_empty() && signers.is_empty() {
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
    Ok(Injection { name: file.name, matcher, headers, query, signers })
}
