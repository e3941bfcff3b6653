//! `ReportFullState`.

use super::*;

//
#[test]
fn request_is_answered_at_once_and_whole() {
    let mut bench = Bench::greeted();
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    let sent = bench.one();
    assert_eq!(fields_of(&sent), EVERY_FIELD);
    let listed = sent.available_components.unwrap();
    assert_eq!((listed.components.len(), listed.hash), (0, b"c1".to_vec()));
}

//
#[test]
fn a_storm_of_requests_is_answered_once_per_gap_and_the_last_one_always() {
    let mut bench = Bench::greeted();
    let mut answers = 0;
    for _ in 0..600 {
        bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
        answers += bench.drain().len();
        bench.pass(Duration::from_millis(100));
    }
    assert_eq!(answers, 12, "60 s with a gap of 5 s");
    let due = bench.session.poll_timeout().unwrap();
    assert!(due <= bench.now + secs(5));
    bench.pass(secs(5));
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
    bench.pass(secs(5));
    assert_eq!(bench.drain(), [], "nothing was asked since");
}

//
#[test]
fn a_request_before_the_first_report_is_answered_by_it() {
    let mut bench = Bench::full();
    bench.connect();
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    bench.one();
    bench.pass(secs(20));
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn full_state_does_not_repeat_custom_messages() {
    let mut bench = Bench::greeted();
    bench.session.send_custom_message(echo("once")).unwrap();
    assert_eq!(fields_of(&bench.one()), ["message"]);
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
}
