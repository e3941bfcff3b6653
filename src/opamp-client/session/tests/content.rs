//! What a session carries arrives as it was given, and nothing is made up.

use super::*;
use crate::frame::FrameRules;

//
#[test]
fn descriptions_arrive_with_every_attribute() {
    let description = AgentDescription {
        identifying_attributes: [
            "service.name",
            "service.version",
            "service.instance.id",
            "service.namespace",
        ]
        .map(|key| KeyValue::text(key, "x"))
        .into(),
        non_identifying_attributes: [
            "os.type",
            "os.version",
            "host.name",
            "cloud.provider",
            "team",
        ]
        .map(|key| KeyValue::text(key, "y"))
        .into(),
    };
    let mut bench = Bench::with(ALL);
    bench.session.set_description(description.clone());
    bench.connect();
    assert_eq!(bench.one().agent_description, Some(description));
}

//
#[test]
fn a_component_that_does_not_run_has_no_start_time_and_a_reason() {
    let mut bench = Bench::greeted();
    let down = ComponentHealth {
        healthy: false,
        start_time_unix_nano: 0,
        last_error: "exit code 1".to_owned(),
        ..ComponentHealth::default()
    };
    bench.session.set_health(down.clone());
    assert_eq!(bench.one().health, Some(down));
    // Back with a newer start: news, though nothing else differs from before.
    for start in [2, 3] {
        let up = ComponentHealth {
            start_time_unix_nano: start,
            ..health("up")
        };
        bench.session.set_health(up.clone());
        assert_eq!(bench.one().health, Some(up));
    }
}

//
#[test]
fn configs_are_carried_as_they_are() {
    let files = [
        ("", b"a: 1".to_vec(), "text/yaml"),
        ("second", vec![0xFF, 0x00, 0xFE], "application/x-unheard-of"),
        ("third", vec![], ""),
    ];
    let map = AgentConfigMap {
        config_map: files
            .map(|(name, body, content_type)| {
                let content_type = content_type.to_owned();
                (name.to_owned(), AgentConfigFile { body, content_type })
            })
            .into(),
    };
    let mut bench = Bench::greeted();
    let running = EffectiveConfig {
        config_map: Some(map.clone()),
    };
    bench.session.set_effective_config(running.clone());
    assert_eq!(bench.one().effective_config, Some(running));
    let offer = AgentRemoteConfig {
        config: Some(map),
        config_hash: b"h".to_vec(),
    };
    bench.hear(&ServerToAgent {
        remote_config: Some(offer.clone()),
        ..ack()
    });
    assert_eq!(bench.events(), [SessionEvent::RemoteConfig(offer)]);
}

//
#[test]
fn hashes_go_back_byte_for_byte() {
    for hash in [&b""[..], &[0], &[0xFF; 64], b"v12", b"\xC3\x28"] {
        let mut bench = Bench::greeted();
        bench.hear(&ServerToAgent {
            remote_config: Some(offer(hash)),
            ..ack()
        });
        let events = bench.events();
        let [SessionEvent::RemoteConfig(offer)] = &events[..] else {
            panic!("{events:?}")
        };
        let failed = status(&offer.config_hash, RemoteConfigStatuses::Failed);
        bench.session.set_remote_config_status(failed);
        let sent = bench.one().remote_config_status.unwrap();
        assert_eq!(sent.last_remote_config_hash, hash);
    }
}

//
#[test]
fn only_a_failure_has_a_text() {
    let mut bench = Bench::greeted();
    for (word, text) in [
        (RemoteConfigStatuses::Applying, ""),
        (RemoteConfigStatuses::Failed, "line 3: no such receiver"),
        (RemoteConfigStatuses::Applied, ""),
        (RemoteConfigStatuses::Unset, ""),
    ] {
        bench.session.set_remote_config_status(RemoteConfigStatus {
            error_message: "line 3: no such receiver".to_owned(),
            ..status(b"x", word)
        });
        let sent = bench.one().remote_config_status.unwrap();
        assert_eq!(
            (sent.status, sent.error_message.as_str()),
            (word as i32, text)
        );
    }
}

// what an offer without config means is its reader's; that there was one is told.
#[test]
fn offers_without_config_and_with_an_empty_one_are_told_apart() {
    for config in [None, Some(AgentConfigMap::default())] {
        let mut bench = Bench::greeted();
        let offer = AgentRemoteConfig {
            config,
            config_hash: b"h".to_vec(),
        };
        bench.hear(&ServerToAgent {
            remote_config: Some(offer.clone()),
            ..ack()
        });
        assert_eq!(bench.events(), [SessionEvent::RemoteConfig(offer)]);
        assert_eq!(bench.drain(), []);
    }
}

//
#[test]
fn of_offers_that_were_not_read_the_newest_is_left() {
    let mut bench = Bench::greeted();
    for n in 0..100_u8 {
        bench.hear(&ServerToAgent {
            remote_config: Some(offer(&[n])),
            packages_available: Some(PackagesAvailable {
                all_packages_hash: vec![n],
                ..PackagesAvailable::default()
            }),
            ..ack()
        });
    }
    let newest = PackagesAvailable {
        all_packages_hash: vec![99],
        ..PackagesAvailable::default()
    };
    assert_eq!(
        bench.events(),
        [
            SessionEvent::RemoteConfig(offer(&[99])),
            SessionEvent::PackagesAvailable(newest)
        ]
    );
    assert_eq!(bench.session.stats().events_dropped, 0);
}

//
#[test]
fn nothing_is_announced_that_was_not_enabled() {
    let mut bench = Bench::with(0);
    bench.connect();
    let first = bench.one();
    assert_eq!(first.capabilities, AgentCapabilities::ReportsStatus.bit());
    assert_eq!(fields_of(&first), [""; 0]);
}

// the hash of an earlier life is what the server compares.
#[test]
fn the_status_of_an_earlier_life_is_in_the_first_report() {
    let mut bench = Bench::with(ALL);
    bench
        .session
        .set_remote_config_status(status(b"before", RemoteConfigStatuses::Applied));
    bench.connect();
    let sent = bench.one().remote_config_status.unwrap();
    assert_eq!(sent, status(b"before", RemoteConfigStatuses::Applied));
    // The server finds another one in place, and says so.
    bench.hear(&ServerToAgent {
        remote_config: Some(offer(b"now")),
        ..ack()
    });
    assert_eq!(bench.events(), [SessionEvent::RemoteConfig(offer(b"now"))]);
}

//
#[test]
fn a_restart_leaves_the_connection_alone() {
    let mut bench = Bench::greeted();
    bench.hear(&command(0));
    assert_eq!(bench.events(), [SessionEvent::Restart]);
    assert_eq!(bench.drain(), []);
    bench.session.set_health(health("up again"));
    assert_eq!(fields_of(&bench.one()), ["health"]);
}

//
#[test]
fn components_arrive_at_every_depth() {
    let mut leaf = ComponentDetails {
        metadata: vec![KeyValue::text("code.namespace", "example")],
        ..ComponentDetails::default()
    };
    for name in ["otlp", "receivers"] {
        leaf = ComponentDetails {
            metadata: vec![KeyValue::text("level", name)],
            sub_component_map: [(name.to_owned(), leaf)].into(),
        };
    }
    let list = AvailableComponents::listed([("collector".to_owned(), leaf)].into());
    let mut bench = Bench::greeted();
    bench.session.set_available_components(list.clone());
    let told = bench.one().available_components.unwrap();
    assert_eq!((told.components.len(), &told.hash), (0, &list.hash));
    bench.hear(&flagged(ServerToAgentFlags::ReportAvailableComponents));
    assert_eq!(bench.one().available_components, Some(list));
}

//
#[test]
fn text_that_is_none_and_fields_of_another_kind_are_no_message() {
    let mut bench = Bench::greeted();
    for frame in [
        // custom_message.capability that is not UTF-8, a uid that is a number, flags that are a message.
        &[0, 0x5A, 4, 0x0A, 2, 0xC3, 0x28][..],
        &[0, 0x08, 1],
        &[0, 0x32, 0],
    ] {
        let error = bench.session.handle_frame(bench.now, frame).unwrap_err();
        assert!(matches!(error, FrameError::Malformed { .. }), "{error:?}");
    }
    assert_eq!((bench.events(), bench.drain()), (vec![], vec![]));
    assert_eq!(bench.session.stats().malformed, 3);
}

/// Several agents on one connection: their embedder routes what comes.
struct Shared {
    agents: Vec<Session>,
    lost: u32,
}

impl Shared {
    fn new(uids: &[u8]) -> Self {
        let agent = |uid: &u8| {
            let mut session = Session::new(SessionConfig::new([*uid; 16], ALL)).unwrap();
            session.set_description(description(&uid.to_string()));
            session.handle_connected(Duration::ZERO);
            session
        };
        Self {
            agents: uids.iter().map(agent).collect(),
            lost: 0,
        }
    }

    fn hear(&mut self, message: &ServerToAgent) {
        let frame = frame::encode(message, usize::MAX).unwrap();
        let uid = frame::addressee(&frame, FrameRules::default()).unwrap();
        match self
            .agents
            .iter_mut()
            .find(|agent| agent.instance_uid()[..] == uid[..])
        {
            Some(agent) => agent.handle_frame(Duration::ZERO, &frame).unwrap(),
            None => self.lost += 1,
        }
    }

    fn sent(&mut self) -> Vec<(u8, u64)> {
        let mut sent = Vec::new();
        for agent in &mut self.agents {
            while let Some(frame) = agent.poll_transmit(Duration::ZERO) {
                let message = AgentToServer::from_wire(&frame[1..]).unwrap();
                sent.push((message.instance_uid[0], message.sequence_num));
            }
        }
        sent
    }
}

//
#[test]
fn several_agents_share_a_connection_and_each_hears_what_is_meant_for_it() {
    let mut shared = Shared::new(&[1, 2, 3]);
    assert_eq!(shared.sent(), [(1, 0), (2, 0), (3, 0)]);
    shared.hear(&ServerToAgent {
        instance_uid: vec![2; 16],
        remote_config: Some(offer(b"for 2")),
        ..ServerToAgent::default()
    });
    shared.hear(&ServerToAgent {
        instance_uid: vec![9; 16],
        command: Some(ServerToAgentCommand::default()),
        ..ServerToAgent::default()
    });
    assert_eq!(shared.lost, 1);
    let events = |agent: &mut Session| std::iter::from_fn(|| agent.poll_event()).count();
    assert_eq!(
        shared.agents.iter_mut().map(events).collect::<Vec<_>>(),
        [0, 1, 0]
    );
    // Each counts for itself.
    shared.agents[1].set_health(health("x"));
    shared.agents[2].disconnect(Duration::ZERO);
    assert_eq!(shared.sent(), [(2, 1), (3, 1)]);
    shared.agents[0].set_health(health("x"));
    assert_eq!(
        shared.sent(),
        [(1, 1)],
        "one that left takes nobody with it"
    );
}

//
#[test]
fn the_address_is_read_as_a_decoder_would() {
    let read = |bytes: &[u8]| frame::addressee(bytes, FrameRules::default());
    let message = ServerToAgent {
        instance_uid: vec![7; 16],
        remote_config: Some(offer(b"h")),
        flags: 1,
        ..ServerToAgent::default()
    };
    let mut frame = frame::encode(&message, usize::MAX).unwrap();
    assert_eq!(read(&frame).unwrap(), [7; 16]);
    // The last one counts, wherever it stands.
    frame.extend([0x0A, 2, 5, 6]);
    assert_eq!(read(&frame).unwrap(), [5, 6]);
    let decoded: ServerToAgent = frame::decode(&frame, FrameRules::default()).unwrap();
    assert_eq!(decoded.instance_uid, [5, 6]);
    assert_eq!(read(&frame[1..]).unwrap(), [5, 6], "without header too");
    assert_eq!(read(&[0]).unwrap(), b"");
    assert_eq!(read(&[0, 0x0A, 17]).unwrap(), b"", "cut off");
    assert_eq!(read(&[]), Err(FrameError::Empty));
    assert_eq!(
        read(&[&[0, 0x0A, 20][..], &[1; 20]].concat()).unwrap(),
        [1; 16]
    );
}
