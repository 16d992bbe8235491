//! Messages of any kind in any order: no panic, and no answer that nobody asked for.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmux_mesh::ext_proc::fuzzing::phases(data));
