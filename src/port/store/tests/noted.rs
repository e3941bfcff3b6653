//! The file system with a note of every call, and with calls that fail when a test wants them to.

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::*;

/// Real files below one directory. Calls are noted as `verb path`, with the path below that directory.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    base: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<String>,
    reads: BTreeMap<String, u64>,
    fails: Option<(String, usize)>,
    crowd: Option<(PathBuf, u32)>,
}

impl Noted {
    pub(super) fn below(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Every call that changed something or made it durable, since this was asked last.
    pub(super) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().changes)
    }

    /// What was read by name, with the most bytes that were asked for.
    pub(super) fn reads(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.state().reads)
    }

    /// From now on this call fails once it was made so many times, until [`Noted::mends`].
    pub(super) fn fails(&self, call: &str, after: usize) {
        self.state().fails = Some((call.to_owned(), after));
    }

    pub(super) fn mends(&self) {
        self.state().fails = None;
    }

    /// From now on so many empty files are in this directory, and nothing else; their names are numbers.
    pub(super) fn crowd(&self, directory: &Path, files: u32) {
        self.state().crowd = Some((directory.to_owned(), files));
    }

    fn is_of_crowd(&self, path: &Path) -> bool {
        let state = self.state();
        let crowd = state.crowd.as_ref();
        crowd.is_some_and(|(directory, _)| path.parent() == Some(directory))
    }

    fn name(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.base).unwrap_or(path);
        let text = inside.to_str().unwrap();
        [1, 2, 3].into_iter().fold(text.to_owned(), |text, number| {
            text.replace(simple(number).id.as_str(), &format!("r{number}"))
        })
    }

    fn change(&self, verb: &str, path: &Path) -> io::Result<()> {
        let call = format!("{verb} {}", self.name(path));
        let mut state = self.state();
        if let Some((failing, after)) = &mut state.fails
            && *failing == call
        {
            if *after == 0 {
                return Err(io::Error::from_raw_os_error(nix::libc::EIO));
            }
            *after -= 1;
        }
        state.changes.push(call);
        Ok(())
    }
}

impl Disk for Noted {
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.change("mkdir", path)?;
        RealDisk.create_dir(path, mode)
    }

    fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.change("write", path)?;
        RealDisk.write_file(path, bytes, mode)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.change("append", path)?;
        RealDisk.append(path, bytes)
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.change("cut", path)?;
        RealDisk.truncate(path, len)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change("sync", path)?;
        RealDisk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change("rename to", to)?;
        RealDisk.rename(from, to)
    }

    fn symlink(&self, target: &Path, link: &Path) -> io::Result<()> {
        self.change("link", link)?;
        RealDisk.symlink(target, link)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        RealDisk.read_link(path)
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut state = self.state();
        let most = state.reads.entry(name).or_default();
        *most = max.max(*most);
        drop(state);
        if self.is_of_crowd(path) {
            return Ok(Vec::new());
        }
        RealDisk.read(path, max)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        match &self.state().crowd {
            Some((crowded, files)) if crowded == path => Ok((0..*files)
                .map(|number| number.to_string().into())
                .collect()),
            _ => RealDisk.list(path),
        }
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        if self.is_of_crowd(path) {
            return Ok(Kind::File { len: 0 });
        }
        RealDisk.kind(path)
    }

    fn mode(&self, path: &Path) -> io::Result<u32> {
        RealDisk.mode(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change("remove", path)?;
        RealDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change("rmdir", path)?;
        RealDisk.remove_dir(path)
    }
}
