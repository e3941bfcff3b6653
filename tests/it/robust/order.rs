//! Given agents of which one starts after another,
//! when they start, die, are reordered by a HUP and stop,
//! then each waits for those before it and for no longer than it was told to, and a stop goes the other way inside its
//! budget.

use std::fs;

use super::proc;
use super::rig::{Rig, Supervisor, now, wait_until};

/// Writes down when it starts and when it is told to stop. One called `deaf` is not told anything.
const CHILD: &str = r#"#!/bin/sh
echo "start $1" >> {dir}/events
[ "$1" = deaf ] && trap '' TERM || trap 'echo "stop $1" >> {dir}/events; exit 0' TERM
while :; do sleep 0.05; done
"#;

fn entry(name: &str, after: &str, more: &str) -> String {
    format!(
        "  {name}:
    profile: generic
    executable: '{{dir}}/child'
    args: [{name}]
    config_files: ['{{dir}}/local.yaml']
    proof: {{kind: fresh_process, alive_for: 100ms}}
    apply: {{probation: 100ms}}
    health: {{kind: exec, command: [/usr/bin/test, -e, '{{dir}}/{name}.well'], interval: 100ms}}
    start_after: [{after}]
{more}"
    )
}

fn rig(agents: &str) -> Rig {
    let rig = Rig::new(&format!("agents:\n{agents}"));
    let script = CHILD.replace("{dir}", &rig.path().to_string_lossy());
    rig.program("child", &script);
    rig.write("local.yaml", "a: 1\n");
    rig.write("events", "");
    rig
}

fn events(rig: &Rig) -> Vec<String> {
    let text = fs::read_to_string(rig.path().join("events")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn well(rig: &Rig, name: &str) {
    rig.write(&format!("{name}.well"), "");
}

fn until_status(rig: &Rig, name: &str, wanted: &str) {
    wait_until(&format!("{name} to be {wanted}"), || {
        rig.agent_status(name)
            .is_some_and(|it| it["status"] == wanted)
    });
}

fn stop(supervisor: Supervisor) -> (Option<i32>, u128) {
    let begun = now();
    let code = supervisor.stop().code();
    (code, begun.elapsed().as_millis())
}

#[test]
fn three_start_one_after_another_and_stop_the_other_way() {
    let three = [
        entry("top", "middle", ""),
        entry("middle", "base", ""),
        entry("base", "", ""),
    ];
    let rig = rig(&three.concat());
    let supervisor = rig.start();
    wait_until("the first", || events(&rig) == ["start base"]);
    let top = rig.agent_status("top").unwrap();
    assert_eq!(top["status"], "waiting", "{top}");
    assert_eq!(top["last_error"], "starts after middle", "{top}");
    let refused = rig.cli(&["restart", "--agent", "top"]);
    assert_eq!(refused.code, Some(7), "{}", refused.err);
    assert!(
        refused.err.contains("starts after middle"),
        "{}",
        refused.err
    );
    well(&rig, "base");
    wait_until("the second", || {
        events(&rig) == ["start base", "start middle"]
    });
    well(&rig, "middle");
    well(&rig, "top");
    for name in ["base", "middle", "top"] {
        until_status(&rig, name, "running");
    }
    // One that dies touches no other, whoever started after it.
    let pid = |name: &str| {
        rig.agent_status(name).unwrap()["child"]["pid"]
            .as_u64()
            .unwrap()
    };
    let (base, middle, top) = (pid("base"), pid("middle"), pid("top"));
    proc::send(
        u32::try_from(middle).unwrap(),
        nix::sys::signal::Signal::SIGKILL,
    );
    wait_until("a new process of the second", || {
        rig.agent_status("middle")
            .is_some_and(|it| it["child"]["pid"].as_u64().is_some_and(|pid| pid != middle))
    });
    until_status(&rig, "middle", "running");
    assert_eq!((pid("base"), pid("top")), (base, top));
    let (code, _) = stop(supervisor);
    assert_eq!(code, Some(0));
    let events = events(&rig);
    assert_eq!(
        events,
        [
            "start base",
            "start middle",
            "start top",
            "start middle",
            "stop top",
            "stop middle",
            "stop base"
        ]
    );
}

#[test]
fn one_that_never_comes_up_is_waited_for_its_time_and_one_that_is_given_up_not_at_all() {
    let wait = "    start_wait: 1s\n";
    let agents = [
        entry("late", "", ""),
        entry("patient", "late", wait),
        entry("dead", "", "    restart: {give_up_after: 1}\n").replace("{dir}/child", "/bin/false"),
        entry("heir", "dead", "    start_wait: 1h\n"),
    ];
    let rig = rig(&agents.concat());
    let begun = now();
    let supervisor = rig.start();
    wait_until("the patient one", || {
        events(&rig).contains(&"start patient".to_owned())
    });
    assert!(begun.elapsed().as_millis() >= 1_000, "{:?}", events(&rig));
    wait_until("the heir", || {
        events(&rig).contains(&"start heir".to_owned())
    });
    assert_eq!(rig.agent_status("dead").unwrap()["status"], "given up");
    assert_eq!(stop(supervisor).0, Some(0));
}

#[test]
fn a_deaf_dependant_costs_the_others_a_share_of_the_budget_and_no_more() {
    let agents = [entry("deaf", "base", ""), entry("base", "", "")];
    let rig = rig(&agents.concat());
    well(&rig, "base");
    well(&rig, "deaf");
    let supervisor = rig.start();
    until_status(&rig, "deaf", "running");
    let (code, took) = stop(supervisor);
    // It was ended by KILL, which the exit code tells.
    assert_eq!(code, Some(9), "{:?}", events(&rig));
    // The grace of 1 s is a fifth of the budget: so is its share of a slot of 2.5 s.
    assert!((450..5_000).contains(&took), "{took} ms");
    assert_eq!(events(&rig), ["start base", "start deaf", "stop base"]);
}

#[test]
fn a_hup_takes_over_another_order_and_touches_no_child() {
    let there = [entry("one", "two", ""), entry("two", "", "")];
    let rig = rig(&there.concat());
    well(&rig, "one");
    well(&rig, "two");
    let supervisor = rig.start();
    until_status(&rig, "one", "running");
    // The list is written the other way round, too.
    let back = [entry("two", "one", ""), entry("one", "", "")];
    rig.set(&format!("agents:\n{}", back.concat()));
    supervisor.send(nix::sys::signal::Signal::SIGHUP);
    supervisor.logs("settings read again");
    let text = supervisor.log();
    assert!(!text.contains("agent leaves"), "{text}");
    assert_eq!(stop(supervisor).0, Some(0));
    assert_eq!(
        events(&rig),
        ["start two", "start one", "stop two", "stop one"]
    );
}
