//! The thread that writes, and the queue in front of it.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::line::AuditLine;
use crate::{metrics::Metrics, telemetry::Seldom};

/// Lines that are written at once, in bytes, or a little more.
const BATCH: usize = 64 << 10;

/// A line is longer seldom.
const LINE: usize = 1 << 10;

/// How long lines gather after a write. Each line that finds the thread asleep wakes it, which
/// costs a request more than all else about its line.
const GATHER: Duration = Duration::from_millis(1);

/// Lines that may come meanwhile. A queue that holds fewer is read without a pause.
const GATHERED: usize = 1000;

type Opened = Box<dyn Write + Send>;

/// The queue. The thread ends, with all written, once nobody holds it any more.
pub(super) struct Writer {
    messages: mpsc::Sender<Message>,
    next: Arc<Next>,
    metrics: Arc<Metrics>,
    dropped: Seldom,
}

/// The sink to go on with, if it is another.
type Next = Mutex<Option<Opened>>;

enum Message {
    /// With its newline.
    Line(Vec<u8>),
    /// There may be another sink.
    Look,
    /// All lines before this one are to be written.
    Flush(oneshot::Sender<()>),
}

/// What the thread holds.
struct Output {
    sink: Opened,
    next: Arc<Next>,
    batch: Vec<u8>,
    lines: u64,
    /// Whether the last line may be there in part.
    torn: bool,
    metrics: Arc<Metrics>,
    failed: Seldom,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread; `capacity` lines wait at most.
    pub(super) fn start(sink: Opened, capacity: usize, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (messages, received) = mpsc::channel(capacity);
        let next = Arc::new(Next::default());
        let output = Output {
            sink,
            next: Arc::clone(&next),
            batch: Vec::new(),
            lines: 0,
            torn: false,
            metrics: Arc::clone(&metrics),
            failed: Seldom::default(),
        };
        thread::Builder::new().name("audit".to_owned()).spawn(|| output.run(received))?;
        Ok(Self { messages, next, metrics, dropped: Seldom::default() })
    }

    /// Queues a line, or drops it.
    pub(super) fn write(&self, line: &AuditLine) {
        let mut bytes = Vec::with_capacity(LINE);
        serde_json::to_writer(&mut bytes, line).expect("strings and numbers are always JSON");
        bytes.push(b'\n');
        if self.messages.try_send(Message::Line(bytes)).is_ok() {
            return;
        }
        self.metrics.audit_dropped(1);
        if let Some(left_out) = self.dropped.permit() {
            tracing::error!(left_out, "the audit sink does not keep up, a line was dropped");
        }
    }

    /// Goes on with another sink.
    pub(super) fn switch(&self, sink: Opened) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        // A full queue makes the thread look just as well.
        let _ = self.messages.try_send(Message::Look);
    }

    /// Waits until all lines so far are written.
    pub(super) async fn flush(&self) {
        let (written, wait) = oneshot::channel();
        if self.messages.send(Message::Flush(written)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

// === impl Output ===

impl Output {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut waiting = Vec::new();
        while let Some(message) = messages.blocking_recv() {
            let mut message = Some(message);
            while let Some(one) = message.take() {
                match one {
                    Message::Line(line) => {
                        self.batch.extend(line);
                        self.lines += 1;
                    }
                    Message::Look => {}
                    Message::Flush(written) => waiting.push(written),
                }
                if self.batch.len() < BATCH {
                    message = messages.try_recv().ok();
                }
            }
            self.write();
            // Some have stopped waiting.
            for written in waiting.drain(..) {
                let _ = written.send(());
            }
            if messages.is_empty() && messages.max_capacity() >= GATHERED {
                thread::sleep(GATHER);
            }
        }
    }

    fn write(&mut self) {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(next) = next {
            self.sink = next;
            self.torn = false;
        }
        if self.lines == 0 {
            return;
        }
        match self.try_write() {
            Ok(()) => {
                self.torn = false;
                self.metrics.audit_written(self.lines);
            }
            Err(error) => {
                self.torn = true;
                self.metrics.audit_dropped(self.lines);
                if let Some(left_out) = self.failed.permit() {
                    let lines = self.lines;
                    tracing::error!(%error, lines, left_out, "audit lines could not be written");
                }
            }
        }
        self.batch.clear();
        self.lines = 0;
    }

    fn try_write(&mut self) -> io::Result<()> {
        if self.torn {
            self.sink.write_all(b"\n")?;
        }
        self.sink.write_all(&self.batch)?;
        self.sink.flush()
    }
}
