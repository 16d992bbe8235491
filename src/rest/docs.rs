//! Swagger UI for the OpenAPI document, from this process alone.

use std::{
    borrow::Cow,
    io::Read,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Response, header};
use utoipa_swagger_ui::Config;

use crate::api;

/// Where it is.
pub(super) const DOCS_PATH: &str = "/docs";

/// Its page. Paths are relative to it, so that a proxy may serve it elsewhere.
const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>vaultmux-mesh</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"#;

/// No validator elsewhere, and nothing that is typed in is kept.
const START: &str = r##"SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  validatorUrl: null,
  persistAuthorization: false,
  tryItOutEnabled: true,
});
"##;

/// Nothing comes from elsewhere, and nothing goes elsewhere. Styles are the page's own
/// elements' too: React writes them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

const VENDORED: [&str; 3] = ["favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js"];

/// A file of Swagger UI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DocsFile {
    Page,
    Start,
    Vendored(&'static str),
}

// === impl DocsFile ===

impl DocsFile {
    pub(super) fn find(path: &str) -> Option<Self> {
        let below = path.strip_prefix(DOCS_PATH)?;
        match below {
            "" => Some(Self::Page),
            "/start.js" => Some(Self::Start),
            below => {
                let name = below.strip_prefix('/')?;
                VENDORED.into_iter().find(|file| *file == name).map(Self::Vendored)
            }
        }
    }

    /// The file, as it is kept if the client takes that.
    pub(super) fn served(self, sent: &HeaderMap, request_id: &str) -> Response<Bytes> {
        let text = |text: &'static str| Some(Cow::Borrowed(text.as_bytes()));
        let (kind, body, zipped) = match self {
            Self::Page => ("text/html; charset=utf-8", text(PAGE), false),
            Self::Start => ("text/javascript; charset=utf-8", text(START), false),
            Self::Vendored(name) => {
                let kind = match name.rsplit('.').next() {
                    Some("css") => "text/css; charset=utf-8",
                    Some("js") => "text/javascript; charset=utf-8",
                    _ => "image/png",
                };
                let file = utoipa_swagger_ui::serve(name, Arc::new(Config::default()));
                let file = file.ok().flatten();
                let zipped = file.as_ref().is_some_and(|file| file.gzpipped);
                (kind, file.map(|file| file.bytes), zipped)
            }
        };
        let Some(body) = body else { return api::not_found(request_id) };
        let body = match body {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => bytes.into(),
        };
        let as_kept = zipped && takes_gzip(sent);
        let body = match self {
            Self::Vendored(name) if zipped && !as_kept => unzipped(name, &body),
            _ => body,
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if zipped {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if as_kept {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        api::finish(headers, request_id);
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

/// Kept once somebody has asked for it.
fn unzipped(name: &str, zipped: &Bytes) -> Bytes {
    static KEPT: [OnceLock<Bytes>; VENDORED.len()] = [const { OnceLock::new() }; VENDORED.len()];
    let unzip = || {
        let mut plain = Vec::new();
        GzDecoder::new(&zipped[..]).read_to_end(&mut plain).expect("it was zipped by the build");
        plain.into()
    };
    match VENDORED.iter().position(|known| *known == name) {
        Some(at) => KEPT[at].get_or_init(unzip).clone(),
        None => unzip(),
    }
}

/// Whether a client says that it takes gzip (RFC 9110, section 12.5.3). One that says
/// nothing may be given anything, but does not always know what to do with it.
fn takes_gzip(sent: &HeaderMap) -> bool {
    let values = sent.get_all(header::ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok());
    let mut others = None;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let taken = weight.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return taken;
        }
        if name == "*" {
            others = Some(taken);
        }
    }
    others.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_plain_for_those_who_do_not_take_gzip() {
        for (accepted, expected) in [
            (None, false),
            (Some(""), false),
            (Some("identity"), false),
            (Some("br, deflate"), false),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.000, *"), false),
            (Some("*;q=0"), false),
            (Some("gzip;q=x"), false),
            (Some("gzip"), true),
            (Some("br, GZIP;q=0.1"), true),
            (Some("*"), true),
            (Some("x-gzip"), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accepted) = accepted {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            }
            for name in VENDORED {
                let answer = DocsFile::Vendored(name).served(&headers, "id");
                let zipped = answer.headers().contains_key(header::CONTENT_ENCODING);
                assert_eq!(zipped, expected, "{accepted:?}");
                assert_eq!(answer.headers()[header::VARY], "accept-encoding");
                assert_eq!(answer.body().starts_with(&[0x1f, 0x8b]), expected, "{accepted:?}");
            }
        }
    }
}
