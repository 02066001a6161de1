//! House rules that a machine can hold.

/// Placeholder until the rules land with the modules that they watch.
#[test]
fn workspace_has_a_manifest() {
    assert!(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml").exists());
}
