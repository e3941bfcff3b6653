//! A disk that forgets: what was not synced may be lost, in part or out of order, when the power goes.
//!
//! Promises: deterministic under its seeds; one syscall at a time may fail, run out of space, or be the last of its process.
//!
//! The model. Every directory and file has a *view* (the page cache, what calls see) and a *durable* state (what a crash leaves at least).
//! - `fsync` of a file makes its bytes durable, not its name. `fsync` of a directory makes its entries durable, not what they hold.
//! - A crash decides per directory which of the unsynced creations, renames and removals survive: none, all, a prefix, or any subset in
//!   order. A rename is atomic: the new name and the loss of the old one survive together. (Stricter than ext4 or xfs, which order them;
//!   POSIX promises no more.) Renames between directories are refused: the store needs none.
//! - A crash decides per file how far unsynced bytes got: nothing, all, a prefix, or the new length with zeros behind a prefix.
//! - After a failed `fsync` of a file the kernel takes its pages for clean: a later `fsync` succeeds without having written them.
//!   The model does the same. After a failed `fsync` of a directory its changes stay unsynced.
//! - A kill ends the process only: the view stays. A write under way at that moment may be cut short.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use adjutant::sys::durable::{Disk, Kind, too_large};
use nix::libc;

type Node = usize;
const ROOT: Node = 0;

/// A handle to a model disk; clones name the same disk.
#[derive(Debug, Clone)]
pub(crate) struct ModelDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    nodes: Vec<Inode>,
    random: fastrand::Rng,
    /// Syscalls so far.
    steps: u64,
    /// Which of them could have changed something.
    mutations: Vec<u64>,
    die_after: Option<u64>,
    fail: Option<(RangeInclusive<u64>, i32)>,
    space: Option<u64>,
    read_only: bool,
}

#[derive(Debug, Clone)]
enum Inode {
    File(Content),
    Dir(Entries),
    Link(PathBuf),
}

#[derive(Debug, Clone, Default)]
struct Content {
    view: Arc<Vec<u8>>,
    /// `fsync` would write the bytes of the view from here on: changes are appended, or follow a cut.
    clean: usize,
    durable: Arc<Vec<u8>>,
}

#[derive(Debug, Clone, Default)]
struct Entries {
    view: BTreeMap<OsString, Node>,
    durable: BTreeMap<OsString, Node>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(OsString, Node),
    Unlink(OsString, Node),
    Rename(OsString, OsString, Node),
}

impl ModelDisk {
    /// An empty disk; the seed decides how a dying process cuts its last write.
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            nodes: vec![Inode::Dir(Entries::default())],
            random: fastrand::Rng::with_seed(seed),
            steps: 0,
            mutations: Vec::new(),
            die_after: None,
            fail: None,
            space: None,
            read_only: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// An independent copy, faults included.
    pub(crate) fn fork(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    /// Syscalls so far.
    pub(crate) fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// The numbers of those syscalls that could have changed something.
    pub(crate) fn mutations(&self) -> Vec<u64> {
        self.lock().mutations.clone()
    }

    /// Lets the process die when it makes a syscall after number `steps`.
    pub(crate) fn die_after(&self, steps: u64) {
        self.lock().die_after = Some(steps);
    }

    /// Lets the syscalls of these numbers fail.
    pub(crate) fn fail(&self, steps: RangeInclusive<u64>, errno: i32) {
        self.lock().fail = Some((steps, errno));
    }

    /// Bounds the bytes in all files; `None` lifts the bound.
    pub(crate) fn limit_space(&self, bytes: Option<u64>) {
        self.lock().space = bytes;
    }

    /// Bytes in all files.
    pub(crate) fn used(&self) -> u64 {
        self.lock().used(ROOT)
    }

    /// Refuses every change, or no longer.
    pub(crate) fn read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// The process is gone and a new one comes; the system ran on. Faults are lifted.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        state.die_after = None;
        state.fail = None;
        state.space = None;
        state.read_only = false;
    }

    /// The power is gone and comes back; the seed decides what survived. Faults are lifted.
    pub(crate) fn crash(&self, seed: u64) {
        self.kill();
        let mut state = self.lock();
        let mut random = fastrand::Rng::with_seed(seed);
        for node in &mut state.nodes {
            match node {
                Inode::File(content) => content.crash(&mut random),
                Inode::Dir(entries) => entries.crash(&mut random),
                Inode::Link(_) => {}
            }
        }
    }

    /// Puts a durable file where a test wants one, with its directories; not a syscall.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.lock();
        let content = Content {
            view: Arc::new(bytes.to_vec()),
            clean: bytes.len(),
            durable: Arc::new(bytes.to_vec()),
        };
        let node = state.add(Inode::File(content));
        let dir = state.make_dirs(path.parent().unwrap());
        let entries = state.dir(dir).unwrap();
        let name = path.file_name().unwrap().to_owned();
        entries.view.insert(name.clone(), node);
        entries.durable.insert(name, node);
    }

    /// Makes durable directories where a test wants them; not a syscall.
    pub(crate) fn put_dir(&self, path: &Path) {
        self.lock().make_dirs(path);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8]) {
        Arc::make_mut(&mut self.view).extend_from_slice(bytes);
    }

    fn cut(&mut self, len: usize) {
        if self.view.len() != len {
            Arc::make_mut(&mut self.view).resize(len, 0);
        }
        self.clean = self.clean.min(len);
    }

    fn sync(&mut self) {
        let len = self.view.len();
        if self.clean < len || self.durable.len() != len {
            self.durable = self.blend(len, len);
        }
        self.clean = len;
    }

    /// `len` bytes: the unsynced ones before `reached` as the view has them, all others as they are durable.
    fn blend(&self, len: usize, reached: usize) -> Arc<Vec<u8>> {
        let mut bytes = self.durable.to_vec();
        bytes.resize(len, 0);
        if self.clean < reached {
            bytes[self.clean..reached].copy_from_slice(&self.view[self.clean..reached]);
        }
        Arc::new(bytes)
    }

    fn crash(&mut self, random: &mut fastrand::Rng) {
        let len = self.view.len();
        if self.clean == len && self.durable.len() == len {
            self.view = Arc::clone(&self.durable);
            return;
        }
        let shorter = self.durable.len().min(len);
        self.durable = match random.u8(0..4) {
            0 => Arc::clone(&self.durable),
            1 => self.blend(len, len),
            2 => self.blend(len, random.usize(0..=len)),
            _ => {
                let reached = random.usize(shorter..=len);
                self.blend(reached, reached)
            }
        };
        self.view = Arc::clone(&self.durable);
        self.clean = self.view.len();
    }
}

impl Entries {
    fn crash(&mut self, random: &mut fastrand::Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        let count = changes.len();
        let prefix = random.usize(0..=count);
        let survives: Vec<bool> = match random.u8(0..4) {
            0 => vec![false; count],
            1 => vec![true; count],
            2 => (0..count).map(|at| at < prefix).collect(),
            _ => (0..count).map(|_| random.bool()).collect(),
        };
        for (change, _) in changes.into_iter().zip(survives).filter(|(_, kept)| *kept) {
            apply(&mut self.durable, change);
        }
        self.view.clone_from(&self.durable);
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.view, change.clone());
        self.unsynced.push(change);
    }
}

fn apply(entries: &mut BTreeMap<OsString, Node>, change: Change) {
    let mut remove = |name: &OsString, node: Node| {
        if entries.get(name) == Some(&node) {
            entries.remove(name);
        }
    };
    match change {
        Change::Link(name, node) => {
            entries.insert(name, node);
        }
        Change::Unlink(name, node) => remove(&name, node),
        Change::Rename(from, to, node) => {
            remove(&from, node);
            entries.insert(to, node);
        }
    }
}

/// What a syscall is about to meet.
enum Fate {
    Lives,
    Fails(io::Error),
    Dies,
}

impl State {
    fn fate(&mut self, mutates: bool) -> Fate {
        if self.die_after.is_some_and(|last| self.steps >= last) {
            return Fate::Dies;
        }
        self.steps += 1;
        if mutates {
            self.mutations.push(self.steps);
        }
        match &self.fail {
            Some((steps, errno)) if steps.contains(&self.steps) => Fate::Fails(errno_error(*errno)),
            _ if mutates && self.read_only => Fate::Fails(errno_error(libc::EROFS)),
            _ => Fate::Lives,
        }
    }

    fn step(&mut self, mutates: bool) -> io::Result<()> {
        match self.fate(mutates) {
            Fate::Lives => Ok(()),
            Fate::Fails(error) => Err(error),
            Fate::Dies => Err(dead()),
        }
    }

    fn add(&mut self, inode: Inode) -> Node {
        self.nodes.push(inode);
        self.nodes.len() - 1
    }

    fn make_dirs(&mut self, path: &Path) -> Node {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else {
                continue;
            };
            let there = self.dir(at).unwrap().view.get(name).copied();
            at = there.unwrap_or_else(|| {
                let node = self.add(Inode::Dir(Entries::default()));
                let entries = self.dir(at).unwrap();
                entries.view.insert(name.to_owned(), node);
                entries.durable.insert(name.to_owned(), node);
                node
            });
        }
        at
    }

    fn dir(&mut self, node: Node) -> io::Result<&mut Entries> {
        match &mut self.nodes[node] {
            Inode::Dir(entries) => Ok(entries),
            Inode::File(_) | Inode::Link(_) => Err(errno_error(libc::ENOTDIR)),
        }
    }

    fn content(&mut self, node: Node) -> io::Result<&mut Content> {
        match &mut self.nodes[node] {
            Inode::File(content) => Ok(content),
            Inode::Dir(_) => Err(errno_error(libc::EISDIR)),
            Inode::Link(_) => Err(errno_error(libc::ELOOP)),
        }
    }

    /// Walks a path; links on the way are followed, and one at its end if `follow`.
    fn find(&mut self, path: &Path, follow: bool) -> io::Result<Node> {
        let mut path = path.to_path_buf();
        'again: for _ in 0..8 {
            let (mut at, mut walked) = (ROOT, PathBuf::from("/"));
            let mut parts = path.components();
            while let Some(part) = parts.next() {
                let Component::Normal(name) = part else {
                    continue;
                };
                let found = self.dir(at)?.view.get(name).copied();
                let node = found.ok_or_else(|| errno_error(libc::ENOENT))?;
                let rest = parts.as_path();
                if let Inode::Link(target) = &self.nodes[node]
                    && (follow || rest != Path::new(""))
                {
                    // Joining an absolute target replaces what was walked, as it should.
                    path = walked.join(target).join(rest);
                    continue 'again;
                }
                walked.push(name);
                at = node;
            }
            return Ok(at);
        }
        Err(errno_error(libc::ELOOP))
    }

    /// The directory a path lies in, its name there, and what has that name now.
    fn place(&mut self, path: &Path) -> io::Result<(Node, OsString, Option<Node>)> {
        let (parent, name) = path.parent().zip(path.file_name()).unwrap();
        let dir = self.find(parent, true)?;
        let there = self.dir(dir)?.view.get(name).copied();
        Ok((dir, name.to_owned(), there))
    }

    fn used(&self, node: Node) -> u64 {
        match &self.nodes[node] {
            Inode::File(content) => content.view.len() as u64,
            Inode::Dir(entries) => entries.view.values().map(|node| self.used(*node)).sum(),
            Inode::Link(_) => 0,
        }
    }

    fn write(&mut self, node: Node, bytes: &[u8]) -> io::Result<()> {
        let room = match self.space {
            Some(space) => usize::try_from(space.saturating_sub(self.used(ROOT))).unwrap(),
            None => usize::MAX,
        };
        let torn = self.random.usize(0..=bytes.len());
        let fate = self.fate(true);
        let content = self.content(node)?;
        match fate {
            Fate::Lives if bytes.len() <= room => {
                content.write(bytes);
                Ok(())
            }
            Fate::Lives => {
                content.write(&bytes[..room]);
                Err(errno_error(libc::ENOSPC))
            }
            Fate::Fails(error) => {
                content.write(&bytes[..torn]);
                Err(error)
            }
            Fate::Dies => {
                // Opening the file lived, so this is the syscall that the process dies in.
                content.write(&bytes[..torn]);
                Err(dead())
            }
        }
    }

    fn sync(&mut self, node: Node) -> io::Result<()> {
        let fate = self.fate(true);
        let content = self.content(node)?;
        match fate {
            Fate::Lives => {
                content.sync();
                Ok(())
            }
            Fate::Fails(error) => {
                content.clean = content.view.len();
                Err(error)
            }
            Fate::Dies => Err(dead()),
        }
    }
}

impl Disk for ModelDisk {
    fn create_dir(&self, path: &Path, _mode: u32) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let (dir, name, there) = state.place(path)?;
        if there.is_some() {
            return Err(errno_error(libc::EEXIST));
        }
        let node = state.add(Inode::Dir(Entries::default()));
        state.dir(dir)?.change(Change::Link(name, node));
        Ok(())
    }

    fn write_file(&self, path: &Path, bytes: &[u8], _mode: u32) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let (dir, name, there) = state.place(path)?;
        let node = if let Some(node) = there {
            state.content(node)?.cut(0);
            node
        } else {
            let node = state.add(Inode::File(Content::default()));
            state.dir(dir)?.change(Change::Link(name, node));
            node
        };
        state.write(node, bytes)?;
        state.sync(node)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.step(false)?;
        let node = state.find(path, false)?;
        state.write(node, bytes)?;
        state.sync(node)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let node = state.find(path, false)?;
        state.content(node)?.cut(usize::try_from(len).unwrap());
        state.sync(node)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let node = state.find(path, true)?;
        let entries = state.dir(node)?;
        entries.durable.clone_from(&entries.view);
        entries.unsynced.clear();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let (dir, old, node) = state.place(from)?;
        let (other, new, there) = state.place(to)?;
        let node = node.ok_or_else(|| errno_error(libc::ENOENT))?;
        if dir != other {
            return Err(errno_error(libc::EXDEV));
        }
        if let Some(there) = there {
            match (&state.nodes[node], &state.nodes[there]) {
                (Inode::Dir(_), Inode::Dir(entries)) if entries.view.is_empty() => {}
                (Inode::Dir(_), Inode::Dir(_)) => return Err(errno_error(libc::ENOTEMPTY)),
                (Inode::Dir(_), _) => return Err(errno_error(libc::ENOTDIR)),
                (_, Inode::Dir(_)) => return Err(errno_error(libc::EISDIR)),
                _ => {}
            }
        }
        state.dir(dir)?.change(Change::Rename(old, new, node));
        Ok(())
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let (dir, name, there) = state.place(link)?;
        if there.is_some() {
            return Err(errno_error(libc::EEXIST));
        }
        let node = state.add(Inode::Link(target.to_path_buf()));
        state.dir(dir)?.change(Change::Link(name, node));
        Ok(())
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let mut state = self.lock();
        state.step(false)?;
        let node = state.find(path, false)?;
        match &state.nodes[node] {
            Inode::Link(target) => Ok(target.clone()),
            Inode::File(_) | Inode::Dir(_) => Err(errno_error(libc::EINVAL)),
        }
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        state.step(false)?;
        let node = state.find(path, true)?;
        let bytes = state.content(node)?.view.to_vec();
        if bytes.len() as u64 > max {
            return Err(too_large(max));
        }
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut state = self.lock();
        state.step(false)?;
        let node = state.find(path, true)?;
        Ok(state.dir(node)?.view.keys().cloned().collect())
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let mut state = self.lock();
        state.step(false)?;
        let node = match state.find(path, false) {
            Ok(node) => node,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kind::Absent),
            Err(error) => return Err(error),
        };
        Ok(match &state.nodes[node] {
            Inode::File(content) => Kind::File {
                len: content.view.len() as u64,
            },
            Inode::Dir(_) => Kind::Dir,
            Inode::Link(_) => Kind::Link,
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let (dir, name, there) = state.place(path)?;
        let node = there.ok_or_else(|| errno_error(libc::ENOENT))?;
        if matches!(state.nodes[node], Inode::Dir(_)) {
            return Err(errno_error(libc::EISDIR));
        }
        state.dir(dir)?.change(Change::Unlink(name, node));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step(true)?;
        let (dir, name, there) = state.place(path)?;
        let node = there.ok_or_else(|| errno_error(libc::ENOENT))?;
        if !state.dir(node)?.view.is_empty() {
            return Err(errno_error(libc::ENOTEMPTY));
        }
        state.dir(dir)?.change(Change::Unlink(name, node));
        Ok(())
    }
}

fn errno_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

#[cfg(test)]
mod tests {
    use super::*;
    use adjutant::sys::durable::{FILE_MODE, swap_link, write_durable};

    fn outcomes<T: Ord>(disk: &ModelDisk, look: impl Fn(&ModelDisk) -> T) -> Vec<T> {
        let mut seen: Vec<T> = (0..200)
            .map(|seed| {
                let copy = disk.fork();
                copy.crash(seed);
                look(&copy)
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    fn text(disk: &ModelDisk, path: &str) -> Option<String> {
        let bytes = disk.read(Path::new(path), 1 << 20).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', "."))
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_plays_with_the_rest() {
        let disk = ModelDisk::new(0);
        write_durable(&disk, Path::new("/a"), b"old", FILE_MODE).unwrap();
        // Die between writing and syncing an appended line.
        disk.die_after(disk.steps() + 2);
        assert!(disk.append(Path::new("/a"), b"new").is_err());
        let seen = outcomes(&disk, |disk| text(disk, "/a").unwrap());
        let wanted = [
            "old", "old...", "oldn", "oldn..", "oldne", "oldne.", "oldnew",
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_rename_without_a_sync_of_the_directory_shows_the_old_or_the_new() {
        let disk = ModelDisk::new(0);
        swap_link(&disk, Path::new("/current"), Path::new("one")).unwrap();
        // Link, rename, but no sync.
        disk.die_after(disk.steps() + 2);
        assert!(swap_link(&disk, Path::new("/current"), Path::new("two")).is_err());
        let seen = outcomes(&disk, |disk| disk.read_link(Path::new("/current")).unwrap());
        assert_eq!(seen, [Path::new("one"), Path::new("two")]);
    }

    #[test]
    fn a_name_without_a_sync_of_the_directory_may_be_lost() {
        let disk = ModelDisk::new(0);
        disk.write_file(Path::new("/a"), b"x", FILE_MODE).unwrap();
        let seen = outcomes(&disk, |disk| text(disk, "/a"));
        assert_eq!(seen, [None, Some("x".to_owned())]);
    }

    #[test]
    fn a_sync_after_a_failed_sync_lies() {
        let disk = ModelDisk::new(0);
        write_durable(&disk, Path::new("/a"), b"old", FILE_MODE).unwrap();
        let sync = disk.steps() + 3;
        disk.fail(sync..=sync, libc::EIO);
        let error = disk.append(Path::new("/a"), b"new").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        disk.append(Path::new("/a"), b"er").unwrap();
        assert_eq!(text(&disk, "/a").unwrap(), "oldnewer");
        assert_eq!(
            outcomes(&disk, |disk| text(disk, "/a").unwrap()),
            ["old...er"]
        );
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = ModelDisk::new(0);
        disk.limit_space(Some(4));
        let error = disk
            .write_file(Path::new("/a"), b"12345", FILE_MODE)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(text(&disk, "/a").unwrap(), "1234");
        disk.remove_file(Path::new("/a")).unwrap();
        assert_eq!(disk.used(), 0);
    }
}
