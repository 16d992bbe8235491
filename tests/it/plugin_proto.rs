//! `src/backends/plugin/proto.rs` is what the compiler for protocol buffers makes of
//! `proto/vaultmux/plugin/v1/plugin.proto`: checked in, so that building needs neither
//! protoc nor a build script.

use std::path::Path;

const HEADER: &str = "\
//! Messages, client and server of `proto/vaultmux/plugin/v1/plugin.proto`. Generated: run
//! `UPDATE_PROTO=1 cargo test --test it plugin_proto` after a change of that file.

";

#[test]
fn the_generated_code_is_that_of_the_proto_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backends/plugin/proto.rs");
    let expected = generated();
    #[expect(clippy::disallowed_methods, reason = "the documented way to write the file anew")]
    if std::env::var_os("UPDATE_PROTO").is_some() {
        std::fs::write(&path, &expected).expect("proto.rs can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "src/backends/plugin/proto.rs is not what plugin.proto says: run \
         `UPDATE_PROTO=1 cargo test --test it plugin_proto`"
    );
}

fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(["vaultmux/plugin/v1/plugin.proto"], [root]).expect("compiles");
    let directory = tempfile::tempdir().expect("make a directory");
    tonic_prost_build::configure()
        .out_dir(directory.path())
        // Sent from where the value is, without a copy that nobody wipes.
        .bytes(".vaultmux.plugin.v1.CreateRequest.value")
        .bytes(".vaultmux.plugin.v1.UpdateRequest.value")
        // Whatever holds a value has no Debug.
        .skip_debug(["GetResponse", "CreateRequest", "UpdateRequest"])
        // For tests: a plugin is a server, this program is not one.
        .server_mod_attribute(".", "#[cfg(test)]")
        .build_transport(false)
        .compile_fds(files)
        .expect("generates");
    let code = std::fs::read_to_string(directory.path().join("vaultmux.plugin.v1.rs"));
    format!("{HEADER}{}", code.expect("one file per package"))
}
