//! Users, limits, masks and control groups of real processes. As root: another user cannot be had otherwise.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::config::{Account, CgroupLimits, CgroupRoot, Limit, LimitKind, Process};
use crate::engine::message::{ExitStatus, ToolEnd, ToolSpec};
use crate::sys::durable::{Disk as _, RealDisk};

fn stranger() -> Account {
    Account {
        name: "54321".to_owned(),
        uid: 54_321,
        gid: 54_322,
        groups: vec![54_322, 54_323],
        home: Some("/srv/stranger".into()),
    }
}

fn with(script: &str, process: Process) -> SpawnSpec {
    SpawnSpec {
        process,
        ..sh(script)
    }
}

/// A state directory with one agent and a revision, as the product lays them out.
fn state() -> (tempfile::TempDir, PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let root = state.path().join("agents/alpha");
    for directory in [
        "agents",
        "agents/alpha",
        "agents/alpha/revisions",
        "agents/alpha/revisions/1-a",
        "credentials",
    ] {
        RealDisk
            .create_dir(&state.path().join(directory), 0o700)
            .unwrap();
    }
    for file in [
        "adjutant.lock",
        "identity.json",
        "credentials/token",
        "agents/alpha/journal",
        "agents/alpha/revisions/1-a/config.yaml",
    ] {
        RealDisk
            .write_file(&state.path().join(file), b"text\n", 0o600)
            .unwrap();
    }
    std::os::unix::fs::symlink("revisions/1-a", root.join("current")).unwrap();
    (state, root)
}

#[test]
#[ignore = "another user needs root"]
fn a_child_runs_as_its_user_and_sees_no_more_of_the_state_than_it_needs() {
    isolated(
        "isolation::a_child_runs_as_its_user_and_sees_no_more_of_the_state_than_it_needs",
        async || {
            let (state, root) = state();
            let mut bench = Bench::at(state);
            bench.dirs = dirs(&root);
            let all = bench.root.path().display();
            let script = format!(
                "id -u; id -g; id -G; echo $HOME; umask; pwd; grep NoNewPrivs /proc/self/status; \
                 cat {all}/agents/alpha/current/config.yaml; echo made > made && cat made; \
                 echo again > /dev/stderr; \
                 for secret in identity.json credentials/token agents/alpha/journal; do \
                 cat {all}/$secret 2>/dev/null && echo READ; done; \
                 ls {all} 2>/dev/null && echo LISTED; \
                 echo x > {all}/agents/alpha/current/config.yaml && echo WRITTEN; exit 7"
            );
            let process = Process {
                account: Some(stranger()),
                no_new_privileges: Some(true),
                umask: Some(0o027),
                ..Process::default()
            };
            let child = bench.spawn(&with(&script, process.clone()));
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.status, ExitStatus::Code(7), "{}", exit.tail);
            let lines: Vec<&str> = exit
                .tail
                .lines()
                .filter(|it| !it.contains("denied"))
                .collect();
            let work = root.join("work").canonicalize().unwrap();
            let wanted = [
                "54321",
                "54322",
                "54322 54323",
                "/srv/stranger",
                "0027",
                work.to_str().unwrap(),
                "NoNewPrivs:\t1",
                "text",
                "made",
                "again",
            ];
            let mut sorted = lines.clone();
            sorted.sort_unstable();
            let mut expected = wanted.to_vec();
            expected.sort_unstable();
            assert_eq!(sorted, expected, "{}", exit.tail);
            let made = root.join("work/made").metadata().unwrap();
            assert_eq!(
                (made.uid(), made.gid(), made.mode() & 0o777),
                (54_321, 54_322, 0o640)
            );

            // A revision that comes later is opened by whoever writes it.
            let later = root.join("revisions/2-b");
            RealDisk.create_dir(&later, 0o700).unwrap();
            RealDisk
                .write_file(&later.join("config.yaml"), b"later\n", 0o600)
                .unwrap();
            crate::sys::share::follow(&root.join("revisions")).unwrap();
            let script = format!("id -u; cat {}/config.yaml", later.display());
            let spec = ToolSpec {
                program: "/bin/sh".into(),
                args: vec!["-c".to_owned(), script],
                env: BTreeMap::new(),
                inherit: Vec::new(),
                timeout: DEADLINE,
                output_max: 1024,
                process,
            };
            bench
                .children
                .run_tool(&bench.agent, &bench.dirs, Ticket(1), &spec);
            let ChildrenEvent::ToolDone { outcome, .. } = bench.event().await else {
                panic!("no tool");
            };
            assert_eq!(
                (outcome.end, outcome.output.as_str()),
                (ToolEnd::Exited(0), "54321\nlater\n")
            );

            // Without a user everything is closed again.
            let child = bench.spawn_sh("id -u");
            assert_eq!(bench.exit_of(child.pid).await.tail, "0");
            let rights = root.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(rights, 0o700);
        },
    );
}

#[test]
#[ignore = "an address space that is limited after a change of the user needs root"]
fn limits_hold_and_one_that_is_refused_names_itself() {
    isolated(
        "isolation::limits_hold_and_one_that_is_refused_names_itself",
        async || {
            let mut bench = Bench::new();
            let limit = |kind, soft, hard| Limit { kind, soft, hard };
            let process = Process {
                limits: vec![
                    limit(LimitKind::Nofile, 100, 200),
                    limit(LimitKind::Core, 0, 0),
                    limit(LimitKind::Memlock, 65_536, 65_536),
                ],
                ..Process::default()
            };
            let script = "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -l";
            let child = bench.spawn(&with(script, process));
            assert_eq!(bench.exit_of(child.pid).await.tail, "100\n200\n0\n64");

            // Without the right to it: told with the limit and the remedy, and nothing runs.
            nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK, 4096, 4096)
                .unwrap();
            nix::unistd::setresuid(
                nix::unistd::Uid::from_raw(54_321),
                nix::unistd::Uid::from_raw(54_321),
                nix::unistd::Uid::from_raw(54_321),
            )
            .unwrap();
            bench.dirs = dirs(tempfile::tempdir().unwrap().keep().as_path());
            let above = Process {
                limits: vec![
                    limit(LimitKind::Core, 0, 0),
                    limit(LimitKind::Memlock, 8192, 8192),
                ],
                ..Process::default()
            };
            let failure = bench
                .children
                .spawn(&bench.agent, &bench.dirs, &with("true", above))
                .unwrap_err();
            assert_eq!(
                failure.reason,
                "start /bin/sh: limit its memlock to 8192:8192: Operation not permitted (os error 1); the second \
                 number is above our own hard limit, and only root may go there"
            );
            assert!(!failure.transient);
            let other = Process {
                account: Some(Account {
                    uid: 1,
                    ..stranger()
                }),
                ..Process::default()
            };
            assert_eq!(
                check(&other).unwrap_err(),
                "run its child as 54321: only root may, or a process with the capabilities SETUID and SETGID"
            );
            std::fs::remove_dir_all(bench.dirs.work.parent().unwrap()).unwrap();
        },
    );
}

#[test]
fn a_working_directory_is_used_and_one_that_is_not_there_is_named() {
    isolated(
        "isolation::a_working_directory_is_used_and_one_that_is_not_there_is_named",
        async || {
            let mut bench = Bench::new();
            let here = tempfile::tempdir().unwrap();
            let place = here.path().canonicalize().unwrap();
            let process = Process {
                directory: Some(place.clone()),
                ..Process::default()
            };
            let child = bench.spawn(&with("pwd", process));
            assert_eq!(
                bench.exit_of(child.pid).await.tail,
                place.display().to_string()
            );
            let gone = Process {
                directory: Some("/no/such/place".into()),
                ..Process::default()
            };
            let failure = bench
                .children
                .spawn(&bench.agent, &bench.dirs, &with("pwd", gone))
                .unwrap_err();
            assert_eq!(
                failure.reason,
                "go to the working directory /no/such/place: No such file or directory (os error 2)"
            );
        },
    );
}

/// A control group of this machine's version 2 tree for one test; removed with what is in it.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .expect("a tree of control groups of version 2; mount -t cgroup2 none /sys/fs/cgroup/unified");
        let path =
            PathBuf::from(mount).join(format!("adjutant-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn groups(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).unwrap().flatten();
        entries
            .filter(|it| it.file_type().unwrap().is_dir())
            .map(|it| it.path())
            .collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for group in self.groups() {
            std::fs::remove_dir(group).ok();
        }
        std::fs::remove_dir(&self.0).ok();
    }
}

#[test]
#[ignore = "control groups of the machine need root"]
fn a_kill_reaches_what_left_the_process_group_and_a_left_over_daemon_is_killed_with_its_parent() {
    isolated(
        "isolation::a_kill_reaches_what_left_the_process_group_and_a_left_over_daemon_is_killed_with_its_parent",
        async || {
            let tree = Tree::new("kill");
            let root = tempfile::tempdir().unwrap();
            let mut bench = Bench::in_group(root, CgroupRoot::At(tree.0.clone()));
            let file = bench.path("daemon");
            let script = |then: &str| {
                format!(
                    "setsid sh -c 'trap \"\" TERM HUP; echo $$ > {}; exec sleep 600' & {then}",
                    file.display()
                )
            };
            let child = bench.spawn_sh(&script("exec sleep 600"));
            let daemon = bench.line_in(&file).await;
            let membership = |pid: &str| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
                text.lines()
                    .find(|line| line.starts_with("0::"))
                    .unwrap()
                    .to_owned()
            };
            let (of_child, of_daemon) = (membership(&child.pid.to_string()), membership(&daemon));
            assert_eq!(of_child, of_daemon);
            assert!(of_child.ends_with("-alpha"), "{of_child}");
            assert_eq!(tree.groups().len(), 1);
            bench.children.signal(child.pid, 9, true, None).unwrap();
            bench.exit_of(child.pid).await;
            bench
                .until("the daemon is gone", |_| !is_alive(&daemon))
                .await;

            // The parent ends by itself, the daemon stays: it is killed before a new child could meet it.
            std::fs::remove_file(&file).unwrap();
            let child = bench.spawn_sh(&script(
                "while [ ! -s daemon.seen ]; do sleep 0.01; done; exit 3",
            ));
            let daemon = bench.line_in(&file).await;
            RealDisk
                .write_file(&bench.dirs.work.join("daemon.seen"), b"x", 0o600)
                .unwrap();
            let exit = bench.exit_of(child.pid).await;
            assert_eq!(exit.status, ExitStatus::Code(3));
            bench
                .until("the daemon is gone", |_| !is_alive(&daemon))
                .await;
            // Orphans are reaped, and with the last of them goes the group.
            bench
                .until("no group is left", |_| tree.groups().is_empty())
                .await;
        },
    );
}

#[test]
fn limits_are_written_as_the_kernel_reads_them_and_none_keeps_a_child_down() {
    isolated(
        "isolation::limits_are_written_as_the_kernel_reads_them_and_none_keeps_a_child_down",
        async || {
            let tree = tempfile::tempdir().unwrap();
            let put = |name: &str, text: &str| {
                RealDisk
                    .write_file(&tree.path().join(name), text.as_bytes(), 0o600)
                    .unwrap();
            };
            put("cgroup.controllers", "memory pids\n");
            put("cgroup.subtree_control", "");
            put("cgroup.procs", "");
            let root = CgroupRoot::At(tree.path().to_owned());
            let mut groups = cgroup::Groups::find(&root);
            let limits = CgroupLimits {
                memory_max: Some(64 << 20),
                memory_high: None,
                cpu_percent: None,
                pids_max: Some(9),
            };
            let agent = agent();
            // The files of a group come with it; here we put them there.
            groups
                .prepare(&agent, "m", &CgroupLimits::default())
                .unwrap();
            let group = std::fs::read_dir(tree.path())
                .unwrap()
                .flatten()
                .map(|it| it.path())
                .find(|it| it.is_dir())
                .unwrap();
            let within = |name: &str| group.join(name);
            for name in ["memory.max", "memory.high", "pids.max"] {
                RealDisk.write_file(&within(name), b"", 0o600).unwrap();
            }
            groups.prepare(&agent, "m", &limits).unwrap();
            let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
            assert_eq!(text(within("memory.max")), "67108864");
            assert_eq!(text(within("memory.high")), "max");
            assert_eq!(text(within("pids.max")), "9");
            let on = text(tree.path().join("cgroup.subtree_control"));
            assert!(on.starts_with("+memory") || on.starts_with("+pids"), "{on}");
            // A limit without its controller keeps nobody down.
            let cpu = CgroupLimits {
                cpu_percent: Some(150),
                ..CgroupLimits::default()
            };
            assert!(groups.prepare(&agent, "m", &cpu).is_some());
            // Nothing given at all: no group, and the child runs.
            let mut none = cgroup::Groups::find(&CgroupRoot::Off);
            assert!(none.prepare(&agent, "m", &cpu).is_none());
        },
    );
}
