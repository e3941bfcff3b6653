//! Errors that the server reports.

use super::*;

//
#[test]
fn an_overloaded_server_gets_silence_until_the_reconnect() {
    let unavailable = ServerErrorResponseType::Unavailable as i32;
    for (nanos, wanted) in [
        (None, None),
        (Some(2_000_000_000), Some(secs(2))),
        (Some(u64::MAX), Some(Duration::from_nanos(u64::MAX))),
    ] {
        let mut bench = Bench::greeted();
        bench.hear(&error(unavailable, nanos));
        assert_eq!(
            bench.events(),
            [SessionEvent::Unavailable {
                retry_after: wanted
            }]
        );
        bench.session.set_health(health("worse"));
        bench.pass(secs(3600));
        assert_eq!(bench.drain(), []);
        assert_eq!(bench.session.poll_timeout(), None);
        bench.session.disconnect(bench.now);
        assert_eq!(fields_of(&bench.one()), ["disconnect"]);
    }
}

//
#[test]
fn what_an_overloaded_server_did_not_take_is_sent_again() {
    let mut bench = Bench::full();
    bench.connect();
    bench.one();
    bench.hear(&error(2, None));
    bench.session.handle_disconnected(bench.now);
    bench.connect();
    assert_eq!(fields_of(&bench.one()), EVERY_FIELD);
}

//
#[test]
fn an_error_excludes_everything_else() {
    let mut bench = Bench::greeted();
    bench.hear(&ServerToAgent {
        remote_config: Some(offer(b"x")),
        flags: 1,
        ..error(1, None)
    });
    let wanted = SessionEvent::ServerError {
        kind: ServerErrorKind::BadRequest,
        message: "no".to_owned(),
    };
    assert_eq!(bench.events(), [wanted]);
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn what_the_server_found_wrong_is_not_repeated_until_it_changes() {
    for (kind, wanted) in [
        (1, ServerErrorKind::BadRequest),
        (0, ServerErrorKind::Unknown),
        (9, ServerErrorKind::Unknown),
    ] {
        let mut bench = Bench::greeted();
        bench.session.set_health(health("odd"));
        bench.one();
        bench.hear(&error(kind, None));
        let event = SessionEvent::ServerError {
            kind: wanted,
            message: "no".to_owned(),
        };
        assert_eq!(bench.events(), [event]);
        assert_eq!(bench.drain(), []);
        bench.session.handle_disconnected(bench.now);
        bench.connect();
        assert_eq!(fields_of(&bench.one()), Vec::<&str>::new());
        bench.session.set_health(health("odder"));
        assert_eq!(bench.one().health, Some(health("odder")));
    }
}
