//! The Debian package in a real systemd: installed, run, frozen, killed, reloaded, upgraded, removed and purged.
//!
//! One machine is booted per test. It takes some seconds and root, so these run with the ignored tests only.

mod hardening;
mod lifecycle;
mod machine;
mod matrix;
mod package;

use std::path::Path;

use machine::{Machine, PACKAGES};

/// `dpkg -i` of a package, as an unattended run of Debian's tools would.
fn install(machine: &Machine, package: &Path) -> String {
    let name = package.file_name().unwrap().to_str().unwrap();
    machine.ok(&format!(
        "dpkg --force-confdef --force-confold -i {PACKAGES}/{name} 2>&1"
    ))
}

/// Puts a file of the machine.
fn put(machine: &Machine, path: &str, text: &str) {
    assert!(!text.contains("END"), "would end the text early");
    machine.ok(&format!("cat > {path} <<'END'\n{text}\nEND"));
}
