//! Puts everything together: builds the snapshot, binds the listeners, serves,
//! reloads, drains. The only module that may name every other.

mod build;
mod grpc;
mod reload;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::reload::{Reloader, Watch};
use crate::{
    admin,
    config::{Address, Config, Environment, Mode},
    metrics::Metrics,
    net::{Bound, serve::serve},
    readiness::Readiness,
    rest::{Rest, RestSettings},
    snapshot::Current,
    telemetry::LogLevel,
};

pub use self::build::{BuildError, grant_keys, load_policies, webhooks};

/// How long streams have to tell their end once the grace is over.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long a value that may not be served any more stays in memory at most.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// A running service.
pub struct App {
    addresses: Addresses,
    readiness: Readiness,
    current: Current,
    reloader: Reloader,
    servers: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    /// Ends streams that would go on for ever.
    stop_streams: CancellationToken,
    cut_off: CancellationToken,
    grace: Duration,
}

/// Where the listeners are.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `ext_authz`, `ext_proc`, health and reflection.
    pub grpc: Address,
    /// The REST API.
    pub rest: Address,
    /// Probes and metrics.
    pub admin: Address,
}

// === impl App ===

impl App {
    /// Builds the service and starts serving. Returns once every listener is up.
    ///
    /// # Errors
    /// One line that says what cannot be used: a policy, a store's settings, a
    /// certificate, an address.
    pub async fn start(
        config: Config,
        environment: Environment,
        log_level: LogLevel,
    ) -> anyhow::Result<Self> {
        announce(&config);
        let watch = Watch::start(&config);
        let metrics = Arc::new(Metrics::default());
        let readiness = Readiness::default();
        let built = build::first(&config, Arc::clone(&metrics)).await?;
        let current = Current::new(built.snapshot.clone());

        let listeners = &config.listeners;
        let grpc = Bound::new("grpc", &listeners.grpc, &["h2"]).await.context("listeners.grpc")?;
        let rest = Bound::new("rest", &listeners.rest, &["h2", "http/1.1"])
            .await
            .context("listeners.rest")?;
        let admin = Bound::new("admin", &listeners.admin, &[]).await.context("listeners.admin")?;
        let certificates = [&grpc, &rest].into_iter().filter_map(Bound::certificates).cloned();
        let certificates: Vec<_> = certificates.collect();
        let addresses = Addresses {
            grpc: grpc.address().clone(),
            rest: rest.address().clone(),
            admin: admin.address().clone(),
        };

        let (stop, stopping) = watch::channel(false);
        let stopped = || {
            let mut stopped = stopping.clone();
            async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            }
        };
        let cut_off = CancellationToken::new();
        let mut servers = JoinSet::new();
        let grpc_server = grpc::Grpc::new(
            current.clone(),
            Arc::clone(&metrics),
            config.ext_proc,
            cut_off.clone(),
        )
        .trusting(listeners.grpc.trusted_peers.clone(), Arc::clone(&metrics));
        servers.spawn(grpc_server.serve(grpc.accept(), stopped()));

        let settings = RestSettings {
            local_listener: addresses.rest.is_local(),
            require_request_header: listeners.require_request_header,
        };
        let stopping_streams = CancellationToken::new();
        let routers = Rest::new(current.clone(), Arc::clone(&metrics), settings)
            .stopping_on(stopping_streams.clone())
            .into_routers();
        let server = serve(
            rest.accept(),
            routers,
            config.connections,
            Arc::clone(&metrics),
            stopping.clone(),
        );
        servers.spawn(async {
            server.await;
            Ok(())
        });

        let router = admin::router(current.clone(), Arc::clone(&metrics), readiness.clone());
        let server = axum::serve(admin.accept(), router).with_graceful_shutdown(stopped());
        servers.spawn(async { server.await.context("admin listener") });

        servers.spawn(housekeeping(current.clone(), stopped()));

        for (listener, address) in
            [("grpc", &addresses.grpc), ("rest", &addresses.rest), ("admin", &addresses.admin)]
        {
            tracing::info!(listener, %address, "listening");
        }
        if listeners.rest.health_on_all_addresses {
            tracing::info!("the rest listener's port answers /health on all addresses");
        }
        readiness.ready();
        let grace = config.shutdown_grace;
        let reloader =
            Reloader::new(watch, config, environment, built, current.clone(), metrics, log_level)
                .with_certificates(certificates);
        Ok(Self {
            addresses,
            readiness,
            current,
            reloader,
            servers,
            stop,
            stop_streams: stopping_streams,
            cut_off,
            grace,
        })
    }

    /// Where the listeners are.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves and reloads until `shutdown` completes, then drains: stops
    /// accepting, finishes what is in flight within the configured grace.
    ///
    /// # Errors
    /// A listener that failed.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let failed = tokio::select! {
            () = shutdown => None,
            () = self.reloader.run() => None,
            ended = self.servers.join_next() => ended,
        };
        self.readiness.draining();
        let _ = self.stop.send(true);
        self.stop_streams.cancel();
        if let Some(ended) = failed {
            self.current.load_full().audit.flush(LAST_WORDS).await;
            return flatten(ended);
        }
        tracing::info!(grace_s = self.grace.as_secs_f64(), "draining");
        let grace_ends = Instant::now() + self.grace;
        let drain = async {
            while let Some(ended) = self.servers.join_next().await {
                flatten(ended)?;
            }
            anyhow::Ok(())
        };
        tokio::pin!(drain);
        let drained = match timeout(self.grace, &mut drain).await {
            Ok(drained) => drained,
            Err(_) => {
                tracing::warn!("grace is over, requests in flight are cut off");
                // A stream must end with an error, not by its connection's end.
                self.cut_off.cancel();
                let _ = timeout(LAST_WORDS, drain).await;
                Ok(())
            }
        };
        let left = grace_ends.saturating_duration_since(Instant::now()).max(LAST_WORDS);
        self.current.load_full().audit.flush(left).await;
        drained?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Lets go of what has become too old to be used, whether anyone comes by or not.
async fn housekeeping(current: Current, stopped: impl Future<Output = ()>) -> anyhow::Result<()> {
    let tidy = async {
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            let snapshot = current.load_full();
            let (resolver, shares) = (snapshot.resolver.clone(), snapshot.shares.clone());
            drop(snapshot);
            // It looks at every entry: not on a thread that serves requests.
            let tidy = move || {
                resolver.tidy();
                shares.tidy();
            };
            let _ = tokio::task::spawn_blocking(tidy).await;
        }
    };
    tokio::select! {
        () = stopped => Ok(()),
        () = tidy => Ok(()),
    }
}

fn flatten(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended.context("a listener panicked")?
}

/// Says at start what an operator must know about the chosen mode.
fn announce(config: &Config) {
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, mode = ?config.mode, "starting");
    if config.mode == Mode::Development {
        tracing::warn!(
            "DEVELOPMENT MODE: secrets may be kept in memory or files, never use this in production"
        );
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}
