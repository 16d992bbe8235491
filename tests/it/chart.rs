//! What the chart ships beside its templates is current. `tests/conformance/chart.rs` renders
//! and installs it.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;

use crate::harness::repository;

const CHART: &str = "charts/vaultmux-mesh";

#[test]
fn schema_and_readme_are_current() {
    let python = repository("target/tools/bin/python");
    assert!(python.exists(), "target/tools/bin/python is missing: run `make tools`");
    let output = Command::new(python)
        .arg(repository("charts/generate"))
        .arg("--check")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let rest = text.match_indices("vaultmux_").map(|(at, _)| &text[at..]);
    rest.map(|rest| rest.chars().take_while(|c| of_name(*c)).collect()).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let source = fs::read_to_string(repository("src/metrics.rs")).expect("text");
    for file in ["files/alerts.yaml", "files/dashboard.json"] {
        let text = fs::read_to_string(repository(CHART).join(file)).expect("text");
        let names = metrics(&text);
        assert!(names.len() > 8, "{file}: {names:?}");
        for name in names {
            // What Prometheus adds to a counter's, histogram's or info's name.
            let endings = ["_total", "_bucket", "_info"].map(|ending| name.strip_suffix(ending));
            let mut registered = endings.into_iter().flatten().chain([&*name]);
            let exists = registered.any(|name| source.contains(&format!("\"{name}\"")));
            assert!(exists, "{file}: no metric {name}");
        }
    }
}

#[test]
fn the_dashboard_is_whole() {
    let text = fs::read_to_string(repository(CHART).join("files/dashboard.json")).expect("text");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut places = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let place = &panel["gridPos"];
        assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{title}");
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            assert!(expression.contains(r#"namespace=~"$namespace""#), "{title}: {expression}");
            assert!(expression.matches('(').count() == expression.matches(')').count(), "{title}");
        }
    }
}
