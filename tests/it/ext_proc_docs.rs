//! What `docs/ext_proc.md` shows is what the program accepts and does.

use std::fs;

use crate::harness::{Mesh, Received, repository, sha256, sized};

fn page() -> String {
    fs::read_to_string(repository("docs/ext_proc.md")).expect("docs/ext_proc.md")
}

/// The page's secret is another one in the tests.
fn ours(text: &str) -> String {
    text.replace("aws-prod/shared/stripe", "local/zq-stripe")
        .replace("aws-prod%2Fshared%2Fstripe", "local%2Fzq-stripe")
        .replace(r"aws-prod\/shared\/stripe", r"local\/zq-stripe")
        .replace("sk-123", "canary-stripe-9Lm")
}

fn configurations() -> Vec<String> {
    let page = page();
    let blocks = page.split("```yaml\n# ext_proc.yaml\n").skip(1);
    blocks.map(|block| ours(block.split("```").next().expect("closed"))).collect()
}

/// The rows of the table with this header.
fn rows(header: &str) -> Vec<Vec<String>> {
    let page = page();
    let table = page.split(header).nth(1).expect("the table is there");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| ours(cell.trim().trim_matches('`'))).collect()
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_configuration_starts() {
    let configurations = configurations();
    assert_eq!(configurations.len(), 6);
    for config in configurations {
        Mesh::builder().config(&config).start().await.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_arrives_as_shown() {
    let [config, ..] = &configurations()[..] else { panic!("no configuration") };
    let mesh = Mesh::builder()
        .config(config)
        .edit("disallow_system: true", "disallow_system: false")
        .start()
        .await;
    let rows = rows("| place | the client sends | the upstream gets |");
    assert_eq!(rows.len(), 9);
    for row in rows {
        let [place, sent, arrives] = &row[..] else { panic!("{row:?}") };
        let (kind, body) = match place.as_str() {
            "json" => ("application/json", sent.as_str()),
            "form" => ("application/x-www-form-urlencoded", sent.as_str()),
            "text" => ("text/plain", sent.as_str()),
            _ => ("application/octet-stream", ""),
        };
        let mut headers = vec![("content-type", kind)];
        let header = sent.split_once(": ").filter(|_| matches!(&**place, "header" | "cookie"));
        headers.extend(header);
        let target = if sent.starts_with('/') { sent } else { "/" };
        let body = sized(body.to_owned());
        let answer = mesh.api().send("POST", "api.stripe.test", target, &headers, body).await;
        assert_eq!(answer.status, 200, "{row:?}: {}", answer.text());
        let received: Received = answer.json();
        match arrives.split_once(": ").filter(|_| header.is_some()) {
            Some((name, value)) => assert_eq!(received.header(name), [value], "{row:?}"),
            None if arrives.starts_with('/') => assert_eq!(received.path, *arrives),
            None => assert_eq!(received.body_sha256, sha256(arrives.as_bytes()), "{row:?}"),
        }
    }
    mesh.finish().await;
}
