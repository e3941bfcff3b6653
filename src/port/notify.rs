//! Tells the service manager how it goes: the datagrams of systemd's `sd_notify` protocol.
//!
//! Promises: nothing is sent unless `NOTIFY_SOCKET` names a socket; a milestone that the manager does not take at once
//! is sent again; the watchdog is fed by [`Notifier::turn`] alone, which the loop calls once per turn, so that a loop
//! that hangs is a loop that is not fed. At rest the only wake-up is the watchdog's own.
//! Must never: wait for the manager, or hand the socket to a child (their environment is built, not inherited).

use std::collections::VecDeque;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::engine::message::Milestone;
use crate::sys::clock;
use crate::units::Moment;

/// Milestones that may wait for a manager whose queue is full. There are three kinds, and each replaces the last.
const WAITING_MAX: usize = 4;
/// Until a refused datagram is sent again.
const RETRY: Duration = Duration::from_millis(500);
/// Characters of the status line.
const STATUS_MAX: usize = 200;

/// The way to the service manager; silent when there is none.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<Manager>,
    watchdog: Option<Watchdog>,
    status: String,
    waiting: VecDeque<String>,
    retry_at: Option<Moment>,
}

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

/// Wants to be fed at half the time after which the manager would act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watchdog {
    every: Duration,
    next: Moment,
}

/// The manager's socket cannot be used; everything else works without it.
#[derive(Debug, thiserror::Error)]
#[error("use NOTIFY_SOCKET={name}; the service manager will not hear from us")]
pub struct NotifyError {
    name: String,
    source: io::Error,
}

impl Notifier {
    /// Reads what the manager put into the environment. `pid` is ours: a watchdog that is meant for another process
    /// (`WATCHDOG_PID`) is not ours to feed.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` is set and names nothing that datagrams can be sent to.
    pub fn new(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Result<Self, NotifyError> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let manager = Manager::at(&name).map_err(|source| NotifyError { name, source })?;
        Ok(Self {
            manager: Some(manager),
            watchdog: watchdog(&variable, pid),
            ..Self::default()
        })
    }

    /// Tells of a milestone.
    pub fn announce(&mut self, now: Moment, milestone: Milestone) {
        let text = match milestone {
            Milestone::Ready => "READY=1".to_owned(),
            // The manager tells an answer to its own HUP by this time (systemd 253, `Type=notify-reload`).
            Milestone::Reloading => format!(
                "RELOADING=1\nMONOTONIC_USEC={}",
                clock::since_boot().as_micros()
            ),
            Milestone::Stopping => "STOPPING=1".to_owned(),
        };
        if self.manager.is_some() {
            if self.waiting.len() >= WAITING_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back(text);
            self.flush(now);
        }
    }

    /// One turn of the loop: feeds the watchdog when that is due, and tells the status line when it changed.
    pub fn turn(&mut self, now: Moment, status: impl FnOnce() -> String) {
        if self.manager.is_none() {
            return;
        }
        let status = one_line(&status());
        if status != self.status {
            // A line that is lost is replaced by the next change; nobody depends on it.
            drop(self.send(&format!("STATUS={status}")));
            self.status = status;
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        if let Some(watchdog) = self.watchdog
            && watchdog.next <= now
        {
            let wait = match self.send("WATCHDOG=1") {
                Ok(()) => watchdog.every,
                Err(_) => watchdog.every.min(RETRY),
            };
            let next = now.after(wait);
            self.watchdog = Some(Watchdog { next, ..watchdog });
        }
    }

    /// When the next turn is needed at the latest.
    pub fn deadline(&self) -> Option<Moment> {
        let feed = self.watchdog.map(|watchdog| watchdog.next);
        [feed, self.retry_at].into_iter().flatten().min()
    }

    fn flush(&mut self, now: Moment) {
        self.retry_at = None;
        while let Some(text) = self.waiting.front() {
            if self.send(text).is_err() {
                self.retry_at = Some(now.after(RETRY));
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn send(&self, text: &str) -> io::Result<()> {
        let Some(manager) = &self.manager else {
            return Ok(());
        };
        // Not connected: a manager that was executed anew has a new socket of the same name.
        let sent = manager
            .socket
            .send_to_addr(text.as_bytes(), &manager.address);
        sent.map(drop)
    }
}

impl Manager {
    fn at(name: &str) -> io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(hidden) => SocketAddr::from_abstract_name(hidden)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor an abstract socket",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }
}

fn watchdog(variable: &impl Fn(&str) -> Option<String>, pid: u32) -> Option<Watchdog> {
    let meant = match variable("WATCHDOG_PID") {
        Some(text) => text.parse() == Ok(pid),
        None => true,
    };
    let limit: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    let every = Duration::from_micros(limit / 2);
    (meant && !every.is_zero()).then_some(Watchdog {
        every,
        next: Moment::START,
    })
}

/// A status line has no line breaks, or what follows them would be another word of the protocol.
fn one_line(text: &str) -> String {
    let mut clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let short: String = clean.by_ref().take(STATUS_MAX).collect();
    match clean.next() {
        Some(_) => format!("{short}…"),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        move |wanted| {
            let found = pairs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone())
        }
    }

    fn socket(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(length) = socket.recv(&mut buffer) {
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        heard
    }

    fn at(millis: u64) -> Moment {
        Moment::START.after(Duration::from_millis(millis))
    }

    #[test]
    fn milestones_and_the_status_line_reach_the_socket_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = socket(&path);
        let name = path.to_str().unwrap();
        let mut notifier = Notifier::new(variables(&[("NOTIFY_SOCKET", name)]), 7).unwrap();
        notifier.announce(at(0), Milestone::Ready);
        notifier.turn(at(1), || "a: running\nREADY=0".to_owned());
        notifier.turn(at(2), || "a: running\nREADY=0".to_owned());
        notifier.announce(at(3), Milestone::Stopping);
        assert_eq!(
            heard(&manager),
            ["READY=1", "STATUS=a: running READY=0", "STOPPING=1"]
        );
        assert_eq!(notifier.deadline(), None, "at rest nothing wakes us");
    }

    #[test]
    fn a_reload_carries_the_time_by_which_the_manager_tells_it() {
        let name = format!("adjutant-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let hidden = format!("@{name}");
        let before = clock::since_boot();
        let mut notifier = Notifier::new(variables(&[("NOTIFY_SOCKET", &hidden)]), 7).unwrap();
        notifier.announce(at(0), Milestone::Reloading);
        let heard = heard(&manager);
        let time = heard[0]
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        let time = Duration::from_micros(time.parse().unwrap());
        // Microseconds drop what is below them.
        assert!(time + Duration::from_micros(1) > before && time <= clock::since_boot());
    }

    #[test]
    fn the_watchdog_is_fed_by_turns_at_half_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = socket(&path);
        let name = path.to_str().unwrap();
        let set = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "10000000")];
        let mut notifier = Notifier::new(variables(&set), 7).unwrap();
        let status = || String::new();
        let mut fed = Vec::new();
        for second in 0..=20 {
            notifier.turn(at(second * 1000), status);
            fed.extend(heard(&manager).iter().map(|_| second));
        }
        assert_eq!(fed, [0, 5, 10, 15, 20]);
        assert_eq!(notifier.deadline(), Some(at(25_000)));
    }

    #[test]
    fn a_milestone_that_nobody_takes_is_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = path.to_str().unwrap();
        let mut notifier = Notifier::new(variables(&[("NOTIFY_SOCKET", name)]), 7).unwrap();
        notifier.announce(at(0), Milestone::Ready);
        assert_eq!(notifier.deadline(), Some(at(500)));
        let manager = socket(&path);
        notifier.turn(at(499), String::new);
        assert_eq!(heard(&manager), Vec::<String>::new());
        notifier.turn(at(500), String::new);
        assert_eq!(heard(&manager), ["READY=1"]);
        assert_eq!(notifier.deadline(), None);
    }

    #[test]
    fn only_our_own_watchdog_is_fed() {
        let every = |set: &[(&str, &str)]| watchdog(&variables(set), 7).map(|it| it.every);
        let ten = Some(Duration::from_secs(5));
        assert_eq!(every(&[("WATCHDOG_USEC", "10000000")]), ten);
        let named = |pid| [("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", pid)];
        assert_eq!(every(&named("7")), ten);
        assert_eq!(every(&named("8")), None);
        assert_eq!(every(&named("seven")), None);
        assert_eq!(every(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(every(&[("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(every(&[]), None);
    }

    #[test]
    fn a_socket_that_is_none_is_named() {
        let error = Notifier::new(variables(&[("NOTIFY_SOCKET", "vsock:2:9")]), 7).unwrap_err();
        assert!(
            error.to_string().contains("NOTIFY_SOCKET=vsock:2:9"),
            "{error}"
        );
        assert!(Notifier::new(variables(&[]), 7).unwrap().manager.is_none());
    }
}
