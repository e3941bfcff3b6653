//! A disk that forgets: what was not synced may be lost, in part or out of order, when the power goes.
//!
//! Promises: deterministic under its seeds; one syscall at a time may fail, run out of space, or be the last of its
//! process.
//!
//! The model. Every directory and file has a *view* (the page cache, what calls see) and a *durable* state (what a
//! crash leaves at least).
//! - `fsync` of a file makes its bytes durable, not its name. `fsync` of a directory makes its entries durable, not
//!   what they hold.
//! - A crash decides per directory which of the unsynced creations, renames and removals survive: none, all, a
//!   prefix, or any subset in order. A rename is atomic: the new name and the loss of the old one survive together.
//!   (Stricter than ext4 or xfs, which order them; POSIX promises no more.) Renames between directories are
//!   refused: the store needs none.
//! - A crash decides per file how far unsynced bytes got: nothing, all, a prefix, or the new length with zeros
//!   behind a prefix.
//! - After a failed `fsync` of a file the kernel takes its pages for clean: a later `fsync` succeeds without having
//!   written them.
//!   The model does the same. After a failed `fsync` of a directory its changes stay unsynced.
//! - A kill ends the process only: the view stays. A write under way at that moment may be cut short.

use std::ffi::OsString;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use adjutant::sys::durable::{Disk, Kind, too_large};
use nix::libc;

use super::remains::{Change, Content, Entries, Node};

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
            let (mut at, mut walked) = (ROOT, 0);
            let mut parts = path.components();
            while let Some(part) = parts.next() {
                walked += 1;
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
                    let walked: PathBuf = path.components().take(walked - 1).collect();
                    path = walked.join(target).join(rest);
                    continue 'again;
                }
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
