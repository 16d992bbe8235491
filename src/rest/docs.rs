//! Swagger UI for the OpenAPI document, from this process alone.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
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
        let vendored = ["favicon-32x32.png", "swagger-ui.css", "swagger-ui-bundle.js"];
        match below {
            "" => Some(Self::Page),
            "/start.js" => Some(Self::Start),
            below => {
                let name = below.strip_prefix('/')?;
                vendored.into_iter().find(|file| *file == name).map(Self::Vendored)
            }
        }
    }

    pub(super) fn served(self, request_id: &str) -> Response<Bytes> {
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
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        api::finish(headers, request_id);
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}
