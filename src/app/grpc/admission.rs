//! Who may ask at all: whoever asks says who is calling, and is believed.

use std::sync::Arc;

use tonic::{Request, Status, service::Interceptor};

use crate::{
    identity::{Peer, PeerPatterns},
    metrics::Metrics,
    telemetry::Seldom,
};

/// Refuses calls of peers that are not trusted.
#[derive(Clone)]
pub(super) struct Admission(Arc<Door>);

struct Door {
    /// Everyone without.
    trusted: Option<PeerPatterns>,
    metrics: Arc<Metrics>,
    refusals: Seldom,
}

// === impl Admission ===

impl Admission {
    pub(super) fn new(trusted: Option<PeerPatterns>, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Door { trusted, metrics, refusals: Seldom::default() }))
    }
}

impl Interceptor for Admission {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(trusted) = &self.0.trusted else { return Ok(request) };
        let peer = request.extensions().get::<Arc<Peer>>();
        if peer.is_some_and(|peer| trusted.admits(peer)) {
            return Ok(request);
        }
        self.0.metrics.peer_refused();
        if let Some(left_out) = self.0.refusals.permit() {
            let address = peer.map(|peer| peer.address.to_string());
            let spiffe_id = peer.and_then(|peer| peer.spiffe_id()).map(ToString::to_string);
            tracing::warn!(address, spiffe_id, left_out, "call refused: not one of trusted_peers");
        }
        Err(Status::permission_denied("peer is not trusted"))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::identity::PeerAddress;

    fn ask(trusted: Option<&str>, from: Option<&str>) -> Result<(), Code> {
        let trusted = trusted.map(|text| PeerPatterns::parse(&[text.to_owned()]).expect("valid"));
        let mut request = Request::new(());
        if let Some(from) = from {
            let address = PeerAddress::Ip(from.parse().expect("an address"));
            request.extensions_mut().insert(Arc::new(Peer::new(address, None)));
        }
        let mut admission = Admission::new(trusted, Arc::default());
        admission.call(request).map(drop).map_err(|status| status.code())
    }

    #[test]
    fn only_trusted_peers_pass() {
        for (trusted, from, expected) in [
            (Some("10.0.0.0/8"), Some("11.0.0.1"), Err(Code::PermissionDenied)),
            (Some("10.0.0.0/8"), None, Err(Code::PermissionDenied)),
            (Some("10.0.0.0/8"), Some("10.0.0.1"), Ok(())),
            (None, Some("11.0.0.1"), Ok(())),
        ] {
            assert_eq!(ask(trusted, from), expected, "{trusted:?} {from:?}");
        }
    }
}
