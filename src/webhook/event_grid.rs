//! Events of Azure Key Vault, as CloudEvents 1.0, one by one or several together.

use serde_json::Value;

/// The names of the secrets that events are about; `None` if one is not such an event.
pub(super) fn names(events: &Value) -> Option<Vec<String>> {
    match events {
        Value::Array(events) => {
            let names = events.iter().map(name).collect::<Option<Vec<_>>>()?;
            Some(names.into_iter().flatten().collect())
        }
        event => Some(name(event)?.into_iter().collect()),
    }
}

fn name(event: &Value) -> Option<Option<String>> {
    let kind = event.get("type")?.as_str()?;
    if event.get("specversion")?.as_str()? != "1.0" {
        return None;
    }
    if !kind.starts_with("Microsoft.KeyVault.Secret") {
        return Some(None);
    }
    let data = &event["data"];
    let named = data["ObjectName"].as_str().or_else(|| data["objectName"].as_str());
    Some(Some(named.or_else(|| event["subject"].as_str())?.to_owned()))
}
