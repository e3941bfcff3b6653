//! Given the supervisor as process 1 of a process id namespace,
//! when its children leave orphans behind, or it is told to stop,
//! then every orphan is reaped, and it ends inside its budget with the documented code.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::children::{ENDING, ENDING_AGENT};
use super::proc::{self, Process};
use super::rig::{
    Rig, Supervisor, agent, agent_entry, have, lacks, lacks_root, now, wait_for, wait_until,
};

/// Leaves twenty orphans behind, each a second long, and goes on.
const ORPHANS: &str = r"#!/bin/sh
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  ( sleep 1 & )
done
exec sleep 86400
";

/// Does not hear TERM, and neither does what it starts.
pub(super) const DEAF: &str = r#"#!/bin/sh
trap '' TERM
sh -c 'trap "" TERM; while :; do sleep 1; done' &
printf up > deaf
while :; do sleep 1; done
"#;

/// Both must be ended, `unshare` included, or the namespace outlives the test.
struct Init {
    unshare: Supervisor,
    pid: u32,
}

impl Init {
    fn start(rig: &Rig) -> Self {
        let inner = rig.command(&["run"]);
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
            .arg(inner.get_program())
            .args(inner.get_args());
        let unshare = rig.launch(&mut command);
        unshare.answers(rig);
        let pid = wait_for("process 1", || {
            let found = proc::offspring(unshare.pid());
            found
                .iter()
                .find(|it| it.name == "adjutant")
                .map(|it| it.pid)
        });
        Self { unshare, pid }
    }

    fn offspring(&self) -> Vec<Process> {
        proc::offspring(self.pid)
    }
}

fn is_possible() -> bool {
    have(lacks_root().or_else(|| lacks("unshare")))
}

#[test]
fn orphans_are_reaped_even_while_known_children_die_again_and_again() {
    if !is_possible() {
        return;
    }
    let orphans = "  two:\n    profile: generic\n    executable: '{dir}/orphans.sh'\n    config_files: ['{dir}/local.yaml']\n";
    let restart = "    restart: {initial_delay: 10ms, max_delay: 20ms}\n";
    let rig = Rig::new(&format!("{ENDING_AGENT}{restart}{orphans}"));
    rig.program("orphans.sh", ORPHANS);
    rig.program("ending.sh", ENDING);
    rig.write("local.yaml", "mode: local\n");
    let mut init = Init::start(&rig);
    // They are process 1's, and more than the two children that it knows.
    wait_until("orphans", || init.offspring().len() >= 10);
    let bundle = rig.bundle("a: 1");
    let bundle = bundle.to_str().unwrap();
    let done = rig.cli(&["apply", bundle, "--agent", "one", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    rig.write("end", "3\n");
    let pid = rig.agent_status("one").unwrap()["child"]["pid"].as_u64();
    let pid = proc::inside(init.pid, u32::try_from(pid.unwrap()).unwrap()).unwrap();
    proc::send(pid, Signal::SIGKILL);
    wait_until("the end of every orphan", || {
        let crashes = rig.agent_status("one").map(|it| it["crashes"].clone());
        let left = init.offspring();
        let known = left.iter().filter(|it| it.group == it.pid).count();
        crashes.is_some_and(|it| it.as_u64() > Some(10)) && left.len() == known
    });
    // Zombies of the crashing child come and go; none stays.
    let seen: Vec<_> = init
        .offspring()
        .into_iter()
        .filter(|it| it.state == 'Z')
        .collect();
    wait_until("the zombies to be reaped", || {
        let left = init.offspring();
        seen.iter()
            .all(|old| left.iter().all(|new| new.pid != old.pid))
    });
    proc::send(init.pid, Signal::SIGTERM);
    assert_eq!(init.unshare.end().code(), Some(0), "{}", init.unshare.log());
}

#[test]
fn term_stops_everything_in_order_and_ends_with_zero() {
    if !is_possible() {
        return;
    }
    let rig = Rig::new(&format!("{}{}", agent("one", ""), agent_entry("two", "")));
    let mut init = Init::start(&rig);
    for name in ["one", "two"] {
        let bundle = rig.bundle("mode: good");
        let bundle = bundle.to_str().unwrap();
        let done = rig.cli(&["apply", bundle, "--agent", name, "--wait"]);
        assert_eq!(done.code, Some(0), "{}", done.err);
    }
    assert_eq!(rig.children().len(), 2);
    proc::send(init.pid, Signal::SIGTERM);
    assert_eq!(init.unshare.end().code(), Some(0), "{}", init.unshare.log());
    assert_eq!(rig.children(), Vec::<u32>::new());
}

fn deaf() -> Rig {
    let rig = Rig::generic();
    rig.program("deaf.sh", DEAF);
    rig.write("local.yaml", "mode: local\n");
    rig
}

const DEAF_AGENT: &str = "agents:\n  one:\n    profile: generic\n    executable: '{dir}/deaf.sh'\n    config_files: ['{dir}/local.yaml']\n";

/// Settings of the deaf child with other times to stop.
fn stop_in(rig: &Rig, times: &str) {
    rig.set_all(&format!(
        "storage: {{directory: '{{dir}}/state'}}\nhttp: {{listen: []}}\nstop: {times}\n{DEAF_AGENT}"
    ));
}

fn is_deaf(rig: &Rig) {
    wait_until("the deaf child", || {
        rig.agent("one").join("work/deaf").exists()
    });
}

#[test]
fn term_as_process_1_kills_what_does_not_listen_inside_the_budget() {
    if !is_possible() {
        return;
    }
    let rig = deaf();
    stop_in(&rig, "{grace: 500ms, budget: 3s}");
    let mut init = Init::start(&rig);
    is_deaf(&rig);
    let asked = now();
    proc::send(init.pid, Signal::SIGTERM);
    assert_eq!(init.unshare.end().code(), Some(9), "{}", init.unshare.log());
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    // Ten times the budget: the machine may be busy, the default of Docker's patience is not what is measured.
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(proc::marked(rig.path()), Vec::new());
}

#[test]
fn a_second_term_as_process_1_forces() {
    if !is_possible() {
        return;
    }
    let rig = deaf();
    stop_in(&rig, "{grace: 9m, budget: 10m}");
    let mut init = Init::start(&rig);
    is_deaf(&rig);
    proc::send(init.pid, Signal::SIGTERM);
    wait_until("stopping", || {
        rig.status().is_some_and(|it| it["stopping"] == true)
    });
    assert!(init.unshare.ended().is_none());
    proc::send(init.pid, Signal::SIGTERM);
    assert_eq!(init.unshare.end().code(), Some(9), "{}", init.unshare.log());
    assert_eq!(proc::marked(rig.path()), Vec::new());
}

#[test]
fn a_second_term_forces_also_when_not_process_1() {
    let rig = deaf();
    stop_in(&rig, "{grace: 9m, budget: 10m}");
    let mut supervisor = rig.start();
    is_deaf(&rig);
    supervisor.send(Signal::SIGTERM);
    wait_until("stopping", || {
        rig.status().is_some_and(|it| it["stopping"] == true)
    });
    assert!(supervisor.ended().is_none());
    supervisor.send(Signal::SIGTERM);
    assert_eq!(supervisor.end().code(), Some(9), "{}", supervisor.log());
    // Child and grandchild, both.
    assert_eq!(proc::marked(rig.path()), Vec::new());
}

#[test]
fn term_kills_a_deaf_child_and_its_grandchild() {
    let rig = deaf();
    stop_in(&rig, "{grace: 300ms, budget: 3s}");
    let mut supervisor = rig.start();
    is_deaf(&rig);
    wait_until("a grandchild", || proc::marked(rig.path()).len() >= 2);
    supervisor.send(Signal::SIGTERM);
    assert_eq!(supervisor.end().code(), Some(9), "{}", supervisor.log());
    assert_eq!(proc::marked(rig.path()), Vec::new());
}

#[test]
fn interrupt_stops_like_term() {
    let rig = Rig::generic();
    let mut supervisor = rig.start();
    rig.commit("mode: good");
    supervisor.send(Signal::SIGINT);
    assert_eq!(supervisor.end().code(), Some(0), "{}", supervisor.log());
    assert_eq!(rig.children(), Vec::<u32>::new());
}
