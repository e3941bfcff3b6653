//! Output: tails, long lines, floods, our death, a full disk, our own output.

use std::process::Command;

use super::*;
use crate::engine::message::{ExitStatus, Leftover};

#[test]
fn the_last_words_of_both_streams_come_with_the_exit() {
    isolated(
        "outputs::the_last_words_of_both_streams_come_with_the_exit",
        async || {
            let mut bench = Bench::new();
            let exit = bench
                .run_sh(
                    "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; \
                 echo 'config: bad key' >&2; printf 'no line end' >&2; exit 1",
                )
                .await;
            let lines: Vec<_> = exit.tail.lines().collect();
            assert_eq!(lines.len(), 64);
            assert!(lines.contains(&"line 99"), "{}", exit.tail);
            assert!(lines.contains(&"config: bad key"), "{}", exit.tail);
            assert_eq!(lines[63], "no line end");
            let log = bench.log();
            assert_eq!(log.lines().count(), 102);
            assert!(log.contains("no line end\n"));
            // The next life starts with no words of this one.
            assert_eq!(bench.run_sh("echo '{\"a\": 1}'").await.tail, "{\"a\": 1}");
            assert!(bench.log().ends_with("\n{\"a\": 1}\n"));
        },
    );
}

#[test]
fn a_line_of_200_kib_reaches_the_log_in_one_piece() {
    isolated(
        "outputs::a_line_of_200_kib_reaches_the_log_in_one_piece",
        async || {
            let mut bench = Bench::new();
            let exit = bench
                .run_sh(
                    "head -c 204800 /dev/zero | tr '\\0' x; echo between >&2; echo; printf last",
                )
                .await;
            assert_eq!(exit.status, ExitStatus::Code(0));
            let log = bench.log();
            let mut lengths: Vec<_> = log.lines().map(str::len).collect();
            lengths.sort_unstable();
            assert_eq!(lengths, [4, 7, 204_800]);
            assert!(exit.tail.len() < 16 * 1024, "{}", exit.tail.len());
            assert_eq!(bench.children.output_losses(), OutputLosses::default());
        },
    );
}

#[test]
fn a_flood_neither_stops_the_loop_nor_loses_a_byte() {
    isolated(
        "outputs::a_flood_neither_stops_the_loop_nor_loses_a_byte",
        async || {
            let mut bench = Bench::new();
            // 16 MiB as fast as the pipe takes them: well above the 1 MiB/s that must not be felt.
            let child = bench.spawn_sh("yes 0123456789abcde | head -c 16777216");
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            let mut turns = 0u32;
            let mut longest = Duration::ZERO;
            let mut last = Instant::now();
            let started = last;
            let exit = loop {
                tokio::select! {
                    event = bench.children.next() => match event {
                        ChildrenEvent::Exited { pid, exit, .. } if pid == child.pid => break exit,
                        other => panic!("{other:?}"),
                    },
                    _ = ticks.tick() => {
                        turns += 1;
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                }
                assert!(started.elapsed() < DEADLINE);
            };
            assert_eq!(exit.status, ExitStatus::Code(0));
            assert!(turns > 2, "{turns} turns in {:?}", started.elapsed());
            assert!(longest < Duration::from_secs(1), "{longest:?}");
            assert_eq!(bench.log().len(), 16_777_216);
            assert!(exit.tail.lines().all(|line| line == "0123456789abcde"));
        },
    );
}

#[test]
fn what_a_child_writes_while_nobody_reads_is_read_later() {
    isolated(
        "outputs::what_a_child_writes_while_nobody_reads_is_read_later",
        async || {
            let mut bench = Bench::new();
            let (go, done) = (bench.path("go"), bench.path("done"));
            let script = format!(
                "printf 'first\\nhal'; while [ ! -e {} ]; do sleep 0.01; done; \
                 echo f; echo unread; echo done > {}; exec sleep 600",
                go.display(),
                done.display()
            );
            let child = bench.spawn_sh(&script);
            let log = bench.dirs.log_file(&bench.agent);
            bench
                .until("the first line", |_| {
                    std::fs::read_to_string(&log).is_ok_and(|text| text.starts_with("first\n"))
                })
                .await;
            // Our death: the reader is gone, the child holds its pipe itself and writes on without an EPIPE.
            let Bench {
                root,
                agent,
                dirs,
                children,
            } = bench;
            drop(children);
            std::fs::File::create(&go).unwrap();
            let mut bench = Bench {
                root,
                agent,
                dirs,
                children: Children::new(&Options {
                    pid1: false,
                    cgroup_root: CgroupRoot::Off,
                })
                .unwrap(),
            };
            bench.line_in(&done).await;
            let Found::Alive(Leftover { child: found, .. }) = find_leftover(&bench.dirs) else {
                panic!("it lives");
            };
            assert_eq!(found, child);
            bench
                .children
                .watch_leftover(&bench.agent, &bench.dirs, found, false)
                .unwrap();
            bench
                .until("what was left in the pipe", |_| {
                    std::fs::read_to_string(&log).is_ok_and(|text| text == "first\nhalf\nunread\n")
                })
                .await;
            bench.children.signal(child.pid, 9, true, None).unwrap();
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.tail, "half\nunread");
        },
    );
}

#[test]
fn a_log_that_cannot_be_written_is_counted_and_ends_nothing() {
    isolated(
        "outputs::a_log_that_cannot_be_written_is_counted_and_ends_nothing",
        async || {
            let mut bench = Bench::new();
            std::fs::create_dir_all(&bench.dirs.logs).unwrap();
            // Every write to it says that the disk is full.
            std::os::unix::fs::symlink("/dev/full", bench.dirs.log_file(&bench.agent)).unwrap();
            let exit = bench.run_sh("echo one; echo two; exit 5").await;
            assert_eq!(exit.status, ExitStatus::Code(5));
            assert_eq!(exit.tail, "one\ntwo");
            let losses = bench.children.output_losses();
            assert_eq!(losses.lost_bytes, 8);
            assert!(losses.failed_writes >= 1);
        },
    );
}

#[test]
fn log_files_are_rotated_by_size() {
    isolated("outputs::log_files_are_rotated_by_size", async || {
        let mut bench = Bench::new();
        bench.dirs.rotation = Rotation {
            bytes: 4096,
            files: 2,
        };
        bench
            .run_sh("i=0; while [ $i -lt 2000 ]; do echo line number $i; i=$((i+1)); done")
            .await;
        let mut names: Vec<_> = std::fs::read_dir(&bench.dirs.logs)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".log"))
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["alpha.log", "alpha.log.1", "alpha.log.2"]);
        for name in &names {
            let text = std::fs::read_to_string(bench.dirs.logs.join(name)).unwrap();
            assert!(
                text.len() <= 4096 && text.ends_with('\n'),
                "{name}: {}",
                text.len()
            );
        }
        assert!(bench.log().ends_with("line number 1999\n"));
    });
}

#[test]
fn passthrough_goes_to_our_own_streams_unchanged() {
    let name = "outputs::passthrough_goes_to_our_own_streams_unchanged";
    if std::env::var_os(ALONE).is_some() {
        isolated(name, async || {
            let mut bench = Bench::new();
            let mut spec = sh("echo '{\"level\":\"info\"}'; echo plain words >&2; exit 2");
            spec.passthrough = true;
            let child = bench.spawn(&spec);
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.status, ExitStatus::Code(2));
            assert!(exit.tail.contains("{\"level\":\"info\"}"));
            assert!(exit.tail.contains("plain words"));
            assert!(!bench.dirs.log_file(&bench.agent).exists());
        });
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(test_arguments(name))
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert_passed(&output);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(stdout.contains("{\"level\":\"info\"}\n"), "{stdout}");
    assert!(stderr.contains("plain words\n"), "{stderr}");
}

/// A Collector's JSON, logfmt and klog: what a level is stays as the program wrote it, because nothing is wrapped.
const STRUCTURED: [&str; 3] = [
    r#"{"level":"warn","ts":"2026-01-01T00:00:00Z","caller":"a.go:1","msg":"quota \\"x\\" é"}"#,
    r#"time=2026-01-01T00:00:00Z level=error msg="cannot reach it" code=7"#,
    "W0102 03:04:05.678901   12345 reflector.go:99] watch ended",
];

#[test]
fn otel_50639_structured_lines_keep_level_and_shape_byte_for_byte() {
    let name = "outputs::otel_50639_structured_lines_keep_level_and_shape_byte_for_byte";
    if std::env::var_os(ALONE).is_some() {
        isolated(name, async || {
            let mut bench = Bench::new();
            let lines = bench.path("lines");
            let mut file = std::fs::File::create(&lines).unwrap();
            io::Write::write_all(&mut file, STRUCTURED.join("\n").as_bytes()).unwrap();
            let script = format!("cat {}; echo", lines.display());
            bench.run_sh(&script).await;
            assert_eq!(bench.log(), STRUCTURED.join("\n") + "\n");
            let mut spec = sh(&script);
            spec.passthrough = true;
            let child = bench.spawn(&spec);
            bench.exit_of(child.pid).await;
        });
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(test_arguments(name))
        .env(ALONE, "1")
        .output()
        .unwrap();
    assert_passed(&output);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains(&(STRUCTURED.join("\n") + "\n")), "{stdout}");
}

#[test]
fn otel_37888_44127_a_line_of_10_mib_is_kept_whole_and_the_next_one_too() {
    isolated(
        "outputs::otel_37888_44127_a_line_of_10_mib_is_kept_whole_and_the_next_one_too",
        async || {
            let mut bench = Bench::new();
            let exit = bench
                .run_sh("head -c 10485760 /dev/zero | tr '\\0' y; echo; echo '{\"level\":\"info\"}'; exit 4")
                .await;
            assert_eq!(exit.status, ExitStatus::Code(4));
            let log = bench.log();
            let lengths: Vec<_> = log.lines().map(str::len).collect();
            assert_eq!(lengths, [10 << 20, 16]);
            assert!(log.ends_with("y\n{\"level\":\"info\"}\n"));
            // The report of a crash stays small whatever came before it.
            assert!(exit.tail.len() < 16 * 1024, "{}", exit.tail.len());
            assert!(exit.tail.ends_with("{\"level\":\"info\"}"), "{}", exit.tail);
            assert_eq!(bench.children.output_losses(), OutputLosses::default());
        },
    );
}
