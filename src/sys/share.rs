//! Lets one user read what is private to us, where its process has to: the revisions, and the way to them.
//!
//! Promises: only what a caller names is opened, to one group and for reading; links are not followed; what is open
//! already costs one look at each directory.
//! Must never: open anything to everybody but the right to pass through a directory.
//!
//! A directory whose group may read is the mark itself: whoever adds to it calls [`follow`], which opens what is new
//! to the same group, so that nothing has to be remembered elsewhere.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

/// Directories that a group may pass and list.
const DIR: u32 = 0o750;
/// Files that a group may read.
const FILE: u32 = 0o640;
/// Directories that everybody may pass, and nobody else list.
const PASSAGE: u32 = 0o711;
/// What tells that a directory is shared with its group.
const SHARED: u32 = 0o050;
/// Deeper trees than this are not ours.
const DEPTH_MAX: usize = 16;
/// Entries that are given to a user in one go.
const GIVEN_MAX: usize = 100_000;

/// Lets everybody pass through a directory of ours.
///
/// # Errors
/// What the system said.
pub fn open_passage(path: &Path) -> io::Result<()> {
    set(path, None, PASSAGE)
}

/// Lets a group pass through a directory of ours.
///
/// # Errors
/// What the system said.
pub fn open_to(path: &Path, group: u32) -> io::Result<()> {
    set(path, Some(group), 0o710)
}

/// Closes a directory of ours to everybody else again.
///
/// # Errors
/// What the system said.
pub fn close(path: &Path) -> io::Result<()> {
    set(path, None, 0o700)
}

/// Lets a group read a directory of ours with all it holds, now and by [`follow`].
///
/// # Errors
/// The first thing that could not be opened.
pub fn share(path: &Path, group: u32) -> io::Result<()> {
    set(path, Some(group), DIR)?;
    follow(path)
}

/// Opens what was added to a directory to the group that may read it; a directory that is not shared stays as it is.
///
/// # Errors
/// The first thing that could not be opened.
pub fn follow(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.mode() & SHARED != SHARED {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let known = metadata.gid() == found.gid() && metadata.mode() & SHARED == SHARED;
        if metadata.is_dir() && !known {
            below(&entry.path(), found.gid(), DEPTH_MAX)?;
        }
    }
    Ok(())
}

/// The directory itself last: it is the mark that all below it is done.
fn below(path: &Path, group: u32, depth: usize) -> io::Result<()> {
    let deeper = depth
        .checked_sub(1)
        .ok_or_else(|| io::Error::other(format!("more than {DEPTH_MAX} directories deep")))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            below(&entry.path(), group, deeper)?;
        } else if kind.is_file() {
            set(&entry.path(), Some(group), FILE)?;
        }
    }
    set(path, Some(group), DIR)
}

/// Gives a directory with all it holds to a user, unless it is the user's. Links themselves change hands, not what they
/// name.
///
/// # Errors
/// The first thing that could not be given.
pub fn give(path: &Path, user: u32, group: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if (found.uid(), found.gid()) == (user, group) {
        return Ok(());
    }
    let mut waiting = vec![path.to_owned()];
    let mut given = Vec::new();
    while let Some(next) = waiting.pop() {
        if fs::symlink_metadata(&next)?.is_dir() {
            for entry in fs::read_dir(&next)? {
                waiting.push(entry?.path());
            }
        }
        given.push(next);
        if given.len().saturating_add(waiting.len()) > GIVEN_MAX {
            return Err(io::Error::other(format!(
                "more than {GIVEN_MAX} entries, give them to the user by hand"
            )));
        }
    }
    // The directory itself last, so that what was interrupted is seen and done again.
    for one in given.iter().rev() {
        lchown(one, Some(user), Some(group))?;
    }
    Ok(())
}

fn set(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.file_type().is_symlink() {
        return Err(io::Error::other("it is a link"));
    }
    if group.is_some_and(|group| group != found.gid()) {
        lchown(path, None, group)?;
    }
    if found.mode() & 0o7777 != mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_added_to_a_shared_directory_is_opened_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let revisions = dir.path().join("revisions");
        let group = fs::metadata(dir.path()).unwrap().gid();
        let put = |name: &str| {
            let revision = revisions.join(name);
            RealDisk.create_dir(&revision, 0o700).unwrap();
            RealDisk.create_dir(&revision.join("tls"), 0o700).unwrap();
            RealDisk
                .write_file(&revision.join("tls/ca.pem"), b"x", 0o600)
                .unwrap();
            revision
        };
        RealDisk.create_dir(&revisions, 0o700).unwrap();
        let first = put("1-a");
        follow(&revisions).unwrap();
        assert_eq!((mode(&revisions), mode(&first)), (0o700, 0o700));

        share(&revisions, group).unwrap();
        assert_eq!(mode(&first.join("tls/ca.pem")), 0o640);
        let second = put("2-b");
        let outside = dir.path().join("outside");
        RealDisk.write_file(&outside, b"x", 0o600).unwrap();
        std::os::unix::fs::symlink(&outside, second.join("link")).unwrap();
        follow(&revisions).unwrap();
        assert_eq!((mode(&revisions), mode(&second)), (0o750, 0o750));
        assert_eq!(mode(&second.join("tls")), 0o750);
        assert_eq!(mode(&second.join("tls/ca.pem")), 0o640);
        assert_eq!(mode(&outside), 0o600);
        assert!(
            share(&second.join("link"), group).is_err(),
            "links are not opened"
        );
    }
}
