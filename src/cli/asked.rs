//! What a question on the command line is about: a secret and where it is to be used, or a
//! request.

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    config::Config,
    identity::ServiceAccount,
    operation::split_query,
    policy::{
        Destination, HttpRequest, InvalidRequest, Unasked, Verb, canonical_host, canonical_path,
        canonical_port, split_url,
    },
    secret::{NameEncoding, SecretRef},
};

/// What surrounds the thing that is asked for.
#[derive(Debug, Args)]
pub(super) struct Around {
    /// For `use`: the cluster that the request is routed to.
    #[arg(long)]
    cluster: Option<String>,
    /// For `use`: the route's name.
    #[arg(long)]
    route: Option<String>,
    /// For `use`: the server name of the downstream TLS handshake.
    #[arg(long)]
    sni: Option<String>,
    /// For `use`: the port that the client's connection is made to.
    #[arg(long)]
    port: Option<String>,
    /// For `use`: the request's scheme, https or http.
    #[arg(long)]
    scheme: Option<String>,
    /// For `use`: the request's method.
    #[arg(long)]
    method: Option<String>,
    /// For `use`: the request's path.
    #[arg(long)]
    path: Option<String>,
    /// For `use`: the request's host.
    #[arg(long)]
    host: Option<String>,
    /// For a URL: the service account of the workload that serves it.
    #[arg(long, value_name = "NS/SA")]
    destination: Option<String>,
}

/// A secret or a request.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    Secret(Verb, SecretRef, Destination<'a>),
    Http(HttpRequest<'a>),
    /// A request that has more than one reading: no rule is asked.
    Ambiguous,
}

// === impl Around ===

impl Around {
    /// Reads verb or method, and a secret or URL.
    pub(super) fn read<'a>(
        &'a self,
        config: &Config,
        verb: &'a str,
        target: &'a str,
    ) -> anyhow::Result<Asked<'a>> {
        match split_url(target) {
            Some((host, path)) => {
                let below = canonical_host(host).is_ok_and(|host| {
                    config.secret_routes.below(&host, split_query(path).0).is_some()
                });
                anyhow::ensure!(!below, "{target} is a secret route: ask about the secret");
                self.request(verb, host, path)
            }
            None => self.secret(config, verb, target),
        }
    }

    fn secret<'a>(
        &'a self,
        config: &Config,
        verb: &str,
        target: &str,
    ) -> anyhow::Result<Asked<'a>> {
        let verb = Verb::parse(verb).with_context(|| {
            let verbs: Vec<_> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
            format!("{verb:?} is not one of {}", verbs.join(", "))
        })?;
        let secret: SecretRef = match target.starts_with("secret://") {
            true => config.catalog.parse_reference(target)?,
            false => config.catalog.locate(target, NameEncoding::Plain, None)?,
        };
        Unasked::check(verb, &secret, self.toward().is_some())?;
        if self.destination.is_some() {
            bail!("--destination goes with a URL; where a secret is used, say --cluster and so on");
        }
        let destination = Destination {
            host: self.host.as_deref(),
            cluster: self.cluster.as_deref(),
            route: self.route.as_deref(),
            sni: self.sni.as_deref(),
            port: self.port.as_deref(),
            scheme: self.scheme.as_deref(),
            method: self.method.as_deref(),
            path: self.path.as_deref(),
        };
        Ok(Asked::Secret(verb, secret, destination))
    }

    fn request<'a>(
        &self,
        method: &'a str,
        host: &'a str,
        path: &'a str,
    ) -> anyhow::Result<Asked<'a>> {
        if let Some(flag) = self.toward() {
            bail!("the destination of a request is --destination NS/SA; {flag} goes with use");
        }
        let destination = self.destination.as_deref().map(workload).transpose()?;
        if Verb::parse(method).is_some() {
            bail!("a URL needs a method such as GET instead of the verb {method:?}");
        }
        match HttpRequest::new(method, host, path, destination) {
            Ok(request) => Ok(Asked::Http(request)),
            Err(InvalidRequest::Path) => Ok(Asked::Ambiguous),
            Err(error) => Err(error.into()),
        }
    }

    /// The first flag that says where a secret is to be used.
    fn toward(&self) -> Option<&'static str> {
        let Self { cluster, route, sni, port, scheme, method, path, host, destination: _ } = self;
        let flags = [
            ("--cluster", cluster),
            ("--route", route),
            ("--sni", sni),
            ("--port", port),
            ("--scheme", scheme),
            ("--method", method),
            ("--path", path),
            ("--host", host),
        ];
        flags.into_iter().find(|(_, value)| value.is_some()).map(|(flag, _)| flag)
    }

    /// Brings host and path into their one form; before they are read.
    pub(super) fn canonical(mut self) -> anyhow::Result<Self> {
        let host = self.host.as_deref().map(canonical_host).transpose().context("--host")?;
        self.host = host.map(std::borrow::Cow::into_owned);
        let path = self.path.as_deref().map(canonical_path).transpose().context("--path")?;
        self.path = path.map(ToOwned::to_owned);
        self.port.as_deref().map(canonical_port).transpose().context("--port")?;
        Ok(self)
    }
}

fn workload(text: &str) -> anyhow::Result<ServiceAccount> {
    let account = ServiceAccount::parse(text).ok();
    account.with_context(|| {
        format!("--destination: {text:?} is not a service account, written namespace/name")
    })
}
