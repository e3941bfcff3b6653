//! Whose event it is, where the task that happens to run is somebody else's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use super::rig::{Cgroup, Plane, is};

/// Given a server in a control group of its own,
/// when a client of another group connects over loopback, where the handshake runs in the client's task,
/// then accept and close of the server's end name the server's group, and those of the client's end do not.
#[test]
fn an_accepted_connection_belongs_to_the_group_of_its_socket() {
    let plane = Plane::start("events: [tcp]");
    let group = Cgroup::unified("server");
    let script = "import socket; s = socket.socket(); s.bind((\"127.0.0.1\", 0)); s.listen(); \
                  print(s.getsockname()[1], flush=True); c, _ = s.accept(); c.recv(10); c.close()";
    let mut server = Command::new("/bin/sh")
        .args([
            "-c",
            &group.enter(&format!("/usr/bin/python3 -S -c '{script}'")),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let port: u16 = line.trim().parse().unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"hello").unwrap();
    assert!(server.wait().unwrap().success());
    drop(client);

    let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let ours = ours
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap()
        .to_owned();
    assert_ne!(ours, group.path());
    for name in ["tcp.accept", "tcp.close"] {
        let event = plane.event(name, |event| is(event, "network.local.port", port));
        assert_eq!(
            event["process.linux.cgroup"],
            group.path(),
            "{name}: {event}"
        );
    }
    for name in ["tcp.connect", "tcp.close"] {
        let event = plane.event(name, |event| is(event, "network.peer.port", port));
        assert_eq!(event["process.linux.cgroup"], ours, "{name}: {event}");
        assert_eq!(event["process.pid"], std::process::id(), "{name}: {event}");
    }
    group.remove();
}

/// Given a data plane that runs,
/// when a control group named as a container's comes, runs one short program and is gone,
/// then the program's events name the group and the container.
#[test]
fn a_group_that_is_gone_before_anybody_looks_is_known() {
    let plane = Plane::start("events: [exec, exit]");
    let container = format!("{:064x}", u128::from(std::process::id()) << 64 | 0xfeed);
    let group = Cgroup::unified(&format!("docker-{container}.scope"));
    let mut child = Command::new("/bin/sh")
        .args(["-c", &group.enter("/bin/true")])
        .spawn()
        .unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    group.remove();
    let exec = plane.event("process.exec", |event| {
        is(event, "process.pid", pid) && event["process.executable.name"] == "true"
    });
    assert_eq!(exec["process.linux.cgroup"], group.path());
    assert_eq!(exec["container.id"], container);
    let exit = plane.event("process.exit", |event| is(event, "process.pid", pid));
    assert_eq!(exit["container.id"], container);
}
