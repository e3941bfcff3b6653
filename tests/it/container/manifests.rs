//! Given the manifests for Kubernetes,
//! when they are held against its schemas, against what they promise, and run as a node would run them,
//! then the API accepts them, the settings inside are ours, and pods start, are probed, stop and come back as the same
//! agent.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};

use super::engine::{Container, Done, Engine, ROOT};
use super::life::{Files, write};
use crate::peers::{eventually, kubernetes};

const VARIANTS: [&str; 2] = ["plain.yaml", "kernel-events.yaml"];

fn shipped(name: &str) -> PathBuf {
    Path::new(ROOT).join("packaging/kubernetes").join(name)
}

fn validate(file: &Path, version: &str) -> Done {
    let mut command = Command::new(kubernetes());
    command.args([
        "-m",
        "kubernetes_validate",
        "--strict",
        "--kubernetes-version",
        version,
    ]);
    super::engine::done(command.arg(file))
}

/// The documents of a manifest, by kind.
fn documents(name: &str) -> Vec<Value> {
    let script =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = Command::new(kubernetes())
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = fs::read(shipped(name)).unwrap();
    python.stdin.take().unwrap().write_all(&text).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert_eq!(found.next(), None, "two of {kind}");
    first
}

#[test]
fn manifests_meet_the_schemas_of_kubernetes() {
    for variant in VARIANTS {
        for version in ["1.27", "1.37"] {
            let done = validate(&shipped(variant), version);
            assert_eq!(done.code, Some(0), "{variant} {version}: {done:?}");
        }
    }
    // And the check does check: a word that is spelt wrong, a number that is a text.
    let text = fs::read_to_string(shipped("plain.yaml")).unwrap();
    let files = Files::new();
    for (right, wrong) in [
        ("hostNetwork:", "hostNetwrok:"),
        ("minReadySeconds: 10", "minReadySeconds: soon"),
        ("mountPropagation: HostToContainer", "mountPropagation: 7"),
    ] {
        assert_eq!(text.matches(right).count(), 1, "{right}");
        let file = files.put("wrong.yaml", &text.replace(right, wrong));
        let done = validate(&file, "1.37");
        assert_ne!(done.code, Some(0), "{wrong}: {done:?}");
    }
}

#[test]
fn manifests_keep_their_promises() {
    for variant in VARIANTS {
        let documents = documents(variant);
        let kinds: Vec<_> = documents
            .iter()
            .map(|it| it["kind"].as_str().unwrap())
            .collect();
        // No role and no binding: the API is asked nothing.
        assert_eq!(
            kinds,
            [
                "Namespace",
                "ServiceAccount",
                "Secret",
                "ConfigMap",
                "DaemonSet"
            ],
            "{variant}"
        );
        assert_eq!(
            of_kind(&documents, "ServiceAccount")["automountServiceAccountToken"],
            false
        );
        let set = &of_kind(&documents, "DaemonSet")["spec"];
        assert_eq!(set["updateStrategy"]["rollingUpdate"]["maxSurge"], 0);
        let pod = &set["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["hostNetwork"], true);
        assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(
            set["selector"]["matchLabels"],
            set["template"]["metadata"]["labels"]
        );

        let container = &pod["containers"][0];
        for (probe, path) in [
            ("startupProbe", "/health/live"),
            ("livenessProbe", "/health/live"),
            ("readinessProbe", "/health/ready"),
        ] {
            let get = &container[probe]["httpGet"];
            assert_eq!(
                get,
                &json!({"path": path, "port": "health", "host": "127.0.0.1"})
            );
        }
        assert_eq!(container["ports"][0]["containerPort"], 4328);
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
        assert!(container["resources"]["limits"]["memory"].is_string());
        for container in [container, &pod["initContainers"][0]] {
            let security = &container["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        }
        let identity = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["name"] == "K8S_NODE_NAME");
        assert_eq!(
            identity.unwrap()["valueFrom"]["fieldRef"]["fieldPath"],
            "spec.nodeName"
        );
        let volumes = pod["volumes"].as_array().unwrap();
        let state = volumes.iter().find(|it| it["name"] == "state").unwrap();
        assert_eq!(state["hostPath"]["path"], "/var/lib/adjutant");

        let (user, added) = match variant {
            "plain.yaml" => (65532, Value::Null),
            _ => (0, json!(["BPF", "PERFMON"])),
        };
        assert_eq!(pod["securityContext"]["runAsUser"], user, "{variant}");
        assert_eq!(
            pod["securityContext"]["runAsNonRoot"],
            user != 0,
            "{variant}"
        );
        assert_eq!(
            container["securityContext"]["capabilities"]["add"], added,
            "{variant}"
        );
    }
}

#[test]
fn the_two_variants_differ_only_in_what_kernel_events_need() {
    let lines = |name: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(shipped(name)).unwrap();
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    };
    let (plain, kernel) = (lines(VARIANTS[0]), lines(VARIANTS[1]));
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
        one.difference(other).cloned().collect()
    };
    assert_eq!(
        only(&kernel, &plain),
        [
            "- name: cgroups",
            "add: [BPF, PERFMON]",
            "args: [prepare-state, --owner, \"0:0\"]",
            "mountPath: /sys/fs/cgroup",
            "path: /sys/fs/cgroup",
        ]
    );
    assert_eq!(
        only(&plain, &kernel),
        [
            "args: [prepare-state, --owner, \"65532:65532\"]",
            "fsGroup: 65532",
            "runAsGroup: 65532",
            "runAsNonRoot: true",
            "runAsUser: 65532",
        ]
    );
}

/// A node of its own: what a kubelet would mount, and the containers as it would start them.
struct Node {
    engine: Arc<Engine>,
    files: Files,
    documents: Vec<Value>,
}

impl Node {
    fn new(engine: &Arc<Engine>, variant: &str) -> Self {
        let node = Self {
            engine: Arc::clone(engine),
            files: Files::new(),
            documents: documents(variant),
        };
        for directory in ["state", "settings", "token", "host", "cgroups"] {
            fs::create_dir(node.files.path(directory)).unwrap();
        }
        let settings = &of_kind(&node.documents, "ConfigMap")["data"]["supervisor.yaml"];
        write(
            &node.files.path("settings/supervisor.yaml"),
            settings.as_str().unwrap(),
        );
        let token = &of_kind(&node.documents, "Secret")["stringData"]["opamp-token"];
        write(
            &node.files.path("token/opamp-token"),
            token.as_str().unwrap(),
        );
        node
    }

    fn pod(&self) -> &Value {
        &of_kind(&self.documents, "DaemonSet")["spec"]["template"]["spec"]
    }

    /// The arguments of `docker run` that come closest to a container of the pod, image and its arguments last.
    fn line(&self, container: &Value) -> Vec<String> {
        let pod = self.pod();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        // Nobody else's ports; loopback is all that the manifest uses of the node's network.
        let mut line = vec!["--network=none".to_owned(), "--read-only".to_owned()];
        let security = &container["securityContext"];
        let user = |key: &str| {
            let own = &security[key];
            if own.is_null() {
                &pod["securityContext"][key]
            } else {
                own
            }
            .as_u64()
            .unwrap()
        };
        line.push(format!(
            "--user={}:{}",
            user("runAsUser"),
            user("runAsGroup")
        ));
        line.push("--security-opt=no-new-privileges".to_owned());
        for (key, flag) in [("drop", "--cap-drop"), ("add", "--cap-add")] {
            let names = security["capabilities"][key]
                .as_array()
                .into_iter()
                .flatten();
            // Engines as old as Debian 12's have no name for those of kernel events; `runtime` shows them.
            for name in names.filter(|name| **name != "BPF" && **name != "PERFMON") {
                line.push(format!("{flag}={}", word(name)));
            }
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"]
                .as_str()
                .unwrap()
            {
                "spec.nodeName" => "node-7",
                "metadata.name" => "adjutant-x7f2k",
                "metadata.namespace" => "adjutant",
                other => panic!("{other}"),
            };
            line.push(format!("--env={}={value}", word(&variable["name"])));
        }
        for mount in container["volumeMounts"].as_array().unwrap() {
            let mode = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            let (name, inside) = (word(&mount["name"]), word(&mount["mountPath"]));
            line.push(format!(
                "--volume={}:{inside}:{mode}",
                self.files.path(&name).display()
            ));
        }
        // The one with a shell asks what a kubelet would ask.
        assert_eq!(container["image"], self.engine.image);
        line.push(self.engine.debug.clone());
        line.extend(container["args"].as_array().unwrap().iter().map(word));
        line
    }

    fn prepare(&self) -> Done {
        let line = self.line(&self.pod()["initContainers"][0]);
        self.engine
            .once(&line.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn start(&self) -> Container {
        let line = self.line(&self.pod()["containers"][0]);
        self.engine
            .run(&line.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

/// Waits until a probe of the manifest succeeds.
fn probe(container: &Container, probe: &Value) {
    let path = probe["httpGet"]["path"].as_str().unwrap();
    let url = format!("http://127.0.0.1:4328{path}");
    eventually(&format!("{url} answers with 200"), || {
        let asked = container.exec(&["/bin/wget", "-q", "-O", "-", &url]);
        (asked.code == Some(0))
            .then_some(())
            .ok_or_else(|| format!("{asked:?}\n{}", container.logs()))
    });
}

#[test]
fn the_settings_of_the_manifests_are_accepted_and_their_times_fit() {
    let engine = Engine::shared();
    for variant in VARIANTS {
        let node = Node::new(&engine, variant);
        let mut line = node.line(&node.pod()["containers"][0]);
        let arguments = line.split_off(line.iter().position(|it| *it == engine.debug).unwrap() + 1);
        assert_eq!(
            arguments,
            ["run", "--config", "/etc/adjutant/supervisor.yaml"]
        );
        line.extend(
            [
                "validate",
                "--config",
                "/etc/adjutant/supervisor.yaml",
                "--json",
            ]
            .map(str::to_owned),
        );
        let checked = engine.once(&line.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            (checked.code, checked.err.as_str()),
            (Some(0), ""),
            "{variant}: {checked:?}"
        );
        let text = fs::read_to_string(node.files.path("settings/supervisor.yaml")).unwrap();
        let settings: Vec<&str> = text.lines().map(str::trim).collect();
        for line in [
            "grace: 25s",
            "budget: 28s",
            "listen: [127.0.0.1:4328]",
            "directory: /var/lib/adjutant",
        ] {
            assert!(settings.contains(&line), "{line}\n{text}");
        }
        assert_eq!(node.pod()["terminationGracePeriodSeconds"], 30);
    }
}

#[test]
fn a_pod_starts_is_probed_stops_and_comes_back_as_the_same_agent() {
    let engine = Engine::shared();
    let node = Node::new(&engine, "plain.yaml");
    let prepared = node.prepare();
    assert_eq!(prepared.code, Some(0), "{prepared:?}");
    let manifest = node.pod()["containers"][0].clone();
    let first = node.start();
    for name in ["startupProbe", "livenessProbe", "readinessProbe"] {
        probe(&first, &manifest[name]);
    }
    let uid = |container: &Container| container.status()["agents"][0]["instance_uid"].clone();
    let known = uid(&first);
    let took = first.stop();
    assert_eq!(first.code(), 0, "{took:?}");
    drop(first);
    let prepared = node.prepare().printed();
    assert_eq!(prepared, "/var/lib/adjutant belongs to 65532:65532 already");
    let second = node.start();
    probe(&second, &manifest["readinessProbe"]);
    assert_eq!(uid(&second), known);
    second.stop();
    drop(second);

    // The other variant takes the node over, state and all.
    let other = Node {
        documents: documents("kernel-events.yaml"),
        engine: Arc::clone(&node.engine),
        files: node.files,
    };
    let prepared = other.prepare().printed();
    assert!(
        prepared.starts_with("/var/lib/adjutant belongs to 0:0 now; "),
        "{prepared}"
    );
    let third = other.start();
    probe(&third, &manifest["readinessProbe"]);
    assert_eq!(uid(&third), known);
}
