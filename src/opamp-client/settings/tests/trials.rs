//! Given settings on trial, when connecting with them works, fails, takes long or is answered with an error, then they
//! stay or everything is as it was.

use super::*;

fn new_place() -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        headers: Some(headers(&[("authorization", "Bearer offered")])),
        heartbeat_interval_seconds: 1,
        ..endpoint(NEW)
    }
}

fn throttled(seconds: u64) -> LossKind {
    LossKind::Throttled {
        retry_in: Duration::from_secs(seconds),
    }
}

// R-147…R-152
#[test]
fn a_candidate_is_saved_then_tried_and_kept_when_the_server_answers() {
    let mut bench = Bench::connected();
    let seen = bench.offer(at(1), offering("h", new_place()));
    assert_eq!(seen, [applying("h"), Seen::Save]);
    assert_eq!(bench.url(), BASE, "nothing is left before it is saved");
    assert_eq!(bench.store(at(2)), [Seen::Leave]);
    assert_eq!(bench.url(), BASE);
    bench.settings.handle_left(at(2));
    assert_eq!(bench.url(), NEW);
    assert!(bench.settings.is_on_trial());
    bench.settings.handle_connected(at(3));
    assert_eq!(bench.seen(), [], "a handshake alone proves nothing yet");
    bench.settings.handle_answered(at(3));
    assert_eq!(
        bench.seen(),
        [Seen::Accepted, Seen::Heartbeat(1), applied("h"), Seen::Save]
    );
    assert_eq!(
        (bench.url().as_str(), bench.authorization()),
        (NEW, "Bearer offered")
    );
    assert!(!bench.settings.is_on_trial());
    bench.lose(at(4), LossKind::Rejected);
    assert_eq!(
        bench.url(),
        NEW,
        "proven settings are not given up for one refusal"
    );
}

// R-153…R-155
#[test]
fn what_fails_is_undone_in_every_field_and_told() {
    for (kind, attempts) in [
        (LossKind::Lost, 3),
        (LossKind::Rejected, 1),
        (LossKind::Settings, 1),
    ] {
        let mut bench = Bench::trying(new_place());
        let before = bench.settings.heartbeat();
        for _ in 1..attempts {
            assert_eq!(bench.lose(at(2), kind), []);
            assert_eq!(bench.url(), NEW);
        }
        assert_eq!(
            bench.lose(at(3), kind),
            [
                reverted("nobody there"),
                failed("h", "opamp: nobody there"),
                Seen::Save
            ],
            "{kind:?}"
        );
        assert_eq!(bench.settings.target(), &base());
        assert_eq!(bench.settings.heartbeat(), before);
        bench.connect(at(4));
        assert_eq!(bench.seen(), [Seen::Save], "the candidate is forgotten");
        assert_eq!(bench.settings.poll_timeout(), None);
    }
}

//
#[test]
fn time_is_bounded_but_an_overloaded_server_gets_more_of_it() {
    let mut bench = Bench::trying(new_place());
    assert_eq!(bench.settings.poll_timeout(), Some(at(61).now));
    assert_eq!(bench.lose(at(10), throttled(120)), []);
    assert_eq!(bench.settings.poll_timeout(), Some(at(10 + 120 + 60).now));
    bench.settings.handle_timeout(at(61));
    assert_eq!((bench.url().as_str(), bench.seen()), (NEW, vec![]));
    for _ in 0..100 {
        bench.lose(at(130), throttled(3600));
    }
    // No longer than ten minutes, whatever it asks for.
    assert_eq!(bench.settings.poll_timeout(), Some(at(601).now));
    bench.settings.handle_timeout(at(601));
    assert_eq!(
        bench.seen(),
        [
            reverted("no connection within 60 s"),
            Seen::Leave,
            failed("h", "opamp: no connection within 60 s"),
            Seen::Save
        ]
    );
    assert_eq!(bench.url(), BASE);
}

//
#[test]
fn a_slow_server_is_accepted_within_its_time() {
    let mut bench = Bench::trying(new_place());
    bench.lose(at(30), LossKind::Lost);
    bench.settings.handle_connected(at(59));
    bench.settings.handle_timeout(at(61));
    assert_eq!(
        bench.url(),
        NEW,
        "a connection that stands is not given up at the deadline"
    );
    bench.settings.handle_answered(at(62));
    assert_eq!(bench.seen()[0], Seen::Accepted);
}

// some servers never say anything.
#[test]
fn a_connection_that_stands_in_silence_is_proven_after_a_while() {
    let mut bench = Bench::trying(new_place());
    bench.settings.handle_connected(at(5));
    assert_eq!(bench.settings.poll_timeout(), Some(at(15).now));
    bench.settings.handle_timeout(at(14));
    assert_eq!(bench.seen(), []);
    bench.settings.handle_timeout(at(15));
    assert_eq!(bench.seen()[0], Seen::Accepted);
}

// accepted and closed at once is no good connection.
#[test]
fn a_server_that_accepts_and_closes_does_not_prove_anything() {
    let mut bench = Bench::trying(new_place());
    for _ in 0..2 {
        bench.settings.handle_connected(at(2));
        assert_eq!(bench.lose(at(3), LossKind::Lost), []);
    }
    bench.settings.handle_connected(at(4));
    assert_eq!(
        bench.lose(at(5), LossKind::Lost)[0],
        reverted("nobody there")
    );
}

#[test]
fn a_server_that_answers_with_an_error_is_left() {
    let mut bench = Bench::trying(new_place());
    bench.settings.handle_connected(at(2));
    bench
        .settings
        .handle_server_error(at(2), ServerErrorKind::BadRequest, "who are you\n?");
    assert_eq!(
        bench.seen(),
        [
            reverted("server answered with an error: who are you ?"),
            Seen::Leave,
            failed("h", "opamp: server answered with an error: who are you ?"),
            Seen::Save
        ]
    );
    bench.settings.handle_left(at(3));
    assert_eq!(bench.url(), BASE);
}

//
#[test]
fn when_both_fail_both_get_their_turns_until_one_works() {
    for (works, status) in [(BASE, None), (NEW, Some(applied("h")))] {
        let mut bench = Bench::trying(new_place());
        let mut turns = Vec::new();
        for second in 2..20 {
            turns.push(bench.url());
            bench.lose(at(second), LossKind::Lost);
        }
        let new_turns = turns.iter().filter(|url| *url == NEW).count();
        assert_eq!((turns.len(), new_turns), (18, 9), "{turns:?}");
        while bench.url() != works {
            bench.lose(at(30), LossKind::Lost);
        }
        bench.connect(at(31));
        let seen = bench.seen();
        let last = seen
            .iter()
            .find(|seen| matches!(seen, Seen::Applied(_)))
            .cloned();
        assert_eq!(last, status, "{seen:?}");
        assert_eq!(bench.url(), works);
        assert!(!bench.settings.is_on_trial());
    }
}

//
#[test]
fn a_server_that_only_throttles_does_not_strand_the_client() {
    for overloaded in [NEW, BASE] {
        let mut bench = Bench::trying(new_place());
        let mut second = 2;
        // The first turn of each fails, so that no deadline is left.
        for _ in 0..6 {
            second += 1;
            bench.lose(at(second), LossKind::Lost);
        }
        assert_eq!(bench.url(), NEW);
        let mut turns = Vec::new();
        for _ in 0..12 {
            second += 1;
            turns.push(bench.url());
            let busy = bench.url() == overloaded;
            bench.lose(at(second), if busy { throttled(1) } else { LossKind::Lost });
            bench.settings.handle_timeout(at(second));
        }
        let old_turns = turns.iter().filter(|url| *url == BASE).count();
        assert_eq!(old_turns, 6, "{turns:?}");
    }
}

//
#[test]
fn offered_credentials_that_are_revoked_give_the_local_ones_a_chance() {
    let mut bench = Bench::trying(new_place());
    bench.connect(at(2));
    bench.seen();
    for second in 3..5 {
        bench.lose(at(second), LossKind::Rejected);
        assert_eq!(bench.url(), NEW);
    }
    assert_eq!(bench.lose(at(6), LossKind::Rejected), []);
    assert_eq!(bench.settings.target(), &base());
    bench.connect(at(7));
    assert_eq!(
        bench.seen(),
        [Seen::Accepted, Seen::Heartbeat(30), Seen::Unset, Seen::Save]
    );
    // What the server offers now is news, even under the old hash.
    let seen = bench.offer(at(8), offering("h", new_place()));
    assert_eq!(seen, [applying("h"), Seen::Save]);
}

#[test]
fn without_offered_settings_refusals_change_nothing() {
    let mut bench = Bench::connected();
    for second in 1..20 {
        assert_eq!(bench.lose(at(second), LossKind::Rejected), []);
    }
    assert_eq!(bench.settings.target(), &base());
}

//
#[test]
fn a_loss_while_leaving_or_saving_does_not_stop_the_trial() {
    let mut bench = Bench::connected();
    bench.offer(at(1), offering("h", new_place()));
    bench.lose(at(1), LossKind::Lost);
    assert_eq!(bench.url(), BASE);
    assert_eq!(bench.store(at(2)), [Seen::Leave]);
    bench.lose(at(2), LossKind::Lost);
    assert_eq!(bench.url(), NEW);
}

#[test]
fn another_local_endpoint_ends_what_was_offered_and_what_is_on_trial() {
    let moved: Target = "wss://moved.example/v1/opamp".parse().unwrap();
    let mut bench = Bench::trying(new_place());
    bench.settings.set_base(moved.clone()).unwrap();
    assert_eq!(bench.settings.target(), &moved);
    let reason = "opamp: the local endpoint was changed";
    assert_eq!(bench.seen(), [failed("h", reason), Seen::Save]);

    let mut bench = Bench::trying(new_place());
    bench.connect(at(2));
    bench.seen();
    bench.settings.set_base(moved.clone()).unwrap();
    assert_eq!(bench.seen(), [Seen::Unset, Seen::Heartbeat(30), Seen::Save]);
    assert_eq!(bench.settings.target(), &moved);
}

//
#[test]
fn a_local_token_that_is_renewed_stays_below_what_was_offered() {
    let mut bench = Bench::trying(endpoint(NEW));
    bench.connect(at(2));
    let renewed = BASE
        .parse::<Target>()
        .and_then(|base| base.with_header("Authorization", "Bearer renewed"))
        .unwrap();
    bench.settings.set_base(renewed).unwrap();
    assert_eq!(
        (bench.url().as_str(), bench.authorization()),
        (NEW, "Bearer renewed")
    );
}
