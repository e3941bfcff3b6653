//! A server in the field that keeps to the protocol in its own way. Every test is one thing it does.

use super::*;
use crate::frame::Wire as _;

/// It puts its own record number where our uid belongs.
const RECORD: [u8; 16] = [0xEE; 16];

/// All its capabilities.
const SERVER_MASK: u64 = 0x7F;

fn reply() -> ServerToAgent {
    ServerToAgent {
        instance_uid: RECORD.to_vec(),
        capabilities: SERVER_MASK,
        ..ServerToAgent::default()
    }
}

impl Bench {
    /// It sends no header.
    fn hear_bare(&mut self, message: &ServerToAgent) {
        self.session
            .handle_frame(self.now, &message.to_wire())
            .expect("decodes without header");
    }
}

/// Greeted by it, with what it always causes behind us.
fn known() -> Bench {
    let mut bench = Bench::full();
    bench.connect();
    bench.one();
    bench.hear_bare(&reply());
    bench.events();
    bench
}

fn yaml(hash: &[u8]) -> AgentRemoteConfig {
    // One file, no name, type text/yaml.
    offer(hash)
}

// S4-21
#[test]
fn it_speaks_before_we_did() {
    let mut bench = Bench::full();
    bench.connect();
    bench.hear_bare(&ServerToAgent {
        flags: u64::from((ServerToAgentFlags::ReportFullState as i32).unsigned_abs()),
        remote_config: Some(yaml(b"v1")),
        ..reply()
    });
    assert!(
        bench
            .events()
            .contains(&SessionEvent::RemoteConfig(yaml(b"v1")))
    );
    let first = bench.one();
    assert_eq!(
        (first.sequence_num, fields_of(&first)),
        (0, EVERY_FIELD.into())
    );
}

// S4-22
#[test]
fn it_answers_everything_and_gets_no_answer_to_that() {
    let mut bench = known();
    for n in 0..100 {
        bench.session.set_health(health(&n.to_string()));
        bench.pass(secs(1));
        bench.one();
        bench.hear_bare(&reply());
        assert_eq!((bench.drain(), bench.events()), (vec![], vec![]));
    }
    assert_eq!(bench.session.stats().sent, 101);
}

// S4-23
#[test]
fn it_sends_no_header_and_gets_one() {
    let mut bench = Bench::full();
    bench.connect();
    let frame = bench.session.poll_transmit(bench.now).unwrap();
    assert_eq!(frame[0], 0);
    bench.hear_bare(&reply());
    bench.hear(&reply());
    assert_eq!(bench.session.stats().received, 2);
    assert_eq!(bench.session.stats().malformed, 0);
}

// S4-24
#[test]
fn it_answers_under_its_own_number_and_is_heard_and_told_of_once() {
    let mut bench = Bench::full();
    bench.connect();
    bench.one();
    for n in 0..50_u8 {
        bench.hear_bare(&ServerToAgent {
            remote_config: Some(yaml(&[n])),
            ..reply()
        });
    }
    let events = bench.events();
    let told = |event: &&SessionEvent| matches!(event, SessionEvent::ForeignInstanceUid(_));
    assert_eq!(events.iter().filter(told).count(), 1);
    assert!(events.contains(&SessionEvent::RemoteConfig(yaml(&[49]))));
    assert_eq!(bench.session.stats().foreign_uid, 50);
    assert_eq!(bench.session.instance_uid(), UID);
    // Only an identification to us changes who we are.
    bench.hear_bare(&identify(&OTHER));
    assert!(
        bench
            .events()
            .contains(&SessionEvent::NewInstanceUid(OTHER))
    );
}

// S4-25
#[test]
fn it_asks_for_everything_a_thousand_times() {
    let mut bench = known();
    let flags = ServerToAgentFlags::ReportFullState as i32
        | ServerToAgentFlags::ReportAvailableComponents as i32;
    let mut sent = 0;
    for _ in 0..1000 {
        bench.hear_bare(&ServerToAgent {
            flags: u64::from(flags.unsigned_abs()),
            ..reply()
        });
        sent += bench.drain().len();
        bench.pass(Duration::from_millis(10));
    }
    // Ten seconds, one per five, and the first at once.
    assert!((1..=3).contains(&sent), "{sent}");
}

// S4-26, S4-27
#[test]
fn it_repeats_its_offer_in_every_reply_and_hears_of_it_once() {
    let mut bench = known();
    let mut told = Vec::new();
    let mut applied = 0;
    for round in 0..30 {
        bench.hear_bare(&ServerToAgent {
            remote_config: Some(yaml(b"v7")),
            ..reply()
        });
        for event in bench.events() {
            let SessionEvent::RemoteConfig(offer) = event else {
                continue;
            };
            let file = &offer.config.as_ref().unwrap().config_map[""];
            assert_eq!(file.content_type, "text/yaml");
            // As an embedder does: a hash that is known is not applied again.
            if round == 0 {
                applied += 1;
                for word in [
                    RemoteConfigStatuses::Applying,
                    RemoteConfigStatuses::Applied,
                ] {
                    bench
                        .session
                        .set_remote_config_status(status(&offer.config_hash, word));
                    told.extend(bench.drain());
                }
            } else {
                let same = status(&offer.config_hash, RemoteConfigStatuses::Applied);
                bench.session.set_remote_config_status(same);
            }
        }
        told.extend(bench.drain());
    }
    let words: Vec<_> = told
        .into_iter()
        .map(|message| message.remote_config_status.unwrap())
        .collect();
    assert_eq!(applied, 1);
    assert_eq!(
        words,
        [
            status(b"v7", RemoteConfigStatuses::Applying),
            status(b"v7", RemoteConfigStatuses::Applied)
        ]
    );
}

// S4-28
#[test]
fn what_runs_is_reported_whole_when_it_changes_back() {
    let mut bench = known();
    for text in ["new: 1", "a: 1"] {
        bench.session.set_effective_config(effective(text));
        assert_eq!(bench.one().effective_config, Some(effective(text)));
    }
}

// S4-29, S4-30
#[test]
fn masks_are_what_is_announced_and_never_empty() {
    for (given, wanted) in [(0, 1), (0x7DE7, 0x7DE7), (0x4805, 0x4805), (1 << 40, 1)] {
        let mut bench = Bench::with(given);
        bench.connect();
        assert_eq!(bench.one().capabilities, wanted);
        bench.hear_bare(&reply());
        assert_eq!(bench.session.server_capabilities(), Some(SERVER_MASK));
    }
}

// S4-31
#[test]
fn settings_and_packages_reach_their_readers_only_if_announced() {
    let offer = ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            hash: b"s".to_vec(),
            opamp: Some(OpAmpConnectionSettings::default()),
            own_metrics: Some(TelemetryConnectionSettings::default()),
            ..ConnectionSettingsOffers::default()
        }),
        packages_available: Some(PackagesAvailable {
            all_packages_hash: vec![0xAB; 32],
            ..PackagesAvailable::default()
        }),
        ..reply()
    };
    let mut able = known();
    able.hear_bare(&offer);
    assert_eq!(
        able.events(),
        [
            SessionEvent::ConnectionSettings(offer.connection_settings.clone().unwrap()),
            SessionEvent::PackagesAvailable(offer.packages_available.clone().unwrap())
        ]
    );
    let mut unable = Bench::with(0);
    unable.connect();
    unable.one();
    for _ in 0..3 {
        unable.hear_bare(&offer);
    }
    let refusals: Vec<_> = unable
        .events()
        .into_iter()
        .filter(|event| matches!(event, SessionEvent::Refused(_)))
        .collect();
    assert_eq!(
        refusals,
        [
            SessionEvent::Refused(Refusal::ConnectionSettings),
            SessionEvent::Refused(Refusal::Packages)
        ]
    );
    assert_eq!(unable.drain(), []);
}

// S4-32
#[test]
fn its_errors_are_told_and_cause_no_loop() {
    let mut bench = known();
    bench.session.set_health(health("bad"));
    bench.one();
    let bad_request = error(ServerErrorResponseType::BadRequest as i32, None);
    bench.hear_bare(&ServerToAgent {
        instance_uid: RECORD.to_vec(),
        ..bad_request
    });
    assert!(matches!(
        bench.events()[..],
        [SessionEvent::ServerError {
            kind: ServerErrorKind::BadRequest,
            ..
        }]
    ));
    assert_eq!(bench.drain(), []);
    let unavailable = error(
        ServerErrorResponseType::Unavailable as i32,
        Some(2_000_000_000),
    );
    bench.hear_bare(&unavailable);
    assert_eq!(
        bench.events(),
        [SessionEvent::Unavailable {
            retry_after: Some(secs(2))
        }]
    );
    bench.session.set_health(health("news"));
    bench.pass(secs(600));
    assert_eq!(bench.drain(), [], "silence until the reconnect");
}
