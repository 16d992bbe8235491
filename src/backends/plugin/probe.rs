//! What a plugin must do besides what every store must: the checks of
//! `vaultmux-mesh plugin test`.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    MAX_NAMES, PAGE, Plaintext, PluginBackend, PluginInfo, PluginSettings, ask,
    connection::Session,
    error::is_of_transport,
    proto::{CreateRequest, DeleteRequest, GetRequest, ListRequest},
    request_id,
};
use crate::{
    backends::{
        BackendError, Change, SecretBackend,
        conformance::{self, Check, Checked, Profile, check},
    },
    secret::{NameEncoding, SecretValue},
};

/// The longest value to try; a plugin may hold more.
const LONGEST_VALUE: usize = 1 << 20;
/// Of a store that lists on and on, so many pages are enough.
const MAX_PAGES: usize = 1000;
const CANARY: &str = "canary-9d41b7";

/// What was found out about a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it says it is.
    pub info: PluginInfo,
    /// Goes before the names of the secrets that the checks made.
    pub prefix: String,
    /// Every check, in the order in which they were made.
    pub checks: Vec<Check>,
}

struct Probe<'a> {
    backend: &'a PluginBackend,
    session: &'a Session,
}

/// Runs every check over a plugin. It writes if the plugin can: below the prefix, or
/// below one of its own if none is given; and it deletes what it made.
///
/// # Errors
/// As any call, if the plugin cannot be asked at all.
pub async fn probe(settings: PluginSettings, timeout: Duration) -> Result<Report, BackendError> {
    let mut backend = PluginBackend::new(settings, timeout);
    let info = backend.info().await?;
    let session = backend.session(&request_id(), Instant::now() + timeout).await?;
    let can = session.capabilities;
    if backend.settings.prefix.is_empty() {
        let separator = if can.slashes { '/' } else { '-' };
        backend.settings.prefix = format!("vaultmux-test-{:08x}{separator}", fastrand::u32(..));
    }
    let probe = Probe { backend: &backend, session: &session };
    let lists = if can.list { Ok(()) } else { Err("the plugin does not list") };
    let writes = if can.writable { Ok(()) } else { Err("the plugin is read-only") };
    let watches = if can.watch { Ok(()) } else { Err("the plugin does not watch") };
    let read_only = if can.writable { Err("the plugin is writable") } else { Ok(()) };
    let mut checks = vec![
        check("the health service says SERVING", Ok(()), probe.health()).await,
        check("calls at the same time are all answered", Ok(()), probe.concurrency()).await,
        check("a short deadline harms nothing", Ok(()), probe.deadline()).await,
        check("versions of a missing secret are not found", Ok(()), probe.no_versions()).await,
        check("malformed names lead to no secret", Ok(()), probe.malformed_names()).await,
        check("names and page tokens are well-formed", lists, probe.pages()).await,
        check("an unknown page token is no failure", lists, probe.unknown_token()).await,
        check("writing to a read-only plugin is refused", read_only, probe.refuses()).await,
        check("refusals do not repeat the value", writes, probe.quotes()).await,
        check("a watch begins at once and tells of writes", watches, probe.watch(timeout)).await,
    ];
    let profile = profile(&session);
    checks.extend(conformance::run(&backend, profile).await);
    if can.writable && can.list {
        sweep(&backend).await;
    }
    Ok(Report { info, prefix: backend.settings.prefix, checks })
}

fn profile(session: &Session) -> Profile {
    let can = session.capabilities;
    Profile {
        join: if can.slashes { |words| words.join("/") } else { |words| words.join("-") },
        odd_names: if can.slashes { &["of.a_secret+1=2@x-y", "a/b/c/d"] } else { &["a-0"] },
        history: can.history,
        previous: can.previous,
        empty_values: can.empty_values,
        max_value: session.info.max_value.min(LONGEST_VALUE),
        lists: can.list,
        pages: can.pages,
        recoverable: can.recoverable,
        writable: can.writable,
        ..Profile::new(PluginBackend::GRAMMAR)
    }
}

/// Deletes what failed checks left behind.
async fn sweep(backend: &PluginBackend) {
    let mut cursor = None::<String>;
    for _ in 0..MAX_PAGES {
        let Ok(page) = backend.list(cursor.as_deref()).await else { return };
        for name in page.names.iter().filter(|name| name.as_str().starts_with("conformance")) {
            // It failed a check before: that is said there.
            let _ = backend.delete(name, true).await;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return;
        }
    }
}

fn of_code(status: &Status) -> String {
    match is_of_transport(status) {
        true => "the connection broke".to_owned(),
        false => format!("{:?}", status.code()),
    }
}

// === impl Probe ===

impl Probe<'_> {
    fn ask<Q>(&self, message: Q) -> Request<Q> {
        ask(message, &request_id(), Instant::now() + self.backend.timeout)
    }

    fn get(&self, name: &str) -> impl Future<Output = Result<(), Status>> + use<> {
        let request = self.ask(GetRequest { name: name.to_owned(), version: String::new() });
        let mut client = self.session.client.clone();
        async move {
            // The value, if there is one, is wiped.
            let found = client.get(request).await?.into_inner();
            drop(SecretValue::new(found.value));
            Ok(())
        }
    }

    fn missing(&self) -> String {
        format!("{}conformance-missing", self.backend.settings.prefix)
    }

    async fn health(&self) -> Checked {
        let request = self.ask(HealthCheckRequest::default());
        match HealthClient::new(self.session.wire.clone()).check(request).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
            Ok(answer) => Err(format!("it says {}", answer.get_ref().status().as_str_name())),
            Err(status) => Err(format!("grpc.health.v1.Health/Check: {}", of_code(&status))),
        }
    }

    async fn concurrency(&self) -> Checked {
        let missing = self.missing();
        let answers = join_all((0..32).map(|_| self.get(&missing))).await;
        let wrong = answers.iter().find_map(|answer| match answer {
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => Some(of_code(status)),
            Ok(()) => Some("Ok".to_owned()),
        });
        wrong.map_or(Ok(()), |seen| Err(format!("{seen} instead of NotFound")))
    }

    async fn deadline(&self) -> Checked {
        for millis in [0, 1, 5] {
            let message = GetRequest { name: self.missing(), version: String::new() };
            let deadline = Instant::now() + Duration::from_millis(millis);
            // Whether it made it does not matter.
            let _ = self.session.client.clone().get(ask(message, &request_id(), deadline)).await;
        }
        match self.get(&self.missing()).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(format!("{} for the call after it", of_code(&status))),
            Ok(()) => Err("Ok for the call after it".to_owned()),
        }
    }

    async fn no_versions(&self) -> Checked {
        let missing = PluginBackend::GRAMMAR
            .canonical("conformance-missing", NameEncoding::Plain)
            .map_err(|error| error.to_string())?;
        match self.backend.versions(&missing).await {
            Err(BackendError::NotFound) => Ok(()),
            Err(error) => Err(format!("{} instead of not_found: {error}", error.kind())),
            Ok(_) => Err("versions were listed".to_owned()),
        }
    }

    async fn malformed_names(&self) -> Checked {
        let long = "a".repeat(4096);
        for name in [
            "",
            ".",
            "..",
            "/",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a//b",
            "a/",
            "a\\b",
            "a\0b",
            "a\nb",
            "%2e%2e/x",
            "\u{e9}",
            "'",
            "*",
            &long,
        ] {
            let seen = match self.get(name).await {
                Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
                    continue;
                }
                Err(status) => of_code(&status),
                Ok(()) => "Ok".to_owned(),
            };
            let name = &name[..name.len().min(32)];
            return Err(format!("{name:?}: {seen} instead of NotFound or InvalidArgument"));
        }
        Ok(())
    }

    async fn pages(&self) -> Checked {
        let mut token = String::new();
        for _ in 0..MAX_PAGES {
            let message =
                ListRequest { prefix: String::new(), page_size: PAGE, page_token: token.clone() };
            let page = self.session.client.clone().list(self.ask(message)).await;
            let page = page.map_err(|status| of_code(&status))?.into_inner();
            for name in &page.names {
                PluginBackend::GRAMMAR
                    .canonical(name, NameEncoding::Plain)
                    .map_err(|error| format!("{name:?} is left out of lists: {error}"))?;
            }
            let count = page.names.len();
            let pages = self.session.capabilities.pages;
            if pages && count > PAGE as usize {
                return Err(format!("{count} names where {PAGE} were asked for"));
            }
            if count > MAX_NAMES {
                return Err(format!("{count} names; {MAX_NAMES} are taken"));
            }
            if !pages && !page.next_page_token.is_empty() {
                return Err("a page token, and no capability of pages".to_owned());
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            if page.next_page_token == token {
                return Err("the next page has the token of this one".to_owned());
            }
            token = page.next_page_token;
        }
        Ok(())
    }

    async fn unknown_token(&self) -> Checked {
        let page_token = "no-such-token".to_owned();
        let message = ListRequest { prefix: String::new(), page_size: PAGE, page_token };
        match self.session.client.clone().list(self.ask(message)).await {
            Err(status) if status.code() != Code::InvalidArgument => {
                Err(format!("{} instead of InvalidArgument", of_code(&status)))
            }
            _ => Ok(()),
        }
    }

    async fn refuses(&self) -> Checked {
        let name = format!("{}conformance-written", self.backend.settings.prefix);
        let message = CreateRequest { name, value: "x".into() };
        match self.session.client.clone().create(self.ask(message)).await {
            Err(status)
                if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied) =>
            {
                Ok(())
            }
            Err(status) => Err(format!("create: {} instead of Unimplemented", of_code(&status))),
            Ok(_) => Err("create succeeded".to_owned()),
        }
    }

    async fn quotes(&self) -> Checked {
        let name = format!("{}conformance-quoted", self.backend.settings.prefix);
        let value = Plaintext::of(&SecretValue::new(CANARY));
        let mut client = self.session.client.clone();
        let create = CreateRequest { name: name.clone(), value };
        let first = client.create(self.ask(create.clone())).await;
        let again = client.create(self.ask(create)).await;
        // Whether the rest works is for other checks.
        let delete = DeleteRequest { name, force: true };
        let gone = client.delete(self.ask(delete)).await;
        let said = [first.err(), again.err(), gone.err()];
        let quoted = said.iter().flatten().any(|status| status.message().contains(CANARY));
        if quoted { Err("an error's message holds the value".to_owned()) } else { Ok(()) }
    }

    async fn watch(&self, timeout: Duration) -> Checked {
        let words = |error: BackendError| format!("{}: {error}", error.kind());
        let mut changes = self.backend.open_watch().await.map_err(words)?;
        if !self.session.capabilities.writable {
            return Ok(());
        }
        let name = PluginBackend::GRAMMAR
            .canonical("conformance-watched", NameEncoding::Plain)
            .map_err(|error| error.to_string())?;
        let value = SecretValue::new("x");
        // Whether those work is for other checks.
        let _ = self.backend.create(&name, &value).await;
        let mut told = async |what: &str| {
            let found = async {
                while let Some(change) = changes.next().await {
                    if change.map_err(words)? == Change::Secret(name.clone()) {
                        return Ok(());
                    }
                }
                Err(format!("it ended before it told of a {what}"))
            };
            let found = tokio::time::timeout(timeout, found).await;
            found.unwrap_or_else(|_| Err(format!("it did not tell of a {what}")))
        };
        let created = told("create").await;
        let _ = self.backend.delete(&name, true).await;
        created?;
        told("delete").await
    }
}
