//! Available components.

use super::*;

//
#[test]
fn whole_list_is_sent_when_asked_for() {
    let mut bench = Bench::greeted();
    bench.hear(&flagged(ServerToAgentFlags::ReportAvailableComponents));
    let sent = bench.one();
    assert_eq!(fields_of(&sent), ["components"]);
    assert_eq!(sent.available_components, Some(super::components(b"c1")));
    // Asked again at once: later, not in a storm.
    bench.hear(&flagged(ServerToAgentFlags::ReportAvailableComponents));
    assert_eq!(bench.drain(), []);
    bench.pass(secs(5));
    assert_eq!(fields_of(&bench.one()), ["components"]);
}

//
#[test]
fn only_another_hash_is_news() {
    let mut bench = Bench::greeted();
    let mut same = super::components(b"c1");
    same.components.clear();
    bench.session.set_available_components(same);
    bench
        .session
        .set_available_components(super::components(b""));
    assert_eq!(bench.drain(), []);
    bench
        .session
        .set_available_components(super::components(b"c2"));
    let listed = bench.one().available_components.unwrap();
    assert_eq!((listed.components.len(), listed.hash), (0, b"c2".to_vec()));
}

//
#[test]
fn without_the_bit_there_is_no_list_even_on_request() {
    let mut bench = Bench::full();
    bench
        .session
        .set_capabilities(ALL & !AgentCapabilities::ReportsAvailableComponents.bit());
    bench.connect();
    assert_eq!(bench.one().available_components, None);
    bench.hear(&flagged(ServerToAgentFlags::ReportAvailableComponents));
    assert_eq!(bench.drain(), []);
}
