//! A real browser without a screen, driven over WebDriver.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::{Client, Process, client::sized};

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name of an element in WebDriver's answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A session of Chromium.
pub(crate) struct Browser {
    driver: Client,
    address: SocketAddr,
    session: String,
    _process: Process,
}

// === impl Browser ===

impl Browser {
    pub(crate) async fn start() -> Self {
        for program in ["/usr/bin/chromium", "/usr/bin/chromedriver"] {
            let there = std::path::Path::new(program).exists();
            assert!(there, "{program} is missing: apt-get install chromium chromium-driver");
        }
        let process = Process::start("/usr/bin/chromedriver".as_ref(), &["--port=0"]).await;
        let port = |line: &str| {
            let (_, rest) = line.split_once("started successfully on port ")?;
            rest.trim_end_matches('.').parse::<u16>().ok()
        };
        let port = process.wait_stdout("port", port).await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let driver = Client::plain(address);
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let mut browser = Self { driver, address, session: String::new(), _process: process };
        let made = browser.post("/session", &capabilities).await.expect("a session");
        let id = made["sessionId"].as_str().expect("an id");
        browser.session = format!("/session/{id}");
        browser
    }

    pub(crate) async fn open(&self, url: &str) {
        self.act("/url", &json!({"url": url})).await.expect("the page opens");
    }

    /// Waits for an element, and clicks it.
    pub(crate) async fn click(&self, selector: &str) {
        // By script: what lies over it while the page moves does not matter.
        let script = "const found = document.querySelector(arguments[0]); \
                      if (!found || found.disabled) return false; found.click(); return true;";
        self.until(selector, script, &[selector]).await;
    }

    /// Waits for an input, and types into it instead of what it has.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        self.wait(selector).await;
        let found = json!({"using": "css selector", "value": selector});
        let element = self.act("/element", &found).await.expect("it is there");
        let id = element[ELEMENT].as_str().expect("an id").to_owned();
        self.act(&format!("/element/{id}/clear"), &json!({})).await.expect("cleared");
        let value = format!("/element/{id}/value");
        // And leaves it, by Tab: until then the page may wait for more.
        self.act(&value, &json!({"text": format!("{text}\u{E004}")})).await.expect("typed");
    }

    /// The same in the part of the authorisation form that is about one scheme, and has
    /// it taken.
    pub(crate) async fn fill_in(&self, scheme: &str, text: &str) {
        let script = "for (const form of document.querySelectorAll('.auth-container')) { \
                        const title = form.querySelector('h4'); \
                        if (!title || !title.textContent.startsWith(arguments[0])) continue; \
                        form.id = 'the-form'; return !!form.querySelector('input'); } return false;";
        self.until(scheme, script, &[scheme]).await;
        self.fill("#the-form input", text).await;
        self.click("#the-form .authorize").await;
    }

    /// Waits for an element.
    pub(crate) async fn wait(&self, selector: &str) {
        let script = "return !!document.querySelector(arguments[0]);";
        self.until(selector, script, &[selector]).await;
    }

    /// Waits for text in an element.
    pub(crate) async fn wait_text(&self, selector: &str, text: &str) {
        let script = "const found = document.querySelector(arguments[0]); \
                      return !!found && found.textContent.includes(arguments[1]);";
        self.until(&format!("{selector} with {text:?}"), script, &[selector, text]).await;
    }

    /// What the browser had to say of the page: also what its policy refused.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.act("/se/log", &json!({"type": "browser"})).await.expect("a log");
        let lines = log.as_array().expect("a list").iter();
        lines
            .filter(|line| line["level"] == "SEVERE")
            .map(|line| line["message"].to_string())
            .collect()
    }

    async fn until(&self, what: &str, script: &str, arguments: &[&str]) {
        let body = json!({"script": script, "args": arguments});
        let holds = async {
            while self.act("/execute/sync", &body).await.ok() != Some(json!(true)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, holds).await.is_err() {
            let page = json!({"script": "return document.body.innerText;", "args": []});
            let page = self.act("/execute/sync", &page).await;
            panic!("{what} did not come: {page:?}\n{:#?}", self.complaints().await);
        }
    }

    async fn act(&self, path: &str, body: &Value) -> Result<Value, Value> {
        self.post(&format!("{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Value> {
        let json = [("content-type", "application/json")];
        let body = sized(body.to_string());
        let answer = self.driver.send("POST", "127.0.0.1", path, &json, body).await;
        let found: Value = answer.json();
        match answer.status {
            200 => Ok(found["value"].clone()),
            _ => Err(found["value"].clone()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when it is asked to, not when it is killed. Also while
        // a test panics, so without waiting for anyone's runtime.
        let Ok(mut stream) = TcpStream::connect(self.address) else { return };
        let ask = format!(
            "DELETE {} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
            self.session
        );
        let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = stream.write_all(ask.as_bytes()).and_then(|()| stream.read_to_end(&mut Vec::new()));
    }
}
