//! `make demo` shows what it promises.

use std::path::Path;

use crate::harness::Process;

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_demo_is_as_promised() {
    let profile = Path::new(env!("CARGO_BIN_EXE_vaultmux-mesh")).parent().expect("in a directory");
    let demo = profile.join("examples/demo");
    assert!(demo.exists(), "the demo is not built: run `cargo build --examples`");
    let mut process = Process::start(demo.as_os_str(), &[] as &[&str]).await;
    let code = process.exit_code().await;
    let printed = process.stdout().join("\n");
    assert_eq!(code, 0, "{printed}\n{}", process.stderr().join("\n"));
    assert_eq!(printed.matches("  as promised").count(), 5, "{printed}");
    assert!(!printed.contains("NOT AS PROMISED"), "{printed}");
}
