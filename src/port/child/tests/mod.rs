//! Real processes under the real machinery.
//!
//! A reaper takes every exit of its process, and tests run side by side in one process: so each test runs itself again
//! in a process of its own ([`isolated`]), where it is alone. Nothing waits by sleeping: every wait is for a condition
//! and has a deadline.

mod exits;
#[cfg(feature = "isolation")]
mod isolation;
mod leftovers;
mod outputs;
mod tools;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::*;
use crate::engine::message::{ChildIdentity, Exit, SpawnSpec};

/// Set in the process that runs one test alone.
const ALONE: &str = "ADJUTANT_TEST_ALONE";
/// No condition of these tests takes longer on a busy machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `body` in a process of its own on the runtime that the product uses. `name` is the test's path below this
/// module.
pub(super) fn isolated<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    isolated_with(name, |command| command, body);
}

/// Like [`isolated`], with a say in how the process is started.
pub(super) fn isolated_with<F: Future<Output = ()>>(
    name: &str,
    start: impl FnOnce(Command) -> Command,
    body: impl FnOnce() -> F,
) {
    if std::env::var_os(ALONE).is_some() {
        let _nobody_stays = KillDescendants;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(body());
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(test_arguments(name)).env(ALONE, "1");
    let output = start(command).output().unwrap();
    assert_passed(&output);
}

/// Leaves no process behind, also when the test fails. Orphans come to us, so that rounds of "kill all children" end.
struct KillDescendants;

impl Drop for KillDescendants {
    fn drop(&mut self) {
        for _ in 0..100 {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let children: String = tasks
                .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
                .collect();
            if children.is_empty() {
                return;
            }
            for child in children.split_ascii_whitespace() {
                let child = process(child.parse().unwrap()).unwrap();
                // It may be gone, or somebody else's by now: the next round looks again.
                _ = kill(child, Signal::SIGKILL);
                _ = nix::sys::wait::waitpid(child, None);
            }
        }
    }
}

pub(super) fn test_arguments(name: &str) -> [String; 4] {
    let path = format!("port::child::tests::{name}");
    // Whoever asks for one that needs a privilege has decided that already.
    ["--exact", "--nocapture", "--include-ignored", &path].map(str::to_owned)
}

pub(super) fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// One agent with its directories and the machinery.
pub(super) struct Bench {
    pub(super) root: tempfile::TempDir,
    pub(super) agent: AgentName,
    pub(super) dirs: ChildDirs,
    pub(super) children: Children,
}

impl Bench {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Self::at(root)
    }

    pub(super) fn at(root: tempfile::TempDir) -> Self {
        Self::in_group(root, CgroupRoot::Off)
    }

    pub(super) fn in_group(root: tempfile::TempDir, cgroup_root: CgroupRoot) -> Self {
        let dirs = dirs(root.path());
        Self {
            root,
            agent: agent(),
            dirs,
            children: Children::new(&Options {
                pid1: std::process::id() == 1,
                cgroup_root,
            })
            .unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(super) fn spawn(&mut self, spec: &SpawnSpec) -> ChildIdentity {
        self.children.spawn(&self.agent, &self.dirs, spec).unwrap()
    }

    pub(super) fn spawn_sh(&mut self, script: &str) -> ChildIdentity {
        self.spawn(&sh(script))
    }

    /// Runs a shell script as the child to its end.
    pub(super) async fn run_sh(&mut self, script: &str) -> Exit {
        let child = self.spawn_sh(script);
        self.exit_of(child.pid).await
    }

    pub(super) async fn exit_of(&mut self, wanted: u32) -> Exit {
        match self.event().await {
            ChildrenEvent::Exited { agent, pid, exit } => {
                assert_eq!((agent, pid), (self.agent.clone(), wanted));
                exit
            }
            event @ ChildrenEvent::ToolDone { .. } => panic!("{event:?}"),
        }
    }

    pub(super) async fn event(&mut self) -> ChildrenEvent {
        tokio::time::timeout(DEADLINE, self.children.next())
            .await
            .expect("an event before the deadline")
    }

    /// Drives the machinery until the condition holds; no event may come meanwhile.
    pub(super) async fn until(&mut self, what: &str, mut condition: impl FnMut(&Children) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(&self.children) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            let turn = Duration::from_millis(5);
            if let Ok(event) = tokio::time::timeout(turn, self.children.next()).await {
                panic!("while waiting for {what}: {event:?}");
            }
        }
    }

    /// Waits until a file holds a whole line and answers it.
    pub(super) async fn line_in(&mut self, file: &Path) -> String {
        let mut line = String::new();
        self.until("a line in a file", |_| {
            line = std::fs::read_to_string(file).unwrap_or_default();
            line.ends_with('\n')
        })
        .await;
        line.trim_end().to_owned()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dirs.log_file(&self.agent)).unwrap_or_default()
    }
}

pub(super) fn agent() -> AgentName {
    "alpha".parse().unwrap()
}

pub(super) fn dirs(root: &Path) -> ChildDirs {
    let rotation = Rotation {
        bytes: 64 * 1024 * 1024,
        files: 2,
    };
    ChildDirs::below(root, rotation)
}

pub(super) fn sh(script: &str) -> SpawnSpec {
    SpawnSpec {
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: BTreeMap::new(),
        inherit: Vec::new(),
        passthrough: false,
        death_signal: None,
        note: ChildNote::default(),
        process: crate::config::Process::default(),
    }
}

/// Whether a process of this number is there and not a zombie.
pub(super) fn is_alive(pid: &str) -> bool {
    Stat::read(pid.parse().unwrap()).is_some_and(Stat::is_alive)
}
