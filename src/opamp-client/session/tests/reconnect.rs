//! What a second connection begins with, and how one ends.

use super::*;

fn again(bench: &mut Bench) {
    bench.session.handle_disconnected(bench.now);
    bench.pass(secs(1));
    bench.connect();
}

//
#[test]
fn reconnect_after_an_answer_sends_a_delta_and_numbers_on() {
    let mut bench = Bench::greeted();
    again(&mut bench);
    let sent = bench.one();
    assert_eq!((sent.sequence_num, fields_of(&sent)), (1, vec![]));
    bench.hear(&ack());
    bench.session.handle_disconnected(bench.now);
    bench.session.set_health(health("worse"));
    bench.connect();
    let sent = bench.one();
    assert_eq!((sent.sequence_num, fields_of(&sent)), (2, vec!["health"]));
}

//
#[test]
fn reconnect_without_an_answer_sends_everything_again() {
    let mut bench = Bench::greeted();
    bench
        .session
        .set_remote_config_status(status(b"x", RemoteConfigStatuses::Applied));
    bench.one();
    again(&mut bench);
    let sent = bench.one();
    assert_eq!(fields_of(&sent), EVERY_FIELD);
    assert_eq!(
        sent.remote_config_status,
        Some(status(b"x", RemoteConfigStatuses::Applied))
    );
}

// a server that speaks first on the new connection has not answered what was lost on the old one.
#[test]
fn greeting_of_the_server_is_no_answer_to_the_last_connection() {
    let mut bench = Bench::full();
    bench.connect();
    bench.one();
    again(&mut bench);
    bench.hear(&ServerToAgent {
        capabilities: 0x7F,
        ..ack()
    });
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
}

// answers are late; the one to an earlier message says nothing about the last.
#[test]
fn an_answer_to_an_earlier_message_is_none_to_the_last() {
    let mut bench = Bench::full();
    bench.connect();
    bench.one();
    bench.session.set_health(health("worse"));
    bench.one();
    bench.hear(&ack());
    again(&mut bench);
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
    bench.hear(&ack());
    again(&mut bench);
    assert_eq!(fields_of(&bench.one()), Vec::<&str>::new());
}

//
#[test]
fn changes_while_offline_become_one_message_with_the_last_values() {
    let mut bench = Bench::greeted();
    bench.session.handle_disconnected(bench.now);
    for number in 0..100 {
        bench.session.set_health(health(&number.to_string()));
        bench.pass(secs(60));
    }
    assert_eq!(bench.drain(), []);
    assert_eq!(bench.session.poll_timeout(), None);
    bench.connect();
    assert_eq!(bench.one().health, Some(health("99")));
}

//
#[test]
fn goodbye_is_the_last_message() {
    let mut bench = Bench::greeted();
    bench.session.set_health(health("stopping"));
    bench.session.disconnect(bench.now);
    let last = bench.one();
    assert_eq!(fields_of(&last), ["health", "disconnect"]);
    assert_eq!(last.capabilities, ALL);
    bench.session.set_health(health("stopped"));
    bench.pass(secs(3600));
    assert_eq!(bench.drain(), []);
    assert_eq!(bench.session.poll_timeout(), None);
    assert!(bench.session.is_drained());
    bench.hear(&command(0));
    assert_eq!(bench.events(), []);
    assert_eq!(bench.session.stats().late, 1);
    // on the connection after a deliberate one everything is told again.
    again(&mut bench);
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
}

#[test]
fn goodbye_before_the_first_report_is_one_with_the_report() {
    let mut bench = Bench::full();
    bench.connect();
    bench.session.disconnect(bench.now);
    assert_eq!(fields_of(&bench.one()).len(), EVERY_FIELD.len() + 1);
    let mut bench = Bench::full();
    bench.session.disconnect(bench.now);
    assert_eq!(bench.drain(), [], "no connection, no goodbye");
    assert!(bench.session.is_drained());
}

//
#[test]
fn full_state_is_sent_when_a_restarted_server_asks() {
    let mut bench = Bench::greeted();
    again(&mut bench);
    bench.one();
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
}
