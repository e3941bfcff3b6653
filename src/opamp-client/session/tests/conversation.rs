//! What is said and heard on one connection.

use proptest::prelude::*;

use super::*;

//
#[test]
fn first_message_is_full_status() {
    let mut bench = Bench::full();
    assert_eq!(bench.drain(), [], "nothing before the connection");
    bench.connect();
    let first = bench.one();
    assert_eq!(fields_of(&first), EVERY_FIELD);
    assert_eq!(first.instance_uid, UID);
    assert_eq!(first.sequence_num, 0);
    assert_eq!(first.capabilities, ALL);
    assert_eq!(first.agent_description, Some(description("1")));
    let listed = first.available_components.unwrap();
    assert!(listed.components.is_empty(), "hash only");
    assert_eq!(listed.hash, b"c1");
}

// without a stored status the empty one makes the server send its offer.
#[test]
fn first_message_has_an_unset_remote_config_status_if_none_is_known() {
    let mut bench = Bench::with(AgentCapabilities::ReportsRemoteConfig.bit());
    bench.connect();
    assert_eq!(
        bench.one().remote_config_status,
        Some(RemoteConfigStatus::default())
    );
    let mut bench = Bench::with(0);
    bench.connect();
    assert_eq!(bench.one().remote_config_status, None);
}

//
#[test]
fn each_server_field_alone_has_its_effect() {
    let settings = ConnectionSettingsOffers {
        hash: b"s".to_vec(),
        own_logs: Some(TelemetryConnectionSettings::default()),
        ..ConnectionSettingsOffers::default()
    };
    let cases = vec![
        (
            ServerToAgent {
                remote_config: Some(offer(b"x")),
                ..ack()
            },
            SessionEvent::RemoteConfig(offer(b"x")),
        ),
        (
            ServerToAgent {
                connection_settings: Some(settings.clone()),
                ..ack()
            },
            SessionEvent::ConnectionSettings(settings),
        ),
        (
            ServerToAgent {
                packages_available: Some(PackagesAvailable::default()),
                ..ack()
            },
            SessionEvent::PackagesAvailable(PackagesAvailable::default()),
        ),
        (
            ServerToAgent {
                capabilities: 3,
                ..ack()
            },
            SessionEvent::ServerCapabilities(3),
        ),
        (identify(&OTHER), SessionEvent::NewInstanceUid(OTHER)),
        (command(0), SessionEvent::Restart),
        (
            ServerToAgent {
                custom_capabilities: Some(custom(&["a.b"])),
                ..ack()
            },
            SessionEvent::ServerCustomCapabilities(vec!["a.b".to_owned()]),
        ),
        (
            ServerToAgent {
                custom_message: Some(echo("hi")),
                ..ack()
            },
            SessionEvent::CustomMessage(echo("hi")),
        ),
        (
            error(1, None),
            SessionEvent::ServerError {
                kind: ServerErrorKind::BadRequest,
                message: "no".to_owned(),
            },
        ),
        (
            error(2, None),
            SessionEvent::Unavailable { retry_after: None },
        ),
    ];
    for (message, wanted) in cases {
        let mut bench = Bench::greeted();
        bench.hear(&message);
        assert_eq!(bench.events(), [wanted]);
    }
}

//
#[test]
fn messages_back_to_back_are_all_handled_in_order() {
    let mut bench = Bench::greeted();
    for text in ["1", "2", "3"] {
        bench.hear(&ServerToAgent {
            custom_message: Some(echo(text)),
            ..ack()
        });
    }
    bench.hear(&command(0));
    bench.hear(&ServerToAgent {
        remote_config: Some(offer(b"x")),
        ..ack()
    });
    assert_eq!(
        bench.events(),
        [
            SessionEvent::CustomMessage(echo("1")),
            SessionEvent::CustomMessage(echo("2")),
            SessionEvent::CustomMessage(echo("3")),
            SessionEvent::Restart,
            SessionEvent::RemoteConfig(offer(b"x")),
        ]
    );
}

//
#[test]
fn progress_of_one_offer_is_several_reports() {
    let mut bench = Bench::greeted();
    bench.hear(&ServerToAgent {
        remote_config: Some(offer(b"x")),
        ..ack()
    });
    for step in [
        RemoteConfigStatuses::Applying,
        RemoteConfigStatuses::Applied,
    ] {
        bench.session.set_remote_config_status(status(b"x", step));
        let sent = bench.one();
        assert_eq!(fields_of(&sent), ["remote"]);
        assert_eq!(sent.remote_config_status, Some(status(b"x", step)));
    }
    bench.session.set_effective_config(effective("a: 2"));
    assert_eq!(fields_of(&bench.one()), ["effective"]);
}

//
#[test]
fn plain_acknowledgements_cause_nothing() {
    let mut bench = Bench::greeted();
    for frame in [&[0_u8][..], &[0x80, 0][..]] {
        bench.session.handle_frame(bench.now, frame).unwrap();
    }
    bench.hear(&ack());
    assert_eq!(bench.drain(), []);
    assert_eq!(bench.events(), []);
    assert!(bench.session.is_drained());
}

// repeated offers cause no message while the status they lead to is the same.
#[test]
fn a_server_that_repeats_its_offer_gets_no_answer_to_each() {
    let mut bench = Bench::greeted();
    let mut sent = 0;
    for _ in 0..1000 {
        bench.hear(&ServerToAgent {
            remote_config: Some(offer(b"x")),
            ..ack()
        });
        assert_eq!(bench.events(), [SessionEvent::RemoteConfig(offer(b"x"))]);
        bench
            .session
            .set_remote_config_status(status(b"x", RemoteConfigStatuses::Applied));
        sent += bench.drain().len();
    }
    assert_eq!(sent, 1);
}

//
#[test]
fn garbage_is_counted_and_has_no_effect() {
    let mut bench = Bench::greeted();
    let frames: [&[u8]; 4] = [&[], &[1, 2, 3], &[0, 0xFF], &[0x80; 12]];
    for frame in frames {
        assert!(
            bench.session.handle_frame(bench.now, frame).is_err(),
            "{frame:?}"
        );
    }
    assert_eq!(bench.session.stats().malformed, 4);
    assert_eq!((bench.drain(), bench.events()), (vec![], vec![]));
    bench.session.set_health(health("still talking"));
    assert_eq!(fields_of(&bench.one()), ["health"]);
}

//
#[test]
fn messages_over_the_limit_are_not_processed() {
    let mut bench = Bench::of(SessionConfig {
        max_message: 1024,
        ..SessionConfig::new(UID, ALL)
    });
    bench.connect();
    let mut big = offer(b"x");
    big.config = Some(config_map(&"x".repeat(1024)));
    let frame = frame::encode(
        &ServerToAgent {
            remote_config: Some(big),
            ..ack()
        },
        usize::MAX,
    )
    .unwrap();
    let error = bench.session.handle_frame(bench.now, &frame).unwrap_err();
    assert_eq!(
        error,
        FrameError::TooLarge {
            bytes: frame.len(),
            limit: 1024
        }
    );
    assert_eq!(bench.events(), []);
}

//
#[test]
fn a_silent_server_still_gets_every_change_and_heartbeat() {
    let mut bench = Bench::full();
    bench.connect();
    let mut sent = bench.drain();
    for version in ["2", "3"] {
        bench.session.set_description(description(version));
        sent.append(&mut bench.drain());
    }
    bench.pass(secs(30));
    sent.append(&mut bench.drain());
    let fields: Vec<_> = sent.iter().map(|one| fields_of(one).len()).collect();
    assert_eq!(fields, [8, 1, 1, 0]);
}

//
#[test]
fn what_makes_a_message_too_large_is_left_out_and_told() {
    let mut bench = Bench::of(SessionConfig {
        max_message: 4096,
        ..SessionConfig::new(UID, ALL)
    });
    bench.session.set_description(description("1"));
    bench
        .session
        .set_effective_config(effective(&"x".repeat(5000)));
    bench.connect();
    let first = bench.one();
    assert_eq!(fields_of(&first), ["description", "remote"]);
    assert_eq!(bench.session.stats().dropped_oversize, 1);
    let events = bench.events();
    let [
        SessionEvent::Oversize {
            field: "effective_config",
            bytes,
        },
    ] = events[..]
    else {
        panic!("{events:?}")
    };
    assert!(bytes > 5000);
    assert_eq!(bench.drain(), [], "no second attempt");
    bench.session.set_effective_config(effective("small"));
    let second = bench.one();
    assert_eq!(
        (second.sequence_num, fields_of(&second)),
        (1, vec!["effective"])
    );
}

//
#[test]
fn only_what_changed_is_sent_and_whole() {
    let mut bench = Bench::greeted();
    bench.session.set_description(description("1"));
    bench.session.set_effective_config(effective("a: 1"));
    bench
        .session
        .set_remote_config_status(status(b"h", RemoteConfigStatuses::Applied));
    bench
        .session
        .set_package_statuses(PackageStatuses::default());
    bench
        .session
        .set_custom_capabilities(custom(&["org.example.echo"]));
    bench.session.set_health(health("up"));
    assert_eq!(bench.drain(), []);
    bench.session.set_description(description("2"));
    let sent = bench.one();
    assert_eq!(fields_of(&sent), ["description"]);
    assert_eq!(sent.agent_description, Some(description("2")));
}

//
#[test]
fn unknown_server_fields_do_not_hide_known_ones() {
    let mut bench = Bench::greeted();
    let mut frame = frame::encode(
        &ServerToAgent {
            capabilities: 5,
            ..ack()
        },
        1024,
    )
    .unwrap();
    frame.extend([0x72, 2, 1, 1]);
    bench.session.handle_frame(bench.now, &frame).unwrap();
    assert_eq!(bench.events(), [SessionEvent::ServerCapabilities(5)]);
}

//
#[test]
fn error_texts_are_bounded_and_printable() {
    let mut bench = Bench::greeted();
    let mut message = error(1, None);
    if let Some(error) = &mut message.error_response {
        error.error_message = format!("bad\u{1b}[31m\n{}", "ä".repeat(1 << 20));
    }
    bench.hear(&message);
    let events = bench.events();
    let [SessionEvent::ServerError { message, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(message.starts_with("bad [31m ä"), "{message:.20}");
    assert!((1000..=1024).contains(&message.len()), "{}", message.len());
}

#[test]
fn events_are_bounded_and_the_newest_survive() {
    let mut bench = Bench::greeted();
    for number in 0..1000 {
        bench.hear(&ServerToAgent {
            custom_message: Some(echo(&number.to_string())),
            ..ack()
        });
    }
    let events = bench.events();
    assert_eq!(events.len(), 256);
    assert_eq!(
        events.last(),
        Some(&SessionEvent::CustomMessage(echo("999")))
    );
    assert_eq!(bench.session.stats().events_dropped, 744);
}

//
#[test]
fn trees_are_cut_before_they_overflow_a_decoder() {
    let deep = |levels| {
        (0..levels).fold(health("leaf"), |inner, _| ComponentHealth {
            component_health_map: [("x".to_owned(), inner)].into(),
            ..ComponentHealth::default()
        })
    };
    let mut bench = Bench::with(ALL);
    bench.session.set_health(deep(200));
    bench.connect();
    // `one` decodes with the limit of 100 levels that peers have, too.
    let mut level = bench.one().health.unwrap();
    let mut levels = 1;
    while let Some(inner) = level.component_health_map.remove("x") {
        level = inner;
        levels += 1;
    }
    assert_eq!(levels, 32);
}

proptest! {
    // whatever arrives, messages stay well-formed, numbered without a gap, and finite.
    #[test]
    fn no_server_breaks_the_conversation(
        inputs in proptest::collection::vec(
            (0_u8..8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)),
            0..60,
        ),
    ) {
        let mut bench = Bench::full();
        bench.connect();
        let mut sequence_num = 0;
        for (kind, byte, bytes) in inputs {
            match kind {
                0 => _ = bench.session.handle_frame(bench.now, &bytes),
                1 => bench.hear(&error(i32::from(byte % 4), Some(u64::from(byte)))),
                2 => bench.hear(&ServerToAgent { flags: u64::from(byte), capabilities: u64::from(byte), ..ack() }),
                3 => { bench.session.handle_disconnected(bench.now); bench.connect(); }
                4 => bench.session.set_health(health(&byte.to_string())),
                5 => bench.session.set_capabilities(u64::from(byte) << 8),
                6 => bench.hear(&identify(&bytes)),
                _ => bench.pass(secs(u64::from(byte))),
            }
            for message in bench.drain() {
                prop_assert_eq!(message.sequence_num, sequence_num);
                prop_assert_eq!(message.capabilities & 1, 1);
                prop_assert_eq!(message.instance_uid.len(), 16);
                sequence_num += 1;
            }
            let due = bench.session.poll_timeout();
            prop_assert!(due.is_none_or(|at| at > bench.now), "due {:?} at {:?}", due, bench.now);
            bench.events();
        }
    }
}

#[test]
fn nothing_is_drained_while_an_event_or_a_message_waits() {
    let mut bench = Bench::greeted();
    assert!(bench.session.is_drained());
    bench.hear(&command(0));
    assert!(!bench.session.is_drained(), "an event waits");
    bench.events();
    assert!(bench.session.is_drained());
    bench.session.set_health(health("other"));
    assert!(!bench.session.is_drained(), "a message waits");
    bench.one();
    assert!(bench.session.is_drained());
}

#[test]
fn a_time_once_told_is_not_taken_back_by_an_earlier_one() {
    let mut bench = Bench::greeted();
    bench.session.handle_timeout(secs(30));
    let beat = bench.session.poll_transmit(Duration::ZERO);
    assert!(beat.is_some(), "the heartbeat of the thirtieth second");
}
