//! Given a supervisor that takes over a new pair; when it is killed at any system call of the way, on the thread that
//! writes pairs or on the one that speaks to the authority; then whoever reads the stable path finds a whole pair at
//! every moment, and the next start carries on.

use std::fs;

use super::super::rig::{Rig, agent, wait_for};
use super::super::tracer::{Fault, Thread, Tracer};
use super::authority::{self, Authority};
use super::{live, read_pair, until_live, web};

/// More than any renewal makes of one call.
const CALLS_MAX: usize = 60;

/// Renews and kills at the first, second, … of `calls`, until a renewal comes through. Answers how many kills there
/// were.
fn kill_at_each(rig: &Rig, thread: Thread, calls: &'static str) -> usize {
    for nth in 1..CALLS_MAX {
        let mut supervisor = rig.start();
        let before = until_live(rig);
        let pair = read_pair(rig).unwrap();
        let tracer = Tracer::attach(rig, supervisor.pid(), thread, &Fault::kill(calls, nth));
        // The supervisor may die before it answers.
        rig.ask(
            "POST",
            "/v1/certificates/renew",
            Some(&serde_json::json!({})),
        );
        let survived = wait_for("the kill, or the end of the renewal", || {
            // Whole at every look, whatever happens meanwhile.
            read_pair(rig).expect("a pair was live before");
            if supervisor.ended().is_some() {
                return Some(false);
            }
            let renewed = web(rig)?["serial"] != before["serial"];
            renewed.then_some(true)
        });
        drop(tracer);
        // What is tidied up after a renewal may have met the call before the tracer let go.
        let lives = survived && supervisor.lives(rig);
        let found = read_pair(rig).unwrap();
        if lives {
            assert_eq!(supervisor.stop().code(), Some(0));
            return nth - 1;
        }
        supervisor.end();
        let next = rig.start();
        let after = until_live(rig);
        if found == pair {
            // Not there yet: one more order, and it is.
            let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
            assert_eq!(done.code, Some(0), "killed at {calls} {nth}: {}", done.err);
            assert_ne!(web(rig).unwrap()["serial"], before["serial"]);
        } else {
            assert_ne!(after["serial"], before["serial"], "killed at {calls} {nth}");
        }
        assert_eq!(next.stop().code(), Some(0));
        no_litter(rig, calls, nth);
    }
    panic!("{calls} was met more than {CALLS_MAX} times");
}

/// After a renewal that came through nothing half-made is left.
fn no_litter(rig: &Rig, calls: &str, nth: usize) {
    let directory = live(rig).parent().unwrap().to_owned();
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_str().unwrap();
        assert!(
            !name.starts_with('.'),
            "killed at {calls} {nth}: {name} is left"
        );
    }
}

fn rig() -> (Rig, Authority) {
    let rig = Rig::generic();
    let mut authority = Authority::new(&rig);
    rig.set(&format!(
        "{}{}",
        agent("one", ""),
        authority.settings("domains: [a.test]")
    ));
    authority.start();
    (rig, authority)
}

#[test]
fn a_kill_at_any_write_of_a_pair_shows_a_whole_one() {
    if !authority::is_there() || !Tracer::is_there() {
        return;
    }
    let (rig, _authority) = rig();
    let mut kills = 0;
    for calls in [
        "mkdir", "write", "fsync", "rename", "symlink", "unlink", "rmdir",
    ] {
        kills += kill_at_each(&rig, Thread::Certificates, calls);
    }
    assert!(kills >= 12, "{kills} kills");
}

#[test]
fn a_kill_while_the_authority_is_asked_is_carried_on() {
    if !authority::is_there() || !Tracer::is_there() {
        return;
    }
    let (rig, authority) = rig();
    let kills = kill_at_each(&rig, Thread::Main, "connect");
    assert!(kills >= 5, "{kills} kills");
    assert!(authority.issued() >= 2);
}
