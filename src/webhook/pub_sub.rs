//! Notifications of Google Secret Manager, pushed by Pub/Sub with their wrapper.

use serde_json::Value;

/// The names of the secrets that a message is about; `None` if it is not a pushed message.
pub(super) fn names(pushed: &Value) -> Option<Vec<String>> {
    let message = pushed.get("message")?.as_object()?;
    let Some(attributes) = message.get("attributes") else { return Some(Vec::new()) };
    // `TOPIC_CONFIGURED` is about no secret, and nothing else is without one.
    let Some(id) = attributes.get("secretId") else { return Some(Vec::new()) };
    // projects/<project>/secrets/<name>, with locations/<location> before it or not.
    let (_, name) = id.as_str()?.rsplit_once("/secrets/")?;
    Some(vec![name.split('/').next()?.to_owned()])
}
