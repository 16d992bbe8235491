//! A connection that tells what goes over it, and is closed so that its client hears the
//! last answer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    activity::Activity,
    framing::{Framing, Seen},
    refusal::{Refusals, instead_of},
};
use crate::net::Connection;

/// How long a client may go on sending what nobody reads any more. Closed at once, the
/// kernel would throw away the answer that it has not read yet.
const LINGER: Duration = Duration::from_secs(2);

/// A connection and what is seen on it.
pub(super) struct Watched {
    io: Connection,
    activity: Arc<Activity>,
    framing: Framing,
    /// The head that is under way, by its number.
    head: Option<u64>,
    refusals: Arc<dyn Refusals>,
    /// What is written in place of the HTTP library's own answer.
    own: Option<Vec<u8>>,
    /// Since our side was shut down.
    lingering: Option<Pin<Box<Sleep>>>,
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(
        io: Connection,
        activity: Arc<Activity>,
        refusals: Arc<dyn Refusals>,
    ) -> Self {
        let framing = Framing::default();
        Self { io, activity, framing, head: None, refusals, own: None, lingering: None }
    }

    /// Whether these bytes are of an answer that the HTTP library made by itself, in place
    /// of which ours is written.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.own.is_none() && self.activity.has_nothing_to_say() {
            self.own = instead_of(bytes, &*self.refusals);
        }
        self.own.is_some()
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(own) = self.own.as_mut().filter(|own| !own.is_empty()) {
            let polled = Pin::new(&mut self.io).poll_write(cx, own);
            self.activity.wrote(polled.is_pending());
            match polled {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => drop(own.drain(..written)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what still comes and throws it away.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        // Now and then another connection's turn.
        for _ in 0..64 {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            let this = &mut *self;
            match this.framing.look(received) {
                Seen::Nothing => {}
                Seen::Frames => this.activity.has_frames(),
                Seen::Ambiguous => this.activity.set_ambiguous(),
            }
            let head = this.framing.head();
            if head != this.head {
                this.head = head;
                this.activity.head(head.is_some());
            }
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.activity.wrote(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(slices.iter().find(|it| !it.is_empty()).map_or(&[], |it| it)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.activity.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.poll_own(cx))?;
            match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.lingering = Some(Box::pin(sleep(LINGER))),
                other => return other,
            }
        }
        if let Poll::Ready(result) = self.poll_linger(cx) {
            return Poll::Ready(result);
        }
        match self.lingering.as_mut().map(|until| until.as_mut().poll(cx)) {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(())) | None => Poll::Ready(Ok(())),
        }
    }
}
