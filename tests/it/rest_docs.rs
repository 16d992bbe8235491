//! What `docs/rest.md` shows is what the program answers.

use std::fs;

use serde_json::Value;

use crate::harness::{Answer, Client, Service, repository, sized};

fn page() -> String {
    fs::read_to_string(repository("docs/rest.md")).expect("docs/rest.md")
}

/// The setup of `serve --dev`, on ports of its own.
async fn start() -> Service {
    let read = |name: &str| fs::read_to_string(repository(name)).expect("a file");
    let listeners = "listeners:\n  grpc: {address: '127.0.0.1:0'}\n  \
                     rest: {address: '127.0.0.1:0'}\n  admin: {address: '127.0.0.1:0'}\n\
                     policies: [policies.yaml]\n";
    // The harness reads JSON lines.
    let setup = read("src/config/development.yaml").replace("format: text", "format: json");
    let config = format!("{setup}{listeners}");
    let policies = read("src/config/development-policies.yaml");
    Service::start(&[("config.yaml", &config), ("policies.yaml", &policies)]).await
}

/// A command line's words, without the quotes around some.
fn words(line: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => found.push(String::new()),
            c => found.last_mut().expect("one").push(c),
        }
    }
    found
}

/// Does what `curl` does with these words; whether the head is to be shown.
async fn curl(client: &Client, words: &[String]) -> (Answer, bool) {
    let (mut method, mut path, mut body, mut head) = (None, None, None, false);
    let mut headers = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut next = || words.next().expect("a value").as_str();
        match word.as_str() {
            "-s" => {}
            "-i" => head = true,
            "-X" => method = Some(next()),
            "-d" => body = Some(next()),
            "-H" => headers.push(next().split_once(": ").expect("a header")),
            url => path = url.strip_prefix("http://127.0.0.1:8080"),
        }
    }
    let method = method.unwrap_or(if body.is_some() { "POST" } else { "GET" });
    let path = path.expect("a URL of the development setup");
    let body = sized(body.unwrap_or_default().to_owned());
    (client.send(method, "127.0.0.1:8080", path, &headers, body).await, head)
}

/// Takes out what differs from run to run.
fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| match key.as_str() {
            "created_at" | "next_cursor" => *value = Value::Null,
            _ => plain(value),
        }),
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_as_shown() {
    let service = start().await;
    let client = service.rest_client();
    let page = page();
    let blocks = page.split("```console\n").skip(1);
    let session: String =
        blocks.map(|rest| rest.split("```").next().expect("a closed block")).collect();
    let (mut tag, mut cursor) = (String::new(), String::new());
    let mut asked = 0;
    for step in session.split("$ curl ").skip(1) {
        let (command, shown) = step.split_once('\n').expect("an answer");
        let command = command.replace("ETAG", &tag).replace("CURSOR", &cursor);
        let (answer, head) = curl(&client, &words(&command)).await;
        asked += 1;
        if let Ok(found) = serde_json::from_slice::<Value>(&answer.body)
            && let Some(next) = found["next_cursor"].as_str()
        {
            cursor = next.to_owned();
        }
        if head {
            if tag.is_empty() {
                tag = answer.header("etag").to_owned();
            }
            let mut lines = shown.lines();
            let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
            assert_eq!(status, Some(answer.status.to_string().as_str()), "{command}");
            for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
                assert_eq!(answer.header(name), value.replace("ETAG", &tag), "{command}: {name}");
            }
            continue;
        }
        match serde_json::from_str::<Value>(shown) {
            Ok(mut shown) => {
                let mut found: Value = answer.json();
                plain(&mut found);
                plain(&mut shown);
                assert_eq!(found, shown, "{command}");
            }
            Err(_) => assert_eq!(answer.text(), shown.trim_end(), "{command}"),
        }
    }
    assert_eq!(asked, 15);
}
