//! Events of AWS Secrets Manager: calls and rotations that CloudTrail has seen.

use serde_json::Value;

/// The names of the secrets that an event is about, as their store has them; none where it
/// tells of no change. `None` if it is not an event at all.
pub(super) fn names(event: &Value) -> Option<Vec<String>> {
    let source = event.get("source")?.as_str()?;
    let detail = event.get("detail")?;
    // A read is no change: to read anew because of it would go on for ever.
    let read_only = detail.get("readOnly").is_some_and(|it| *it == true || it == "true")
        || detail["eventName"].as_str().is_some_and(|name| {
            ["Get", "BatchGet", "Describe", "List", "Validate"]
                .iter()
                .any(|start| name.starts_with(start))
        });
    if source != "aws.secretsmanager" || read_only {
        return Some(Vec::new());
    }
    // Which of them there are depends on the call, and their spelling on the year.
    let (request, answer, more) =
        (&detail["requestParameters"], &detail["responseElements"], &detail["additionalEventData"]);
    let texts = [
        &request["secretId"],
        &answer["arn"],
        &answer["aRN"],
        &answer["ARN"],
        &more["SecretId"],
        &more["secretId"],
    ];
    let resources = event["resources"].as_array().into_iter().flatten();
    let mut names: Vec<String> = texts
        .into_iter()
        .chain(resources)
        .filter_map(Value::as_str)
        .flat_map(of_id)
        // A secret that is made, or a copy, may be known to be missing.
        .chain(request["name"].as_str().map(str::to_owned))
        .collect();
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// The names that an id can mean. An ARN ends in six random characters, but may be written
/// without them, and a name may look as if it ended so.
fn of_id(id: &str) -> Vec<String> {
    if !id.starts_with("arn:") {
        return vec![id.to_owned()];
    }
    let mut parts = id.splitn(7, ':');
    let (service, name) = (parts.nth(2), parts.nth(3));
    let (Some("secretsmanager"), Some(name)) = (service, name) else { return Vec::new() };
    let mut names = vec![name.to_owned()];
    if let Some((name, random)) = name.rsplit_once('-')
        && random.len() == 6
        && random.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        names.push(name.to_owned());
    }
    names
}
