//! The corpus and mutations of it, and what of it is made of messages.

use std::path::{Path, PathBuf};

use super::*;
use crate::messages::{
    AgentConfigFile, AgentConfigMap, AgentIdentification, AgentRemoteConfig,
    ConnectionSettingsOffers, DownloadableFile, Header, Headers, OpAmpConnectionSettings,
    PackageAvailable, ProxyConnectionSettings, ServerToAgentCommand, TlsConnectionSettings,
};

/// Mutations of each file of the corpus.
const MUTATIONS: u32 = 300;

fn directory(entry: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(entry)
}

fn corpus(entry: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory(entry))
        .expect("corpus")
        .map(|file| {
            let path = file.expect("file").path();
            let bytes = std::fs::read(&path).expect("readable");
            (path.display().to_string(), bytes)
        })
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{entry} has {} files", files.len());
    files
}

/// `SplitMix64`.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    for _ in 0..=random(state) % 4 {
        let at = usize::try_from(random(state)).unwrap() % (bytes.len() + 1);
        let byte = random(state).to_le_bytes()[0];
        match random(state) % 6 {
            0 if at < bytes.len() => bytes[at] = byte,
            1 if at < bytes.len() => bytes[at] ^= 1 << (byte & 7),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, byte),
            4 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.push(byte),
        }
        bytes.truncate(64 * 1024);
    }
}

fn drive(entry: &str, run: fn(&[u8])) {
    let seed = std::env::var("OPAMP_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    // Shown when the test fails; OPAMP_FUZZ_SEED replays it.
    println!("{entry}: seed {seed}");
    let mut state = seed;
    for (name, bytes) in corpus(entry) {
        println!("{name}");
        run(&bytes);
        for _ in 0..MUTATIONS {
            let mut mutated = bytes.clone();
            mutate(&mut mutated, &mut state);
            let shown = mutated.clone();
            let result = std::panic::catch_unwind(|| run(&mutated));
            assert!(result.is_ok(), "{name}, seed {seed}: {shown:02x?}");
        }
    }
}

//
#[test]
fn frames_of_the_corpus_and_their_mutations() {
    drive("frame", frame);
}

//
#[test]
fn sessions_of_the_corpus_and_their_mutations() {
    drive("session", session);
}

//
#[test]
fn packages_of_the_corpus_and_their_mutations() {
    drive("packages", packages);
}

//
#[cfg(feature = "tokio")]
#[test]
fn settings_of_the_corpus_and_their_mutations() {
    drive("settings", settings);
}

//
#[cfg(feature = "tokio")]
#[test]
fn addresses_of_the_corpus_and_their_mutations() {
    drive("address", address);
}

fn header(message: &ServerToAgent) -> Vec<u8> {
    frame::encode(message, usize::MAX).unwrap()
}

fn offer() -> ServerToAgent {
    ServerToAgent {
        instance_uid: vec![7; 16],
        capabilities: 0x7F,
        flags: 3,
        remote_config: Some(AgentRemoteConfig {
            config: Some(AgentConfigMap {
                config_map: [(
                    String::new(),
                    AgentConfigFile {
                        body: b"receivers: {}".to_vec(),
                        content_type: "text/yaml".to_owned(),
                    },
                )]
                .into(),
            }),
            config_hash: b"v7".to_vec(),
        }),
        ..ServerToAgent::default()
    }
}

/// With headers, a proxy and an interval.
fn place(url: &str) -> ConnectionSettingsOffers {
    let header = Header {
        key: "Authorization".to_owned(),
        value: "Bearer other".to_owned(),
    };
    ConnectionSettingsOffers {
        hash: b"s".to_vec(),
        opamp: Some(OpAmpConnectionSettings {
            destination_endpoint: url.to_owned(),
            headers: Some(Headers {
                headers: vec![header],
            }),
            heartbeat_interval_seconds: 10,
            proxy: Some(ProxyConnectionSettings {
                url: "http://proxy.example:3128".to_owned(),
                connect_headers: None,
            }),
            ..OpAmpConnectionSettings::default()
        }),
        ..ConnectionSettingsOffers::default()
    }
}

fn unverified() -> ConnectionSettingsOffers {
    let mut offer = place("wss://other.example/v1/opamp");
    if let Some(opamp) = &mut offer.opamp {
        opamp.tls = Some(TlsConnectionSettings {
            insecure_skip_verify: true,
            min_version: "1.0".to_owned(),
            ..TlsConnectionSettings::default()
        });
    }
    offer
}

fn available() -> PackagesAvailable {
    PackagesAvailable {
        packages: [("a", 1), ("b", 0), ("../x", 1)]
            .map(|(name, kind)| {
                let file = DownloadableFile {
                    download_url: "https://files.example/a".to_owned(),
                    signature: vec![1],
                    ..DownloadableFile::default()
                };
                let package = PackageAvailable {
                    r#type: kind,
                    version: "1".to_owned(),
                    file: Some(file),
                    hash: vec![1],
                };
                (name.to_owned(), package)
            })
            .into(),
        all_packages_hash: b"all".to_vec(),
    }
}

/// The part of the corpus that is made of messages; the rest was added by hand.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let (offer, available) = (offer(), available());
    let identification = ServerToAgent {
        agent_identification: Some(AgentIdentification {
            new_instance_uid: vec![9; 16],
        }),
        ..ServerToAgent::default()
    };
    let restart = ServerToAgent {
        command: Some(ServerToAgentCommand::default()),
        ..ServerToAgent::default()
    };
    let mut state = Packages::new(PackagesConfig::new(7));
    state.handle_offer(Duration::ZERO, available.clone());
    let report = frame::encode(
        &AgentToServer {
            instance_uid: vec![7; 16],
            sequence_num: 300,
            health: Some(crate::messages::ComponentHealth::default()),
            ..AgentToServer::default()
        },
        usize::MAX,
    )
    .unwrap();
    let said = |message: &ServerToAgent| {
        let frame = header(message);
        [vec![255, u8::try_from(frame.len()).unwrap()], frame].concat()
    };
    vec![
        ("frame/offer", header(&offer)),
        ("frame/offer-without-header", offer.to_wire()),
        ("frame/identification", header(&identification)),
        ("frame/report", report),
        (
            "session/websocket",
            [vec![0], said(&offer), vec![6, 31], said(&restart), vec![4]].concat(),
        ),
        (
            "session/polling",
            [vec![2], said(&offer), vec![6, 3, 1, 2, 31], said(&offer)].concat(),
        ),
        (
            "session/reconnect",
            [
                vec![0, 6, 1, 0],
                said(&identification),
                vec![20, 6, 1, 0, 5],
            ]
            .concat(),
        ),
        (
            "session/late",
            [said(&offer), vec![0, 4], said(&restart), vec![1, 1]].concat(),
        ),
        ("packages/offer", available.to_wire()),
        ("packages/state", state.state().to_bytes()),
        (
            "settings/place",
            place("wss://other.example/v1/opamp").to_wire(),
        ),
        (
            "settings/plain",
            place("ws://other.example/v1/opamp").to_wire(),
        ),
        ("settings/unverified", unverified().to_wire()),
        ("settings/interval", place("").to_wire()),
        ("packages/empty", vec![]),
        (
            "packages/hash-only",
            PackagesAvailable {
                all_packages_hash: vec![0xFF; 32],
                ..PackagesAvailable::default()
            }
            .to_wire(),
        ),
    ]
}

#[test]
fn corpus_has_the_messages_that_matter() {
    for (name, bytes) in files() {
        let path = directory(name);
        if std::env::var_os("REGENERATE").is_some() {
            #[expect(
                clippy::disallowed_methods,
                reason = "a file in a checkout; durability is the checkout's affair"
            )]
            std::fs::write(&path, &bytes).expect("write corpus");
        }
        let stored = std::fs::read(&path).expect("read corpus");
        assert!(
            stored == bytes,
            "corpus/{name} is not what it says; REGENERATE=1 writes it"
        );
    }
}
