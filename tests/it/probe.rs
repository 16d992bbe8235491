//! `probe` against every listener that the service has.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::{Certificates, Service, repository};

const AUTHZ: &str = "envoy.service.auth.v3.Authorization";
const PROC: &str = "envoy.service.ext_proc.v3.ExternalProcessor";

fn config(grpc: &str, rest: &str) -> String {
    format!(
        "mode: development\nlisteners:\n  grpc: {grpc}\n  rest: {rest}\n  \
         admin: {{address: '127.0.0.1:0'}}\nbackends: {{local: {{type: memory}}}}\n"
    )
}

async fn run(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"));
    // A proxy of the environment must not be asked.
    command.arg("probe").args(arguments).env("http_proxy", "http://127.0.0.1:1");
    command.output().await.expect("the program runs")
}

/// The exit code and what was printed.
async fn probe(arguments: &[&str]) -> (Option<i32>, String) {
    // Far more than it takes, so that a busy machine decides nothing.
    let output = run(&[arguments, &["--timeout", "20s"]].concat()).await;
    let said = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), format!("{said}{errors}"))
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_is_found_well_until_it_is_gone() {
    let config = config("{address: '127.0.0.1:0'}", "{address: '127.0.0.1:0'}");
    let mut service = Service::start(&[("config.yaml", &config)]).await;
    let grpc = service.grpc().to_owned();
    let mut urls = vec![
        format!("http://{}/livez", service.admin()),
        format!("http://{}/readyz", service.admin()),
        format!("http://{}/health", service.rest()),
    ];
    urls.extend(
        ["", "/", &format!("/{AUTHZ}"), &format!("/{PROC}")]
            .map(|name| format!("grpc://{grpc}{name}")),
    );
    for url in &urls {
        let (code, said) = probe(&[url]).await;
        assert_eq!(code, Some(0), "{url}: {said}");
        assert!(said.starts_with(&format!("healthy: {url} answered ")), "{said}");
    }
    for (url, why) in [
        (format!("http://{}/none", service.admin()), "answered 404"),
        (format!("http://{}/v1/secrets/none", service.rest()), "answered 4"),
        (format!("grpc://{grpc}/no.such.Service"), "knows no such service"),
        // The wrong protocol each time.
        (format!("grpc://{}", service.admin()), ""),
        (format!("http://{grpc}/"), ""),
    ] {
        let (code, said) = probe(&[&url]).await;
        assert_eq!(code, Some(1), "{url}: {said}");
        assert!(said.starts_with(&format!("unhealthy: {url} ")) && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let (code, said) = probe(&[&urls[0], "--output", "json"]).await;
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &answer["healthy"]), (Some(0), &Value::Bool(true)), "{answer}");
    assert_eq!(answer["url"], urls[0]);

    service.kill().await;
    for url in &urls {
        let (code, said) = probe(&[url]).await;
        assert_eq!(code, Some(1), "{url}: {said}");
        assert!(said.contains("refused"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_asked_as_curl_does() {
    let config = config("{address: 'unix:grpc.sock'}", "{address: 'unix:rest.sock'}");
    let service = Service::start(&[("config.yaml", &config)]).await;
    let (grpc, rest) = (service.path("grpc.sock"), service.path("rest.sock"));
    for (url, socket, well) in [
        ("http://localhost/health", &rest, 0),
        ("http://localhost/v1/none", &rest, 1),
        ("grpc://localhost", &grpc, 0),
        (&*format!("grpc://localhost/{PROC}"), &grpc, 0),
        ("grpc://localhost", &service.path("none.sock"), 1),
    ] {
        let (code, said) = probe(&[url, "--unix-socket", shown(socket)]).await;
        assert_eq!(code, Some(well), "{url} {}: {said}", socket.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_believed_from_the_named_authority_and_host_alone() {
    let directory = tempfile::tempdir().expect("make a directory");
    let certificates = Certificates::create(directory.path());
    certificates.save("client", &certificates.workload("infra", "probe"));
    let stranger = tempfile::tempdir().expect("make a directory");
    let _ = Certificates::create(stranger.path());
    let here = directory.path().display();
    let tls = format!("cert_file: {here}/tls.crt, key_file: {here}/tls.key");
    let config = config(
        &format!("{{address: '127.0.0.1:0', tls: {{{tls}, client_ca_file: {here}/ca.crt}}}}"),
        &format!("{{address: '127.0.0.1:0', tls: {{{tls}}}}}"),
    );
    let service = Service::start(&[("config.yaml", &config)]).await;
    let (ca, crt, key) = (
        directory.path().join("ca.crt"),
        directory.path().join("client.crt"),
        directory.path().join("client.key"),
    );
    let other = stranger.path().join("ca.crt");
    let (ca, crt, key, other) = (shown(&ca), shown(&crt), shown(&key), shown(&other));
    let https = format!("https://{}/health", service.rest());
    let grpcs = format!("grpcs://{}/{AUTHZ}", service.grpc());
    let name = ["--server-name", "vaultmux.test"];
    let client = ["--cert-file", crt, "--key-file", key];
    let cases: &[(&str, &[&[&str]], i32)] = &[
        (&https, &[&["--ca-file", ca], &name], 0),
        (&https, &[&["--ca-file", ca]], 1),
        (&https, &[&["--ca-file", ca], &["--server-name", "other.test"]], 1),
        (&https, &[&["--ca-file", other], &name], 1),
        (&https, &[&name], 2),
        (&grpcs, &[&["--ca-file", ca], &name, &client], 0),
        (&grpcs, &[&["--ca-file", ca], &name], 1),
        (&https.replace("https", "http"), &[], 1),
        // Files that cannot be used are a wrong question.
        (&https, &[&["--ca-file", "none.crt"], &name], 2),
        (&https, &[&["--ca-file", key], &name], 2),
        (&grpcs, &[&["--ca-file", ca], &name, &["--cert-file", crt]], 2),
        (&grpcs, &[&["--ca-file", ca], &name, &["--cert-file", crt, "--key-file", crt]], 2),
        (&https, &[&["--ca-file", ca], &["--server-name", "no name"]], 2),
    ];
    for (url, arguments, expected) in cases {
        let (code, said) = probe(&[&[*url], &arguments.concat()[..]].concat()).await;
        assert_eq!(code, Some(*expected), "{url} {arguments:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_with_the_timeout() {
    // The kernel accepts, and nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    for scheme in ["http", "grpc"] {
        let output = run(&[&format!("{scheme}://{address}"), "--timeout", "100ms"]).await;
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.ends_with("no answer within 100ms\n"), "{said}");
    }
}

#[test]
fn questions_that_cannot_be_asked_are_exit_code_2() {
    for arguments in [
        &["127.0.0.1:9090"][..],
        &["unix:/run/grpc.sock"],
        &["https://127.0.0.1:8080/health"],
        &["http://127.0.0.1/", "--timeout", "soon"],
        &[],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
            .arg("probe")
            .args(arguments)
            .output()
            .expect("the program runs");
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.starts_with("error: ") && !errors.contains("panicked"), "{errors}");
    }
}

/// The page's commands are the program's, and its probes are what a pod would run.
#[test]
fn the_page_shows_flags_that_exist() {
    let page = fs::read_to_string(repository("docs/probe.md")).expect("the page");
    let help = Command::new(env!("CARGO_BIN_EXE_vaultmux-mesh"))
        .args(["probe", "--help"])
        .output()
        .expect("the program runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let words = page.split(|c: char| c.is_whitespace() || "`,[]\"|".contains(c));
    let flags: Vec<_> =
        words.filter(|word| word.starts_with("--") && !word.starts_with("---")).collect();
    assert!(flags.len() > 5, "{flags:?}");
    for flag in flags {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
}
