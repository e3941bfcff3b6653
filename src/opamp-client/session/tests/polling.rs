//! The same session over plain HTTP: one request, one answer.

use super::*;

impl Bench {
    /// All fields set, polled, the first report answered.
    fn polled() -> Self {
        let mut bench = Self::full();
        bench.poll_on();
        bench.one();
        bench.hear(&ack());
        bench
    }

    fn poll_on(&mut self) {
        self.session.handle_polling(self.now);
    }

    /// The request failed, and the next attempt begins.
    fn fail(&mut self) {
        self.session.handle_disconnected(self.now);
        self.poll_on();
    }

    /// When the next message is due, from now.
    fn due_in(&self) -> Duration {
        let at = self.session.poll_timeout().expect("something is due");
        at.saturating_sub(self.now)
    }
}

//
#[test]
fn an_idle_agent_polls_every_thirty_seconds_with_three_fields_whatever_its_bits() {
    for capabilities in [ALL, 0] {
        let mut bench = Bench::with(capabilities);
        bench.poll_on();
        bench.one();
        bench.hear(&ack());
        let mut waits = Vec::new();
        for number in 1..=20 {
            let wait = bench.due_in();
            assert!(
                wait <= secs(30) && wait >= Duration::from_millis(28_500),
                "{wait:?}"
            );
            waits.push(wait);
            bench.pass(wait);
            let wanted = AgentToServer {
                instance_uid: UID.to_vec(),
                sequence_num: number,
                capabilities: bench.session.capabilities(),
                ..AgentToServer::default()
            };
            assert_eq!(bench.one(), wanted);
            bench.hear(&ack());
        }
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 10, "no two agents poll in step: {waits:?}");
    }
}

//
#[test]
fn an_offered_interval_is_the_polling_interval_and_zero_does_not_stop_polling() {
    let offer = |seconds| ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            opamp: Some(OpAmpConnectionSettings {
                heartbeat_interval_seconds: seconds,
                ..OpAmpConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        }),
        ..ack()
    };
    let mut bench = Bench::full();
    // With the bit for settings the caller sets the interval; the status would be an answer of its own.
    let settings = AgentCapabilities::AcceptsOpAmpConnectionSettings.bit();
    let status = AgentCapabilities::ReportsConnectionSettingsStatus.bit();
    bench.session.set_capabilities(ALL & !settings & !status);
    bench.poll_on();
    bench.one();
    bench.hear(&offer(2));
    assert!(bench.due_in() <= secs(2), "{:?}", bench.due_in());
    bench.pass(secs(2));
    bench.one();
    bench.hear(&offer(0));
    assert!(bench.due_in() <= secs(2), "{:?}", bench.due_in());
    bench.session.set_heartbeat(Duration::ZERO);
    let default = bench.due_in();
    assert!(default > secs(28) && default <= secs(30), "{default:?}");
}

//
#[test]
fn changes_while_a_request_is_out_become_the_one_that_follows_its_answer() {
    let mut bench = Bench::full();
    bench.poll_on();
    bench.one();
    for status in ["a", "b", "c"] {
        bench.session.set_health(health(status));
        bench.session.set_effective_config(effective(status));
        bench.pass(secs(60));
        assert_eq!(bench.drain(), []);
        assert_eq!(bench.session.poll_timeout(), None, "no deadline of ours");
    }
    bench.hear(&ack());
    let next = bench.one();
    assert_eq!(
        (next.sequence_num, fields_of(&next)),
        (1, vec!["health", "effective"])
    );
    assert_eq!(next.health, Some(health("c")));
}

//
#[test]
fn a_failed_request_gives_back_its_number_and_all_it_held() {
    let mut bench = Bench::polled();
    bench
        .session
        .set_remote_config_status(status(b"n", RemoteConfigStatuses::Applied));
    let said = echo("once");
    bench.session.send_custom_message(said.clone()).unwrap();
    for round in 0..3 {
        let tried = bench.one();
        assert_eq!(tried.sequence_num, 1, "round {round}");
        assert_eq!(fields_of(&tried), ["remote", "message"], "round {round}");
        bench.fail();
    }
    bench.session.set_health(health("later"));
    let taken = bench.one();
    assert_eq!(taken.sequence_num, 1);
    assert_eq!(fields_of(&taken), ["health", "remote", "message"]);
    bench.hear(&ack());
    assert_eq!(bench.drain(), []);
    // An answered report stays answered over the next failure, too.
    bench.pass(secs(30));
    let poll = bench.one();
    assert_eq!((poll.sequence_num, fields_of(&poll)), (2, vec![]));
    bench.fail();
    let again = bench.one();
    assert_eq!((again.sequence_num, fields_of(&again)), (2, vec![]));
}

//
#[test]
fn the_first_report_is_full_until_one_was_answered() {
    let mut bench = Bench::full();
    bench.poll_on();
    for _ in 0..3 {
        let first = bench.one();
        assert_eq!(
            (first.sequence_num, fields_of(&first)),
            (0, EVERY_FIELD.to_vec())
        );
        bench.fail();
    }
}

//
#[test]
fn a_full_report_that_failed_is_still_asked_for() {
    let mut bench = Bench::polled();
    bench.pass(secs(30));
    bench.one();
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
    bench.fail();
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
    bench.hear(&ack());
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn unavailable_in_an_answer_is_silence_and_then_the_same_again() {
    let mut bench = Bench::polled();
    bench.session.set_health(health("worse"));
    let tried = bench.one();
    bench.hear(&error(2, Some(2_000_000_000)));
    let told = bench.events();
    let wanted = SessionEvent::Unavailable {
        retry_after: Some(secs(2)),
    };
    assert!(told.contains(&wanted), "{told:?}");
    bench.session.disconnect(bench.now);
    assert_eq!(bench.drain(), [], "a goodbye would be one more request");
    bench.session.handle_disconnected(bench.now);
    bench.pass(secs(2));
    bench.poll_on();
    assert_eq!(bench.one(), tried);
}

//
#[test]
fn what_the_server_found_wrong_counts_as_answered() {
    let mut bench = Bench::polled();
    bench.session.set_health(health("odd"));
    bench.one();
    bench.hear(&error(1, None));
    assert_eq!(bench.drain(), []);
    assert!(bench.due_in() > secs(28));
}

//
#[test]
fn what_was_too_large_is_kept_back_until_it_changes() {
    let mut bench = Bench::full();
    bench
        .session
        .set_effective_config(effective(&"long ".repeat(100)));
    bench.poll_on();
    let first = bench.one();
    assert_eq!(fields_of(&first), EVERY_FIELD);
    bench.session.handle_too_large(bench.now);
    bench.fail();
    let told = bench.events();
    let oversize = |event: &SessionEvent| matches!(event, SessionEvent::Oversize { field: "effective_config", bytes } if *bytes > 500);
    assert!(told.iter().any(oversize), "{told:?}");
    let second = bench.one();
    assert_eq!(second.sequence_num, 0);
    assert!(second.effective_config.is_none() && second.health.is_some());
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    assert!(
        bench.one().effective_config.is_none(),
        "not even when asked for all"
    );
    bench.hear(&ack());
    bench.session.set_effective_config(effective("short"));
    assert_eq!(fields_of(&bench.one()), ["effective"]);
}

//
#[test]
fn a_poll_that_was_too_large_is_not_repeated_as_it_is() {
    let mut bench = Bench::polled();
    bench.pass(secs(30));
    let poll = bench.one();
    bench.session.handle_too_large(bench.now);
    bench.fail();
    let next = bench.one();
    assert_eq!(next.sequence_num, poll.sequence_num + 1);
}

//
#[test]
fn a_socket_that_was_closed_for_a_large_message_does_not_get_it_again() {
    let mut bench = Bench::greeted();
    bench
        .session
        .set_effective_config(effective(&"long ".repeat(100)));
    assert_eq!(fields_of(&bench.one()), ["effective"]);
    bench.session.handle_too_large(bench.now);
    bench.session.handle_disconnected(bench.now);
    bench.connect();
    assert!(bench.one().effective_config.is_none());
}

//
#[test]
fn an_answer_that_is_no_message_is_a_failure_and_the_next_request_waits_for_its_time() {
    let mut bench = Bench::full();
    bench.poll_on();
    let first = bench.one();
    assert!(bench.session.handle_frame(bench.now, &[0, 0xFF]).is_err());
    assert_eq!(bench.drain(), []);
    assert!(bench.due_in() > secs(28), "{:?}", bench.due_in());
    bench.pass(secs(30));
    assert_eq!(bench.one(), first);
}

//
#[test]
fn limits_do_not_count_a_header_that_is_not_sent() {
    let mut config = SessionConfig::new(UID, ALL);
    config.max_message = 1024;
    let mut bench = Bench::of(config);
    bench.poll_on();
    bench.one();
    let offer = |bytes: usize| ServerToAgent {
        remote_config: Some(AgentRemoteConfig {
            config_hash: vec![1; bytes],
            ..AgentRemoteConfig::default()
        }),
        ..ServerToAgent::default()
    };
    let of_size = |wanted: usize| {
        let message = (0..wanted)
            .rev()
            .map(offer)
            .find(|message| message.wire_len() <= wanted)
            .expect("fits");
        assert_eq!(message.wire_len(), wanted);
        frame::encode(&message, usize::MAX).expect("encodes")
    };
    let over = bench.session.handle_frame(bench.now, &of_size(1025));
    assert_eq!(
        over,
        Err(FrameError::TooLarge {
            bytes: 1026,
            limit: 1025
        })
    );
    assert_eq!(bench.events(), []);
    bench.pass(secs(30));
    bench.one();
    let fits = bench.session.handle_frame(bench.now, &of_size(1024));
    assert_eq!(fits, Ok(()));
    assert_eq!(bench.events().len(), 1);
}

//
#[test]
fn goodbye_follows_a_request_that_is_still_out_and_its_answer_still_counts() {
    let mut bench = Bench::polled();
    bench.session.set_health(health("stopping"));
    bench.one();
    bench.session.disconnect(bench.now);
    let last = bench.one();
    assert_eq!(
        (last.sequence_num, fields_of(&last)),
        (2, vec!["disconnect"])
    );
    bench.hear(&ack());
    bench.hear(&ack());
    bench.session.handle_disconnected(bench.now);
    bench.poll_on();
    let next = bench.one();
    assert_eq!((next.sequence_num, fields_of(&next)), (3, vec![]));
}

//
#[test]
fn numbers_go_on_when_the_transport_changes() {
    let mut bench = Bench::polled();
    bench.session.disconnect(bench.now);
    bench.one();
    bench.hear(&ack());
    bench.session.handle_disconnected(bench.now);
    bench.connect();
    assert_eq!(bench.one().sequence_num, 2);
    bench.session.set_health(health("a"));
    // A WebSocket does not wait for answers.
    assert_eq!(bench.one().sequence_num, 3);
    bench.session.handle_disconnected(bench.now);
    bench.poll_on();
    assert_eq!(bench.one().sequence_num, 4);
}

//
#[test]
fn a_certificate_request_survives_an_answer_that_makes_no_sense() {
    let mut bench = Bench::polled();
    bench.hear(&ServerToAgent {
        capabilities: 0x7F,
        ..ack()
    });
    bench.drain();
    let request = ConnectionSettingsRequest::default();
    bench.session.request_connection_settings(request.clone());
    let first = bench.one();
    assert_eq!(first.connection_settings_request, Some(request.clone()));
    assert!(bench.session.handle_frame(bench.now, b"\xFF").is_err());
    bench.pass(secs(31));
    let again = bench.one();
    assert_eq!(again.connection_settings_request, Some(request));
    assert_eq!(again.sequence_num, first.sequence_num);
    bench.hear(&ack());
    assert_eq!(bench.drain(), [], "it is sent once");
}

// what was not taken begins anew, and asks for a configuration as before.
#[test]
fn a_first_report_with_a_senseless_answer_is_a_first_report_again() {
    let mut bench = Bench::with(ALL);
    bench.poll_on();
    assert_eq!(fields_of(&bench.one()), ["remote"]);
    bench
        .session
        .handle_frame(bench.now, &[0, 0x08, 1])
        .unwrap_err();
    assert!(!bench.session.is_drained(), "the report is owed");
    bench.pass(secs(30));
    assert_eq!(fields_of(&bench.one()), ["remote"]);
    bench.hear(&ack());
    // An idle poll owes nothing, answered or not.
    bench.pass(secs(30));
    bench.one();
    bench
        .session
        .handle_frame(bench.now, &[0, 0x08, 1])
        .unwrap_err();
    assert!(bench.session.is_drained());
    // New bits were not taken and are owed.
    bench.session.set_capabilities(1);
    bench.pass(secs(30));
    bench.one();
    bench
        .session
        .handle_frame(bench.now, &[0, 0x08, 1])
        .unwrap_err();
    assert!(!bench.session.is_drained());
}
