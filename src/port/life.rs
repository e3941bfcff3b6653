//! How the life before this one ended: a mark that is made at the start and taken back at an ordered end.
//!
//! Promises: a mark that was not taken back is told, with what the kernel knows about it (the machine was restarted;
//! memory ran out in our cgroup; the kernel's log names our process); a first start has nothing to tell.
//! Must never: hold up a start (nothing is synced: what the power takes with it within seconds is not told), or fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::units::WallTime;

/// The number in the file, and the highest that is read.
const FORMAT: u64 = 1;
/// Bytes of a mark that are read.
const BYTES_MAX: u64 = 16 * 1024;
/// Lines of the kernel's log that are looked at; its buffer holds fewer.
const KERNEL_LINES_MAX: usize = 32 * 1024;
/// What the first process id namespace is called since Linux 3.8; only there do the kernel's numbers mean ours.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// The mark.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Mark {
    format: u64,
    pid: u32,
    started: u64,
    boot: String,
    memory: Option<Memory>,
    #[serde(default)]
    ended: Option<String>,
}

/// Where the kernel counts our deaths by lack of memory. The number of the directory tells a cgroup from a later one of
/// the same name.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Memory {
    file: PathBuf,
    cgroup: u64,
    kills: u64,
}

/// Where the facts come from.
struct Machine {
    root: PathBuf,
    pid: u32,
}

/// This life.
#[derive(Debug)]
pub struct Life {
    path: PathBuf,
    mark: Mark,
}

/// Marks the start of a life in a state directory whose lock the caller holds, and tells how the one before ended,
/// unless that was in order or there was none.
pub fn begin(state_dir: &Path, now: WallTime) -> (Life, Option<String>) {
    let machine = Machine {
        root: PathBuf::from("/"),
        pid: std::process::id(),
    };
    machine.begin(state_dir, now)
}

impl Life {
    /// Takes the mark back: this life ends in order, in the words of `how`.
    pub fn end(mut self, how: &str) {
        self.mark.ended = Some(how.to_owned());
        self.write();
    }

    fn write(&self) {
        let beside = self.path.with_extension("tmp");
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(&beside)?;
            file.write_all(&serde_json::to_vec(&self.mark)?)?;
            fs::rename(&beside, &self.path)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "mark of this life not written");
        }
    }
}

impl Machine {
    fn begin(&self, state_dir: &Path, now: WallTime) -> (Life, Option<String>) {
        let path = state_dir.join("life.json");
        let before = read(&path).and_then(|text| serde_json::from_slice::<Mark>(&text).ok());
        let before = before.filter(|mark| mark.format <= FORMAT && mark.ended.is_none());
        let told = before.map(|mark| self.tell(&mark));
        let mark = Mark {
            format: FORMAT,
            pid: self.pid,
            started: now.unix_millis(),
            boot: self.boot(),
            memory: self.memory(),
            ended: None,
        };
        let life = Life { path, mark };
        life.write();
        (life, told)
    }

    fn tell(&self, mark: &Mark) -> String {
        let who = format!(
            "the life before this one (process {}, started {})",
            mark.pid,
            WallTime::from_unix_millis(mark.started)
        );
        if mark.boot != self.boot() {
            return format!("{who} ended with the machine: it was restarted or lost power");
        }
        if self.killed_for_memory(mark) {
            return format!("{who} was killed by the kernel for lack of memory");
        }
        format!(
            "{who} ended without a goodbye: it was killed or it crashed; the host's log may say why"
        )
    }

    fn killed_for_memory(&self, mark: &Mark) -> bool {
        let counted = mark.memory.as_ref().is_some_and(|then| {
            self.memory().is_some_and(|now| {
                now.cgroup == then.cgroup && now.file == then.file && now.kills > then.kills
            })
        });
        counted || self.kernel_names(mark.pid)
    }

    /// Whether the kernel's log says that it killed this process. Only root reads it, mostly.
    fn kernel_names(&self, pid: u32) -> bool {
        let namespace = fs::read_link(self.root.join("proc/self/ns/pid"));
        if namespace.is_ok_and(|link| link != Path::new(FIRST_NAMESPACE)) {
            return false;
        }
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.root.join("dev/kmsg"));
        let Ok(mut log) = log else {
            return false;
        };
        let words = format!("Killed process {pid} (");
        let mut buffer = vec![0; 8192];
        // One read is one record of a device; a file of a test comes in one piece.
        for _ in 0..KERNEL_LINES_MAX {
            match log.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    let record = buffer.get(..length).unwrap_or_default();
                    if String::from_utf8_lossy(record).contains(&words) {
                        return true;
                    }
                }
                // The record was overwritten while we came to it; the next one is there.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(_) => return false,
            }
        }
        false
    }

    fn boot(&self) -> String {
        let path = self.root.join("proc/sys/kernel/random/boot_id");
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    }

    fn memory(&self) -> Option<Memory> {
        let membership = fs::read_to_string(self.root.join("proc/self/cgroup")).ok()?;
        let path = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))?;
        let directory = self.root.join("sys/fs/cgroup").join(path);
        let file = directory.join("memory.events");
        let kills = fs::read_to_string(&file)
            .ok()?
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))?
            .trim()
            .parse()
            .ok()?;
        Some(Memory {
            cgroup: fs::metadata(directory).ok()?.ino(),
            file,
            kills,
        })
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    const NOW: WallTime = WallTime::from_unix_millis(1_700_000_000_000);

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            fs::create_dir(world.state()).unwrap();
            world.put("proc/sys/kernel/random/boot_id", "first\n");
            world.put("proc/self/cgroup", "0::/unit\n");
            world.put("sys/fs/cgroup/unit/memory.events", "oom 1\noom_kill 2\n");
            world
        }

        fn state(&self) -> PathBuf {
            self.dir.path().join("state")
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.dir.path().join("root").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RealDisk.write_file(&path, text.as_bytes(), 0o600).unwrap();
        }

        fn begin(&self) -> (Life, Option<String>) {
            let machine = Machine {
                root: self.dir.path().join("root"),
                pid: 42,
            };
            machine.begin(&self.state(), NOW)
        }

        /// What is told after a life that nobody ended.
        fn told(&self) -> String {
            self.begin().1.unwrap()
        }
    }

    #[test]
    fn a_first_life_and_one_that_ended_in_order_have_nothing_to_tell() {
        let world = World::new();
        let (life, told) = world.begin();
        assert_eq!(told, None);
        life.end("stopped");
        assert_eq!(world.begin().1, None);
    }

    #[test]
    fn a_life_without_a_goodbye_is_told_with_what_the_kernel_knows() {
        let world = World::new();
        world.begin();
        let who = "the life before this one (process 42, started 2023-11-14T22:13:20.000Z) ";
        assert_eq!(
            world.told(),
            format!(
                "{who}ended without a goodbye: it was killed or it crashed; the host's log may say why"
            )
        );
        world.put("sys/fs/cgroup/unit/memory.events", "oom 1\noom_kill 3\n");
        let memory = format!("{who}was killed by the kernel for lack of memory");
        assert_eq!(world.told(), memory);
        assert!(
            world.told().contains("without a goodbye"),
            "the count stands"
        );
        world.put(
            "dev/kmsg",
            "6,1,2,-;Memory cgroup out of memory: Killed process 42 (adjutant)\n",
        );
        assert_eq!(world.told(), memory);
        world.put("dev/kmsg", "6,1,2,-;Killed process 421 (other)\n");
        assert!(world.told().contains("without a goodbye"));
        world.put("proc/sys/kernel/random/boot_id", "second\n");
        assert_eq!(
            world.told(),
            format!("{who}ended with the machine: it was restarted or lost power")
        );
    }

    #[test]
    fn a_mark_that_is_damaged_or_newer_says_nothing() {
        let world = World::new();
        for text in [
            "",
            "{",
            "{\"format\":2,\"pid\":1,\"started\":0,\"boot\":\"\",\"memory\":null}",
        ] {
            RealDisk
                .write_file(&world.state().join("life.json"), text.as_bytes(), 0o600)
                .unwrap();
            assert_eq!(world.begin().1, None, "{text}");
        }
    }
}
