//! Given a state directory that is full, read-only, failing, or somebody else's,
//! when the supervisor starts or is told to apply,
//! then it refuses or survives with a message that names the place, the child goes on, nothing stored is lost, and it
//! works again when the disk does.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use super::rig::{Rig, done, have, lacks, lacks_root, wait_for, wait_until};
use super::tracer::{Fault, Thread, Tracer};

const NOBODY: u32 = 65534;

/// Something mounted on the state directory of a rig; dropped, it is gone.
struct Mounted(PathBuf);

impl Mounted {
    fn memory(rig: &Rig) -> Self {
        let state = state(rig);
        mount(
            Some("tmpfs"),
            &state,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=512k,mode=0700"),
        )
        .unwrap();
        Self(state)
    }

    /// A real file system on a file, which turns read-only on its first error.
    fn image(rig: &Rig) -> Self {
        let state = state(rig);
        let image = rig.path().join("disk.img");
        File::create(&image)
            .unwrap()
            .set_len(16 * 1024 * 1024)
            .unwrap();
        let made = done(Command::new("mkfs.ext4").arg("-q").arg(&image));
        assert_eq!(made.code, Some(0), "{}", made.err);
        let mounted = done(
            Command::new("mount")
                .args(["-o", "loop,errors=remount-ro"])
                .arg(&image)
                .arg(&state),
        );
        assert_eq!(mounted.code, Some(0), "{}", mounted.err);
        Self(state)
    }

    /// Whatever the kernel calls the device.
    fn device(&self) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == self.0.to_str())
            .unwrap();
        line.split(' ')
            .next()
            .unwrap()
            .trim_start_matches("/dev/")
            .to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

fn state(rig: &Rig) -> PathBuf {
    fs::create_dir_all(rig.state()).unwrap();
    // A name without links in it, as the mount table has it.
    rig.state().canonicalize().unwrap()
}

/// Writes until nothing fits any more.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [64 * 1024, 4096, 512, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
    path
}

/// The last step of the last rollout.
fn last(rig: &Rig) -> Value {
    rig.agent_status("one").unwrap()["history"][0].clone()
}

#[test]
fn a_full_disk_refuses_the_config_and_keeps_the_child() {
    if !have(lacks_root()) {
        return;
    }
    let rig = Rig::generic();
    let mounted = Mounted::memory(&rig);
    let supervisor = rig.start();
    rig.commit("mode: before");
    let (pid, before) = (rig.child(), last(&rig));
    let filler = fill(&mounted.0);

    let done = rig.apply(&format!("mode: full # {}", "x".repeat(100_000)));
    assert_eq!(done.code, Some(10), "{} {}", done.out, done.err);
    let state = rig.state().canonicalize().unwrap();
    assert!(done.err.contains("No space left on device"), "{}", done.err);
    assert!(done.err.contains(state.to_str().unwrap()), "{}", done.err);
    assert_eq!(rig.child(), pid);
    assert_eq!(rig.current("one").unwrap(), "mode: before");
    let status = rig.agent_status("one").unwrap();
    assert_eq!(status["status"], "running", "{status}");
    assert_eq!(before["step"], "committed");

    fs::remove_file(&filler).unwrap();
    rig.commit("mode: after");
    assert_eq!(rig.running("one").as_deref(), Some("mode: after"));
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_disk_full_at_start_runs_what_is_stored() {
    if !have(lacks_root()) {
        return;
    }
    let rig = Rig::generic();
    let mounted = Mounted::memory(&rig);
    let supervisor = rig.start();
    rig.commit("mode: stored");
    supervisor.stop();
    fill(&mounted.0);
    let supervisor = rig.start();
    let pid = rig.child();
    assert_eq!(rig.current("one").unwrap(), "mode: stored");
    let environment = super::proc::environment(pid);
    let directory = Path::new(&environment["ADJUTANT_CONFIG_DIR"]);
    assert_eq!(
        directory.canonicalize().unwrap(),
        rig.agent("one").join("current").canonicalize().unwrap()
    );
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn a_disk_that_turns_read_only_keeps_the_child_and_says_so() {
    if !have(lacks_root().or_else(|| lacks("mkfs.ext4"))) {
        return;
    }
    let rig = Rig::generic();
    let mounted = Mounted::image(&rig);
    let supervisor = rig.start();
    rig.commit("mode: before");
    let pid = rig.child();
    // What the kernel does itself when it finds the file system damaged.
    let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", mounted.device());
    File::options()
        .write(true)
        .open(&trigger)
        .and_then(|mut file| file.write_all(b"test"))
        .unwrap();
    wait_until("the disk to be read-only", || {
        File::create(mounted.0.join("probe")).is_err()
    });

    let done = rig.apply("mode: refused");
    assert_eq!(done.code, Some(10), "{} {}", done.out, done.err);
    assert!(done.err.contains("ead-only file system"), "{}", done.err);
    let state = mounted.0.to_str().unwrap();
    assert!(done.err.contains(state), "{}", done.err);
    assert_eq!(rig.child(), pid);
    assert_eq!(rig.current("one").unwrap(), "mode: before");

    // The child may still be restarted: that needs no disk.
    let done = rig.cli(&["restart"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    wait_until(
        "another child",
        || matches!(rig.children()[..], [only] if only != pid),
    );
    assert_eq!(rig.current("one").unwrap(), "mode: before");
    supervisor.stop();
    let done = rig.cli(&["run"]);
    assert_eq!(done.code, Some(5), "{}", done.err);
    assert!(done.err.starts_with("adjutant: "), "{}", done.err);
    assert!(done.err.contains(state), "{}", done.err);
    assert!(done.err.contains("ead-only file system"), "{}", done.err);
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
}

#[test]
fn a_file_where_the_state_directory_belongs_is_named() {
    let rig = Rig::generic();
    let path = rig.write("state", "not a directory");
    let done = rig.cli(&["run"]);
    assert_eq!(done.code, Some(5), "{}", done.err);
    assert!(done.err.contains("not a directory"), "{}", done.err);
    assert!(done.err.contains(path.to_str().unwrap()), "{}", done.err);
    assert_eq!(fs::read_to_string(path).unwrap(), "not a directory");
}

/// Runs a command of the rig as somebody else, with a copy of the program that everybody can reach.
fn as_nobody(rig: &Rig, args: &[&str]) -> Command {
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = rig.path().join("adjutant");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_adjutant"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(args).arg("--config").arg(rig.settings());
    command.uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn another_users_state_directory_is_refused_and_not_touched() {
    if !have(lacks_root()) {
        return;
    }
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: mine");
    supervisor.stop();
    fs::set_permissions(rig.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let done = done(&mut as_nobody(&rig, &["run"]));
    assert_eq!(done.code, Some(5), "{}", done.err);
    let state = rig.state();
    for part in [
        state.to_str().unwrap(),
        "belongs to user root (uid 0)",
        "65534",
        "change the owner",
    ] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
    assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    assert_eq!(rig.current("one").unwrap(), "mode: mine");
}

#[test]
fn a_user_without_root_runs_on_a_directory_of_its_own() {
    if !have(lacks_root()) {
        return;
    }
    let rig = Rig::generic();
    fs::create_dir(rig.state()).unwrap();
    chown(rig.state(), Some(NOBODY), Some(NOBODY)).unwrap();
    let supervisor = rig.launch(&mut as_nobody(&rig, &["run"]));
    supervisor.answers(&rig);
    rig.commit("mode: small");
    let owner = super::proc::status_line(rig.child(), "Uid").unwrap();
    assert_eq!(owner.split('\t').next(), Some("65534"), "{owner}");
    assert_eq!(supervisor.stop().code(), Some(0));
}

/// A disk that fails every one of `calls` while a config is applied.
fn failing(calls: &'static str, errno: &str, said: &str) {
    let fault = &Fault::error(calls, errno);
    if !Tracer::is_there() {
        return;
    }
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: before");
    let pid = rig.child();
    let tracer = Tracer::attach(&rig, supervisor.pid(), Thread::Disk, fault);
    let done = rig.apply("mode: refused");
    assert_eq!(done.code, Some(10), "{} {}", done.out, done.err);
    assert!(done.err.contains(said), "{}", done.err);
    let agent = rig.agent("one").canonicalize().unwrap();
    assert!(done.err.contains(agent.to_str().unwrap()), "{}", done.err);
    assert_eq!(rig.child(), pid, "{fault:?}: the child was touched");
    assert_eq!(rig.current("one").unwrap(), "mode: before");
    let status = rig.agent_status("one").unwrap();
    assert_eq!(status["status"], "running", "{status}");
    drop(tracer);
    rig.commit("mode: after");
    assert_eq!(rig.running("one").as_deref(), Some("mode: after"));
    // What the journal says after all that is read back whole.
    supervisor.kill();
    let supervisor = rig.start();
    let step = wait_for("the history", || {
        rig.agent_status("one")
            .map(|it| it["history"][0]["step"].clone())
    });
    assert_eq!(step, "committed");
    assert_eq!(rig.current("one").unwrap(), "mode: after");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn an_input_output_error_of_fsync_refuses_the_config() {
    failing("fsync", "EIO", "Input/output error");
}

#[test]
fn an_input_output_error_of_the_journal_refuses_the_config() {
    failing("fdatasync", "EIO", "Input/output error");
}

#[test]
fn no_space_at_fsync_refuses_the_config() {
    failing("fsync,fdatasync", "ENOSPC", "No space left on device");
}

#[test]
fn an_input_output_error_of_rename_refuses_the_config() {
    failing("rename", "EIO", "Input/output error");
}

#[test]
fn an_input_output_error_of_the_promotion_keeps_current() {
    if !Tracer::is_there() {
        return;
    }
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: before");
    let pid = rig.child();
    // The first rename gives the revision its name, the second replaces `current`.
    let fault = Fault::error_from("rename", "EIO", 2);
    let tracer = Tracer::attach(&rig, supervisor.pid(), Thread::Disk, &fault);
    let (code, body) = rig.offer(&[("config.yaml", "mode: refused\n")]);
    assert_eq!(code, 202, "{body}");
    // Nobody knows which target a crash would show now, so the way back is tried until the disk takes it.
    supervisor.logs("Input/output error");
    assert_eq!(rig.child(), pid);
    assert_eq!(rig.current("one").unwrap(), "mode: before");
    drop(tracer);
    let last = wait_for("the end of the rollout", || {
        let last = rig.agent_status("one")?["history"][0].clone();
        (last["over"] == true && last["step"] != "committed").then_some(last)
    });
    assert_eq!(last["step"], "rolled_back", "{last}");
    assert_eq!(rig.current("one").unwrap(), "mode: before");
    rig.commit("mode: after");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn no_space_at_rename_refuses_the_config() {
    failing("rename", "ENOSPC", "No space left on device");
}

#[test]
fn no_space_at_mkdir_refuses_the_config() {
    failing("mkdir", "ENOSPC", "No space left on device");
}

#[test]
fn a_disk_that_cannot_sync_at_the_first_start_is_named() {
    if !Tracer::is_there() {
        return;
    }
    let rig = Rig::generic();
    let fault = Fault::error("fsync,fdatasync", "EIO");
    let done = done(&mut Tracer::start(&rig, &rig.command(&["run"]), &fault));
    assert_eq!(done.code, Some(5), "{}", done.err);
    assert!(done.err.contains("adjutant: "), "{}", done.err);
    assert!(done.err.contains("Input/output error"), "{}", done.err);
    let state = rig.state();
    assert!(done.err.contains(state.to_str().unwrap()), "{}", done.err);
    let supervisor = rig.start();
    rig.commit("mode: later");
    assert_eq!(supervisor.stop().code(), Some(0));
}
