//! What `docs/reload.md` shows is what the program does.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::CONFIG;
use crate::harness::{Service, repository};

fn page() -> String {
    fs::read_to_string(repository("docs/reload.md")).expect("docs/reload.md")
}

/// The fenced blocks of a language, in order.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks.map(|rest| rest.split("```").next().expect("a closed block")).collect()
}

/// Takes out what differs from run to run, after a look at it.
fn plain(value: &mut Value, key: &str) {
    match (value, key) {
        (Value::String(hash), "hash") => {
            assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
            hash.clear();
        }
        (Value::String(at), "at" | "loaded_at") => {
            assert!(at.len() == 20 && at.ends_with('Z'), "{at}");
            at.clear();
        }
        (Value::String(path), "path" | "file") => {
            *path = path.rsplit('/').next().expect("one part").to_owned();
        }
        (Value::Array(items), key) => items.iter_mut().for_each(|item| plain(item, key)),
        (Value::Object(fields), _) => fields.iter_mut().for_each(|(key, item)| plain(item, key)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_policies_is_as_shown() {
    let page = page();
    let yaml = blocks(&page, "yaml");
    let block = |name: &str| {
        let head = format!("# {name}\n");
        yaml.iter().find(|block| block.starts_with(&head)).expect("the file")
    };
    let own = block("policies/own.yaml");
    let service = Service::start(&[("config.yaml", CONFIG), ("policies/own.yaml", own)]).await;
    fs::write(service.path("new"), block("policies/freeze.yaml")).expect("write");
    fs::rename(service.path("new"), service.path("policies/freeze.yaml")).expect("rename");
    service.refused(1).await;
    service.logged(&["its subjects are denied everything"]).await;
    let console = blocks(&page, "console").concat();
    let (command, shown) = console.split_once('\n').expect("an answer");
    let path = command.strip_prefix("$ curl -s http://127.0.0.1:9090").expect("a path");
    let mut said: Value = service.admin_client().get("admin", path).await.json();
    let mut shown: Value = serde_json::from_str(shown).expect("JSON");
    let keys: BTreeSet<String> = said.as_object().expect("an object").keys().cloned().collect();
    for value in [&mut said, &mut shown] {
        plain(value, "");
    }
    assert_eq!(said, shown);

    // Both tables: every field is there, and every series.
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let rows: BTreeSet<String> = page.lines().filter_map(row).collect();
    let (series, fields): (BTreeSet<_>, BTreeSet<_>) =
        rows.into_iter().partition(|row| row.starts_with("vaultmux_"));
    assert_eq!(fields, keys);
    let metrics = service.admin_client().get("admin", "/metrics").await.text();
    let name = |line: &str| line.split([' ', '{']).next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = metrics.lines().map(name).collect();
    let about = |name: &&String| name.contains("_polic") || name.contains("_reload");
    assert_eq!(series, names.iter().filter(about).cloned().collect());
    let alerts = block("alerts.yaml");
    let words = alerts.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    for used in words.filter(|word| word.starts_with("vaultmux_")) {
        assert!(names.contains(used), "{used}");
    }
}
