//! Bodies on their way there and back: what the service does about each, over gRPC.

use envoy_types::pb::envoy::service::ext_proc::v3::{
    HeaderMutation, HttpBody, HttpTrailers, ProtocolConfiguration, body_mutation::Mutation,
};

use super::*;
use crate::{
    ext_proc::BodyMode,
    fixture::reference,
    injection::{Alias, Substitution, Substitutions, Surface, Surfaces, Upstreams, Violation},
};

const BUFFERED: i32 = 2;
const PARTIAL: i32 = 3;
const STREAMED: i32 = 1;
const DUPLEX: i32 = 4;

const REFERENCE: &str = "{{secret://local/use/key}}";
/// A body in which nothing is looked for.
const PICTURE: [(&str, &str); 1] = [("content-type", "image/png")];
const REDACTED: &str = "/redact/";
const REQUIRED: &str = "/require/";

/// Looks everywhere; on the paths above it does more.
fn substitutions(violation: Violation) -> Substitutions {
    let rule = |path: &str, required, redacts| {
        let mut surfaces = Surfaces::default();
        Surface::ALL.into_iter().for_each(|surface| surfaces.add(surface, violation));
        let matcher = InjectionMatch { paths: vec![path.into()], ..InjectionMatch::default() };
        Substitution { name: path.into(), matcher, surfaces, required, redacts }
    };
    let alias = |text: &str, name: &str, on_violation| Alias {
        text: text.into(),
        secret: reference(name),
        same_length: false,
        on_violation,
    };
    let rules =
        vec![rule("/", false, false), rule(REDACTED, false, true), rule(REQUIRED, true, false)];
    let aliases = vec![
        alias("alias-denied-always", "secret://local/other", Some(Violation::Deny)),
        alias("alias-never-denied", "secret://local/other", Some(Violation::Inert)),
        alias("alias-of-the-key", "secret://local/use/key", None),
    ];
    Substitutions::new(rules, aliases).expect("valid")
}

async fn service(violation: Violation) -> Service {
    Service::start_with(|snapshot| snapshot.substitutions = substitutions(violation)).await
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest { request: Some(request), ..ProcessingRequest::default() }
}

/// The first message of a stream with these modes.
fn first(
    mut message: ProcessingRequest,
    request_mode: i32,
    response_mode: i32,
) -> ProcessingRequest {
    message.protocol_config = Some(ProtocolConfiguration {
        request_body_mode: request_mode,
        response_body_mode: response_mode,
        send_body_without_waiting_for_header_response: false,
    });
    message
}

fn chunk(bytes: &[u8], end_of_stream: bool) -> HttpBody {
    HttpBody { body: bytes.to_vec(), end_of_stream, ..HttpBody::default() }
}

fn posted(target: &str, kind: &str, more: &[(&str, &str)]) -> ProcessingRequest {
    let mut headers = vec![("content-type", kind)];
    headers.extend_from_slice(more);
    request(target, &headers)
}

/// What takes a body's place; none if it stays. Fails on any other answer.
fn body_of(answer: &ProcessingResponse) -> Option<Vec<u8>> {
    let Some(Response::RequestBody(body) | Response::ResponseBody(body)) = &answer.response else {
        panic!("no answer to a body: {:?}", status(answer).1);
    };
    let mutation = body.response.as_ref()?.body_mutation.as_ref()?;
    Some(match mutation.mutation.as_ref().expect("some mutation") {
        Mutation::Body(body) => body.clone(),
        Mutation::ClearBody(_) => Vec::new(),
        Mutation::StreamedResponse(streamed) => streamed.body.clone(),
    })
}

/// Sends a whole body, and returns the answer to it.
async fn upload(service: &Service, head: ProcessingRequest, body: &str) -> ProcessingResponse {
    let mut exchange = service.open().await;
    exchange.send(first(head, BUFFERED, 0)).await;
    let answer = exchange.answer().await.expect("an answer").expect("open");
    if status(&answer).0 != 0 {
        return answer;
    }
    exchange.send(message(Request::RequestBody(chunk(body.as_bytes(), true)))).await;
    exchange.answer().await.expect("an answer").expect("open")
}

#[tokio::test]
async fn violations_in_bodies_are_text_or_the_end() {
    const JSON: &str = "application/json";
    let foreign = "[\"{{secret://local/other}}\"]";
    let good = format!("[\"{REFERENCE}\"]");
    let many: String =
        (0..12).map(|at| format!("\"{{{{secret://local/use/json?version={at}}}}}\"")).collect();
    let anonymous = |target| {
        let mut head = anonymous("POST", "api.stripe.com", target, &[("content-type", JSON)]);
        head.attributes = request("/", &[]).attributes;
        for attributes in head.attributes.values_mut() {
            attributes.fields.remove("connection.mtls");
        }
        head
    };
    let unbound = || {
        let mut head = posted("/", JSON, &[]);
        for attributes in head.attributes.values_mut() {
            attributes.fields.remove("xds.cluster_name");
        }
        head
    };
    let digest = [("content-digest", "sha-256=:x:")];
    let gzip = [("content-encoding", "gzip")];
    let rows = [
        (posted("/", JSON, &[]), foreign, 403, "vaultmux_denied_no_match"),
        (
            posted("/", JSON, &[]),
            "[\"{{secret://nowhere/a}}\"]",
            400,
            "vaultmux_reference_refused:invalid",
        ),
        (posted("/", JSON, &[]), "\"alias-never-denied\"", 0, ""),
        (posted("/", JSON, &[]), &many, 400, "vaultmux_reference_refused:too_many"),
        (unbound(), &good, 403, "binding_attribute_missing:xds.cluster_name"),
        (anonymous("/"), &good, 401, "vaultmux_denied_no_identity"),
        (posted("/", JSON, &digest), &good, 400, "vaultmux_not_rewritable:digest"),
        (posted("/", JSON, &gzip), &good, 400, "vaultmux_body_encoded"),
        (posted("/", "application/grpc", &[]), &good, 0, ""),
        (posted("/", "application/octet-stream", &[]), &good, 0, ""),
    ];
    let strict = service(Violation::Deny).await;
    let inert = service(Violation::Inert).await;
    let logs = service(Violation::Log).await;
    for (head, body, code, details) in rows {
        let answer = upload(&strict, head.clone(), body).await;
        let (found, why, text) = status(&answer);
        assert_eq!((found, why), (code, details), "{body}: {text}");
        assert!(!text.contains("use/") && !text.contains("other"), "{text}");
        for service in [&inert, &logs] {
            let answer = upload(service, head.clone(), body).await;
            // Eight of the many have a value, and it has no version.
            if details.contains("too_many") {
                assert_eq!(status(&answer).0, 0, "{}", status(&answer).1);
                continue;
            }
            assert_eq!(body_of(&answer), None, "{body}");
        }
    }
    // What an alias says about itself counts more.
    let answer = upload(&inert, posted("/", JSON, &[]), "\"alias-denied-always\"").await;
    assert_eq!(status(&answer).0, 403);
    let answer = upload(&inert, posted("/", JSON, &[]), "\"alias-of-the-key\"").await;
    assert_eq!(body_of(&answer), Some(format!("\"{CANARY}\"").into_bytes()));
    let count = |result| {
        format!(r#"vaultmux_ext_proc_surfaces_total{{surface="json",result="{result}"}} 1"#)
    };
    for result in ["foreign", "no_identity", "digest"] {
        assert!(inert.counts(&count(result)), "{result}");
    }
}

/// A reference that may be used is never left out because its store does not answer.
#[tokio::test]
async fn outages_and_unfit_values_end_the_request_even_where_violations_are_text() {
    let service = service(Violation::Inert).await;
    for (kind, secret, code, details) in [
        ("application/json", "use/down", 503, "vaultmux_backend_unavailable"),
        ("application/json", "use/absent", 502, "vaultmux_backend_not_found"),
        ("application/json", "use/slow", 503, "vaultmux_backend_budget_exceeded"),
        ("application/json", "use/refused", 502, "vaultmux_backend_permission_denied"),
    ] {
        let body = format!("[\"{{{{secret://local/{secret}}}}}\"]");
        let answer = upload(&service, posted("/", kind, &[]), &body).await;
        assert_eq!((status(&answer).0, status(&answer).1), (code, details), "{secret}");
    }
    // In the target and in cookies a value has to be of one line.
    let split = "{{secret://local/use/split}}";
    let target = format!("/v1?key={split}");
    for head in [request(&target, &[]), request("/", &[("cookie", split)])] {
        let answer = service.ask(first(head, 0, 0)).await.expect("an answer");
        let expected = "vaultmux_value_unfit:character:secret://local/use/split";
        assert_eq!((status(&answer).0, status(&answer).1), (502, expected));
    }
}

#[tokio::test]
async fn required_references_may_be_anywhere() {
    let service = service(Violation::Inert).await;
    let json = "application/json";
    let missing = (403, "vaultmux_reference_required");
    let target = format!("{REQUIRED}?key={REFERENCE}");
    let cookie = format!("session={REFERENCE}");
    let bearer = format!("Bearer {REFERENCE}");
    let in_body = format!("[\"{REFERENCE}\"]");
    for (head, body, expected) in [
        (posted(REQUIRED, json, &[]), "{}", missing),
        (posted(REQUIRED, json, &[]), "", missing),
        (posted(REQUIRED, json, &[]), "{{secret://local/other}}", missing),
        (posted(REQUIRED, "image/png", &[]), "", missing),
        (posted(REQUIRED, json, &[("authorization", "Bearer stolen")]), "{}", missing),
        (posted(REQUIRED, json, &[("authorization", &bearer)]), "{}", (0, "")),
        (posted(REQUIRED, json, &[("cookie", &cookie)]), "{}", (0, "")),
        (posted(&target, json, &[]), "{}", (0, "")),
        (posted(REQUIRED, json, &[]), &in_body, (0, "")),
        (posted(REQUIRED, json, &[("x-key", "alias-of-the-key")]), "{}", (0, "")),
    ] {
        let answer = upload(&service, head, body).await;
        assert_eq!((status(&answer).0, status(&answer).1), expected, "{body}");
    }
}

fn response(headers: &[(&str, &str)]) -> HttpHeaders {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.as_bytes().to_vec(),
    };
    let headers = Some(HeaderMap { headers: headers.iter().map(header).collect() });
    HttpHeaders { headers, ..HttpHeaders::default() }
}

async fn redacting(service: &Service, mode: i32) -> Exchange {
    let mut exchange = service.open().await;
    let key = [("x-key", REFERENCE), ("accept-encoding", "br")];
    exchange.send(first(request(REDACTED, &key), 0, mode)).await;
    let answer = exchange.answer().await.expect("an answer").expect("open");
    let headers = mutated(&answer);
    assert!(headers.contains(&("x-key".to_owned(), CANARY.to_owned())), "{:?}", status(&answer));
    assert!(headers.contains(&("accept-encoding".to_owned(), "identity".to_owned())));
    exchange
}

fn header_mutation(answer: &ProcessingResponse) -> HeaderMutation {
    let mutation = match &answer.response {
        Some(Response::ResponseHeaders(headers)) => {
            headers.response.as_ref().and_then(|common| common.header_mutation.clone())
        }
        Some(Response::ResponseTrailers(trailers)) => trailers.header_mutation.clone(),
        _ => panic!("an answer to a response: {:?}", status(answer).1),
    };
    mutation.unwrap_or_default()
}

#[tokio::test]
async fn values_are_taken_out_of_headers_body_and_trailers() {
    let service = service(Violation::Inert).await;
    for mode in [STREAMED, DUPLEX] {
        let mut exchange = redacting(&service, mode).await;
        let location = format!("https://a.test/?key={CANARY}");
        let headers = [
            (":status", "302"),
            ("location", location.as_str()),
            ("set-cookie", "a=b"),
            ("set-cookie", CANARY),
            ("content-length", "100"),
            ("content-md5", "x"),
            ("x-other", "kept"),
        ];
        exchange.send(message(Request::ResponseHeaders(response(&headers)))).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        let mutation = header_mutation(&answer);
        let mut set: Vec<(String, String)> = Vec::new();
        for option in &mutation.set_headers {
            let header = option.header.as_ref().expect("a header");
            let value = String::from_utf8(header.raw_value.clone()).expect("text");
            set.push((header.key.clone(), value));
        }
        let expected = [
            ("location", format!("https://a.test/?key={REFERENCE}")),
            ("set-cookie", "a=b".to_owned()),
            ("set-cookie", REFERENCE.to_owned()),
        ];
        assert_eq!(set, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(mutation.remove_headers, ["set-cookie", "content-md5", "content-length"]);

        let (one, other) = CANARY.split_at(5);
        let mut body = Vec::new();
        for (bytes, back) in [(format!("data: {one}"), 1), (format!("{other}\n\n"), 1)] {
            exchange.send(message(Request::ResponseBody(chunk(bytes.as_bytes(), false)))).await;
            for _ in 0..back {
                let answer = exchange.answer().await.expect("an answer").expect("open");
                body.extend(body_of(&answer).unwrap_or(bytes.clone().into_bytes()));
            }
        }
        assert_eq!(String::from_utf8_lossy(&body), format!("data: {REFERENCE}\n\n"));

        let trailers = response(&[("grpc-message", CANARY), ("grpc-status", "0")]).headers;
        let trailers = HttpTrailers { trailers };
        exchange.send(message(Request::ResponseTrailers(trailers))).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        let mutation = header_mutation(&answer);
        let [option] = &mutation.set_headers[..] else { panic!("one header") };
        let header = option.header.as_ref().expect("a header");
        assert_eq!((&*header.key, &*header.raw_value), ("grpc-message", REFERENCE.as_bytes()));
    }
}

/// What cannot be looked into may hold anything.
#[tokio::test]
async fn responses_that_cannot_be_read_are_refused() {
    let service = service(Violation::Inert).await;
    let rows: [&[(&str, &str)]; 6] = [
        &[(":status", "200"), ("content-encoding", "gzip")],
        &[(":status", "200"), ("transfer-encoding", "gzip, chunked")],
        &[(":status", "200"), ("transfer-encoding", "chunked"), ("transfer-encoding", "br")],
        &[(":status", "200"), ("grpc-encoding", "gzip"), ("content-type", "application/grpc")],
        &[(":status", "200"), ("content-encoding", "identity, br")],
        &[(":status", "101"), ("upgrade", "websocket")],
    ];
    for headers in rows {
        let mut exchange = redacting(&service, STREAMED).await;
        exchange.send(message(Request::ResponseHeaders(response(headers)))).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        assert_eq!((status(&answer).0, status(&answer).1), (502, "vaultmux_response_unreadable"));
    }
    let mut exchange = redacting(&service, PARTIAL).await;
    exchange.send(message(Request::ResponseHeaders(response(&[(":status", "200")])))).await;
    exchange.answer().await.expect("an answer").expect("open");
    exchange.send(message(Request::ResponseBody(chunk(b"the beginning", false)))).await;
    let answer = exchange.answer().await.expect("an answer").expect("open");
    assert_eq!((status(&answer).0, status(&answer).1), (502, "vaultmux_body_incomplete"));
    // Nothing was put into this one.
    let mut exchange = service.open().await;
    exchange.send(first(request(REDACTED, &[]), 0, STREAMED)).await;
    exchange.answer().await.expect("an answer").expect("open");
    let gzip = response(&[(":status", "200"), ("content-encoding", "gzip")]);
    exchange.send(message(Request::ResponseHeaders(gzip))).await;
    let answer = exchange.answer().await.expect("an answer").expect("open");
    assert_eq!(header_mutation(&answer), HeaderMutation::default());
}

/// The modes are Envoy's word; ours counts where it has none.
#[tokio::test]
async fn modes_that_cannot_do_it_are_named() {
    let rules = |violation| {
        move |snapshot: &mut Snapshot| snapshot.substitutions = substitutions(violation)
    };
    let metrics = Arc::new(Metrics::default());
    let start = |violation, modes| {
        let mut snapshot = snapshot(&metrics);
        rules(violation)(&mut snapshot);
        let phases = PhaseSettings { mode_override: false, modes, ..PhaseSettings::default() };
        let settings = ExtProcSettings { phases, ..ExtProcSettings::default() };
        Service::serve(
            ExtProc::new(Current::new(snapshot), Arc::clone(&metrics), settings),
            Arc::clone(&metrics),
        )
    };
    let none = crate::ext_proc::Modes::default();
    let strict = start(Violation::Deny, none).await;
    let head = || posted("/", "application/json", &[]);
    let answer = strict.ask(head()).await.expect("an answer");
    assert_eq!(
        (status(&answer).0, status(&answer).1),
        (500, "vaultmux_mode_unable:request_body_mode")
    );
    let redacted = request(REDACTED, &[("x-key", REFERENCE), PICTURE[0]]);
    let answer = strict.ask(redacted).await.expect("an answer");
    assert_eq!(
        (status(&answer).0, status(&answer).1),
        (500, "vaultmux_mode_unable:response_body_mode")
    );
    let inert = start(Violation::Inert, none).await;
    let answer = inert.ask(head()).await.expect("an answer");
    assert_eq!((status(&answer).0, answer.mode_override), (0, None));
    assert!(
        inert.counts(r#"vaultmux_ext_proc_bodies_total{result="mode_unable:request_body_mode"} 2"#)
    );
    // STREAMED has a hole where trailers are not shown.
    let streamed = crate::ext_proc::Modes { request_body: BodyMode::Streamed, ..none };
    let answer = start(Violation::Deny, streamed).await.ask(head()).await.expect("an answer");
    assert_eq!(status(&answer).0, 500);
    let shown = crate::ext_proc::Modes { request_trailers: true, ..streamed };
    let answer = start(Violation::Deny, shown).await.ask(head()).await.expect("an answer");
    assert_eq!(status(&answer).0, 0);
}

/// Whatever policies say: where the operator does not say that a cluster is reached through
/// TLS, it may be reached in clear text.
#[tokio::test]
async fn clear_text_destinations_are_refused() {
    let start = |encrypted: &[&str], cleartext: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let upstreams = Upstreams::new(owned(encrypted), owned(cleartext)).expect("valid");
        Service::start_with(move |snapshot| {
            snapshot.substitutions = substitutions(Violation::Deny);
            snapshot.upstreams = upstreams;
        })
    };
    let head = || request("/", &[("x-key", REFERENCE), PICTURE[0]]);
    let target = format!("/?key={REFERENCE}");
    for refused in [start(&[], &[]).await, start(&["elsewhere"], &["other"]).await] {
        for head in [head(), request(&target, &PICTURE), request("/inject", &PICTURE)] {
            let answer = refused.ask(head).await.expect("an answer");
            let details = "vaultmux_clear_text_upstream:ext_proc.tls_clusters";
            assert_eq!((status(&answer).0, status(&answer).1), (403, details));
        }
    }
    for (encrypted, cleartext) in
        [(&["elsewhere", CLUSTER][..], &[][..]), (&[], &[CLUSTER]), (&[], &["*"])]
    {
        let service = start(encrypted, cleartext).await;
        let answer = service.ask(head()).await.expect("an answer");
        assert_eq!(mutated(&answer), [("x-key".to_owned(), CANARY.to_owned())]);
    }
}

/// A path of more than one reading may be that of a rule, and so may a destination that
/// nobody told.
#[tokio::test]
async fn what_is_not_known_switches_no_restriction_off() {
    const MALFORMED: (i32, &str) = (400, "vaultmux_denied_malformed_request");
    let inert = service(Violation::Inert).await;
    let key = [("x-key", REFERENCE)];
    for (message, expected) in [
        (request("//require/x", &[]), MALFORMED),
        (request("/require%2fx", &[]), MALFORMED),
        (request("/a/../require/x", &[]), MALFORMED),
        (request("/./redact/x", &key), MALFORMED),
        (request("/redact;a/x", &key), MALFORMED),
        (request("/require/x", &PICTURE), (403, "vaultmux_reference_required")),
        (request("/other/x", &key), (0, "")),
        // These have no path at all.
        (anonymous("OPTIONS", "api.stripe.com", "*", &[]), (0, "")),
        (anonymous("CONNECT", "api.stripe.com", "", &[]), (0, "")),
        (anonymous("CONNECT", "api.stripe.com", "//require/x", &[]), MALFORMED),
    ] {
        let what = format!("{:?}", message.request);
        let answer = inert.ask(message).await.expect("an answer");
        assert_eq!((status(&answer).0, status(&answer).1), expected, "{what}");
    }
    let bound = Service::start_with(|snapshot| {
        let clusters = vec![CLUSTER.to_owned()];
        let matcher = InjectionMatch { clusters, ..InjectionMatch::default() };
        let (name, surfaces) = ("bound".to_owned(), Surfaces::default());
        let rule = Substitution { name, matcher, surfaces, required: true, redacts: false };
        snapshot.substitutions = Substitutions::new(vec![rule], Vec::new()).expect("valid");
    })
    .await;
    let set = |cluster: Option<&str>| {
        let mut message = request("/", &[]);
        for attributes in message.attributes.values_mut() {
            attributes.fields.remove("xds.cluster_name");
            if let Some(cluster) = cluster {
                let kind = Some(Kind::StringValue(cluster.to_owned()));
                attributes.fields.insert("xds.cluster_name".to_owned(), Value { kind });
            }
        }
        message
    };
    for (message, expected) in [
        (set(None), (403, "binding_attribute_missing:xds.cluster_name")),
        (set(Some("")), (403, "binding_attribute_missing:xds.cluster_name")),
        (set(Some("other")), (0, "")),
        (set(Some(CLUSTER)), (403, "vaultmux_reference_required")),
    ] {
        let answer = bound.ask(message).await.expect("an answer");
        assert_eq!((status(&answer).0, status(&answer).1), expected);
    }
}

/// `response_header_mode: SKIP`.
#[tokio::test]
async fn responses_whose_headers_were_not_shown_are_refused() {
    let service = service(Violation::Inert).await;
    for request in [
        Request::ResponseBody(chunk(CANARY.as_bytes(), false)),
        Request::ResponseBody(chunk(CANARY.as_bytes(), true)),
        Request::ResponseTrailers(HttpTrailers::default()),
    ] {
        let mut exchange = redacting(&service, STREAMED).await;
        exchange.send(message(request)).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        assert_eq!(
            (status(&answer).0, status(&answer).1),
            (500, "vaultmux_mode_unable:response_header_mode")
        );
    }
}

fn with_phases(phases: PhaseSettings) -> impl Future<Output = Service> {
    let metrics = Arc::new(Metrics::default());
    let mut snapshot = snapshot(&metrics);
    snapshot.substitutions = substitutions(Violation::Inert);
    let settings = ExtProcSettings { phases, ..ExtProcSettings::default() };
    let service = ExtProc::new(Current::new(snapshot), Arc::clone(&metrics), settings);
    Service::serve(service, metrics)
}

/// A body that is whole and does not end the stream is followed by trailers.
#[tokio::test]
async fn trailers_that_are_not_shown_are_not_let_through() {
    let refused = (502, "vaultmux_body_held_at_trailers");
    let passed = (0, "");
    for (overrides, shown, ends, expected) in [
        ((false, false), false, false, refused),
        ((false, false), false, true, passed),
        ((false, false), true, false, passed),
        // Asked for, and nobody says that it is heeded.
        ((true, false), false, false, refused),
        ((true, false), false, true, passed),
        ((true, true), false, false, passed),
    ] {
        let modes = crate::ext_proc::Modes { response_trailers: shown, ..Default::default() };
        let (mode_override, override_heeded) = overrides;
        let more = PhaseSettings::default();
        let phases = PhaseSettings { mode_override, override_heeded, modes, ..more };
        let service = with_phases(phases).await;
        let mut exchange = redacting(&service, BUFFERED).await;
        exchange.send(message(Request::ResponseHeaders(response(&[(":status", "200")])))).await;
        exchange.answer().await.expect("an answer").expect("open");
        exchange.send(message(Request::ResponseBody(chunk(CANARY.as_bytes(), ends)))).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        assert_eq!((status(&answer).0, status(&answer).1), expected, "{overrides:?} {shown}");
    }
}

/// Nobody learns of an override that is not heeded before the response has passed.
#[tokio::test]
async fn responses_are_shown_by_overrides_only_where_the_operator_says_so() {
    let unable = (500, "vaultmux_mode_unable:response_body_mode");
    let key = [("x-key", REFERENCE)];
    for (override_heeded, mode, expected) in [
        (false, 0, unable),
        // Its trailers would pass unseen.
        (false, STREAMED, unable),
        (false, BUFFERED, (0, "")),
        (true, 0, (0, "")),
        (true, STREAMED, (0, "")),
    ] {
        let phases =
            PhaseSettings { mode_override: true, override_heeded, ..PhaseSettings::default() };
        let service = with_phases(phases).await;
        let answer = service.ask(first(request(REDACTED, &key), 0, mode)).await;
        let answer = answer.expect("an answer");
        assert_eq!((status(&answer).0, status(&answer).1), expected, "{override_heeded} {mode}");
        // Nothing to take out, nothing to refuse.
        let answer = service.ask(first(request(REDACTED, &[]), 0, mode)).await;
        assert_eq!(status(&answer.expect("an answer")).0, 0);
    }
}

/// What is taken out of a response was settled when it began.
#[tokio::test]
async fn references_after_the_response_has_begun_are_refused_where_it_is_redacted() {
    let service = service(Violation::Inert).await;
    for (target, expected) in [(REDACTED, (502, "vaultmux_response_early")), ("/", (0, ""))] {
        let mut exchange = service.open().await;
        let head = posted(target, "application/json", &[]);
        exchange.send(first(head, STREAMED, STREAMED)).await;
        exchange.answer().await.expect("an answer").expect("open");
        exchange.send(message(Request::ResponseHeaders(response(&[(":status", "200")])))).await;
        exchange.answer().await.expect("an answer").expect("open");
        let body = format!("[\"{REFERENCE}\"]");
        exchange.send(message(Request::RequestBody(chunk(body.as_bytes(), true)))).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        assert_eq!((status(&answer).0, status(&answer).1), expected, "{target}");
    }
}

/// Messages of gRPC tell their lengths, and so do the fields in them: nothing moves.
#[tokio::test]
async fn frames_of_grpc_stay_what_they_are() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let service = service(Violation::Inert).await;
    let frame = |text: &str| {
        let mut frame = vec![0];
        frame.extend_from_slice(&(text.len() as u32).to_be_bytes());
        frame.extend_from_slice(text.as_bytes());
        frame
    };
    let (sent, masked) = (format!("key {CANARY}!"), format!("key {}!", "*".repeat(CANARY.len())));
    for kind in ["application/grpc", "Application/GRPC+proto", "application/grpc-web+proto"] {
        let head = [(":status", "200"), ("content-type", kind)];
        let body = [frame(&sent), frame("other"), frame(&sent)].concat();
        for cut in [1, 5, 11, body.len()] {
            let got = redacted_body(&service, &head, body.chunks(cut)).await;
            assert_eq!(got, [frame(&masked), frame("other"), frame(&masked)].concat(), "{kind}");
        }
    }
    // As text it is still base64, of as many bytes.
    let head = [(":status", "200"), ("content-type", "application/grpc-web-text")];
    let text = STANDARD.encode(frame(&sent));
    let got = redacted_body(&service, &head, text.as_bytes().chunks(7)).await;
    assert_eq!(got.len(), text.len());
    let decoded = STANDARD.decode(&got).expect("base64");
    assert_eq!(decoded[..5], frame(&sent)[..5], "the length is the one it was");
    assert!(!decoded.windows(4).any(|part| CANARY.as_bytes().starts_with(part)), "{decoded:?}");
    assert_eq!(decoded[decoded.len() - 1], b'!');
}

/// What the client gets of a response's body that comes in these chunks.
async fn redacted_body<'c>(
    service: &Service,
    head: &[(&str, &str)],
    chunks: impl ExactSizeIterator<Item = &'c [u8]>,
) -> Vec<u8> {
    let mut exchange = redacting(service, STREAMED).await;
    exchange.send(message(Request::ResponseHeaders(response(head)))).await;
    exchange.answer().await.expect("an answer").expect("open");
    let (mut got, last) = (Vec::new(), chunks.len() - 1);
    for (at, bytes) in chunks.enumerate() {
        exchange.send(message(Request::ResponseBody(chunk(bytes, at == last)))).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        got.extend(body_of(&answer).unwrap_or(bytes.to_vec()));
    }
    got
}

/// A body of which nobody can say what the upstream takes it for.
#[tokio::test]
async fn bodies_of_no_type_or_of_two_are_judged() {
    let untyped = (400, "vaultmux_body_untyped");
    let strict = service(Violation::Deny).await;
    let inert = service(Violation::Inert).await;
    let json = ("content-type", "application/json");
    let rows = [
        (&[][..], untyped),
        (&[("content-type", "")], untyped),
        (&[json, json], untyped),
        (&[json, ("content-type", "text/plain")], untyped),
        (&[("content-type", "image/png, application/json")], untyped),
        (&[("content-type", "application/json; charset=utf-8,image/png")], untyped),
        (&[("content-type", "multipart/form-data; boundary=\"a,b\"")], (0, "")),
        (&[("content-length", "0")], (0, "")),
    ];
    for (headers, expected) in rows {
        let head = || {
            let mut head = request("/", headers);
            let Some(Request::RequestHeaders(message)) = &mut head.request else { panic!() };
            message.end_of_stream = false;
            head
        };
        let answer = strict.ask(head()).await.expect("an answer");
        assert_eq!((status(&answer).0, status(&answer).1), expected, "{headers:?}");
        let answer = inert.ask(head()).await.expect("an answer");
        assert_eq!(status(&answer).0, 0, "{headers:?}");
    }
    assert!(inert.counts(r#"vaultmux_ext_proc_bodies_total{result="body_untyped"} 6"#));
}

/// Only strings of JSON can hold a value, and only one reference is replaced where one
/// stands inside of another.
#[tokio::test]
async fn references_in_json_have_a_place() {
    let strict = service(Violation::Deny).await;
    let inert = service(Violation::Inert).await;
    let json = || posted("/", "application/json", &[]);
    let outside = format!("{{\"a\": {REFERENCE}, \"b\": \"\\\"{REFERENCE}\"}}");
    let answer = upload(&strict, json(), &outside).await;
    assert_eq!((status(&answer).0, status(&answer).1), (400, "vaultmux_reference_position"));
    let answer = upload(&inert, json(), &outside).await;
    let expected = format!("{{\"a\": {REFERENCE}, \"b\": \"\\\"{CANARY}\"}}");
    assert_eq!(body_of(&answer), Some(expected.into_bytes()));
    assert!(inert.counts(r#"vaultmux_ext_proc_bodies_total{result="reference_position"} 1"#));
    // The inner one alone is a reference, and what comes of it is none.
    let nested = format!("\"{{{{secret://local/use/{REFERENCE}}}}}\"");
    let answer = upload(&inert, json(), &nested).await;
    let expected = format!("\"{{{{secret://local/use/{CANARY}}}}}\"");
    assert_eq!(body_of(&answer), Some(expected.into_bytes()));
    // More than a body may hold, and it passes.
    let many = format!("\"{}\"", REFERENCE.repeat(34));
    upload(&inert, json(), &many).await;
    assert!(inert.counts(r#"vaultmux_ext_proc_bodies_total{result="too_many_references"} 2"#));
}

/// What comes although Envoy was asked to keep it shows that it does not do as it is asked.
#[tokio::test]
async fn overrides_that_are_seen_to_be_ignored_let_no_response_through() {
    let service = service(Violation::Inert).await;
    for (mode, refused) in [(0, true), (STREAMED, true), (BUFFERED, false)] {
        let mut exchange = service.open().await;
        let mut head = request(REDACTED, &[("x-key", REFERENCE), ("content-type", "image/png")]);
        let Some(Request::RequestHeaders(headers)) = &mut head.request else { panic!() };
        headers.end_of_stream = false;
        exchange.send(first(head, BUFFERED, mode)).await;
        exchange.answer().await.expect("an answer").expect("open");
        exchange.send(message(Request::RequestBody(chunk(b"x", true)))).await;
        exchange.answer().await.expect("an answer").expect("open");
        exchange.send(message(Request::ResponseHeaders(response(&[(":status", "200")])))).await;
        assert_eq!(exchange.answer().await.is_err(), refused, "{mode}");
    }
    assert!(service.counts(r#"vaultmux_ext_proc_bodies_total{result="mode_override_ignored"} 3"#));
}

/// Percent-encoded, a reference is still one.
#[tokio::test]
async fn encoded_references_in_the_head_are_judged() {
    const ENCODED: &str = "%7B%7Bsecret%3A%2F%2Flocal%2Fuse%2Fkey%7D%7D";
    let encoded = (400, "vaultmux_reference_refused:encoded");
    let plain = Service::start().await;
    let target = format!("/a?key={ENCODED}");
    let cookie = format!("a={ENCODED}");
    for head in [
        request("/", &[("x-key", ENCODED)]),
        request("/", &[("cookie", &cookie)]),
        request(&target, &[]),
        request(&format!("/{ENCODED}"), &[]),
    ] {
        let answer = plain.ask(head).await.expect("an answer");
        assert_eq!((status(&answer).0, status(&answer).1), encoded);
    }
    let line = r#"vaultmux_ext_proc_references_total{result="denied",reason="encoded"} 4"#;
    assert!(plain.counts(line));
    // Other things that are encoded are nobody's business.
    let answer = plain.ask(request("/a?b=%7B%7B&c=%2F", &[("x-key", "%7B%7Bx")])).await;
    assert_eq!(status(&answer.expect("an answer")).0, 0);
    let strict = service(Violation::Deny).await;
    let answer = strict.ask(request("/", &[("cookie", &cookie)])).await.expect("an answer");
    assert_eq!((status(&answer).0, status(&answer).1), (400, "vaultmux_not_rewritable:encoded"));
    let inert = service(Violation::Inert).await;
    let answer = inert.ask(request("/", &[("cookie", &cookie)])).await.expect("an answer");
    assert_eq!(status(&answer).0, 0);
    let line = r#"vaultmux_ext_proc_surfaces_total{surface="cookie",result="encoded"} 1"#;
    assert!(inert.counts(line));
}
