//! Given an agent with a user, limits and a control group of its own,
//! when it is configured, reconfigured, probed, killed and stopped,
//! then every process of it runs as that user inside them, reads its config and nothing else of the state, and leaves
//! nothing behind.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::proc;
use super::rig::{Rig, have, lacks, lacks_root, wait_for, wait_until};

const USER: u32 = 54_321;

/// Says who it is and what it runs, and starts something that leaves its process group.
const CHILD: &str = r#"#!/bin/sh
read -r line < "$1/config.yaml"
case $line in *dies*) exit 3 ;; esac
setsid sleep 86400 &
printf '%s %s %s %s\n' "$line" "$(id -u)" "$(ulimit -Hn)" "$!" > running.tmp && mv running.tmp running
exec sleep 86400
"#;

fn open_to_others(rig: &Rig) {
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o711)).unwrap();
}

/// A control group of this machine's version 2 tree, removed in the end.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let place = mount.split(' ').nth(4)?;
        let path = PathBuf::from(place).join(format!("adjutant-it-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Some(Self(path))
    }

    fn groups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let groups = entries.filter(|it| it.file_type().unwrap().is_dir());
        groups.map(|it| it.path()).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for group in self.groups() {
            fs::remove_dir(group).ok();
        }
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn a_user_limits_and_a_group_hold_for_child_validator_and_probe_and_leave_nothing_behind() {
    if !have(lacks_root().or_else(|| lacks("setsid"))) {
        return;
    }
    let tree = Tree::new();
    let missing = tree
        .is_none()
        .then(|| "needs a tree of control groups of version 2".to_owned());
    if !have(missing) {
        return;
    }
    let tree = tree.unwrap();
    let rig = Rig::new(&format!(
        "cgroup_root: {}
agents:
  one:
    profile: generic
    executable: '{{dir}}/child'
    args: ['{{config_dir}}']
    validate: ['{{config_dir}}', check]
    user: {USER}
    group: {USER}
    rlimits: {{nofile: 512:1024}}
    proof: {{kind: exec, command: ['{{dir}}/probe', proof]}}
    health: {{kind: exec, command: ['{{dir}}/probe', health], interval: 100ms}}
    apply: {{probation: 200ms}}
",
        tree.0.display()
    ));
    open_to_others(&rig);
    let script = CHILD.replace(
        "setsid",
        "[ \"$2\" = check ] && { id -u > validated; exit 0; }\nsetsid",
    );
    rig.program("child", &script);
    rig.program("probe", "#!/bin/sh\nid -u > probed.$1\n");
    let supervisor = rig.start();
    for line in ["mode: first", "mode: second"] {
        rig.commit(line);
        let running = wait_for("what runs", || {
            rig.running("one").filter(|it| it.starts_with(line))
        });
        assert!(
            running.starts_with(&format!("{line} {USER} 1024 ")),
            "{running}"
        );
    }
    let work = rig.agent("one").join("work");
    for said in ["validated", "probed.health", "probed.proof"] {
        let text = wait_for(said, || {
            fs::read_to_string(work.join(said))
                .ok()
                .filter(|it| !it.is_empty())
        });
        assert_eq!(text.trim(), USER.to_string(), "{said}");
    }
    // What is not theirs is not theirs to read, and a rollback works across it.
    let mode = |path: &str| fs::metadata(rig.state().join(path)).unwrap().mode() & 0o777;
    assert_eq!(
        (mode(""), mode("agents"), mode("agents/one")),
        (0o711, 0o711, 0o710)
    );
    assert_eq!(mode("identity.json") & 0o077, 0);
    assert_eq!(mode("agents/one/journal") & 0o077, 0);
    assert_eq!(rig.apply("mode: dies").code, Some(10));
    let running = wait_for("what runs", || {
        rig.running("one")
            .filter(|it| it.starts_with("mode: second"))
    });
    // Its daemon is in its group, and a KILL of the child alone takes it along.
    let daemon: u32 = running.rsplit(' ').next().unwrap().parse().unwrap();
    let child = rig.agent_status("one").unwrap()["child"]["pid"]
        .as_u64()
        .unwrap();
    let child = u32::try_from(child).unwrap();
    let group = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        text.lines()
            .find(|line| line.starts_with("0::"))
            .unwrap()
            .to_owned()
    };
    wait_until("its daemon", || proc::is_alive(daemon));
    assert_eq!(group(child), group(daemon));
    proc::send(child, Signal::SIGKILL);
    wait_until("the end of what it left behind", || !proc::is_alive(daemon));
    supervisor.logs("left-over processes killed");
    wait_until("another child", || {
        rig.agent_status("one").is_some_and(|it| {
            it["child"]["pid"]
                .as_u64()
                .is_some_and(|pid| pid != u64::from(child))
        })
    });
    assert_eq!(tree.groups().len(), 1);
    assert_eq!(supervisor.stop().code(), Some(0));
    wait_until("no group to be left", || tree.groups().is_empty());
}

#[test]
fn our_own_data_plane_runs_as_another_user_over_its_socket() {
    if !have(lacks_root()) {
        return;
    }
    let rig = Rig::new(&format!(
        "agents:\n  one:\n    profile: adjutant\n    executable: '{{dir}}/adjutant'\n    user: {USER}\n    group: {USER}\n    \
         apply: {{probation: 200ms}}\n"
    ));
    open_to_others(&rig);
    // Where it was built may be closed to others.
    fs::copy(env!("CARGO_BIN_EXE_adjutant"), rig.path().join("adjutant")).unwrap();
    let supervisor = rig.start();
    let bundle = rig.write(
        "collect/collect.yaml",
        "sources: {host: {kind: host_metrics, interval: 1s}}\nuploads: {out: {kind: console, from: [host]}}\n",
    );
    let done = rig.cli(&[
        "apply",
        bundle.parent().unwrap().to_str().unwrap(),
        "--wait",
    ]);
    assert_eq!(done.code, Some(0), "{}\n{}", done.err, supervisor.log());
    let status = rig.agent_status("one").unwrap();
    assert_eq!(status["healthy"], true, "{status}");
    let pid = status["child"]["pid"].as_u64().unwrap();
    let owner = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(owner, USER);
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn another_user_without_root_is_refused_before_anything_starts() {
    if !have(lacks_root().or_else(|| lacks("setpriv"))) {
        return;
    }
    let rig =
        Rig::new("agents:\n  one:\n    profile: generic\n    executable: /bin/sh\n    user: 0\n");
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_adjutant"), rig.path().join("adjutant")).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid", "54321", "--regid", "54321", "--clear-groups"])
        .arg(rig.path().join("adjutant"))
        .args(["run", "--config"])
        .arg(rig.settings())
        .current_dir("/");
    let done = super::rig::done(&mut command);
    assert_eq!(done.code, Some(78), "{}", done.err);
    assert!(
        done.err
            .contains("agents.one.user: run its child as 0: only root may"),
        "{}",
        done.err
    );
}
