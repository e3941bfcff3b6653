//! What the kernel tells about a process: its state, its group, its start, and whether memory ran out in its cgroup.
//!
//! Promises: reads `/proc` and cgroup files, never blocks on them, answers `None` for whatever is not there.
//! Must never: remember anything about a process; two readings are compared by the caller.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::SysconfVar;

use crate::units::WallTime;

/// The fields of `/proc/<pid>/stat` that tell one process from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// `R`, `S`, `Z` …
    pub(super) state: char,
    /// Its process group.
    pub(super) group: u32,
    /// Clock ticks from boot to its start (field 22).
    pub(super) start_ticks: u64,
}

impl Stat {
    /// Reads a process; `None` when there is none of that number.
    pub(super) fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program name in field 2 may hold spaces and brackets, so fields count from the last bracket.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let group = fields.nth(1)?.parse().ok()?;
        // Group was field 5; 16 fields lie between it and field 22.
        let start_ticks = fields.nth(16)?.parse().ok()?;
        Some(Self {
            state,
            group,
            start_ticks,
        })
    }

    /// Whether it can still do something: neither a zombie nor dead.
    pub(super) fn is_alive(self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Whether this very process, not a later one of the same number, is alive.
pub(super) fn is_same_and_alive(pid: u32, start_ticks: u64) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_alive() && stat.start_ticks == start_ticks)
}

/// Names this boot of the machine; start ticks mean nothing across boots.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Names our process id namespace; a process id means nothing in another one.
pub(super) fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Wall time of a start, to about a second: boot time plus ticks.
pub(super) fn started_at(start_ticks: u64) -> WallTime {
    let boot_seconds = fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("btime "))
                .and_then(|seconds| seconds.trim().parse::<u64>().ok())
        })
        .unwrap_or_default();
    // The kernel shows ticks to programs in hundredths of a second on every architecture that Linux still supports.
    let ticks_per_second = nix::unistd::sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100);
    let since_boot = start_ticks.saturating_mul(1000) / ticks_per_second;
    WallTime::from_unix_millis(boot_seconds.saturating_mul(1000).saturating_add(since_boot))
}

/// Every process id there is now, ours excluded.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}

/// Whether the environment a process was started with holds `entry`, a whole `NAME=value`.
pub(super) fn environment_holds(pid: u32, entry: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .any(|part| part == entry.as_bytes())
    })
}

/// The kernel's count of OOM kills in the cgroup a child was started in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OomCounter {
    file: PathBuf,
    before: u64,
}

impl OomCounter {
    /// Finds the counter of a process and notes where it stands. `None` without a memory controller.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Self::find(&membership, Path::new("/sys/fs/cgroup"))
    }

    fn find(membership: &str, root: &Path) -> Option<Self> {
        let unified = |line: &str| {
            let path = line.strip_prefix("0::/")?;
            Some(root.join(path).join("memory.events"))
        };
        let legacy = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(":/")?;
            let memory = controllers.split(',').any(|name| name == "memory");
            memory.then(|| root.join("memory").join(path).join("memory.oom_control"))
        };
        membership
            .lines()
            .filter_map(|line| unified(line).or_else(|| legacy(line)))
            .find_map(|file| {
                let before = oom_kills(&file)?;
                Some(Self { file, before })
            })
    }

    /// Whether the count has risen since.
    pub(super) fn has_risen(&self) -> bool {
        oom_kills(&self.file).is_some_and(|now| now > self.before)
    }
}

/// Both `memory.events` and `memory.oom_control` have a line `oom_kill N`.
fn oom_kills(file: &Path) -> Option<u64> {
    fs::read_to_string(file)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 1 77 77 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876 1000 200";
        let wanted = Stat {
            state: 'S',
            group: 77,
            start_ticks: 9876,
        };
        assert_eq!(Stat::parse(line), Some(wanted));
        assert_eq!(Stat::parse("42 (short) S 1"), None);
    }

    #[test]
    fn our_own_start_reads_back_as_a_recent_wall_time() {
        let stat = Stat::read(std::process::id()).expect("we exist");
        let now = crate::sys::clock::wall().unix_millis();
        let started = started_at(stat.start_ticks).unix_millis();
        let apart = now.abs_diff(started);
        assert!(apart < 3_600_000, "started {apart} ms from now");
        assert!(is_same_and_alive(std::process::id(), stat.start_ticks));
        assert!(!is_same_and_alive(std::process::id(), stat.start_ticks + 1));
    }

    #[test]
    fn oom_kills_are_counted_in_the_childs_own_cgroup_of_either_version() {
        let cases = [
            ("0::/a/b\n", "a/b/memory.events", "low 0\noom 1\noom_kill "),
            (
                "5:cpu,memory:/x\n1:name=systemd:/\n",
                "memory/x/memory.oom_control",
                "under_oom 0\noom_kill ",
            ),
        ];
        for (membership, file, content) in cases {
            let root = tempfile::tempdir().unwrap();
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let set = |count: u64| {
                use std::io::Write as _;
                let mut out = fs::File::create(&file).unwrap();
                writeln!(out, "{content}{count}").unwrap();
            };
            set(3);
            let counter = OomCounter::find(membership, root.path()).unwrap();
            assert!(!counter.has_risen(), "{membership}");
            set(4);
            assert!(counter.has_risen(), "{membership}");
        }
        assert_eq!(
            OomCounter::find("0::/\n", Path::new("/nonexistent-root")),
            None
        );
    }
}
