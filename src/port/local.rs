//! Serves the OpAMP of the children: on loopback for the Collector's extension, on a Unix socket for our own data
//! plane.
//! Knows bytes, not OpAMP.
//!
//! Promises: bound once, before the first child is started, so that an address never changes under a child; at most
//! [`CONNECTIONS_MAX`] connections per agent and [`MESSAGE_BYTES_MAX`] per message; messages wait for the loop and
//! so push back on the child; each connection that opened is reported closed, even if its task panics. On a Unix
//! socket only our own user, root and the user that the socket was given to get in, and the peer's process id is passed
//! on.
//! Must never: listen beyond loopback, serve a browser, or use a connection's number twice.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt as _;
use opamp_client::transport::{AcceptRules, FrameSender, Pump, PumpConfig, accept};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::LocalLink;
use crate::sys::http::Stream;
use crate::units::{AgentName, RevisionHash};

/// Messages of all children that may wait for the loop; one more waits in its connection.
pub const QUEUE_MAX: usize = 16;
/// Connections of one agent: the running one, the one that replaces it, and room for mistakes.
pub const CONNECTIONS_MAX: usize = 4;
/// Bytes of one message.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The path that is served.
const OPAMP_PATH: &str = "/v1/opamp";
/// The socket in an agent's directory.
const SOCKET: &str = "link.sock";
/// A socket's address holds 108 bytes, the last of them zero.
const SOCKET_PATH_MAX: usize = 107;
/// Mode bits of everybody but the owner.
const OTHERS: u32 = 0o077;
/// For the upgrade request of a child.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as one without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which connection of which agent's child.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalKey {
    /// Whose child it is.
    pub agent: AgentName,
    /// The connection's number.
    pub connection: u64,
}

/// What happened on a connection.
#[derive(Debug)]
pub enum LocalReport {
    /// A child connected; messages to it go to the sender, and dropping that closes the connection.
    Opened {
        /// Bounded; a caller who finds it full drops the connection.
        sender: FrameSender,
        /// The child's process id where the socket tells.
        peer_pid: Option<u32>,
    },
    /// One message from the child.
    Frame(Vec<u8>),
    /// The connection is gone. The last report.
    Closed,
}

/// Where reports go.
pub type LocalReports = mpsc::Sender<(LocalKey, LocalReport)>;

/// A local endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {place} for the local OpAMP of agent {agent}")]
pub struct LocalError {
    /// Whose endpoint.
    pub agent: AgentName,
    /// Address or path.
    pub place: String,
    /// What the system said.
    pub source: io::Error,
}

/// One agent's endpoint, bound.
#[derive(Debug)]
pub struct LocalDoor {
    agent: AgentName,
    listener: Listener,
    link: String,
    port: Option<u16>,
    /// Removed when the door is dropped.
    socket: Option<SocketFile>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have taken the name; ours is gone then.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl LocalDoor {
    /// Binds the endpoint that a profile asks for; none if it asks for none. Needs a running runtime and the lock
    /// of the state directory. `runtime_dir` is the user's directory for sockets, for state directories with long
    /// names.
    ///
    /// # Errors
    /// When the port is taken, or the socket cannot be made.
    pub fn bind(
        agent: &AgentName,
        kind: LocalLink,
        port: u16,
        agent_dir: &Path,
        runtime_dir: Option<&Path>,
    ) -> Result<Option<Self>, LocalError> {
        match kind {
            LocalLink::None => Ok(None),
            LocalLink::Loopback => Self::loopback(agent, port).map(Some),
            LocalLink::Unix => Self::unix(agent, agent_dir, runtime_dir).map(Some),
        }
    }

    fn loopback(agent: &AgentName, port: u16) -> Result<Self, LocalError> {
        let bind = || {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            Ok((TcpListener::from_std(listener)?, port))
        };
        let (listener, port) = bind().map_err(|source| LocalError {
            agent: agent.clone(),
            place: format!("127.0.0.1:{port}"),
            source,
        })?;
        Ok(Self {
            agent: agent.clone(),
            listener: Listener::Tcp(listener),
            link: format!("ws://127.0.0.1:{port}{OPAMP_PATH}"),
            port: Some(port),
            socket: None,
        })
    }

    fn unix(
        agent: &AgentName,
        agent_dir: &Path,
        runtime_dir: Option<&Path>,
    ) -> Result<Self, LocalError> {
        let wanted = agent_dir.join(SOCKET);
        let failed = |path: &Path, source| LocalError {
            agent: agent.clone(),
            place: path.display().to_string(),
            source,
        };
        let path = if wanted.as_os_str().len() <= SOCKET_PATH_MAX {
            wanted
        } else {
            short_path(&wanted, runtime_dir).map_err(|error| failed(&wanted, error))?
        };
        let (listener, inode) = bind_socket(&path).map_err(|error| failed(&path, error))?;
        Ok(Self {
            agent: agent.clone(),
            listener: Listener::Unix(listener),
            link: path.display().to_string(),
            port: None,
            socket: Some(SocketFile { path, inode }),
        })
    }

    /// What tells the child where to connect: a `ws://` URL or a socket's path.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// The loopback port, if it is one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Serves until dropped.
    ///
    /// # Cancel safety
    /// Dropping the future drops every connection and removes the socket.
    pub async fn serve(self, reports: LocalReports) {
        let Self {
            agent,
            listener,
            socket,
            ..
        } = self;
        let own_uid = nix::unistd::geteuid().as_raw();
        let mut connections = JoinSet::new();
        let mut number = 0u64;
        loop {
            // What a connection had to say it has reported itself, also when it panicked.
            while connections.try_join_next().is_some() {}
            let accepted = match &listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    // Small messages that somebody waits for; failing that costs nothing else.
                    stream.set_nodelay(true).ok();
                    Some((Box::new(stream) as Box<dyn Stream + Send>, None))
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let peer = stream.peer_cred().ok()?;
                    let mut owners = [own_uid, 0].into_iter().chain(owner(socket.as_ref()));
                    let known = owners.any(|uid| uid == peer.uid());
                    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
                    known.then_some((Box::new(stream) as Box<dyn Stream + Send>, pid))
                }),
            };
            match accepted {
                Ok(Some((stream, peer_pid))) if connections.len() < CONNECTIONS_MAX => {
                    number = number.saturating_add(1);
                    let key = LocalKey {
                        agent: agent.clone(),
                        connection: number,
                    };
                    connections.spawn_local(connection(key, stream, peer_pid, reports.clone()));
                }
                // A stranger, or one too many: dropping it tells the caller.
                Ok(_) => tracing::debug!(%agent, "local connection refused"),
                Err(error) => {
                    tracing::debug!(%agent, %error, "accept on a local endpoint");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A boxed stream, so that there is one server for both kinds of doors.
async fn connection(
    key: LocalKey,
    stream: Box<dyn Stream + Send>,
    peer_pid: Option<u32>,
    reports: LocalReports,
) {
    let rules = AcceptRules {
        path: Some(OPAMP_PATH.to_owned()),
        allow_origin: false,
        timeout: UPGRADE_TIMEOUT,
        max_message: MESSAGE_BYTES_MAX,
    };
    let connection = match accept(stream, &rules, |_| Ok(())).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(agent = %key.agent, %error, "local connection refused");
            return;
        }
    };
    // No pings: the kernel tells when a process on this host is gone, and a host at rest stays at rest.
    let config = PumpConfig {
        ping_after: Duration::ZERO,
        ..PumpConfig::default()
    };
    let (pump, sender, mut receiver) = Pump::new(connection, config);
    let opened = LocalReport::Opened { sender, peer_pid };
    if reports.send((key.clone(), opened)).await.is_err() {
        return;
    }
    let forward = async {
        while let Some(frame) = receiver.recv().await {
            let report = (key.clone(), LocalReport::Frame(frame));
            if reports.send(report).await.is_err() {
                return;
            }
        }
    };
    let both = futures_util::future::join(pump.run(), forward);
    if AssertUnwindSafe(both).catch_unwind().await.is_err() {
        tracing::error!(agent = %key.agent, "local connection panicked");
    }
    // Nobody listening means that the program ends.
    reports.send((key, LocalReport::Closed)).await.ok();
}

/// Whose the socket is: a child that runs as another user is given its own.
fn owner(socket: Option<&SocketFile>) -> Option<u32> {
    let found = std::fs::symlink_metadata(&socket?.path).ok()?;
    Some(found.uid())
}

/// Binds a socket for our own user only. The directory is private, so that nobody connects before the mode is set, and
/// its lock is held, so that whatever has the name is left over.
fn bind_socket(path: &Path) -> io::Result<(UnixListener, u64)> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            let reason = "something that is not a socket has this name; move it away";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let inode = std::fs::symlink_metadata(path)?.ino();
    Ok((listener, inode))
}

/// A path for a socket whose own would not fit into an address: in the user's runtime directory, else in a private one
/// below `/tmp`. The name is made of the long path, so that it is the same at every start.
fn short_path(wanted: &Path, runtime_dir: Option<&Path>) -> io::Result<PathBuf> {
    let text = wanted.to_string_lossy();
    let hash = RevisionHash::of([(text.as_ref(), "", [].as_slice())]);
    let name = format!("{}.sock", hash.short());
    let uid = nix::unistd::geteuid();
    let directories = [
        runtime_dir.map(|directory| directory.join("adjutant")),
        Some(PathBuf::from(format!("/tmp/adjutant-{uid}"))),
    ];
    let mut last = io::Error::new(
        io::ErrorKind::InvalidInput,
        "the path is too long for a socket",
    );
    for directory in directories.into_iter().flatten() {
        match private_directory(&directory, uid.as_raw()) {
            Ok(()) if directory.join(&name).as_os_str().len() <= SOCKET_PATH_MAX => {
                return Ok(directory.join(&name));
            }
            Ok(()) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes a directory that only we can use, or checks that it is one: `/tmp` is everybody's.
fn private_directory(path: &Path, uid: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = std::fs::symlink_metadata(path)?;
    if found.is_dir() && found.uid() == uid && found.mode() & OTHERS == 0 {
        Ok(())
    } else {
        let reason = format!("{} is not a private directory of ours", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
    }
}

#[cfg(test)]
mod tests;
