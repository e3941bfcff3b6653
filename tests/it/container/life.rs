//! Given the supervisor as the first process of a container,
//! when it starts, is left orphans, falls ill and heals, or is told to stop,
//! then it does what a first process must, and what the engine shows of it is true.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::engine::Engine;
use crate::peers::{eventually, now};

/// Docker's patience before it kills.
const DOCKER_STOP: Duration = Duration::from_secs(10);

/// A directory for settings and programs; bind mounts make them readable inside, whoever owns the directory.
pub(super) struct Files(TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        write(&path, text);
        path
    }

    /// The `--volume` argument that shows a file inside.
    pub(super) fn mount(&self, name: &str, text: &str, inside: &str) -> String {
        format!("{}:{inside}:ro", self.put(name, text).display())
    }

    /// The same for settings.
    pub(super) fn settings(&self, text: &str) -> String {
        self.mount("supervisor.yaml", text, SETTINGS)
    }
}

pub(super) fn write(path: &Path, text: &str) {
    fs::File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

pub(super) const SETTINGS: &str = "/etc/adjutant/supervisor.yaml";

/// One agent that is a shell script; needs the image with a shell.
fn script(more: &str) -> String {
    format!(
        "http: {{listen: []}}
agents:
  one:
    profile: generic
    executable: /bin/sh
    args: ['{{config_file}}']
    config_files: [/etc/adjutant/agent.sh]
    main_file: agent.sh
    proof: {{kind: fresh_process, alive_for: 100ms}}
    apply: {{probation: 100ms}}
    restart: {{initial_delay: 100ms, max_delay: 500ms}}
{more}"
    )
}

#[test]
fn a_first_start_is_healthy_without_root_without_a_server_and_on_a_read_only_root() {
    let engine = Engine::shared();
    let start = now();
    let container = engine.run(&[
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--health-interval=1s",
        &engine.image,
    ]);
    let launched = start.elapsed();
    container.is_well();
    let well = start.elapsed();
    container.health_is("healthy");
    writeln!(
        std::io::stderr(),
        "docker run took {launched:.1?}; healthy by its own check after {well:.1?}"
    )
    .ok();
    let status = container.status();
    assert_eq!(
        status["agents"][0]["status"], "waiting for config",
        "{status}"
    );
    let owner = fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    assert!(
        owner.contains("\nUid:\t65532\t65532\t65532\t65532\n"),
        "{owner}"
    );
    assert!(owner.contains("\nCapEff:\t0000000000000000\n"), "{owner}");
    let took = container.stop();
    assert!(took < DOCKER_STOP, "{took:?}");
    assert_eq!(container.code(), 0);
}

#[test]
fn nothing_is_written_outside_of_the_state() {
    let engine = Engine::shared();
    let container = engine.run(&["--network=none", &engine.image]);
    container.is_well();
    assert_eq!(engine.must(&["diff", &container.name]), "");
    container.stop();
    assert_eq!(engine.must(&["diff", &container.name]), "");
}

/// Its orphans end after it has forgotten them, and the shell between is gone by then.
const ORPHANS: &str = "for number in 1 2 3 4 5 6 7 8 9 10; do
  ( ( sleep 0.3; exit 3 ) & )
done
exec sleep 86400
";

#[test]
fn orphans_are_adopted_and_reaped() {
    let engine = Engine::shared();
    let files = Files::new();
    let container = engine.run(&[
        "--network=none",
        "--volume",
        &files.settings(&script("")),
        "--volume",
        &files.mount("agent.sh", ORPHANS, "/etc/adjutant/agent.sh"),
        &engine.debug,
        "run",
        "--config",
        SETTINGS,
    ]);
    container.is_well();
    assert_eq!(container.status()["agents"][0]["status"], "running");
    // From a process that is none of ours, too.
    let strangers = "for number in 1 2 3 4 5; do ( ( sleep 0.3 ) & ); done; ( exec sleep 4242 & )";
    container.exec(&["/bin/sh", "-c", strangers]).printed();
    let listed = || {
        container
            .exec(&["/bin/ps", "-o", "ppid,stat,args"])
            .printed()
    };
    eventually("the long orphan has process 1 as its parent", || {
        let processes = listed();
        processes
            .lines()
            .any(|line| line.trim_start().starts_with("1 ") && line.ends_with("sleep 4242"))
            .then_some(())
            .ok_or(processes)
    });
    eventually("no orphan is left, dead or alive", || {
        let processes = listed();
        let left = processes.contains("sleep 0.3") || processes.contains('Z');
        (!left).then_some(()).ok_or(processes)
    });
    assert_eq!(container.status()["agents"][0]["restarts"], 0);
}

/// Works as long as nobody says that it is broken.
const FRAIL: &str = "[ ! -e /var/lib/adjutant/broken ] || { echo out of order >&2; exit 3; }
exec sleep 86400
";

#[test]
fn health_flips_and_heals_by_itself() {
    let engine = Engine::shared();
    let files = Files::new();
    let container = engine.run(&[
        "--network=none",
        "--health-interval=1s",
        "--health-retries=2",
        "--health-start-period=0s",
        "--volume",
        &files.settings(&script("")),
        "--volume",
        &files.mount("agent.sh", FRAIL, "/etc/adjutant/agent.sh"),
        &engine.debug,
        "run",
        "--config",
        SETTINGS,
    ]);
    container.health_is("healthy");
    container
        .exec(&[
            "/bin/sh",
            "-c",
            "touch /var/lib/adjutant/broken; kill $(pidof sleep)",
        ])
        .printed();
    container.health_is("unhealthy");
    let health = container.inspect()["State"]["Health"]["Log"].to_string();
    assert!(
        health.contains("agent.one"),
        "the check names the agent: {health}"
    );
    // Whatever was wrong is mended; nobody restarts anything.
    container
        .exec(&["/bin/rm", "/var/lib/adjutant/broken"])
        .printed();
    container.health_is("healthy");
    assert_eq!(container.inspect()["RestartCount"], 0);
}

#[test]
fn a_frozen_supervisor_is_unhealthy_until_it_goes_on() {
    let engine = Engine::shared();
    let container = engine.run(&[
        "--network=none",
        "--health-interval=1s",
        "--health-timeout=2s",
        "--health-retries=1",
        &engine.image,
    ]);
    container.health_is("healthy");
    // The first process of a namespace does not hear STOP from inside; from the host it does.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(container.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    container.health_is("unhealthy");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    container.health_is("healthy");
}

/// Does not hear TERM, and neither does what it starts.
const DEAF: &str = "trap '' TERM
sh -c 'trap \"\" TERM; while :; do sleep 1; done' &
while :; do sleep 1; done
";

#[test]
fn what_does_not_listen_is_killed_inside_dockers_patience() {
    let engine = Engine::shared();
    let files = Files::new();
    let container = engine.run(&[
        "--network=none",
        "--volume",
        &files.settings(&script("")),
        "--volume",
        &files.mount("agent.sh", DEAF, "/etc/adjutant/agent.sh"),
        &engine.debug,
        "run",
        "--config",
        SETTINGS,
    ]);
    eventually("the deaf child runs", || {
        let status = container.status()["agents"][0]["status"].clone();
        (status == "running")
            .then_some(())
            .ok_or_else(|| status.to_string())
    });
    let took = container.stop();
    assert!(took < DOCKER_STOP, "{took:?}");
    // Ours, not 137 of somebody who was killed.
    assert_eq!(container.code(), 9, "{}", container.logs());
}

/// Reads every second, takes lines, and delivers to somebody who never answers.
const LOADED: &str = "sources:
  host: {kind: host_metrics, interval: 1s, root: /host}
  lines: {kind: unix_socket, path: /run/app/log.sock, mode: '0666'}
uploads:
  nobody: {kind: otlp_http, endpoint: 'http://127.0.0.1:{port}', from: [host, lines], interval: 1s}
";

/// A memory limit under which all of it works, and by far not the smallest one.
const MEMORY: &str = "--memory=64m";

#[test]
fn under_load_in_little_memory_it_stops_inside_its_budget() {
    let engine = Engine::shared();
    let files = Files::new();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = deaf.local_addr().unwrap().port().to_string();
    let sockets = files.path("sockets");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(
        &sockets,
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let settings = "http: {listen: []}
agents:
  collector: {profile: adjutant, config_files: [/etc/adjutant/collect.yaml], apply: {probation: 1s}}
";
    let container = engine.run(&[
        "--network=host",
        "--read-only",
        "--cap-drop=ALL",
        MEMORY,
        "--volume=/:/host:ro",
        "--volume",
        &format!("{}:/run/app", sockets.display()),
        "--volume",
        &files.settings(settings),
        "--volume",
        &files.mount(
            "collect.yaml",
            &LOADED.replace("{port}", &port),
            "/etc/adjutant/collect.yaml",
        ),
        &engine.image,
        "run",
        "--config",
        SETTINGS,
    ]);
    let mut stream = eventually("the data plane's socket", || {
        std::os::unix::net::UnixStream::connect(sockets.join("log.sock"))
            .map_err(|error| format!("{error}\n{}", container.logs()))
    });
    let flood = std::thread::spawn(move || {
        let line = format!("{{\"message\": \"{}\"}}\n", "x".repeat(500)).repeat(100);
        let mut count = 0_u64;
        // Until nobody listens any more.
        while stream.write_all(line.as_bytes()).is_ok() {
            count += 100;
        }
        count
    });
    // Somebody who takes connections and says nothing.
    let held = deaf.accept().unwrap();
    container.is_well();
    let state = container.inspect();
    assert_eq!(state["State"]["OOMKilled"], false);
    assert_eq!(container.status()["agents"][0]["restarts"], 0);
    let took = container.stop();
    let count = flood.join().unwrap();
    drop(held);
    writeln!(
        std::io::stderr(),
        "docker stop under load took {took:.1?} ({count} lines were written until then, {MEMORY})"
    )
    .ok();
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert_eq!(container.code(), 0, "{}", container.logs());
    assert!(count > 1000, "{count}");
}
