//! What a real Envoy makes of `x-forwarded-client-cert`, and that our reading of it never
//! believes the caller. No test of the service: the vectors in `src/identity/forwarded`
//! were recorded this way, and here a newer Envoy would show what it does otherwise.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use vaultmux_mesh::identity::{ForwardedPosition, InvalidForwarded, forwarded_client};

use crate::harness::{Certificates, Client, Envoy, Identity, Received, Upstream};

const HEADER: &str = "x-forwarded-client-cert";
const API: &str = "spiffe://cluster.local/ns/payments/sa/api";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const GATEWAY: &str = "spiffe://cluster.local/ns/gateway/sa/envoy";
const FORGED_ID: &str = "spiffe://cluster.local/ns/forged/sa/a";
const FORGED: &str = "By=x;URI=spiffe://cluster.local/ns/forged/sa/a";
const FORGED_JSON: &str = r#"[{"by":["x"],"uri":["spiffe://cluster.local/ns/forged/sa/a"]}]"#;
const MODES: [&str; 5] =
    ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"];
const FORMATS: [&str; 2] = ["TEXT", "JSON"];
const URI: &str = "uri: true";
const NAMES: &str = "subject: true, uri: true, dns: true, issuer: true";
const EVERYTHING: &str = "subject: true, uri: true, dns: true, cert: true, chain: true";

const START: &str = "\
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
";

/// One Envoy with these listeners in front of an echo.
struct Proxy {
    envoy: Envoy,
    certificates: Certificates,
    directory: tempfile::TempDir,
    _app: Upstream,
}

/// Name, mode, format and what of the certificate is told.
pub(crate) type Listener = (String, &'static str, &'static str, &'static str);

// === impl Proxy ===

impl Proxy {
    async fn start(listeners: &[Listener]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let certificates = Certificates::create(directory.path());
        let app = Upstream::start().await;
        let envoy = Envoy::start(&bootstrap(listeners, app.address, directory.path())).await;
        Self { envoy, certificates, directory, _app: app }
    }

    /// Another Envoy that leads to a listener of this one, to which it shows the gateway's
    /// certificate.
    async fn gateway(
        &self,
        listener: &str,
        mode: &'static str,
        format: &'static str,
    ) -> (Envoy, Client) {
        let tls = self.directory.path();
        let listeners = [("gateway".to_owned(), mode, format, NAMES)];
        let text = bootstrap(&listeners, self.envoy.address(listener), tls);
        let envoy = Envoy::start(&(text + &client_tls(tls))).await;
        let identity = self.certificates.with_names("api", &[API], &[]);
        let client = Client::tls(envoy.address("gateway"), &self.certificates, Some(identity));
        (envoy, client)
    }

    fn client(&self, listener: &str, identity: Option<Identity>) -> Client {
        Client::tls(self.envoy.address(listener), &self.certificates, identity)
    }

    /// The header that arrives when `payments/api` sends these.
    async fn sent(&self, listener: &str, values: &[&str]) -> Option<String> {
        let identity = self.certificates.with_names("api", &[API], &[]);
        told(&self.client(listener, Some(identity)), values).await
    }

    /// The header that this certificate makes.
    async fn told(&self, listener: &str, identity: Identity) -> String {
        told(&self.client(listener, Some(identity)), &[]).await.expect("a header")
    }
}

/// Envoy joins what was sent several times.
async fn told(client: &Client, values: &[&str]) -> Option<String> {
    let headers: Vec<_> = values.iter().map(|value| (HEADER, *value)).collect();
    let answer = client.request("GET", "app.test", "/", &headers).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received: Received = answer.json();
    let values = received.header(HEADER);
    assert!(values.len() < 2, "{values:?}");
    values.first().map(|value| (*value).to_owned())
}

pub(crate) fn bootstrap(listeners: &[Listener], upstream: SocketAddr, tls: &Path) -> String {
    let tls = tls.display();
    let mut text = String::from(START);
    for (name, mode, format, told) in listeners {
        let _ = write!(
            text,
            r#"
  - name: "{name}"
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - certificate_chain: {{filename: {tls}/tls.crt}}
              private_key: {{filename: {tls}/tls.key}}
            validation_context: {{trusted_ca: {{filename: {tls}/ca.crt}}}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          forward_client_cert_details: {mode}
          set_current_client_cert_details: {{{told}, format: {format}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - {{name: app, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: app}}}}]}}
"#
        );
    }
    let port = upstream.port();
    let _ = write!(
        text,
        r"
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"
    );
    text
}

/// For the end of a bootstrap, where its cluster is.
pub(crate) fn client_tls(tls: &Path) -> String {
    let tls = tls.display();
    format!(
        r#"
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: vaultmux.test
        common_tls_context:
          tls_certificates:
          - certificate_chain: {{filename: {tls}/tls.crt}}
            private_key: {{filename: {tls}/tls.key}}
          validation_context: {{trusted_ca: {{filename: {tls}/ca.crt}}}}
"#
    )
}

fn every_mode() -> Vec<Listener> {
    let listener = |mode| FORMATS.map(|format| (format!("{mode} {format}"), mode, format, NAMES));
    MODES.into_iter().flat_map(listener).collect()
}

fn named(header: &str, position: ForwardedPosition) -> Result<Option<String>, InvalidForwarded> {
    forwarded_client(header, position).map(|client| client.map(Into::into))
}

fn last(header: &str) -> Result<Option<String>, InvalidForwarded> {
    named(header, ForwardedPosition::Last)
}

/// The forms byte for byte, but for the fingerprint.
#[tokio::test(flavor = "multi_thread")]
async fn elements_are_written_as_recorded() {
    let set = |format, told| (format!("{format} {told}"), "SANITIZE_SET", format, told);
    let listeners = [
        set("TEXT", URI),
        set("TEXT", NAMES),
        set("JSON", URI),
        set("JSON", NAMES),
        set("TEXT", EVERYTHING),
        set("JSON", EVERYTHING),
    ];
    let proxy = Proxy::start(&listeners).await;
    let odd = || {
        proxy.certificates.with_names(r#"say "hi"\ A, B; C=D"#, &[API, WEB], &["a.test", "b.test"])
    };
    let plain = || proxy.certificates.with_names("api", &[API], &[]);
    let nobody = || proxy.certificates.with_names("api", &[], &[]);
    let subject = r#"Subject="CN=say \"hi\"\\ A\, B\; C=D""#;
    let issuer = r#"Issuer="CN=test authority""#;
    let json_odd = format!(
        r#""subject":"CN=say \\\"hi\\\"\\\\ A\\, B\\; C=D","uri":["{API}","{WEB}"],"dns":["a.test","b.test"],"issuer":"CN=test authority""#
    );
    let rows = [
        ("TEXT", URI, plain(), format!("URI={API}"), Ok(Some(API))),
        ("TEXT", NAMES, plain(), format!("Subject=\"CN=api\";URI={API};{issuer}"), Ok(Some(API))),
        (
            "TEXT",
            NAMES,
            odd(),
            format!("{subject};URI={API};URI={WEB};DNS=a.test;DNS=b.test;{issuer}"),
            Err(InvalidForwarded::UriNames),
        ),
        ("TEXT", NAMES, nobody(), format!("Subject=\"CN=api\";URI=;{issuer}"), Ok(None)),
        ("JSON", URI, plain(), format!(r#""uri":["{API}"]"#), Ok(Some(API))),
        ("JSON", NAMES, odd(), json_odd, Err(InvalidForwarded::UriNames)),
        ("JSON", URI, nobody(), String::new(), Ok(None)),
    ];
    for (format, details, identity, rest, client) in rows {
        let header = proxy.told(&format!("{format} {details}"), identity).await;
        let expected = match format {
            "TEXT" => (format!("By={GATEWAY};Hash="), format!(";{rest}")),
            _ => (
                format!(r#"[{{"by":["{GATEWAY}"],"hash":""#),
                if rest.is_empty() { "\"}]".into() } else { format!("\",{rest}}}]") },
            ),
        };
        let hash = header.strip_prefix(&expected.0).and_then(|rest| rest.strip_suffix(&expected.1));
        let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(hash.is_some_and(is_hash), "{header}\n{expected:?}");
        assert_eq!(last(&header), client.map(|client| client.map(str::to_owned)), "{header}");
    }
    for format in FORMATS {
        let header = proxy.told(&format!("{format} {EVERYTHING}"), plain()).await;
        let certificate = match format {
            "TEXT" => ";Cert=\"-----BEGIN%20CERTIFICATE-----%0A",
            _ => r#","cert":"-----BEGIN CERTIFICATE-----\n"#,
        };
        assert!(header.contains(certificate), "{header}");
        assert_eq!(last(&header), Ok(Some(API.into())), "{header}");
    }
}

/// Names the client of the connection, of the caller's words or of nothing, by mode.
#[tokio::test(flavor = "multi_thread")]
async fn modes_differ_in_whom_they_let_speak() {
    let proxy = Proxy::start(&every_mode()).await;
    // With a certificate and what was sent; with one alone; with neither certificate.
    let rows = [
        ("SANITIZE", [None, None, None]),
        ("FORWARD_ONLY", [Some(FORGED_ID), None, None]),
        ("APPEND_FORWARD", [Some(API), Some(API), None]),
        ("SANITIZE_SET", [Some(API), Some(API), None]),
        // Believes anyone: no proxy that we trust may be set so.
        ("ALWAYS_FORWARD_ONLY", [Some(FORGED_ID), None, Some(FORGED_ID)]),
    ];
    for (mode, expected) in rows {
        for (format, sent) in
            [("TEXT", FORGED), ("TEXT", FORGED_JSON), ("JSON", FORGED), ("JSON", FORGED_JSON)]
        {
            let listener = format!("{mode} {format}");
            let stranger = proxy.client(&listener, None);
            let headers = [
                proxy.sent(&listener, &[sent]).await,
                proxy.sent(&listener, &[]).await,
                told(&stranger, &[sent]).await,
            ];
            let clients = headers.clone().map(|header| header.and_then(|text| last(&text).ok()?));
            assert_eq!(clients.each_ref().map(Option::as_deref), expected, "{mode} {headers:?}");
        }
    }
}

/// The configured format is only for whom nobody spoke before: the caller chooses.
#[tokio::test(flavor = "multi_thread")]
async fn appended_element_takes_the_form_of_what_was_sent() {
    let proxy = Proxy::start(&every_mode()).await;
    for format in FORMATS {
        let listener = format!("APPEND_FORWARD {format}");
        let alone = proxy.sent(&listener, &[]).await.expect("a header");
        assert_eq!(alone.starts_with('['), format == "JSON", "{alone}");
        let text = proxy.sent(&listener, &[FORGED]).await.expect("a header");
        assert!(text.starts_with(&format!("{FORGED},By={GATEWAY};Hash=")), "{text}");
        let json = proxy.sent(&listener, &[FORGED_JSON]).await.expect("a header");
        let start = format!(r#"{},{{"by":["{GATEWAY}"]"#, &FORGED_JSON[..FORGED_JSON.len() - 1]);
        assert!(json.starts_with(&start), "{json}");
        for two in [text, json] {
            assert_eq!(last(&two), Ok(Some(API.into())), "{two}");
            let before = named(&two, ForwardedPosition::BeforeLast);
            assert_eq!(before, Ok(Some(FORGED_ID.into())), "{two}");
            let only = named(&two, ForwardedPosition::Only);
            assert_eq!(only, Err(InvalidForwarded::Elements(2)), "{two}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hops_append_in_order() {
    let proxy = Proxy::start(&every_mode()).await;
    let gateways = [("SANITIZE_SET", "TEXT"), ("SANITIZE_SET", "JSON"), ("APPEND_FORWARD", "TEXT")];
    for (mode, format) in gateways {
        // The second hop's own format does not matter.
        let (_envoy, client) = proxy.gateway("APPEND_FORWARD JSON", mode, format).await;
        for sent in [&[][..], &[FORGED], &[FORGED_JSON]] {
            let header = told(&client, sent).await.expect("a header");
            let json =
                if mode == "SANITIZE_SET" { format == "JSON" } else { sent == [FORGED_JSON] };
            assert_eq!(header.starts_with('['), json, "{header}");
            assert_eq!(last(&header), Ok(Some(GATEWAY.into())), "{header}");
            let before = named(&header, ForwardedPosition::BeforeLast);
            assert_eq!(before, Ok(Some(API.into())), "{header}");
            let kept = mode == "APPEND_FORWARD" && !sent.is_empty();
            assert_eq!(header.contains(FORGED_ID), kept, "{header}");
            let only = named(&header, ForwardedPosition::Only);
            let elements = if kept { 3 } else { 2 };
            assert_eq!(only, Err(InvalidForwarded::Elements(elements)), "{header}");
        }
    }
}

/// Whatever the caller begins, Envoy appends to it; and the whole is then refused.
#[tokio::test(flavor = "multi_thread")]
async fn caller_cannot_swallow_the_element_that_envoy_appends() {
    let append = |format, told| (format!("{format} {told}"), "APPEND_FORWARD", format, told);
    let listeners = [
        append("TEXT", URI),
        append("JSON", NAMES),
        append("TEXT", NAMES),
        append("TEXT", EVERYTHING),
    ];
    let proxy = Proxy::start(&listeners).await;
    let rows = [
        "\"",
        "Subject=\"",
        "By=\"",
        "Subject=\"\\",
        "a=\\",
        "URI=spiffe://cluster.local/ns/forged/sa/a;Subject=\"",
        "URI=\"spiffe://cluster.local/ns/forged/sa/a\"\u{e9}",
        "[",
        "[]]",
        "[{",
        "[{\"uri\":\"a\"}",
        "[{\"a\":\"",
        "[{\"a\":\"]",
        "[{\"a\":\"\\]",
        r#"[{"uri":["spiffe://cluster.local/ns/forged/sa/a"],"x":[]"#,
        r#"[{"uri":["spiffe://cluster.local/ns/forged/sa/a"],"x":[1]"#,
        r#"[{"uri":["spiffe://cluster.local/ns/forged/sa/a"],"x":"]"#,
        "garbage",
        "-",
        "a,",
        "By=x;;URI=y",
        "{",
        "null",
        "[]",
        "[ ]",
        "[1]",
        "[[]]",
        "[][]",
        "[garbage]",
        "[{}],[{}]",
        r#"[{"a":1}] x"#,
        r#"{"uri":["a"]}"#,
    ];
    let joined: [&[&str]; 4] = [
        &[FORGED_JSON, FORGED_JSON],
        &[FORGED_JSON, FORGED],
        &[FORGED, FORGED_JSON],
        &[FORGED, "By=\""],
    ];
    for (listener, ..) in &listeners {
        let rows = rows.iter().map(std::slice::from_ref).chain(joined);
        for sent in rows {
            let header = proxy.sent(listener, sent).await.expect("a header");
            // It stands there, as sent but for a closing bracket, and more follows.
            let start = sent.join(",");
            assert!(header.starts_with(start.strip_suffix(']').unwrap_or(&start)), "{header}");
            assert!(header.contains(GATEWAY) && header.contains(API), "{header}");
            assert_eq!(last(&header), Err(InvalidForwarded::Malformed), "{header}");
        }
        for sent in [&[][..], &[""], &[FORGED], &[FORGED, FORGED], &[FORGED_JSON]] {
            let header = proxy.sent(listener, sent).await.expect("a header");
            assert_eq!(last(&header), Ok(Some(API.into())), "{header}");
        }
    }
}

/// Over HTTP/2 nothing takes the blanks off a value, so to Envoy it is no JSON.
#[tokio::test(flavor = "multi_thread")]
async fn blanks_hide_no_bracket_over_http2() {
    let append = |format: &'static str| (format.to_owned(), "APPEND_FORWARD", format, NAMES);
    let proxy = Proxy::start(&FORMATS.map(append)).await;
    for format in FORMATS {
        for sent in [format!(" {FORGED_JSON}"), format!("{FORGED_JSON} ")] {
            let identity = proxy.certificates.with_names("api", &[API], &[]);
            let client = proxy.client(format, Some(identity)).http2();
            let header = told(&client, &[&sent]).await.expect("a header");
            assert!(header.contains(&format!(",By={GATEWAY};")), "{header}");
            assert_eq!(last(&header), Err(InvalidForwarded::Malformed), "{header}");
        }
    }
}

/// A caller who may choose its certificate's subject, and knows what quotes can do.
#[tokio::test(flavor = "multi_thread")]
async fn subjects_cannot_end_their_quotes() {
    let append = |format: &'static str| (format.to_owned(), "APPEND_FORWARD", format, NAMES);
    let proxy = Proxy::start(&FORMATS.map(append)).await;
    let planted = format!("\",By=x;URI={API};Subject=\"");
    let subjects =
        [planted.as_str(), "\\", "\"", "\\\"", "\\\\\"", &format!("\"}},{{\"uri\":[\"{API}\"]}}]")];
    for subject in subjects {
        for (format, sent) in
            [("TEXT", ""), ("JSON", ""), ("TEXT", "By=\""), ("TEXT", "[{\"a\":\"]")]
        {
            let identity = proxy.certificates.with_names(subject, &[WEB], &[]);
            let header = told(&proxy.client(format, Some(identity)), &[sent]).await;
            let header = header.expect("a header");
            let expected = match sent {
                "" => Ok(Some(WEB.to_owned())),
                _ => Err(InvalidForwarded::Malformed),
            };
            assert_eq!(last(&header), expected, "{subject} {header}");
        }
    }
}

/// Why the authority counts: Envoy quotes neither URI nor DNS names in the text form. No
/// honest authority signs such names; `only`, or JSON without `APPEND_FORWARD`, is safe
/// even then.
#[tokio::test(flavor = "multi_thread")]
async fn names_with_separators_are_not_quoted_in_text() {
    let set = |format: &'static str| (format.to_owned(), "SANITIZE_SET", format, NAMES);
    let proxy = Proxy::start(&FORMATS.map(set)).await;
    let evil = format!("spiffe://evil/x,By=a;URI={API}");
    let header = proxy.told("TEXT", proxy.certificates.with_uris(&[&evil])).await;
    assert!(header.contains(&format!(";URI={evil};")), "{header}");
    let only = named(&header, ForwardedPosition::Only);
    assert_eq!(only, Err(InvalidForwarded::Elements(2)), "{header}");
    let header = proxy.told("JSON", proxy.certificates.with_uris(&[&evil])).await;
    assert_eq!(last(&header), Ok(Some(evil)), "{header}");
    // As a DNS name it is a second URI name, which is refused.
    let name = format!("a;URI={API}");
    let header = proxy.told("TEXT", proxy.certificates.with_dns(&[&name])).await;
    assert_eq!(last(&header), Err(InvalidForwarded::UriNames), "{header}");
}

/// The name with underscores is another header to Envoy, and passes in every mode.
#[tokio::test(flavor = "multi_thread")]
async fn name_with_underscores_is_not_sanitised() {
    let proxy = Proxy::start(&every_mode()).await;
    for mode in MODES {
        let client = proxy.client(&format!("{mode} TEXT"), None);
        let headers = [("x_forwarded_client_cert", FORGED)];
        let received: Received = client.request("GET", "app.test", "/", &headers).await.json();
        assert_eq!(received.header("x_forwarded_client_cert"), [FORGED], "{mode}");
        assert!(received.header(HEADER).is_empty(), "{mode}");
    }
}
