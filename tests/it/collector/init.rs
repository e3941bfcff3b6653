//! Given a Collector under a supervisor that is process 1 of a process id namespace,
//! when the Collector is killed, strangers leave orphans behind, or the supervisor is told to stop,
//! then the Collector is started again, every orphan is reaped, and the end is an orderly one.
//!
//! What other scenarios show of a supervisor that is process 1 they show in their modes `process_1_…`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::bench::{AgentForm, Bench, Reload, alive};
use crate::fleet::Kind;
use crate::peers::eventually;
use crate::robust::rig::{have, lacks, lacks_root};

/// Whether this machine lets us have a process id namespace. Says what is missing; in CI that fails.
pub(super) fn is_possible() -> bool {
    have(
        lacks_root()
            .or_else(|| lacks("unshare"))
            .or_else(|| lacks("nsenter")),
    )
}

/// Arguments of `unshare` that make a program process 1.
pub(super) fn arguments(program: &Path, args: Vec<String>) -> Vec<String> {
    let own = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let own = own.into_iter().map(str::to_owned);
    own.chain([program.display().to_string()])
        .chain(args)
        .collect()
}

/// Every process: its own number, its parent's, and its numbers from the outermost namespace to its own.
fn processes() -> Vec<(u32, u32, Vec<u64>)> {
    let entries = fs::read_dir("/proc").unwrap();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let look = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let parent = line("PPid:")?.trim().parse().ok()?;
        let inside = line("NSpid:")?.split_whitespace();
        Some((
            pid,
            parent,
            inside.filter_map(|it| it.parse().ok()).collect(),
        ))
    };
    numbers.filter_map(look).collect()
}

fn namespace(pid: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The process 1 that `unshare` has started.
pub(super) fn below(unshare: u32) -> u32 {
    eventually("process 1", || {
        let found = processes();
        let mut found = found.iter().filter(|(_, parent, _)| *parent == unshare);
        found
            .next()
            .map(|(pid, _, _)| *pid)
            .ok_or_else(|| "unshare has no child".to_owned())
    })
}

/// The number out here of the process that is `inner` in the namespace of `init`.
pub(super) fn outside(init: u32, inner: u64) -> Option<u64> {
    let wanted = namespace(init)?;
    let mut all = processes().into_iter();
    let found = all.find(|(pid, _, numbers)| {
        numbers.last() == Some(&inner) && namespace(*pid).as_ref() == Some(&wanted)
    });
    found.map(|(pid, _, _)| u64::from(pid))
}

/// The children of a process, zombies included.
fn offspring(pid: u32) -> Vec<u32> {
    let all = processes().into_iter();
    all.filter(|(_, parent, _)| *parent == pid)
        .map(|(pid, _, _)| pid)
        .collect()
}

/// Starts twenty processes in the namespace of `init` whose parents are gone at once.
fn leave_orphans(init: u32) {
    let script =
        "for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ( sleep 1 & ); done";
    let status = Command::new("nsenter")
        .args(["--target", &init.to_string(), "--pid", "sh", "-c", script])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn collector_is_kept_alive_and_orphans_are_reaped(reload: Reload) {
    let mut bench = Bench::new(Kind::OpampGo);
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let init = supervisor.process();
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");
    let first = supervisor.healthy();

    leave_orphans(init);
    assert!(offspring(init).len() > 10, "the orphans are process 1's");
    let killed = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL).unwrap();
    supervisor.until("another process", |status| {
        status["healthy"] == true && supervisor.pid().is_some_and(|pid| pid != first)
    });
    let second = supervisor.healthy();
    bench.flows("out.json");
    bench.healthy(&uid, true);
    eventually("nothing is left but the Collector", || {
        let left = offspring(init);
        let only = left.iter().all(|pid| u64::from(*pid) == second);
        only.then_some(()).ok_or_else(|| format!("{left:?}"))
    });
    assert!(!Path::new(&format!("/proc/{first}")).exists(), "reaped");
    supervisor.stop();
    assert!(!alive(second));
}

mod collector_is_kept_alive_and_orphans_are_reaped {
    use super::*;

    #[test]
    fn process_1_restart_opamp_go() {
        if is_possible() {
            collector_is_kept_alive_and_orphans_are_reaped(Reload::RestartBelowInit);
        }
    }

    #[test]
    fn process_1_hup_opamp_go() {
        if is_possible() {
            collector_is_kept_alive_and_orphans_are_reaped(Reload::HupBelowInit);
        }
    }
}
