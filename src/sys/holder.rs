//! Who listens on a TCP port that we want.
//!
//! Promises: reads `/proc` and nothing else; what cannot be seen — a process of another user, of another container — is
//! said as far as it is known: its user, or nothing.
//! Must never: be asked in a hurry; it looks at every descriptor of every process.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";

/// A listening socket and, if it can be seen, its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The kernel's number of the socket.
    pub inode: u64,
    /// The user who made it.
    pub uid: u32,
    /// Process id and name.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, name)) => write!(f, "{name} (pid {pid})"),
            None => write!(f, "a process of uid {} that we may not look into", self.uid),
        }
    }
}

/// Finds the socket that keeps others from an address; its process is not looked for.
pub fn socket_at(address: SocketAddr) -> Option<Holder> {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|path| {
        let table = fs::read_to_string(path).ok()?;
        table.lines().skip(1).find_map(|line| row(line, address))
    })
}

/// Looks for the process of a socket.
#[must_use]
pub fn with_process(holder: &Holder) -> Holder {
    let wanted = format!("socket:[{}]", holder.inode);
    let holds = |pid: u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut links = descriptors
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        links
            .any(|link| link.as_os_str() == wanted.as_str())
            .then_some(pid)
    };
    let pid = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find_map(holds);
    let process = pid.map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
        (pid, name)
    });
    Holder { process, ..*holder }
}

fn row(line: &str, wanted: SocketAddr) -> Option<Holder> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    let uid = words.nth(3)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = address(ip)?;
    let overlap = ip == wanted.ip() || ip.is_unspecified() || wanted.ip().is_unspecified();
    (state == LISTEN && port == wanted.port() && overlap).then_some(Holder {
        inode,
        uid,
        process: None,
    })
}

/// An address as the kernel prints it: words in its own byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |start: usize| {
        let digits = hex.get(start..start + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listener_of_ours_is_found_with_its_process() {
        for at in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let address = listener.local_addr().unwrap();
            let found = with_process(&socket_at(address).unwrap());
            let (pid, name) = found.process.clone().unwrap();
            assert_eq!(pid, std::process::id(), "{at}");
            assert_eq!(found.to_string(), format!("{name} (pid {pid})"));
            assert_eq!(found.uid, nix::unistd::getuid().as_raw());
            drop(listener);
            // Somebody else may have got the port meanwhile.
            let later = socket_at(address).map(|holder| holder.inode);
            assert_ne!(later, Some(found.inode), "{at}");
        }
    }

    #[test]
    fn one_that_cannot_be_looked_into_is_said_by_its_user() {
        let holder = Holder {
            inode: 0,
            uid: 7,
            process: None,
        };
        assert_eq!(
            with_process(&holder).to_string(),
            "a process of uid 7 that we may not look into"
        );
    }
}
