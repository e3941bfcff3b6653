//! Given the runtime below Docker and Kubernetes alike,
//! when it starts the image as user 0 with the two capabilities of the kernel-events manifest and no other,
//! then the supervisor has just these, kernel events are reported, and the data plane has none of them any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use super::engine::{Done, Engine, done};
use super::life::{SETTINGS, write};
use crate::peers::eventually;

const SUPERVISOR: &str = "http: {listen: []}
agents:
  collector: {profile: adjutant, passthrough_logs: true, config_files: [/etc/adjutant/collect.yaml]}
";

const KERNEL: &str = "sources: {kernel: {kind: kernel, events: [exec]}}
uploads: {out: {kind: console, from: [kernel], interval: 1s}}
";

/// A container of runc alone.
struct Bundle {
    place: tempfile::TempDir,
    name: String,
}

impl Bundle {
    /// Lays out the image's files and a config with these capabilities.
    fn new(engine: &Arc<Engine>, capabilities: &[&str]) -> Self {
        let bundle = Self {
            place: tempfile::Builder::new()
                .prefix("adj-runc-")
                .tempdir_in("/tmp")
                .unwrap(),
            name: Engine::name("runc"),
        };
        let rootfs = bundle.path("rootfs");
        fs::create_dir(&rootfs).unwrap();
        fs::create_dir(bundle.path("state")).unwrap();
        let name = Engine::name("export");
        engine.must(&["create", "--name", &name, &engine.image]);
        let mut export = Command::new("sh");
        export.args([
            "-c",
            "docker export \"$0\" | tar --extract --directory \"$1\"",
            &name,
        ]);
        assert_eq!(done(engine.aims(export.arg(&rootfs))).code, Some(0));
        engine.must(&["rm", "--volumes", &name]);

        let spec = done(bundle.runc(&["spec", "--bundle"]).arg(bundle.place.path()));
        assert_eq!(spec.code, Some(0), "{spec:?}");
        let path = bundle.path("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["args"] = json!(["/usr/bin/adjutant", "run", "--config", SETTINGS]);
        process["env"] = json!(["PATH=/usr/bin", "XDG_STATE_HOME=/var/lib"]);
        process["noNewPrivileges"] = json!(true);
        process["capabilities"] = json!({
            "bounding": capabilities, "permitted": capabilities, "effective": capabilities
        });
        config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.name));
        let settings = bundle.path("settings");
        fs::create_dir(&settings).unwrap();
        write(&settings.join("supervisor.yaml"), SUPERVISOR);
        write(&settings.join("collect.yaml"), KERNEL);
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (inside, outside, mode) in [
            ("/var/lib/adjutant", bundle.path("state"), "rw"),
            ("/etc/adjutant", settings, "ro"),
            ("/sys/fs/cgroup", PathBuf::from("/sys/fs/cgroup"), "ro"),
        ] {
            mounts.retain(|mount| mount["destination"] != inside);
            mounts.push(json!({
                "destination": inside, "type": "bind", "source": outside, "options": ["rbind", mode]
            }));
        }
        write(&path, &config.to_string());
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn runc(&self, args: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("runc")).args(args);
        command
    }

    /// Starts it and returns its process id on the host.
    fn start(&self) -> u32 {
        let log = fs::File::create(self.path("log")).unwrap();
        let status = self
            .runc(&["run", "--detach", "--pid-file"])
            .arg(self.path("pid"))
            .arg("--bundle")
            .arg(self.place.path())
            .arg(&self.name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        assert!(status.success(), "{}", self.log());
        fs::read_to_string(self.path("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn exec(&self, args: &[&str]) -> Done {
        done(
            self.runc(&["exec", &self.name, "/usr/bin/adjutant"])
                .args(args),
        )
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        done(&mut self.runc(&["delete", "--force", &self.name]));
    }
}

fn capabilities(pid: u32, set: &str) -> String {
    let status =
        fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(set));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn two_capabilities_are_enough_for_kernel_events_and_are_given_up() {
    let engine = Engine::shared();
    let bundle = Bundle::new(&engine, &["CAP_BPF", "CAP_PERFMON"]);
    let pid = bundle.start();
    eventually("the health check passes", || {
        let check = bundle.exec(&["healthcheck"]);
        (check.code == Some(0))
            .then_some(())
            .ok_or_else(|| format!("{check:?}\n{}", bundle.log()))
    });
    // PERFMON is number 38, BPF 39.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(capabilities(pid, set), "000000c000000000", "{set}");
    }
    // A program of the host with a name of its own, from outside of the container.
    let program = bundle.path("from-the-host");
    fs::copy("/bin/true", &program).unwrap();
    eventually("its start is reported", || {
        assert_eq!(done(&mut Command::new(&program)).code, Some(0));
        let log = bundle.log();
        log.lines()
            .any(|line| line.contains("process.exec") && line.contains("from-the-host"))
            .then_some(())
            .ok_or(log)
    });
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let child = children.trim().parse().unwrap();
    // The bounding set stays, as clearing it needs one more capability; nothing can be gained from it any more.
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
        assert_eq!(capabilities(child, set), "0000000000000000", "{set}");
    }
    assert_eq!(capabilities(child, "NoNewPrivs:"), "1");
}
