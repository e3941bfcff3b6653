//! A Docker Engine of the tests' own, with the image as `packaging/docker/build.sh` makes it, and containers on it.
//!
//! Promises: the engine shares nothing with one that the machine may run: directories, socket and network are its own;
//! tests that run at the same time share one engine, and the last of them ends it; whatever was made is gone then,
//! also after a failure. Every wait has a deadline.
//! Must never: hold a scenario.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{eventually, now};

/// The repository.
pub(super) const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// What an engine needs in order to stop with all its containers.
const STOP: Duration = Duration::from_secs(30);

/// How a program ended and what it said.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl Done {
    /// What it printed, if it ended with 0.
    pub(super) fn printed(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out.trim_end().to_owned()
    }
}

/// Runs a program to its end.
pub(super) fn done(command: &mut Command) -> Done {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    Done {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The static executable, built if its sources changed since; `ADJUTANT_STATIC` names another one.
pub(super) fn executable() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("ADJUTANT_STATIC") {
            return PathBuf::from(path);
        }
        let mut build = Command::new(Path::new(ROOT).join("packaging/static.sh"));
        // Where the tests themselves were built: <target>/<profile>/adjutant.
        let target = Path::new(env!("CARGO_BIN_EXE_adjutant"))
            .ancestors()
            .nth(2)
            .unwrap();
        PathBuf::from(done(build.env("CARGO_TARGET_DIR", target)).printed())
    })
}

/// A running engine.
#[derive(Debug)]
pub(super) struct Engine {
    daemon: Mutex<Child>,
    place: TempDir,
    /// The image without a shell.
    pub(super) image: String,
    /// The one with a shell.
    pub(super) debug: String,
}

impl Engine {
    /// The engine that all tests of this moment share.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Engine>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = shared.upgrade() {
            return engine;
        }
        let engine = Arc::new(Self::start());
        *shared = Arc::downgrade(&engine);
        engine
    }

    fn start() -> Self {
        for program in ["dockerd", "docker", "busybox"] {
            assert!(
                done(Command::new("sh").args(["-c", &format!("command -v {program}")])).code
                    == Some(0),
                "no {program} in PATH; tests/setup.sh installs what the tests need"
            );
        }
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "a Docker Engine needs root"
        );
        // Not below the target directory: paths of sockets are short.
        let place = tempfile::Builder::new()
            .prefix("adj-docker-")
            .tempdir_in("/tmp")
            .unwrap();
        let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
        let log = fs::File::create(place.path().join("log")).unwrap();
        let daemon = Command::new("dockerd")
            // Nothing of the host's network is to change.
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
            ])
            .args(["--bridge=none", "--cgroup-parent", &cgroup()])
            .args(["--storage-driver=vfs", "--data-root", &path("data")])
            .args(["--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["--host", &format!("unix://{}", path("docker.sock"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut engine = Self {
            daemon: Mutex::new(daemon),
            place,
            image: String::new(),
            debug: String::new(),
        };
        eventually("the Docker Engine answers", || {
            if let Some(status) = engine.daemon.lock().unwrap().try_wait().unwrap() {
                panic!("dockerd ended with {status}: {}", engine.log());
            }
            let version = engine.docker(&["version"]);
            (version.code == Some(0))
                .then_some(())
                .ok_or(version.err + &version.out)
        });
        let images = engine.build(&["--debug"]);
        let [image, debug] = &images[..] else {
            panic!("two images were wanted, not {images:?}");
        };
        engine.image.clone_from(image);
        engine.debug.clone_from(debug);
        engine
    }

    /// Builds images around the static executable, and returns their names.
    pub(super) fn build(&self, args: &[&str]) -> Vec<String> {
        let mut build = Command::new(Path::new(ROOT).join("packaging/docker/build.sh"));
        build.arg("--binary").arg(executable()).args(args);
        let names = done(self.aims(&mut build)).printed();
        names.lines().map(str::to_owned).collect()
    }

    /// Lets a command speak to this engine and no other.
    pub(super) fn aims<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let socket = self.place.path().join("docker.sock");
        command
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_CONFIG", self.place.path())
            .env("DOCKER_BUILDKIT", "0")
            .env_remove("DOCKER_CONTEXT")
    }

    /// Runs a command of the Docker command line.
    pub(super) fn docker(&self, args: &[&str]) -> Done {
        done(self.aims(Command::new("docker").args(args)))
    }

    /// The same for one that must end with 0.
    pub(super) fn must(&self, args: &[&str]) -> String {
        self.docker(args).printed()
    }

    /// A name that nothing else has.
    pub(super) fn name(what: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("adj-{what}-{}-{number}", std::process::id())
    }

    /// Starts a container: `docker run --detach` with these arguments, of which the image is one.
    pub(super) fn run(self: &Arc<Self>, args: &[&str]) -> Container {
        let name = Self::name("run");
        let mut line = vec!["run", "--detach", "--name", &name];
        line.extend(args);
        self.must(&line);
        Container {
            engine: Arc::clone(self),
            name,
        }
    }

    /// Runs a container to its end.
    pub(super) fn once(&self, args: &[&str]) -> Done {
        let mut line = vec!["run", "--rm"];
        line.extend(args);
        self.docker(&line)
    }

    /// A volume of its own, removed with its owner.
    pub(super) fn volume(self: &Arc<Self>) -> Volume {
        let name = self.must(&["volume", "create", &Self::name("state")]);
        Volume {
            engine: Arc::clone(self),
            name,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = self.docker(&["ps", "--all", "--quiet"]).out;
        for container in left.lines() {
            self.docker(&["rm", "--force", "--volumes", container]);
        }
        let daemon = self
            .daemon
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap());
        kill(pid, Signal::SIGTERM).ok();
        let deadline = now() + STOP;
        while matches!(daemon.try_wait(), Ok(None)) && now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if daemon.try_wait().is_ok_and(|status| status.is_none()) {
            // It ends its containerd with itself, unless it is killed.
            let containerd = self.place.path().join("exec/containerd/containerd.pid");
            let text = fs::read_to_string(containerd).unwrap_or_default();
            kill(pid, Signal::SIGKILL).ok();
            if let Ok(containerd) = text.trim().parse() {
                kill(Pid::from_raw(containerd), Signal::SIGKILL).ok();
            }
        }
        daemon.wait().ok();
        unmount_below(self.place.path());
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            // Only where there is one, and only empty ones.
            fs::remove_dir(hierarchy.path().join(cgroup().trim_start_matches('/'))).ok();
        }
        fs::remove_dir(Path::new("/sys/fs/cgroup").join(cgroup().trim_start_matches('/'))).ok();
    }
}

/// The control group above those of our containers.
fn cgroup() -> String {
    format!("/adj-docker-{}", std::process::id())
}

/// Whatever is still mounted there would keep the directory.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<&Path> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(Path::new))
        .filter(|point| point.starts_with(directory))
        .collect();
    points.sort();
    for point in points.into_iter().rev() {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH).ok();
    }
}

/// A volume.
#[derive(Debug)]
pub(super) struct Volume {
    engine: Arc<Engine>,
    pub(super) name: String,
}

impl Volume {
    /// The `--volume` argument that makes it the state.
    pub(super) fn state(&self) -> String {
        format!("{}:/var/lib/adjutant", self.name)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.engine.docker(&["volume", "rm", "--force", &self.name]);
    }
}

/// A container; dropped, it is killed and removed with its anonymous volumes.
#[derive(Debug)]
pub(super) struct Container {
    engine: Arc<Engine>,
    pub(super) name: String,
}

impl Container {
    /// What the engine says about it.
    pub(super) fn inspect(&self) -> Value {
        let text = self.engine.must(&["inspect", &self.name]);
        let mut list: Value = serde_json::from_str(&text).unwrap();
        list[0].take()
    }

    /// The process id of its first process, as the host has it.
    pub(super) fn pid(&self) -> u32 {
        u32::try_from(self.inspect()["State"]["Pid"].as_u64().unwrap()).unwrap()
    }

    /// What it wrote, both streams.
    pub(super) fn logs(&self) -> String {
        let done = self.engine.docker(&["logs", &self.name]);
        done.out + &done.err
    }

    /// Waits for a text in what it wrote.
    pub(super) fn says(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || {
            let logs = self.logs();
            if logs.contains(text) {
                return Ok(());
            }
            let state = &self.inspect()["State"];
            assert!(state["Running"] == true, "it ended: {state}\n{logs}");
            Err(logs)
        });
    }

    /// Runs a command inside.
    pub(super) fn exec(&self, args: &[&str]) -> Done {
        let mut line = vec!["exec", &self.name];
        line.extend(args);
        self.engine.docker(&line)
    }

    /// `adjutant status`, once the supervisor answers.
    pub(super) fn status(&self) -> Value {
        eventually("the supervisor answers", || {
            let done = self.exec(&["adjutant", "status", "--json"]);
            serde_json::from_str(&done.out).map_err(|_| format!("{done:?}\n{}", self.logs()))
        })
    }

    /// Waits until the supervisor's own check says healthy.
    pub(super) fn is_well(&self) {
        eventually("the health check passes", || {
            let done = self.exec(&["adjutant", "healthcheck"]);
            (done.code == Some(0))
                .then_some(())
                .ok_or_else(|| format!("{done:?}\n{}", self.logs()))
        });
    }

    /// Waits until the engine gives it this state of health.
    pub(super) fn health_is(&self, wanted: &str) {
        eventually(&format!("the engine says {wanted}"), || {
            let health = &self.inspect()["State"]["Health"];
            (health["Status"] == wanted)
                .then_some(())
                .ok_or_else(|| format!("{health}\n{}", self.logs()))
        });
    }

    /// `docker stop`, and how long that took.
    pub(super) fn stop(&self) -> Duration {
        let start = now();
        self.engine.must(&["stop", &self.name]);
        start.elapsed()
    }

    /// Waits for its end and returns its exit code.
    pub(super) fn code(&self) -> i64 {
        eventually("the container ends", || {
            let state = &self.inspect()["State"];
            match state["Running"].as_bool() {
                Some(false) => Ok(state["ExitCode"].as_i64().unwrap()),
                _ => Err(format!("{state}\n{}", self.logs())),
            }
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut shown = String::new();
            writeln!(shown, "--- {} wrote:\n{}---", self.name, self.logs()).ok();
            io::stderr().write_all(shown.as_bytes()).ok();
        }
        self.engine
            .docker(&["rm", "--force", "--volumes", &self.name]);
    }
}
