//! How the executable is linked where that makes it smaller: identical functions once, relocations packed.
//!
//! Promises: only for x86-64 Linux with glibc, whose Rust toolchain brings its own linker; packed relocations only
//! where the C library here understands them (2.36 or newer), and not for a static executable, which may run anywhere.
//! Rust never promises that two functions have two addresses: folding them changes nothing that a program may rely
//! on.

use std::env::var;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=packaging/build.rs");
    let is = |name: &str, wanted: &str| var(name).is_ok_and(|value| value == wanted);
    let ours = is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !ours || !is("PROFILE", "release") {
        return;
    }
    println!("cargo::rustc-link-arg-bin=adjutant=-Wl,--icf=all");
    let is_static = var("CARGO_CFG_TARGET_FEATURE")
        .is_ok_and(|features| features.split(',').any(|one| one == "crt-static"));
    if !is_static && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo::rustc-link-arg-bin=adjutant=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the C library here.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
