//! A second attempt, whose headers are what the first one made of them.

use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, body_mutation::Mutation};

use super::*;
use crate::{
    ext_proc::retry::NAMESPACE,
    injection::{Substitution, Substitutions, Surface, Surfaces, Violation},
};

const BEARER: &str = "Bearer {{secret://local/use/key}}";

async fn start(change: impl FnOnce(&mut Snapshot)) -> Service {
    Service::start_with(|snapshot| {
        snapshot.suspect_statuses = Arc::new([401]);
        let mut surfaces = Surfaces::default();
        surfaces.add(Surface::Query, Violation::Inert);
        surfaces.add(Surface::Cookie, Violation::Deny);
        let matcher = InjectionMatch::default();
        let name = "all".to_owned();
        let rule = Substitution { name, matcher, surfaces, required: false, redacts: false };
        snapshot.substitutions = Substitutions::new(vec![rule], vec![]).expect("valid");
        change(snapshot);
    })
    .await
}

/// The next attempt of a request: as this answer left it, with what Envoy was to keep.
fn again(
    first: ProcessingRequest,
    answer: &ProcessingResponse,
    change: impl Fn(&mut Vec<HeaderValue>),
) -> ProcessingRequest {
    let mut next = first;
    let Some(Request::RequestHeaders(request)) = &mut next.request else { panic!("headers") };
    let headers = &mut request.headers.as_mut().expect("some").headers;
    let Some(Response::RequestHeaders(answered)) = &answer.response else { panic!("headers") };
    let mutation = answered.response.as_ref().and_then(|common| common.header_mutation.as_ref());
    let mutation = mutation.expect("something was put in");
    // In Envoy's order: what is removed, and then what is set.
    headers.retain(|header| !mutation.remove_headers.contains(&header.key));
    #[expect(deprecated, reason = "the field that Envoy reads")]
    for option in &mutation.set_headers {
        let header = option.header.clone().expect("a header");
        if !option.append.expect("said").value {
            headers.retain(|other| other.key != header.key);
        }
        headers.push(header);
    }
    change(headers);
    kept(next, answer)
}

/// With what Envoy was to keep.
fn kept(mut next: ProcessingRequest, answer: &ProcessingResponse) -> ProcessingRequest {
    let metadata = answer.dynamic_metadata.clone().unwrap_or_default();
    let filter_metadata = metadata.fields.into_iter().map(|(name, value)| match value.kind {
        Some(Kind::StructValue(fields)) => (name, fields),
        _ => panic!("Envoy takes structures alone"),
    });
    let filter_metadata = filter_metadata.collect();
    next.metadata_context = Some(Metadata { filter_metadata, ..Metadata::default() });
    next
}

fn sorted(answer: &ProcessingResponse) -> Vec<(String, String)> {
    let mut headers = mutated(answer);
    headers.sort();
    headers
}

#[tokio::test]
async fn the_second_attempt_decides_about_what_the_client_sent() {
    let service = start(|_| {}).await;
    let reference = "{{secret://local/use/key}}";
    let basic = "Basic dXNlcjp7e3NlY3JldDovL2xvY2FsL3VzZS9rZXl9fQ==";
    let target = format!("/x?a=1&key={reference}&b=2");
    let cookies = format!("a=1; key={reference}");
    let sent = [
        ("authorization", basic),
        ("x-other", "kept"),
        ("x-key", BEARER),
        ("x-key", "the other"),
        ("cookie", &cookies),
        ("cookie", "more=1"),
    ];
    let first = request(&target, &sent);
    let answer = service.ask(first.clone()).await.expect("an answer");
    let expected = sorted(&answer);
    assert_eq!(expected.len(), 6, "{expected:?}");
    assert!(expected.contains(&(":path".into(), format!("/x?a=1&key={CANARY}&b=2"))));
    // Nobody who logs it sees what the client sent, let alone a value.
    let shown = format!("{:?}", answer.dynamic_metadata);
    assert!(shown.contains("authorization") && shown.contains(NAMESPACE), "{shown}");
    for hidden in [CANARY, "use/key", "the other", "a=1"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
    let second = again(first.clone(), &answer, |_| {});
    let answer = service.ask(second.clone()).await.expect("an answer");
    assert_eq!(sorted(&answer), expected, "the same once more");
    // And so for every attempt.
    let answer = service.ask(again(second.clone(), &answer, |_| {})).await.expect("an answer");
    assert_eq!(sorted(&answer), expected);
    // Everything is decided anew.
    let mut elsewhere = second.clone();
    elsewhere
        .attributes
        .get_mut("envoy.filters.http.ext_proc")
        .expect("some")
        .fields
        .remove("xds.cluster_name");
    let answer = service.ask(elsewhere).await.expect("an answer");
    assert_eq!(status(&answer).1, "binding_attribute_missing:xds.cluster_name");
    let mut anonymous = second;
    anonymous.attributes.clear();
    let answer = service.ask(anonymous).await.expect("an answer");
    assert_eq!((status(&answer).0, status(&answer).1), (401, "vaultmux_denied_no_identity"));
}

#[tokio::test]
async fn what_is_not_replaced_any_more_is_as_the_client_sent_it() {
    let service = start(|_| {}).await;
    let target = "/x?key={{secret://local/use/key}}";
    let first = request(target, &[]);
    let answer = service.ask(first.clone()).await.expect("an answer");
    assert_eq!(mutated(&answer), [(":path".to_owned(), format!("/x?key={CANARY}"))]);
    let second = again(first, &answer, |_| {});
    // The policy that allowed it is gone: it is text.
    let denying = start(|snapshot| snapshot.policies = Arc::new(PolicySet::deny_all())).await;
    let answer = denying.ask(second.clone()).await.expect("an answer");
    assert_eq!(mutated(&answer), [(":path".to_owned(), target.to_owned())]);
    // The rule that looked there is: no value goes on, as at the first attempt.
    let blind = start(|snapshot| snapshot.substitutions = Substitutions::default()).await;
    let answer = blind.ask(second).await.expect("an answer");
    assert_eq!(status(&answer).0, 400);
}

#[tokio::test]
async fn what_is_not_ours_is_not_put_back() {
    let service = start(|_| {}).await;
    let first = request("/x", &[("authorization", BEARER)]);
    let answer = service.ask(first.clone()).await.expect("an answer");
    let untouched = async |service: &Service, next: ProcessingRequest, what: &str| {
        let answer = service.ask(next).await.expect("an answer");
        assert_eq!((status(&answer).0, mutated(&answer)), (0, vec![]), "{what}");
    };
    // Somebody has set the header since.
    let next = again(first.clone(), &answer, |headers| {
        headers.last_mut().expect("one").raw_value = b"Bearer own".to_vec();
    });
    untouched(&service, next, "another value").await;
    let next = again(first.clone(), &answer, |headers| {
        headers.last_mut().expect("one").key = "x-key".to_owned();
    });
    untouched(&service, next, "another header").await;
    // Another key, as of a process that shares none.
    let other = GrantKeys::random(Duration::from_secs(30)).expect("random");
    let stranger = start(|snapshot| snapshot.grants = Arc::new(other)).await;
    untouched(&stranger, again(first.clone(), &answer, |_| {}), "another key").await;
    // Claims without a seal.
    for claim in [BEARER, "", "AAAA", "e3tzZWNyZXQ6Ly9sb2NhbC91c2Uva2V5fX0"] {
        let mut next = again(first.clone(), &answer, |_| {});
        let claim = fields_of([("authorization", Kind::StringValue(claim.to_owned()))]);
        let metadata = next.metadata_context.as_mut().expect("some");
        metadata.filter_metadata.insert(NAMESPACE.to_owned(), claim);
        untouched(&service, next, "a claim").await;
    }
    // Nothing is kept where no status is watched, and of requests that nothing was put into.
    let plain = service.ask(request("/x", &[("authorization", "own")])).await.expect("an answer");
    assert_eq!(plain.dynamic_metadata, None);
    let ruled = service.ask(request("/inject", &[])).await.expect("an answer");
    assert_eq!((mutated(&ruled).len(), ruled.dynamic_metadata), (1, None));
    let unwatched = start(|snapshot| snapshot.suspect_statuses = Arc::new([])).await;
    let answer = unwatched.ask(first).await.expect("an answer");
    assert_eq!((mutated(&answer).len(), answer.dynamic_metadata), (1, None));
}

/// Envoy sends the client's body again, and says the length of what was made of it.
#[tokio::test]
async fn the_second_attempt_has_the_clients_body_and_its_length() {
    let service = start(|snapshot| {
        let mut surfaces = Surfaces::default();
        surfaces.add(Surface::Json, Violation::Deny);
        let matcher = InjectionMatch::default();
        let name = "json".to_owned();
        let rule = Substitution { name, matcher, surfaces, required: false, redacts: false };
        snapshot.substitutions = Substitutions::new(vec![rule], vec![]).expect("valid");
    })
    .await;
    let sent = r#"["{{secret://local/use/key}}"]"#;
    let made = format!(r#"["{CANARY}"]"#);
    let length = |text: &str| ("content-length".to_owned(), text.len().to_string());
    let json = ("content-type", "application/json");
    let sent_length = sent.len().to_string();
    let mut message = request("/x", &[json, ("content-length", &sent_length)]);
    for attempt in 1..4 {
        let mut exchange = service.open().await;
        exchange.send(message.clone()).await;
        let answer = exchange.answer().await.expect("an answer").expect("open");
        // What goes on unchanged has to be right too.
        let expected = if attempt == 1 { vec![] } else { vec![length(sent)] };
        assert_eq!(mutated(&answer), expected, "attempt {attempt}");
        let body = HttpBody { body: sent.into(), end_of_stream: true, ..HttpBody::default() };
        let request = Some(Request::RequestBody(body));
        exchange.send(ProcessingRequest { request, ..ProcessingRequest::default() }).await;
        let changed = exchange.answer().await.expect("an answer").expect("open");
        let Some(Response::RequestBody(changed)) = changed.response else {
            panic!("attempt {attempt}: {:?}", status(&changed));
        };
        let changed = changed.response.expect("something changes");
        let headers = changed.header_mutation.expect("of another length").set_headers;
        let set = headers.iter().filter_map(|option| option.header.as_ref());
        let set: Vec<_> = set.map(|header| header.raw_value.clone()).collect();
        assert_eq!(set, [made.len().to_string().into_bytes()], "attempt {attempt}");
        let body = changed.body_mutation.and_then(|body| body.mutation);
        assert_eq!(body, Some(Mutation::Body(made.clone().into())), "attempt {attempt}");
        message = kept(message, &answer);
        set_length(&mut message, &made);
    }
}

fn set_length(message: &mut ProcessingRequest, body: &str) {
    let Some(Request::RequestHeaders(request)) = &mut message.request else { panic!("headers") };
    let headers = &mut request.headers.as_mut().expect("some").headers;
    let length = headers.iter_mut().find(|header| header.key == "content-length");
    length.expect("it has one").raw_value = body.len().to_string().into();
}
