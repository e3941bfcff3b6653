//! Custom capabilities and messages.

use super::*;

//
#[test]
fn messages_go_one_by_one_in_order() {
    let mut bench = Bench::greeted();
    for text in ["1", "2", "3"] {
        bench.session.send_custom_message(echo(text)).unwrap();
    }
    let sent: Vec<_> = bench
        .drain()
        .into_iter()
        .map(|one| one.custom_message)
        .collect();
    assert_eq!(sent, [Some(echo("1")), Some(echo("2")), Some(echo("3"))]);
    assert_eq!(bench.session.stats().custom_messages_sent, 3);
}

//
#[test]
fn the_queue_is_bounded() {
    let mut bench = Bench::full();
    for _ in 0..64 {
        bench.session.send_custom_message(echo("x")).unwrap();
    }
    let refused = bench.session.send_custom_message(echo("x"));
    assert_eq!(refused, Err(CustomMessageError::QueueFull));
    bench.connect();
    assert_eq!(bench.drain().len(), 64);
}

//
#[test]
fn both_sides_must_have_announced_the_capability() {
    let mut bench = Bench::greeted();
    let mut unknown = echo("x");
    unknown.capability = "org.example.other".to_owned();
    assert_eq!(
        bench.session.send_custom_message(unknown),
        Err(CustomMessageError::NotAnnounced)
    );
    bench.session.handle_disconnected(bench.now);
    bench.session.send_custom_message(echo("x")).unwrap();
    bench.connect();
    // An empty list says that the server supports none.
    bench.hear(&ServerToAgent {
        custom_capabilities: Some(custom(&[])),
        ..ack()
    });
    assert_eq!(bench.one().custom_message, None);
    assert_eq!(
        bench.session.send_custom_message(echo("x")),
        Err(CustomMessageError::NotSupported)
    );
}

//
#[test]
fn only_announced_capabilities_are_heard() {
    let mut bench = Bench::greeted();
    bench.hear(&ServerToAgent {
        custom_message: Some(echo("")),
        ..ack()
    });
    assert_eq!(bench.events(), [SessionEvent::CustomMessage(echo(""))]);
    bench.hear(&ServerToAgent {
        custom_message: Some(CustomMessage::default()),
        ..ack()
    });
    assert_eq!(
        bench.events(),
        [SessionEvent::Refused(Refusal::CustomMessage)]
    );
}

//
#[test]
fn the_list_is_sent_when_it_changes() {
    let mut bench = Bench::greeted();
    bench
        .session
        .set_custom_capabilities(custom(&["org.example.echo", "org.example.more"]));
    let sent = bench.one();
    assert_eq!(fields_of(&sent), ["custom"]);
    assert_eq!(
        sent.custom_capabilities,
        Some(custom(&["org.example.echo", "org.example.more"]))
    );
}
