//! Given a state directory on a volume,
//! when containers come and go on it, two at a time, as another user, or on another node,
//! then identity and configs survive, one at a time uses it, and nobody keeps an identity that is not theirs.

use serde_json::Value;

use super::engine::{Container, Engine, done, executable};
use super::life::{Files, SETTINGS};
use crate::fleet::{Kind, Server};
use crate::peers::eventually;

/// The data plane and a server on the host's loopback.
fn settings(server: &Server) -> String {
    format!(
        "server: {{endpoint: '{}'}}
http: {{listen: []}}
agents:
  collector:
    profile: adjutant
    passthrough_logs: true
    apply: {{probation: 1s}}
",
        server.endpoint()
    )
}

const PUSHED: &str = "sources: {host: {kind: host_metrics, interval: 1s, collectors: [memory]}}
uploads: {out: {kind: console, from: [host], interval: 1s}}
";

fn uid(status: &Value) -> String {
    status["agents"][0]["instance_uid"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn current(container: &Container) -> String {
    container.exec(&["adjutant", "config", "show"]).printed()
}

#[test]
fn a_rollout_from_a_real_server_survives_the_container() {
    let engine = Engine::shared();
    let server = Server::start(Kind::OpampGo, 0);
    let files = Files::new();
    let volume = engine.volume();
    let (mount, state) = (files.settings(&settings(&server)), volume.state());
    let start = || {
        engine.run(&[
            "--network=host",
            "--read-only",
            "--cap-drop=ALL",
            "--volume",
            &mount,
            "--volume",
            &state,
            "--env",
            "NODE_NAME=node-1",
            &engine.image,
            "run",
            "--config",
            SETTINGS,
        ])
    };
    let first = start();
    let known = eventually("the server hears of the agent", || {
        server.uids().pop().ok_or_else(|| "nobody".to_owned())
    });
    assert_eq!(
        uid(&first.status()).replace('-', ""),
        known.replace('-', "")
    );
    let agent = server.agent(&known).unwrap();
    assert_eq!(agent.other["k8s.node.name"], "node-1", "{agent:?}");
    let pushed = server.push(&known, &[("collect.yaml", PUSHED)], None);
    eventually("the server is told that it is applied", || {
        match server.agent(&known)?.status {
            Some((hash, word, _)) if hash == pushed && word.contains("APPLIED") => Ok(()),
            other => Err(format!("{other:?}\n{}", first.logs())),
        }
    });
    first.says("system.memory");
    assert!(current(&first).contains("kind: host_metrics"));
    first.stop();
    assert_eq!(first.code(), 0);
    drop(first);

    // Another container, another id, the same node.
    let second = start();
    assert_eq!(
        uid(&second.status()).replace('-', ""),
        known.replace('-', "")
    );
    second.is_well();
    assert!(current(&second).contains("kind: host_metrics"));
    eventually("the server sees it connected again", || {
        let agent = server.agent(&known)?;
        agent
            .connected
            .then_some(())
            .ok_or_else(|| format!("{agent:?}"))
    });
    assert_eq!(server.uids(), [known]);
}

#[test]
fn a_second_container_on_the_same_state_is_refused_and_told_by_whom() {
    let engine = Engine::shared();
    let volume = engine.volume();
    let first = engine.run(&["--network=none", "--volume", &volume.state(), &engine.image]);
    first.is_well();
    let before = first.status();
    let second = engine.once(&["--network=none", "--volume", &volume.state(), &engine.image]);
    assert_eq!(second.code, Some(4), "{second:?}");
    let id = first.inspect()["Id"].as_str().unwrap().to_owned();
    let wanted = format!("/var/lib/adjutant/adjutant.lock: held by process 1 of container {id};");
    assert!(second.err.contains(&wanted), "{wanted}\n{}", second.err);
    assert_eq!(second.err.lines().count(), 1, "{}", second.err);
    let after = first.status();
    assert_eq!(
        after["agents"][0]["child"]["pid"],
        before["agents"][0]["child"]["pid"]
    );
}

#[test]
fn state_of_another_node_gets_another_identity() {
    let engine = Engine::shared();
    let volume = engine.volume();
    let on = |node: &str| {
        let node = format!("NODE_NAME={node}");
        let container = engine.run(&[
            "--network=none",
            "--env",
            &node,
            "--volume",
            &volume.state(),
            &engine.image,
        ]);
        let uid = uid(&container.status());
        container.stop();
        let logs = container.logs();
        (uid, logs)
    };
    let (first, _) = on("node-1");
    let (same, logs) = on("node-1");
    assert_eq!(same, first, "{logs}");
    let (other, logs) = on("node-2");
    assert_ne!(other, first);
    assert!(
        logs.contains("state directory comes from another machine"),
        "{logs}"
    );
    assert_eq!(on("node-2").0, other);
}

#[test]
fn a_directory_of_the_host_is_refused_until_it_is_handed_over() {
    let engine = Engine::shared();
    // As the node of a cluster makes it: for root.
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("state");
    std::fs::create_dir(&directory).unwrap();
    let state = format!("{}:/var/lib/adjutant", directory.display());
    let hand_over = |owner: &str| {
        // With the rights of the manifests' init container.
        engine.once(&[
            "--network=none",
            "--read-only",
            "--user=0:0",
            "--cap-drop=ALL",
            "--cap-add=CHOWN",
            "--cap-add=FOWNER",
            "--cap-add=DAC_READ_SEARCH",
            "--security-opt=no-new-privileges",
            "--volume",
            &state,
            &engine.image,
            "prepare-state",
            "--owner",
            owner,
        ])
    };
    let run = |user: &str| {
        engine.run(&[
            "--network=none",
            "--cap-drop=ALL",
            "--user",
            user,
            "--volume",
            &state,
            &engine.image,
        ])
    };
    let refused = run("65532:65532");
    assert_eq!(refused.code(), 5);
    let said = refused.logs();
    assert!(
        said.contains("it belongs to user root (uid 0) and this process runs as user adjutant"),
        "{said}"
    );

    let said = hand_over("65532:65532").printed();
    assert_eq!(
        said,
        "/var/lib/adjutant belongs to 65532:65532 now; 1 changed hands"
    );
    let plain = run("65532:65532");
    plain.is_well();
    let known = uid(&plain.status());
    let busy = hand_over("0:0");
    assert_eq!(busy.code, Some(4), "{busy:?}");
    assert!(
        busy.err.contains("held by process 1 of container"),
        "{busy:?}"
    );
    plain.stop();

    // And back to root, as for kernel events, with all that was written meanwhile.
    let said = hand_over("0:0").printed();
    assert!(
        said.starts_with("/var/lib/adjutant belongs to 0:0 now; "),
        "{said}"
    );
    let again = hand_over("0:0").printed();
    assert_eq!(again, "/var/lib/adjutant belongs to 0:0 already");
    let root = run("0:0");
    root.is_well();
    assert_eq!(uid(&root.status()), known);
}

#[test]
fn the_static_executable_loads_nothing_to_look_up_names() {
    // A system whose look-ups go through modules of its own, which belong to another C library than ours.
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    for directory in ["etc", "state"] {
        std::fs::create_dir(root.join(directory)).unwrap();
    }
    std::fs::copy(executable(), root.join("adjutant")).unwrap();
    let files = Files::new();
    let names = files.put(
        "nsswitch.conf",
        "hosts: mine files dns\npasswd: mine files\ngroup: mine files\n",
    );
    std::fs::copy(names, root.join("etc/nsswitch.conf")).unwrap();
    std::os::unix::fs::chown(root.join("state"), Some(54_321), None).unwrap();
    let agent = files.put(
        "supervisor.yaml",
        "agents: {a: {profile: generic, executable: /adjutant}}\n",
    );
    std::fs::copy(agent, root.join("etc/supervisor.yaml")).unwrap();
    let trace = root.join("trace");
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-e", "trace=open,openat,newfstatat", "-o"]);
    strace.arg(&trace).arg("chroot").arg(root);
    // Says whose the directory is, and so looks up a user.
    strace.args([
        "/adjutant",
        "run",
        "--config",
        "/etc/supervisor.yaml",
        "--state-dir",
        "/state",
    ]);
    let run = done(&mut strace);
    assert_eq!(run.code, Some(5), "{run:?}");
    assert!(run.err.contains("it belongs to uid 54321"), "{}", run.err);
    let trace = std::fs::read_to_string(trace).unwrap();
    let (_, ours) = trace.rsplit_once("nsswitch.conf").unwrap();
    assert!(ours.contains("/etc/passwd"), "it was looked up: {ours}");
    assert!(!ours.contains("libnss_"), "{ours}");
}
