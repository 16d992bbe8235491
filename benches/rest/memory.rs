//! The memory of the program itself, which runs as a process of its own for that.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{mint::Mint, print, servers, threads::median};

const IDLE: usize = 1000;
const BODY: usize = 60 << 20;

/// A running `vaultmux-mesh serve`; ended when dropped.
struct Program {
    process: Child,
    rest: SocketAddr,
    _directory: tempfile::TempDir,
}

/// What one start of the program saw, in MiB but for `each`.
struct Start {
    fresh: f64,
    idle: f64,
    /// KiB for each idle connection.
    each: f64,
    before: f64,
    after: f64,
    peak: f64,
}

/// Measures it so many times and prints medians.
pub(crate) async fn measure(starts: usize) {
    let mut seen = Vec::new();
    for _ in 0..starts {
        seen.push(once().await);
    }
    let of = |field: fn(&Start) -> f64| median(seen.iter().map(field));
    print(&format!("\nMemory of the process (RSS), medians of {starts} starts"));
    print(&format!(
        "{:.1} MiB after a first read, {:.1} MiB with {IDLE} idle connections: {:.1} KiB each",
        of(|start| start.fresh),
        of(|start| start.idle),
        of(|start| start.each),
    ));
    print(&format!(
        "{:.1} MiB before a POST of {} MiB, {:.1} MiB after it, {:.1} MiB at most",
        of(|start| start.before),
        BODY >> 20,
        of(|start| start.after),
        of(|start| start.peak),
    ));
}

async fn once() -> Start {
    let program = Program::start();
    let read = "GET /v1/secrets/prod/key HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = crate::load::once(program.rest, read).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let fresh = program.memory("VmRSS");
    let mut connections = Vec::new();
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect(program.rest).await.expect("connected");
        // One answer each, so that what a connection needs is there.
        stream.write_all(read.as_bytes()).await.expect("sent");
        assert!(stream.read(&mut [0; 4096]).await.expect("readable") > 0);
        connections.push(stream);
    }
    let idle = program.memory("VmRSS");
    drop(connections);

    // Another process: memory that was once had is not given back.
    let program = Program::start();
    crate::load::once(program.rest, read).await;
    let before = program.memory("VmRSS");
    post(program.rest).await;
    Start {
        fresh: fresh / 1024.0,
        idle: idle / 1024.0,
        each: (idle - fresh) / IDLE as f64,
        before: before / 1024.0,
        after: program.memory("VmRSS") / 1024.0,
        peak: program.memory("VmHWM") / 1024.0,
    }
}

/// Sends a body without telling its length, until it is refused.
async fn post(server: SocketAddr) {
    let mut stream = TcpStream::connect(server).await.expect("connected");
    let head = "POST /v1/secrets HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut read, mut write) = stream.split();
    let chunk = [&b"10000\r\n"[..], &[b'x'; 1 << 16], b"\r\n"].concat();
    let sending = async {
        for _ in 0..BODY >> 16 {
            // It may be refused long before the end.
            if write.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = write.write_all(b"0\r\n\r\n").await;
    };
    let mut answer = Vec::new();
    let reading = async {
        while !answer.windows(2).any(|two| two == b"\r\n") {
            match read.read_buf(&mut answer).await {
                Ok(1..) => {}
                _ => break,
            }
        }
    };
    tokio::join!(sending, reading);
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
}

// === impl Program ===

impl Program {
    fn start() -> Self {
        let directory = servers::files(&Mint::rsa("rsa").jwks());
        let config = directory.path().join("config.yaml");
        // The address is in the log.
        let text = std::fs::read_to_string(&config).expect("written before");
        std::fs::write(&config, text.replace("level: error", "level: info")).expect("written");
        let mut process = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let rest = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).expect("readable") > 0, "it ended");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON lines");
            if line["message"] == "listening" && line["listener"] == "rest" {
                break line["address"].as_str().expect("text").parse().expect("an address");
            }
        };
        // Whatever else it says is read, so that it need not wait.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, rest, _directory: directory }
    }

    /// A figure of the kernel's, in KiB.
    fn memory(&self, what: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        let figure = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        figure.expect("a number of kB")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
