//! Start and stop, alone and beside another one, with and without privileges.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::rig::{Plane, eventually, is};

/// Programs, maps and links that a process holds, by what `bpftool` calls them.
fn held(pid: u32) -> BTreeSet<(&'static str, u64)> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .unwrap()
        .flatten()
    {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        // A link's description names its program too.
        let found = [
            ("link", "link_id:"),
            ("map", "map_id:"),
            ("prog", "prog_id:"),
        ];
        if let Some((kind, id)) = found
            .into_iter()
            .find_map(|(kind, name)| Some((kind, number(name)?)))
        {
            held.insert((kind, id));
        }
    }
    held
}

/// Those of them that the kernel still has.
fn left(of: &BTreeSet<(&'static str, u64)>) -> BTreeSet<(&'static str, u64)> {
    let mut left = BTreeSet::new();
    for kind in ["prog", "map", "link"] {
        let shown = Command::new("/usr/sbin/bpftool")
            .args(["--json", kind, "show"])
            .output();
        let shown = shown
            .unwrap_or_else(|error| panic!("run bpftool (tests/setup.sh installs it): {error}"));
        let list: Value = serde_json::from_slice(&shown.stdout).unwrap();
        for one in list.as_array().unwrap() {
            left.insert((kind, one["id"].as_u64().unwrap()));
        }
    }
    left.intersection(of).copied().collect()
}

#[test]
fn start_and_stop_leave_nothing_in_the_kernel() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut plane = Plane::start("");
        let held = held(plane.pid());
        let count = |kind| held.iter().filter(|(of, _)| *of == kind).count();
        assert_eq!((count("prog"), count("link")), (5, 5), "{held:?}");
        assert!(count("map") >= 4, "{held:?}");
        assert_eq!(left(&held), held, "bpftool knows all that is held");
        plane.signal(signal);
        plane.ended();
        eventually("nothing is left", || {
            let left = left(&held);
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{signal}: {left:?}"))
            }
        });
    }
}

#[test]
fn only_the_hooks_that_are_needed_are_taken() {
    let plane = Plane::start("events: [oom]");
    let held = held(plane.pid());
    let links = held.iter().filter(|(kind, _)| *kind == "link").count();
    assert_eq!(
        links, 2,
        "the kill and the making of control groups: {held:?}"
    );
}

#[test]
fn after_the_start_no_thread_has_a_privilege_and_events_go_on() {
    let plane = Plane::start("events: [exec, exit]");
    // The console writes from a thread of its own: one that began after.
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    plane.event("process.exit", |event| is(event, "process.pid", child.id()));
    let mut threads = 0;
    for entry in fs::read_dir(format!("/proc/{}/task", plane.pid()))
        .unwrap()
        .flatten()
    {
        let status = fs::read_to_string(entry.path().join("status")).unwrap();
        threads += 1;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let line = format!("{set}:\t0000000000000000\n");
            assert!(status.contains(&line), "{set}: {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    }
    assert!(threads >= 2, "{threads}");
}

#[test]
fn two_at_the_same_time_do_not_disturb_each_other() {
    let mut first = Plane::start("events: [exec, exit, tcp]");
    let second = Plane::start("events: [exec, exit, tcp]");
    let run = || {
        let mut child = Command::new("/bin/true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    let pid = run();
    for plane in [&first, &second] {
        plane.event("process.exec", |event| is(event, "process.pid", pid));
        plane.event("process.exit", |event| is(event, "process.pid", pid));
    }
    assert_eq!(first.stop().code(), Some(0));
    // The second sees the first end: it is not one of its own.
    second.event("process.exit", |event| {
        is(event, "process.pid", first.pid())
    });
    let pid = run();
    second.event("process.exit", |event| is(event, "process.pid", pid));
}

/// Given a user without privileges,
/// when the data plane starts,
/// then it says what is missing, once, and host metrics go on.
#[test]
fn without_privileges_it_says_what_is_missing_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::with(Plane::as_nobody(dir.path()), "", "");
    plane.says("part unsupported");
    let line = plane
        .log()
        .lines()
        .find(|line| line.contains("part unsupported"))
        .unwrap()
        .to_owned();
    let line: Value = serde_json::from_str(&line).unwrap();
    let wanted = "needs CAP_BPF and CAP_PERFMON; user 65534 lacks CAP_BPF and CAP_PERFMON";
    assert_eq!(line["reason"], wanted);
    assert_eq!(line["part"], "source.k");
    eventually("two readings of the host", || {
        let readings = plane
            .records()
            .iter()
            .filter(|one| one["metric"] == "system.memory.limit")
            .count();
        if readings >= 2 {
            Ok(())
        } else {
            Err(plane.log())
        }
    });
    assert_eq!(
        plane.log().matches("part unsupported").count(),
        1,
        "{}",
        plane.log()
    );
    assert_eq!(plane.stop().code(), Some(0));
    assert!(plane.log().contains("\"closed\":true"), "{}", plane.log());
}

/// Given a user with the two capabilities that are asked for and no others,
/// when the data plane starts,
/// then it attaches everything and has none of them left.
#[test]
fn two_capabilities_are_enough() {
    const GRANTS: &str = "-all,+bpf,+perfmon";
    let dir = tempfile::tempdir().unwrap();
    let program = Plane::as_nobody(dir.path()).get_program().to_owned();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}={GRANTS}"));
    }
    command.arg(program);
    let plane = Plane::with(command, "events: [exec, exit, tcp, oom]", "");
    plane.says("part healthy\",\"part\":\"source.k\"");
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    plane.event("process.exec", |event| is(event, "process.pid", child.id()));
    plane.event("process.exit", |event| is(event, "process.pid", child.id()));
    let status = fs::read_to_string(format!("/proc/{}/status", plane.pid())).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
    assert!(status.contains("Uid:\t65534\t"), "{status}");
}

/// Given a kernel that does not describe its types, one that refuses `bpf()`, and a process that cannot give up its
/// capabilities,
/// when the data plane starts,
/// then each is said in one sentence, and host metrics go on.
#[test]
fn every_other_obstacle_is_named_and_the_rest_goes_on() {
    let program = env!("CARGO_BIN_EXE_adjutant");
    let hidden = format!("mount -t tmpfs none /sys/kernel/btf && exec {program} \"$@\"");
    let refuse = |call: &str| format!("inject={call}:error=EPERM");
    let bpf = refuse("bpf");
    let capset = refuse("capset");
    let strace = |inject| {
        vec![
            "strace",
            "-qq",
            "-f",
            "-o",
            "/dev/null",
            "-e",
            inject,
            program,
        ]
    };
    let cases = [
        (
            vec!["unshare", "--mount", "sh", "-c", &hidden, "sh"],
            "needs a kernel with type information (CONFIG_DEBUG_INFO_BTF): read /sys/kernel/btf/vmlinux: ",
        ),
        (
            strace(&bpf),
            "a seccomp filter, a user namespace or the kernel's lockdown refuses",
        ),
        (
            strace(&capset),
            "give up the capabilities of this process: Operation not permitted",
        ),
    ];
    for (words, wanted) in cases {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let mut plane = Plane::with(command, "", "");
        plane.says("part unsupported");
        let log = plane.log();
        let line = log
            .lines()
            .find(|line| line.contains("part unsupported"))
            .unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains(wanted), "{reason}");
        assert!(reason.len() < 500 && !reason.contains('\n'), "{reason}");
        eventually("a reading of the host", || {
            let found = plane
                .records()
                .iter()
                .any(|one| one["metric"] == "system.memory.limit");
            if found { Ok(()) } else { Err(plane.log()) }
        });
        plane.end_below();
    }
}

/// Given a data plane that runs alone, whose privileges are gone,
/// when a reload asks for other kernel events,
/// then it is refused with the reason and everything goes on; a reload that leaves them alone is applied.
#[test]
fn a_reload_that_needs_new_programs_is_refused_and_says_so() {
    let plane = Plane::start("events: [exec]");
    let text = fs::read_to_string(plane.config()).unwrap();
    super::rig::put(&plane.config(), &text.replace("[exec]", "[exec, exit]"));
    plane.signal(Signal::SIGHUP);
    plane.says("config refused, the last one goes on");
    plane.says("sources of kind kernel change, which needs a restart of the data plane");
    super::rig::put(&plane.config(), &text.replace("500ms", "900ms"));
    plane.signal(Signal::SIGHUP);
    eventually("the second config is applied", || {
        let log = plane.log();
        if log.matches("config applied").count() == 2 {
            Ok(())
        } else {
            Err(log)
        }
    });
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    plane.event("process.exec", |event| is(event, "process.pid", child.id()));
}

/// Given a data plane in a process namespace of its own, where it knows itself by another number than the kernel,
/// when it uploads to a port that refuses, and so does the test,
/// then the test's connection is told and its own are not.
#[test]
fn its_own_doings_are_left_out_in_a_container_too() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = holder.local_addr().unwrap();
    drop(holder);
    // A port that it listens on itself: what comes in there is not told of either.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = free.local_addr().unwrap();
    drop(free);
    let more = format!(
        "  away: {{kind: otlp_http, endpoint: \"http://{door}\", from: [h], interval: 100ms}}\n"
    );
    for contained in [false, true] {
        let command = if contained {
            let mut command = Command::new("unshare");
            command
                .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
                .arg(env!("CARGO_BIN_EXE_adjutant"));
            command
        } else {
            Command::new(env!("CARGO_BIN_EXE_adjutant"))
        };
        let settings = format!("events: [tcp]}}\n  o: {{kind: otlp, listen: \"{own}\"");
        let mut plane = Plane::with(command, &settings, &more);
        plane.says("part healthy\",\"part\":\"source.k\"");
        plane.says("part degraded\",\"part\":\"upload.away\"");
        TcpStream::connect(door).unwrap_err();
        plane.event("tcp.connect_failed", |event| {
            is(event, "network.peer.port", door.port())
                && is(event, "process.pid", std::process::id())
        });
        let others = plane.events("tcp.connect_failed", |event| {
            is(event, "network.peer.port", door.port())
                && !is(event, "process.pid", std::process::id())
        });
        assert_eq!(others, Vec::<Value>::new(), "contained: {contained}");
        plane.says("source started\",\"source\":\"o\"");
        drop(TcpStream::connect(own).unwrap());
        plane.event("tcp.close", |event| {
            is(event, "network.peer.port", own.port())
        });
        let incoming = plane.events("tcp.accept", |event| {
            is(event, "network.local.port", own.port())
        });
        assert_eq!(incoming, Vec::<Value>::new(), "contained: {contained}");
        plane.end_below();
    }
}
