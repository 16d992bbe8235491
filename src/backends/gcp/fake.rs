//! Secret Manager from memory, as far as the backend uses it, over a [`Fake`]: what
//! the server of the slower suite has not is here, which is the filter of a list.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::{Value, json};

use crate::backends::fake::{Call, Fake, Reply};

/// How answers name the project that is asked for by its id.
const ANSWERED: &str = "projects/4711";

/// All secrets, by id.
#[derive(Clone, Default)]
pub(super) struct Store(Arc<Mutex<BTreeMap<String, Values>>>);

/// The oldest first; a version that has none is disabled.
type Values = Vec<Option<Vec<u8>>>;

// === impl Store ===

impl Store {
    /// Answers at an address of its own.
    pub(super) async fn start() -> (Fake, Self) {
        let (fake, store) = (Fake::start().await, Self::default());
        let serving = store.clone();
        fake.on(move |call| serving.answer(call));
        (fake, store)
    }

    /// Makes a secret with these values behind the backend's back.
    pub(super) fn put(&self, id: &str, values: &[Option<&str>]) {
        let values = values.iter().map(|value| value.map(|text| text.as_bytes().to_vec()));
        self.0.lock().expect("not poisoned").insert(id.to_owned(), values.collect());
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.0.lock().expect("not poisoned").contains_key(id)
    }

    pub(super) fn answer(&self, call: &Call) -> Reply {
        let (path, query) = call.target.split_once('?').unwrap_or((&call.target, ""));
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let query = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let (parent, rest) = path.split_once("/secrets").expect("a path of ours");
        let parent = parent.replacen("/v1/projects/my-project", ANSWERED, 1);
        let name = |id: &str| format!("{parent}/secrets/{id}");
        let mut secrets = self.0.lock().expect("not poisoned");
        let parts: Vec<_> = rest.trim_start_matches('/').split(['/', ':']).collect();
        match (&call.method, parts.as_slice()) {
            (&Method::POST, [""]) => {
                let id = query("secretId");
                if secrets.contains_key(id) {
                    return refusal(409, "ALREADY_EXISTS");
                }
                secrets.insert(id.to_owned(), Vec::new());
                Reply::json(200, json!({"name": name(id), "etag": "\"e1\""}).to_string())
            }
            (&Method::GET, [""]) => {
                let wanted = query("filter").strip_prefix("name:").unwrap_or_default();
                let size: usize = query("pageSize").parse().expect("a page size");
                let all = secrets.keys().filter(|id| id.contains(wanted));
                let after = all.filter(|id| id.as_str() > query("pageToken")).collect::<Vec<_>>();
                let page: Vec<_> =
                    after.iter().take(size).map(|id| json!({"name": name(id)})).collect();
                let more = after.len() > size;
                let token = if more { after[size - 1].as_str() } else { "" };
                Reply::json(200, json!({"secrets": page, "nextPageToken": token}).to_string())
            }
            (&Method::POST, [id, "addVersion"]) => {
                let Some(values) = secrets.get_mut(*id) else { return refusal(404, "NOT_FOUND") };
                let data = body["payload"]["data"].as_str().unwrap_or_default();
                values.push(Some(BASE64_STANDARD.decode(data).expect("base64")));
                let sum = crc32c::crc32c(values.last().expect("just added").as_ref().expect("so"));
                assert_eq!(body["payload"]["dataCrc32c"], sum.to_string(), "64 bits are text");
                let name = format!("{}/versions/{}", name(id), values.len());
                Reply::json(200, json!({"name": name, "state": 1}).to_string())
            }
            (&Method::DELETE, [id]) => match secrets.remove(*id) {
                Some(_) => Reply::json(200, "{}"),
                None => refusal(404, "NOT_FOUND"),
            },
            (&Method::GET, [id, "versions"]) => {
                let Some(values) = secrets.get(*id) else { return refusal(404, "NOT_FOUND") };
                let start: usize = query("pageToken").parse().unwrap_or(values.len());
                // Two on a page, whatever was asked for.
                let page = (1..=start).rev().take(2).map(|number| {
                    let state = if values[number - 1].is_some() { 1 } else { 2 };
                    let name = format!("{}/versions/{number}", name(id));
                    json!({"name": name, "state": state, "createTime": "2026-01-02T03:04:05Z"})
                });
                let page: Vec<_> = page.collect();
                let left = start.saturating_sub(2);
                let token = if left > 0 { left.to_string() } else { String::new() };
                Reply::json(200, json!({"versions": page, "nextPageToken": token}).to_string())
            }
            (&Method::GET, [id, "versions", version, "access"]) => {
                let values = secrets.get(*id).map(Vec::as_slice).unwrap_or_default();
                let number = match *version {
                    "latest" => values.len(),
                    text => text.parse().unwrap_or_default(),
                };
                if number == 0 || number > values.len() {
                    return refusal(404, "NOT_FOUND");
                }
                match &values[number - 1] {
                    None => refusal(400, "FAILED_PRECONDITION"),
                    Some(value) => access(&format!("{}/versions/{number}", name(id)), value),
                }
            }
            other => panic!("no such route: {other:?}"),
        }
    }
}

/// A version with its value, as the store answers it.
pub(super) fn access(name: &str, value: &[u8]) -> Reply {
    access_with(name, value, Some(crc32c::crc32c(value)))
}

/// As [`access`], with a checksum that may be wrong or missing.
pub(super) fn access_with(name: &str, value: &[u8], sum: Option<u32>) -> Reply {
    let mut payload = json!({"data": BASE64_STANDARD.encode(value)});
    if let Some(sum) = sum {
        payload["dataCrc32c"] = sum.to_string().into();
    }
    Reply::json(200, json!({"name": name, "payload": payload}).to_string())
}

/// An error as Google's services answer it.
pub(super) fn refusal(status: u16, code: &str) -> Reply {
    refusal_with(status, code, "refused")
}

/// As [`refusal`], with a text.
pub(super) fn refusal_with(status: u16, code: &str, message: &str) -> Reply {
    let error = json!({"code": status, "message": message, "status": code});
    Reply::json(status, json!({"error": error}).to_string())
}

/// Methods and paths of the calls since the last time, without project and query.
pub(super) fn said(fake: &Fake) -> Vec<String> {
    let path = |call: &Call| {
        let path = call.target.split('?').next().unwrap_or_default();
        format!("{} {}", call.method, path.trim_start_matches("/v1/projects/my-project/"))
    };
    fake.calls().iter().map(path).collect()
}
