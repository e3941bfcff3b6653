//! The compiled programs against their sources.

use std::process::Command;

#[test]
fn the_committed_object_is_what_its_source_compiles_to() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/build.sh");
    let built = Command::new(script).arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&built.stdout)
    );
}
