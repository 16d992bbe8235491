//! Serves HTTP/1.1 and HTTP/2 on accepted connections, within bounds: how many there
//! are, how long one may keep us waiting, how much it may send before anybody has looked.
//!
//! One client cannot take another's place: where there are too many connections, the one
//! that has been waiting longest without a request makes room.

mod activity;
mod framing;
mod host;
mod progress;
mod refusal;
mod stream;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use http::{HeaderValue, Request, Response, Version, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tower::{ServiceExt, service_fn};

pub use self::refusal::{Refusals, Refused};
use self::{
    activity::{Activity, Busy, Door, Ended},
    stream::Watched,
};
use super::{Connection, Incoming, RemotePeer};
use crate::metrics::Metrics;

/// The largest head of a request, over both protocols.
pub const MAX_HEAD: usize = 64 << 10;
/// The most headers in it.
pub const MAX_HEADERS: usize = 100;
/// Requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 256;
/// Streams that were reset before anybody looked at them; a client with more of them is
/// not one (rapid reset).
const MAX_PENDING_RESETS: usize = 20;
/// Streams that we reset ourselves, likewise.
const MAX_LOCAL_RESETS: usize = 256;
/// What one stream, and all of a connection, may send ahead of being read.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How often an HTTP/2 client is asked whether it is there.
const PING: Duration = Duration::from_secs(60);

/// What answers on connections.
#[derive(Clone)]
pub struct Routers {
    /// On the address that is configured.
    pub router: Router,
    /// On all others, where a listener is on them too.
    pub beyond: Router,
    /// To requests that neither of them sees.
    pub refusals: Arc<dyn Refusals>,
}

/// Bounds on connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// How many there may be.
    pub connections: usize,
    /// How long a head may take, from its first byte, or from the end of the answer before
    /// it where that came later.
    pub header_timeout: Duration,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a client may leave what we write unread.
    pub stall_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves until `stopped` says so, then finishes what is in flight. Dropping it cuts all
/// connections off.
pub async fn serve(
    mut incoming: Incoming,
    routers: Routers,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    mut stopped: watch::Receiver<bool>,
) {
    let door = Arc::new(Door::new(limits.connections, Arc::clone(&metrics)));
    let mut connections = JoinSet::new();
    let stopping = stopped.clone();
    loop {
        let connection = tokio::select! {
            () = told(&mut stopped) => break,
            Some(_) = connections.join_next() => continue,
            connection = incoming.connections.recv() => match connection {
                Some(connection) => connection,
                None => break,
            },
        };
        // Refused: too many, and all of them have work to do.
        let Some(admitted) = door.admit() else { continue };
        // Before a byte of it is read.
        let router = if connection.beyond { &routers.beyond } else { &routers.router };
        let (router, refusals) = (router.clone(), Arc::clone(&routers.refusals));
        let (metrics, stopping) = (Arc::clone(&metrics), stopping.clone());
        connections.spawn(async move {
            let activity = Arc::clone(&admitted.activity);
            let held = hold(connection, (router, refusals), limits, activity, stopping);
            if let Some(ended) = held.await {
                metrics.connection_closed(ended.as_str());
            }
            drop(admitted);
        });
    }
    // Whoever connects now is refused by the kernel.
    drop(incoming);
    while connections.join_next().await.is_some() {}
}

async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Serves one connection to its end, or says why it was closed before.
async fn hold(
    connection: Connection,
    (router, refusals): (Router, Arc<dyn Refusals>),
    limits: ConnectionLimits,
    activity: Arc<Activity>,
    mut stopped: watch::Receiver<bool>,
) -> Option<Ended> {
    let peer = RemotePeer(Arc::clone(&connection.peer));
    let io = Watched::new(connection, Arc::clone(&activity), Arc::clone(&refusals));
    let io = TokioIo::new(io);
    let seen = Arc::clone(&activity);
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer.clone()));
        answer(request.map(Body::new), router.clone(), Arc::clone(&refusals), Arc::clone(&seen))
    });
    let server = builder();
    let serving = server.serve_connection(io, TowerToHyperService::new(service));
    tokio::pin!(serving);
    let period = limits.header_timeout.min(limits.idle_timeout).min(limits.stall_timeout) / 2;
    let mut look = interval(period.max(Duration::from_millis(10)));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = false;
    loop {
        tokio::select! {
            // What goes wrong on a connection is its client's business.
            _ = serving.as_mut() => return None,
            () = told(&mut stopped), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = activity.evicted() => return Some(Ended::Evicted),
            _ = look.tick() => {
                if let Some(ended) = activity.overdue(&limits) {
                    return Some(ended);
                }
            }
        }
    }
}

async fn answer(
    request: Request<Body>,
    router: Router,
    refusals: Arc<dyn Refusals>,
    activity: Arc<Activity>,
) -> Result<Response<Body>, Infallible> {
    let busy = Busy::new(activity);
    let refused = if busy.activity().is_ambiguous() {
        Some(Refused::Ambiguous)
    } else {
        let is_clear = host::is_clear(request.version(), request.uri(), request.headers());
        (!is_clear).then_some(Refused::Host)
    };
    if let Some(refused) = refused {
        let head = (request.method(), request.headers());
        let mut refusal = refusals.refuse(refused, Some(head)).map(Body::from);
        if request.version() < Version::HTTP_2 {
            let close = HeaderValue::from_static("close");
            refusal.headers_mut().insert(header::CONNECTION, close);
        }
        return Ok(refusal.map(|body| Body::new(busy.until_sent(body))));
    }
    let response = router.oneshot(request).await?;
    Ok(response.map(|body| Body::new(busy.until_sent(body))))
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // Ours tells a head that does not end from a connection that waits for the next.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .timer(TokioTimer::new());
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .timer(TokioTimer::new());
    builder
}

#[cfg(test)]
mod tests;
