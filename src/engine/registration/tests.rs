//! Given a registration and a clock, when answers, rejections and orders come, then it calls, waits or leaves it to a
//! person as the tables say.

mod told;

use std::collections::BTreeMap;

use super::*;
use crate::config::{OnRejected, Tls};
use crate::engine::message::{CredentialSource, FailureClass};
use crate::units::WallTime;

const EPOCH: u64 = 1_800_000_000_000;

fn settings(on_rejected: OnRejected) -> config::Registration {
    config::Registration {
        url: Some("https://fleet".to_owned()),
        token: TokenSource::Environment,
        seed: false,
        instance_id: None,
        name: None,
        ip_address: None,
        metadata: BTreeMap::new(),
        on_rejected,
        tls: Tls::default(),
    }
}

fn credential(days: u64) -> Credential {
    Credential {
        source: CredentialSource::Registered,
        at: WallTime::from_unix_millis(EPOCH),
        expires: Some(WallTime::from_unix_millis(EPOCH + days * 86_400_000)),
        gateway: Some("7".to_owned()),
        org: Some("1".to_owned()),
        endpoint: None,
        management_mode: None,
        unsaved: None,
    }
}

fn at(span: Duration) -> Now {
    Now {
        mono: Moment::START.after(span),
        wall: WallTime::from_unix_millis(EPOCH + u64::try_from(span.as_millis()).unwrap()),
    }
}

fn secs(secs: u64) -> Now {
    at(Duration::from_secs(secs))
}

fn registration(on_rejected: OnRejected, credential: Option<Credential>) -> Registration {
    Registration::new(RegistrationSetup {
        settings: Some(settings(on_rejected)),
        credential,
        unreadable: None,
        seed: 7,
    })
}

fn failure(class: FailureClass, retry_after: Option<Duration>) -> RegistrationFailure {
    RegistrationFailure {
        class,
        reason: class.word().to_owned(),
        retry_after,
    }
}

/// The call among effects, if there is one.
fn call(steps: &Steps) -> Option<(Ticket, RegistrationCall)> {
    steps.effects.iter().find_map(|effect| match effect {
        Effect::Register { ticket, call, .. } => Some((*ticket, call.clone())),
        _ => None,
    })
}

fn notes(steps: &Steps) -> Vec<&'static str> {
    let notes = steps.effects.iter().filter_map(|effect| match effect {
        Effect::Note(note) => Some(note.message),
        _ => None,
    });
    notes.collect()
}

#[test]
fn whoever_has_a_token_registers_nothing() {
    let mut known = registration(OnRejected::Register, Some(credential(365)));
    let steps = known.start(secs(0));
    assert_eq!(call(&steps), None);
    assert_eq!(known.needs(), (true, true));
    // Three hundred days later nothing has happened but the clock.
    let due = known.due(secs(0)).unwrap();
    assert_eq!(due.since(Moment::START), Duration::from_hours(335 * 24));
}

#[test]
fn an_unreadable_token_is_not_replaced_by_itself() {
    let mut known = Registration::new(RegistrationSetup {
        settings: Some(settings(OnRejected::Register)),
        credential: None,
        unreadable: Some("read /state/credentials/opamp.json: input/output error".to_owned()),
        seed: 7,
    });
    let steps = known.start(secs(0));
    assert_eq!(call(&steps), None);
    assert_eq!(known.due(secs(0)), None);
    let reason = known.snapshot(secs(1)).unwrap().reason;
    assert!(
        reason.contains("input/output error; repair it, or run `adjutant onboard`"),
        "{reason}"
    );
}

#[test]
fn failures_of_a_first_registration_are_repeated_or_not() {
    let cases = [
        (FailureClass::Network, None, Some((0.5, 1.0))),
        (FailureClass::Server, None, Some((0.5, 1.0))),
        (FailureClass::Throttled, Some(90), Some((90.0, 90.0))),
        (
            FailureClass::Throttled,
            Some(86_400),
            Some((3600.0, 3600.0)),
        ),
        (FailureClass::Settings, None, Some((30.0, 60.0))),
        (FailureClass::Unauthorized, None, None),
        (FailureClass::Forbidden, None, None),
        (FailureClass::NotFound, None, None),
        (FailureClass::Invalid, None, None),
        (FailureClass::Answer, None, None),
    ];
    for (class, retry_after, wanted) in cases {
        let mut new = registration(OnRejected::Hold, None);
        let (ticket, asked) = call(&new.start(secs(0))).unwrap();
        assert_eq!(asked, RegistrationCall::Register);
        let failure = failure(class, retry_after.map(Duration::from_secs));
        let steps = new.answered(secs(1), ticket, Err(failure));
        assert_eq!(notes(&steps), ["registration failed"]);
        let wait = new
            .due(secs(1))
            .map(|due| due.since(secs(1).mono).as_secs_f64());
        match (wait, wanted) {
            (Some(wait), Some((least, most))) => {
                assert!((least..=most).contains(&wait), "{class:?}: {wait}");
            }
            (found, wanted) => assert_eq!(found, wanted.map(|it| it.0), "{class:?}"),
        }
        let snapshot = new.snapshot(secs(1)).unwrap();
        assert_eq!(snapshot.state, "unregistered");
        assert_eq!(
            snapshot.phase,
            if wanted.is_some() { "waiting" } else { "held" }
        );
    }
}

#[test]
fn a_stale_or_repeated_answer_changes_nothing() {
    let mut new = registration(OnRejected::Hold, None);
    let (ticket, _) = call(&new.start(secs(0))).unwrap();
    let steps = new.answered(secs(1), Ticket(ticket.0 + 1), Ok(Box::new(credential(9))));
    assert!(!steps.renewed);
    assert_eq!(new.needs(), (true, false));
    assert!(
        new.answered(secs(1), ticket, Ok(Box::new(credential(9))))
            .renewed
    );
    let again = new.answered(secs(2), ticket, Err(failure(FailureClass::Network, None)));
    assert!(!again.renewed);
    assert_eq!(new.snapshot(secs(2)).unwrap().state, "registered");
}

#[test]
fn an_order_names_the_gateway_where_one_is_known() {
    let renew = RegistrationCall::Restart {
        gateway: "7".to_owned(),
        org: Some("1".to_owned()),
    };
    let cases = [
        (RegistrationOrder::Restart, Some(credential(9)), renew),
        (RegistrationOrder::Restart, None, RegistrationCall::Register),
        (
            RegistrationOrder::Onboard,
            Some(credential(9)),
            RegistrationCall::Register,
        ),
    ];
    for (what, known, wanted) in cases {
        let mut registration = registration(OnRejected::Hold, known);
        let mut steps = Steps::default();
        let reply = registration.order(secs(5), what, &mut steps);
        assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
        let (ticket, asked) = call(&steps).unwrap();
        assert_eq!(asked, wanted);
        // One at a time.
        let mut more = Steps::default();
        let reply = registration.order(secs(6), what, &mut more);
        assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
        assert!(more.effects.is_empty());
        registration.answered(secs(7), ticket, Ok(Box::new(credential(9))));
        let order = registration.snapshot(secs(7)).unwrap().order.unwrap();
        assert_eq!((order.number, order.outcome), (1, Some(Ok(()))));
    }
}

#[test]
fn an_order_is_tried_four_times_and_then_background_goes_on_where_there_is_no_token() {
    for known in [None, Some(credential(9))] {
        let mut registration = registration(OnRejected::Hold, known.clone());
        let mut steps = Steps::default();
        registration.order(secs(0), RegistrationOrder::Onboard, &mut steps);
        let mut now = secs(0);
        for number in 1..=4 {
            let (ticket, _) = call(&steps).unwrap();
            let network = failure(FailureClass::Network, None);
            steps = registration.answered(now, ticket, Err(network.clone()));
            let order = registration.snapshot(now).unwrap().order.unwrap();
            assert_eq!(order.outcome.is_some(), number == 4, "{number}");
            if number < 4 {
                // Between two calls of an order there is no room for another one.
                let mut more = Steps::default();
                let reply = registration.order(now, RegistrationOrder::Restart, &mut more);
                assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
                let due = registration.due(now).unwrap();
                assert!(due.since(now.mono) <= ORDER_PATIENCE);
                now = at(due.since(Moment::START));
                steps = registration.tick(now);
            }
        }
        let phase = registration.snapshot(now).unwrap().phase;
        assert_eq!(phase, if known.is_none() { "waiting" } else { "idle" });
    }
}

#[test]
fn a_disk_that_refuses_the_token_is_asked_again_and_the_token_is_used_meanwhile() {
    let mut new = registration(OnRejected::Hold, None);
    let (ticket, _) = call(&new.start(secs(0))).unwrap();
    let mut unsaved = credential(365);
    unsaved.unsaved = Some("no space".to_owned());
    let steps = new.answered(secs(1), ticket, Ok(Box::new(unsaved.clone())));
    assert!(steps.renewed);
    assert_eq!(notes(&steps), ["registered", "token not stored"]);
    let snapshot = new.snapshot(secs(1)).unwrap();
    assert_eq!(
        snapshot.reason,
        "the token works and is not on disk: no space"
    );
    let mut now = secs(1);
    for outcome in [unsaved, credential(365)] {
        let due = new.due(now).unwrap();
        assert!(due.since(now.mono) <= SAVE_CAP);
        now = at(due.since(Moment::START));
        let steps = new.tick(now);
        let ticket = steps.effects.iter().find_map(|effect| match effect {
            Effect::SaveCredential { ticket } => Some(*ticket),
            _ => None,
        });
        new.answered(now, ticket.unwrap(), Ok(Box::new(outcome)));
    }
    assert_eq!(new.snapshot(now).unwrap().reason, "");
    assert_eq!(new.snapshot(now).unwrap().calls, 1);
}

#[test]
fn rejections_are_said_once_and_forgotten_when_the_server_takes_the_token_again() {
    let mut known = registration(OnRejected::Hold, Some(credential(365)));
    known.start(secs(0));
    assert_eq!(
        notes(&known.rejected(secs(1), "401")),
        ["token rejected by the server"]
    );
    assert!(notes(&known.rejected(secs(60), "401")).is_empty());
    let snapshot = known.snapshot(secs(61)).unwrap();
    assert_eq!((snapshot.state, snapshot.phase), ("rejected", "held"));
    assert_eq!(snapshot.reason, "401; run `adjutant restart-registration`");
    assert_eq!(
        notes(&known.accepted(secs(90))),
        ["token accepted by the server again"]
    );
    assert_eq!(known.snapshot(secs(91)).unwrap().state, "registered");
}

#[test]
fn registering_after_rejections_gets_slower_and_ends() {
    let mut known = registration(OnRejected::Register, Some(credential(365)));
    known.start(secs(0));
    let mut now = secs(1);
    for most in REISSUE_AFTER {
        known.rejected(now, "1008");
        let due = known.due(now).unwrap();
        assert!(
            due.since(now.mono) <= most,
            "{:?} of {most:?}",
            due.since(now.mono)
        );
        now = at(due.since(Moment::START));
        let (ticket, asked) = call(&known.tick(now)).unwrap();
        assert_eq!(asked, RegistrationCall::Register);
        known.answered(now, ticket, Ok(Box::new(credential(365))));
    }
    let steps = known.rejected(now, "1008");
    assert_eq!(notes(&steps), ["token rejected again and again"]);
    assert!(notes(&known.rejected(now, "1008")).is_empty());
    assert_eq!(known.snapshot(now).unwrap().phase, "held");
    // A day after the first it may try again, and not before.
    let later = Duration::from_secs(1) + REISSUE_WINDOW;
    for (moment, phase) in [
        (later.saturating_sub(Duration::from_millis(1)), "held"),
        (later, "waiting"),
    ] {
        known.rejected(at(moment), "1008");
        assert_eq!(known.snapshot(at(moment)).unwrap().phase, phase);
    }
}

#[test]
fn a_registration_after_a_rejection_that_fails_is_told_with_it() {
    let mut known = registration(OnRejected::Register, Some(credential(365)));
    known.start(secs(0));
    known.rejected(secs(1), "401");
    let due = known.due(secs(1)).unwrap();
    let now = at(due.since(Moment::START));
    let (ticket, _) = call(&known.tick(now)).unwrap();
    known.answered(now, ticket, Err(failure(FailureClass::Unauthorized, None)));
    let snapshot = known.snapshot(now).unwrap();
    assert_eq!((snapshot.state, snapshot.phase), ("rejected", "held"));
    let reason = "401; run `adjutant restart-registration`; the last call failed: unauthorized";
    assert_eq!(snapshot.reason, reason);
}

#[test]
fn the_end_of_a_token_is_said_at_thirty_seven_and_one_days_and_when_it_comes() {
    let mut known = registration(OnRejected::Hold, Some(credential(365)));
    let mut said = Vec::new();
    let mut now = secs(0);
    known.start(now);
    while let Some(due) = known.due(now) {
        now = at(due.since(Moment::START));
        let steps = known.tick(now);
        let left = 365 - now.mono.since(Moment::START).as_secs() / 86_400;
        said.push((left, notes(&steps)));
    }
    let soon = vec!["token expires soon"];
    let wanted = [
        (30, soon.clone()),
        (7, soon.clone()),
        (1, soon),
        (0, vec!["token has expired"]),
    ];
    assert_eq!(said, wanted);
    let reason = known.snapshot(now).unwrap().reason;
    assert_eq!(
        reason,
        "the token has expired; run `adjutant restart-registration`"
    );
}

#[test]
fn a_token_of_a_short_life_is_warned_about_only_where_that_means_something() {
    let mut known = registration(OnRejected::Hold, Some(credential(3)));
    known.start(secs(0));
    assert_eq!(known.snapshot(secs(0)).unwrap().reason, "");
    let due = known.due(secs(0)).unwrap();
    assert_eq!(due.since(Moment::START), Duration::from_hours(48));
}

#[test]
fn reading_the_settings_again_is_a_visit_of_a_person() {
    let mut new = registration(OnRejected::Hold, None);
    let (ticket, _) = call(&new.start(secs(0))).unwrap();
    new.answered(
        secs(1),
        ticket,
        Err(failure(FailureClass::Unauthorized, None)),
    );
    assert_eq!(new.due(secs(2)), None);
    new.set_settings(secs(2), Some(settings(OnRejected::Hold)));
    assert!(call(&new.tick(secs(2))).is_some());
    new.set_settings(secs(3), None);
    assert_eq!(new.snapshot(secs(3)), None);
    assert_eq!(new.needs(), (false, false));
}

#[test]
fn reading_settings_while_waiting_after_a_rejection_uses_up_no_registration() {
    let mut known = registration(OnRejected::Register, Some(credential(365)));
    known.start(secs(0));
    known.rejected(secs(1), "401");
    let due = known.due(secs(1)).unwrap();
    for _ in 0..5 {
        known.set_settings(secs(1), Some(settings(OnRejected::Register)));
    }
    assert_eq!(
        known.due(secs(1)),
        Some(due),
        "it goes on waiting as it was"
    );
    // Nobody was called for what the settings took back, nor for what the server did.
    known.set_settings(secs(1), Some(settings(OnRejected::Hold)));
    assert_eq!(known.snapshot(secs(1)).unwrap().phase, "held");
    for _ in 0..5 {
        known.set_settings(secs(1), Some(settings(OnRejected::Register)));
        known.accepted(secs(1));
        known.rejected(secs(1), "401");
    }
    assert_eq!(known.reissues.len(), 1);
    // A call that failed is made again at once: what failed may be mended.
    let now = at(known.due(secs(1)).unwrap().since(Moment::START));
    let (ticket, _) = call(&known.tick(now)).unwrap();
    known.answered(now, ticket, Err(failure(FailureClass::Network, None)));
    known.set_settings(now, Some(settings(OnRejected::Register)));
    assert!(call(&known.tick(now)).is_some());
    assert_eq!(known.reissues.len(), 1);
}

#[test]
fn a_registration_that_comes_while_the_stored_token_is_unreadable_asks_for_no_other() {
    let mut known = Registration::new(RegistrationSetup {
        settings: None,
        credential: None,
        unreadable: Some("read /state/credentials/opamp.json: input/output error".to_owned()),
        seed: 7,
    });
    assert!(notes(&known.start(secs(0))).is_empty());
    let steps = known.set_settings(secs(1), Some(settings(OnRejected::Register)));
    assert_eq!(notes(&steps), ["stored token not readable"]);
    assert_eq!(known.due(secs(1)), None);
    assert_eq!(call(&known.tick(secs(2))), None);
    let reason = known.snapshot(secs(2)).unwrap().reason;
    assert!(reason.contains("run `adjutant onboard`"), "{reason}");
}
