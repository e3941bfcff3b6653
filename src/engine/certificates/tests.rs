//! Tables of the machine: when an authority is asked, how often, and what an answer leads to. The simulation drives the
//! same value through deaths and failing disks.

mod known;
mod told;

use std::time::Duration;

use super::pace::Pace;
use super::{Certificates, CertificatesSetup};
use crate::config::{Acme, Certificate, CertificateSource, Domains};
use crate::engine::message::{
    Attempts, CertificateDone, CertificateFault, CertificateFaultKind, CertificateWork, Effect,
    Pair, PairId, PemPair, StoredPairs,
};
use crate::units::{Domain, Moment, Now, Secret, Ticket, WallTime};

const EPOCH_MS: u64 = 1_800_000_000_000;
const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn at(millis: u64) -> Now {
    Now {
        mono: Moment::from_millis(millis),
        wall: WallTime::from_unix_millis(EPOCH_MS + millis),
    }
}

fn domain(text: &str) -> Domain {
    text.parse().unwrap()
}

fn settings(name: &str) -> Certificate {
    Certificate {
        name: name.parse().unwrap(),
        source: CertificateSource::Acme(Acme {
            directory: "https://authority.test/".to_owned(),
            ca_file: None,
            contact: None,
            listen: "127.0.0.1:80".parse().unwrap(),
            timeout: Duration::from_mins(5),
        }),
        domains: Domains::Fixed(vec![domain("a.test")]),
        agents: None,
        check_interval: Duration::from_hours(6),
        renew_percent: 66,
        retry_delay: Duration::from_mins(15),
    }
}

fn machine(names: &[&str]) -> Certificates {
    Certificates::new(CertificatesSetup {
        list: names.iter().map(|name| settings(name)).collect(),
        directory: "/state/certificates".into(),
        seed: 7,
    })
}

/// A pair that begins `begin` after the epoch of these tests and lives for `life`.
fn pair(serial: &str, begin: u64, life: u64) -> Pair {
    Pair {
        id: PairId::new(serial, "0011223344"),
        serial: serial.to_owned(),
        names: vec!["a.test".to_owned()],
        not_before: WallTime::from_unix_millis(EPOCH_MS + begin),
        not_after: WallTime::from_unix_millis(EPOCH_MS + begin + life),
    }
}

/// The work that is asked for, without the notes.
fn work(certificates: &mut Certificates, now: Now) -> Vec<(Ticket, String, CertificateWork)> {
    let effects = certificates.drive(now).effects.into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Certificate { ticket, name, work } => Some((ticket, name.to_string(), work)),
            _ => None,
        })
        .collect()
}

fn only(certificates: &mut Certificates, now: Now) -> (Ticket, CertificateWork) {
    let mut all = work(certificates, now);
    assert_eq!(all.len(), 1, "{all:?}");
    let (ticket, _, work) = all.remove(0);
    (ticket, work)
}

/// Answers the first look with what is stored.
fn looked(certificates: &mut Certificates, now: Now, found: &StoredPairs) {
    for (ticket, _, work) in work(certificates, now) {
        assert!(matches!(work, CertificateWork::Look));
        certificates.answered(now, ticket, Ok(CertificateDone::Found(found.clone())));
    }
}

/// Lets an order begin and answers its ticket.
fn ordering(certificates: &mut Certificates, now: Now) -> Ticket {
    let (ticket, work) = only(certificates, now);
    assert!(
        matches!(work, CertificateWork::Remember(_)),
        "written down first: {work:?}"
    );
    certificates.answered(now, ticket, Ok(CertificateDone::Remembered));
    // `answered` gives the order as an effect of the next drive.
    let (ticket, work) = only(certificates, now);
    assert!(matches!(work, CertificateWork::Order(_)), "{work:?}");
    ticket
}

fn fault(kind: CertificateFaultKind, retry_after: Option<Duration>) -> CertificateFault {
    CertificateFault {
        kind,
        reason: "no".to_owned(),
        retry_after,
    }
}

/// Fails the order under way and answers when the next one is due.
fn failed(
    certificates: &mut Certificates,
    now: Now,
    ticket: Ticket,
    fault: CertificateFault,
) -> u64 {
    certificates.answered(now, ticket, Err(fault));
    let (ticket, work) = only(certificates, now);
    assert!(matches!(work, CertificateWork::Remember(_)));
    certificates.answered(now, ticket, Ok(CertificateDone::Remembered));
    assert!(work_is_none(certificates, now));
    let next = certificates.snapshot(now)[0].next_attempt.unwrap();
    next.unix_millis() - now.wall.unix_millis()
}

fn work_is_none(certificates: &mut Certificates, now: Now) -> bool {
    work(certificates, now).is_empty()
}

#[test]
fn failures_back_off_inside_what_authorities_allow() {
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..7 {
        let ticket = ordering(&mut certificates, at(now));
        let refused = fault(CertificateFaultKind::Refused, None);
        let wait = failed(&mut certificates, at(now), ticket, refused);
        waits.push(wait / MINUTE);
        now += wait;
    }
    let bounds = [
        (15, 18),
        (30, 37),
        (60, 75),
        (120, 150),
        (240, 300),
        (360, 450),
        (360, 450),
    ];
    for (wait, (low, high)) in waits.iter().zip(bounds) {
        assert!((low..=high).contains(wait), "{waits:?}");
    }
}

#[test]
fn an_authority_that_was_not_reached_is_asked_sooner() {
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let ticket = ordering(&mut certificates, at(now));
        let away = fault(CertificateFaultKind::Unreachable, None);
        let wait = failed(&mut certificates, at(now), ticket, away);
        waits.push(wait / 1000);
        now += wait;
    }
    let bounds = [
        (60, 75),
        (120, 150),
        (240, 300),
        (480, 600),
        (900, 1125),
        (900, 1125),
    ];
    for (wait, (low, high)) in waits.iter().zip(bounds) {
        assert!((low..=high).contains(wait), "{waits:?}");
    }
}

#[test]
fn retry_after_is_never_undercut_not_even_by_a_person() {
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    let ticket = ordering(&mut certificates, at(0));
    let asked = fault(CertificateFaultKind::Refused, Some(Duration::from_hours(3)));
    let wait = failed(&mut certificates, at(0), ticket, asked);
    assert_eq!(wait, 180 * MINUTE);
    let refused = certificates.renew(at(MINUTE), None).unwrap_err();
    assert!(
        refused.contains("asked not to be asked again before"),
        "{refused}"
    );
    // Another certificate's failure of the usual kind is no reason to refuse.
    assert!(certificates.renew(at(180 * MINUTE), None).is_ok());
}

#[test]
fn what_was_tried_before_a_death_counts() {
    let begun = |minutes: &[u64]| {
        let times = minutes.iter();
        times
            .map(|at| WallTime::from_unix_millis(EPOCH_MS + at * MINUTE))
            .collect()
    };
    let attempts = Attempts {
        domains: vec![domain("a.test")],
        // Four lives died in their orders.
        begun: begun(&[0, 1, 2, 3]),
        failures: 0,
        not_before: None,
        asked_to_wait: false,
        last_error: String::new(),
    };
    let found = StoredPairs {
        attempts: vec![attempts],
        ..StoredPairs::default()
    };
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(4 * MINUTE), &found);
    assert!(work_is_none(&mut certificates, at(4 * MINUTE)));
    assert_eq!(
        certificates.due(at(4 * MINUTE)),
        Some(Moment::from_millis(60 * MINUTE))
    );
    ordering(&mut certificates, at(60 * MINUTE));
}

#[test]
fn a_stored_pair_is_taken_before_an_authority_is_asked() {
    let found = StoredPairs {
        pairs: vec![pair("01", 0, 90 * DAY)],
        current: None,
        ..StoredPairs::default()
    };
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(DAY), &found);
    let (_, work) = only(&mut certificates, at(DAY));
    assert!(matches!(work, CertificateWork::Select(id) if id.as_str() == "01-00112233"));
}

#[test]
fn renewal_follows_the_wall_clock_wherever_it_jumps() {
    let found = StoredPairs {
        pairs: vec![pair("01", 0, 90 * DAY)],
        current: Some(PairId::new("01", "0011223344")),
        ..StoredPairs::default()
    };
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(DAY), &found);
    assert!(work_is_none(&mut certificates, at(DAY)));
    // Looked at again at the interval, not at the renewal two months ahead.
    let check = certificates.due(at(DAY)).unwrap();
    assert_eq!(check.as_millis(), DAY + 6 * 60 * MINUTE);
    let jumped = |days: u64| Now {
        mono: Moment::from_millis(DAY + MINUTE),
        wall: WallTime::from_unix_millis(EPOCH_MS + days * DAY),
    };
    assert!(work_is_none(&mut certificates, jumped(54)), "60 percent");
    assert!(work_is_none(
        &mut certificates,
        Now {
            wall: WallTime::from_unix_millis(0),
            ..jumped(0)
        }
    ));
    let (_, work) = only(&mut certificates, jumped(60));
    assert!(
        matches!(work, CertificateWork::Remember(_)),
        "66 percent: {work:?}"
    );
}

#[test]
fn one_order_at_a_time_on_the_whole_host() {
    let mut certificates = machine(&["web", "api"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    let ticket = ordering(&mut certificates, at(0));
    assert!(work_is_none(&mut certificates, at(MINUTE)));
    certificates.answered(
        at(MINUTE),
        ticket,
        Err(fault(CertificateFaultKind::Unreachable, None)),
    );
    let next = work(&mut certificates, at(MINUTE));
    let names: Vec<&str> = next.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["web", "api"],
        "the failure is written down and the other one begins"
    );
}

#[test]
fn an_issued_pair_is_installed_again_when_the_disk_refused_and_not_ordered_again() {
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    let ticket = ordering(&mut certificates, at(0));
    let issued = PemPair {
        chain: "chain".to_owned(),
        key: Secret::new("key"),
    };
    certificates.answered(at(0), ticket, Ok(CertificateDone::Issued(issued)));
    let (ticket, work) = only(&mut certificates, at(0));
    assert!(matches!(work, CertificateWork::Install { .. }));
    certificates.answered(at(0), ticket, Err(fault(CertificateFaultKind::Disk, None)));
    assert!(work_is_none(&mut certificates, at(1)));
    let retry = certificates.due(at(1)).unwrap();
    let (ticket, work) = only(&mut certificates, at(retry.as_millis()));
    assert!(matches!(work, CertificateWork::Install { .. }));
    let live = CertificateDone::Live {
        pair: pair("02", 0, 90 * DAY),
        changed: true,
    };
    certificates.answered(at(retry.as_millis()), ticket, Ok(live));
    let outcome = certificates.drive(at(retry.as_millis()));
    assert_eq!(outcome.renewed.len(), 1);
    assert_eq!(
        certificates.snapshot(at(retry.as_millis()))[0].state,
        "live"
    );
}

#[test]
fn another_domain_calls_the_order_off_and_begins_one_at_once() {
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    let first = ordering(&mut certificates, at(0));
    certificates.want(0, vec![domain("b.test")]);
    let effects = certificates.drive(at(10)).effects;
    assert!(
        effects.iter().any(
            |effect| matches!(effect, Effect::CancelCertificate { ticket } if *ticket == first)
        )
    );
    let begun = effects.iter().any(|effect| {
        matches!(effect, Effect::Certificate { work: CertificateWork::Remember(sets), .. }
            if sets.iter().any(|set| set.domains == [domain("b.test")]))
    });
    assert!(begun, "{effects:?}");
    // The old order's answer is nobody's.
    certificates.answered(
        at(20),
        first,
        Err(fault(CertificateFaultKind::Refused, None)),
    );
    assert_eq!(certificates.snapshot(at(20))[0].failures, 0);
}

#[test]
fn files_are_looked_at_when_the_clock_was_set_or_the_machine_woke_up() {
    let mut files = settings("web");
    files.source = CertificateSource::Files {
        certificate: "/etc/web.pem".into(),
        key: "/etc/web.key".into(),
    };
    let mut certificates = Certificates::new(CertificatesSetup {
        list: vec![files],
        directory: "/state/certificates".into(),
        seed: 7,
    });
    looked(&mut certificates, at(0), &StoredPairs::default());
    let (ticket, found) = only(&mut certificates, at(0));
    assert!(matches!(found, CertificateWork::Adopt { .. }), "{found:?}");
    let live = CertificateDone::Live {
        pair: pair("01", 0, 90 * DAY),
        changed: true,
    };
    certificates.answered(at(1), ticket, Ok(live));
    assert!(
        work(&mut certificates, at(MINUTE)).is_empty(),
        "not before the interval"
    );
    certificates.look_at_files();
    let (_, found) = only(&mut certificates, at(MINUTE));
    assert!(matches!(found, CertificateWork::Adopt { .. }), "{found:?}");
}

#[test]
fn next_attempt_is_told_only_where_one_is_wanted() {
    let mut certificates = machine(&["web"]);
    looked(&mut certificates, at(0), &StoredPairs::default());
    // As many as a window takes, all of them good.
    for (moment, serial) in [(0, "01"), (1000, "02"), (2000, "03"), (3000, "04")] {
        if moment > 0 {
            certificates.renew(at(moment), None).unwrap();
        }
        let ticket = ordering(&mut certificates, at(moment));
        let issued = PemPair {
            chain: "chain".to_owned(),
            key: Secret::new("key"),
        };
        certificates.answered(at(moment), ticket, Ok(CertificateDone::Issued(issued)));
        let (ticket, _) = only(&mut certificates, at(moment));
        let live = CertificateDone::Live {
            pair: pair(serial, moment, 90 * DAY),
            changed: true,
        };
        certificates.answered(at(moment), ticket, Ok(live));
    }
    assert!(work_is_none(&mut certificates, at(4000)));
    let snapshot = &certificates.snapshot(at(4000))[0];
    assert_eq!((snapshot.state, snapshot.next_attempt), ("live", None));
    assert!(snapshot.renew_at.is_some());
}

#[test]
fn oldest_of_many_sets_of_names_is_forgotten_and_no_other() {
    let retry = Duration::from_mins(15);
    let set = |number: u64| vec![domain(&format!("a{number}.test"))];
    let mut pace = Pace::default();
    for number in 0..17 {
        for _ in 0..4 {
            pace.begin(&set(number), at(number).wall);
        }
    }
    let held = |number: u64| pace.hold(&set(number), at(20).wall, retry).is_some();
    assert!(!held(0));
    assert!((1..17).all(held));
    assert_eq!(pace.kept().len(), 16);
}
