//! Given two agents under one supervisor,
//! when one of them dies again and again, or the supervisor stops,
//! then the other never notices, and both are gone after a stop and back after a start.

use super::proc;
use super::rig::{Rig, agent, agent_entry, wait_for, wait_until};

fn two(more: &str) -> Rig {
    let rig = Rig::new(&format!("{}{}", agent("one", more), agent_entry("two", "")));
    rig.write("local.yaml", "mode: local\n");
    rig
}

fn apply(rig: &Rig, name: &str, line: &str) -> super::rig::Done {
    let bundle = rig.write(&format!("bundle-{name}/config.yaml"), &format!("{line}\n"));
    let directory = bundle.parent().unwrap().to_str().unwrap().to_owned();
    rig.cli(&["apply", &directory, "--agent", name, "--wait"])
}

fn pid(rig: &Rig, name: &str) -> u32 {
    wait_for("a child", || {
        let pid = rig.agent_status(name)?["child"]["pid"].as_u64()?;
        Some(pid.try_into().unwrap())
    })
}

#[test]
fn one_that_dies_does_not_touch_the_other() {
    let rig = two("    restart: {initial_delay: 20ms, max_delay: 100ms}\n");
    let supervisor = rig.start();
    for name in ["one", "two"] {
        assert_eq!(apply(&rig, name, "mode: good").code, Some(0));
    }
    let (first, second) = (pid(&rig, "one"), pid(&rig, "two"));
    assert_ne!(first, second);
    let mut victim = first;
    for _ in 0..5 {
        proc::send(victim, nix::sys::signal::Signal::SIGKILL);
        victim = wait_for("another child of the first", || {
            let status = rig.agent_status("one")?;
            let next = u32::try_from(status["child"]["pid"].as_u64()?).unwrap();
            (next != victim).then_some(next)
        });
    }
    assert_eq!(pid(&rig, "two"), second);
    assert!(proc::is_alive(second));
    let status = rig.agent_status("two").unwrap();
    assert_eq!(status["restarts"], 0, "{status}");
    let status = rig.agent_status("one").unwrap();
    assert_eq!(status["crashes"], 5, "{status}");
    assert_eq!(status["last_exit"], "signal 9", "{status}");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_config_that_fails_on_one_leaves_the_other_alone() {
    let rig = two("");
    let supervisor = rig.start();
    for name in ["one", "two"] {
        assert_eq!(apply(&rig, name, "mode: good").code, Some(0));
    }
    let second = pid(&rig, "two");
    let done = apply(&rig, "one", "mode: dies");
    assert_eq!(done.code, Some(10), "{}", done.err);
    assert_eq!(pid(&rig, "two"), second);
    wait_until("the first to be back", || {
        rig.agent_status("one")
            .is_some_and(|it| it["status"] == "running")
    });
    assert_eq!(rig.running("one").as_deref(), Some("mode: good"));
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn an_order_without_a_name_is_refused_when_there_are_two() {
    let rig = two("");
    let supervisor = rig.start();
    let done = rig.cli(&["restart"]);
    assert_eq!(done.code, Some(7), "{}", done.err);
    assert!(
        done.err.contains("one") && done.err.contains("two"),
        "{}",
        done.err
    );
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn both_are_gone_after_a_stop_and_both_are_back_after_a_start() {
    let rig = two("");
    let supervisor = rig.start();
    for name in ["one", "two"] {
        assert_eq!(apply(&rig, name, &format!("mode: {name}")).code, Some(0));
    }
    assert_eq!(rig.children().len(), 2);
    assert_eq!(supervisor.stop().code(), Some(0));
    assert_eq!(rig.children(), Vec::<u32>::new());
    let supervisor = rig.start();
    wait_until("both", || rig.children().len() == 2);
    for name in ["one", "two"] {
        assert_eq!(rig.current(name).unwrap(), format!("mode: {name}"));
    }
    supervisor.kill();
    let supervisor = rig.start();
    for name in ["one", "two"] {
        wait_until("a child that is ours", || {
            let found = rig
                .agent_status(name)
                .and_then(|it| it["child"]["pid"].as_u64());
            found.is_some_and(|pid| proc::is_alive(pid.try_into().unwrap()))
        });
    }
    assert_eq!(rig.children().len(), 2);
    assert_eq!(supervisor.stop().code(), Some(0));
}
