//! `probe`: is a listener well? For containers without a shell.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use super::{Answer, Output, print};
use crate::net::probe::{Health, Probe as Question, Target, Way};

#[derive(Debug, Args)]
pub(super) struct Probe {
    /// http:// or https:// with a path, or grpc:// or grpcs:// with the name of a service.
    url: String,
    /// Connect to this unix socket; the URL's host is only what the server is called.
    #[arg(long, value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// Who vouches for the server's certificate; needed for https:// and grpcs://.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The certificate to show, where the server asks for one.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is not the URL's host.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// How long all of it may take.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    timeout: humantime::Duration,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

// === impl Probe ===

impl Probe {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let Self { url, unix_socket, ca_file, cert_file, key_file, server_name, .. } = self;
        let client = cert_file.zip(key_file);
        let way = Way { unix_socket, ca_file, client, server_name };
        let question = Question::new(Target::parse(&url)?, way)?;
        let limit: Duration = self.timeout.into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async { tokio::time::timeout(limit, question.ask()).await });
        // Names are looked up in threads that nothing can stop.
        runtime.shutdown_background();
        let health = answer.unwrap_or_else(|_| Health {
            healthy: false,
            found: format!("no answer within {}", self.timeout),
        });
        let Health { healthy, found } = &health;
        match self.output {
            Output::Json => {
                print(&json!({"url": url, "healthy": healthy, "found": found}).to_string());
            }
            Output::Text => {
                let verdict = if *healthy { "healthy" } else { "unhealthy" };
                print(&format!("{verdict}: {url} {found}"));
            }
        }
        Ok(if *healthy { Answer::Yes } else { Answer::No })
    }
}
