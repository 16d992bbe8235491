//! Commands: `serve`, `check`, `can-i`, `who-can`, `schema`, `openapi`, `policy test`,
//! `policy replay`, `policy diff`, `plugin test`, `probe`, `lint`.
//!
//! Exit codes: 0 done or yes, 1 a negative answer, 2 usage or input that cannot
//! be used. Answers go to standard output, everything else to standard error.

mod asked;
mod can_i;
mod check;
mod lint;
mod openapi;
#[cfg(feature = "plugin")]
mod plugin;
mod policy;
mod probe;
mod reach;
mod rows;
mod schema;
mod suppose;
mod verdict;
mod who_can;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::App,
    config::{Config, Environment},
    telemetry,
};

/// Authorises Kubernetes service accounts for Envoy and resolves secrets from
/// cloud stores.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    #[command(after_help = serve_help())]
    Serve(Serve),
    /// Check configuration and policies without running anything.
    #[command(after_help = "\
Warnings name policies that are most likely not meant: rules that decide nothing,
that can never match, or that grant more than they seem to. They are no errors.

Exit codes: 0 all is well, 1 something is wrong, or with --deny-warnings likely
to be, 2 the file cannot be read.

Examples:
  vaultmux-mesh check --config vaultmux.yaml
  vaultmux-mesh check --config vaultmux.yaml --deny-warnings
  vaultmux-mesh check --config vaultmux.yaml --output json")]
    Check(check::Check),
    /// Ask whether a service account may do something, and which rule says so.
    #[command(after_help = "\
With --all: everything that the policies let it reach, rule by rule, with what Deny
rules take away again, and what it would reach with other proofs.

Exit codes: 0 allowed, 1 denied, 2 the question cannot be asked. With --all: 0 it
reaches something, 1 nothing.

Examples:
  vaultmux-mesh can-i --all payments/api --config vaultmux.yaml
  vaultmux-mesh can-i payments/api get payments/db --config vaultmux.yaml
  vaultmux-mesh can-i payments/api use secret://aws-prod/shared/stripe \\
      --cluster 'outbound|443||api.stripe.com' --host api.stripe.com --config vaultmux.yaml
  vaultmux-mesh can-i payments/api POST http://orders.shop/orders/ --config vaultmux.yaml
  vaultmux-mesh can-i payments/api get payments/db --proofs token --bound-to-pod \\
      --config vaultmux.yaml")]
    CanI(Box<can_i::CanI>),
    /// Ask who may do something, and which rules say so.
    #[command(after_help = "\
Subjects are named as policies name them: service accounts, namespaces, or everyone,
with whom rules leave out and whom Deny rules take away.

Exit codes: 0 someone can, 1 nobody can, 2 the question cannot be asked.

Examples:
  vaultmux-mesh who-can get payments/db --config vaultmux.yaml
  vaultmux-mesh who-can use secret://aws-prod/shared/stripe#key \\
      --cluster 'outbound|443||api.stripe.com' --host api.stripe.com --config vaultmux.yaml
  vaultmux-mesh who-can GET http://orders.shop/orders/1 --destination shop/orders \\
      --config vaultmux.yaml --output json")]
    WhoCan(Box<who_can::WhoCan>),
    /// Work with policies: try them before they are in force.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Print a JSON Schema, for editors to complete files from.
    #[command(after_help = SCHEMA_HELP)]
    Schema(schema::Schema),
    /// Print the OpenAPI document of the REST API, to make clients from.
    #[command(after_help = "\
Exit codes: 0 printed.

Examples:
  vaultmux-mesh openapi > openapi.json")]
    Openapi(openapi::OpenApi),
    /// Find what is dangerous in Envoy's, Istio's and Envoy Gateway's configuration.
    #[command(after_help = LINT_HELP)]
    Lint(lint::Lint),
    /// Ask a listener whether it is well: a health check for containers without a shell.
    #[command(after_help = PROBE_HELP)]
    Probe(Box<probe::Probe>),
    /// Work with plugins: stores behind a unix socket.
    #[cfg(feature = "plugin")]
    #[command(subcommand)]
    Plugin(plugin::Plugin),
}

/// What it says of stores holds for this build.
fn serve_help() -> String {
    let of_build = |stores: &[(bool, &'static str)]| {
        let stores = stores.iter().filter(|(is_built, _)| *is_built);
        let stores: Vec<_> = stores.map(|(_, store)| *store).collect();
        if stores.is_empty() { "none".to_owned() } else { stores.join(", ") }
    };
    let (aws, azure) = (cfg!(feature = "aws"), cfg!(feature = "azure"));
    let gcp = cfg!(feature = "gcp");
    let variables = of_build(&[(aws, "awssecrets"), (gcp, "gcpsecrets"), (azure, "azurekeyvault")]);
    let types = of_build(&[
        (aws, "aws_secrets_manager"),
        (azure, "azure_key_vault"),
        (gcp, "gcp_secret_manager"),
        (cfg!(feature = "kubernetes"), "kubernetes_secrets"),
        (cfg!(feature = "plugin"), "plugin"),
        (cfg!(feature = "vault"), "vault_kv"),
    ]);
    format!(
        "\
Examples:
  vaultmux-mesh serve --config vaultmux.yaml
  vaultmux-mesh serve --dev
  VAULTMUX_BACKEND=awssecrets AWS_REGION=eu-central-1 vaultmux-mesh serve

Types of stores in the configuration file, in this build:
  {types}
  and for development memory, file

Environment, as vaultmux-server reads it (used when --config is not given):
  VAULTMUX_BACKEND    one of {variables}
  VAULTMUX_PREFIX     put before every name; vaultmux/ on AWS, vaultmux- elsewhere if unset
  AWS_REGION          region of the store
  AWS_ENDPOINT        another endpoint than the region's own
  GCP_PROJECT_ID      project of the store
  AZURE_KEYVAULT_URL  the vault
  PORT                REST port on 127.0.0.1, and for /health alone on all addresses;
                      8080 if unset"
    )
}

const LINT_HELP: &str = "\
It reads Envoy's bootstraps, resource files and config dumps, Istio's mesh configuration and
objects, Envoy Gateway's policies, and Kubernetes objects around them. Give all files of a mesh
at once: some rules are about what is in none of them. Other kinds are named and skipped.

A comment on the line or right above it allows a finding that is meant:
  # vaultmux-mesh lint: allow shadow-mode

Exit codes: 0 nothing of severity error, 1 errors, or with --deny warnings anything, 2 a file
cannot be read.

Examples:
  vaultmux-mesh lint envoy.yaml
  vaultmux-mesh lint istio/ --deny warnings
  curl -s 127.0.0.1:9901/config_dump | vaultmux-mesh lint -
  helm template charts/vaultmux-mesh | vaultmux-mesh lint - --output sarif > lint.sarif
  vaultmux-mesh lint --rules";

const PROBE_HELP: &str = "\
Over HTTP it is well if it answers with a 2xx status, over gRPC if its health service says
SERVING. Proxies of the environment are not used, and redirects are not followed.

Exit codes: 0 well, 1 not well or not there, 2 the question cannot be asked.

Examples:
  vaultmux-mesh probe http://127.0.0.1:9090/readyz
  vaultmux-mesh probe grpc://127.0.0.1:9191/envoy.service.auth.v3.Authorization
  vaultmux-mesh probe http://localhost/health --unix-socket /run/vaultmux/rest.sock
  vaultmux-mesh probe grpcs://127.0.0.1:9191 --ca-file ca.crt --server-name vaultmux.test \\
      --cert-file tls.crt --key-file tls.key --timeout 2s

In a pod:
  readinessProbe: {exec: {command: [vaultmux-mesh, probe, \"http://127.0.0.1:9090/readyz\"]}}";

const SCHEMA_HELP: &str = "\
A schema is draft-07 of JSON Schema, and of one YAML document. It cannot say everything: `check`
does, in CI above all.

Exit codes: 0 printed, 2 no such schema.

Examples:
  vaultmux-mesh schema policy > access-policy.json
  vaultmux-mesh schema config > config.json

In VS Code, with the YAML extension, in .vscode/settings.json:
  \"yaml.schemas\": {
    \"./access-policy.json\": \"policies/*.yaml\",
    \"./config.json\": \"vaultmux.yaml\"
  }

In any editor with the YAML language server, as the file's first line:
  # yaml-language-server: $schema=./access-policy.json";

#[derive(Debug, Args)]
struct Serve {
    /// The configuration file.
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    config: Option<PathBuf>,
    /// Run with an embedded memory backend and sample policies, on loopback.
    #[arg(long)]
    dev: bool,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How a command ended, other than by failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
}

// === impl Cli ===

impl Cli {
    /// Runs the command to its end.
    #[must_use]
    pub fn run(self) -> ExitCode {
        // Fails only if a provider is installed already: then that one is used.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let answer = match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::CanI(question) => question.run(),
            Command::WhoCan(question) => question.run(),
            Command::Policy(policy) => policy.run(),
            Command::Schema(schema) => Ok(schema.run()),
            Command::Openapi(openapi) => Ok(openapi.run()),
            Command::Lint(lint) => lint.run(),
            Command::Probe(probe) => probe.run(),
            #[cfg(feature = "plugin")]
            Command::Plugin(plugin) => plugin.run(),
        };
        match answer {
            Ok(Answer::Yes) => ExitCode::SUCCESS,
            Ok(Answer::No) => ExitCode::from(1),
            Err(error) => {
                // Causes on the same line: what, where and why belong together.
                let _ = writeln!(std::io::stderr(), "error: {error:#}");
                ExitCode::from(2)
            }
        }
    }
}

// === impl Serve ===

impl Serve {
    fn run(self) -> anyhow::Result<Answer> {
        let environment = Environment::of_process();
        let config = match &self.config {
            Some(path) => Config::load(path, &environment)?,
            None if self.dev => Config::development(&environment),
            None => environment.config()?.context(
                "nothing to serve: give --config FILE, or --dev to try it out, \
                 or set VAULTMUX_BACKEND",
            )?,
        };
        let log_level = telemetry::start(&config.log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let app = App::start(config, environment, log_level).await?;
            if self.dev {
                greet(&app);
            }
            app.run(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await
        })?;
        Ok(Answer::Yes)
    }
}

/// Tells a new user what to try.
fn greet(app: &App) {
    let addresses = app.addresses();
    let _ = writeln!(
        std::io::stderr(),
        "\nTry:\n  curl -s http://{rest}/v1/secrets\n  \
         curl -s http://{rest}/v1/secrets/development/api-key\n  \
         curl -s http://{rest}/v1/secrets/shared/stripe    # denied: no policy allows it\n  \
         curl -s http://{admin}/metrics\n",
        rest = addresses.rest,
        admin = addresses.admin,
    );
}

/// Loads a configuration for a command that needs one, whether by file or not.
fn load(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::load(path, &Environment::of_process())?)
}

/// Writes an answer; a reader that went away is no error.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
