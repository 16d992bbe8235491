//! AWS signatures: the vectors that AWS documents, and what is refused.

use super::*;
use crate::signing::SigV4;

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn signer(id: &str, regions: &[&str], services: &[&str]) -> SigV4 {
    SigV4 {
        access_key_id: template(id),
        secret_access_key: template("{{secret://local/key}}"),
        session_token: None,
        regions: regions.iter().map(|name| (*name).to_owned()).collect(),
        services: services.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// The client's own signature, with a key of no value.
fn dummy(scope: &str, headers: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=AKIADUMMY/20000101/{scope}/aws4_request, \
         SignedHeaders={headers}, Signature=00"
    )
}

async fn signed(aws: SigV4, request: &Unsigned<'_>, key: &str) -> Result<Signed, SigningError> {
    let secrets: [(&str, &[u8]); 2] = [("key", key.as_bytes()), ("token", b"canary-token")];
    sign(&Signer::SigV4(aws), request, &secrets, &AccessTokens::default()).await
}

/// `get-vanilla`, `get-vanilla-query-order-key-case`, `post-x-www-form-urlencoded` of the test
/// suite of Signature Version 4.
#[tokio::test]
async fn signatures_are_those_of_the_test_suite() {
    let key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let dummies = [
        dummy("us-east-1/service", "host;x-amz-date"),
        dummy("us-east-1/service", "content-type;host;x-amz-date"),
    ];
    let plain: [(&str, &[u8]); 1] = [("authorization", dummies[0].as_bytes())];
    let form: [(&str, &[u8]); 2] = [
        ("authorization", dummies[1].as_bytes()),
        ("content-type", b"application/x-www-form-urlencoded"),
    ];
    let now = at(1_440_938_160);
    let host = "example.amazonaws.com";
    let rows = [
        (
            Unsigned { now, ..get(host, "/", &plain) },
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            Unsigned { now, ..get(host, "/?Param2=value2&Param1=value1", &plain) },
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            Unsigned {
                now,
                method: "POST",
                body: Body::Whole(b"Param1=value1"),
                ..get(host, "/", &form)
            },
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ];
    for (request, names, signature) in rows {
        let aws = signer("AKIDEXAMPLE", &["us-east-1"], &["service"]);
        let signed = signed(aws, &request, key).await.expect("signed");
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders={names}, Signature={signature}"
        );
        assert_eq!(header(&signed, "authorization"), Some(expected), "{}", request.target);
        assert_eq!(header(&signed, "x-amz-date").as_deref(), Some("20150830T123600Z"));
        assert_eq!(signed.removed, ["x-amz-security-token"]);
        assert!(signed.target.is_none());
    }
}

const S3_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const BUCKET: &str = "examplebucket.s3.amazonaws.com";

/// The examples of Amazon S3's documentation: `GET Object`, and a presigned URL.
#[tokio::test]
async fn signatures_are_those_of_the_s3_documentation() {
    let authorization = dummy("us-east-1/s3", "host;range;x-amz-content-sha256;x-amz-date");
    let headers: [(&str, &[u8]); 3] = [
        ("authorization", authorization.as_bytes()),
        ("range", b"bytes=0-9"),
        ("x-amz-content-sha256", EMPTY.as_bytes()),
    ];
    let now = at(1_369_353_600);
    let aws = || signer("AKIAIOSFODNN7EXAMPLE", &["us-east-1"], &["s3"]);
    let request = Unsigned { now, body: Body::Unseen, ..get(BUCKET, "/test.txt", &headers) };
    assert!(!Signer::SigV4(aws()).needs_body(&request));
    let got = signed(aws(), &request, S3_KEY).await.expect("signed");
    let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    let authorization = header(&got, "authorization").expect("set");
    assert!(authorization.ends_with(signature), "{authorization}");
    assert_eq!(header(&got, "x-amz-content-sha256").as_deref(), Some(EMPTY));

    let target = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
                  &X-Amz-Credential=AKIADUMMY%2F20000101%2Fus-east-1%2Fs3%2Faws4_request\
                  &X-Amz-Date=20000101T000000Z&X-Amz-Expires=86400\
                  &X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    let request = Unsigned { now, body: Body::Unseen, ..get(BUCKET, target, &[]) };
    assert!(!Signer::SigV4(aws()).needs_body(&request));
    let got = signed(aws(), &request, S3_KEY).await.expect("signed");
    assert!(got.headers.is_empty());
    let target = got.target.expect("another target");
    assert_eq!(
        target.as_str(),
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
}

#[tokio::test]
async fn what_is_said_of_the_body_stays() {
    for said in ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", EMPTY] {
        let authorization = dummy("eu-west-1/s3", "host;x-amz-content-sha256;x-amz-date");
        let headers: [(&str, &[u8]); 3] = [
            ("authorization", authorization.as_bytes()),
            ("x-amz-content-sha256", said.as_bytes()),
            ("x-amz-security-token", b"dummy"),
        ];
        let request = Unsigned { body: Body::Unseen, ..get(BUCKET, "/a%20b", &headers) };
        let aws = || SigV4 {
            session_token: Some(template("{{secret://local/token}}")),
            ..signer("AKIA", &["eu-west-1"], &["s3"])
        };
        let got = signed(aws(), &request, S3_KEY).await.expect("signed");
        assert_eq!(header(&got, "x-amz-content-sha256").as_deref(), Some(said));
        assert_eq!(header(&got, "x-amz-security-token").as_deref(), Some("canary-token"));
        assert!(got.removed.is_empty(), "it is set");
        let authorization = header(&got, "authorization").expect("set");
        let names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,";
        assert!(authorization.contains(names), "{authorization}");
    }
}

#[tokio::test]
async fn requests_that_must_not_be_signed_are_refused() {
    let good = dummy("us-east-1/s3", "host;x-amz-date");
    let fields = |from: &str, to: &str| good.replacen(from, to, 1);
    let content = |value: &'static str| ("x-amz-content-sha256", value.to_owned());
    let rows: Vec<(Vec<(&str, String)>, SigningError)> = vec![
        (vec![], SigningError::Unsigned),
        (vec![("authorization", "Bearer x".to_owned())], SigningError::Unsigned),
        (
            vec![("authorization", fields("HMAC-SHA256", "ECDSA-P256-SHA256"))],
            SigningError::Unsigned,
        ),
        (vec![("authorization", good.clone()); 2], SigningError::Malformed),
        (vec![("authorization", fields("/us-east-1", "/us-east-2"))], SigningError::Scope),
        (vec![("authorization", fields("/s3/", "/iam/"))], SigningError::Scope),
        (vec![("authorization", fields("/s3/", "//"))], SigningError::Malformed),
        (vec![("authorization", fields("aws4_request", "aws5_request"))], SigningError::Malformed),
        (vec![("authorization", fields("AKIADUMMY/", ""))], SigningError::Malformed),
        (vec![("authorization", fields("Credential=", "Other="))], SigningError::Malformed),
        (vec![("authorization", fields("SignedHeaders", "Credential"))], SigningError::Malformed),
        (
            vec![("authorization", fields("host;", "host;x-gone;")), content(EMPTY)],
            SigningError::MissingHeader,
        ),
        (vec![("authorization", good.clone())], SigningError::BodyUnseen),
        (
            vec![("authorization", good.clone()), content("STREAMING-AWS4-HMAC-SHA256-PAYLOAD")],
            SigningError::ChunkSigned,
        ),
        (
            vec![
                ("authorization", good.clone()),
                content("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
            ],
            SigningError::ChunkSigned,
        ),
        (vec![("authorization", good.clone()), content("abc")], SigningError::Malformed),
        (
            vec![("authorization", good.clone()), content(EMPTY), content("UNSIGNED-PAYLOAD")],
            SigningError::Malformed,
        ),
    ];
    for (headers, expected) in rows {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let request = Unsigned { body: Body::Unseen, ..get(BUCKET, "/", &headers) };
        let aws = signer("AKIA", &["us-east-1"], &["s3"]);
        let got = signed(aws, &request, CANARY).await.map(|_| ()).expect_err("refused");
        assert_eq!(got, expected, "{:?}", headers.first().map(|(_, v)| String::from_utf8_lossy(v)));
    }
    let query = "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-SignedHeaders=host&X-Amz-Expires=60\
                 &X-Amz-Credential=A%2F1%2Fus-east-1%2Fs3%2Faws4_request";
    let rows = [
        (query.replace("HMAC", "ECDSA"), SigningError::Unsigned),
        (query.replace("Expires=60", "Expires=0"), SigningError::Malformed),
        (query.replace("Expires=60", "Expires=604801"), SigningError::Malformed),
        (query.replace("us-east-1", "us-west-1"), SigningError::Scope),
        (format!("{query}&X-Amz-Credential=A"), SigningError::Malformed),
        (query.replace("Credential=A", "Credential=%ff"), SigningError::Malformed),
    ];
    for (target, expected) in rows {
        let aws = signer("AKIA", &["us-east-1"], &["s3"]);
        let request = get(BUCKET, &target, &[]);
        let got = signed(aws, &request, CANARY).await.map(|_| ()).expect_err("refused");
        assert_eq!(got, expected, "{target}");
    }
    let aws = signer("AKIA", &["us-east-1"], &["s3"]);
    let headers: [(&str, &[u8]); 1] = [("authorization", good.as_bytes())];
    let got = signed(aws, &get(BUCKET, "/", &headers), "canary\u{1}").await.map(|_| ());
    assert_eq!(got, Err(SigningError::Unfit(crate::fixture::reference("secret://local/key"))));
}
