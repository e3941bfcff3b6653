//! Given a supervisor that holds its state directory,
//! when a second one is started, the first one dies, or it gets a HUP,
//! then there is never more than one, the lock is never in the way of a start, and a HUP restarts only what changed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use nix::sys::signal::Signal;

use super::proc;
use super::rig::{Rig, agent, wait_until};

#[test]
fn a_second_supervisor_is_refused_with_the_lock_and_its_holder() {
    let rig = Rig::generic();
    let first = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    symlink(rig.state(), rig.path().join("other")).unwrap();
    let other = rig.path().join("other/../other/.");
    for spelling in [rig.state(), other] {
        let done = rig.cli(&["run", "--state-dir", spelling.to_str().unwrap()]);
        assert_eq!(done.code, Some(4), "{}", done.err);
        let lock = rig.state().canonicalize().unwrap().join("adjutant.lock");
        assert!(done.err.contains(lock.to_str().unwrap()), "{}", done.err);
        let holder = format!("held by process {};", first.pid());
        assert!(done.err.contains(&holder), "{}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    }
    assert_eq!(rig.child(), child);
    assert_eq!(rig.agent_status("one").unwrap()["restarts"], 0);
    assert_eq!(first.stop().code(), Some(0));
}

#[test]
fn after_a_kill_the_next_start_succeeds_at_once_on_the_same_lock() {
    let rig = Rig::generic();
    let lock = rig.state().join("adjutant.lock");
    let supervisor = rig.start();
    rig.commit("mode: good");
    let inode = fs::metadata(&lock).unwrap().ino();
    supervisor.kill();
    for cycle in 0..10 {
        let supervisor = rig.start();
        let pid = rig.child();
        wait_until("the status to name the child", || {
            rig.agent_status("one")
                .is_some_and(|it| it["child"]["pid"] == pid)
        });
        assert_eq!(fs::metadata(&lock).unwrap().ino(), inode, "cycle {cycle}");
        let holder = fs::read_to_string(&lock).unwrap();
        assert_eq!(holder.trim(), supervisor.pid().to_string(), "cycle {cycle}");
        supervisor.kill();
    }
}

#[test]
fn a_pid_left_in_the_lock_blocks_nobody() {
    let rig = Rig::generic();
    // Process 1 lives, and holds nothing here.
    rig.write("state/adjutant.lock", "1\n");
    let supervisor = rig.start();
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_child_left_by_a_kill_is_never_joined_by_a_second_one() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    let left = rig.child();
    supervisor.kill();
    assert!(proc::is_alive(left), "children live on");
    let supervisor = rig.start();
    wait_until("the status to name a child", || {
        rig.agent_status("one").is_some_and(|it| {
            it["child"]["pid"]
                .as_u64()
                .is_some_and(|pid| proc::is_alive(pid.try_into().unwrap()))
        })
    });
    assert_eq!(rig.children().len(), 1);
    assert_eq!(rig.child(), left);
    supervisor.logs("child adopted");
    assert_eq!(supervisor.stop().code(), Some(0));
    assert_eq!(rig.children(), Vec::<u32>::new());
}

#[test]
fn a_hup_with_broken_settings_changes_nothing_and_is_logged() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    rig.set("agents:\n  one:\n    profle: generic\n");
    supervisor.send(Signal::SIGHUP);
    supervisor.logs("settings not taken over, the old ones stay");
    let settings = rig.settings();
    let place = format!("{}:7:5: ", settings.display());
    supervisor.logs(&place);
    supervisor.logs("profile");
    assert_eq!(rig.child(), child);
    // And it goes on. The command line reads the same file, so that has to be right for it.
    rig.set(&agent("one", ""));
    rig.commit("mode: later");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_hup_with_the_same_settings_restarts_nothing() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    // One after the other: signals of one number that wait are one.
    for reading in 1..=3 {
        supervisor.send(Signal::SIGHUP);
        wait_until("the settings to be read", || {
            supervisor.log().matches("settings read again").count() == reading
        });
    }
    // An order that goes through the same loop is answered after whatever the HUP caused.
    let status = rig.agent_status("one").unwrap();
    assert_eq!(status["restarts"], 0, "{status}");
    assert_eq!(rig.child(), child);
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_hup_with_another_environment_restarts_the_child_once() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    let child = rig.child();
    rig.set(&agent("one", "    env: {COLOUR: green}\n"));
    supervisor.send(Signal::SIGHUP);
    wait_until("a child with the new environment", || {
        matches!(rig.children()[..], [only] if only != child
            && proc::environment(only).get("COLOUR").map(String::as_str) == Some("green"))
    });
    let second = rig.child();
    supervisor.send(Signal::SIGHUP);
    wait_until("the second reading", || {
        supervisor.log().matches("settings read again").count() >= 2
    });
    rig.agent_status("one").unwrap();
    assert_eq!(rig.child(), second);
    assert_eq!(
        supervisor.log().matches("child started").count(),
        2,
        "{}",
        supervisor.log()
    );
    assert_eq!(rig.running("one").as_deref(), Some("mode: good"));
    assert_eq!(supervisor.stop().code(), Some(0));
}
