//! Given offers for own telemetry and other connections, when they are good, bad, withdrawn or not answered for, then
//! each class stands for itself and the server reads one status.

use super::*;
use crate::messages::{OtherConnectionSettings, TelemetryConnectionSettings};

fn to(url: &str) -> TelemetryConnectionSettings {
    TelemetryConnectionSettings {
        destination_endpoint: url.to_owned(),
        ..TelemetryConnectionSettings::default()
    }
}

fn logs(hash: &str, url: &str) -> ConnectionSettingsOffers {
    ConnectionSettingsOffers {
        hash: hash.as_bytes().to_vec(),
        own_logs: Some(to(url)),
        ..ConnectionSettingsOffers::default()
    }
}

fn set(class: &str, url: &str) -> Seen {
    Seen::Set(class.to_owned(), Some(url.to_owned()))
}

fn other(name: &str, edit: impl FnOnce(&mut OtherConnectionSettings)) -> ConnectionSettingsOffers {
    let mut settings = OtherConnectionSettings::default();
    edit(&mut settings);
    ConnectionSettingsOffers {
        other_connections: [(name.to_owned(), settings)].into(),
        ..ConnectionSettingsOffers::default()
    }
}

impl Bench {
    fn answer(&mut self, ticket: usize, result: Result<(), &str>) -> Vec<Seen> {
        let ticket = self.tickets[ticket];
        self.settings
            .handle_outcome(at(9), ticket, result.map_err(str::to_owned));
        self.seen()
    }
}

const METRICS: &str = "https://otel.example/v1/metrics?key=k";
const LOGS: &str = "https://otel.example/x/logs";

//
#[test]
fn several_classes_have_one_status_that_names_those_that_failed() {
    let offers = ConnectionSettingsOffers {
        hash: b"h".to_vec(),
        own_metrics: Some(to(METRICS)),
        own_logs: Some(to(LOGS)),
        own_traces: Some(to("ftp://otel.example")),
        ..ConnectionSettingsOffers::default()
    };
    for logs_work in [true, false] {
        let mut bench = Bench::connected();
        let seen = bench.offer(at(1), offers.clone());
        assert_eq!(
            seen,
            [
                set("own_metrics", METRICS),
                set("own_logs", LOGS),
                applying("h"),
                Seen::Save
            ]
        );
        assert_eq!(
            bench.answer(0, Ok(())),
            [Seen::Save],
            "not all have answered"
        );
        let outcome = if logs_work { Ok(()) } else { Err("no route") };
        let mut reason =
            "own_traces.destination_endpoint: is not a URL of http or https".to_owned();
        if !logs_work {
            reason.push_str("; own_logs: no route");
        }
        assert_eq!(bench.answer(1, outcome), [failed("h", &reason), Seen::Save]);
    }
}

//
#[test]
fn what_is_not_offered_goes_on_and_the_same_again_is_no_work() {
    let mut bench = Bench::connected();
    bench.offer(at(1), logs("a", LOGS));
    assert_eq!(bench.answer(0, Ok(())), [applied("a"), Seen::Save]);
    let metrics = ConnectionSettingsOffers {
        hash: b"b".to_vec(),
        own_metrics: Some(to(METRICS)),
        ..ConnectionSettingsOffers::default()
    };
    assert_eq!(bench.offer(at(2), metrics)[0], set("own_metrics", METRICS));
    bench.answer(1, Ok(()));
    assert_eq!(
        bench.offer(at(3), logs("c", LOGS)),
        [applied("c"), Seen::Save]
    );
    let seen = bench.offer(at(4), logs("d", "https://other.example/logs"));
    assert_eq!(seen[0], set("own_logs", "https://other.example/logs"));
}

//
#[test]
fn an_empty_endpoint_withdraws_a_telemetry_destination() {
    let mut bench = Bench::connected();
    assert_eq!(
        bench.offer(at(1), logs("a", "")),
        [applied("a"), Seen::Save]
    );
    bench.offer(at(2), logs("b", LOGS));
    bench.answer(0, Ok(()));
    let seen = bench.offer(at(3), logs("c", ""));
    assert_eq!(seen[0], Seen::Set("own_logs".to_owned(), None));
    assert_eq!(bench.answer(1, Ok(())), [applied("c"), Seen::Save]);
    let mut restarted = Bench::with(config(), bench.saved.as_ref());
    assert_eq!(restarted.seen(), [applied("c")], "nothing to set up");
}

//
#[test]
fn telemetry_is_encrypted_unless_the_local_settings_say_otherwise() {
    let mut bench = Bench::connected();
    let seen = bench.offer(at(1), logs("a", "http://otel.example/v1/logs"));
    let reason =
        "own_logs.destination_endpoint: is not encrypted, which the local settings do not allow";
    assert_eq!(seen[0], failed("a", reason));
    let mut config = config();
    config.policy.allow_plaintext_telemetry = true;
    let mut bench = Bench::with(config, None);
    let seen = bench.offer(at(1), logs("a", "http://otel.example/v1/logs"));
    assert_eq!(seen[0], set("own_logs", "http://otel.example/v1/logs"));
}

// a caller that does not answer does not block what comes next.
#[test]
fn an_answer_that_never_comes_is_a_failure() {
    let mut bench = Bench::connected();
    bench.offer(at(1), logs("a", LOGS));
    assert_eq!(bench.offer(at(2), logs("b", "https://next.example/")), []);
    assert_eq!(bench.settings.poll_timeout(), Some(at(61).now));
    bench.settings.handle_timeout(at(61));
    let seen = bench.seen();
    assert_eq!(
        seen[0],
        failed("a", "own_logs: was not carried out in time")
    );
    assert_eq!(seen[1], set("own_logs", "https://next.example/"));
    assert_eq!(bench.answer(0, Ok(())), [], "too late");
    assert_eq!(bench.answer(1, Ok(()))[0], applied("b"));
}

// the same rules as for the server's own connection.
#[test]
fn credentials_and_trust_of_a_destination_are_checked_too() {
    let key = KeyPair::generate().unwrap();
    let with = |edit: &dyn Fn(&mut TelemetryConnectionSettings)| {
        let mut settings = to(LOGS);
        edit(&mut settings);
        ConnectionSettingsOffers {
            own_logs: Some(settings),
            ..ConnectionSettingsOffers::default()
        }
    };
    let blind = TlsConnectionSettings {
        insecure_skip_verify: true,
        ..TlsConnectionSettings::default()
    };
    let cases = [
        (
            with(&|logs| logs.headers = Some(headers(&[("a", "b\r\nc: d")]))),
            "own_logs.headers: header \"a\" is not valid",
        ),
        (
            with(&|logs| logs.certificate = Some(pair(&key, 2025))),
            "own_logs.certificate.cert: has expired",
        ),
        (
            with(&|logs| logs.tls = Some(blind.clone())),
            "own_logs.tls.insecure_skip_verify: verification is turned off by local settings only",
        ),
    ];
    for (offers, reason) in cases {
        let mut bench = Bench::connected();
        assert_eq!(bench.offer(at(1), offers)[0], failed("", reason));
    }
    let mut bench = Bench::connected();
    let good = with(&|logs| {
        logs.certificate = Some(pair(&key, 2026));
        logs.headers = Some(headers(&[("authorization", "Bearer hunter2")]));
    });
    bench.offer(at(1), good);
    bench.answer(0, Ok(()));
    // a later offer without a certificate keeps it, and its headers.
    bench.offer(at(2), logs("b", "https://next.example/"));
    bench.answer(1, Ok(()));
    let kept = &bench.settings.destinations[&Class::OwnLogs];
    assert!(kept.tls.client_certificate.is_some());
    assert_eq!(kept.headers["authorization"], "Bearer hunter2");
    assert!(!format!("{kept:?}").contains("hunter2"));
}

// R-203…R-206
#[test]
fn other_connections_are_merged_name_by_name() {
    let mut bench = Bench::connected();
    let mut first = other("a", |a| {
        a.destination_endpoint = "db:5432".to_owned();
        a.other_settings.insert("pool".to_owned(), "9".to_owned());
    });
    first.other_connections.insert(
        "b".to_owned(),
        OtherConnectionSettings {
            destination_endpoint: "queue:1".to_owned(),
            ..OtherConnectionSettings::default()
        },
    );
    let seen = bench.offer(at(1), first);
    assert_eq!(
        seen[..2],
        [
            set("other_connections.a", "db:5432"),
            set("other_connections.b", "queue:1")
        ]
    );
    bench.answer(0, Ok(()));
    let seen = bench.answer(1, Err("unknown"));
    assert_eq!(seen[0], failed("", "other_connections.b: unknown"));
    // What is not set keeps: a stays where it is, with its settings.
    let key = KeyPair::generate().unwrap();
    let seen = bench.offer(
        at(2),
        other("a", |a| a.certificate = Some(pair(&key, 2026))),
    );
    assert_eq!(seen[0], set("other_connections.a", "db:5432"));
    bench.answer(2, Ok(()));
    let a = &bench.settings.destinations[&Class::Other("a".to_owned())];
    assert_eq!(a.other_settings["pool"], "9");
    assert!(a.tls.client_certificate.is_some());
    // After a restart what is in force is handed out again; b never was.
    let mut bench = Bench::with(config(), bench.saved.as_ref());
    assert_eq!(
        bench.seen(),
        [set("other_connections.a", "db:5432"), applied("")]
    );
}

//
#[test]
fn a_name_that_is_not_offered_again_stays() {
    let mut bench = Bench::connected();
    bench.offer(
        at(1),
        other("a", |a| a.destination_endpoint = "x:1".to_owned()),
    );
    bench.answer(0, Ok(()));
    bench.offer(
        at(2),
        other("b", |b| b.destination_endpoint = "y:1".to_owned()),
    );
    bench.answer(1, Ok(()));
    assert_eq!(bench.settings.destinations.len(), 2);
}

//
#[test]
fn one_offer_of_very_many_connections_is_bounded_and_so_is_its_status() {
    let mut bench = Bench::connected();
    let mut offers = other("0", |_| {});
    for number in 0..5_000 {
        let settings = OtherConnectionSettings {
            destination_endpoint: "x:1".to_owned(),
            ..OtherConnectionSettings::default()
        };
        offers
            .other_connections
            .insert(number.to_string(), settings);
    }
    bench.offer(at(1), offers);
    assert_eq!(bench.tickets.len(), 64);
    let work = bench.settings.work.as_ref().unwrap();
    assert!(work.failures_if_interrupted().lines().len() <= 17);
    for ticket in 0..64 {
        bench.answer(ticket, Err(&"long ".repeat(100_000)));
    }
    let told = &bench.settings.state.status.error_message;
    assert!(told.len() < 10_000, "{}", told.len());
    // A full house takes changes of those it has.
    let mut bench = Bench::connected();
    for number in 0..64 {
        let name = number.to_string();
        bench.offer(
            at(1),
            other(&name, |x| x.destination_endpoint = "x:1".to_owned()),
        );
        bench.answer(number, Ok(()));
    }
    let moved = |name| other(name, |x| x.destination_endpoint = "y:1".to_owned());
    assert_eq!(
        bench.offer(at(2), moved("63"))[0],
        set("other_connections.63", "y:1")
    );
    bench.answer(64, Ok(()));
    let seen = bench.offer(at(3), moved("64"));
    let reason =
        "other_connections.64: the name is empty, too long or not printable, or there are too many";
    assert_eq!(seen[0], failed("", reason));
}

//
#[test]
fn odd_names_are_refused_and_the_others_are_applied() {
    let mut bench = Bench::connected();
    let mut offers = other("good", |good| good.destination_endpoint = "x:1".to_owned());
    for name in ["", "a\nb", &"x".repeat(300)] {
        offers
            .other_connections
            .insert(name.to_owned(), OtherConnectionSettings::default());
    }
    let seen = bench.offer(at(1), offers);
    assert_eq!(seen[0], set("other_connections.good", "x:1"));
    let Seen::Failed(_, reason) = &bench.answer(0, Ok(()))[0] else {
        panic!("a failure")
    };
    assert_eq!(reason.matches("not printable").count(), 3, "{reason}");
    assert!(!reason.contains('\n'));
}

#[test]
fn a_destination_without_its_own_certificate_takes_no_shorter_key_than_before() {
    let long = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let short = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let with = |key: &KeyPair| {
        let mut offers = logs("", LOGS);
        offers.own_logs.as_mut().unwrap().certificate = Some(pair(key, 2026));
        offers
    };
    let reason =
        "own_logs.certificate.cert: has an elliptic key of 256 bits, shorter than the present one";
    // The local one is what goes before the first offer.
    let mut config = config();
    let own = pair(&long, 2026);
    config.destination.tls.client_certificate = Some(crate::transport::ClientCertificate {
        chain_pem: own.cert,
        key_pem: own.private_key,
    });
    let mut bench = Bench::with(config, None);
    assert_eq!(bench.offer(at(1), with(&short))[0], failed("", reason));
    // A withdrawal in between is no way around it.
    let mut bench = Bench::connected();
    bench.offer(at(1), with(&long));
    bench.answer(0, Ok(()));
    bench.offer(at(2), logs("", ""));
    bench.answer(1, Ok(()));
    assert_eq!(bench.offer(at(3), with(&short))[0], failed("", reason));
    assert_eq!(bench.offer(at(4), with(&long))[0], set("own_logs", LOGS));
}

fn logs_and_place(hash: &str) -> ConnectionSettingsOffers {
    ConnectionSettingsOffers {
        opamp: Some(endpoint(NEW)),
        own_traces: Some(to("ftp://otel.example")),
        ..logs(hash, LOGS)
    }
}

const TRACES: &str = "own_traces.destination_endpoint: is not a URL of http or https";

/// The offer above, up to the first attempt with its candidate.
fn trying_both() -> Bench {
    let mut bench = Bench::connected();
    let seen = bench.offer(at(1), logs_and_place("h"));
    assert_eq!(seen, [set("own_logs", LOGS), applying("h"), Seen::Save]);
    assert_eq!(bench.store(at(1)), [Seen::Leave]);
    bench.settings.handle_left(at(1));
    bench
}

//
#[test]
fn an_offer_that_partly_failed_is_not_applied_after_a_restart_in_its_trial() {
    for (answer, logs) in [
        (None, "; own_logs: was interrupted by a restart"),
        (Some(Ok(())), ""),
        (Some(Err("no route")), "; own_logs: no route"),
    ] {
        let mut bench = trying_both();
        if let Some(result) = answer {
            assert_eq!(bench.answer(0, result), [Seen::Save]);
        }
        let mut bench = Bench::with(config(), bench.saved.as_ref());
        assert_eq!(bench.seen().last(), Some(&applying("h")));
        bench.connect(at(3));
        let reason = format!("{TRACES}{logs}");
        assert_eq!(
            bench.seen(),
            [Seen::Accepted, failed("h", &reason), Seen::Save]
        );
    }
}

//
#[test]
fn a_candidate_that_works_after_all_does_not_make_a_whole_of_a_partly_failed_offer() {
    for restart in [false, true] {
        let mut bench = trying_both();
        bench.answer(0, Err("no route"));
        bench.lose(at(3), LossKind::Rejected);
        if restart {
            bench = Bench::with(config(), bench.saved.as_ref());
        }
        for _ in 0..3 {
            bench.lose(at(4), LossKind::Lost);
        }
        assert_eq!(bench.url(), NEW);
        bench.seen();
        bench.connect(at(5));
        let reason = format!("{TRACES}; own_logs: no route");
        assert_eq!(
            bench.seen(),
            [Seen::Accepted, failed("h", &reason), Seen::Save]
        );
    }
}

#[test]
fn a_failed_candidate_that_works_before_the_rest_is_done_has_one_true_end() {
    let mut bench = trying_both();
    bench.lose(at(3), LossKind::Rejected);
    for _ in 0..3 {
        bench.lose(at(4), LossKind::Lost);
    }
    bench.connect(at(5));
    let seen = bench.seen();
    assert_eq!(seen, [Seen::Accepted, Seen::Save], "logs are not done");
    assert_eq!(bench.answer(0, Ok(())), [failed("h", TRACES), Seen::Save]);
}

#[test]
fn an_offer_whose_candidate_failed_before_a_restart_does_not_stay_applying() {
    let mut bench = trying_both();
    bench.lose(at(3), LossKind::Rejected);
    let mut bench = Bench::with(config(), bench.saved.as_ref());
    let reason = format!("{TRACES}; own_logs: was interrupted by a restart; opamp: nobody there");
    assert_eq!(bench.seen(), [failed("h", &reason)]);
}

#[test]
fn what_another_client_set_up_is_taken_over_and_kept_without_a_status() {
    let mut bench = Bench::new();
    let left = ConnectionSettingsOffers {
        own_metrics: Some(to(METRICS)),
        own_traces: Some(to("")),
        own_logs: Some(to("http://otel.example/logs")),
        ..ConnectionSettingsOffers::default()
    };
    bench.settings.take_over(at(0), left.clone());
    assert_eq!(
        bench.seen(),
        [
            set("own_metrics", METRICS),
            Seen::Dropped("own_logs.destination_endpoint: is not encrypted, which the local settings do not allow".to_owned()),
            Seen::Save
        ]
    );
    let saved = bench.saved.clone();
    let mut next = Bench::with(config(), saved.as_ref());
    assert_eq!(next.seen(), [set("own_metrics", METRICS)]);
    // Offered again by its server it is no news.
    next.connect(at(1));
    let offer = ConnectionSettingsOffers {
        hash: b"h".to_vec(),
        own_metrics: Some(to(METRICS)),
        ..ConnectionSettingsOffers::default()
    };
    assert_eq!(next.offer(at(2), offer), [applied("h"), Seen::Save]);
    // What this client knows is not replaced.
    let other = ConnectionSettingsOffers {
        own_metrics: Some(to("https://other.example/metrics")),
        ..ConnectionSettingsOffers::default()
    };
    next.settings.take_over(at(3), other);
    assert_eq!(next.seen(), []);
}
