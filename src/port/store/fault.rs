//! From what the system said to what the engine decides on.
//!
//! Promises: every error gets its class and a text that says what was tried, on what, and what the system said.
//! Must never: lose the path.

use std::io;

use crate::engine::message::{DiskFault, FaultKind};

/// Classifies an error of the system; `what` says what was tried and on what.
pub fn fault_of(what: &str, error: &io::Error) -> DiskFault {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::Full,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => FaultKind::Denied,
        io::ErrorKind::NotFound => FaultKind::Missing,
        _ => FaultKind::Device,
    };
    DiskFault {
        kind,
        reason: format!("{what}: {error}"),
    }
}

/// Turns results of the system into results of disk work.
pub(super) trait Blame<T> {
    /// Says what was tried when it went wrong.
    fn blame(self, what: impl FnOnce() -> String) -> Result<T, DiskFault>;
}

impl<T> Blame<T> for io::Result<T> {
    fn blame(self, what: impl FnOnce() -> String) -> Result<T, DiskFault> {
        self.map_err(|error| fault_of(&what(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_carry_the_class_and_what_was_tried() {
        let cases = [
            (nix::libc::ENOSPC, FaultKind::Full),
            (nix::libc::EDQUOT, FaultKind::Full),
            (nix::libc::EROFS, FaultKind::Denied),
            (nix::libc::EACCES, FaultKind::Denied),
            (nix::libc::EPERM, FaultKind::Denied),
            (nix::libc::ENOENT, FaultKind::Missing),
            (nix::libc::EIO, FaultKind::Device),
            (nix::libc::EMFILE, FaultKind::Device),
        ];
        for (number, kind) in cases {
            let error = io::Error::from_raw_os_error(number);
            let fault = fault_of("stage revision r in /state", &error);
            assert_eq!(fault.kind, kind, "{error}");
            assert_eq!(fault.reason, format!("stage revision r in /state: {error}"));
        }
    }
}
