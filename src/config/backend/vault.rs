//! Vault and OpenBao in the configuration.

use std::path::PathBuf;

use serde::Deserialize;

use super::ConfiguredSecret;
use crate::{
    backends::vault::{Credential, KvVersion, VaultAuth, VaultSettings},
    config::value::Context,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct VaultFile {
    address: String,
    namespace: Option<String>,
    #[serde(default = "mount")]
    mount: String,
    #[serde(default = "version")]
    version: u8,
    #[serde(default)]
    prefix: String,
    ca_file: Option<PathBuf>,
    auth: AuthFile,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuthFile {
    Token(ConfiguredSecret),
    TokenFile(PathBuf),
    AppRole(AppRoleFile),
    Kubernetes(KubernetesFile),
    Jwt(JwtFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppRoleFile {
    #[serde(default = "app_role")]
    mount: String,
    role_id: String,
    secret_id: Option<ConfiguredSecret>,
    secret_id_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KubernetesFile {
    #[serde(default = "kubernetes")]
    mount: String,
    role: String,
    #[serde(default = "service_account_token")]
    token_file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtFile {
    #[serde(default = "jwt")]
    mount: String,
    role: String,
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
