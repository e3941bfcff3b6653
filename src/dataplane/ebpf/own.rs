//! Which processes and ports are ours, so that the kernel programs leave them out.
//!
//! Promises: our own process, and the supervisor that started us; ports that the supervisor listens on already — those
//! that we listen on later are learned by the programs themselves.
//! Must never: take a parent for a supervisor that was not said to be one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The number that every kernel gives its first process namespace.
const INITIAL_PIDNS: u64 = 0xefff_fffc;

/// Ports that are looked for; a supervisor has a handful.
const PORTS_MAX: usize = 64;

/// What is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Our process and the supervisor's, as our namespace numbers them; 0 for none.
    pub(super) tgids: [u32; 2],
    /// Inode of our process namespace; 0 for the initial one.
    pub(super) pidns: u32,
    /// Network namespace and port of each listener of the supervisor.
    pub(super) ports: Vec<(u32, u16)>,
}

impl Own {
    /// Looks at this process. `supervised` says that the parent is the supervisor.
    pub(super) fn find(supervised: bool) -> Self {
        let proc = Path::new("/proc");
        let pidns = inode(&proc.join("self/ns/pid")).unwrap_or(INITIAL_PIDNS);
        let parent = u32::try_from(nix::unistd::getppid().as_raw()).unwrap_or(0);
        // Process 1 of a container may be the supervisor; that of the host has only inherited us from a dead one.
        let orphaned = parent == 1 && pidns == INITIAL_PIDNS;
        let supervisor = if supervised && !orphaned { parent } else { 0 };
        let ports = if supervisor == 0 {
            Vec::new()
        } else {
            listening(&proc.join(supervisor.to_string()))
        };
        Self {
            tgids: [std::process::id(), supervisor],
            pidns: if pidns == INITIAL_PIDNS {
                0
            } else {
                u32::try_from(pidns).unwrap_or(0)
            },
            ports,
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}

/// The ports that a process listens on, found through its sockets; nothing when it cannot be looked at.
fn listening(process: &Path) -> Vec<(u32, u16)> {
    let Some(netns) = inode(&process.join("ns/net")).and_then(|inode| u32::try_from(inode).ok())
    else {
        return Vec::new();
    };
    let sockets: Vec<String> = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut ports = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(process.join(table)).unwrap_or_default();
        ports.extend(text.lines().filter_map(|line| listener(line, &sockets)));
    }
    ports.sort_unstable();
    ports.dedup();
    ports.truncate(PORTS_MAX);
    ports.into_iter().map(|port| (netns, port)).collect()
}

/// The port of a line of `/proc/net/tcp`, if it is a listener and one of these sockets.
fn listener(line: &str, sockets: &[String]) -> Option<u16> {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    let inode = words.nth(5)?;
    if state != LISTEN || !sockets.iter().any(|socket| socket == inode) {
        return None;
    }
    let (_, port) = local.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listeners_of_a_process_are_found() {
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = std::net::TcpListener::bind("[::1]:0").unwrap();
        let found = listening(Path::new("/proc/self"));
        let netns = inode(Path::new("/proc/self/ns/net")).unwrap();
        for listener in [&v4, &v6] {
            let port = listener.local_addr().unwrap().port();
            let wanted = (u32::try_from(netns).unwrap(), port);
            assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
        }
    }

    #[test]
    fn only_a_supervisor_counts_beside_us() {
        let alone = Own::find(false);
        assert_eq!(alone.tgids, [std::process::id(), 0]);
        assert_eq!(alone.ports, []);
        let supervised = Own::find(true);
        let parent = u32::try_from(nix::unistd::getppid().as_raw()).unwrap();
        assert_eq!(supervised.tgids, [std::process::id(), parent]);
    }
}
