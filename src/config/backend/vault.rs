//! Vault and OpenBao in the configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfiguredSecret;
use crate::{
    backends::vault::{Credential, KvVersion, VaultAuth, VaultSettings},
    config::{
        schema::{self, Between, by_key},
        value::Context,
    },
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct VaultFile {
    /// `https://` and the server; `http://` on loopback only.
    #[schemars(with = "schema::VaultAddress")]
    address: String,
    /// Namespace of Vault Enterprise or OpenBao. None by default.
    #[schemars(with = "Option<schema::SomeText>")]
    namespace: Option<String>,
    /// Path of the KV engine.
    #[serde(default = "mount")]
    #[schemars(with = "schema::Mount")]
    mount: String,
    /// Version of the KV engine, 1 or 2.
    #[serde(default = "version")]
    #[schemars(with = "Between<1, 2>")]
    version: u8,
    /// Goes before every name. None by default.
    #[serde(default)]
    #[schemars(with = "Option<schema::VaultPrefix>")]
    prefix: String,
    /// PEM certificates to trust besides the system's.
    ca_file: Option<PathBuf>,
    /// How the service logs in.
    auth: AuthFile,
}

/// How the service logs in: exactly one way.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "VaultAuth", transform = by_key)]
enum AuthFile {
    /// A token. Prefer `token_file`.
    #[schemars(with = "schema::SomeText")]
    Token(ConfiguredSecret),
    /// A file with a token, which is read again when it changes.
    TokenFile(PathBuf),
    /// AppRole.
    AppRole(AppRoleFile),
    /// The token of the pod's service account, which Vault asks its cluster about.
    Kubernetes(KubernetesFile),
    /// A JWT, whose signature Vault checks.
    Jwt(JwtFile),
}

/// AppRole.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    rename = "VaultAppRole",
    extend("dependencies" = {"secret_id": {"properties": {"secret_id_file": false}}})
)]
struct AppRoleFile {
    /// Path of the auth mount.
    #[serde(default = "app_role")]
    #[schemars(with = "schema::Mount")]
    mount: String,
    /// Id of the role.
    role_id: String,
    /// Its secret. Prefer `secret_id_file`.
    secret_id: Option<ConfiguredSecret>,
    /// A file with its secret.
    secret_id_file: Option<PathBuf>,
}

/// Login with the pod's service account.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VaultKubernetes")]
struct KubernetesFile {
    /// Path of the auth mount.
    #[serde(default = "kubernetes")]
    #[schemars(with = "schema::Mount")]
    mount: String,
    /// Name of the role.
    role: String,
    /// The service account's token.
    #[serde(default = "service_account_token")]
    token_file: PathBuf,
}

/// Login with a JWT.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VaultJwt")]
struct JwtFile {
    /// Path of the auth mount.
    #[serde(default = "jwt")]
    #[schemars(with = "schema::Mount")]
    mount: String,
    /// Name of the role.
    role: String,
    /// A file with the JWT.
    token_file: PathBuf,
}

fn mount() -> String {
    "secret".to_owned()
}

fn version() -> u8 {
    2
}

fn app_role() -> String {
    "approle".to_owned()
}

fn kubernetes() -> String {
    "kubernetes".to_owned()
}

fn jwt() -> String {
    "jwt".to_owned()
}

/// Where every pod has it.
fn service_account_token() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}

// === impl VaultFile ===

impl VaultFile {
    pub(super) fn check(self, context: &Context<'_>) -> Result<VaultSettings, String> {
        let Self { address, namespace, mount, version, prefix, ca_file, auth } = self;
        let version = match version {
            1 => KvVersion::One,
            2 => KvVersion::Two,
            _ => return Err(format!("version {version} is not 1 or 2")),
        };
        let ca_file = ca_file.map(|path| context.resolve(path));
        let auth = auth.check(context)?;
        let settings = VaultSettings { address, namespace, mount, version, prefix, ca_file, auth };
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }
}

// === impl AuthFile ===

impl AuthFile {
    fn check(self, context: &Context<'_>) -> Result<VaultAuth, String> {
        let credential = |secret: ConfiguredSecret| Credential::new(secret.value().clone());
        Ok(match self {
            Self::Token(token) if token.value().is_empty() => {
                return Err("auth.token is empty".to_owned());
            }
            Self::Token(token) => VaultAuth::Token(credential(token)),
            Self::TokenFile(path) => VaultAuth::TokenFile(context.resolve(path)),
            Self::AppRole(AppRoleFile { secret_id: Some(_), secret_id_file: Some(_), .. }) => {
                return Err(
                    "auth.app_role: secret_id and secret_id_file exclude each other".to_owned()
                );
            }
            Self::AppRole(AppRoleFile { mount, role_id, secret_id, secret_id_file }) => {
                VaultAuth::AppRole {
                    mount,
                    role_id,
                    secret_id: secret_id.map(credential),
                    secret_id_file: secret_id_file.map(|path| context.resolve(path)),
                }
            }
            Self::Kubernetes(KubernetesFile { mount, role, token_file }) => {
                VaultAuth::Kubernetes { mount, role, token_file: context.resolve(token_file) }
            }
            Self::Jwt(JwtFile { mount, role, token_file }) => {
                VaultAuth::Jwt { mount, role, token_file: context.resolve(token_file) }
            }
        })
    }
}
