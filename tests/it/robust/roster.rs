//! Given a supervisor with an agent that runs,
//! when agents are added to its settings or removed from them and it gets a HUP,
//! then it starts the new one in its turn and stops the removed one in order, with a goodbye, and the child of the one
//! that stays notices nothing; what cannot be added is named, and what was removed goes on where it was when it comes
//! again.

use std::fs;

use nix::sys::signal::Signal;

use super::proc;
use super::rig::{Rig, Supervisor, agent_entry, wait_for, wait_until};
use crate::fleet::{Kind, Server};

const LOCAL: &str = "    config_files: ['{dir}/local.yaml']\n";

fn rig(agents: &[String]) -> Rig {
    let rig = Rig::new(&format!("agents:\n{}", agents.concat()));
    rig.write("local.yaml", "mode: local\n");
    rig
}

/// Writes other agents into the settings and has them read.
fn reread(rig: &Rig, supervisor: &Supervisor, head: &str, agents: &[String]) {
    let before = supervisor.log().matches("settings read again").count();
    rig.set(&format!("{head}agents:\n{}", agents.concat()));
    supervisor.send(Signal::SIGHUP);
    wait_until("the settings read again", || {
        supervisor.log().matches("settings read again").count() > before
    });
}

fn runs(rig: &Rig, name: &str) -> u32 {
    wait_for(&format!("{name} to run its config"), || {
        let agent = rig.agent_status(name)?;
        let well = agent["healthy"] == true && agent["phase"] == "committed";
        let pid = agent["child"]["pid"].as_u64().filter(|_| well)?;
        Some(pid.try_into().unwrap())
    })
}

fn is_gone(rig: &Rig, name: &str) {
    wait_until(&format!("{name} to be gone"), || {
        rig.status().is_some() && rig.agent_status(name).is_none()
    });
}

#[test]
fn an_agent_that_is_added_starts_and_one_that_is_removed_ends_and_the_other_stays() {
    let one = agent_entry("one", LOCAL);
    let two = agent_entry("two", &format!("{LOCAL}    start_after: [one]\n"));
    let rig = rig(std::slice::from_ref(&one));
    let supervisor = rig.start();
    let first = runs(&rig, "one");
    let starts = |name: &str| {
        let status = rig.agent_status(name).unwrap();
        (status["restarts"].clone(), status["crashes"].clone())
    };
    let before = starts("one");

    reread(&rig, &supervisor, "", &[two.clone(), one.clone()]);
    let second = runs(&rig, "two");
    assert_eq!(runs(&rig, "one"), first);
    let status = rig.status().unwrap();
    let names = status["agents"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|agent| agent["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["two", "one"], "as the settings have them");
    let uid = rig.agent_status("two").unwrap()["instance_uid"].clone();
    let revision = rig.agent_status("two").unwrap()["current"]["id"].clone();

    reread(&rig, &supervisor, "", std::slice::from_ref(&one));
    is_gone(&rig, "two");
    assert!(!proc::is_alive(second));
    assert_eq!(runs(&rig, "one"), first);
    let kept = rig.agent("two").join("current");
    assert!(kept.exists(), "its state stays");
    supervisor.logs("agent left");
    assert!(
        supervisor
            .log()
            .contains(rig.agent("two").to_str().unwrap())
    );
    let refused = rig.cli(&["restart", "--agent", "two"]);
    assert!(
        refused.err.contains("no agent is named two"),
        "{}",
        refused.err
    );

    // It comes again as whom it was, with what it ran.
    reread(&rig, &supervisor, "", &[one.clone(), two]);
    let third = runs(&rig, "two");
    assert_ne!(third, second);
    let again = rig.agent_status("two").unwrap();
    assert_eq!(
        (&again["instance_uid"], &again["current"]["id"]),
        (&uid, &revision)
    );
    assert_eq!((runs(&rig, "one"), starts("one")), (first, before));
    // And is served by its writer as any other.
    let bundle = rig.write("bundle-two/config.yaml", "mode: applied\n");
    let directory = bundle.parent().unwrap().to_str().unwrap().to_owned();
    let done = rig.cli(&["apply", &directory, "--agent", "two", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(rig.running("two").as_deref(), Some("mode: applied"));

    assert_eq!(supervisor.stop().code(), Some(0));
    assert_eq!(rig.children(), Vec::<u32>::new());
}

#[test]
fn settings_with_a_circle_or_a_wrong_key_leave_every_agent_as_it_is() {
    let one = agent_entry("one", LOCAL);
    let rig = rig(&[one]);
    let supervisor = rig.start();
    let first = runs(&rig, "one");
    let circle = [
        agent_entry("one", &format!("{LOCAL}    start_after: [two]\n")),
        agent_entry("two", &format!("{LOCAL}    start_after: [one]\n")),
    ];
    rig.set(&format!("agents:\n{}", circle.concat()));
    supervisor.send(Signal::SIGHUP);
    supervisor.logs("settings not taken over, the old ones stay");
    assert!(
        supervisor.log().contains("a circle"),
        "{}",
        supervisor.log()
    );
    assert_eq!(runs(&rig, "one"), first);
    assert!(rig.agent_status("two").is_none());
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn an_agent_that_cannot_join_is_named_and_joins_by_the_next_hup() {
    let one = agent_entry("one", LOCAL);
    let two = agent_entry("two", LOCAL);
    let rig = rig(std::slice::from_ref(&one));
    let supervisor = rig.start();
    let first = runs(&rig, "one");
    // A file where its directory would be.
    let place = rig.agent("two");
    fs::File::create(&place).unwrap();
    reread(&rig, &supervisor, "", &[one.clone(), two.clone()]);
    supervisor.logs("agent cannot join");
    assert!(rig.agent_status("two").is_none());
    fs::remove_file(&place).unwrap();
    reread(&rig, &supervisor, "", &[one, two]);
    runs(&rig, "two");
    assert_eq!(runs(&rig, "one"), first);
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn the_server_meets_the_agent_that_joins_and_is_told_goodbye_by_the_one_that_leaves() {
    let server = Server::start(Kind::OpampGo, 0);
    let head = format!("server: {{endpoint: '{}'}}\n", server.endpoint());
    let one = agent_entry("one", LOCAL);
    let two = agent_entry("two", LOCAL);
    let rig = rig(&[]);
    rig.set(&format!("{head}agents:\n{one}"));
    let supervisor = rig.start();
    let first = runs(&rig, "one");
    reread(&rig, &supervisor, &head, &[one.clone(), two]);
    runs(&rig, "two");
    let uid = |name: &str| {
        let status = rig.agent_status(name).unwrap();
        status["instance_uid"].as_str().unwrap().to_owned()
    };
    let (stays, goes) = (uid("one"), uid("two"));
    let known = |uid: &str, what: &str| server.known(uid).is_ok_and(|agent| agent[what] == true);
    let connected = |uid: &str| known(uid, "connected");
    wait_until("both at the server", || {
        connected(&stays) && connected(&goes)
    });
    reread(&rig, &supervisor, &head, &[one]);
    is_gone(&rig, "two");
    wait_until("a goodbye", || {
        !connected(&goes) && known(&goes, "agent_disconnect")
    });
    assert!(connected(&stays));
    assert_eq!(runs(&rig, "one"), first);
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_child_whose_agent_is_not_named_any_more_is_told_of_at_the_next_start() {
    let one = agent_entry("one", LOCAL);
    let two = agent_entry("two", LOCAL);
    let rig = rig(&[one.clone(), two]);
    let supervisor = rig.start();
    runs(&rig, "one");
    let second = runs(&rig, "two");
    supervisor.kill();
    rig.set(&format!("agents:\n{one}"));
    let supervisor = rig.start();
    supervisor.logs("child of an agent that the settings do not name");
    assert!(supervisor.log().contains(&second.to_string()));
    assert!(proc::is_alive(second), "only a person ends it");
    assert_eq!(supervisor.stop().code(), Some(0));
}
