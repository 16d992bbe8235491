//! The admin listener: probes, metrics and the state of stores and policies, on a port
//! of their own.

mod policies;

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use http::header;
use serde::Serialize;

use crate::{
    api::rfc3339, metrics::Metrics, readiness::Readiness, resolver::BackendStatus,
    snapshot::Current,
};

/// OpenMetrics, the format that prometheus-client writes.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Admin {
    current: Current,
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

/// One store in the answer of `/backends`. Nothing in it comes from the store.
#[derive(Serialize)]
struct Backend {
    name: String,
    /// As [`BackendStatus::state`].
    state: &'static str,
    in_flight: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials_expire: Option<String>,
}

#[derive(Serialize)]
struct Failure {
    kind: &'static str,
    at: Option<String>,
}

/// The routes: `/livez`, `/readyz`, `/metrics`, `/backends`, `/policies`.
pub fn router(current: Current, metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/backends", get(backends))
        .route("/policies", get(policies))
        .with_state(Admin { current, metrics, readiness })
}

/// Ready means: configuration loaded and listeners up. A store that is down does
/// not show here, or one outage would take all replicas out.
async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.readiness.is_ready() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    let snapshot = admin.current.load_full();
    snapshot.resolver.measure();
    if let Some(tokens) = &snapshot.tokens {
        tokens.measure();
    }
    match admin.metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, METRICS_TYPE)], text),
        Err(_) => {
            let text = "metrics cannot be written\n".to_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], text)
        }
    }
}

/// How the stores are doing. Asks none of them.
async fn backends(State(admin): State<Admin>) -> Json<Vec<Backend>> {
    let status = admin.current.load_full().resolver.status();
    Json(status.into_iter().map(Backend::from).collect())
}

/// Which policies are in force, and what is wrong with those that should be.
async fn policies(State(admin): State<Admin>) -> impl IntoResponse {
    policies::state(&admin.current.load_full())
}

// === impl Backend ===

impl From<BackendStatus> for Backend {
    fn from(status: BackendStatus) -> Self {
        Self {
            name: status.name.to_string(),
            state: status.state,
            in_flight: status.in_flight,
            last_answer: status.last_answer.and_then(rfc3339),
            last_failure: status.last_failure.map(|(kind, at)| Failure { kind, at: rfc3339(at) }),
            credentials_expire: status.credentials_expire.and_then(rfc3339),
        }
    }
}
