//! Who the caller is: from certificates and grants that Envoy vouches for, never
//! from headers.

use super::*;

const OTHER: &str = "spiffe://cluster.local/ns/prod/sa/other";
const HOST: &str = "vaultmux.test";
const PATH: &str = "/v1/secrets/readable";

fn read(attributes: HashMap<String, Struct>) -> ProcessingRequest {
    ProcessingRequest { attributes, ..anonymous("GET", HOST, PATH, &[]) }
}

fn certificate(id: &str, mtls: Kind) -> HashMap<String, Struct> {
    let id = Kind::StringValue(id.to_owned());
    attributes_of([("connection.mtls", mtls), ("connection.uri_san_peer_certificate", id)])
}

fn granted(grant: Kind) -> ProcessingRequest {
    let mut message = read(HashMap::new());
    with_grant(&mut message, grant);
    message
}

#[tokio::test]
async fn callers_that_prove_nothing_or_too_much_are_denied() {
    let service = Service::start().await;
    let yes = || Kind::BoolValue(true);
    let elsewhere = HashMap::from([(
        "my-ext-proc".to_owned(),
        certificate(API, yes()).remove("envoy.filters.http.ext_proc").expect("some"),
    )]);
    let claims = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/prod/sa/api")];
    let good = || grant(API, HOST, PATH);
    let mut both = granted(good());
    both.attributes = certificate(OTHER, yes());
    let expired = grants()
        .seal(
            &{
                let mut evidence = Evidence::default();
                evidence.add_mtls(API, "");
                evidence
                    .principal(&[TrustDomain::parse("cluster.local").expect("valid")])
                    .expect("valid")
            },
            GrantScope { method: "GET", host: HOST, path: PATH },
            SystemTime::now() - Duration::from_secs(300),
        )
        .expect("sealed");
    let cases = [
        (401, read(HashMap::new())),
        (401, anonymous("GET", HOST, PATH, &claims)),
        (401, read(elsewhere)),
        (401, read(certificate(API, Kind::BoolValue(false)))),
        (401, read(certificate(API, Kind::StringValue("true".into())))),
        // A certificate that names nobody is not the absence of one.
        (403, read(certificate("", yes()))),
        (403, read(certificate("CN=api", yes()))),
        (403, read(certificate("spiffe://other.test/ns/prod/sa/api", yes()))),
        (403, read(certificate(OTHER, yes()))),
        (403, granted(grant(API, "other.test", PATH))),
        (403, granted(grant(API, HOST, "/v1/secrets/other"))),
        (403, granted(Kind::StringValue("a.b.c".into()))),
        (403, granted(Kind::StringValue(String::new()))),
        (403, granted(Kind::StringValue(expired))),
        (403, granted(Kind::NumberValue(1.0))),
        (403, both),
    ];
    for (at, (code, message)) in cases.into_iter().enumerate() {
        let answer = service.ask(message).await.expect("an answer");
        assert_eq!(status(&answer).0, code, "case {at}");
    }
}

#[tokio::test]
async fn grant_or_certificate_or_both_prove_a_caller() {
    let service = Service::start().await;
    let certified = || certificate(API, Kind::BoolValue(true));
    let mut both = granted(grant(API, HOST, PATH));
    both.attributes = certified();
    for message in [read(certified()), granted(grant(API, HOST, PATH)), both] {
        let answer = service.ask(message).await.expect("an answer");
        let (code, _, body) = status(&answer);
        assert_eq!(code, 200, "{body}");
        assert!(body.contains(CANARY), "the value is what was asked for");
    }
}

#[tokio::test]
async fn static_identity_never_counts_here() {
    let local = SpiffeId::parse(API).expect("valid");
    let service = Service::start_with(|snapshot| snapshot.local = Some(local)).await;
    let cases = [
        // An inbound caller without certificate must not pass for the pod itself.
        (401, read(HashMap::new())),
        (403, read(certificate(OTHER, Kind::BoolValue(true)))),
        (403, read(attributes_of([("connection.mtls", Kind::BoolValue(true))]))),
        (403, granted(Kind::StringValue("a.b.c".into()))),
    ];
    for (at, (code, message)) in cases.into_iter().enumerate() {
        let answer = service.ask(message).await.expect("an answer");
        assert_eq!(status(&answer).0, code, "case {at}");
    }
}
