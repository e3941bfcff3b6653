//! The records of the kernel programs, byte for byte as `ebpf/event.h` lays them out.
//!
//! Promises: sizes are asserted here as there, and a test compares every offset with the type information inside the
//! compiled object; a record that is short, of another version or of an unknown kind is refused and not guessed at.
//! Must never: look at anything but the bytes it is given.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of the layout; both sides must agree.
const VERSION: u8 = 1;

const COMM_BYTES: usize = 16;
const PATH_BYTES: usize = 128;
const ARGS_BYTES: usize = 256;
const CGROUP_PATH_BYTES: usize = 256;
const ADDRESS_BYTES: usize = 16;

/// Rows and columns of the table of counters.
pub(super) const COUNT_ROWS: usize = 256;
pub(super) const COUNT_COLUMNS: usize = 32;
pub(super) const COLUMN_UNTRACKED: usize = 0;
pub(super) const COLUMN_LOST: usize = 16;

const AF_INET: u16 = 2;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A process runs another program.
    Exec,
    /// A process ended.
    Exit,
    /// A connection we started stands.
    Connect,
    /// One does not.
    ConnectFailed,
    /// A connection somebody else started stands.
    Accept,
    /// A connection is over.
    Close,
    /// The kernel kills a process for its memory.
    OomKill,
    /// A control group was made.
    Cgroup,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; 8] = [
        Self::Exec,
        Self::Exit,
        Self::Connect,
        Self::ConnectFailed,
        Self::Accept,
        Self::Close,
        Self::OomKill,
        Self::Cgroup,
    ];

    /// The number on the wire.
    pub(crate) const fn number(self) -> usize {
        self as usize + 1
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.number() == usize::from(number))
    }
}

#[repr(C)]
struct Head {
    version: u8,
    kind: u8,
    bytes: u16,
    pid: u32,
    time_ns: u64,
    cgroup_id: u64,
    parent_pid: u32,
    uid: u32,
    comm: [u8; COMM_BYTES],
}

#[repr(C)]
struct ExecEvent {
    head: Head,
    args_total: u32,
    args_bytes: u32,
    path: [u8; PATH_BYTES],
    args: [u8; ARGS_BYTES],
}

#[repr(C)]
struct ExitEvent {
    head: Head,
    lifetime_ns: u64,
    status: u32,
    padding: u32,
}

#[repr(C)]
struct TcpEvent {
    head: Head,
    family: u16,
    local_port: u16,
    peer_port: u16,
    accepted: u8,
    padding: u8,
    netns: u32,
    error: u32,
    local: [u8; ADDRESS_BYTES],
    peer: [u8; ADDRESS_BYTES],
    duration_ns: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

#[repr(C)]
struct OomEvent {
    head: Head,
    score_adj: i32,
    padding: u32,
}

#[repr(C)]
struct CgroupEvent {
    head: Head,
    path: [u8; CGROUP_PATH_BYTES],
}

const _: () = {
    assert!(size_of::<Head>() == 48);
    assert!(size_of::<ExecEvent>() == 440);
    assert!(size_of::<ExitEvent>() == 64);
    assert!(size_of::<TcpEvent>() == 120);
    assert!(size_of::<OomEvent>() == 56);
    assert!(size_of::<CgroupEvent>() == 304);
};

/// One record of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: Kind,
    /// When, on the clock that counts from boot.
    pub(crate) time_ns: u64,
    /// The process, if it is known for sure.
    pub(crate) pid: Option<u32>,
    /// Its parent.
    pub(crate) parent_pid: Option<u32>,
    /// Its user.
    pub(crate) uid: u32,
    /// Its short name; empty when it is not known.
    pub(crate) comm: String,
    /// Inode of the control group; 0 when unknown.
    pub(crate) cgroup_id: u64,
    /// The rest.
    pub(crate) detail: Detail,
}

/// What only some kinds have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Of [`Kind::Exec`].
    Exec {
        /// The file as it was named.
        path: String,
        /// The command line, if it was asked for.
        args: Vec<String>,
        /// Whether more of it did not fit.
        cut: bool,
    },
    /// Of [`Kind::Exit`].
    Exit {
        /// As `wait` tells.
        status: u32,
        /// From fork to end.
        lifetime_ns: u64,
    },
    /// Of the four kinds of TCP.
    Tcp(Tcp),
    /// Of [`Kind::OomKill`].
    OomKill {
        /// What the process was adjusted by.
        score_adj: i32,
    },
    /// Of [`Kind::Cgroup`]: the directory below the root of the hierarchy; none if it did not fit.
    Cgroup(Option<String>),
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tcp {
    /// Our end; IPv4 inside IPv6 is IPv4.
    pub(crate) local: IpAddr,
    /// Its port, if one was chosen yet.
    pub(crate) local_port: Option<u16>,
    /// The other end.
    pub(crate) peer: IpAddr,
    /// Its port.
    pub(crate) peer_port: u16,
    /// Whether the other end started it.
    pub(crate) accepted: bool,
    /// Inode of the network namespace.
    pub(crate) netns: u32,
    /// An errno; 0 when nothing went wrong.
    pub(crate) error: u32,
    /// Of the handshake, or of the connection.
    pub(crate) duration_ns: u64,
    /// Of payload, each byte once.
    pub(crate) sent_bytes: u64,
    /// Of payload.
    pub(crate) received_bytes: u64,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of {bytes} bytes, version {version}, kind {kind} is none of ours")]
pub(crate) struct LayoutError {
    bytes: usize,
    version: u8,
    kind: u8,
}

/// Reads one record.
///
/// # Errors
/// It is not of this layout.
pub(crate) fn decode(record: &[u8]) -> Result<Event, LayoutError> {
    let version = record.first().copied().unwrap_or(0);
    let number = record.get(1).copied().unwrap_or(0);
    let fields = Fields(record);
    let event = || {
        let kind = Kind::of(number).filter(|_| version == VERSION)?;
        let detail = fields.detail(kind)?;
        let nonzero = |number: u32| (number != 0).then_some(number);
        Some(Event {
            kind,
            time_ns: fields.u64(offset_of!(Head, time_ns))?,
            pid: nonzero(fields.u32(offset_of!(Head, pid))?),
            parent_pid: nonzero(fields.u32(offset_of!(Head, parent_pid))?),
            uid: fields.u32(offset_of!(Head, uid))?,
            comm: fields.text(offset_of!(Head, comm), COMM_BYTES)?,
            cgroup_id: fields.u64(offset_of!(Head, cgroup_id))?,
            detail,
        })
    };
    event().ok_or(LayoutError {
        bytes: record.len(),
        version,
        kind: number,
    })
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset + N)?.try_into().ok()
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_ne_bytes)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_ne_bytes)
    }

    fn u16(&self, offset: usize) -> Option<u16> {
        self.bytes(offset).map(u16::from_ne_bytes)
    }

    /// Text up to its zero.
    fn text(&self, offset: usize, max: usize) -> Option<String> {
        let bytes = self.0.get(offset..offset + max)?;
        let text = bytes.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn detail(&self, kind: Kind) -> Option<Detail> {
        let bytes = match kind {
            Kind::Exec => size_of::<ExecEvent>(),
            Kind::Exit => size_of::<ExitEvent>(),
            Kind::Connect | Kind::ConnectFailed | Kind::Accept | Kind::Close => {
                size_of::<TcpEvent>()
            }
            Kind::OomKill => size_of::<OomEvent>(),
            Kind::Cgroup => size_of::<CgroupEvent>(),
        };
        let said = self.u16(offset_of!(Head, bytes))?;
        if self.0.len() < bytes || usize::from(said) != bytes {
            return None;
        }
        Some(match kind {
            Kind::Exec => self.exec()?,
            Kind::Exit => Detail::Exit {
                status: self.u32(offset_of!(ExitEvent, status))?,
                lifetime_ns: self.u64(offset_of!(ExitEvent, lifetime_ns))?,
            },
            Kind::Connect | Kind::ConnectFailed | Kind::Accept | Kind::Close => {
                Detail::Tcp(self.tcp()?)
            }
            Kind::OomKill => Detail::OomKill {
                score_adj: self
                    .bytes(offset_of!(OomEvent, score_adj))
                    .map(i32::from_ne_bytes)?,
            },
            Kind::Cgroup => {
                let path = self.text(offset_of!(CgroupEvent, path), CGROUP_PATH_BYTES)?;
                // The kernel ends what it cuts, so a text that fills its place may be the beginning of a longer one.
                let whole = !path.is_empty() && path.len() < CGROUP_PATH_BYTES - 1;
                Detail::Cgroup(whole.then_some(path))
            }
        })
    }

    fn exec(&self) -> Option<Detail> {
        let total = self.u32(offset_of!(ExecEvent, args_total))?;
        let read = self.u32(offset_of!(ExecEvent, args_bytes))?;
        let from = offset_of!(ExecEvent, args);
        let length = usize::try_from(read).ok()?.min(ARGS_BYTES);
        let args = self.0.get(from..from + length)?;
        let args = match args.strip_suffix(&[0]) {
            Some(whole) => whole,
            None => args,
        };
        let words = args.split(|byte| *byte == 0);
        Some(Detail::Exec {
            path: self.text(offset_of!(ExecEvent, path), PATH_BYTES)?,
            args: if args.is_empty() {
                Vec::new()
            } else {
                words
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect()
            },
            cut: total > read,
        })
    }

    fn tcp(&self) -> Option<Tcp> {
        let v4 = self.u16(offset_of!(TcpEvent, family))? == AF_INET;
        let address = |offset| {
            if v4 {
                let bytes: [u8; 4] = self.bytes(offset)?;
                Some(IpAddr::from(Ipv4Addr::from(bytes)))
            } else {
                let bytes: [u8; 16] = self.bytes(offset)?;
                Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
            }
        };
        let local_port = self.u16(offset_of!(TcpEvent, local_port))?;
        let [accepted] = self.bytes(offset_of!(TcpEvent, accepted))?;
        Some(Tcp {
            local: address(offset_of!(TcpEvent, local))?,
            local_port: (local_port != 0).then_some(local_port),
            peer: address(offset_of!(TcpEvent, peer))?,
            peer_port: self.u16(offset_of!(TcpEvent, peer_port))?,
            accepted: accepted != 0,
            netns: self.u32(offset_of!(TcpEvent, netns))?,
            error: self.u32(offset_of!(TcpEvent, error))?,
            duration_ns: self.u64(offset_of!(TcpEvent, duration_ns))?,
            sent_bytes: self.u64(offset_of!(TcpEvent, sent_bytes))?,
            received_bytes: self.u64(offset_of!(TcpEvent, received_bytes))?,
        })
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Where the structures have their members.

    use std::mem::offset_of;

    use super::{CgroupEvent, ExecEvent, ExitEvent, Head, OomEvent, TcpEvent};

    type Members = Vec<(&'static str, usize)>;

    macro_rules! members {
        ($type:ty: $($member:ident)*) => {
            vec![$((stringify!($member), offset_of!($type, $member))),*]
        };
    }

    /// The structures by the names they have in C.
    pub(in crate::dataplane::ebpf) fn offsets() -> Vec<(&'static str, Members)> {
        vec![
            (
                "event_head",
                members!(Head: version kind bytes pid time_ns cgroup_id parent_pid uid comm),
            ),
            (
                "exec_event",
                members!(ExecEvent: head args_total args_bytes path args),
            ),
            (
                "exit_event",
                members!(ExitEvent: head lifetime_ns status padding),
            ),
            (
                "tcp_event",
                members!(TcpEvent: head family local_port peer_port accepted padding netns error
                    local peer duration_ns sent_bytes received_bytes),
            ),
            ("oom_event", members!(OomEvent: head score_adj padding)),
            ("cgroup_event", members!(CgroupEvent: head path)),
        ]
    }
}
