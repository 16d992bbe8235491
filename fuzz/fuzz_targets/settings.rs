//! Configuration and policies: whatever the text, an error that names the file, or none.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmux_mesh::config::fuzzing::settings(data));
