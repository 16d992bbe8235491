//! What a message's headers say about its body.

use envoy_types::pb::envoy::{config::core::v3::HeaderValue, service::ext_proc::v3::HttpHeaders};

/// How a message goes on after its headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// What `content-length` announces, if it has one reading.
    pub length: Option<u64>,
    /// What follows is no body but another protocol: CONNECT, an upgrade, WebSocket.
    pub tunnel: bool,
    /// Nothing follows.
    pub ends: bool,
}

// === impl Framing ===

impl Framing {
    pub(super) fn of(message: &HttpHeaders) -> Self {
        let mut framing = Self { ends: message.end_of_stream, ..Self::default() };
        let mut lengths = 0;
        for header in message.headers.iter().flat_map(|map| &map.headers) {
            match header.key.as_str() {
                "content-length" => {
                    lengths += 1;
                    framing.length = length(value(header));
                }
                ":protocol" | "upgrade" => framing.tunnel = true,
                ":method" if value(header) == b"CONNECT" => framing.tunnel = true,
                ":status" if value(header) == b"101" => framing.tunnel = true,
                _ => {}
            }
        }
        if lengths > 1 {
            framing.length = None;
        }
        framing
    }
}

/// Envoy fills `raw_value`; other data planes fill `value` for some.
fn value(header: &HeaderValue) -> &[u8] {
    match header.raw_value.as_slice() {
        [] => header.value.as_bytes(),
        raw => raw,
    }
}

fn length(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderMap;

    use super::*;

    fn framing(headers: &[(&str, &str)]) -> Framing {
        let header = |(key, value): &(&str, &str)| HeaderValue {
            key: (*key).to_owned(),
            value: String::new(),
            raw_value: value.as_bytes().to_vec(),
        };
        let headers = Some(HeaderMap { headers: headers.iter().map(header).collect() });
        Framing::of(&HttpHeaders { headers, ..HttpHeaders::default() })
    }

    #[test]
    fn lengths_have_one_reading_and_tunnels_no_body() {
        let length = |length| Framing { length, ..Framing::default() };
        let tunnel = Framing { tunnel: true, ..Framing::default() };
        for (headers, expected) in [
            (&[("content-length", "10")][..], length(Some(10))),
            (&[("content-length", "0")], length(Some(0))),
            (&[("content-length", "+1")], length(None)),
            (&[("content-length", "")], length(None)),
            (&[("content-length", "1"), ("content-length", "1")], length(None)),
            (&[("content-length", "99999999999999999999")], length(None)),
            (&[(":method", "CONNECT")], tunnel),
            (&[(":method", "GET"), ("upgrade", "websocket")], tunnel),
            (&[(":protocol", "websocket")], tunnel),
            (&[(":status", "101")], tunnel),
            (&[(":status", "200")], Framing::default()),
        ] {
            assert_eq!(framing(headers), expected, "{headers:?}");
        }
    }
}
