//! Requests whose end two readers would see in different places (RFC 9112, section 6.1).
//!
//! The HTTP library takes `Transfer-Encoding` for right and drops `Content-Length`, so
//! that nobody behind it can tell. A proxy in front that believed the other one has sent
//! us, as it thinks, one request; we would read two. The same holds for codings that are
//! not `chunked` once and alone: the library looks at the last of them only.

use super::progress::Progress;

/// Looks at the lines that a client sends over HTTP/1. Bodies are not told from heads: a
/// line in a body that begins like such a field is taken for one, and JSON has none.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// The beginning of the line that is being received.
    line: Vec<u8>,
    content_length: bool,
    transfer_encoding: bool,
    protocol: Protocol,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Protocol {
    /// Nothing has arrived.
    #[default]
    Unknown,
    Http1,
    Http2,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing to be said.
    Nothing,
    /// The client speaks HTTP/2, whose frames have one length.
    Frames,
    /// Both fields in one block of lines, or another coding than `chunked`.
    Ambiguous,
}

/// Longer than the fields that matter.
const KEPT: usize = 64;
/// How HTTP/2 begins. Methods may begin with a part of it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

// === impl Framing ===

impl Framing {
    /// Looks at what arrived.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Seen {
        if self.protocol == Protocol::Unknown {
            let arrived = self.line.len() + bytes.len();
            let first = self.line.iter().chain(bytes).take(PREFACE.len());
            match (first.eq(&PREFACE[..PREFACE.len().min(arrived)]), arrived < PREFACE.len()) {
                (true, true) => {
                    self.line.extend_from_slice(bytes);
                    return Seen::Nothing;
                }
                (true, false) => {
                    self.protocol = Protocol::Http2;
                    self.progress.begin_frames();
                    self.progress.take_frames(&self.line);
                    self.progress.take_frames(bytes);
                    return Seen::Frames;
                }
                (false, _) => {
                    self.protocol = Protocol::Http1;
                    self.progress.take_line(&self.line);
                }
            }
        }
        if self.protocol == Protocol::Http2 {
            self.progress.take_frames(bytes);
            return Seen::Nothing;
        }
        let mut seen = Seen::Nothing;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.progress.take_line(part);
            let room = KEPT - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                if self.end_line() {
                    seen = Seen::Ambiguous;
                }
                self.line.clear();
            }
        }
        seen
    }

    /// Which head has begun and not ended, by its number on this connection.
    pub(super) fn head(&self) -> Option<u64> {
        match self.protocol {
            Protocol::Unknown => (!self.line.is_empty()).then_some(1),
            Protocol::Http1 | Protocol::Http2 => self.progress.head(),
        }
    }

    /// Whether this line makes two lengths of one, or an end that is read in two ways.
    fn end_line(&mut self) -> bool {
        let line = self.line.as_slice();
        if matches!(line, b"\n" | b"\r\n") {
            (self.content_length, self.transfer_encoding) = (false, false);
            return false;
        }
        let names = |name: &[u8]| {
            let start = line.get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        self.content_length |= names(b"content-length");
        if !names(b"transfer-encoding") {
            return self.content_length && self.transfer_encoding;
        }
        let again = std::mem::replace(&mut self.transfer_encoding, true);
        let value = line.split(|byte| *byte == b':').nth(1).unwrap_or_default();
        let alone = value.trim_ascii().eq_ignore_ascii_case(b"chunked");
        again || !alone || self.content_length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lengths_are_seen_however_they_arrive() {
        let cases: [(&str, bool); 17] = [
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: y\r\nCONTENT-LENGTH:5\r\n\r\n",
                true,
            ),
            ("POST / HTTP/1.1\ncontent-length: 5\ntransfer-encoding: chunked\n\n", true),
            ("POST / HTTP/1.1\r\ncontent-length : 5\r\ntransfer-encoding : x\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nx-content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", false),
            (
                "POST / HTTP/1.1\r\nx: content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                false,
            ),
            ("GET / HTTP/1.1\r\n\r\n", false),
            // A method that begins as HTTP/2 does.
            (
                "PROPFIND / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
                true,
            ),
            ("PRI / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: ,chunked\r\n\r\n", true),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
                true,
            ),
            ("POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\n\r\n", false),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                false,
            ),
        ];
        for (text, expected) in cases {
            for size in [1, 2, 7, 1000] {
                let mut framing = Framing::default();
                let looked = text.as_bytes().chunks(size).map(|part| framing.look(part));
                let found = looked.collect::<Vec<_>>().contains(&Seen::Ambiguous);
                assert_eq!(found, expected, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn frames_have_one_length() {
        let mut framing = Framing::default();
        assert_eq!(framing.look(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Seen::Frames);
        let lines = b"\ncontent-length: 1\ntransfer-encoding: chunked\n";
        assert_eq!(framing.look(lines), Seen::Nothing);
    }
}
