//! Whether a request says which host it is for, once and clearly (RFC 9112, section 3.2;
//! RFC 9113, section 8.3.1).
//!
//! Grants and rules are bound to hosts. A proxy in front that took another one of two hosts
//! has decided about another request.

use std::net::Ipv6Addr;

use http::{HeaderMap, Uri, Version, header::HOST};

/// Whether it does.
pub(super) fn is_clear(version: Version, target: &Uri, headers: &HeaderMap) -> bool {
    let mut sent = headers.get_all(HOST).iter().map(|host| host.as_bytes());
    let (host, another) = (sent.next(), sent.next().is_some());
    if another || host.is_some_and(|host| !is_host(host)) {
        return false;
    }
    let authority = target.authority().map(|authority| authority.as_str().as_bytes());
    if authority.is_some_and(|authority| !is_host(authority)) {
        return false;
    }
    match version {
        // It knows no hosts.
        Version::HTTP_09 | Version::HTTP_10 => true,
        // What the target says counts in their place, yet the field must be there.
        Version::HTTP_11 => host.is_some(),
        _ => match (authority, host) {
            (None, None) => false,
            (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
            (Some(_), None) | (None, Some(_)) => true,
        },
    }
}

/// A host that is not empty, and a port or none: never a user.
fn is_host(text: &[u8]) -> bool {
    let (is_name, port) = if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let address = std::str::from_utf8(&rest[..end]).ok();
        (address.is_some_and(|it| it.parse::<Ipv6Addr>().is_ok()), &rest[end + 1..])
    } else {
        let end = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
        (is_name(&text[..end]), &text[end..])
    };
    is_name
        && match port {
            [] | [b':'] => true,
            [b':', digits @ ..] => {
                let digits = Some(digits).filter(|it| it.iter().all(u8::is_ascii_digit));
                let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
                digits.is_some_and(|digits| digits.parse::<u16>().is_ok())
            }
            _ => false,
        }
}

/// `reg-name` of RFC 3986, which IPv4 addresses are too.
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            (byte, _) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => after,
            _ => return false,
        };
    }
    !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_clear_or_refused() {
        let (one, old, two) = (Version::HTTP_11, Version::HTTP_10, Version::HTTP_2);
        let cases: &[(Version, &str, &[&str], bool)] = &[
            (one, "/", &[], false),
            (one, "/", &["a", "a"], false),
            (one, "/", &["a", "b"], false),
            (one, "/", &[""], false),
            (one, "/", &["a b"], false),
            (one, "/", &["a, b"], false),
            (one, "/", &["user@a"], false),
            (one, "/", &["a/b"], false),
            (one, "/", &["http://a"], false),
            (one, "/", &["a:port"], false),
            (one, "/", &["a:65536"], false),
            (one, "/", &["a:1:2"], false),
            (one, "/", &["[::1"], false),
            (one, "/", &["[::1]x"], false),
            (one, "/", &["[zz]"], false),
            (one, "/", &["%zz"], false),
            (one, "/", &["é"], false),
            (one, "http://a/", &[], false),
            (one, "http://user@a/", &["a"], false),
            (one, "/", &["a"], true),
            (one, "/", &["A.example:8080"], true),
            (one, "/", &["a:"], true),
            (one, "/", &["127.0.0.1:80"], true),
            (one, "/", &["[fd00::2]:8080"], true),
            (one, "/", &["under_score"], true),
            (one, "/", &["%41"], true),
            (one, "http://a/", &["b"], true),
            (old, "/", &[], true),
            (old, "/", &["a", "a"], false),
            (old, "/", &["a b"], false),
            (two, "/", &[], false),
            (two, "/", &["a", "a"], false),
            (two, "http://a/", &["b"], false),
            (two, "http://a/", &["a", "a"], false),
            (two, "http://user@a/", &[], false),
            (two, "/", &["a"], true),
            (two, "http://a/", &[], true),
            (two, "http://a/", &["A"], true),
        ];
        for (version, target, hosts, expected) in cases {
            let mut headers = HeaderMap::new();
            for host in *hosts {
                headers.append(HOST, http::HeaderValue::from_bytes(host.as_bytes()).expect("sent"));
            }
            let target = target.parse().expect("a target");
            assert_eq!(is_clear(*version, &target, &headers), *expected, "{version:?} {hosts:?}");
        }
    }
}
