//! The executable that takes over when ours was upgraded: where it is, how it is asked, and how it takes our place.
//!
//! Promises: the process stays the same, so that children stay children and a service manager sees nothing; signals
//! that arrive between the two are kept for the one that comes. The path is that of the file we were started from.
//! Must never: come back when it worked.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::config::Process;
use crate::engine::message::ToolSpec;

/// How long it may take to read the settings.
const TIMEOUT: Duration = Duration::from_secs(10);
const OUTPUT_MAX: usize = 4 * 1024;
/// What the kernel appends to the path of a file that was replaced.
const REPLACED: &[u8] = b" (deleted)";

/// How the executable is asked whether it starts and takes the settings.
pub(super) fn question(settings: Option<&Path>) -> Option<ToolSpec> {
    let settings = settings.and_then(|path| path.canonicalize().ok());
    let args = match settings {
        Some(path) => vec![
            "validate".to_owned(),
            "--config".to_owned(),
            path.to_string_lossy().into_owned(),
        ],
        None => vec!["--version".to_owned()],
    };
    // What settings take from the environment they take from ours.
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    Some(ToolSpec {
        program: executable()?,
        args,
        env: BTreeMap::new(),
        inherit: names.collect(),
        timeout: TIMEOUT,
        output_max: OUTPUT_MAX,
        process: Process::default(),
    })
}

/// The file at the path that we were started from, whatever it is now.
fn executable() -> Option<PathBuf> {
    let shown = std::fs::read_link("/proc/self/exe").ok()?;
    let bytes = shown.as_os_str().as_bytes();
    match bytes.strip_suffix(REPLACED) {
        Some(path) if !shown.exists() => Some(PathBuf::from(OsStr::from_bytes(path))),
        _ => Some(shown),
    }
}

/// Lets the executable take our place. Comes back only when it cannot, with the reason.
pub(super) fn take_over() -> io::Error {
    let Some(path) = executable() else {
        return io::Error::new(io::ErrorKind::NotFound, "its path is not known");
    };
    let text = |bytes: Vec<u8>| CString::new(bytes).ok();
    let arguments: Vec<CString> = std::env::args_os()
        .filter_map(|argument| text(argument.into_vec()))
        .collect();
    let Some(program) = text(path.into_os_string().into_vec()) else {
        return io::ErrorKind::InvalidInput.into();
    };
    // Until it has its handlers; it unblocks them itself then.
    let mut kept = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kept.add(signal);
    }
    if let Err(errno) = kept.thread_block() {
        return errno.into();
    }
    match nix::unistd::execv(&program, &arguments) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_the_file_that_we_were_started_from() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(executable(), Some(own.clone()));
        let question = question(None).unwrap();
        assert_eq!(
            (question.program, question.args),
            (own, vec!["--version".to_owned()])
        );
        assert!(question.inherit.contains(&"PATH".to_owned()));
    }
}
