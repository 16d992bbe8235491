//! An answer that does not end, read line by line: what a watch is.

use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use zeroize::Zeroizing;

use super::{Answer, ApiServer, CallError, MAX_REFUSAL, collect, text};

/// Room for the usual line.
const USUAL: usize = 16 << 10;

/// The lines of an answer. What was read is wiped.
pub struct Lines {
    body: Body,
    /// Read, and not handed out yet.
    buffer: Zeroizing<Vec<u8>>,
    longest: usize,
}

// === impl ApiServer ===

impl ApiServer {
    /// Sends a request whose answer is lines of up to `longest` bytes; a refusal is an
    /// answer as [`ApiServer::send`] has them.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn lines(
        &self,
        request: Request<bytes::Bytes>,
        longest: usize,
    ) -> Result<Result<Lines, Answer>, CallError> {
        let answer = self.client.send(request.map(Body::from)).await;
        let (head, mut body) = answer.map_err(|error| CallError::from(&error))?.into_parts();
        if head.status.is_success() {
            let buffer = Zeroizing::new(Vec::with_capacity(USUAL));
            return Ok(Ok(Lines { body, buffer, longest }));
        }
        let refusal = collect(&mut body, MAX_REFUSAL).await.unwrap_or_default();
        Ok(Err(Answer {
            status: head.status.as_u16(),
            retry_after: text(&head.headers, "retry-after"),
            audit_id: text(&head.headers, "audit-id").unwrap_or_default(),
            body: refusal,
        }))
    }
}

// === impl Lines ===

impl Lines {
    /// The next line; `None` at the end. Nothing is lost where it is dropped half way.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        let mut looked_at = 0;
        loop {
            if let Some(at) = self.buffer[looked_at..].iter().position(|byte| *byte == b'\n') {
                let end = looked_at + at;
                let line = Zeroizing::new(self.buffer[..end].to_vec());
                let mut rest = Zeroizing::new(Vec::with_capacity(USUAL.max(self.buffer.len())));
                rest.extend_from_slice(&self.buffer[end + 1..]);
                self.buffer = rest;
                return Ok(Some(line));
            }
            looked_at = self.buffer.len();
            if looked_at > self.longest {
                return Err(CallError::TooLong);
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| CallError::from(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            let length = looked_at + data.len();
            if length > self.buffer.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(2 * length));
                larger.extend_from_slice(&self.buffer);
                self.buffer = larger;
            }
            self.buffer.extend_from_slice(data);
        }
    }
}
