//! The state directory from outside: owner, modes, room, who holds it, and whether others reach its socket.
//!
//! Promises: who holds the lock is read from the kernel's list, so that looking never stands in the way of a start.
//! Must never: follow a link out of the state directory.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::Finding;

/// Below this an apply may fail.
const BYTES_LOW: u64 = 256 * 1024 * 1024;
/// Below this nothing can be staged.
const BYTES_NONE: u64 = 16 * 1024 * 1024;
/// Below this a few revisions use them up.
const INODES_LOW: u64 = 1000;
/// Entries of the state directory that are looked at.
const ENTRIES_MAX: usize = 20_000;
/// Directories inside each other that are looked at.
const DEPTH_MAX: usize = 8;
/// Bytes of a socket address without the closing zero (`sun_path`).
const SOCKET_PATH_MAX: usize = 107;

const STATE: &str = "state directory";

/// Owner, kind and mode of the state directory itself.
pub fn state_directory(path: &Path) -> Finding {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return not_there(path),
        Err(error) => {
            return Finding::fail(
                STATE,
                format!("{shown}: {error}"),
                "run doctor as its owner, or as root",
            );
        }
    };
    if !metadata.is_dir() {
        return Finding::fail(
            STATE,
            format!("{shown} is not a directory"),
            "move it away, or set storage.directory to another path",
        );
    }
    let (owner, us) = (metadata.uid(), Uid::effective().as_raw());
    let mode = metadata.mode() & 0o7777;
    if owner != us && us != 0 {
        return Finding::warn(
            STATE,
            format!("{shown} belongs to {}, you are {}", user(owner), user(us)),
            format!("a supervisor on it has to run as {}", user(owner)),
        );
    }
    // Passing through is what a child with a user of its own needs; it shows nothing.
    if mode & 0o066 != 0 {
        return Finding::warn(
            STATE,
            format!("{shown} is open to others (mode {mode:04o})"),
            format!("chmod 0700 {shown}"),
        );
    }
    Finding::ok(
        STATE,
        format!("{shown}, of {}, mode {mode:04o}", user(owner)),
    )
}

fn not_there(path: &Path) -> Finding {
    let above = existing(path);
    let shown = path.display();
    let writable = rustix::fs::access(&above, rustix::fs::Access::WRITE_OK).is_ok();
    if writable {
        Finding::ok(
            STATE,
            format!("{shown} is not there yet; the first start makes it"),
        )
    } else {
        Finding::fail(
            STATE,
            format!(
                "{shown} is not there, and {} cannot be written by you",
                above.display()
            ),
            "make it for the user of the supervisor, or set storage.directory to another path",
        )
    }
}

fn existing(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    let found = ancestors.find(|above| above.exists());
    found.unwrap_or_else(|| Path::new("/")).to_owned()
}

fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

/// Room for bytes and for files.
pub fn space(path: &Path) -> Vec<Finding> {
    let above = existing(path);
    let stat = match statvfs(&above) {
        Ok(stat) => stat,
        Err(error) => {
            let text = format!("{}: {error}", above.display());
            return vec![Finding::warn("disk space", text, "look at it with df")];
        }
    };
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return vec![Finding::fail(
            "disk space",
            format!("the file system of {} is read-only", above.display()),
            "mount it writable, or set storage.directory to a volume that is",
        )];
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    vec![bytes(free), inodes(stat.f_favail, stat.f_files)]
}

fn bytes(free: u64) -> Finding {
    let text = format!("{} MiB free", free / (1024 * 1024));
    match free {
        ..BYTES_NONE => Finding::fail("disk space", text, "make room: no config can be staged"),
        BYTES_NONE..BYTES_LOW => Finding::warn("disk space", text, "make room before it runs out"),
        _ => Finding::ok("disk space", text),
    }
}

fn inodes(free: u64, all: u64) -> Finding {
    // Some file systems have no fixed number of them and say 0 of 0.
    if all == 0 || free >= INODES_LOW {
        let text = if all == 0 {
            "no limit".to_owned()
        } else {
            format!("{free} free")
        };
        return Finding::ok("inodes", text);
    }
    Finding::warn(
        "inodes",
        format!("{free} of {all} free"),
        "remove files: a revision needs some",
    )
}

/// Modes and owners below the state directory.
pub fn open_files_of_state(root: &Path) -> Vec<Finding> {
    let Ok(metadata) = fs::metadata(root) else {
        return Vec::new();
    };
    let mut walk = Walk {
        owner: metadata.uid(),
        ..Walk::default()
    };
    walk.below(root, DEPTH_MAX);
    walk.findings()
}

#[derive(Default)]
struct Walk {
    owner: u32,
    seen: usize,
    unseen: usize,
    open: Vec<(PathBuf, u32)>,
    foreign: Vec<(PathBuf, u32)>,
}

impl Walk {
    fn below(&mut self, directory: &Path, depth: usize) {
        let (Ok(entries), Some(depth)) = (fs::read_dir(directory), depth.checked_sub(1)) else {
            self.unseen += 1;
            return;
        };
        for entry in entries.flatten() {
            if self.seen >= ENTRIES_MAX {
                self.unseen += 1;
                return;
            }
            self.seen += 1;
            let path = entry.path();
            match entry.metadata() {
                // What the child keeps for itself is its own affair.
                Ok(metadata)
                    if metadata.is_dir() && path.file_name().is_some_and(|it| it == "work") => {}
                Ok(metadata) => {
                    self.look(&path, &metadata);
                    if metadata.is_dir() {
                        self.below(&path, depth);
                    }
                }
                Err(_) => self.unseen += 1,
            }
        }
    }

    fn look(&mut self, path: &Path, metadata: &Metadata) {
        if metadata.uid() != self.owner {
            self.foreign.push((path.to_owned(), metadata.uid()));
        }
        let mode = metadata.mode() & 0o7777;
        if !metadata.is_symlink() && mode & 0o007 != 0 {
            self.open.push((path.to_owned(), mode));
        }
    }

    fn findings(self) -> Vec<Finding> {
        let check = "modes and owners";
        let mut findings = Vec::new();
        if let Some((path, mode)) = self.open.first() {
            let text = format!(
                "{} of {} entries are open to everybody, {} (mode {mode:04o}) among them",
                self.open.len(),
                self.seen,
                path.display()
            );
            findings.push(Finding::warn(
                check,
                text,
                "chmod o-rwx what the line names",
            ));
        }
        if let Some((path, uid)) = self.foreign.first() {
            let text = format!(
                "{} of {} entries belong to others, {} ({}) among them",
                self.foreign.len(),
                self.seen,
                path.display(),
                user(*uid)
            );
            let remedy = format!(
                "chown them to {}: the supervisor cannot replace them",
                user(self.owner)
            );
            findings.push(Finding::warn(check, text, remedy));
        }
        if self.unseen > 0 {
            let text = format!("{} places could not be looked into", self.unseen);
            findings.push(Finding::warn(
                check,
                text,
                "run doctor as the owner of the state, or as root",
            ));
        }
        if findings.is_empty() {
            findings.push(Finding::ok(
                check,
                format!("{} entries, all private", self.seen),
            ));
        }
        findings
    }
}

/// Who holds the lock of a state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Nobody.
    Free,
    /// A process whose number we know.
    Held(u32),
    /// A process of another container.
    HeldElsewhere,
}

/// Reads the kernel's list of locks.
pub fn lock(file: &Path) -> Lock {
    let list = fs::read_to_string("/proc/locks").unwrap_or_default();
    let Ok(metadata) = fs::metadata(file) else {
        return Lock::Free;
    };
    let written = fs::read_to_string(file).ok();
    let written = written.and_then(|text| process_in(&text));
    holder(&list, metadata.ino(), written)
}

/// The process that wrote itself into the lock file; a container's name may come after it.
fn process_in(text: &str) -> Option<u32> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn holder(list: &str, inode: u64, written: Option<u32>) -> Lock {
    let rows = list.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let kind = words.next()?;
        let pid: i64 = words.nth(2)?.parse().ok()?;
        let place = words.next()?.rsplit(':').next()?;
        (kind == "FLOCK" && place.parse() == Ok(inode)).then_some(pid)
    });
    // Inode numbers repeat between file systems; the number in the file tells which row is meant.
    let pids: Vec<i64> = rows.collect();
    match written {
        Some(pid) if pids.contains(&i64::from(pid)) => Lock::Held(pid),
        // The kernel shows processes of other namespaces without a number.
        Some(_) | None if pids.iter().any(|pid| *pid <= 0) => Lock::HeldElsewhere,
        Some(_) | None => Lock::Free,
    }
}

/// Whether other programs reach the control socket by its path; we do, however long it is.
pub fn socket_path(socket: &Path) -> Finding {
    let length = socket.as_os_str().len();
    if length <= SOCKET_PATH_MAX {
        return Finding::ok(
            "control socket",
            format!("{} ({length} bytes)", socket.display()),
        );
    }
    Finding::warn(
        "control socket",
        format!(
            "{} has {length} bytes, a socket address holds {SOCKET_PATH_MAX}: adjutant reaches it, others do not",
            socket.display()
        ),
        "set storage.directory to a shorter path if others (curl --unix-socket) are to use it",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    #[test]
    fn room_is_judged_by_what_an_apply_needs() {
        let mib = 1024 * 1024;
        for (free, wanted) in [
            (0, Level::Fail),
            (15 * mib, Level::Fail),
            (16 * mib, Level::Warn),
            (255 * mib, Level::Warn),
            (256 * mib, Level::Ok),
        ] {
            assert_eq!(bytes(free).level, wanted, "{free}");
        }
        assert_eq!(inodes(999, 100_000).level, Level::Warn);
        assert_eq!(inodes(1000, 100_000).level, Level::Ok);
        assert_eq!(inodes(0, 0).level, Level::Ok, "no fixed number");
    }

    #[test]
    fn modes_and_paths_of_a_state_directory_are_found_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        RealDisk.create_dir(&root, 0o700).unwrap();
        assert_eq!(state_directory(&root).level, Level::Ok);
        assert_eq!(open_files_of_state(&root)[0].level, Level::Ok);
        RealDisk.create_dir(&root.join("work"), 0o755).unwrap();
        RealDisk
            .write_file(&root.join("work/x"), b"", 0o644)
            .unwrap();
        assert_eq!(
            open_files_of_state(&root)[0].level,
            Level::Ok,
            "the child's own"
        );
        RealDisk
            .write_file(&root.join("identity.json"), b"", 0o644)
            .unwrap();
        let found = &open_files_of_state(&root)[0];
        assert_eq!(found.level, Level::Warn);
        assert!(
            found.text.contains("identity.json (mode 0644)"),
            "{}",
            found.text
        );
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&root, open).unwrap();
        let found = state_directory(&root);
        assert_eq!(found.remedy, format!("chmod 0700 {}", root.display()));
        assert_eq!(
            state_directory(&root.join("identity.json")).level,
            Level::Fail
        );
        assert_eq!(state_directory(&root.join("new/deep")).level, Level::Ok);
    }

    #[test]
    fn the_holder_of_a_lock_is_the_process_in_the_file_that_the_kernel_lists() {
        let list = "1: POSIX  ADVISORY  WRITE 11 08:01:77 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 42 00:1d:77 0 EOF\n\
                    3: FLOCK  ADVISORY  WRITE 0 00:1d:78 0 EOF\n";
        assert_eq!(holder(list, 77, Some(42)), Lock::Held(42));
        assert_eq!(
            holder(list, 77, Some(11)),
            Lock::Free,
            "not a lock of this kind"
        );
        assert_eq!(holder(list, 78, Some(9)), Lock::HeldElsewhere);
        assert_eq!(holder(list, 79, Some(42)), Lock::Free);
        assert_eq!(holder("", 77, None), Lock::Free);
    }

    #[test]
    fn a_supervisor_in_a_container_is_found_by_its_lock() {
        assert_eq!(process_in("1 container 974ac58c\n"), Some(1));
        assert_eq!(process_in("42\n"), Some(42));
        assert_eq!(process_in(""), None);
    }

    #[test]
    fn a_path_too_long_for_a_socket_address_is_told_with_its_length() {
        let long = format!("/{}/control.sock", "x".repeat(100));
        let found = socket_path(Path::new(&long));
        assert_eq!(found.level, Level::Warn);
        assert!(
            found
                .text
                .contains("has 114 bytes, a socket address holds 107"),
            "{}",
            found.text
        );
        assert_eq!(socket_path(Path::new("/s/control.sock")).level, Level::Ok);
    }
}
