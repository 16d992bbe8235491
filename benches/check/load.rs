//! Clients that ask as fast as they are answered, and what that took.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, authorization_client::AuthorizationClient,
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Clients of one server: as many connections as an Envoy has worker threads, each with
/// as many requests at once.
#[derive(Clone, Copy)]
pub(crate) struct Clients {
    pub(crate) connections: usize,
    pub(crate) at_once: usize,
}

/// Requests to send one after the other, and whether to go on.
pub(crate) struct Questions {
    requests: Vec<CheckRequest>,
    next: AtomicUsize,
    /// Whether each is sent once only.
    once: bool,
    /// The code of every answer's status.
    expected: i32,
}

/// Clients at work.
pub(crate) struct Load {
    clients: JoinSet<Vec<Duration>>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

// === impl Questions ===

impl Questions {
    /// Asked over and over, and allowed.
    pub(crate) fn allowed(requests: Vec<CheckRequest>) -> Arc<Self> {
        Arc::new(Self { requests, next: AtomicUsize::new(0), once: false, expected: 0 })
    }

    /// Asked once each, and refused for want of an identity.
    pub(crate) fn refused(requests: Vec<CheckRequest>) -> Arc<Self> {
        let expected = tonic::Code::Unauthenticated.into();
        Arc::new(Self { requests, next: AtomicUsize::new(0), once: true, expected })
    }

    /// Whether each is asked once only.
    pub(crate) fn once(&self) -> bool {
        self.once
    }

    fn next(&self) -> Option<CheckRequest> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        if self.once && at >= self.requests.len() {
            return None;
        }
        Some(self.requests[at % self.requests.len()].clone())
    }
}

// === impl Clients ===

impl Clients {
    /// How many requests there are at once.
    pub(crate) fn total(self) -> usize {
        self.connections * self.at_once
    }

    /// Connects, and starts to ask. Nothing is measured yet.
    pub(crate) async fn start(self, server: SocketAddr, questions: &Arc<Questions>) -> Load {
        let mut load =
            Load { clients: JoinSet::new(), measuring: Arc::default(), stopped: Arc::default() };
        for _ in 0..self.connections {
            let endpoint = Endpoint::new(format!("http://{server}")).expect("an address");
            let channel = endpoint.tcp_nodelay(true).connect().await.expect("connected");
            for _ in 0..self.at_once {
                let client = AuthorizationClient::new(channel.clone());
                let questions = Arc::clone(questions);
                let (measuring, stopped) = (load.measuring.clone(), load.stopped.clone());
                load.clients.spawn(ask(client, questions, measuring, stopped));
            }
        }
        load
    }
}

async fn ask(
    mut client: AuthorizationClient<Channel>,
    questions: Arc<Questions>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        let Some(request) = questions.next() else { break };
        let counts = measuring.load(Ordering::Relaxed);
        let sent = Instant::now();
        let answer = client.check(request).await.expect("an answer").into_inner();
        let took = sent.elapsed();
        assert_eq!(answer.status.map(|status| status.code), Some(questions.expected));
        if counts {
            latencies.push(took);
        }
    }
    latencies
}

// === impl Load ===

impl Load {
    /// Counts from now on.
    pub(crate) fn measure(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// How long every counted request took, in order, when all that are under way are
    /// answered.
    pub(crate) async fn stop(self) -> Vec<Duration> {
        self.stopped.store(true, Ordering::Relaxed);
        self.end().await
    }

    /// The same when there is nothing left to ask.
    pub(crate) async fn end(self) -> Vec<Duration> {
        let mut latencies = self.clients.join_all().await.concat();
        latencies.sort_unstable();
        latencies
    }
}
