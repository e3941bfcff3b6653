//! Given a supervisor in the middle of a rollout,
//! when it is killed at any system call that changes the disk or starts a process,
//! then the next start finishes or undoes the rollout: `current` never dangles, exactly one child runs what `current`
//! holds, and the status says the same as the disk.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::proc;
use super::rig::{Rig, agent, wait_for, wait_saying, wait_until};
use super::tracer::{Fault, Thread, Tracer};

/// More than any rollout makes of one call; a loop that gets here does not end.
const CALLS_MAX: usize = 60;

/// The links of an agent name complete revisions. Only before the first commit may they be missing.
pub(super) fn links_resolve(rig: &Rig, committed: bool, context: &str) {
    for name in ["current", "last-good"] {
        let link = rig.agent("one").join(name);
        if committed || fs::symlink_metadata(&link).is_ok() {
            let manifest = link.join("manifest.json");
            assert!(manifest.exists(), "{context}: {name} dangles");
        }
    }
}

/// The agent's status where nothing is under way: the last transaction is over and a child runs.
fn at_rest(agent: &Value) -> bool {
    let idle = ["idle", "committed", "rolled back", "failed"];
    agent["history"][0]["over"] == true
        && idle.iter().any(|phase| agent["phase"] == **phase)
        && agent["status"] == "running"
        && agent["healthy"] == true
}

/// Waits until nothing is under way.
pub(super) fn settled(rig: &Rig) -> Value {
    let last = RefCell::new(None);
    let what = || format!("a settled agent, its last status: {:?}", last.borrow());
    wait_saying(what, || {
        let agent = rig.agent_status("one");
        last.borrow_mut().clone_from(&agent);
        agent.filter(at_rest)
    })
}

/// Links, processes and report agree; answers the status and what `current` is.
pub(super) fn runs_what_it_says(rig: &Rig, context: &str) -> (Value, String) {
    let status = settled(rig);
    links_resolve(rig, false, context);
    let pid = rig.child();
    assert_eq!(status["child"]["pid"], pid, "{context}: {status}");
    let target = fs::read_link(rig.agent("one").join("current")).unwrap();
    let current = target.file_name().unwrap().to_str().unwrap();
    assert_eq!(status["current"]["id"], current, "{context}: {status}");
    (status, current.to_owned())
}

/// The last record of the journal that is whole.
fn last_record(rig: &Rig) -> Option<Value> {
    let journal = fs::read_to_string(rig.agent("one").join("journal")).unwrap();
    let last = journal.lines().last()?;
    serde_json::from_str(last).ok()
}

/// The journal's last step is the one of the status.
pub(super) fn is_recorded(rig: &Rig) -> bool {
    let status = rig.agent_status("one");
    last_record(rig)
        .zip(status)
        .is_some_and(|(last, status)| last["step"] == status["history"][0]["step"])
}

/// Disk, processes and report agree.
pub(super) fn agrees(rig: &Rig, context: &str) {
    let (status, current) = runs_what_it_says(rig, context);
    // The status tells of a step before it is on the disk.
    wait_until(&format!("a record: {context}"), || is_recorded(rig));
    let last = last_record(rig).unwrap();
    if last["step"] == "committed" {
        assert_eq!(last["revision"], current.as_str(), "{context}");
        assert_eq!(status["last_good"], current.as_str(), "{context}: {status}");
    }
}

/// Kills the supervisor at the first, second, … of `calls` during a rollout each, until a rollout comes through without
/// meeting one. Answers how many kills there were.
fn kill_at_each(
    rig: &Rig,
    thread: Thread,
    calls: &'static str,
    offer: impl Fn(usize),
    check: impl Fn(&str),
) -> usize {
    for nth in 1..CALLS_MAX {
        let context = format!("killed at {calls} number {nth} of {thread:?}");
        let mut supervisor = rig.start();
        settled(rig);
        let before = rig.status().unwrap()["agents"][0]["history"][0]["transaction"].clone();
        let tracer = Tracer::attach(rig, supervisor.pid(), thread, &Fault::kill(calls, nth));
        offer(nth);
        let survived = wait_for("the kill, or the end of the rollout", || {
            if supervisor.ended().is_some() {
                return Some(false);
            }
            let agent = rig.agent_status("one")?;
            let last = &agent["history"][0];
            // Pruning comes after the last record, so the answer to the record is not enough.
            (last["transaction"] != before && last["over"] == true && agent["phase"] == "committed")
                .then_some(true)
        });
        drop(tracer);
        links_resolve(rig, true, &context);
        // What is tidied up after the last record may have met the call before the tracer let go.
        if survived && supervisor.lives(rig) {
            agrees(rig, &context);
            check(&context);
            assert_eq!(supervisor.stop().code(), Some(0));
            return nth - 1;
        }
        supervisor.end();
        let next = rig.start();
        agrees(rig, &context);
        check(&context);
        assert_eq!(next.stop().code(), Some(0), "{context}");
        wait_until("no child", || rig.children().is_empty());
    }
    panic!("{calls} was met more than {CALLS_MAX} times");
}

/// An offer is taken, or the supervisor died before it could say so.
fn take(answer: Option<(u16, Value)>) {
    if let Some((code, body)) = answer {
        assert_eq!(code, 202, "{body}");
    }
}

/// The loop for a program that is restarted to take a config.
fn restarted_program(thread: Thread, calls: &'static str) -> usize {
    let rig = Rig::generic();
    let first = rig.start();
    rig.commit("mode: first");
    first.stop();
    kill_at_each(
        &rig,
        thread,
        calls,
        |nth| {
            let line = format!("mode: {calls} {nth}");
            take(rig.try_offer(&[("config.yaml", &format!("{line}\n"))]));
        },
        |context| {
            let current = rig.current("one").unwrap();
            assert_eq!(rig.running("one"), Some(current), "{context}");
        },
    )
}

#[test]
fn killed_before_any_fsync_it_finishes_or_undoes() {
    if Tracer::is_there() {
        let kills = restarted_program(Thread::Disk, "fsync");
        assert!(kills >= 6, "only {kills}");
    }
}

#[test]
fn killed_before_any_fdatasync_it_finishes_or_undoes() {
    if Tracer::is_there() {
        // One for each record of the journal: intent, staged, promoted, signalled, probation, committed.
        let kills = restarted_program(Thread::Disk, "fdatasync");
        assert!(kills >= 6, "only {kills}");
    }
}

#[test]
fn killed_before_any_rename_it_finishes_or_undoes() {
    if Tracer::is_there() {
        // The revision gets its name, `current` and `last-good` their targets.
        let kills = restarted_program(Thread::Disk, "rename");
        assert!(kills >= 3, "only {kills}");
    }
}

#[test]
fn killed_before_any_link_or_removal_it_finishes_or_undoes() {
    if Tracer::is_there() {
        let kills = restarted_program(Thread::Disk, "symlink,mkdir,unlink,rmdir,unlinkat");
        assert!(kills >= 2, "only {kills}");
    }
}

#[test]
fn killed_around_the_start_of_a_child_it_leaves_one_child() {
    if Tracer::is_there() {
        // The notes about the child that ended, the one that is to be started, and the one that runs.
        let kills = restarted_program(Thread::Main, "rename");
        assert!(kills >= 3, "only {kills}");
        let kills = restarted_program(Thread::Main, "clone,clone3,vfork,kill,wait4,waitid");
        assert!(kills >= 1, "only {kills}");
    }
}

/// The same for our own data plane, which takes a config without a restart and proves that it did.
fn reloaded_data_plane(calls: &'static str) -> usize {
    let rig = Rig::new(
        "agents:\n  one:\n    profile: adjutant\n    apply: {probation: 200ms, keep_revisions: 2}\n",
    );
    let config = |seconds: usize| {
        format!("sources:\n  host:\n    kind: host_metrics\n    interval: {seconds}s\n")
    };
    let first = rig.start();
    let (code, body) = rig.offer(&[("collect.yaml", &config(100))]);
    assert_eq!(code, 202, "{body}");
    wait_until("the first config", || {
        let agent = settled(&rig);
        agent["history"][0]["step"] == "committed" && agent["current"]["origin"] == "manual"
    });
    first.stop();
    let child = Cell::new(0);
    kill_at_each(
        &rig,
        Thread::Disk,
        calls,
        |nth| {
            child.set(rig.child());
            take(rig.try_offer(&[("collect.yaml", &config(100 + nth))]));
        },
        |context| {
            // It is told by HUP, by whichever life comes to it.
            assert_eq!(rig.child(), child.get(), "{context}");
        },
    )
}

#[test]
fn killed_before_any_fdatasync_of_a_reload_it_finishes_or_undoes() {
    if Tracer::is_there() {
        let kills = reloaded_data_plane("fdatasync");
        assert!(kills >= 6, "only {kills}");
    }
}

#[test]
fn killed_before_any_fsync_of_a_reload_it_finishes_or_undoes() {
    if Tracer::is_there() {
        let kills = reloaded_data_plane("fsync");
        assert!(kills >= 6, "only {kills}");
    }
}

#[test]
fn killed_before_any_rename_of_a_reload_it_finishes_or_undoes() {
    if Tracer::is_there() {
        let kills = reloaded_data_plane("rename");
        assert!(kills >= 3, "only {kills}");
    }
}

/// A first start, killed at the first, second, … of `calls`, each on a directory that was never used.
fn first_start(calls: &'static str) -> usize {
    for nth in 1..CALLS_MAX {
        let context = format!("first start, killed at {calls} number {nth}");
        let rig = Rig::new(&agent(
            "one",
            "    config_files: ['{dir}/local/config.yaml']\n",
        ));
        rig.write("local/config.yaml", "mode: local\n");
        let mut traced = Tracer::start(&rig, &rig.command(&["run"]), &Fault::kill(calls, nth));
        let strace = rig.launch(&mut traced);
        let supervisor = || {
            let mut found = proc::offspring(strace.pid());
            found.retain(|process| process.name == "adjutant" && process.state != 'Z');
            found.first().map(|process| process.pid)
        };
        let mut seen = false;
        let survived = wait_for("the kill, or a child", || {
            let alive = supervisor().is_some();
            seen |= alive;
            if !alive && (seen || !proc::is_alive(strace.pid())) {
                return Some(false);
            }
            let agent = rig.agent_status("one")?;
            (agent["status"] == "running" && agent["history"][0]["over"] == true).then_some(true)
        });
        // What is tidied up after the last record may have met the call meanwhile.
        if let Some(pid) = supervisor().filter(|_| survived) {
            proc::send(pid, Signal::SIGTERM);
            wait_until("its end", || supervisor().is_none());
            strace.kill();
            return nth - 1;
        }
        // Killed itself, it lets go of the child that it followed; told to end, it waits for it.
        strace.kill();
        rig.is_let_go();
        links_resolve(&rig, false, &context);
        let next = rig.start();
        agrees(&rig, &context);
        assert_eq!(next.stop().code(), Some(0), "{context}");
    }
    panic!("{calls} was met more than {CALLS_MAX} times");
}

#[test]
fn a_first_start_killed_anywhere_leaves_a_directory_to_start_on() {
    if Tracer::is_there() {
        for calls in ["fsync", "fdatasync", "rename", "mkdir", "symlink"] {
            let kills = first_start(calls);
            assert!(kills >= 1, "{calls}: {kills}");
        }
    }
}

/// Damages the state of a committed agent and looks at what the next start makes of it.
fn repaired(damage: impl Fn(&Rig)) -> Rig {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: older");
    rig.commit("mode: good");
    assert_eq!(supervisor.stop().code(), Some(0));
    damage(&rig);
    let supervisor = rig.start();
    agrees(&rig, "damaged");
    let link = fs::symlink_metadata(rig.agent("one").join("current")).unwrap();
    assert!(link.is_symlink());
    assert_eq!(rig.current("one").unwrap(), "mode: good");
    supervisor.logs("state repaired");
    assert_eq!(supervisor.stop().code(), Some(0));
    rig
}

#[test]
fn a_missing_current_is_made_again_from_last_good() {
    repaired(|rig| fs::remove_file(rig.agent("one").join("current")).unwrap());
}

#[test]
fn a_dangling_current_is_made_again_from_last_good() {
    repaired(|rig| {
        let link = rig.agent("one").join("current");
        fs::remove_file(&link).unwrap();
        symlink("revisions/1700000000000-00c0ffee", &link).unwrap();
    });
}

#[test]
fn a_directory_in_place_of_current_is_moved_aside() {
    let rig = repaired(|rig| {
        let link = rig.agent("one").join("current");
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        rig.write("state/agents/one/current/config.yaml", "mode: by hand\n");
    });
    let aside = rig.agent("one").join("current.found-1/config.yaml");
    assert_eq!(fs::read_to_string(aside).unwrap(), "mode: by hand\n");
}
