//! One part of a value that is a JSON document.

use serde_json::Value;
use zeroize::Zeroize;

use crate::secret::{SecretField, SecretRecord, SecretValue};

/// The same record with only that field as its value; `None` if the value is not
/// JSON or has no such field. A string is taken without its quotes, anything
/// else as JSON text.
pub(super) fn extract(record: SecretRecord, field: &SecretField) -> Option<SecretRecord> {
    #[expect(clippy::disallowed_methods, reason = "a field is cut out of the plaintext")]
    let mut document: Value = serde_json::from_slice(record.value.expose_secret()).ok()?;
    let found = match field {
        SecretField::Key(key) => document.as_object().and_then(|fields| fields.get(&**key)),
        SecretField::Pointer(pointer) => document.pointer(pointer),
    };
    let part = found.map(|value| match value {
        Value::String(text) => SecretValue::new(text.as_bytes()),
        other => SecretValue::new(other.to_string()),
    });
    wipe(&mut document);
    Some(SecretRecord { value: part?, ..record })
}

/// Overwrites the strings of a parsed document before they are freed.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests compare plaintext")]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_out_by_key_or_pointer() {
        let cases = [
            (r#"{"password":"p\u0022w"}"#, "password", Some("p\"w")),
            (r#"{"a":{"b":[1,"x"]}}"#, "/a/b/1", Some("x")),
            (r#"{"a":{"b":[1,"x"]}}"#, "/a/b/0", Some("1")),
            (r#"{"a":{"b":1}}"#, "a", Some(r#"{"b":1}"#)),
            (r#"{"a~/b":"x"}"#, "/a~0~1b", Some("x")),
            (r#"{"a":null}"#, "a", Some("null")),
            (r#"{"a":""}"#, "a", Some("")),
            (r#"{"a":1}"#, "b", None),
            (r#"{"a":1}"#, "/a/b", None),
            (r#"["a"]"#, "0", None),
            ("plain text", "a", None),
            ("", "a", None),
        ];
        for (value, field, expected) in cases {
            let record = SecretRecord {
                value: SecretValue::new(value),
                version: "1".into(),
                created_at: None,
            };
            let field = SecretField::parse(field).expect("valid field");
            let found = extract(record, &field).map(|r| r.value.expose_secret().to_vec());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{value} {field:?}");
        }
    }
}
