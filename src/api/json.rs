//! JSON in and out: strict where it comes from a caller, and never quoted.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use super::problem::Problem;

/// The members of all bodies. Others are the caller's own words and not repeated.
const MEMBERS: [&str; 15] = [
    "name",
    "value",
    "value_base64",
    "backend",
    "version",
    "field",
    "ref",
    "secrets",
    "verb",
    "secret",
    "method",
    "url",
    "host",
    "path",
    "destination",
];

/// What the parser says of text that is no JSON, and what callers are told: its own words
/// may quote the input, and the input holds a secret.
const SYNTAX: [(&str, &str); 8] = [
    ("EOF while parsing", "it ends too early"),
    ("trailing characters", "something follows it"),
    ("recursion limit exceeded", "it is nested too deeply"),
    ("control character", "a string has a control character that is not escaped"),
    ("lone leading surrogate", "a string has half of a surrogate pair"),
    ("unexpected end of hex escape", "a string has half of a surrogate pair"),
    ("invalid escape", "a string has an escape that does not exist"),
    ("number out of range", "a number is out of range"),
];

/// The same of JSON of another form.
const FORM: [(&str, &str); 4] = [
    ("unknown field", "has a member that is not known"),
    ("duplicate field", "has a member twice"),
    ("missing field", "lacks a member"),
    ("invalid type", "has a member of the wrong type"),
];

/// What is written as an object, and not, as `serde` would have it, as an array too.
pub(super) struct Object<T>(pub(super) T);

struct OnlyObjects<T>(PhantomData<T>);

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    let body = serde_json::to_vec(body).expect("strings are always JSON");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Parses a body, whatever its content type, as vaultmux-server does.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if body.is_empty() {
        return Err(Problem::body("request body is required"));
    }
    let refused = |why: &str| Problem::body(format!("request body is not valid JSON: {why}"));
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(refused("it begins with a byte order mark"));
    }
    let text = std::str::from_utf8(body).map_err(|_| refused("it is not UTF-8"))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut parser, &mut track);
    let parsed = Object::<T>::deserialize(tracked);
    let path = track.path();
    parsed
        .and_then(|parsed| parser.end().map(|()| parsed.0))
        .map_err(|error| Problem::body(describe(&error, &path)))
}

fn describe(error: &serde_json::Error, path: &Path) -> String {
    let said = error.to_string();
    let find = |table: &[(&str, &'static str)]| {
        table.iter().find(|(words, _)| said.starts_with(words)).map(|(_, told)| *told)
    };
    let at = format!("(line {}, column {})", error.line(), error.column());
    match error.classify() {
        Category::Data => {
            if path.iter().next().is_none() && said.starts_with("invalid type") {
                return format!("request body is not an object {at}");
            }
            let told = find(&FORM).unwrap_or("does not have the expected form");
            match known(path).as_str() {
                "" => format!("request body {told} {at}"),
                path => format!("request body {told}: {path} {at}"),
            }
        }
        Category::Io | Category::Syntax | Category::Eof => match find(&SYNTAX) {
            Some(told) => format!("request body is not valid JSON: {told} {at}"),
            None => format!("request body is not valid JSON {at}"),
        },
    }
}

/// The path as far as its members are ours.
fn known(path: &Path) -> String {
    let mut told = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => told += &format!("[{index}]"),
            Segment::Map { key } if MEMBERS.contains(&key.as_str()) => {
                if !told.is_empty() {
                    told.push('.');
                }
                told += key;
            }
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => break,
        }
    }
    told
}

// === impl Object ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OnlyObjects(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyObjects<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is only parsed")]
    struct Sample {
        name: Option<String>,
        secrets: Option<Vec<Object<Sample>>>,
    }

    #[test]
    fn texts_say_what_is_wrong_and_quote_nothing() {
        let deep = format!("{{\"name\":{}", "[".repeat(200));
        let unknown = format!("{}1{}", "{\"canary\":[".repeat(200), "]}".repeat(200));
        let cases: &[(&[u8], &str)] = &[
            (b"", "request body is required"),
            (b"\xef\xbb\xbf{}", "is not valid JSON: it begins with a byte order mark"),
            (b"{\"name\":\"\xff\"}", "is not valid JSON: it is not UTF-8"),
            (br#"{"name":"a""#, "is not valid JSON: it ends too early (line 1, column 11)"),
            (
                b"{\n\"name\":\"a\"} canary",
                "is not valid JSON: something follows it (line 2, column 13)",
            ),
            (br#"{"name":"\ud800"}"#, "is not valid JSON: a string has half of a surrogate pair"),
            (br#"{"name":"\udc00"}"#, "is not valid JSON: a string has half of a surrogate pair"),
            (
                br#"{"name":"\ud800\ud800"}"#,
                "is not valid JSON: a string has half of a surrogate pair",
            ),
            (br#"{"name":"\x"}"#, "is not valid JSON: a string has an escape that does not exist"),
            (
                b"{\"name\":\"canary\0\"}",
                "is not valid JSON: a string has a control character that is not escaped",
            ),
            (b"name=canary", "is not valid JSON (line 1, column 2)"),
            (b"{'name':1}", "is not valid JSON (line 1, column 2)"),
            (deep.as_bytes(), "has a member of the wrong type: name"),
            (unknown.as_bytes(), "has a member that is not known (line 1, column 9)"),
            (br#"{"canary":1}"#, "has a member that is not known (line 1, column 9)"),
            (br#"{"NAME":"a"}"#, "has a member that is not known (line 1, column 7)"),
            (br#"{"name":"a","name":"canary"}"#, "has a member twice"),
            (br#"{"name":1}"#, "has a member of the wrong type: name (line 1, column 9)"),
            (br#"{"name":{"canary":1}}"#, "has a member of the wrong type: name"),
            (
                br#"{"secrets":[{},{"name":true}]}"#,
                "has a member of the wrong type: secrets[1].name",
            ),
            (br#"{"secrets":[{"canary":1}]}"#, "has a member that is not known: secrets[0]"),
            (br#"["canary"]"#, "request body is not an object"),
            (br#"{"secrets":[["canary"]]}"#, "has a member of the wrong type: secrets[0]"),
            (br#""canary""#, "request body is not an object (line 1, column 8)"),
        ];
        for (body, expected) in cases {
            let shown = String::from_utf8_lossy(body);
            let problem = parse::<Sample>(body).err().expect("refused");
            let error = problem.error();
            assert!(error.contains(expected), "{shown}: {error}");
            assert!(!error.contains("canary"), "{shown}: {error}");
        }
        assert!(parse::<Sample>(b"{\"name\":\"\\u0000\"} \n").is_ok());
    }
}
