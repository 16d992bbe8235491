//! References in bytes, in every encoding: chunks change nothing, and little is held.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmux_mesh::injection::fuzzing::scanner(data));
