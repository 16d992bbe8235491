//! The grammar of references: what is read is printed so that it is read again.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmux_mesh::injection::fuzzing::reference(data));
