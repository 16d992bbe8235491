//! The gRPC listener: `ext_authz`, `ext_proc`, health and reflection.

mod admission;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use envoy_types::pb::envoy::service::{
    auth::v3::authorization_server::AuthorizationServer,
    ext_proc::v3::external_processor_server::ExternalProcessorServer,
};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::interceptor::InterceptedService, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;

use self::admission::Admission;
use crate::{
    config::{ConfiguredMode, ExtProcConfig},
    ext_authz::ExtAuthz,
    ext_proc::{BodyMode, ExtProc, ExtProcSettings, Modes, PhaseSettings},
    identity::PeerPatterns,
    metrics::Metrics,
    net::Incoming,
    snapshot::Current,
};

/// Descriptors of the two services and all that they refer to; a test holds them
/// against those of the `envoy-types` crate.
const DESCRIPTORS: &[u8] = include_bytes!("../../proto/envoy.bin");

/// Server-sent events and WebSockets pin a stream each for as long as they last.
const MAX_STREAMS: u32 = 4096;
/// A stream that is not read while it waits for a store must not starve others.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Envoy ends every ext_proc stream by a reset; h2's default of 20 that are not
/// yet accepted is soon reached under load and would close the connection.
const MAX_PENDING_RESETS: usize = 4096;

pub(super) struct Grpc {
    ext_authz: ExtAuthz,
    ext_proc: ExtProc,
    admission: Admission,
}

/// The filter's settings, in the edge's words.
fn phases(config: ExtProcConfig) -> PhaseSettings {
    let mode = |mode| match mode {
        ConfiguredMode::None => BodyMode::None,
        ConfiguredMode::Buffered => BodyMode::Buffered,
        ConfiguredMode::BufferedPartial => BodyMode::BufferedPartial,
        ConfiguredMode::Streamed => BodyMode::Streamed,
        ConfiguredMode::FullDuplexStreamed => BodyMode::Duplex,
    };
    PhaseSettings {
        mode_override: config.mode_override,
        override_heeded: config.override_heeded,
        modes: Modes {
            request_body: mode(config.modes.request_body),
            response_body: mode(config.modes.response_body),
            request_trailers: config.modes.request_trailers,
            response_trailers: config.modes.response_trailers,
        },
        body_limit: config.body_limit,
    }
}

// === impl Grpc ===

impl Grpc {
    /// `cut_off` ends streams that are still open when the grace is over.
    pub(super) fn new(
        current: Current,
        metrics: Arc<Metrics>,
        config: ExtProcConfig,
        cut_off: CancellationToken,
    ) -> Self {
        let settings = ExtProcSettings {
            message_budget: config.message_budget,
            max_message_timeout: config.max_message_timeout,
            duplex_budget: config.duplex_budget,
            phases: phases(config),
        };
        Self {
            admission: Admission::new(None, Arc::clone(&metrics)),
            ext_authz: ExtAuthz::new(current.clone(), Arc::clone(&metrics)),
            ext_proc: ExtProc::new(current, metrics, settings).ending_on(cut_off),
        }
    }

    /// Lets these peers alone ask, if given; health and reflection stay open.
    pub(super) fn trusting(mut self, peers: Option<PeerPatterns>, metrics: Arc<Metrics>) -> Self {
        self.admission = Admission::new(peers, metrics);
        self
    }

    pub(super) async fn serve(
        self,
        incoming: Incoming,
        stopped: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let (reporter, health) = tonic_health::server::health_reporter();
        report(&reporter, ServingStatus::Serving).await;
        let reflection = || {
            Reflection::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let stopped = async {
            stopped.await;
            report(&reporter, ServingStatus::NotServing).await;
        };
        Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .add_service(health)
            .add_service(reflection().build_v1().context("reflection")?)
            .add_service(reflection().build_v1alpha().context("reflection")?)
            .add_service(InterceptedService::new(
                self.ext_authz.into_server(),
                self.admission.clone(),
            ))
            .add_service(InterceptedService::new(self.ext_proc.into_server(), self.admission))
            .serve_with_incoming_shutdown(incoming, stopped)
            .await
            .context("gRPC listener")
    }
}

/// Health of the server as a whole and of each service by name.
async fn report(reporter: &HealthReporter, status: ServingStatus) {
    let names = [
        "",
        <AuthorizationServer<ExtAuthz> as NamedService>::NAME,
        <ExternalProcessorServer<ExtProc> as NamedService>::NAME,
    ];
    for name in names {
        reporter.set_service_status(name, status).await;
    }
}
