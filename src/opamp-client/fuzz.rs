//! Entries for fuzzers: functions over bytes that check what must hold whatever the bytes are.
//!
//! Promises: each returns for every input, in time bounded by its length, and panics only when a promise of this crate is
//! broken. `corpus/` has inputs worth starting from; a test feeds them, and mutations of them, to these.
//! Must never: be part of the interface. What is here may change in any release.

use std::time::Duration;

use crate::frame::{self, FrameRules, HeaderRule, Wire};
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentToServer, CustomCapabilities, PackagesAvailable, ServerToAgent,
};
use crate::packages::{
    PackageEffect, PackageFailure, PackageResult, Packages, PackagesConfig, PackagesState,
    Verification,
};
use crate::session::{Session, SessionConfig, SessionEvent};

/// More than one input can make any of these say.
const TURNS_MAX: usize = 10_000;

/// Bytes as a message of either side: what decodes, encodes to something that decodes to the same.
pub fn frame(bytes: &[u8]) {
    for header in [HeaderRule::Tolerant, HeaderRule::Required] {
        let rules = FrameRules {
            max_message: 1024 * 1024,
            header,
        };
        same::<ServerToAgent>(bytes, rules);
        same::<AgentToServer>(bytes, rules);
        if let Ok(message) = frame::decode::<ServerToAgent>(bytes, rules) {
            let cut = message.instance_uid.iter().copied().take(16);
            let address = frame::addressee(bytes, rules);
            assert_eq!(
                address,
                Ok(cut.collect()),
                "address differs from the message"
            );
        }
    }
}

fn same<M: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8], rules: FrameRules) {
    if let Ok(message) = frame::decode::<M>(bytes, rules) {
        let again = frame::encode(&message, usize::MAX).and_then(|frame| {
            let rules = FrameRules {
                max_message: usize::MAX,
                header: HeaderRule::Required,
            };
            frame::decode::<M>(&frame, rules)
        });
        // NaN is equal to nothing; its bytes are.
        let same = again.map(|again| again.to_wire() == message.to_wire());
        assert_eq!(same, Ok(true), "encoding is not the inverse of decoding");
    }
}

/// Bytes as the script of a whole session: a byte says what happens, one more how long a frame is that follows it.
pub fn session(bytes: &[u8]) {
    let config = SessionConfig {
        max_message: 64 * 1024,
        ..SessionConfig::new([7; 16], AGENT_CAPABILITIES_ALL)
    };
    let Ok(mut session) = Session::new(config) else {
        return;
    };
    session.set_custom_capabilities(CustomCapabilities {
        capabilities: vec!["org.example.echo".to_owned()],
    });
    let mut now = Duration::ZERO;
    let mut next = 0;
    let mut rest = bytes;
    while let Some((op, after)) = rest.split_first() {
        rest = after;
        match op {
            0 => session.handle_connected(now),
            1 => session.handle_disconnected(now),
            2 => session.handle_polling(now),
            3 => session.handle_too_large(now),
            4 => session.disconnect(now),
            5 => session.set_capabilities(AGENT_CAPABILITIES_ALL & !0x800),
            6 => session.set_health(crate::messages::ComponentHealth {
                start_time_unix_nano: u64::try_from(rest.len()).unwrap_or_default(),
                ..crate::messages::ComponentHealth::default()
            }),
            7..=31 => {
                now += Duration::from_millis(100) * u32::from(*op);
                session.handle_timeout(now);
            }
            _ => {
                let (len, after) = rest.split_first().unwrap_or((&0, &[]));
                let (frame, after) = after
                    .split_at_checked(usize::from(*len))
                    .unwrap_or((after, &[]));
                rest = after;
                // An error is an answer too; that it has no effect is checked by what follows.
                _ = session.handle_frame(now, frame);
            }
        }
        settle(&mut session, now, &mut next);
    }
}

/// Everything the session says now is a report of the right number, and what it keeps is bounded.
fn settle(session: &mut Session, now: Duration, next: &mut u64) {
    for turn in 0..=TURNS_MAX {
        assert!(turn < TURNS_MAX, "session never stops talking");
        let Some(bytes) = session.poll_transmit(now) else {
            break;
        };
        let sent = frame::decode::<AgentToServer>(&bytes, FrameRules::default());
        let sent = sent.unwrap_or_default();
        assert_eq!(sent.instance_uid.len(), 16, "a report without identity");
        assert_ne!(sent.capabilities & 1, 0, "a report without capabilities");
        // A request that was taken back gives its number back.
        assert!(sent.sequence_num <= *next, "a hole in the numbers");
        *next = sent.sequence_num.saturating_add(1);
    }
    assert!(
        session.queued_bytes() <= 2 * 64 * 1024,
        "unread events without bound"
    );
    while let Some(event) = session.poll_event() {
        if let SessionEvent::NewInstanceUid(uid) = event {
            session.set_instance_uid(uid);
        }
    }
    assert_eq!(
        session.queued_bytes(),
        0,
        "events are gone and their bytes are not"
    );
}

/// Bytes as an offer of packages, carried out by a caller that fails now and then.
pub fn packages(bytes: &[u8]) {
    if let Ok(state) = PackagesState::from_bytes(bytes) {
        let again = PackagesState::from_bytes(&state.to_bytes());
        assert_eq!(
            again.as_ref(),
            Ok(&state),
            "stored state is not what was stored"
        );
        carry_out(Packages::restored(PackagesConfig::new(7), state), bytes);
    }
    if let Ok(offer) = PackagesAvailable::from_wire(bytes) {
        let mut config = PackagesConfig::new(7);
        config.verification = Verification::WhereSigned;
        config.without_digest = true;
        let mut packages = Packages::new(config);
        packages.handle_offer(Duration::ZERO, offer.clone());
        packages.handle_offer(Duration::ZERO, offer);
        carry_out(packages, bytes);
    }
}

fn carry_out(mut packages: Packages, bytes: &[u8]) {
    let mut now = Duration::ZERO;
    packages.handle_timeout(now);
    for turn in 0..=TURNS_MAX {
        assert!(turn < TURNS_MAX, "packages never come to rest");
        let Some(effect) = packages.poll_effect() else {
            match packages.poll_timeout() {
                _ if packages.poll_statuses(now).is_some() => continue,
                Some(due) if due > now => {
                    now = due;
                    packages.handle_timeout(now);
                    continue;
                }
                _ => break,
            }
        };
        let odd = bytes
            .get(turn % bytes.len().max(1))
            .is_some_and(|byte| byte & 1 == 1);
        let result = match &effect {
            PackageEffect::Cancel { .. } => continue,
            _ if odd => PackageResult::Failed(PackageFailure::transient("odd")),
            PackageEffect::Download { .. } => PackageResult::Downloaded { sha256: [0; 32] },
            PackageEffect::Verify { .. } => PackageResult::Verified,
            PackageEffect::Install { .. } => PackageResult::Installed,
            PackageEffect::Remove { .. } => PackageResult::Removed,
        };
        assert!(
            packages.handle_result(now, effect.ticket(), result),
            "an answer is refused"
        );
    }
    for (name, status) in packages.statuses().packages {
        assert_eq!(name, status.name, "a status under another name");
        assert!(!name.contains(['/', '\\']), "a path for a name");
    }
}

/// Bytes as addresses and header values that come from outside.
#[cfg(feature = "tokio")]
pub fn address(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(target) = text.parse::<crate::transport::Target>() {
        let shown = target.to_string();
        if !target.is_unix() {
            let again = shown
                .parse::<crate::transport::Target>()
                .map(|t| t.to_string());
            assert_eq!(
                again.as_ref(),
                Ok(&shown),
                "an address does not read as itself"
            );
        }
    }
    _ = crate::transport::Target::host(&text).map(|target| target.to_string());
    if let Ok(value) = http::HeaderValue::from_bytes(bytes) {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::RETRY_AFTER, value);
        headers.insert(
            http::header::DATE,
            http::HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        _ = crate::transport::retry_after(&headers);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::messages::{
        AgentConfigFile, AgentConfigMap, AgentIdentification, AgentRemoteConfig, DownloadableFile,
        PackageAvailable, ServerToAgentCommand,
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
    fn addresses_of_the_corpus_and_their_mutations() {
        drive("address", address);
    }

    /// Writes the part of the corpus that is made of messages; the rest was added by hand.
    #[test]
    fn corpus_has_the_messages_that_matter() {
        let header = |message: &ServerToAgent| frame::encode(message, usize::MAX).unwrap();
        let offer = ServerToAgent {
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
        };
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
        let available = PackagesAvailable {
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
        let files = [
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
            ("packages/empty", vec![]),
            (
                "packages/hash-only",
                PackagesAvailable {
                    all_packages_hash: vec![0xFF; 32],
                    ..PackagesAvailable::default()
                }
                .to_wire(),
            ),
        ];
        for (name, bytes) in files {
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
}
