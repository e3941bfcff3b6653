//! What was offered, put on top of local settings that have changed meanwhile; and two connections at a time.

use super::*;

fn renewed(token: &str) -> Target {
    BASE.parse::<Target>()
        .and_then(|base| base.with_header("Authorization", token))
        .unwrap()
}

#[test]
fn an_offer_goes_on_top_of_local_settings_as_they_are_when_they_are_used() {
    let mut bench = Bench::connected();
    assert_eq!(bench.settings.offered(), None);
    bench.offer(at(1), offering("a", endpoint(NEW)));
    bench.store(at(1));
    assert!(!bench.settings.is_candidates_turn(), "not left yet");
    bench.settings.handle_left(at(1));
    assert!(bench.settings.is_candidates_turn());
    let offered = bench.settings.offered().unwrap();
    assert!(!offered.replaces_headers());
    let target = offered.on(&renewed("Bearer renewed")).unwrap();
    assert_eq!(target.to_string(), NEW);
    assert_eq!(target.headers["authorization"], "Bearer renewed");
    bench.connect(at(2));
    assert!(!bench.settings.is_candidates_turn());
    let kept = bench.settings.offered().unwrap();
    assert_eq!(kept, offered);
    assert!(!format!("{kept:?}").contains("renewed"), "{kept:?}");
}

#[test]
fn offered_headers_take_the_place_of_all_local_ones() {
    let offer = OpAmpConnectionSettings {
        headers: Some(headers(&[("authorization", "Bearer offered")])),
        ..OpAmpConnectionSettings::default()
    };
    let bench = Bench::trying(offer);
    let offered = bench.settings.offered().unwrap();
    assert!(offered.replaces_headers() && offered.has_header("Authorization"));
    assert!(!offered.has_header("x-other"));
    let target = offered.on(&renewed("Bearer renewed")).unwrap();
    assert_eq!(target.headers["authorization"], "Bearer offered");
    assert!(!format!("{offered:?}").contains("Bearer"), "{offered:?}");
}

#[test]
fn an_offer_that_local_settings_do_not_fit_any_more_is_refused_when_it_is_used() {
    let offer = OpAmpConnectionSettings {
        tls: Some(TlsConnectionSettings {
            min_version: "1.2".to_owned(),
            ..TlsConnectionSettings::default()
        }),
        ..endpoint(NEW)
    };
    let bench = Bench::trying(offer);
    let offered = bench.settings.offered().unwrap();
    let mut stricter = base();
    stricter.tls.min_version = Some(crate::transport::TlsVersion::V1_3);
    assert_eq!(
        offered.on(&stricter).unwrap_err().to_string(),
        "opamp.tls.min_version: is older than what the local settings allow"
    );
}

/// The connection that stands need not be left: that it is there is told when the candidate has failed.
#[test]
fn the_connection_that_stands_takes_over_at_once_when_the_candidate_has_failed() {
    let mut bench = Bench::trying(endpoint(NEW));
    let seen = bench.lose(at(2), LossKind::Rejected);
    assert!(
        seen.contains(&failed("h", "opamp: nobody there")),
        "{seen:?}"
    );
    assert!(!bench.settings.is_candidates_turn());
    bench.connect(at(2));
    assert_eq!(bench.settings.target().to_string(), BASE);
    assert_eq!(bench.settings.offered(), None);
}
