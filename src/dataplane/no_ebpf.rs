//! Stands in for `ebpf` in an executable built without it: kernel events are unsupported, and that is the reason.
//!
//! Must never: keep anything else from running.

use std::io;

use super::config::KernelConfig;

/// Programs that are attached; here there are none.
#[derive(Debug)]
pub(crate) enum Attached {}

/// Says why nothing is attached.
///
/// # Errors
/// Always.
pub(crate) fn attach(_: &KernelConfig, _: bool) -> Result<Box<Attached>, String> {
    Err("this executable was built without kernel events (feature ebpf)".to_owned())
}

/// Nothing was needed, so nothing is given up.
///
/// # Errors
/// Never.
#[expect(clippy::unnecessary_wraps, reason = "stands in for the real one")]
pub(crate) const fn drop_all() -> io::Result<()> {
    Ok(())
}
