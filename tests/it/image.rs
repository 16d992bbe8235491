//! The Dockerfile, as far as it goes without an engine: its stages' commands, what they
//! copy, and what the image is; and what builds it where there is an engine.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{Certificates, Client, Process, repository};

/// An instruction, its lines joined.
struct Instruction {
    stage: usize,
    name: String,
    rest: String,
}

/// The instructions, by stages; those before the first are of stage 0.
fn instructions() -> Vec<Instruction> {
    let text = fs::read_to_string(repository("Dockerfile")).expect("text");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let mut stage = 0;
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (name, rest) = line.split_once(' ').expect("an instruction");
        stage += usize::from(name == "FROM");
        found.push(Instruction { stage, name: name.to_owned(), rest: rest.trim().to_owned() });
    }
    found
}

fn of<'a>(found: &'a [Instruction], stage: usize, name: &str) -> Vec<&'a str> {
    let wanted = found.iter().filter(|it| it.stage == stage && it.name == name);
    wanted.map(|it| &*it.rest).collect()
}

#[test]
fn the_image_is_the_program_and_a_user_without_rights() {
    let found = instructions();
    let last = found.last().expect("instructions").stage;
    let arguments = of(&found, 0, "ARG");
    let manifest = fs::read_to_string(repository("Cargo.toml")).expect("text");
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let rust = rust.expect("a version").trim_matches('"');
    assert!(arguments.contains(&&*format!("RUST_VERSION={rust}")), "{arguments:?}");
    for stage in 1..=last {
        let from = of(&found, stage, "FROM")[0];
        let image = from.split(' ').next().expect("an image");
        assert!(!image.ends_with(":latest"), "{image}");
        let earlier =
            (1..stage).any(|it| of(&found, it, "FROM")[0].ends_with(&format!(" AS {image}")));
        assert!(earlier || image.contains(':'), "{image} is neither a stage nor pinned");
    }
    // The C library that the program was linked with is the one that it finds.
    assert!(of(&found, 1, "FROM")[0].contains("-bookworm") && arguments.contains(&"DEBIAN=12"));

    assert!(of(&found, last, "RUN").is_empty(), "nothing is made in the image itself");
    assert_eq!(of(&found, last, "USER"), ["65532:65532"]);
    assert_eq!(of(&found, last, "ENTRYPOINT"), [r#"["/usr/local/bin/vaultmux-mesh"]"#]);
    assert_eq!(of(&found, last, "STOPSIGNAL"), ["SIGTERM"]);
    let [copy] = of(&found, last, "COPY")[..] else { panic!("one file is copied") };
    assert!(copy.ends_with(" /build/target/release/vaultmux-mesh /usr/local/bin/vaultmux-mesh"));
    assert!(found.iter().all(|it| it.name != "ADD"));
}

/// What the context has, by `.dockerignore`.
fn context() -> BTreeSet<String> {
    let text = fs::read_to_string(repository(".dockerignore")).expect("text");
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "*", "nothing but what is named");
    lines[1..].iter().map(|line| line.strip_prefix('!').expect("a name").to_owned()).collect()
}

#[test]
fn the_stages_have_what_the_build_reads() {
    let found = instructions();
    let copies = found.iter().filter(|it| it.name == "COPY" && !it.rest.starts_with("--from"));
    let mut copied = BTreeSet::new();
    for copy in copies {
        let paths: Vec<_> = copy.rest.split(' ').collect();
        let (to, from) = paths.split_last().expect("paths");
        for path in from {
            assert!(*to == "./" || to == path, "{}: {path} changes its place", copy.rest);
            copied.insert((*path).to_owned());
        }
    }
    assert_eq!(copied, context());

    // Sources include no file of another folder.
    let mut folders = vec![repository("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            for call in ["include_str!(\"", "include_bytes!(\""] {
                for (at, _) in text.match_indices(call) {
                    let file = text[at + call.len()..].split('"').next().expect("a path");
                    let file = folder.join(file).canonicalize();
                    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    let file = file.strip_prefix(repository("")).expect("ours").to_owned();
                    let top = file.iter().next().expect("a folder").to_string_lossy();
                    let test = path.components().any(|part| part.as_os_str() == "tests")
                        || path.file_name().is_some_and(|name| name == "tests.rs");
                    assert!(test || copied.contains(&*top), "{}: {top}", path.display());
                }
            }
        }
    }
}

/// What the stand-ins' command makes of a manifest: Cargo's targets, by kind and name.
fn stand_ins(manifest: &str) -> BTreeSet<(String, String)> {
    let found = instructions();
    let runs: Vec<_> = found.iter().filter(|it| it.name == "RUN").map(|it| &*it.rest).collect();
    let stand_ins = runs.iter().find(|run| run.contains("stand-ins")).expect("stand-ins");
    let build = "cargo build --release --locked --bin vaultmux-mesh";
    let (make, _) = stand_ins.split_once(&format!("&& {build}")).expect("and then the build");
    assert_eq!(runs.iter().filter(|run| run.contains(build)).count(), 2, "the same, twice");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("Cargo.toml"), manifest).expect("written");
    fs::copy(repository("Cargo.lock"), directory.path().join("Cargo.lock")).expect("copied");
    // Whatever the manifest names is there, and the lock file is current.
    let output = Command::new("sh")
        .args(["-ec", &format!("{make}\ncargo metadata --locked --offline --format-version 1")])
        .current_dir(directory.path())
        .output()
        .expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ours = |package: &&serde_json::Value| package["name"] == "vaultmux-mesh";
    let package = metadata["packages"].as_array().expect("packages").iter().find(ours);
    let targets = package.expect("ours")["targets"].as_array().expect("targets");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let mut made = BTreeSet::new();
    for target in targets {
        let path = text(&target["src_path"]);
        assert!(Path::new(&path).exists(), "{path} has no stand-in");
        made.insert((text(&target["kind"][0]), text(&target["name"])));
    }
    made
}

#[test]
fn stand_ins_are_what_the_manifest_names() {
    let manifest = fs::read_to_string(repository("Cargo.toml")).expect("text");
    let entries = |kind: &str| -> BTreeSet<_> {
        let start = format!("[[{kind}]]\nname = \"");
        let names = manifest.split(&start).skip(1).map(|rest| rest.split('"').next());
        names.map(|name| (kind.to_owned(), name.expect("a name").to_owned())).collect()
    };
    let mut named = entries("bench");
    named.extend(entries("test"));
    assert!(named.len() > 5, "{named:?}");
    named.extend([("bin".into(), "vaultmux-mesh".into()), ("lib".into(), "vaultmux_mesh".into())]);
    assert_eq!(stand_ins(&manifest), named);

    // Whoever adds one need not think of the image.
    let more = "[[bench]]\nname = \"later\"\nharness = false\n\n[[bench]]\n";
    let made = stand_ins(&manifest.replacen("[[bench]]\n", more, 1));
    named.insert(("bench".into(), "later".into()));
    assert_eq!(made, named);
}

/// Runs `.ci/image` with an engine that is a script; tells how it ended, what it said, and what
/// the engine was asked.
fn image(engine: &str, arguments: &[&str]) -> (Option<i32>, String, Vec<String>) {
    let directory = tempfile::tempdir().expect("a directory");
    let asked = directory.path().join("asked");
    let script = directory.path().join("an-engine");
    let text = format!("#!/bin/sh\necho \"$*\" >> {}\n{engine}\n", asked.display());
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("made executable");
    let output = Command::new("bash")
        .args(["-c", r#"PATH="$0:$PATH" exec "$@""#])
        .arg(directory.path())
        .arg(repository(".ci/image"))
        .args(arguments)
        .env("ENGINES", "an-engine-that-is-nowhere an-engine")
        .env_remove("IMAGE")
        .output()
        .expect("there is bash");
    let said = [output.stdout, output.stderr].concat();
    let asked = fs::read_to_string(asked).unwrap_or_default();
    let asked = asked.lines().map(str::to_owned).collect();
    (output.status.code(), String::from_utf8(said).expect("text"), asked)
}

#[test]
fn an_engine_that_answers_builds_the_image() {
    let version = concat!("vaultmux-mesh ", env!("CARGO_PKG_VERSION"));
    let (code, said, asked) = image(&format!("[ $1 != run ] || echo {version}"), &[]);
    assert_eq!(code, Some(0), "{said}");
    let rust = instructions();
    let rust = of(&rust, 0, "ARG").iter().find_map(|it| it.strip_prefix("RUST_VERSION="));
    let rust = rust.expect("a version").to_owned();
    let expected = [
        "info",
        &format!("pull docker.io/library/rust:{rust}-slim-bookworm"),
        "pull gcr.io/distroless/cc-debian12:nonroot",
        "build --tag vaultmux-mesh:local .",
        "run --rm --read-only --cap-drop ALL --network none vaultmux-mesh:local --version",
    ];
    assert_eq!(asked, expected, "{said}");
    assert!(said.contains(&format!("built by an-engine: {version}")), "{said}");
}

#[test]
fn an_image_that_is_not_built_is_told() {
    let no_engine = "no engine answers (an-engine-that-is-nowhere an-engine): not built";
    let no_base = "an-engine cannot have docker.io/library/rust:";
    for (engine, arguments, code, expected) in [
        // A client without its daemon.
        ("[ $1 != info ]", &[][..], 1, no_engine),
        ("[ $1 != info ]", &["--if-possible"], 0, no_engine),
        ("[ $1 != pull ]", &[], 1, no_base),
        ("[ $1 != pull ]", &["--if-possible"], 0, no_base),
        // Where it is possible, it has to succeed.
        ("[ $1 != build ]", &["--if-possible"], 1, "image: an-engine pull"),
        ("[ $1 != run ]", &["--if-possible"], 1, "image: an-engine pull"),
        ("echo vaultmux-mesh 99.0.0", &["--if-possible"], 1, "says 'vaultmux-mesh 99.0.0'"),
    ] {
        let (ended, said, _) = image(engine, arguments);
        assert_eq!(ended, Some(code), "{engine} {arguments:?}: {said}");
        assert!(said.contains(expected), "{engine} {arguments:?}: {said}");
    }
    let run = fs::read_to_string(repository(".ci/run")).expect("text");
    assert!(run.contains("\n.ci/image --if-possible\n"), "CI does not build it");
}

/// What the base image has of libraries.
const LIBRARIES: [&str; 6] =
    ["linux-vdso", "libgcc_s", "libm", "libc", "libpthread", "/lib64/ld-linux-x86-64"];

/// The libraries that the program asks for: name and, but for the kernel's own, where it is.
fn libraries() -> Vec<(String, Option<PathBuf>)> {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_vaultmux-mesh")).output();
    let output = output.expect("ldd comes with the C library");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{said}");
    let library = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a name").to_owned();
        let path = words.find(|word| word.starts_with('/')).unwrap_or(&name);
        let path = path.starts_with('/').then(|| path.into());
        (name, path)
    };
    said.lines().map(library).collect()
}

#[test]
fn the_program_needs_no_library_that_the_image_lacks() {
    for (library, _) in libraries() {
        let name = library.split(".so").next().expect("a name");
        assert!(name.starts_with("/lib/ld-linux") || LIBRARIES.contains(&name), "{library}");
    }
}

const CONFIG: &str = "\
listeners:
  grpc: {address: '127.0.0.1:0'}
  rest: {address: '127.0.0.1:0'}
  admin: {address: '127.0.0.1:0'}
backends: {aws: {type: aws_secrets_manager, region: us-east-1}}
";

/// As in the image: no shell, no `/tmp`, no `/proc`, nothing that its user may write.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_runs_where_there_is_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("root");
    let put = |from: &Path, to: &str| {
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("below the root")).expect("made");
        fs::copy(from, to).expect("copied");
    };
    put(Path::new(env!("CARGO_BIN_EXE_vaultmux-mesh")), "/usr/local/bin/vaultmux-mesh");
    for path in libraries().into_iter().filter_map(|(_, path)| path) {
        put(&path, path.to_str().expect("a plain path"));
    }
    let config = directory.path().join("vaultmux.yaml");
    fs::write(&config, CONFIG).expect("written");
    put(&config, "/etc/vaultmux/vaultmux.yaml");
    // The base image has the world's authorities there; any one will do.
    Certificates::create(directory.path());
    put(&directory.path().join("ca.crt"), "/etc/ssl/certs/ca-certificates.crt");
    // Where we are not root, a namespace lets us change the root all the same.
    let own = fs::metadata("/proc/self").expect("there is a /proc").uid();
    let (program, mut arguments) = match own {
        0 => ("chroot", vec!["--userspec=65532:65532", "--groups="]),
        _ => ("unshare", vec!["--map-root-user", "chroot"]),
    };
    arguments.push(root.to_str().expect("a plain path"));
    arguments.extend(["/usr/local/bin/vaultmux-mesh", "serve"]);
    arguments.extend(["--config", "/etc/vaultmux/vaultmux.yaml"]);
    let mut process = Process::start(program.as_ref(), &arguments).await;
    let admin = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let found = line["message"] == "listening" && line["listener"] == "admin";
        found.then(|| line["address"].as_str().and_then(|address| address.parse().ok())).flatten()
    };
    let admin: SocketAddr = process.wait_stderr("admin listener", admin).await;
    let ready = async {
        while Client::plain(admin).get("admin", "/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("ready in time");
    process.signal("TERM");
    assert_eq!(process.exit_code().await, 0);
}
