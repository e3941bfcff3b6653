//! Given a rollout whose every durable call is counted,
//! when the supervisor dies at one of them, when that one fails (input/output error, full disk), and when it fails and
//! the supervisor dies on top of it,
//! then nothing is half done: what `current` holds is the old config or the new one, that is what the child runs and
//! what the status says, and the next config is taken as if nothing had been.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::signal::Signal;

use super::crash::{agrees, is_recorded, links_resolve, runs_what_it_says, settled};
use super::rig::{Rig, Supervisor, now, wait_for, wait_until};
use super::tracer::{Fault, Thread, Tracer};

/// What changes the disk for good in a rollout. A disk that is full for what is written before that is
/// `disk::a_full_disk_refuses_the_config_and_keeps_the_child`.
const DURABLE: [&str; 5] = ["fsync", "fdatasync", "rename", "mkdir", "symlink"];
/// As many at a time: they wait more than they work.
const WORKERS: usize = 8;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Dies,
    Fails(&'static str),
    FailsAndDies(&'static str),
}

/// The `nth` of one call in a rollout, and what happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    call: &'static str,
    nth: usize,
    what: What,
}

impl Point {
    fn fault(&self) -> Fault {
        let Self { call, nth, what } = *self;
        match what {
            What::Dies => Fault::kill(call, nth),
            What::Fails(errno) | What::FailsAndDies(errno) => Fault::error_at(call, errno, nth),
        }
    }
}

/// A rig on which rollouts are alike: there are as many revisions as are kept.
fn worn() -> Rig {
    let rig = Rig::generic();
    let supervisor = rig.start();
    for number in 0..5 {
        rig.commit(&format!("mode: worn {number}"));
    }
    assert_eq!(supervisor.stop().code(), Some(0));
    rig
}

/// How often a rollout makes each durable call.
fn counted() -> BTreeMap<&'static str, usize> {
    let rig = worn();
    let supervisor = rig.start();
    settled(&rig);
    let fault = Fault::error_at("fsync,fdatasync,rename,mkdir,symlink", "EIO", 60_000);
    let tracer = Tracer::attach(&rig, supervisor.pid(), Thread::Disk, &fault);
    rig.commit("mode: counted");
    let text = tracer.text();
    drop(tracer);
    assert_eq!(supervisor.stop().code(), Some(0));
    let of = |call: &'static str| {
        let head = format!("{call}(");
        let calls = text.lines().filter(|line| line.starts_with(&head)).count();
        (call, calls)
    };
    DURABLE.into_iter().map(of).collect()
}

fn table(counted: &BTreeMap<&'static str, usize>) -> Vec<Point> {
    let mut points = Vec::new();
    for (call, calls) in counted {
        for nth in 1..=*calls {
            let mut add = |what| points.push(Point { call, nth, what });
            add(What::Dies);
            for errno in ["ENOSPC", "EIO"] {
                // Names are made and moved in memory; only what is synced meets a broken disk.
                if errno == "ENOSPC" || call.contains("sync") {
                    add(What::Fails(errno));
                    add(What::FailsAndDies(errno));
                }
            }
        }
    }
    points
}

/// What lies about unfinished: revisions without their last file, and names that were to be replaced.
fn half_made(rig: &Rig) -> Vec<PathBuf> {
    let agent = rig.agent("one");
    let below = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let revisions = below(&agent.join("revisions")).into_iter();
    let half = revisions.filter(|path| !path.join("manifest.json").is_file());
    let temporary = |path: &PathBuf| path.extension().is_some_and(|it| it == "tmp");
    half.chain(below(&agent).into_iter().filter(temporary))
        .collect()
}

/// What runs is the config of before or the one that was offered, as the report says.
fn whole(rig: &Rig, context: &str, before: &str, offered: &str) {
    let (status, _) = runs_what_it_says(rig, context);
    let current = rig.current("one").unwrap();
    assert_eq!(rig.running("one").as_ref(), Some(&current), "{context}");
    let committed = status["history"][0]["step"] == "committed";
    let last = &status["history"][0];
    if current == offered {
        assert!(committed, "{context}: {last}");
    } else {
        assert_eq!(current, before, "{context}: {last}");
        // Without a record of it the rollout has never been; with one it has failed.
        let known = status["current"]["id"] == last["revision"] || !committed;
        assert!(known, "{context}: {status}");
    }
}

/// What became of the offer as long as the supervisor lives.
fn is_over(rig: &Rig, supervisor: &mut Supervisor, before: &serde_json::Value) -> Option<bool> {
    if supervisor.ended().is_some() {
        return Some(false);
    }
    let agent = rig.agent_status("one")?;
    let last = &agent["history"][0];
    let phases = ["idle", "committed", "rolled back", "failed"];
    let rests = phases.iter().any(|phase| agent["phase"] == **phase);
    (last["transaction"] != *before && last["over"] == true && rests).then_some(true)
}

fn play(rig: &Rig, point: &Point, number: usize) {
    let context = format!("{point:?}");
    let mut supervisor = rig.start();
    let before = settled(rig)["history"][0]["transaction"].clone();
    let old = rig.current("one").unwrap();
    let offered = format!("mode: {} {number}", point.call);
    let tracer = Tracer::attach(rig, supervisor.pid(), Thread::Disk, &point.fault());
    let answer = rig.try_offer(&[("config.yaml", &format!("{offered}\n"))]);
    let failed = || tracer.text().contains("(INJECTED)");
    if point.what != What::Dies {
        wait_until(&format!("the fault: {context}"), failed);
    }
    let lives = match point.what {
        What::FailsAndDies(_) => {
            supervisor.send(Signal::SIGKILL);
            supervisor.end();
            false
        }
        // The last calls of a rollout come after its end is told, so that end is no sign that it goes on to live.
        What::Dies => {
            supervisor.end();
            false
        }
        What::Fails(_) => wait_for(&format!("the end: {context}"), || {
            is_over(rig, &mut supervisor, &before)
        }),
    };
    assert_eq!(lives, matches!(point.what, What::Fails(_)), "{context}");
    if lives {
        assert_eq!(answer.unwrap().0, 202, "{context}");
    }
    drop(tracer);
    links_resolve(rig, true, &context);
    if lives {
        whole(rig, &context, &old, &offered);
        // A record that is not in the journal is told; the next life does again what it stood for.
        wait_until(&format!("a record, or a word: {context}"), || {
            let log = supervisor.log();
            let told = log.contains("state not written") || log.contains("disk work not done");
            told && point.call == "fdatasync" || is_recorded(rig)
        });
        assert_eq!(supervisor.stop().code(), Some(0), "{context}");
    } else {
        supervisor.end();
    }
    let next = rig.start();
    agrees(rig, &context);
    whole(rig, &context, &old, &offered);
    rig.commit("mode: afterwards");
    // Old revisions go after the commit.
    wait_until(&format!("nothing half made: {context}"), || {
        half_made(rig).is_empty()
    });
    assert_eq!(next.stop().code(), Some(0), "{context}");
    wait_until("no child", || rig.children().is_empty());
}

#[test]
fn at_every_durable_call_it_may_die_fail_or_both() {
    if !Tracer::is_there() {
        return;
    }
    let began = now();
    let counted = counted();
    let total: usize = counted.values().sum();
    assert!(total >= 15, "{counted:?}");
    let points = table(&counted);
    let all = points.len();
    let left = Mutex::new(points);
    std::thread::scope(|scope| {
        let worker = || {
            let rig = worn();
            loop {
                let (point, number) = {
                    let mut left = left.lock().unwrap();
                    let Some(point) = left.pop() else { return };
                    (point, left.len())
                };
                play(&rig, &point, number);
            }
        };
        for worker in [worker; WORKERS].map(|worker| scope.spawn(worker)) {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let took = began.elapsed().as_secs();
    writeln!(
        std::io::stderr(),
        "{total} durable calls of a rollout ({counted:?}), {all} points, {took} s"
    )
    .ok();
}
