//! Given one agent with a local config file,
//! when the supervisor, its child, or somebody else's hand starts, dies or stops,
//! then exactly one child runs as long as it should, and none afterwards.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Bench;

/// Lives until TERM, which it answers by leaving a word.
const POLITE: &str = "dir=$(dirname \"$0\")
trap 'echo bye > \"$dir/bye\"; exit 0' TERM
while :; do sleep 0.1; done";

#[test]
fn a_child_is_started_from_its_local_config_and_proven() {
    let bench = Bench::generic(POLITE, "");
    let _supervisor = bench.start();
    let child = bench.one_child();
    bench.until("the config is committed", || {
        bench.path("state/agents/a/last-good").exists()
    });
    assert_eq!(bench.text("state/agents/a/current/local.conf"), "local\n");
    assert_eq!(bench.children(), [child]);
}

#[test]
fn a_child_that_dies_is_started_again() {
    let bench = Bench::generic(POLITE, "");
    let _supervisor = bench.start();
    let first = bench.one_child();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    bench.until("another child runs", || {
        bench.children().iter().any(|pid| *pid != first)
    });
    assert_ne!(bench.one_child(), first);
}

#[test]
fn term_stops_child_and_supervisor_in_order() {
    let bench = Bench::generic(POLITE, "");
    let mut supervisor = bench.start();
    bench.one_child();
    bench.until("the config is committed", || {
        bench.path("state/agents/a/last-good").exists()
    });
    supervisor.signal(Signal::SIGTERM);
    let (status, took) = supervisor.ended();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert_eq!(bench.text("bye"), "bye\n");
    assert_eq!(bench.children(), Vec::<i32>::new());
    assert!(!bench.path("state/control.sock").exists());
}

#[test]
fn a_child_that_ignores_term_is_killed_inside_the_budget() {
    let script = "trap '' TERM; touch \"$(dirname \"$0\")/deaf\"; while :; do sleep 0.1; done";
    let bench = Bench::generic(script, "stop: {grace: 1s, budget: 4s}\n");
    let mut supervisor = bench.start();
    bench.one_child();
    bench.until("the child ignores TERM", || bench.path("deaf").exists());
    supervisor.signal(Signal::SIGTERM);
    let (status, took) = supervisor.ended();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(status.code(), Some(9));
    assert_eq!(bench.children(), Vec::<i32>::new());
}

#[test]
fn after_a_kill_the_next_start_goes_on_with_the_one_child() {
    let bench = Bench::generic(POLITE, "");
    let first = bench.start();
    let orphan = bench.one_child();
    bench.until("the config is committed", || {
        bench.path("state/agents/a/last-good").exists()
    });
    first.signal(Signal::SIGKILL);
    // Its lock goes with it; the child stays.
    assert_eq!(bench.children(), [orphan]);
    let mut first = first;
    first.ended();
    let mut second = bench.start();
    bench.until("the next supervisor is up", || {
        bench.text("log").contains("child adopted")
    });
    assert_eq!(bench.one_child(), orphan);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended().0.code(), Some(0));
    assert_eq!(bench.text("bye"), "bye\n");
    assert_eq!(bench.children(), Vec::<i32>::new());
}

#[test]
fn a_second_supervisor_is_told_who_holds_the_state() {
    let bench = Bench::generic(POLITE, "");
    let _supervisor = bench.start();
    let child = bench.one_child();
    let output = bench.command().output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("adjutant.lock: held by process"), "{said}");
    assert_eq!(bench.children(), [child]);
}
