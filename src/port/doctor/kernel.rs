//! What the kernel lets a supervisor do: capabilities, BPF, cgroups, seccomp, open files.
//!
//! Promises: facts are those of the running supervisor where there is one, else of this process; a file that is not
//! there is a finding, not an error.
//! Must never: try a privileged call to see whether it works.

use std::fs;
use std::path::{Path, PathBuf};

use super::Finding;

/// Numbers of the capabilities that kernel events need (`linux/capability.h`).
const KERNEL_EVENTS: [(&str, u32); 2] = [("CAP_PERFMON", 38), ("CAP_BPF", 39)];
/// What stood for both before Linux 5.8.
const SYS_ADMIN: u32 = 21;
/// Open files that a busy host with many connections needs.
const OPEN_FILES: u64 = 65_535;

/// The process whose rights count.
#[derive(Debug, Clone)]
pub struct Process {
    root: PathBuf,
    id: String,
}

impl Process {
    /// The supervisor that runs, else this process.
    pub fn of(supervisor: Option<u32>) -> Self {
        Self {
            root: PathBuf::from("/"),
            id: supervisor.map_or_else(|| "self".to_owned(), |pid| pid.to_string()),
        }
    }

    fn text(&self, name: &str) -> String {
        let path = self.root.join("proc").join(&self.id).join(name);
        fs::read_to_string(path).unwrap_or_default()
    }

    fn status(&self, name: &str) -> Option<String> {
        let text = self.text("status");
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    }

    fn who(&self) -> &'static str {
        if self.id == "self" {
            "this process"
        } else {
            "the supervisor"
        }
    }
}

/// The release of the kernel and the kind of machine.
pub fn release(container: Option<&str>) -> Finding {
    let release = nix::sys::utsname::uname()
        .ok()
        .and_then(|uname| uname.release().to_str().map(str::to_owned))
        .unwrap_or_else(|| "of an unknown release".to_owned());
    let place = match container {
        Some(sign) => format!("in a container ({sign})"),
        None => "not in a container".to_owned(),
    };
    Finding::ok(
        "kernel",
        format!("Linux {release} on {}, {place}", std::env::consts::ARCH),
    )
}

/// Whether kernel events could be had: type information and the right to load programs.
pub fn kernel_events(process: &Process) -> Finding {
    let check = "kernel events";
    let root = &process.root;
    if !root.join("sys/kernel/btf/vmlinux").exists() {
        return Finding::warn(
            check,
            "the kernel has no type information (/sys/kernel/btf/vmlinux)",
            "a kernel with CONFIG_DEBUG_INFO_BTF; everything but kernel events works without",
        );
    }
    let Some(effective) = process
        .status("CapEff")
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
    else {
        let text = format!("the rights of {} cannot be read", process.who());
        return Finding::warn(check, text, "run doctor as root");
    };
    let has = |number: u32| effective & (1 << number) != 0;
    let missing: Vec<&str> = KERNEL_EVENTS
        .iter()
        .filter(|(_, number)| !has(*number) && !has(SYS_ADMIN))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Finding::ok(check, format!("{} may load programs", process.who()));
    }
    let missing = missing.join(" and ");
    Finding::warn(
        check,
        format!("{} has no {missing}", process.who()),
        format!("give it {missing} where kernel events are wanted; everything else works without"),
    )
}

/// The controllers of cgroup v2.
pub fn cgroup(root: &Path) -> Finding {
    let check = "cgroup";
    let Ok(text) = fs::read_to_string(root.join("sys/fs/cgroup/cgroup.controllers")) else {
        return Finding::warn(
            check,
            "no cgroup v2 at /sys/fs/cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1; without it a death by lack of memory is not told as such",
        );
    };
    let controllers: Vec<&str> = text.split_ascii_whitespace().collect();
    if controllers.contains(&"memory") {
        return Finding::ok(check, format!("v2 with {}", controllers.join(" ")));
    }
    let text = format!(
        "v2 without the memory controller (it has: {})",
        controllers.join(" ")
    );
    let remedy = "delegate it; without it a death by lack of memory is not told as such";
    Finding::warn(check, text, remedy)
}

/// Filters that a sandbox put on the process.
pub fn seccomp(process: &Process) -> Finding {
    let filter = match process.status("Seccomp").as_deref() {
        Some("0") => "no filter",
        Some("1") => "strict",
        Some(_) => "a filter",
        None => "unknown",
    };
    let new = match process.status("NoNewPrivs").as_deref() {
        Some("1") => "no new privileges",
        _ => "new privileges possible",
    };
    Finding::ok("seccomp", format!("{}: {filter}, {new}", process.who()))
}

/// How many files may be open.
pub fn limits(process: &Process) -> Finding {
    let text = process.text("limits");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    let Some(hard) = hard else {
        return Finding::warn(
            "open files",
            "the limit cannot be read",
            "run doctor as root",
        );
    };
    let enough = hard
        .parse::<u64>()
        .map_or(hard == "unlimited", |hard| hard >= OPEN_FILES);
    let text = format!("{} may open {hard}", process.who());
    if enough {
        Finding::ok("open files", text)
    } else {
        let remedy = format!(
            "raise it to {OPEN_FILES} (LimitNOFILE=, ulimit -n) on a host with many connections"
        );
        Finding::warn("open files", text, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = dir.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                RealDisk.write_file(&path, text.as_bytes(), 0o600).unwrap();
            }
            Self(dir)
        }

        fn process(&self) -> Process {
            Process {
                root: self.0.path().to_owned(),
                id: "7".to_owned(),
            }
        }
    }

    #[test]
    fn a_missing_capability_is_named() {
        let btf = ("sys/kernel/btf/vmlinux", "");
        let found = |status: &str| {
            let machine = Machine::new(&[btf, ("proc/7/status", status)]);
            kernel_events(&machine.process())
        };
        let none = found("Name:\ta\nCapEff:\t0000000000000000\n");
        assert_eq!(none.level, Level::Warn);
        assert_eq!(none.text, "the supervisor has no CAP_PERFMON and CAP_BPF");
        assert_eq!(
            found("CapEff:\t0000004000000000\n").text,
            "the supervisor has no CAP_BPF"
        );
        assert_eq!(found("CapEff:\t000000c000000000\n").level, Level::Ok);
        assert_eq!(
            found("CapEff:\t0000000000200000\n").level,
            Level::Ok,
            "CAP_SYS_ADMIN"
        );
        assert!(found("").text.contains("cannot be read"));
        let bare = Machine::new(&[("proc/7/status", "CapEff:\t000000c000000000\n")]);
        assert!(
            kernel_events(&bare.process())
                .text
                .contains("/sys/kernel/btf/vmlinux")
        );
    }

    #[test]
    fn controllers_filters_and_limits_are_read() {
        let file = "sys/fs/cgroup/cgroup.controllers";
        let machine = Machine::new(&[(file, "cpu memory pids\n")]);
        assert_eq!(cgroup(machine.0.path()).text, "v2 with cpu memory pids");
        let machine = Machine::new(&[(file, "hugetlb\n")]);
        assert_eq!(cgroup(machine.0.path()).level, Level::Warn);
        assert_eq!(cgroup(Path::new("/nonexistent")).level, Level::Warn);
        let machine = Machine::new(&[
            ("proc/7/status", "Seccomp:\t2\nNoNewPrivs:\t1\n"),
            (
                "proc/7/limits",
                "Max open files            1024                 4096                 files\n",
            ),
        ]);
        let process = machine.process();
        assert_eq!(
            seccomp(&process).text,
            "the supervisor: a filter, no new privileges"
        );
        let found = limits(&process);
        assert_eq!(
            (found.level, found.text.as_str()),
            (Level::Warn, "the supervisor may open 4096")
        );
    }
}
