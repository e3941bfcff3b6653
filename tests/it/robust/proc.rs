//! Looks at processes from outside, through `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The variable by which children of the supervisor are recognised.
const MARKER: &str = "ADJUTANT_CHILD";

/// One process as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) state: char,
    pub(super) name: String,
}

pub(super) fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold some itself.
    let (head, tail) = (stat.find('(')?, stat.rfind(')')?);
    let mut fields = stat.get(tail + 2..)?.split(' ');
    Some(Process {
        pid,
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        name: stat.get(head + 1..tail)?.to_owned(),
    })
}

pub(super) fn all() -> Vec<Process> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

pub(super) fn is_alive(pid: u32) -> bool {
    process(pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
}

pub(super) fn environment(pid: u32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .split('\0')
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Living processes that carry the marker of an agent whose state lies below `directory`.
pub(super) fn marked(directory: &Path) -> Vec<Process> {
    let below = directory
        .canonicalize()
        .unwrap_or_else(|_| directory.to_owned());
    all()
        .into_iter()
        .filter(|process| !matches!(process.state, 'Z' | 'X'))
        .filter(|process| {
            environment(process.pid)
                .get(MARKER)
                .is_some_and(|marker| Path::new(marker).starts_with(&below))
        })
        .collect()
}

/// Those of them that lead a process group: one per child.
pub(super) fn children(directory: &Path) -> Vec<u32> {
    marked(directory)
        .into_iter()
        .filter(|process| process.group == process.pid)
        .map(|process| process.pid)
        .collect()
}

/// The direct children of a process.
pub(super) fn offspring(pid: u32) -> Vec<Process> {
    let mut found = all();
    found.retain(|process| process.parent == pid);
    found
}

/// The child of `init` that has the number `pid` in the namespace of `init`.
pub(super) fn inside(init: u32, pid: u32) -> Option<u32> {
    offspring(init).into_iter().map(|it| it.pid).find(|outer| {
        let inner = status_line(*outer, "NSpid").unwrap_or_default();
        inner.split_whitespace().last() == Some(&pid.to_string())
    })
}

/// Threads of a process: number and name.
pub(super) fn threads(pid: u32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                name.trim().to_owned(),
            ))
        })
        .collect()
}

/// A line of `/proc/<pid>/status`.
pub(super) fn status_line(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

pub(super) fn send(pid: u32, signal: Signal) {
    // It may have ended meanwhile; what a test expects of the signal it asserts itself.
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).ok();
}
