//! The `vaultmux-mesh` program.

fn main() {}
