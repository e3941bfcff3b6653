//! Opens of an agent's directory what the user of its child needs, and nothing else.
//!
//! Promises: the child reads its revisions, writes its `work/` and `spool/` and its own output pipes, and reaches its
//! socket; the journal, the rejections, logs and everything beside the agent's directory stay ours. Without a user
//! everything is closed again.
//! Must never: touch what is in `work/` while it belongs to the user already.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::Path;

use super::ChildDirs;
use super::spawn::SpawnFailure;
use crate::config::Account;
use crate::sys::share;

/// Rights of others on a directory.
const OTHERS: u32 = 0o077;

/// Opens or closes the agent's directory for the user of its child.
pub(super) fn settle(dirs: &ChildDirs, account: Option<&Account>) -> Result<(), SpawnFailure> {
    let Some(root) = dirs.work.parent() else {
        return Ok(());
    };
    let settled = match account {
        Some(account) => open(root, account),
        None => close(root),
    };
    settled
        .map_err(|(path, error)| SpawnFailure::of("open to the user of the child", &path, &error))
}

type Failed = (std::path::PathBuf, io::Error);

fn open(root: &Path, account: &Account) -> Result<(), Failed> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    // What lies beside has no rights for others of its own.
    for above in above(root) {
        share::open_passage(above).map_err(at(above))?;
    }
    share::open_to(root, account.gid).map_err(at(root))?;
    let revisions = root.join("revisions");
    if revisions.exists() {
        share::share(&revisions, account.gid).map_err(at(&revisions))?;
    }
    for own in ["work", "spool"] {
        let own = root.join(own);
        match DirBuilder::new().mode(0o700).create(&own) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(&own)(error)),
        }
        share::give(&own, account.uid, account.gid).map_err(at(&own))?;
    }
    let logs = root.join("logs");
    if logs.exists() {
        share::open_to(&logs, account.gid).map_err(at(&logs))?;
    }
    // A program may open `/dev/stderr` anew, which is its pipe.
    for entry in ["logs/stdout.fifo", "logs/stderr.fifo", "link.sock"] {
        let entry = root.join(entry);
        match lchown(&entry, Some(account.uid), Some(account.gid)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&entry)(error)),
        }
    }
    Ok(())
}

/// `agents/` and the state directory, if that is what is above.
fn above(root: &Path) -> impl Iterator<Item = &Path> {
    let above = root.ancestors().skip(1).take(2);
    let state = root.ancestors().nth(2);
    let ours = state.is_some_and(|state| state.join("adjutant.lock").exists());
    above.filter(move |_| ours)
}

fn close(root: &Path) -> Result<(), Failed> {
    let open = |path: &Path| path.metadata().is_ok_and(|it| it.mode() & OTHERS != 0);
    if open(root) {
        share::close(root).map_err(|error| (root.to_owned(), error))?;
    }
    Ok(())
}
