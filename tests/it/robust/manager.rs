//! Given a service manager that listens on `NOTIFY_SOCKET`,
//! when the supervisor starts, reloads, freezes and stops,
//! then the manager hears of each in order, is fed only by a loop that turns, and no child knows of it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::proc;
use super::rig::{Rig, Supervisor, agent, now, wait_for};

/// Half of what the manager of these tests gives a loop.
const FED_EVERY: Duration = Duration::from_secs(1);

struct Manager(UnixDatagram);

impl Manager {
    fn listen(rig: &Rig) -> Self {
        let socket = UnixDatagram::bind(rig.path().join("notify")).unwrap();
        Self(socket)
    }

    /// The next datagram, or none within the patience.
    fn within(&self, patience: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The next datagram that is neither a status line nor food.
    fn milestone(&self) -> String {
        wait_for("a milestone", || {
            let heard = self.within(Duration::from_secs(1))?;
            let other = ["STATUS=", "WATCHDOG="];
            (!other.iter().any(|it| heard.starts_with(it))).then_some(heard)
        })
    }

    fn status(&self, holds: &str) {
        wait_for(&format!("a status line with {holds:?}"), || {
            let heard = self.within(Duration::from_secs(1))?;
            (heard.starts_with("STATUS=") && heard.contains(holds)).then_some(())
        });
    }

    fn fed(&self) {
        wait_for("food", || {
            (self.within(Duration::from_secs(1))? == "WATCHDOG=1").then_some(())
        });
    }

    fn forget(&self) {
        while self.within(Duration::from_millis(1)).is_some() {}
    }
}

/// Starts the supervisor as this manager would.
fn start(rig: &Rig, more: &[(&str, &str)]) -> Supervisor {
    let mut command = rig.command(&["run"]);
    command.env("NOTIFY_SOCKET", rig.path().join("notify"));
    command.envs(more.iter().copied());
    rig.launch(&mut command)
}

#[test]
fn a_manager_hears_of_the_start_each_reload_and_the_stop_in_order() {
    let rig = Rig::generic();
    let before = rig.start();
    rig.commit("mode: good");
    assert_eq!(before.stop().code(), Some(0));
    let manager = Manager::listen(&rig);
    let mut supervisor = start(&rig, &[("WATCHDOG_USEC", "60000000")]);

    assert_eq!(manager.milestone(), "READY=1");
    // Ready means: the doors answer and the child is there.
    assert_eq!(rig.ask("GET", "/health/live", None).unwrap().0, 200);
    let child = rig.child();
    let environment = proc::environment(child);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert_eq!(environment.get(name), None, "{name} reached the child");
    }
    manager.status("one: running");

    let broken = "agents:\n  one:\n    profle: generic\n";
    for settings in [agent("one", ""), broken.to_owned()] {
        rig.set(&settings);
        supervisor.send(Signal::SIGHUP);
        let reloading = manager.milestone();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(time.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(manager.milestone(), "READY=1", "also when they are broken");
    }
    assert_eq!(rig.child(), child, "a reload kills nobody");

    supervisor.send(Signal::SIGTERM);
    assert_eq!(manager.milestone(), "STOPPING=1");
    assert_eq!(supervisor.end().code(), Some(0));
}

#[test]
fn a_child_that_cannot_come_up_is_a_reason_and_not_a_failed_start() {
    let rig = Rig::generic();
    let before = rig.start();
    rig.commit("mode: good");
    assert_eq!(before.stop().code(), Some(0));
    rig.program("child.sh", "#!/bin/sh\nexit 3\n");
    let manager = Manager::listen(&rig);
    let supervisor = start(&rig, &[]);
    assert_eq!(manager.milestone(), "READY=1");
    manager.status("one: backing off (the child died with exit code 3");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn only_a_loop_that_turns_feeds_the_watchdog() {
    let rig = Rig::generic();
    let manager = Manager::listen(&rig);
    let supervisor = start(&rig, &[("WATCHDOG_USEC", "2000000")]);
    assert_eq!(manager.milestone(), "READY=1");
    manager.fed();
    for _ in 0..3 {
        let last = now();
        manager.fed();
        let gap = last.elapsed();
        // The manager acts after two seconds; nothing but a very busy machine makes a gap longer than one.
        assert!(gap > FED_EVERY / 2, "fed too often: {gap:?}");
        assert!(gap < FED_EVERY * 2, "fed too late: {gap:?}");
    }
    supervisor.send(Signal::SIGSTOP);
    wait_for("the freeze", || {
        (proc::process(supervisor.pid())?.state == 'T').then_some(())
    });
    manager.forget();
    assert_eq!(manager.within(FED_EVERY * 3), None, "a frozen loop was fed");
    supervisor.send(Signal::SIGCONT);
    manager.fed();
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_socket_that_cannot_be_used_costs_a_line_and_not_the_start() {
    let rig = Rig::generic();
    let mut command = rig.command(&["run"]);
    command.env("NOTIFY_SOCKET", "vsock-stream:2:1");
    let supervisor = rig.launch(&mut command);
    supervisor.answers(&rig);
    supervisor.logs("NOTIFY_SOCKET=vsock-stream:2:1");
    assert_eq!(supervisor.stop().code(), Some(0));
}
