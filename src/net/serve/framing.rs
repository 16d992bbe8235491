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
    use proptest::{collection::vec, prelude::*, sample::select};

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

    /// Parts of conversations over HTTP/1, whole and broken.
    const LINES: [&str; 24] = [
        "GET / HTTP/1.1\r\n",
        "POST /a:b HTTP/1.1\n",
        "PRI * HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r",
        "host: a\r\n",
        "content-length: 5\r\n",
        "Content-Length: 0\n",
        "content-length: 18446744073709551615\r\n",
        "content-length: -1\r\n",
        "content-length:                                                               7\r\n",
        "transfer-encoding: chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
        "upgrade: h2c\r\n",
        "\r\n",
        "\n",
        "\r",
        "5\r\nGET /\r\n",
        "3;x=y\r\n\r\n\r\r\n",
        "ffffffffffffffff\r\n",
        "z\r\n",
        "0\r\n\r\n",
        "0\r\nx: y\r\n\r\n",
        "12345",
    ];

    /// Frames, and what begins them.
    const FRAMES: [&[u8]; 12] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // SETTINGS.
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        // HEADERS that end, one of them padded, and that do not.
        &[0, 0, 3, 1, 4, 0, 0, 0, 1, b'x', b'x', b'x'],
        &[0, 0, 3, 1, 12, 0, 0, 0, 1, 2, 0, 0],
        &[0, 0, 1, 1, 1, 0, 0, 0, 1, b'x'],
        // CONTINUATION, empty, not the last, and the last.
        &[0, 0, 0, 9, 0, 0, 0, 0, 1],
        &[0, 0, 2, 9, 0, 0, 0, 0, 1, b'\r', b'\n'],
        &[0, 0, 1, 9, 4, 0, 0, 0, 1, b'x'],
        // DATA, padded, and longer than what comes.
        &[0, 0, 4, 0, 8, 0, 0, 0, 1, 2, b'x', 0, 0],
        &[255, 255, 255, 0, 0, 0, 0, 0, 1],
        // RST_STREAM.
        &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8],
        // No frame at all.
        b"GET / HTTP/1.1\r\n",
    ];

    /// What is known after all these parts.
    fn after<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> (bool, bool, Option<u64>) {
        let (mut framing, mut seen) = (Framing::default(), Vec::new());
        seen.extend(parts.into_iter().map(|part| framing.look(part)));
        (seen.contains(&Seen::Ambiguous), seen.contains(&Seen::Frames), framing.head())
    }

    /// Every beginning of a conversation tells the same whole, cut in two anywhere, by single
    /// bytes, and in these sizes.
    fn check_cuts(bytes: &[u8], sizes: &[usize]) {
        let mut bytewise = (Framing::default(), false, false);
        let mut sized = (Framing::default(), false, false);
        let add = |(framing, ambiguous, frames): &mut (Framing, bool, bool), part: &[u8]| {
            let seen = framing.look(part);
            *ambiguous |= seen == Seen::Ambiguous;
            *frames |= seen == Seen::Frames;
            (*ambiguous, *frames, framing.head())
        };
        let (mut begun, mut sizes) = (0, sizes.iter().cycle());
        let mut until = sizes.next().copied().unwrap_or(1);
        for end in 1..=bytes.len() {
            let whole = after([&bytes[..end]]);
            let text = || String::from_utf8_lossy(&bytes[..end]).into_owned();
            assert_eq!(add(&mut bytewise, &bytes[end - 1..end]), whole, "bytewise {:?}", text());
            if end == until {
                assert_eq!(add(&mut sized, &bytes[begun..end]), whole, "in sizes {:?}", text());
                (begun, until) = (end, end + sizes.next().copied().unwrap_or(1));
            }
        }
        let whole = after([bytes]);
        for cut in 0..=bytes.len() {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(after([first, second]), whole, "cut at {cut}: {bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn lines_tell_the_same_however_they_are_cut(
            parts in vec(select(&LINES[..]), 1..14),
            sizes in vec(1..40_usize, 1..9),
        ) {
            check_cuts(parts.concat().as_bytes(), &sizes);
        }

        #[test]
        fn frames_tell_the_same_however_they_are_cut(
            parts in vec(select(&FRAMES[..]), 1..14),
            sizes in vec(1..40_usize, 1..9),
        ) {
            check_cuts(&[FRAMES[0], &parts.concat()].concat(), &sizes);
        }
    }

    #[test]
    fn a_thousand_requests_at_once_are_a_thousand_heads() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\n";
        let all = format!("{}G", [get, post].concat().repeat(500));
        assert_eq!(after([all.as_bytes()]), (false, false, Some(1001)));
    }

    #[test]
    fn a_flood_of_continuations_is_one_head() {
        let mut framing = Framing::default();
        framing.look(FRAMES[0]);
        framing.look(FRAMES[1]);
        framing.look(FRAMES[4]);
        let begun = framing.head();
        assert!(begun.is_some());
        for _ in 0..10_000 {
            framing.look(FRAMES[5]);
            framing.look(FRAMES[6]);
            assert_eq!(framing.head(), begun);
        }
        framing.look(FRAMES[7]);
        assert_eq!(framing.head(), None);
    }
}
