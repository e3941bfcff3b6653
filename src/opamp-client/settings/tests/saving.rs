//! Given a client that dies at any moment, when it starts again with what it saved, then the trial goes on where it
//! was and the first report is true.

use proptest::prelude::*;

use super::*;

fn again(bench: &Bench) -> Bench {
    Bench::with(config(), bench.saved.as_ref())
}

//
#[test]
fn a_saved_candidate_is_tried_after_a_crash() {
    for proven in [true, false] {
        let mut bench = again(&Bench::trying(endpoint(NEW)));
        assert_eq!(bench.seen(), [applying("h")], "the first report says so");
        assert_eq!(bench.url(), NEW);
        if proven {
            bench.connect(at(1));
            assert_eq!(bench.seen(), [Seen::Accepted, applied("h"), Seen::Save]);
            assert_eq!(again(&bench).url(), NEW);
        } else {
            let seen = bench.lose(at(1), LossKind::Rejected);
            assert_eq!(
                seen[..2],
                [reverted("nobody there"), failed("h", "opamp: nobody there")]
            );
            assert_eq!(bench.url(), BASE);
        }
    }
}

// a crash between going back and being back.
#[test]
fn a_failed_candidate_is_not_tried_first_after_a_crash() {
    let mut bench = Bench::trying(endpoint(NEW));
    bench.lose(at(2), LossKind::Rejected);
    let mut bench = again(&bench);
    assert_eq!(bench.seen(), [failed("h", "opamp: nobody there")]);
    assert_eq!(bench.url(), BASE);
    for _ in 0..3 {
        bench.lose(at(3), LossKind::Lost);
    }
    assert_eq!(
        bench.url(),
        NEW,
        "it still gets its turn when the old ones are dead"
    );
    let mut bench = again(&bench);
    bench.connect(at(4));
    bench.seen();
    let mut bench = again(&bench);
    for _ in 0..9 {
        bench.lose(at(5), LossKind::Lost);
    }
    assert_eq!(bench.url(), BASE, "forgotten when the old ones worked");
}

//
#[test]
fn the_hash_survives_and_the_same_offer_is_not_carried_out_again() {
    let mut bench = Bench::trying(endpoint(NEW));
    bench.connect(at(2));
    bench.seen();
    let mut bench = again(&bench);
    assert_eq!(bench.seen(), [applied("h")]);
    bench.connect(at(1));
    assert_eq!(bench.offer(at(2), offering("h", endpoint(NEW))), []);
}

#[test]
fn a_candidate_that_cannot_be_saved_is_not_tried() {
    let mut bench = Bench::connected();
    bench.offer(at(1), offering("h", endpoint(NEW)));
    let id = *bench.ids.last().unwrap();
    bench
        .settings
        .handle_saved(at(2), id, Err("disk is full".to_owned()));
    assert_eq!(
        bench.seen(),
        [
            failed("h", "opamp: could not be saved: disk is full"),
            Seen::Save
        ]
    );
    assert_eq!(bench.url(), BASE);
}

#[test]
fn a_store_that_never_answers_is_a_failure_and_the_next_offer_gets_its_turn() {
    let mut bench = Bench::connected();
    bench.offer(at(1), offering("h", endpoint(NEW)));
    let id = *bench.ids.last().unwrap();
    let other = endpoint("wss://other.example/v1/opamp");
    assert_eq!(bench.offer(at(2), offering("i", other)), []);
    assert_eq!(bench.settings.poll_timeout(), Some(at(61).now));
    bench.settings.handle_timeout(at(61));
    assert_eq!(
        bench.seen(),
        [
            failed("h", "opamp: was not stored in time"),
            applying("i"),
            Seen::Save
        ]
    );
    bench.settings.handle_saved(at(62), id, Ok(()));
    assert_eq!((bench.seen(), bench.url().as_str()), (vec![], BASE));
    assert_eq!(bench.store(at(63)), [Seen::Leave]);
}

#[test]
fn late_and_foreign_answers_of_the_store_change_nothing() {
    let mut bench = Bench::connected();
    bench.settings.handle_saved(at(1), 99, Ok(()));
    bench.offer(at(1), offering("h", endpoint(NEW)));
    bench.settings.handle_saved(at(2), 0, Ok(()));
    assert_eq!((bench.seen(), bench.url().as_str()), (vec![], BASE));
    assert_eq!(bench.store(at(3)), [Seen::Leave]);
    let id = *bench.ids.last().unwrap();
    bench.settings.handle_saved(at(3), id, Ok(()));
    assert_eq!(bench.seen(), []);
}

#[test]
fn another_local_endpoint_is_newer_than_any_offer() {
    let mut bench = Bench::trying(endpoint(NEW));
    bench.connect(at(2));
    bench.seen();
    let moved: Target = "wss://moved.example/v1/opamp".parse().unwrap();
    let config = SettingsConfig::new(moved.clone(), Duration::from_secs(30));
    let mut bench = Bench::with(config, bench.saved.as_ref());
    assert_eq!(bench.seen(), []);
    assert_eq!(bench.settings.target(), &moved);
}

#[test]
fn what_the_local_settings_no_longer_allow_is_given_up() {
    let local: Target = "ws://127.0.0.1:4320/v1/opamp".parse().unwrap();
    let config = SettingsConfig::new(local, Duration::from_secs(30));
    let mut bench = Bench::with(config.clone(), None);
    bench.connect(at(0));
    bench.offer(at(1), offering("h", endpoint("ws://127.0.0.1:4321")));
    bench.store(at(1));
    bench.settings.handle_left(at(1));
    bench.connect(at(2));
    bench.seen();
    let mut strict = config;
    strict.policy.allow_plaintext = false;
    let mut bench = Bench::with(strict, bench.saved.as_ref());
    let reason =
        "opamp.destination_endpoint: is not encrypted, which the local settings do not allow";
    assert_eq!(bench.seen(), [Seen::Dropped(reason.to_owned())]);
    assert_eq!(bench.url(), "ws://127.0.0.1:4320/v1/opamp");
}

// A clock that starts in 1970 must not cost us our certificate.
#[test]
fn a_saved_certificate_is_kept_whatever_the_clock_says() {
    let key = KeyPair::generate().unwrap();
    let mut bench = Bench::trying(with_pair(pair(&key, 2026)));
    bench.connect(at(2));
    bench.seen();
    let early = Clock::default();
    let settings = Settings::new(config(), bench.saved.as_ref(), early).unwrap();
    assert!(settings.target().tls.client_certificate.is_some());
}

#[test]
fn damage_and_newer_formats_are_errors() {
    let newer = SavedSettings(vec![0x08, 0x02]);
    let read = |saved: &SavedSettings| Settings::new(config(), Some(saved), at(0)).err();
    assert_eq!(read(&newer), Some(SavedError::Newer { format: 2 }));
    assert_eq!(read(&SavedSettings(Vec::new())), Some(SavedError::Damaged));
    assert_eq!(
        read(&SavedSettings(vec![0xFF; 9])),
        Some(SavedError::Damaged)
    );
}

proptest! {
    #[test]
    fn no_saved_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _settings = Settings::new(config(), Some(&SavedSettings(bytes)), at(0));
    }

    /// Whatever happens in whatever order: there is always something to connect with, it is one of the two, and
    /// whichever of them works in the end is found, without a restart and with one.
    #[test]
    fn no_order_of_events_strands_the_client(
        steps in proptest::collection::vec((0_u8..11, 0_u64..40), 0..60),
        kinds in proptest::collection::vec(0_u8..3, 1..6),
    ) {
        for works in [BASE, NEW] {
            let (mut bench, seconds) = reach(&steps);
            if let Some(saved) = &bench.saved {
                prop_assert!(Settings::new(config(), Some(saved), at(seconds)).is_ok());
            }
            let mut restarted = again(&bench);
            restarted.seen();
            for bench in [&mut bench, &mut restarted] {
                prop_assert!(settles(bench, seconds, works, &kinds), "only {works} works");
            }
        }
    }
}

fn loss_of(kind: u8, seconds: u64) -> LossKind {
    match kind {
        0 => LossKind::Lost,
        1 => LossKind::Rejected,
        _ => LossKind::Throttled {
            retry_in: Duration::from_secs(seconds),
        },
    }
}

/// After these events, each with the wait before it.
fn reach(steps: &[(u8, u64)]) -> (Bench, u64) {
    let mut bench = Bench::connected();
    let mut seconds = 1;
    for (step, wait) in steps {
        seconds += wait;
        let clock = at(seconds);
        match step {
            0 => bench
                .settings
                .handle_offer(clock, offering("h", endpoint(NEW))),
            1 => bench
                .settings
                .handle_offer(clock, offering("", endpoint(NEW))),
            2..=4 => {
                bench.lose(clock, loss_of(step - 2, *wait));
            }
            5 => bench.connect(clock),
            6 => bench.settings.handle_left(clock),
            7 => bench.settings.handle_timeout(clock),
            8 => bench
                .settings
                .handle_server_error(clock, ServerErrorKind::Unknown, "no"),
            _ => {
                if let Some(id) = bench.ids.last().copied() {
                    let full = (*step == 9).then(|| "disk is full".to_owned());
                    bench
                        .settings
                        .handle_saved(clock, id, full.map_or(Ok(()), Err));
                }
            }
        }
        bench.seen();
        let url = bench.url();
        assert!(url == BASE || url == NEW, "{url}");
    }
    (bench, seconds)
}

/// Whether the client comes to rest in bounded steps, at the one server that works or where it knows no other. Losses
/// come as drawn; settings that are in force are refused, which is what gives them up.
fn settles(bench: &mut Bench, mut seconds: u64, works: &str, kinds: &[u8]) -> bool {
    let settled = |bench: &Bench| matches!(bench.settings.phase, Phase::Settled);
    if !bench.ids.is_empty() {
        bench.store(at(seconds));
    }
    bench.lose(at(seconds), LossKind::Lost);
    for kind in kinds.iter().cycle().take(400) {
        seconds += 30;
        let clock = at(seconds);
        let mut seen = Vec::new();
        if bench.url() == works {
            bench.connect(clock);
            seen.extend(bench.seen());
            if settled(bench) && bench.url() == works && !seen.contains(&Seen::Save) {
                return true;
            }
        } else if settled(bench) {
            if bench.url() == BASE {
                // Nobody told it of another one, or that one was given up for one that worked.
                return true;
            }
            seen.extend(bench.lose(clock, LossKind::Rejected));
        } else {
            seen.extend(bench.lose(clock, loss_of(*kind, 30)));
        }
        bench.settings.handle_timeout(clock);
        seen.extend(bench.seen());
        if seen.contains(&Seen::Save) {
            seen.extend(bench.store(clock));
        }
        if seen.contains(&Seen::Leave) {
            bench.settings.handle_left(clock);
            bench.seen();
        }
    }
    false
}
