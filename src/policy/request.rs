//! What is asked: verbs, and the attributes of a request in canonical form.

use std::{borrow::Cow, fmt};

use crate::identity::ServiceAccount;

/// What a principal wants to do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Verb {
    /// Read the value.
    Get = 1,
    /// See that it exists.
    List = 1 << 1,
    /// Make a new secret.
    Create = 1 << 2,
    /// Add a version to an existing secret.
    Update = 1 << 3,
    /// Remove it.
    Delete = 1 << 4,
    /// Have it injected toward a bound destination, without reading it.
    Use = 1 << 5,
}

/// Where a request goes, as far as the proxy told. What it did not tell is
/// `None`, and never satisfies an Allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination<'a> {
    /// The request's authority, lower-case, without port. Chosen by the caller.
    pub host: Option<&'a str>,
    /// The cluster that the request was routed to.
    pub cluster: Option<&'a str>,
    /// The route that it took.
    pub route: Option<&'a str>,
    /// The server name that the downstream TLS handshake asked for.
    pub sni: Option<&'a str>,
    /// The port that the client's connection was made to, in digits.
    pub port: Option<&'a str>,
    /// `https` or `http`, as the client asked. Says nothing of how the cluster is reached.
    pub scheme: Option<&'a str>,
    /// The request's method.
    pub method: Option<&'a str>,
    /// The request's path in canonical form; `None` if it has more than one reading.
    pub path: Option<&'a str>,
}

/// An HTTP request in the mesh, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    host: Cow<'a, str>,
    method: &'a str,
    path: &'a str,
    /// The workload that the request is for, where the proxy has a certificate.
    pub destination: Option<ServiceAccount>,
}

/// A TCP connection in the mesh: nothing is known but its two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The workload that the connection is for.
    pub destination: Option<ServiceAccount>,
}

/// An attribute that a rule asked for and the proxy did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// The routed cluster.
    Cluster,
    /// The route's name.
    Route,
    /// The port that the client's connection was made to.
    Port,
    /// The downstream server name.
    Sni,
    /// The request's scheme.
    Scheme,
    /// The request's authority.
    Host,
    /// The request's method.
    Method,
    /// The request's path.
    Path,
}

/// A request whose host, method or path has more than one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Empty, or with characters that no method has.
    #[error("malformed method")]
    Method,
    /// Not a number from 1 to 65535 without leading zeros.
    #[error("malformed port")]
    Port,
    /// Empty, or not a host name or address.
    #[error("malformed host")]
    Host,
    /// Relative, encoded twice, or with dot segments, empty segments, path
    /// parameters, backslashes or control characters.
    #[error("ambiguous path")]
    Path,
}

// === impl Verb ===

impl Verb {
    /// Every verb, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Get, Self::List, Self::Create, Self::Update, Self::Delete, Self::Use];

    /// The word used in policies and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Use => "use",
        }
    }

    /// Whether it can be about one version or field. The others are about a secret as a
    /// whole, and the service refuses them with a version or a field.
    #[must_use]
    pub fn takes_part(self) -> bool {
        matches!(self, Self::Get | Self::Use)
    }

    /// The verb of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Attribute ===

impl Attribute {
    /// In the order in which missing ones are reported: what the proxy decided first, what
    /// the caller chose last.
    pub(super) const ALL: [Self; 8] = [
        Self::Cluster,
        Self::Route,
        Self::Port,
        Self::Sni,
        Self::Scheme,
        Self::Host,
        Self::Method,
        Self::Path,
    ];

    /// What it is to people.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Route => "route",
            Self::Port => "port",
            Self::Sni => "server name",
            Self::Scheme => "scheme",
            Self::Host => "host",
            Self::Method => "method",
            Self::Path => "path",
        }
    }

    /// The name under which Envoy knows the attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "xds.cluster_name",
            Self::Route => "xds.route_name",
            Self::Port => "destination.port",
            Self::Sni => "connection.requested_server_name",
            Self::Scheme => "request.scheme",
            Self::Host => "request.host",
            Self::Method => "request.method",
            Self::Path => "request.path",
        }
    }
}

// === impl Destination ===

impl<'a> Destination<'a> {
    /// What is known of one attribute.
    pub(super) fn get(&self, attribute: Attribute) -> Option<&'a str> {
        match attribute {
            Attribute::Cluster => self.cluster,
            Attribute::Route => self.route,
            Attribute::Port => self.port,
            Attribute::Sni => self.sni,
            Attribute::Scheme => self.scheme,
            Attribute::Host => self.host,
            Attribute::Method => self.method,
            Attribute::Path => self.path,
        }
    }
}

// === impl HttpRequest ===

impl<'a> HttpRequest<'a> {
    /// Brings a request's attributes into their one canonical form. The query is
    /// cut off: rules match on the path alone.
    ///
    /// # Errors
    /// [`InvalidRequest`] where proxy and upstream could read it differently.
    pub fn new(
        method: &'a str,
        host: &'a str,
        path_and_query: &'a str,
        destination: Option<ServiceAccount>,
    ) -> Result<Self, InvalidRequest> {
        Ok(Self {
            host: canonical_host(host)?,
            method: canonical_method(method)?,
            path: canonical_path(path_and_query)?,
            destination,
        })
    }

    /// Lower-case, without port and trailing dot.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// As sent; methods are case-sensitive.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// Without query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path
    }
}

/// Splits an `http` or `https` URL into its authority and its path with query; none for
/// anything else.
#[must_use]
pub fn split_url(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Some((host, if path.is_empty() { "/" } else { path }))
}

/// Refuses what is not a method; the case stays.
///
/// # Errors
/// [`InvalidRequest::Method`].
pub fn canonical_method(method: &str) -> Result<&str, InvalidRequest> {
    if method.len() <= 64 && is_token(method) { Ok(method) } else { Err(InvalidRequest::Method) }
}

/// Whether the text is a token (RFC 9110, section 5.6.2), as methods and
/// authentication schemes are.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

/// Refuses what is not a port in its one spelling.
///
/// # Errors
/// [`InvalidRequest::Port`].
pub fn canonical_port(port: &str) -> Result<&str, InvalidRequest> {
    let number = port.parse::<u16>().ok().filter(|number| *number > 0);
    match number.is_some_and(|number| number.to_string() == port) {
        true => Ok(port),
        false => Err(InvalidRequest::Port),
    }
}

/// Lower-cases an authority and removes its port and trailing dot.
///
/// # Errors
/// [`InvalidRequest::Host`] if what remains is empty or is not a host.
pub fn canonical_host(authority: &str) -> Result<Cow<'_, str>, InvalidRequest> {
    // The port follows the last colon outside brackets (RFC 3986, section 3.2).
    let host = match authority.rfind(']') {
        Some(end) => match authority.get(end + 1..) {
            Some("") => authority,
            Some(rest) if is_port(rest) => &authority[..=end],
            _ => return Err(InvalidRequest::Host),
        },
        None => match authority.rfind(':') {
            Some(at) if is_port(&authority[at..]) => &authority[..at],
            Some(_) => return Err(InvalidRequest::Host),
            None => authority,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b)),
        None => host.bytes().all(allowed) && !host.ends_with('.') && !host.contains(".."),
    };
    if host.is_empty() || host.len() > 255 || !valid {
        return Err(InvalidRequest::Host);
    }
    Ok(match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    })
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| {
        port.len() <= 5 && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Cuts off the query and refuses paths with more than one reading.
///
/// # Errors
/// [`InvalidRequest::Path`].
pub fn canonical_path(path_and_query: &str) -> Result<&str, InvalidRequest> {
    let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
    if !path.starts_with('/') || path.len() > 8192 {
        return Err(InvalidRequest::Path);
    }
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\\' | b';' | b'#' => return Err(InvalidRequest::Path),
            b'/' if bytes.get(at + 1) == Some(&b'/') => return Err(InvalidRequest::Path),
            b'%' => {
                // An encoded separator, dot, percent sign, semicolon, question
                // mark or control byte reads differently before and after decoding.
                let decoded = bytes
                    .get(at + 1..at + 3)
                    .and_then(|hex| std::str::from_utf8(hex).ok())
                    .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                    .ok_or(InvalidRequest::Path)?;
                // An encoded letter, digit or mark is the same as a plain one to some
                // readers only (RFC 3986, section 2.3).
                let unreserved = decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded);
                let control = decoded < 0x20 || decoded == 0x7f;
                if unreserved || control || b"/\\%;?#".contains(&decoded) {
                    return Err(InvalidRequest::Path);
                }
            }
            0x21..=0x7e => {}
            _ => return Err(InvalidRequest::Path),
        }
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(InvalidRequest::Path);
    }
    if percent_encoding::percent_decode_str(path).decode_utf8().is_err() {
        return Err(InvalidRequest::Path);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_two_readings_are_refused() {
        let refused = [
            "",
            "*",
            "a",
            "?",
            "/a/../b",
            "/a/./b",
            "/..",
            "/.",
            "//a",
            "/a//b",
            "/%2e%2e/b",
            "/a/%2E/b",
            "/a%2Fb",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00b",
            "/%61dmin",
            "/a%2Db",
            "/a%7Eb",
            "/a%0ab",
            "/a\0b",
            "/a%252Fb",
            "/a%25b",
            "/%c0%ae",
            "/a;x",
            "/a/..;/b",
            "/a/.;/b",
            "/a%3bx",
            "/a#frag",
            "/a%23frag",
            "/a%3Fb",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a b",
            "/é",
            "/a\u{7f}",
            "http://host/a",
            "/a%ff",
        ];
        for path in refused {
            assert_eq!(canonical_path(path), Err(InvalidRequest::Path), "{path:?}");
        }
        assert_eq!(canonical_path(&format!("/{}", "a".repeat(9000))), Err(InvalidRequest::Path));
    }

    #[test]
    fn the_query_is_no_part_of_the_path() {
        assert_eq!(canonical_path("/a/b?c=/../d#e"), Ok("/a/b"));
        assert_eq!(canonical_path("/caf%C3%A9"), Ok("/caf%C3%A9"));
        assert_eq!(canonical_path("/"), Ok("/"));
        assert_eq!(canonical_path("/a/"), Ok("/a/"));
    }

    #[test]
    fn hosts_have_one_spelling() {
        for authority in ["shop.test", "SHOP.test", "shop.test:443", "shop.test.", "Shop.Test.:80"]
        {
            assert_eq!(canonical_host(authority).as_deref(), Ok("shop.test"), "{authority}");
        }
        assert_eq!(canonical_host("[::1]:80").as_deref(), Ok("[::1]"));
        assert_eq!(canonical_host("[::1]").as_deref(), Ok("[::1]"));
        let refused = [
            "", ".", ":80", "a:b", "a:", "a:123456", "a b", "user@a", "a/b", "a..", "a..b", "[::1",
            "[::1]x", "[zz]", "a:80:90", "a%2eb", "é",
        ];
        for authority in refused {
            assert_eq!(canonical_host(authority), Err(InvalidRequest::Host), "{authority:?}");
        }
    }

    #[test]
    fn urls_have_an_authority_and_a_path() {
        for (url, expected) in [
            ("http://a.test", Some(("a.test", "/"))),
            ("https://a.test:8/b?c#d", Some(("a.test:8", "/b?c#d"))),
            // What is not a host or a path is found where those are read.
            ("http://u@a/b", Some(("u@a", "/b"))),
            ("http://a?b", Some(("a", "?b"))),
            ("http://", Some(("", "/"))),
            ("HTTP://a/", None),
            ("ftp://a/", None),
            ("a.test/b", None),
            ("", None),
        ] {
            assert_eq!(split_url(url), expected, "{url}");
        }
        assert_eq!(canonical_path("?b"), Err(InvalidRequest::Path));
    }

    #[test]
    fn methods_are_exact() {
        for method in ["", "GET ", "G T", "GET\0", "GÉT"] {
            assert!(HttpRequest::new(method, "a", "/", None).is_err(), "{method:?}");
        }
        let request = HttpRequest::new("get", "a", "/", None).expect("a token");
        assert_eq!(request.method(), "get");
    }
}
