//! Exits, signals, groups, orphans, environment, failed starts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;
use crate::engine::message::ExitStatus;

#[test]
fn exit_codes_and_signals_are_told_with_what_the_child_used() {
    isolated(
        "exits::exit_codes_and_signals_are_told_with_what_the_child_used",
        async || {
            let mut bench = Bench::new();
            let exit = bench
                .run_sh("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; exit 3")
                .await;
            assert_eq!(exit.status, ExitStatus::Code(3));
            assert!(exit.cpu > Duration::ZERO, "{:?}", exit.cpu);
            assert!(exit.max_resident > 500_000, "{}", exit.max_resident);
            assert!(!exit.oom_killed);
            assert_eq!(
                bench.run_sh("kill -11 $$").await.status,
                ExitStatus::Signal(11)
            );
            // A real-time signal, for which nix has no name.
            assert_eq!(
                bench.run_sh("kill -40 $$").await.status,
                ExitStatus::Signal(40)
            );
            assert_eq!(bench.run_sh("true").await.status, ExitStatus::Code(0));
            assert_eq!(bench.children.orphans_reaped(), 0);
        },
    );
}

#[test]
fn what_is_left_of_the_group_is_killed_before_the_leader_is_reaped() {
    isolated(
        "exits::what_is_left_of_the_group_is_killed_before_the_leader_is_reaped",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("grandchild");
            let script = format!(
                "sh -c 'trap \"\" TERM HUP; while :; do sleep 60; done' & echo $! > {}; exit 0",
                file.display()
            );
            assert_eq!(bench.run_sh(&script).await.status, ExitStatus::Code(0));
            let grandchild = bench.line_in(&file).await;
            bench
                .until("the grandchild is dead", |_| !is_alive(&grandchild))
                .await;
            // The shell and its sleep come to us, because we asked for orphans, and are not left as zombies.
            bench
                .until("orphans are reaped", |children| {
                    children.orphans_reaped() >= 1
                        && Stat::read(grandchild.parse().unwrap()).is_none()
                })
                .await;
        },
    );
}

#[test]
fn orphans_are_reaped_while_exits_of_children_wait_to_be_told() {
    isolated(
        "exits::orphans_are_reaped_while_exits_of_children_wait_to_be_told",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("orphan");
            // The child becomes a zombie that we know, while nobody drives the machinery; then orphans in other groups
            // end.
            let script = format!(
                "setsid sh -c '(sleep 0.2 & echo $! > {}); exit 0'; exit 0",
                file.display()
            );
            let child = bench.spawn_sh(&script);
            let pid = child.pid.to_string();
            let deadline = Instant::now() + DEADLINE;
            let orphan = loop {
                assert!(Instant::now() < deadline, "no orphan");
                let line = fs::read_to_string(&file).unwrap_or_default();
                if line.ends_with('\n') && !is_alive(&pid) && !is_alive(line.trim()) {
                    break line.trim().to_owned();
                }
                sleep(Duration::from_millis(5)).await;
            };
            assert_eq!(
                Stat::read(child.pid).unwrap().state,
                'Z',
                "known, not reaped"
            );
            assert_eq!(Stat::read(orphan.parse().unwrap()).unwrap().state, 'Z');
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.status, ExitStatus::Code(0));
            bench
                .until("the orphan is reaped", |_| {
                    Stat::read(orphan.parse().unwrap()).is_none()
                })
                .await;
            assert!(bench.children.orphans_reaped() >= 1);
            assert_eq!(Stat::read(child.pid), None);
        },
    );
}

#[test]
fn process_1_reaps_double_forked_orphans() {
    let name = "exits::process_1_reaps_double_forked_orphans";
    if std::env::var_os(ALONE).is_none() && !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {name} needs root for a process id namespace");
        return;
    }
    let start = |command: Command| {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--pid", "--fork", "--mount-proc"])
            .arg(command.get_program())
            .args(command.get_args())
            .env(ALONE, "1");
        unshare
    };
    isolated_with(name, start, async || {
        assert_eq!(std::process::id(), 1);
        let mut bench = Bench::new();
        let child = bench.spawn_sh("exec sleep 600");
        for _ in 0..20 {
            // Nobody's child at once: the forking shell ends right away.
            let mut other =
                sh("(setsid sh -c 'exit 7' &) ; (setsid sh -c 'kill -9 $$' &) ; exit 0");
            other.passthrough = false;
            let agent = "beta".parse().unwrap();
            let dirs = dirs(&bench.path("beta"));
            let second = bench.children.spawn(&agent, &dirs, &other).unwrap();
            match bench.event().await {
                ChildrenEvent::Exited { pid, exit, .. } => {
                    assert_eq!((pid, exit.status), (second.pid, ExitStatus::Code(0)));
                }
                event @ ChildrenEvent::ToolDone { .. } => panic!("{event:?}"),
            }
        }
        bench
            .until("all orphans are reaped", |children| {
                children.orphans_reaped() >= 40
            })
            .await;
        let zombies = facts::processes()
            .filter(|pid| Stat::read(*pid).is_some_and(|stat| !stat.is_alive()))
            .count();
        assert_eq!(zombies, 0);
        bench.children.signal(child.pid, 15, true, None).unwrap();
        assert_eq!(
            bench.exit_of(child.pid).await.status,
            ExitStatus::Signal(15)
        );
    });
}

#[test]
fn a_child_that_ignores_term_is_killed_with_its_group() {
    isolated(
        "exits::a_child_that_ignores_term_is_killed_with_its_group",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("ready");
            let script = format!(
                "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 60; done' & \
                 wait; while :; do sleep 60; done",
                file.display()
            );
            let child = bench.spawn_sh(&script);
            let grandchild = bench.line_in(&file).await;
            bench.children.signal(child.pid, 15, true, None).unwrap();
            assert!(is_alive(&child.pid.to_string()));
            bench.children.signal(child.pid, 9, true, None).unwrap();
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.status, ExitStatus::Signal(9));
            assert!(!exit.oom_killed, "we killed it");
            bench
                .until("the grandchild is dead", |_| !is_alive(&grandchild))
                .await;
            let refused = bench
                .children
                .signal(child.pid, 15, true, None)
                .unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!(
                    "send signal 15 to process {}: not a child of ours, or reaped already",
                    child.pid
                )
            );
        },
    );
}

#[test]
fn a_signal_to_the_process_alone_spares_its_group() {
    isolated(
        "exits::a_signal_to_the_process_alone_spares_its_group",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("ready");
            let script = format!(
                "trap 'echo hup; exit 4' HUP; \
                 sh -c 'trap \"echo grandchild hup\" HUP; echo $$ > {}; while :; do sleep 0.05; done' & wait",
                file.display()
            );
            let child = bench.spawn_sh(&script);
            bench.line_in(&file).await;
            bench.children.signal(child.pid, 1, false, None).unwrap();
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.status, ExitStatus::Code(4));
            assert_eq!(exit.tail, "hup");
            assert!(bench.children.signal(1, 0, false, None).is_err());
            assert!(
                bench
                    .children
                    .signal(std::process::id(), 15, false, None)
                    .is_err()
            );
        },
    );
}

#[test]
fn a_child_gets_a_built_environment_and_none_of_our_secrets() {
    let start = |mut command: Command| {
        command
            .env("ADJUTANT_SERVER_TOKEN", "secret-of-ours")
            .env("WANTED_BY_SPEC", "passed on")
            .env("TZ", "UTC")
            .env("HTTPS_PROXY", "http://proxy.invalid:3128");
        command
    };
    isolated_with(
        "exits::a_child_gets_a_built_environment_and_none_of_our_secrets",
        start,
        async || {
            assert_eq!(
                std::env::var("ADJUTANT_SERVER_TOKEN").as_deref(),
                Ok("secret-of-ours")
            );
            let mut bench = Bench::new();
            let mut spec = sh("");
            spec.program = "/usr/bin/env".into();
            spec.args.clear();
            spec.env = [
                ("TZ", "Europe/Vienna"),
                ("OWN", "x=y z"),
                (MARKER, "forged"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
            spec.inherit = vec!["WANTED_BY_SPEC".to_owned(), "NOT_SET_ANYWHERE".to_owned()];
            let child = bench.spawn(&spec);
            let exit = bench.exit_of(child.pid).await;
            let lines: Vec<_> = exit.tail.lines().collect();
            assert!(!exit.tail.contains("secret-of-ours"), "{}", exit.tail);
            assert!(!exit.tail.contains(ALONE), "{}", exit.tail);
            let marker = format!("{MARKER}={}", bench.dirs.marker);
            for wanted in [
                "TZ=Europe/Vienna",
                "OWN=x=y z",
                "WANTED_BY_SPEC=passed on",
                "HTTPS_PROXY=http://proxy.invalid:3128",
                &marker,
            ] {
                assert!(lines.contains(&wanted), "{wanted} not in {}", exit.tail);
            }
            let names = lines
                .iter()
                .filter_map(|line| line.split_once('='))
                .map(|(name, _)| name);
            for name in names {
                let known = BASE_ENVIRONMENT.contains(&name)
                    || [MARKER, "OWN", "WANTED_BY_SPEC"].contains(&name);
                assert!(known, "{name}");
            }
        },
    );
}

#[test]
fn a_child_starts_alone_in_its_directory_with_signals_as_they_should_be() {
    let start = |command: Command| {
        // As under nohup: HUP and QUIT are ignored by whoever started us, and USR1 is blocked.
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                "trap '' HUP QUIT; umask 000; exec 7</dev/null; \
                 exec env --block-signal=USR1 \"$0\" \"$@\"",
            ])
            .arg(command.get_program())
            .args(command.get_args())
            .env(ALONE, "1");
        shell
    };
    let name = "exits::a_child_starts_alone_in_its_directory_with_signals_as_they_should_be";
    isolated_with(name, start, async || {
        let mut bench = Bench::new();
        let script = "pwd; umask; cat; grep -E '^(SigBlk|SigIgn):' /proc/self/status; \
             cut -d' ' -f5 /proc/$$/stat; ulimit -n; ulimit -Hn; cd /proc/$$/fd; echo *";
        let child = bench.spawn_sh(script);
        let exit = bench.exit_of(child.pid).await;
        let work = bench.dirs.work.canonicalize().unwrap();
        let mode = fs::metadata(&work).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let lines: Vec<_> = exit.tail.lines().collect();
        assert_eq!(lines[0], work.to_str().unwrap());
        assert_eq!(lines[1], "0022");
        assert_eq!(lines[2], "SigBlk:\t0000000000000000");
        // glibc's posix_spawn leaves 32 and 33, which are its own, ignored; its thread library takes them back at
        // start.
        let ignored = lines[3].strip_prefix("SigIgn:\t").unwrap();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        assert_eq!(ignored & !(0b11 << 31), 0, "{ignored:x}");
        assert_eq!(lines[4], child.pid.to_string(), "leads its own group");
        // 7 was open in whoever started us; 3 is the directory that the shell itself lists.
        assert_eq!(lines[7], "0 1 2 3");
        let hard: u64 = lines[6].parse().unwrap_or(u64::MAX);
        assert_eq!(lines[5].parse::<u64>().unwrap(), hard.min(1024 * 1024));
    });
}

#[test]
fn a_failed_start_says_what_was_tried_and_why() {
    isolated(
        "exits::a_failed_start_says_what_was_tried_and_why",
        async || {
            let mut bench = Bench::new();
            let file = |name: &str, content: &str, mode: u32| {
                let path = bench.path(name);
                fs::File::create(&path)
                    .and_then(|mut file| io::Write::write_all(&mut file, content.as_bytes()))
                    .unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                path
            };
            let plain = file("plain", "hello", 0o644);
            let script = file("script", "#!/opt/no/such/interpreter -x\n", 0o755);
            let dos = file("dos", "#!/bin/sh\r\nexit 0\r\n", 0o755);
            let noise = file("noise", "\u{1}\u{2}\u{3}", 0o755);
            let cases = [
                (
                    PathBuf::from("no-such-program-here"),
                    "start no-such-program-here: no such program in PATH".to_owned(),
                ),
                (
                    "/opt/no/such/program".into(),
                    "start /opt/no/such/program: no such file".to_owned(),
                ),
                (
                    plain.clone(),
                    format!(
                        "start {}: it is not executable; chmod +x it",
                        plain.display()
                    ),
                ),
                ("/usr".into(), "start /usr: it is a directory".to_owned()),
                (
                    script.clone(),
                    format!(
                        "start {}: its interpreter \"/opt/no/such/interpreter\" does not exist",
                        script.display()
                    ),
                ),
                (
                    dos.clone(),
                    format!(
                        "start {}: its interpreter \"/bin/sh\\r\" does not exist",
                        dos.display()
                    ),
                ),
                (
                    noise.clone(),
                    format!(
                        "start {}: not a program this machine can run (another architecture, or a script without #!)",
                        noise.display()
                    ),
                ),
            ];
            for (program, reason) in cases {
                let mut spec = sh("");
                spec.program = program;
                // Ours may have directories that this user must not search.
                spec.env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into();
                let failure = bench
                    .children
                    .spawn(&bench.agent, &bench.dirs, &spec)
                    .unwrap_err();
                assert_eq!(
                    failure,
                    SpawnFailure {
                        reason,
                        transient: false
                    }
                );
            }
            // Being written to: it may work the next time.
            let busy = bench.path("busy");
            fs::copy("/bin/true", &busy).unwrap();
            let writer = fs::OpenOptions::new().append(true).open(&busy).unwrap();
            let mut spec = sh("");
            spec.program = busy.clone();
            let failure = bench
                .children
                .spawn(&bench.agent, &bench.dirs, &spec)
                .unwrap_err();
            let reason = format!("start {}: it is being written to right now", busy.display());
            assert_eq!(
                failure,
                SpawnFailure {
                    reason,
                    transient: true
                }
            );
            drop(writer);
            let child = bench.spawn(&spec);
            assert_eq!(bench.exit_of(child.pid).await.status, ExitStatus::Code(0));
            assert_eq!(bench.children.orphans_reaped(), 0);
        },
    );
}

#[test]
fn an_agent_never_has_two_children() {
    isolated("exits::an_agent_never_has_two_children", async || {
        let mut bench = Bench::new();
        let child = bench.spawn_sh("exec sleep 600");
        let failure = bench
            .children
            .spawn(&bench.agent, &bench.dirs, &sh("true"))
            .unwrap_err();
        assert_eq!(
            failure.reason,
            format!(
                "start a child of alpha: process {} is still there",
                child.pid
            )
        );
        bench.children.signal(child.pid, 9, true, None).unwrap();
        bench.exit_of(child.pid).await;
        assert_eq!(bench.run_sh("true").await.status, ExitStatus::Code(0));
    });
}
