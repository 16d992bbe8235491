//! `proto/envoy.bin` holds the descriptors that gRPC reflection serves. The
//! `envoy-types` crate ships all of Envoy's API but does not export it; this test
//! cuts out our two services and what they refer to, and compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use prost_types::{FileDescriptorProto, FileDescriptorSet};

const ROOTS: [&str; 2] = [
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/service/ext_proc/v3/external_processor.proto",
];

#[test]
fn descriptors_are_those_of_the_envoy_types_crate() {
    let expected = wanted_descriptors();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/envoy.bin");
    #[expect(clippy::disallowed_methods, reason = "the documented way to write the file anew")]
    if std::env::var_os("UPDATE_DESCRIPTORS").is_some() {
        std::fs::write(&path, &expected).expect("proto/envoy.bin can be written");
    }
    let found = std::fs::read(&path).unwrap_or_default();
    assert!(
        found == expected,
        "proto/envoy.bin is not what envoy-types ships: run \
         `UPDATE_DESCRIPTORS=1 cargo test --test it descriptors`"
    );
}

fn wanted_descriptors() -> Vec<u8> {
    let all = std::fs::read(types_bin()).expect("types.bin");
    let all: FileDescriptorSet = prost::Message::decode(&*all).expect("a valid message");
    let by_name: BTreeMap<&str, &FileDescriptorProto> =
        all.file.iter().map(|file| (file.name(), file)).collect();
    let mut wanted = BTreeSet::new();
    let mut open: Vec<&str> = ROOTS.into();
    while let Some(name) = open.pop() {
        if wanted.insert(name) {
            let file = by_name.get(name).unwrap_or_else(|| panic!("{name} is not there"));
            open.extend(file.dependency.iter().map(String::as_str));
        }
    }
    let file = wanted.iter().map(|name| {
        let mut file = by_name[name].clone();
        // Comments would be nine tenths of it.
        file.source_code_info = None;
        file
    });
    prost::Message::encode_to_vec(&FileDescriptorSet { file: file.collect() })
}

/// The descriptor file in the crate's source, wherever cargo put that.
fn types_bin() -> std::path::PathBuf {
    // Of this platform: crates of others were never downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&metadata.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .expect("envoy-types is a dependency");
    let manifest = package["manifest_path"].as_str().expect("a path");
    Path::new(manifest).with_file_name("src/generated/types.bin")
}
