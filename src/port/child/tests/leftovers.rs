//! Children that outlived us.

use super::*;
use crate::engine::message::{ExitStatus, Leftover};

/// The machinery as the next life has it: nothing in memory.
fn next_life(bench: Bench) -> Bench {
    let Bench { root, children, .. } = bench;
    drop(children);
    Bench::at(root)
}

/// What is found, which must live.
fn alive(dirs: &ChildDirs) -> Leftover {
    match find_leftover(dirs) {
        Found::Alive(leftover) => leftover,
        found => panic!("{found:?}"),
    }
}

#[test]
fn a_recorded_child_is_found_watched_and_killed_with_its_group() {
    isolated(
        "leftovers::a_recorded_child_is_found_watched_and_killed_with_its_group",
        async || {
            let mut bench = Bench::new();
            assert_eq!(find_leftover(&bench.dirs), Found::Nothing);
            let file = bench.path("grandchild");
            let script = format!("sleep 600 & echo $! > {}; exec sleep 600", file.display());
            let child = bench.spawn_sh(&script);
            let grandchild = bench.line_in(&file).await;
            let mut bench = next_life(bench);
            let found = alive(&bench.dirs).child;
            assert_eq!(found, child);
            bench
                .children
                .watch_leftover(&bench.agent, &bench.dirs, found.clone(), false)
                .unwrap();
            let failure = bench
                .children
                .spawn(&bench.agent, &bench.dirs, &sh("true"))
                .unwrap_err();
            assert!(failure.reason.contains("still there"), "{failure}");
            bench.children.signal(child.pid, 15, true, None).unwrap();
            bench.exit_of(child.pid).await;
            bench
                .until("the group is dead", |_| !is_alive(&grandchild))
                .await;
            assert_eq!(find_leftover(&bench.dirs), Found::Nothing, "seen to end");
            assert_eq!(bench.run_sh("exit 0").await.status, ExitStatus::Code(0));
        },
    );
}

#[test]
fn a_foreign_process_is_watched_through_its_descriptor() {
    isolated(
        "leftovers::a_foreign_process_is_watched_through_its_descriptor",
        async || {
            let mut bench = Bench::new();
            let marker = format!("{MARKER}={}", bench.dirs.marker);
            let (pids, go) = (bench.path("pids"), bench.path("go"));
            // A parent that keeps it and is not us; it is told to reap it only when the file is there.
            let script = format!(
                "setsid env '{marker}' sh -c 'sleep 600 & exec sleep 600' & echo $! > {}; \
                 while [ ! -e {} ]; do sleep 0.01; done; exit 0",
                pids.display(),
                go.display()
            );
            let keeper = bench
                .children
                .spawn(
                    &"keeper".parse().unwrap(),
                    &dirs(&bench.path("keeper")),
                    &sh(&script),
                )
                .unwrap();
            let pid: u32 = bench.line_in(&pids).await.parse().unwrap();
            bench
                .until("it leads a group", |_| {
                    Stat::read(pid).is_some_and(|stat| stat.group == pid)
                })
                .await;
            bench
                .until("it carries the marker", |_| {
                    facts::environment_holds(pid, &marker)
                })
                .await;
            // No record at all: the marker leads to it.
            let found = alive(&bench.dirs).child;
            assert_eq!(found.pid, pid);
            bench
                .children
                .watch_leftover(&bench.agent, &bench.dirs, found.clone(), false)
                .unwrap();
            bench.children.signal(pid, 9, false, None).unwrap();
            let exit = bench.exit_of(pid).await;
            assert_eq!(exit.status, ExitStatus::Unknown);
            assert_eq!(exit.max_resident, 0);
            let members = || {
                facts::processes()
                    .filter(|of| {
                        Stat::read(*of).is_some_and(|stat| stat.group == pid && stat.is_alive())
                    })
                    .count()
            };
            bench
                .until("what was left of its group is dead", |_| members() == 0)
                .await;
            assert!(bench.children.signal(pid, 9, false, None).is_err());
            std::fs::File::create(&go).unwrap();
            match bench.event().await {
                ChildrenEvent::Exited { pid, .. } => assert_eq!(pid, keeper.pid),
                event @ ChildrenEvent::ToolDone { .. } => panic!("{event:?}"),
            }
            // One that is gone before it is watched is an exit too.
            bench
                .children
                .watch_leftover(&bench.agent, &bench.dirs, found, false)
                .unwrap();
            assert_eq!(bench.exit_of(pid).await.status, ExitStatus::Unknown);
        },
    );
}

#[test]
fn a_child_of_an_unfinished_start_is_found_by_its_marker() {
    isolated(
        "leftovers::a_child_of_an_unfinished_start_is_found_by_its_marker",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("helper");
            // A descendant with a group of its own carries the marker too; the child is the older one.
            let script = format!(
                "setsid sh -c 'echo $$ > {}; exec sleep 600' & exec sleep 600",
                file.display()
            );
            let child = bench.spawn_sh(&script);
            let helper: u32 = bench.line_in(&file).await.parse().unwrap();
            leftover::record_starting(&bench.dirs, &RawNote::of(&bench.dirs, &sh("")));
            let found = alive(&bench.dirs).child;
            assert_eq!(
                (found.pid, found.start_ticks),
                (child.pid, child.start_ticks)
            );
            let apart = found
                .started
                .unix_millis()
                .abs_diff(child.started.unix_millis());
            assert!(apart < 60_000, "{apart} ms");
            // A damaged record, and one of a later version, lead to the same.
            for text in [
                "{\"format\":1,\"sta",
                "{\"format\":2,\"state\":\"ended\"}",
                "",
            ] {
                std::fs::File::create(&bench.dirs.record)
                    .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
                    .unwrap();
                assert_eq!(alive(&bench.dirs).child.pid, child.pid, "{text}");
            }
            // Another agent's directory is another marker.
            std::fs::create_dir(bench.path("other")).unwrap();
            assert_eq!(find_leftover(&dirs(&bench.path("other"))), Found::Nothing);
            bench.children.signal(child.pid, 9, true, None).unwrap();
            bench.exit_of(child.pid).await;
            kill(process(helper).unwrap(), Signal::SIGKILL).unwrap();
            bench
                .until("the helper is reaped", |_| Stat::read(helper).is_none())
                .await;
        },
    );
}

#[test]
fn a_later_process_of_the_same_number_is_not_taken_for_the_child() {
    isolated(
        "leftovers::a_later_process_of_the_same_number_is_not_taken_for_the_child",
        async || {
            let mut bench = Bench::new();
            let child = bench.spawn_sh("exec sleep 600");
            let honest = std::fs::read_to_string(&bench.dirs.record).unwrap();
            assert_eq!(alive(&bench.dirs).child, child.clone());
            let ticks = format!("\"start_ticks\":{}", child.start_ticks);
            let later = format!("\"start_ticks\":{}", child.start_ticks + 1);
            let (boot, namespace) = (facts::boot_id(), facts::pid_namespace());
            let lies = [
                (honest.replace(&ticks, &later), Found::Died(child.pid)),
                (
                    honest.replace(&boot, "00000000-0000-0000-0000-000000000000"),
                    Found::Nothing,
                ),
                (honest.replace(&namespace, "pid:[1]"), Found::Nothing),
            ];
            for (lie, wanted) in lies {
                assert_ne!(lie, honest);
                std::fs::File::create(&bench.dirs.record)
                    .and_then(|mut file| io::Write::write_all(&mut file, lie.as_bytes()))
                    .unwrap();
                assert_eq!(find_leftover(&bench.dirs), wanted, "{lie}");
            }
            let mut wrong = child.clone();
            wrong.start_ticks += 1;
            bench.children.signal(child.pid, 9, true, None).unwrap();
            bench.exit_of(child.pid).await;
            // A stranger of that number is neither watched nor signalled.
            let mut stranger = ChildIdentity {
                pid: nix::unistd::getppid().as_raw().unsigned_abs(),
                ..wrong
            };
            stranger.start_ticks = 1;
            let pid = stranger.pid;
            bench
                .children
                .watch_leftover(&bench.agent, &bench.dirs, stranger, false)
                .unwrap();
            assert!(bench.children.signal(pid, 15, true, None).is_err());
            assert_eq!(bench.exit_of(pid).await.status, ExitStatus::Unknown);
        },
    );
}

#[test]
fn what_a_dead_wrapper_left_behind_unseen_is_killed_before_the_next_start() {
    let name = "leftovers::what_a_dead_wrapper_left_behind_unseen_is_killed_before_the_next_start";
    isolated(name, async || {
        let mut bench = Bench::new();
        let file = bench.path("agent");
        let script = format!("sleep 600 & echo $! > {}; exec sleep 600", file.display());
        let child = bench.spawn_sh(&script);
        let survivor = bench.line_in(&file).await;
        let record = std::fs::read(&bench.dirs.record).unwrap();
        // The wrapper ends while no life of ours is there: reaped by somebody else, the group untouched.
        let Bench { root, children, .. } = bench;
        drop(children);
        kill(process(child.pid).unwrap(), Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(process(child.pid).unwrap(), None).unwrap();
        assert!(is_alive(&survivor));
        let mut bench = Bench::at(root);
        assert_eq!(std::fs::read(&bench.dirs.record).unwrap(), record);
        assert_eq!(find_leftover(&bench.dirs), Found::Died(child.pid));
        let next = bench.spawn_sh("exec sleep 600");
        bench
            .until("the survivor is dead", |_| !is_alive(&survivor))
            .await;
        assert!(is_alive(&next.pid.to_string()));
        bench.children.signal(next.pid, 9, true, None).unwrap();
        bench.exit_of(next.pid).await;
    });
}
