//! What this host is: its name, its identity, its system, and whether we are its first process. Read once, at start.
//!
//! Promises: every fact comes from a file, a variable or one system call, never from the network; a fact that cannot be
//! read is left out, not made up. Containers see the host's own name where `/host` shows it.
//! Must never: fail, block, or be read again while we run: a description that changes by itself is a new identity.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::units::order;

/// Bytes of a fact that are read.
const FACT_BYTES_MAX: u64 = 16 * 1024;

/// Variables that name the node in a Kubernetes pod (the downward API, by custom).
const NODE_VARIABLES: [&str; 3] = ["K8S_NODE_NAME", "NODE_NAME", "KUBE_NODE_NAME"];

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// What tells this machine from a clone of it: the node's name in Kubernetes, else the machine id; empty when
    /// there is neither.
    pub machine_id: String,
    /// Attributes of the agents' descriptions, by their OpenTelemetry names.
    pub attributes: BTreeMap<String, String>,
    /// Whether we are process 1.
    pub is_pid1: bool,
}

/// Reads the facts. `variable` reads the environment.
pub fn read(variable: impl Fn(&str) -> Option<String>) -> HostFacts {
    let uname = nix::sys::utsname::uname().ok();
    let own_name = nix::unistd::gethostname().ok();
    Source {
        root: PathBuf::from("/"),
        variable,
        own_name: own_name.and_then(|name| name.into_string().ok()),
        kernel: uname
            .as_ref()
            .and_then(|uname| uname.release().to_str().map(str::to_owned)),
        pid: std::process::id(),
    }
    .facts()
}

/// What tells that this process lives in a container, whose runtime collects its standard streams; none outside.
pub fn container(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    sign_of_container(Path::new("/"), variable, std::process::id())
}

fn sign_of_container(
    root: &Path,
    variable: impl Fn(&str) -> Option<String>,
    pid: u32,
) -> Option<&'static str> {
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let runtimes = ["docker", "kubepods", "containerd", "libpod", "lxc", "crio"];
    let in_cgroup = |words: &[&str]| {
        let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        words.iter().any(|word| text.contains(word))
    };
    // systemd is process 1 of a machine, and says so to what it starts; then the journal collects, beside our files.
    if set("INVOCATION_ID") {
        None
    } else if pid == 1 {
        Some("process 1")
    } else if set("KUBERNETES_SERVICE_HOST") {
        Some("KUBERNETES_SERVICE_HOST")
    } else if root.join(".dockerenv").exists() {
        Some("/.dockerenv")
    } else if root.join("run/.containerenv").exists() {
        Some("/run/.containerenv")
    } else if in_cgroup(&runtimes) {
        Some("/proc/self/cgroup")
    } else {
        None
    }
}

/// Where facts come from; tests make their own.
struct Source<V> {
    root: PathBuf,
    variable: V,
    own_name: Option<String>,
    kernel: Option<String>,
    pid: u32,
}

impl<V: Fn(&str) -> Option<String>> Source<V> {
    fn facts(&self) -> HostFacts {
        let node = NODE_VARIABLES.iter().find_map(|name| self.set(name));
        let machine = self.machine_id();
        let release = self.release();
        let known = [
            ("host.name", Some(self.name())),
            ("host.id", machine.clone()),
            ("host.arch", Some(arch().to_owned())),
            ("os.type", Some(std::env::consts::OS.to_owned())),
            ("os.description", release.get("PRETTY_NAME").cloned()),
            ("os.name", release.get("NAME").cloned()),
            ("os.version", release.get("VERSION_ID").cloned()),
            ("os.kernel", self.kernel.clone()),
            ("k8s.node.name", node.clone()),
            ("k8s.pod.name", self.set("K8S_POD_NAME")),
            ("k8s.namespace.name", self.set("K8S_NAMESPACE_NAME")),
            ("container.id", self.container_id()),
        ];
        let attributes = order::map(
            known
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?))),
        );
        HostFacts {
            machine_id: node.or(machine).unwrap_or_default(),
            attributes,
            is_pid1: self.pid == 1,
        }
    }

    /// `HOSTNAME` → the host's own name where a container can see it → ours → `unknown` (S0-18).
    fn name(&self) -> String {
        self.set("HOSTNAME")
            .or_else(|| self.text("host/proc/sys/kernel/hostname"))
            .or_else(|| self.own_name.as_deref().and_then(nonempty))
            .unwrap_or_else(|| "unknown".to_owned())
    }

    fn machine_id(&self) -> Option<String> {
        let files = [
            "host/etc/machine-id",
            "etc/machine-id",
            "var/lib/dbus/machine-id",
        ];
        files
            .iter()
            .filter_map(|file| self.text(file))
            // An image that was not booted yet says `uninitialized`.
            .find(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    fn release(&self) -> BTreeMap<String, String> {
        let files = [
            "host/etc/os-release",
            "etc/os-release",
            "usr/lib/os-release",
        ];
        let text = files.iter().find_map(|file| self.text(file));
        let lines = text.iter().flat_map(|text| text.lines());
        order::map(
            lines
                .filter_map(|line| line.split_once('='))
                .filter_map(|(key, value)| {
                    Some((key.trim().to_owned(), nonempty(unquote(value))?))
                }),
        )
    }

    /// The longest run of 64 hexadecimal digits that names our cgroup or root mount, as container runtimes have it.
    fn container_id(&self) -> Option<String> {
        ["proc/self/cgroup", "proc/self/mountinfo"]
            .iter()
            .filter_map(|file| self.text(file))
            .find_map(|text| {
                let ours = text
                    .lines()
                    .filter(|line| line.contains("containers/") || line.starts_with("0::"));
                ours.flat_map(|line| line.split(|c: char| !c.is_ascii_hexdigit()))
                    .find(|run| run.len() == 64)
                    .map(str::to_owned)
            })
    }

    fn set(&self, name: &str) -> Option<String> {
        (self.variable)(name).as_deref().and_then(nonempty)
    }

    fn text(&self, path: &str) -> Option<String> {
        let path: &Path = &self.root.join(path);
        let mut bytes = Vec::new();
        File::open(path)
            .ok()?
            .take(FACT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .ok()?;
        nonempty(&String::from_utf8_lossy(&bytes))
    }
}

fn nonempty(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn unquote(value: &str) -> &str {
    let value = value.trim();
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

/// The machine's kind by its OpenTelemetry name.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";

    fn source(
        root: &Path,
        variables: &'static [(&'static str, &'static str)],
    ) -> Source<impl Fn(&str) -> Option<String> + use<>> {
        Source {
            root: root.to_owned(),
            variable: move |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            },
            own_name: Some("own".to_owned()),
            kernel: Some("6.1.0".to_owned()),
            pid: 1,
        }
    }

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        RealDisk.write_file(&path, text.as_bytes(), 0o600).unwrap();
    }

    #[test]
    fn the_host_name_comes_from_the_first_source_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut nameless = source(dir.path(), &[]);
        assert_eq!(nameless.name(), "own");
        nameless.own_name = None;
        assert_eq!(nameless.name(), "unknown");
        put(dir.path(), "host/proc/sys/kernel/hostname", "node-7\n");
        assert_eq!(source(dir.path(), &[]).name(), "node-7");
        assert_eq!(source(dir.path(), &[("HOSTNAME", "given")]).name(), "given");
        assert_eq!(source(dir.path(), &[("HOSTNAME", " ")]).name(), "node-7");
    }

    #[test]
    fn facts_have_their_opentelemetry_names_and_missing_ones_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        put(
            dir.path(),
            "etc/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID='12'\nBAD\n",
        );
        put(dir.path(), "etc/machine-id", &format!("{MACHINE}\n"));
        let facts = source(dir.path(), &[]).facts();
        let value = |key: &str| facts.attributes.get(key).map(String::as_str);
        assert_eq!(value("os.description"), Some("Debian GNU/Linux 12"));
        assert_eq!(value("os.version"), Some("12"));
        assert_eq!(value("os.type"), Some("linux"));
        assert_eq!(value("os.kernel"), Some("6.1.0"));
        assert_eq!(value("host.name"), Some("own"));
        assert_eq!(value("os.name"), None);
        assert_eq!(value("k8s.node.name"), None);
        assert_eq!(facts.machine_id, MACHINE);
        assert!(facts.is_pid1);
    }

    #[test]
    fn a_pod_is_told_from_others_by_its_node() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "etc/machine-id", MACHINE);
        let facts = source(dir.path(), &[("K8S_NODE_NAME", "node-3")]).facts();
        assert_eq!(facts.machine_id, "node-3");
        assert_eq!(
            facts.attributes.get("k8s.node.name").map(String::as_str),
            Some("node-3")
        );
    }

    #[test]
    fn a_machine_id_that_is_none_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "etc/machine-id", "uninitialized\n");
        assert_eq!(source(dir.path(), &[]).facts().machine_id, "");
    }

    #[test]
    fn a_container_is_known_by_any_of_its_signs_and_a_unit_of_systemd_is_none() {
        let sign = |files: &[(&str, &str)], names: &'static [&'static str], pid| {
            let dir = tempfile::tempdir().unwrap();
            for (path, text) in files {
                put(dir.path(), path, text);
            }
            let variable = |name: &str| names.contains(&name).then(|| "x".to_owned());
            sign_of_container(dir.path(), variable, pid)
        };
        assert_eq!(sign(&[], &[], 7), None);
        assert_eq!(
            sign(&[("proc/self/cgroup", "0::/user.slice\n")], &[], 7),
            None
        );
        assert_eq!(sign(&[], &[], 1), Some("process 1"));
        assert_eq!(sign(&[(".dockerenv", "")], &[], 7), Some("/.dockerenv"));
        assert_eq!(
            sign(&[("run/.containerenv", "")], &[], 7),
            Some("/run/.containerenv")
        );
        let pod = ("proc/self/cgroup", "0::/kubepods.slice/pod1\n");
        assert_eq!(sign(&[pod], &[], 7), Some("/proc/self/cgroup"));
        let name = "KUBERNETES_SERVICE_HOST";
        assert_eq!(sign(&[], &["KUBERNETES_SERVICE_HOST"], 7), Some(name));
        assert_eq!(sign(&[(".dockerenv", "")], &["INVOCATION_ID"], 7), None);
    }

    #[test]
    fn a_container_is_known_by_its_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let id = "ab".repeat(32);
        put(
            dir.path(),
            "proc/self/cgroup",
            &format!("0::/system.slice/docker-{id}.scope\n"),
        );
        let facts = source(dir.path(), &[]).facts();
        assert_eq!(facts.attributes.get("container.id"), Some(&id));
    }
}
