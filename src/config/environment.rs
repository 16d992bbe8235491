//! The environment: variables that configuration files refer to, and the ones
//! that vaultmux-server was configured by.

use std::{collections::HashMap, fmt, path::Path};

use super::{Config, ConfigError, DiscoveredPlugins, file};

/// A copy of the process environment.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

// === impl Environment ===

impl Environment {
    /// The environment of this process; variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        #[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
        Self(std::env::vars_os().filter_map(text).collect())
    }

    pub(super) fn variables(&self) -> &HashMap<String, String> {
        &self.0
    }

    pub(in crate::config) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The configuration that vaultmux-server's variables describe; `None`
    /// without `VAULTMUX_BACKEND`.
    ///
    /// # Errors
    /// [`ConfigError`] for a value that cannot be used.
    pub fn config(&self) -> Result<Option<Config>, ConfigError> {
        let Some(backend) = self.get("VAULTMUX_BACKEND") else { return Ok(None) };
        let path = Path::new("environment");
        let refuse = |key: &str, message: String| Err(ConfigError::key(path, None, key, message));
        let store = match backend {
            "awssecrets" => {
                let keys = [("AWS_REGION", "region"), ("AWS_ENDPOINT", "endpoint_url")];
                self.store("aws_secrets_manager", "vaultmux/", &keys)
            }
            "gcpsecrets" if self.get("GCP_PROJECT_ID").is_none() => {
                return refuse("GCP_PROJECT_ID", "gcpsecrets needs a project".to_owned());
            }
            "gcpsecrets" => {
                self.store("gcp_secret_manager", "vaultmux-", &[("GCP_PROJECT_ID", "project")])
            }
            "azurekeyvault" if self.get("AZURE_KEYVAULT_URL").is_none() => {
                let message = "is needed, such as https://my-vault.vault.azure.net";
                return refuse("AZURE_KEYVAULT_URL", message.to_owned());
            }
            // Identity comes from Azure's own variables, as ever.
            "azurekeyvault" => {
                let keys = [("AZURE_KEYVAULT_URL", "vault_url")];
                self.store("azure_key_vault", "vaultmux-", &keys)
            }
            _ => {
                let message = format!(
                    "unknown backend {backend:?}, expected awssecrets, gcpsecrets or azurekeyvault"
                );
                return refuse("VAULTMUX_BACKEND", message);
            }
        };
        let port = self.get("PORT").unwrap_or("8080");
        if port.parse::<u16>().is_err() {
            return refuse("PORT", format!("{port:?} is not a port"));
        }
        let mut yaml = format!(
            "mode: sidecar\nlisteners:\n  rest: {{address: '127.0.0.1:{port}', require_request_header: false, \
             health_on_all_addresses: true}}\n\
             backends:\n  {backend}:\n{store}"
        );
        // Outside Kubernetes there is no token to tell who the pod is, and the store's
        // own credentials are all that decides: any name will do.
        if super::identity::pods_own_account().is_none() {
            yaml.push_str("identity: {local: {namespace: default, service_account: default}}\n");
        }
        file::parse(&yaml, path, self, &DiscoveredPlugins::default()).map(Some)
    }

    /// The lines of a store: its type, its prefix, and a key for each variable that
    /// is set.
    fn store(&self, kind: &str, prefix: &str, keys: &[(&str, &str)]) -> String {
        let quoted = |text: &str| serde_json::to_string(text).expect("text is always JSON");
        let prefix = self.0.get("VAULTMUX_PREFIX").map_or(prefix, String::as_str);
        let mut lines = format!("    type: {kind}\n    prefix: {}\n", quoted(prefix));
        for (variable, key) in keys {
            if let Some(value) = self.get(variable) {
                lines.push_str(&format!("    {key}: {}\n", quoted(value)));
            }
        }
        lines
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self(variables.into_iter().map(owned).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}
