//! Azure Key Vault in the configuration.
//!
//! What a file leaves out is taken from the variables that Azure's own SDKs read, when
//! the file is checked. What is missing in both is an error of the start, not of the
//! file: it is checked where the pod's variables are not.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ConfiguredSecret, Mode};
use crate::{
    backends::azure::{AzureBackend, AzureCredential, AzureSettings, ClientSecret},
    config::{Environment, schema, value::Context},
    secret::SecretValue,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend(
    "dependencies" = {"client_secret": {"properties": {"client_secret_file": false}}},
    "allOf" = schema::by_credential()
))]
pub(in crate::config) struct AzureFile {
    /// `https://` and the vault's host, nothing more.
    #[schemars(with = "schema::HttpsHost")]
    vault_url: String,
    /// Goes before every name: letters, digits, hyphens. None by default.
    #[serde(default)]
    #[schemars(with = "Option<schema::AzurePrefix>")]
    prefix: String,
    /// Who the service is. By default the first that is there.
    credential: Option<CredentialKind>,
    /// Tenant of the identity; `AZURE_TENANT_ID` by default.
    #[schemars(with = "Option<schema::SomeText>")]
    tenant_id: Option<String>,
    /// Id of the identity; `AZURE_CLIENT_ID` by default.
    #[schemars(with = "Option<schema::SomeText>")]
    client_id: Option<String>,
    /// The pod's token, for `workload_identity`; `AZURE_FEDERATED_TOKEN_FILE` by default.
    token_file: Option<PathBuf>,
    /// The password, for `client_secret`. Prefer `client_secret_file`.
    client_secret: Option<ConfiguredSecret>,
    /// A file with the password, for `client_secret`; `AZURE_CLIENT_SECRET` by default.
    client_secret_file: Option<PathBuf>,
    /// Where tokens are issued: `https://` and a host. By default `AZURE_AUTHORITY_HOST`, then
    /// the public cloud.
    #[schemars(with = "Option<schema::HttpsHost>")]
    authority_host: Option<String>,
    /// PEM certificates to trust besides the system's.
    ca_file: Option<PathBuf>,
    /// Whether the vault's challenge must name its own domain; true by default. False is for
    /// emulators, in development mode only.
    verify_challenge_resource: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum CredentialKind {
    /// A token of the pod's own service account.
    WorkloadIdentity,
    /// The identity of the machine.
    ManagedIdentity,
    /// A password.
    ClientSecret,
}

// === impl AzureFile ===

impl AzureFile {
    pub(super) fn check(self, mode: Mode, context: &Context<'_>) -> Result<AzureSettings, String> {
        let environment = context.environment;
        https_host("vault_url", &self.vault_url)?;
        let authority_host = self.authority_host.clone();
        let authority_host =
            authority_host.or_else(|| environment.get("AZURE_AUTHORITY_HOST").map(str::to_owned));
        if let Some(host) = &authority_host {
            https_host("authority_host", host)?;
        }
        let allowed = |c| AzureBackend::GRAMMAR.allows(c);
        if !self.prefix.chars().all(allowed) || self.prefix.len() >= AzureBackend::GRAMMAR.max_len {
            return Err(format!("prefix {:?} is no part of an Azure secret name", self.prefix));
        }
        let verify_challenge_resource = self.verify_challenge_resource.unwrap_or(true);
        if !verify_challenge_resource && mode != Mode::Development {
            return Err("verify_challenge_resource: false lets whoever answers at vault_url \
                        have a token for any Azure service, and is refused outside \
                        `mode: development`"
                .to_owned());
        }
        let credential = self.credential(context)?;
        Ok(AzureSettings {
            vault_url: self.vault_url,
            prefix: self.prefix,
            credential,
            authority_host,
            ca_file: self.ca_file.map(|path| context.resolve(path)),
            verify_challenge_resource,
        })
    }

    fn credential(&self, context: &Context<'_>) -> Result<AzureCredential, String> {
        let environment = context.environment;
        let kind = self.credential.unwrap_or_else(|| self.implied(environment));
        self.refuse_idle_keys(kind)?;
        let or_variable = |key: &str, value: &Option<String>, variable: &str| match value {
            Some(text) if text.is_empty() => Err(format!("{key} is empty")),
            Some(text) => Ok(Some(text.clone())),
            None => Ok(environment.get(variable).map(str::to_owned)),
        };
        let client_id = or_variable("client_id", &self.client_id, "AZURE_CLIENT_ID")?;
        let tenant_id = or_variable("tenant_id", &self.tenant_id, "AZURE_TENANT_ID")?;
        Ok(match kind {
            CredentialKind::ManagedIdentity => AzureCredential::ManagedIdentity { client_id },
            CredentialKind::WorkloadIdentity => AzureCredential::WorkloadIdentity {
                tenant_id,
                client_id,
                token_file: match &self.token_file {
                    Some(path) => Some(context.resolve(path)),
                    None => environment.get("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from),
                },
            },
            CredentialKind::ClientSecret => AzureCredential::ClientSecret {
                tenant_id,
                client_id,
                secret: match (&self.client_secret, &self.client_secret_file) {
                    (Some(_), Some(_)) => {
                        return Err("client_secret and client_secret_file: only one".to_owned());
                    }
                    (Some(secret), None) => Some(ClientSecret::Text(secret.value().clone())),
                    (None, Some(path)) => Some(ClientSecret::File(context.resolve(path))),
                    (None, None) => environment
                        .get("AZURE_CLIENT_SECRET")
                        .map(|text| ClientSecret::Text(SecretValue::new(text))),
                },
            },
        })
    }

    /// What is configured counts before what is in the environment; then a token of the
    /// pod's own, a password, the machine.
    fn implied(&self, environment: &Environment) -> CredentialKind {
        if self.client_secret.is_some() || self.client_secret_file.is_some() {
            CredentialKind::ClientSecret
        } else if self.token_file.is_some()
            || environment.get("AZURE_FEDERATED_TOKEN_FILE").is_some()
        {
            CredentialKind::WorkloadIdentity
        } else if environment.get("AZURE_CLIENT_SECRET").is_some() {
            CredentialKind::ClientSecret
        } else {
            CredentialKind::ManagedIdentity
        }
    }

    /// A key that would do nothing is a mistake.
    fn refuse_idle_keys(&self, kind: CredentialKind) -> Result<(), String> {
        use CredentialKind::{ClientSecret, ManagedIdentity, WorkloadIdentity};
        let idle = [
            ("client_secret", self.client_secret.is_some(), kind != ClientSecret),
            ("client_secret_file", self.client_secret_file.is_some(), kind != ClientSecret),
            ("token_file", self.token_file.is_some(), kind != WorkloadIdentity),
            ("tenant_id", self.tenant_id.is_some(), kind == ManagedIdentity),
            ("authority_host", self.authority_host.is_some(), kind == ManagedIdentity),
        ];
        let name = match kind {
            WorkloadIdentity => "workload_identity",
            ManagedIdentity => "managed_identity",
            ClientSecret => "client_secret",
        };
        match idle.into_iter().find(|(_, set, idle)| *set && *idle) {
            Some((key, ..)) => Err(format!("{key} has no use with credential: {name}")),
            None => Ok(()),
        }
    }
}

fn https_host(key: &str, text: &str) -> Result<(), String> {
    let valid = text.parse::<http::Uri>().is_ok_and(|url| {
        let bare = url.path_and_query().is_none_or(|path| path.as_str() == "/");
        let named = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        url.scheme_str() == Some("https") && bare && named
    });
    if valid { Ok(()) } else { Err(format!("{key} {text:?} must be https://<host>")) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(yaml: &str, mode: Mode, environment: &Environment) -> Result<AzureSettings, String> {
        let none = crate::config::DiscoveredPlugins::default();
        let path = Path::new("dir/vaultmux.yaml");
        let read = serde_saphyr::from_str(yaml).map_err(|error| error.to_string());
        let read = read.and_then(|file: AzureFile| {
            file.check(mode, &Context { path, environment, plugins: &none })
        });
        let name = if mode == Mode::Development { "development" } else { "cluster" };
        let lines = yaml.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let whole = format!("mode: {name}\nbackends:\n  x:\n    type: azure_key_vault\n{lines}");
        schema::tests::agrees(&whole, read.as_ref().map(drop));
        read
    }

    const VAULT: &str = "vault_url: https://x.vault.azure.net\n";

    #[test]
    fn credential_is_the_configured_one_or_the_first_that_is_there() {
        let webhook = [
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/token"),
        ];
        let principal =
            [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c"), ("AZURE_CLIENT_SECRET", "s")];
        let (webhook, principal) = (Environment::from(webhook), Environment::from(principal));
        let none = Environment::default();
        let text = |text: &str| Some(text.to_owned());
        let workload = |file: &str| AzureCredential::WorkloadIdentity {
            tenant_id: text("t"),
            client_id: text("c"),
            token_file: Some(file.into()),
        };
        let password = |secret: ClientSecret| AzureCredential::ClientSecret {
            tenant_id: text("t"),
            client_id: text("c"),
            secret: Some(secret),
        };
        let written = |of: &str| ClientSecret::Text(SecretValue::new(of));
        for (yaml, environment, expected) in [
            ("", &none, AzureCredential::ManagedIdentity { client_id: None }),
            (
                "client_id: other\n",
                &none,
                AzureCredential::ManagedIdentity { client_id: text("other") },
            ),
            ("", &webhook, workload("/token")),
            ("token_file: sa/token\n", &webhook, workload("dir/sa/token")),
            ("", &principal, password(written("s"))),
            ("client_secret: configured\n", &webhook, password(written("configured"))),
            (
                "client_secret_file: secret\n",
                &principal,
                password(ClientSecret::File("dir/secret".into())),
            ),
            (
                "credential: managed_identity\n",
                &webhook,
                AzureCredential::ManagedIdentity { client_id: text("c") },
            ),
            (
                "credential: workload_identity\n",
                &none,
                AzureCredential::WorkloadIdentity {
                    tenant_id: None,
                    client_id: None,
                    token_file: None,
                },
            ),
        ] {
            let settings = check(&format!("{VAULT}{yaml}"), Mode::Cluster, environment);
            assert_eq!(settings.expect(yaml).credential, expected, "{yaml}");
        }
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        let environment = Environment::from([("AZURE_CLIENT_SECRET", "canary")]);
        for (yaml, expected) in [
            ("vault_url: http://x.vault.azure.net\n", "vault_url \"http://x"),
            ("vault_url: https://x.vault.azure.net/secrets\n", "vault_url"),
            ("vault_url: https://u@x.vault.azure.net\n", "vault_url"),
            (
                &format!("{VAULT}authority_host: http://login\ncredential: client_secret\n"),
                "authority_host",
            ),
            (&format!("{VAULT}prefix: a/\n"), "prefix \"a/\""),
            (&format!("{VAULT}prefix: {}\n", "a".repeat(127)), "prefix"),
            (&format!("{VAULT}client_id: ''\n"), "client_id is empty"),
            (&format!("{VAULT}client_secret: a\nclient_secret_file: b\n"), "client_secret and"),
            (&format!("{VAULT}client_secret: 0123\n"), "a secret must be text"),
            (
                &format!("{VAULT}credential: managed_identity\ntenant_id: a\n"),
                "tenant_id has no use",
            ),
            (
                &format!("{VAULT}credential: client_secret\ntoken_file: a\n"),
                "token_file has no use",
            ),
            (
                &format!("{VAULT}credential: workload_identity\nclient_secret: a\n"),
                "client_secret has",
            ),
            (&format!("{VAULT}credential: azure_cli\n"), "azure_cli"),
            (&format!("{VAULT}verify_challenge_resource: false\n"), "verify_challenge_resource"),
        ] {
            let refused = check(yaml, Mode::Cluster, &environment).expect_err(yaml);
            assert!(refused.contains(expected), "{yaml}: {refused}");
            assert!(!refused.contains("canary"), "{refused}");
        }
        let yaml = format!("{VAULT}verify_challenge_resource: false\nca_file: ca.pem\n");
        let settings = check(&yaml, Mode::Development, &environment).expect("an emulator");
        assert!(!settings.verify_challenge_resource);
        assert_eq!(settings.ca_file.as_deref(), Some(Path::new("dir/ca.pem")));
        assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
    }
}
