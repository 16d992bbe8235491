//! The systemd unit of `docs/deploy-envoy-vm.md`.

use std::{collections::BTreeMap, fs, process::Command};

use crate::harness::repository;

fn unit() -> String {
    let page = fs::read_to_string(repository("docs/deploy-envoy-vm.md")).expect("text");
    let (_, rest) = page.split_once("```ini\n").expect("a unit");
    rest.split_once("```").expect("a closed block").0.to_owned()
}

/// The settings of the unit; the last of a name, which is how most count.
fn settings(unit: &str) -> BTreeMap<&str, &str> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_runs_what_the_page_installs() {
    let unit = unit();
    let settings = settings(&unit);
    let page = fs::read_to_string(repository("docs/deploy-envoy-vm.md")).expect("text");
    let program = "/usr/local/bin/vaultmux-mesh";
    for (key, command) in [("ExecStart", "serve"), ("ExecStartPre", "check")] {
        let expected = format!("{program} {command} --config /etc/vaultmux/vaultmux.yaml");
        assert_eq!(settings[key], expected);
    }
    assert!(page.contains("install -m 0755 vaultmux-mesh /usr/local/bin/"));
    // Where the configuration finds what systemd brings.
    let credential = settings["LoadCredential"].split_once(':').expect("a name").0;
    let path = format!("/run/credentials/vaultmux-mesh.service/{credential}");
    assert!(page.contains(&format!("secret_id_file: {path}")), "{path}");
    let directory = format!("unix:/run/{}/", settings["RuntimeDirectory"]);
    assert!(page.contains(&directory), "{directory}");
    // Longer than the service takes to finish.
    assert!(settings["TimeoutStopSec"].parse::<u32>().expect("seconds") > 25);
    for (key, value) in [
        ("User", "vaultmux"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("CapabilityBoundingSet", ""),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(settings[key], value, "{key}");
    }
}

/// systemd's own word on a unit: whether it finds nothing wrong and little exposed.
fn verdict(unit: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vaultmux-mesh.service");
    let program = env!("CARGO_BIN_EXE_vaultmux-mesh");
    fs::write(&file, unit.replace("/usr/local/bin/vaultmux-mesh", program)).expect("written");
    let run = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&file).output();
        let output = output.unwrap_or_else(|error| {
            panic!("systemd-analyze: {error}: as root, apt-get install systemd, or `make programs`")
        });
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (good, said) = run(&["verify", "--man=no", "--recursive-errors=no"]);
    if !good || said.contains("vaultmux-mesh.service:") {
        return Err(said);
    }
    // The exposure that it computes, in tenths; 20 is what it calls OK.
    match run(&["security", "--offline=true", "--no-pager", "--threshold=20"]) {
        (true, _) => Ok(()),
        (false, said) => Err(said.lines().last().unwrap_or_default().to_owned()),
    }
}

#[test]
fn systemd_finds_nothing_wrong_and_little_exposed() {
    let unit = unit();
    assert_eq!(verdict(&unit), Ok(()));
    for (right, wrong, said) in [
        ("ProtectSystem=strict", "ProtectSytem=strict", "ProtectSytem"),
        ("ProtectSystem=strict", "ProtectSystem=strickt", "strickt"),
        ("ExecStart=/usr/local/bin/vaultmux-mesh", "ExecStart=/nowhere/vaultmux-mesh", "/nowhere/"),
        ("CapabilityBoundingSet=\n", "", "exposure level"),
    ] {
        let error = verdict(&unit.replace(right, wrong)).expect_err(wrong);
        assert!(error.contains(said), "{right}: {error}");
    }
}
