//! The fields of each mapping. The JSON Schema has the same ones, and a test says so.

pub(in crate::policy) const DOCUMENT: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
pub(in crate::policy) const METADATA: [&str; 1] = ["name"];
pub(in crate::policy) const SPEC: [&str; 4] = ["effect", "mode", "from", "to"];
/// The first three say who; one of them is needed.
pub(in crate::policy) const FROM: [&str; 7] = [
    "namespaces",
    "serviceAccounts",
    "namespacePrefixes",
    "trustDomains",
    "require",
    "boundTo",
    "except",
];
pub(in crate::policy) const EXCEPT: [&str; 3] = [FROM[0], FROM[1], FROM[2]];
pub(in crate::policy) const TO: [&str; 2] = ["secrets", "http"];
pub(in crate::policy) const SECRETS: [&str; 6] =
    ["backends", "names", "prefixes", "fields", "verbs", "destinations"];
pub(in crate::policy) const DESTINATION: [&str; 8] =
    ["hosts", "clusters", "routes", "snis", "ports", "schemes", "methods", "paths"];
pub(in crate::policy) const HTTP: [&str; 4] = ["hosts", "methods", "paths", "destinations"];
