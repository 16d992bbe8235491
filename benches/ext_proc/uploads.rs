//! What long bodies do to the service's memory, all at once.

use std::sync::Arc;

use crate::{
    harness::Service,
    load::{Exchange, once},
    print, servers,
};

const AT_ONCE: usize = 64;
const PIECE: usize = 16 * 1024;
const MIB: usize = 1 << 20;

/// The most that the service has held so far, after uploads of 1 MiB and of `longest` MiB.
pub(crate) async fn measure(longest: usize) {
    // It has to say where it listens.
    let config = servers::CONFIG.replace("level: error", "level: info");
    let files = [("config.yaml", &*config), ("policies.yaml", servers::POLICIES)];
    let service = Service::start(&files).await;
    let peak = || service.peak_memory() as f64 / MIB as f64;
    print(&format!("\n{AT_ONCE} uploads at once, in which references are looked for"));
    print(&format!("{:<32} {:>8.1} MiB at most", "before", peak()));
    for length in [1, longest] {
        let exchange = Arc::new(Exchange::streamed(length * MIB / PIECE, PIECE));
        let server = service.grpc().parse().expect("gRPC listens on a port");
        once(server, &exchange, AT_ONCE).await;
        print(&format!("{:<32} {:>8.1} MiB at most", format!("{length} MiB each"), peak()));
    }
}
