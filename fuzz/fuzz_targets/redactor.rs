//! Values in bytes, in every form: chunks change nothing, little is held, and none is left.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vaultmux_mesh::ext_proc::redact::fuzzing::redactor(data));
