//! How far the request that is being received has come: whether a head has begun and has
//! not ended.
//!
//! The HTTP library keeps what it has read of a head to itself, and reads ahead: half a
//! head may arrive with a whole request, or with the end of a body. This only tells
//! when time is up. Where it loses its way, the library refuses the request too.

/// Follows what a client sends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    place: Place,
    /// The beginning of the line or frame that is being received.
    line: Vec<u8>,
    /// What the head said of its body.
    length: u64,
    chunked: bool,
    /// How many heads have begun.
    heads: u64,
}

/// What the next byte is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// A head, the first byte of which has not come.
    #[default]
    Between,
    Head,
    /// So many bytes of a body, and then the next head.
    Body(u64),
    /// The line before a chunk.
    Size,
    /// So many bytes of a chunk and of the end of its line.
    Chunk(u64),
    Trailers,
    /// No telling.
    Lost,
    Frame(Frame),
}

/// The same over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// So many bytes of what a connection begins with.
    Preface(u64),
    /// The nine bytes before a frame's payload. Before the first frame, and between those
    /// of one head, a head is under way even if nothing of the frame has come.
    Start { of_head: bool },
    /// So many bytes of a payload.
    Payload { left: u64, of_head: bool, ends_head: bool },
}

/// Longer than a field that matters can be.
const KEPT: usize = 64;

/// The whole of what HTTP/2 begins with.
const PREFACE: u64 = 24;
const START: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

// === impl Progress ===

impl Progress {
    /// The head that has begun and not ended, by its number.
    pub(super) fn head(&self) -> Option<u64> {
        let begun = match self.place {
            Place::Head | Place::Lost | Place::Frame(Frame::Preface(_)) => true,
            Place::Frame(Frame::Start { of_head }) => of_head || !self.line.is_empty(),
            Place::Frame(Frame::Payload { of_head, .. }) => of_head,
            Place::Between | Place::Body(_) | Place::Size | Place::Chunk(_) | Place::Trailers => {
                false
            }
        };
        begun.then_some(self.heads)
    }

    /// Takes a line over HTTP/1 or a part of one; a line's end is the part's.
    pub(super) fn take_line(&mut self, part: &[u8]) {
        let mut part = part;
        while let Some(first) = part.first() {
            match self.place {
                // Empty lines before a head are not part of it (RFC 9112, section 2.2).
                Place::Between if b"\r\n".contains(first) => part = &part[1..],
                Place::Between => {
                    self.begin(Place::Head);
                    (self.length, self.chunked) = (0, false);
                }
                Place::Body(left) => {
                    let (skipped, rest) = split(part, left);
                    part = rest;
                    self.place = match left - skipped {
                        0 => Place::Between,
                        left => Place::Body(left),
                    };
                }
                Place::Chunk(left) => {
                    let (skipped, rest) = split(part, left);
                    part = rest;
                    self.place = match left - skipped {
                        0 => Place::Size,
                        left => Place::Chunk(left),
                    };
                }
                Place::Head | Place::Size | Place::Trailers => {
                    let room = KEPT - self.line.len();
                    self.line.extend_from_slice(&part[..part.len().min(room)]);
                    if part.ends_with(b"\n") {
                        self.place = self.after_line(part);
                        self.line.clear();
                    }
                    return;
                }
                Place::Lost | Place::Frame(_) => return,
            }
        }
    }

    /// What comes after the line of which the last part is given.
    fn after_line(&mut self, part: &[u8]) -> Place {
        let whole = self.line.ends_with(part);
        let line = self.line.trim_ascii();
        match self.place {
            Place::Head if line.is_empty() && self.chunked => Place::Size,
            Place::Head if line.is_empty() => match self.length {
                0 => Place::Between,
                length => Place::Body(length),
            },
            Place::Head => {
                let Some((name, value)) = field(line) else { return Place::Head };
                if name.eq_ignore_ascii_case(b"transfer-encoding") {
                    self.chunked = true;
                } else if name.eq_ignore_ascii_case(b"content-length") {
                    let digits = std::str::from_utf8(value.trim_ascii()).ok().filter(|_| whole);
                    match digits.and_then(|digits| digits.parse().ok()) {
                        Some(length) => self.length = length,
                        None => return Place::Lost,
                    }
                }
                Place::Head
            }
            Place::Size => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let digits = std::str::from_utf8(&line[..digits]).unwrap_or_default();
                match u64::from_str_radix(digits, 16) {
                    Ok(0) => Place::Trailers,
                    Ok(size) => Place::Chunk(size.saturating_add(2)),
                    Err(_) => Place::Lost,
                }
            }
            Place::Trailers if line.is_empty() => Place::Between,
            other => other,
        }
    }

    /// From here on there are frames.
    pub(super) fn begin_frames(&mut self) {
        self.begin(Place::Frame(Frame::Preface(PREFACE)));
    }

    fn begin(&mut self, place: Place) {
        self.place = place;
        self.heads += 1;
    }

    /// Takes bytes over HTTP/2.
    pub(super) fn take_frames(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let Place::Frame(frame) = self.place else { return };
            let next = match frame {
                Frame::Preface(left) => {
                    let (skipped, rest) = split(bytes, left);
                    bytes = rest;
                    match left - skipped {
                        0 => Frame::Start { of_head: true },
                        left => Frame::Preface(left),
                    }
                }
                Frame::Start { of_head } => {
                    if self.line.is_empty() && !of_head {
                        self.heads += 1;
                    }
                    let (taken, rest) = bytes.split_at(bytes.len().min(START - self.line.len()));
                    bytes = rest;
                    self.line.extend_from_slice(taken);
                    match self.line[..] {
                        [high, middle, low, kind, flags, ..] if self.line.len() == START => {
                            self.line.clear();
                            let left = u64::from(u32::from_be_bytes([0, high, middle, low]));
                            let of_head = matches!(kind, HEADERS | CONTINUATION);
                            let ends_head = !of_head || flags & END_HEADERS != 0;
                            after_payload(Frame::Payload { left, of_head, ends_head })
                        }
                        _ => frame,
                    }
                }
                Frame::Payload { left, of_head, ends_head } => {
                    let (skipped, rest) = split(bytes, left);
                    bytes = rest;
                    after_payload(Frame::Payload { left: left - skipped, of_head, ends_head })
                }
            };
            self.place = Place::Frame(next);
        }
    }
}

/// The next frame, once all of a payload has come.
fn after_payload(frame: Frame) -> Frame {
    match frame {
        Frame::Payload { left: 0, ends_head, .. } => Frame::Start { of_head: !ends_head },
        more => more,
    }
}

/// How many of the next `most` bytes are here, and what follows them.
fn split(bytes: &[u8], most: u64) -> (u64, &[u8]) {
    let taken = usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()));
    (taken as u64, &bytes[taken..])
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], &line[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::super::framing::Framing;

    fn frame(length: u8, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![b'x'; length.into()]);
        frame
    }

    /// Whether a head is under way after all of it, however it arrives.
    fn check(bytes: &[u8], expected: Option<u64>) {
        for size in [1, 2, 7, 1000] {
            let mut framing = Framing::default();
            for part in bytes.chunks(size) {
                framing.look(part);
            }
            let begun = framing.head();
            assert_eq!(begun, expected, "{:?} by {size}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn heads_that_have_begun_are_told_from_bodies() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let long = format!("GET / HTTP/1.1\r\nx: {}\r\n", "y".repeat(500));
        let spaces = format!("POST / HTTP/1.1\r\ncontent-length:{}3\r\n\r\n", " ".repeat(99));
        let cases: Vec<(String, Option<u64>)> = vec![
            (String::new(), None),
            ("G".into(), Some(1)),
            ("P".into(), Some(1)),
            ("PRI * HTTP".into(), Some(1)),
            ("\r\n\r\n".into(), None),
            ("GET / HTTP/1.1\r\nhost: a\r\n".into(), Some(1)),
            (get.into(), None),
            ("GET / HTTP/1.1\nhost: a\n\n".into(), None),
            (format!("{get}\r\n"), None),
            (format!("{get}GET"), Some(2)),
            (format!("{get}{get}P"), Some(3)),
            (format!("{long}\r\n"), None),
            (long, Some(1)),
            // Bodies are bytes, whatever they look like.
            (format!("{post}GET / "), None),
            (format!("{post}GET / HTTP/1"), None),
            (format!("{post}\r\n\r\n\r\n\r\n\r\n\r\nG"), Some(2)),
            (format!("{post}123456789012GET / HTTP/1.1\r\n"), Some(2)),
            (format!("{chunked}5\r\nGET"), None),
            (format!("{chunked}3;x=y\r\nGET\r\n0\r\n"), None),
            (format!("{chunked}3\r\nGET\r\n0\r\nx: y\r\n"), None),
            (format!("{chunked}3\r\nGET\r\n0\r\nx: y\r\n\r\n"), None),
            (format!("{chunked}A \r\n1234567890\r\n0\r\n\r\nGET"), Some(2)),
            // Nobody reads these to an end.
            ("POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n".into(), Some(1)),
            (spaces, Some(1)),
            (format!("{chunked}z\r\n"), Some(1)),
        ];
        for (text, expected) in cases {
            check(text.as_bytes(), expected);
        }
    }

    #[test]
    fn heads_in_frames_are_told_from_other_frames() {
        let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = frame(0, 4, 0);
        let cases: [(&[&[u8]], Option<u64>); 11] = [
            (&[&preface[..17]], Some(1)),
            (&[preface], Some(1)),
            (&[preface, &settings[..8]], Some(1)),
            (&[preface, &settings], None),
            (&[preface, &settings, &frame(5, 1, 4)], None),
            (&[preface, &settings, &frame(5, 1, 4)[..10]], Some(2)),
            (&[preface, &settings, &frame(5, 1, 1)], Some(2)),
            (&[preface, &settings, &frame(5, 1, 1), &frame(5, 9, 0)], Some(2)),
            (&[preface, &settings, &frame(5, 1, 1), &frame(0, 9, 4)], None),
            // Half a body may come later.
            (&[preface, &settings, &frame(5, 1, 4), &frame(9, 0, 0)[..12]], None),
            (&[preface, &settings, &frame(5, 1, 4), &frame(9, 0, 0), &frame(0, 1, 0)], Some(4)),
        ];
        for (parts, expected) in cases {
            check(&parts.concat(), expected);
        }
    }
}
