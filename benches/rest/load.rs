//! Clients that read as fast as they are answered, over HTTP/1.1, and what that took. They
//! look for the end of an answer and no further, so that the time is the server's.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Clients at work.
pub(crate) struct Load {
    clients: JoinSet<Vec<Duration>>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

// === impl Load ===

impl Load {
    /// Connects, and starts to ask. Nothing is measured yet.
    pub(crate) async fn start(server: SocketAddr, connections: usize, request: &str) -> Self {
        let mut load =
            Self { clients: JoinSet::new(), measuring: Arc::default(), stopped: Arc::default() };
        for _ in 0..connections {
            let stream = connect(server).await;
            let (measuring, stopped) = (load.measuring.clone(), load.stopped.clone());
            load.clients.spawn(ask(stream, request.as_bytes().into(), measuring, stopped));
        }
        load
    }

    /// Counts from now on.
    pub(crate) fn measure(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// How long every counted request took, in order, when all that are under way are
    /// answered.
    pub(crate) async fn stop(self) -> Vec<Duration> {
        self.stopped.store(true, Ordering::Relaxed);
        let mut latencies = self.clients.join_all().await.concat();
        latencies.sort_unstable();
        latencies
    }
}

async fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).await.expect("connected");
    stream.set_nodelay(true).expect("set");
    stream
}

/// One answer, as it came.
pub(crate) async fn once(server: SocketAddr, request: &str) -> Vec<u8> {
    let mut stream = connect(server).await;
    let mut buffer = Vec::new();
    let end = answer(&mut stream, request.as_bytes(), &mut buffer).await;
    buffer.truncate(end);
    buffer
}

async fn ask(
    mut stream: TcpStream,
    request: Vec<u8>,
    measuring: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
) -> Vec<Duration> {
    let (mut latencies, mut buffer) = (Vec::new(), Vec::with_capacity(4096));
    while !stopped.load(Ordering::Relaxed) {
        let counts = measuring.load(Ordering::Relaxed);
        let sent = Instant::now();
        answer(&mut stream, &request, &mut buffer).await;
        let took = sent.elapsed();
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
        if counts {
            latencies.push(took);
        }
    }
    latencies
}

/// Sends a request and reads its answer; where that ends.
async fn answer(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> usize {
    stream.write_all(request).await.expect("sent");
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await.expect("readable");
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(buffer));
        if let Some(end) = end(buffer)
            && buffer.len() >= end
        {
            return end;
        }
    }
}

/// Where the answer ends, once its head is there.
fn end(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&buffer[..head]).expect("a head in ASCII");
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    let length: usize = length.expect("a length").parse().expect("a number");
    Some(head + length)
}
