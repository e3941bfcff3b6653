//! Given the compose files as they are shipped,
//! when docker-compose brings them up,
//! then what runs is what they promise: nothing to be reached from outside, nothing writable but the state, and a way
//! out for engines with an old seccomp profile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use super::engine::{Done, Engine, ROOT, done};
use super::life::Files;
use crate::peers::{eventually, free_port};

/// A copy of `packaging/docker` that was brought up; taken down with its volumes.
struct Project {
    engine: Arc<Engine>,
    directory: tempfile::TempDir,
    name: String,
    files: Vec<&'static str>,
    variables: Vec<(&'static str, String)>,
}

impl Project {
    fn new(engine: &Arc<Engine>, files: &[&'static str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(shipped("")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
        }
        Self {
            engine: Arc::clone(engine),
            directory,
            name: Engine::name("compose"),
            files: files.to_vec(),
            variables: Vec::new(),
        }
    }

    /// More lines at the end of the settings.
    fn set(&self, more: &str) {
        let path = self.directory.path().join("supervisor.yaml");
        let text = fs::read_to_string(&path).unwrap();
        super::life::write(&path, &(text + more));
    }

    /// One more file beside the settings.
    fn put(&self, name: &str, text: &str) {
        super::life::write(&self.directory.path().join(name), text);
    }

    fn compose(&self, args: &[&str]) -> Done {
        let mut command = Command::new("docker-compose");
        command.arg("--project-name").arg(&self.name);
        for file in &self.files {
            command.arg("--file").arg(self.directory.path().join(file));
        }
        command.args(args).current_dir(self.directory.path());
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        done(self.engine.aims(&mut command))
    }

    /// Brings it up and returns what the engine says of its container.
    fn up(&self) -> Value {
        let up = self.compose(&["up", "--detach"]);
        assert_eq!(up.code, Some(0), "{up:?}");
        let id = self.compose(&["ps", "--quiet"]).printed();
        let text = self.engine.must(&["inspect", &id]);
        let mut list: Value = serde_json::from_str(&text).unwrap();
        list[0].take()
    }

    fn logs(&self) -> String {
        let logs = self.compose(&["logs", "--no-color"]);
        logs.out + &logs.err
    }

    fn is_well(&self) {
        eventually("the health check passes", || {
            let check =
                self.compose(&["exec", "-T", "adjutant", "/usr/bin/adjutant", "healthcheck"]);
            (check.code == Some(0))
                .then_some(())
                .ok_or_else(|| format!("{check:?}\n{}", self.logs()))
        });
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        self.compose(&["down", "--volumes", "--timeout", "15"]);
    }
}

fn shipped(name: &str) -> PathBuf {
    Path::new(ROOT).join("packaging/docker").join(name)
}

#[test]
fn the_compose_file_runs_without_root_and_publishes_nothing() {
    let engine = Engine::shared();
    let project = Project::new(&engine, &["compose.yaml"]);
    // Other tests listen on this host, too; all else is as it is shipped, the name of the image included.
    project.set("http: {listen: ['127.0.0.1:0']}\n");
    let container = project.up();
    project.is_well();
    assert_eq!(container["Config"]["Image"], engine.image);
    let host = &container["HostConfig"];
    assert_eq!(host["NetworkMode"], "host");
    assert_eq!(host["PortBindings"], json!({}));
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges:true"]));
    assert_eq!(host["RestartPolicy"]["Name"], "unless-stopped");
    assert_eq!(container["Config"]["StopTimeout"], 15);
    let writable: Vec<&Value> = container["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["RW"] == true)
        .map(|mount| &mount["Destination"])
        .collect();
    assert_eq!(writable, ["/var/lib/adjutant"]);
    // What is below the prefix is the host's: the identity of the machine, its names, its numbers.
    let status = project.compose(&[
        "exec",
        "-T",
        "adjutant",
        "/usr/bin/adjutant",
        "status",
        "--json",
    ]);
    let status: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(
        status["agents"][0]["status"], "waiting for config",
        "{status}"
    );
}

/// Takes OTLP on every address inside, as a data plane behind a published port has to, and prints it.
const OTLP: &str = "sources: {otlp: {kind: otlp, listen: '0.0.0.0:4318'}}
uploads: {out: {kind: console, from: [otlp], interval: 1s}}
";

const LOGS: &str = r#"{"resourceLogs": [{"scopeLogs": [{"logRecords": [
  {"timeUnixNano": "1700000000000000000", "body": {"stringValue": "hello from the host"}}]}]}]}"#;

#[test]
fn a_published_port_is_reached_on_loopback_alone() {
    let engine = Engine::shared();
    let mut project = Project::new(&engine, &["compose.ports.yaml", "collect.override.yaml"]);
    let port = free_port();
    project.variables = vec![
        ("ADJUTANT_HOSTNAME", "node-7".to_owned()),
        ("ADJUTANT_OTLP_HTTP_PORT", port.to_string()),
    ];
    project.set("    config_files: [/etc/adjutant/collect.yaml]\n");
    let put =
        |name: &str, text: &str| super::life::write(&project.directory.path().join(name), text);
    put("collect.yaml", OTLP);
    put(
        "collect.override.yaml",
        "version: '2.4'
services: {adjutant: {volumes: ['./collect.yaml:/etc/adjutant/collect.yaml:ro']}}
",
    );
    let container = project.up();
    project.is_well();
    assert_eq!(container["Config"]["Hostname"], "node-7");
    let send = |address: &str| {
        let url = format!("http://{address}:{port}/v1/logs");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "5"]);
        done(curl.args([
            "--header",
            "Content-Type: application/json",
            "--data",
            LOGS,
            &url,
        ]))
    };
    eventually("OTLP is taken at the published port", || {
        let answer = send("127.0.0.1");
        (answer.code == Some(0))
            .then_some(())
            .ok_or_else(|| format!("{answer:?}\n{}", project.logs()))
    });
    eventually("the record is in the container's log", || {
        let logs = project.logs();
        logs.contains("hello from the host")
            .then_some(())
            .ok_or(logs)
    });
    let networks = &container["NetworkSettings"]["Networks"];
    let gateway = networks
        .as_object()
        .and_then(|all| all.values().next()?["Gateway"].as_str())
        .unwrap();
    // The host's own address in the container's network: another network of the same host. 7: nobody listens.
    let refused = send(gateway);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    let wanted = json!({"4318/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}]});
    assert_eq!(container["HostConfig"]["PortBindings"], wanted);
}

#[test]
fn chosen_host_paths_take_the_place_of_the_whole_host() {
    let choose = |paths: &str| done(Command::new(shipped("host-paths.sh")).arg(paths));
    let whole = fs::read_to_string(shipped("compose.yaml")).unwrap();
    let line = "      - /:/host:ro\n";
    assert_eq!(whole.matches(line).count(), 1);
    assert_eq!(choose("/").out, whole);
    let wanted = "      - /proc:/host/proc:ro\n      - /var/log:/host/var/log:ro\n";
    assert_eq!(choose("/proc,/var/log").out, whole.replace(line, wanted));
    let ports = Command::new(shipped("host-paths.sh"))
        .arg("/proc")
        .arg(shipped("compose.ports.yaml"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&ports.stdout).contains("- /proc:/host/proc:ro"));
    for bad in ["", "proc", "/proc/", "/a/../b", "/a:/b", "/a b", "/a,,/b"] {
        let refused = choose(bad);
        assert_eq!(
            (refused.code, refused.out.as_str()),
            (Some(1), ""),
            "{bad:?}"
        );
        assert!(
            refused.err.starts_with("packaging/docker/host-paths.sh: "),
            "{refused:?}"
        );
    }

    let engine = Engine::shared();
    let mut project = Project::new(&engine, &["mine.yaml", "collect.override.yaml"]);
    project.variables = vec![("ADJUTANT_IMAGE", engine.debug.clone())];
    project
        .set("    config_files: [/etc/adjutant/collect.yaml]\nhttp: {listen: ['127.0.0.1:0']}\n");
    project.put("mine.yaml", &choose("/proc,/etc").out);
    project.put("collect.yaml", HOST);
    project.put("collect.override.yaml", COLLECT);
    project.up();
    project.is_well();
    let seen = project
        .compose(&["exec", "-T", "adjutant", "/bin/ls", "/host"])
        .printed();
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["etc", "proc"]);
    eventually("metrics of the host below its prefix", || {
        let logs = project.logs();
        let all = ["system.cpu.time", "system.network.io"]
            .iter()
            .all(|name| logs.contains(name));
        all.then_some(()).ok_or(logs)
    });
}

/// The host's numbers through what is shown of it.
const HOST: &str =
    "sources: {host: {kind: host_metrics, interval: 1s, root: /host, collectors: [cpu, network]}}
uploads: {out: {kind: console, from: [host], interval: 1s}}
";

/// On top of a compose file: `collect.yaml` beside the settings.
const COLLECT: &str = "version: '2.4'
services: {adjutant: {volumes: ['./collect.yaml:/etc/adjutant/collect.yaml:ro']}}
";

#[test]
fn an_engine_that_refuses_new_threads_is_named_and_our_profile_helps() {
    let engine = Engine::shared();
    let files = Files::new();
    let ours = shipped("seccomp.json");
    let text = fs::read_to_string(&ours).unwrap();
    assert_eq!(text.matches("\"clone3\", ").count(), 1);
    // What engines older than 20.10.10 do: whatever they do not know is not permitted.
    let old = files.put("old.json", &text.replace("\"clone3\", ", ""));
    let run = |profile: &Path| {
        let option = format!("seccomp={}", profile.display());
        engine.run(&["--network=none", "--security-opt", &option, &engine.image])
    };
    let refused = run(&old);
    assert_eq!(refused.code(), 1);
    let said = refused.logs();
    assert!(
        said.contains("seccomp profile that does not know clone3 refuses new threads"),
        "{said}"
    );
    assert!(
        said.contains(
            "use Docker Engine 20.10.10 or newer, or the profile packaging/docker/seccomp.json"
        ),
        "{said}"
    );
    assert!(said.contains("Operation not permitted"), "{said}");
    let helped = run(&ours);
    helped.is_well();
    drop(helped);

    // And by compose, all of the file.
    let project = Project::new(&engine, &["compose.yaml", "compose.seccomp.yaml"]);
    project.set("http: {listen: ['127.0.0.1:0']}\n");
    let container = project.up();
    project.is_well();
    let options = container["HostConfig"]["SecurityOpt"].to_string();
    assert!(options.contains("no-new-privileges:true"), "{options}");
    assert!(
        options.contains("clone3") && options.contains("SCMP_ACT_ERRNO"),
        "{options}"
    );
}

#[test]
fn kernel_events_get_two_capabilities_and_a_directory_of_the_host() {
    let engine = Engine::shared();
    // Engines as old as Debian 12's do not know the names of the capabilities, so it is looked at and not brought up;
    // `manifests` shows on the runtime below the engine that they are enough.
    let project = Project::new(&engine, &["compose.yaml", "compose.kernel.yaml"]);
    let config = project.compose(&["config"]).printed();
    for line in [
        "- BPF",
        "- PERFMON",
        "user: 0:0",
        "- /var/lib/adjutant:/var/lib/adjutant:rw",
        "- ALL",
    ] {
        assert!(
            config.lines().any(|it| it.trim() == line),
            "{line}\n{config}"
        );
    }
    // The two capabilities, and what everybody is denied.
    assert_eq!(
        config
            .matches("cap_add:\n    - BPF\n    - PERFMON\n    cap_drop:\n    - ALL\n")
            .count(),
        1,
        "{config}"
    );
    assert!(
        !config.contains("state:/var/lib/adjutant"),
        "the volume makes way: {config}"
    );
}
