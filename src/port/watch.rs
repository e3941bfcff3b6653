//! Says when one of a few files may have changed: a new content, another file in its place, or one end of a chain of
//! links that points elsewhere (`..data` of a `ConfigMap`).
//!
//! Promises: asleep until the kernel says something about exactly these names; where it cannot (no more watches, a
//! file system whose changes come from other hosts) they are looked at every so often, and it says so. What happens
//! after [`FileWatch::begin`] has returned is not missed.
//! Must never: read a file, or decide whether a change matters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::engine::message::WatchedBy;

/// How often files are looked at where the kernel does not say.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Changes that come together are one: this long after the last of them.
const QUIET: Duration = Duration::from_millis(100);
/// But no longer than this after the first.
const PATIENCE: Duration = Duration::from_secs(2);
/// Links that one path may lead over.
const HOPS_MAX: usize = 40;
/// Directories of one watch; the kernel's own bound is for all of a user's.
const DIRECTORIES_MAX: usize = 512;
/// Rounds until what is watched and what the links say agree.
const ROUNDS: usize = 4;
/// NFS, SMB, CIFS, SMB2, FUSE, 9p, Ceph: their changes come from elsewhere.
const REMOTE: [i64; 7] = [
    0x6969,
    0x517B,
    0xFF53_4D42,
    0xFE53_4D42,
    0x6573_5546,
    0x0102_1997,
    0x00C3_6400,
];

/// Watches files until the first change.
#[derive(Debug)]
pub(crate) struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Signature>,
    how: How,
}

#[derive(Debug)]
enum How {
    Events {
        fd: OwnedFd,
        names: BTreeMap<i32, BTreeSet<OsString>>,
    },
    Looks {
        every: Duration,
        reason: String,
    },
}

/// What tells one state of a file from another without reading it; none when there is no file.
type Signature = Option<(u64, u64, u64, i64, i64, i64, i64)>;

impl FileWatch {
    /// Begins to watch. May wait for the disk.
    pub(crate) fn begin(paths: Vec<PathBuf>, every: Duration) -> Self {
        let how = watch(&paths).unwrap_or_else(|reason| How::Looks { every, reason });
        Self {
            seen: paths.iter().map(|path| signature(path)).collect(),
            paths,
            how,
        }
    }

    /// How it watches.
    pub(crate) fn by(&self) -> WatchedBy {
        match &self.how {
            How::Events { .. } => WatchedBy::Events,
            How::Looks { every, reason } => WatchedBy::Looks {
                every: *every,
                reason: reason.clone(),
            },
        }
    }

    /// Waits until one of the files may have changed. Must run on a runtime with I/O.
    pub(crate) async fn changed(self) {
        let every = match self.how {
            How::Events { fd, names } => match listen(fd) {
                Ok(fd) => return told(&fd, &names).await,
                Err(_) => LOOK_EVERY,
            },
            How::Looks { every, .. } => every,
        };
        let (mut paths, mut seen) = (self.paths, self.seen);
        loop {
            tokio::time::sleep(every).await;
            // A network's file system may take its time, which the loop has not.
            let looked = tokio::task::spawn_blocking(move || {
                let now: Vec<Signature> = paths.iter().map(|path| signature(path)).collect();
                (paths, now)
            });
            let Ok((same, now)) = looked.await else {
                return;
            };
            if now != seen {
                return;
            }
            (paths, seen) = (same, now);
        }
    }
}

#[expect(
    unsafe_code,
    reason = "tokio's safe constructors of AsyncFd are deprecated in favour of an unsafe one"
)]
fn listen(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, is always the same descriptor, and lives inside the `AsyncFd` until that is
    // dropped.
    let watch = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watch?)
}

fn signature(path: &Path) -> Signature {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}

/// Waits for the first event that is about one of the names, and until the events after it have ended.
async fn told(fd: &AsyncFd<OwnedFd>, names: &BTreeMap<i32, BTreeSet<OsString>>) {
    loop {
        let Ok(mut ready) = fd.readable().await else {
            return;
        };
        let concerned = drain(fd.get_ref(), names);
        ready.clear_ready();
        if concerned {
            break;
        }
    }
    let settle = async {
        while let Ok(Ok(mut ready)) = tokio::time::timeout(QUIET, fd.readable()).await {
            drain(fd.get_ref(), names);
            ready.clear_ready();
        }
    };
    // Whether it ended by itself or by patience, the caller looks.
    drop(tokio::time::timeout(PATIENCE, settle).await);
}

/// Reads all events that are there; whether one of them is about one of the names.
fn drain(fd: &OwnedFd, names: &BTreeMap<i32, BTreeSet<OsString>>) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut reader = Reader::new(fd.as_fd(), &mut buffer);
    let mut concerned = false;
    loop {
        match reader.next() {
            Ok(event) => {
                // What is about the directory itself, or says that events were lost, concerns all.
                let all = ReadFlags::QUEUE_OVERFLOW
                    | ReadFlags::IGNORED
                    | ReadFlags::MOVE_SELF
                    | ReadFlags::DELETE_SELF
                    | ReadFlags::UNMOUNT;
                let is_one = event.file_name().is_some_and(|name| {
                    let name = OsStr::from_bytes(name.to_bytes());
                    let known = names.get(&event.wd());
                    known.is_some_and(|known| known.contains(name))
                });
                concerned |= is_one || event.events().intersects(all);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return concerned,
            // Better one look too many.
            Err(_) => return true,
        }
    }
}

/// Asks the kernel to watch the directories of all names that the paths lead over.
fn watch(paths: &[PathBuf]) -> Result<How, String> {
    let failed = |what: &str, error: Errno| format!("{what}: {error}");
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
        .map_err(|error| failed("inotify", error))?;
    let mask = WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::MOVE_SELF
        | WatchFlags::DELETE_SELF
        | WatchFlags::ONLYDIR;
    let mut names: BTreeMap<i32, BTreeSet<OsString>> = BTreeMap::new();
    let mut before = BTreeSet::new();
    for _ in 0..ROUNDS {
        let mut now = BTreeSet::new();
        for path in paths {
            trail(path, &mut now).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if now == before {
            break;
        }
        // A link that was swapped while its directory was not watched yet shows in the next round.
        for (directory, name) in &now {
            let at = || directory.display().to_string();
            if is_remote(directory) {
                return Err(format!("{} is on a network's file system", at()));
            }
            let id =
                inotify::add_watch(&fd, directory, mask).map_err(|error| failed(&at(), error))?;
            names.entry(id).or_default().insert(name.clone());
            if names.len() > DIRECTORIES_MAX {
                return Err(format!("more than {DIRECTORIES_MAX} directories"));
            }
        }
        before = now;
    }
    Ok(How::Events { fd, names })
}

fn is_remote(directory: &Path) -> bool {
    let kind = rustix::fs::statfs(directory).map(|found| found.f_type);
    kind.is_ok_and(|kind| REMOTE.contains(&kind))
}

/// Every name that decides what a path leads to: each link on the way, and the end, or the first that is missing.
fn trail(path: &Path, found: &mut BTreeSet<(PathBuf, OsString)>) -> io::Result<()> {
    let parts = |path: &Path| -> VecDeque<OsString> {
        let parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        parts.collect()
    };
    let mut at = PathBuf::from("/");
    let mut left = parts(path);
    let mut hops = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match fs::symlink_metadata(&next) {
            Ok(there) if there.file_type().is_symlink() => {
                found.insert((at.clone(), name));
                hops += 1;
                if hops > HOPS_MAX {
                    return Err(io::Error::other("too many links"));
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut more = parts(&target);
                more.append(&mut left);
                left = more;
            }
            Ok(there) if there.is_dir() && !left.is_empty() => at = next,
            Ok(_) => {
                found.insert((at, name));
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found.insert((at, name));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
