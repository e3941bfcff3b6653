//! Given a bundle with names that try to leave the revision,
//! when it comes by the control socket or from a server,
//! then it is refused with the reason, nothing is written anywhere, and the child is not touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use opamp_client::frame::{self, FrameRules};
use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentRemoteConfig, AgentToServer, RemoteConfigStatus,
    RemoteConfigStatuses, ServerToAgent,
};
use opamp_client::transport::{AcceptRules, FrameReceiver, Pump, PumpConfig, accept};
use tokio::net::TcpListener;

use super::rig::{Rig, agent, wait_until};

/// Names, and what must be said of each.
fn names() -> Vec<(String, &'static str)> {
    let long = "x".repeat(300);
    [
        ("../x", "walks through"),
        ("/etc/x", "absolute path"),
        ("a/../../b", "walks through"),
        ("a\0b", "control character"),
        (&long, "longer than 200 bytes"),
        ("..", "walks through"),
        (".", "walks through"),
        ("./x", "walks through"),
        ("a//b", "is empty"),
        ("a/", "is empty"),
        (".current.tmp", "begins with a dot"),
        ("a\\..\\b", "backslash"),
        ("a\nb", "control character"),
        ("a/b/c/d/e", "directories deep"),
        ("manifest.json", "manifest"),
    ]
    .map(|(name, said)| (name.to_owned(), said))
    .into()
}

/// Every file below a directory with what tells whether it was written: inode, size, time of change.
fn everything(directory: &Path) -> BTreeMap<String, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            if data.is_dir() {
                todo.push(path.clone());
            }
            found.insert(
                path.to_string_lossy().into_owned(),
                (data.ino(), data.size(), data.mtime(), data.mtime_nsec()),
            );
        }
    }
    found
}

/// Everything that a name could reach by walking up from a revision, log of the supervisor left out.
fn world(rig: &Rig) -> BTreeMap<String, (u64, u64, i64, i64)> {
    let mut world = everything(rig.path());
    world.retain(|path, _| !path.ends_with("supervisor.log"));
    world
}

#[test]
fn hostile_names_by_hand_are_refused_and_write_nothing() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: good");
    let pid = rig.child();
    let before = world(&rig);
    for (name, said) in names() {
        let (code, body) = rig.offer(&[("config.yaml", "mode: bad\n"), (&name, "x: 1\n")]);
        assert_eq!(code, 422, "{name:?}: {body}");
        let reason = body["error"]["reason"].as_str().unwrap();
        assert!(reason.contains(said), "{name:?}: {reason}");
        assert!(reason.starts_with("file \""), "{name:?}: {reason}");
        assert!(reason.len() < 300, "{name:?}: {reason}");
    }
    assert_eq!(world(&rig), before);
    assert!(!Path::new("/etc/x").exists());
    assert_eq!(rig.child(), pid);
    assert_eq!(rig.running("one").as_deref(), Some("mode: good"));
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn two_names_for_one_file_are_refused() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    let (code, body) = rig.offer(&[("", "mode: a\n"), ("config.yaml", "mode: b\n")]);
    assert_eq!(code, 422, "{body}");
    let reason = body["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("is the same file"), "{reason}");
    let (code, body) = rig.offer(&[("a", "mode: a\n"), ("a/b", "mode: b\n")]);
    assert_eq!(code, 422, "{body}");
    let reason = body["error"]["reason"].as_str().unwrap();
    assert!(reason.contains("not a directory"), "{reason}");
    assert_eq!(supervisor.stop().code(), Some(0));
}

#[test]
fn ten_thousand_files_by_hand_are_refused_in_a_few_lines() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    let names: Vec<String> = (0..10_000).map(|number| format!("f{number}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "a: 1\n")).collect();
    let (code, body) = rig.offer(&files);
    assert_eq!(code, 422, "{body}");
    assert_eq!(body["error"]["reason"], "10000 files; the limit is 64");
    assert_eq!(supervisor.stop().code(), Some(0));
}

fn offer(name: &str, text: &str) -> AgentRemoteConfig {
    let file = AgentConfigFile {
        body: text.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    AgentRemoteConfig {
        config_hash: format!("hash of {name}").into_bytes(),
        config: Some(AgentConfigMap {
            config_map: BTreeMap::from([(name.to_owned(), file)]),
        }),
    }
}

async fn receive(receiver: &mut FrameReceiver) -> AgentToServer {
    let frame = receiver.recv().await.expect("the agent stays connected");
    frame::decode(&frame, FrameRules::default()).unwrap()
}

/// A server that offers one config after the other and answers what became of each.
async fn serve(listener: TcpListener, offers: Vec<AgentRemoteConfig>) -> Vec<RemoteConfigStatus> {
    let (stream, _) = listener.accept().await.unwrap();
    let connection = accept(stream, &AcceptRules::default(), |_| Ok(()))
        .await
        .unwrap();
    let (pump, sender, mut receiver) = Pump::new(connection, PumpConfig::default());
    let talk = async move {
        let mut verdicts = Vec::new();
        // The first message of the agent is what the first offer answers; each verdict is what the next one does.
        let first = receive(&mut receiver).await;
        for offer in offers {
            let wanted = offer.config_hash.clone();
            let answer = ServerToAgent {
                instance_uid: first.instance_uid.clone(),
                remote_config: Some(offer),
                ..ServerToAgent::default()
            };
            let frame = frame::encode(&answer, 1 << 20).unwrap();
            sender.send(frame).await.unwrap();
            let verdict = loop {
                let status = receive(&mut receiver).await.remote_config_status;
                let verdict = status.filter(|status| {
                    status.last_remote_config_hash == wanted
                        && status.status != RemoteConfigStatuses::Applying as i32
                });
                if let Some(verdict) = verdict {
                    break verdict;
                }
            };
            verdicts.push(verdict);
        }
        verdicts
    };
    let (verdicts, _) = tokio::join!(talk, pump.run());
    verdicts
}

#[test]
fn hostile_names_from_a_server_are_refused_and_write_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(TcpListener::bind(("127.0.0.1", 0)))
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = format!("server: {{endpoint: 'ws://127.0.0.1:{port}/v1/opamp'}}\n");
    let rig = Rig::new(&format!("{server}{}", agent("one", "")));
    let mut offers: Vec<_> = names()
        .iter()
        .map(|(name, _)| offer(name, "mode: bad\n"))
        .collect();
    offers.push(offer("", "mode: good\n"));
    let mut supervisor = rig.start();
    let verdicts = runtime.block_on(async {
        tokio::time::timeout(Duration::from_mins(1), serve(listener, offers)).await
    });
    let verdicts = verdicts.expect("an answer to every offer");
    for ((name, said), verdict) in names().iter().zip(&verdicts) {
        let message = &verdict.error_message;
        let failed = RemoteConfigStatuses::Failed as i32;
        assert_eq!(verdict.status, failed, "{name:?}: {message}");
        assert!(message.contains(said), "{name:?}: {message}");
    }
    let good = verdicts.last().unwrap();
    assert_eq!(
        good.status,
        RemoteConfigStatuses::Applied as i32,
        "{good:?}"
    );
    wait_until("the good config", || {
        rig.running("one").as_deref() == Some("mode: good")
    });
    // Nothing of the refused ones is anywhere: one revision, with the one good file and what the store adds.
    let revisions = rig.agent("one").join("revisions");
    let names: Vec<_> = everything(&revisions).into_keys().collect();
    let files = names.iter().filter(|name| name.ends_with("/config.yaml"));
    assert_eq!(files.count(), 1, "{names:?}");
    for name in world(&rig).into_keys() {
        let last = name.rsplit('/').next().unwrap();
        assert!(
            !["x", "b", "e"].contains(&last) && last.len() < 100,
            "{name}"
        );
    }
    assert!(!Path::new("/etc/x").exists());
    assert!(supervisor.ended().is_none());
    assert_eq!(supervisor.stop().code(), Some(0));
}
