//! Instance uids.

use super::*;

//
#[test]
fn an_all_zero_uid_is_refused() {
    let error = Session::new(SessionConfig::new([0; 16], 0)).unwrap_err();
    assert_eq!(error, ConfigError::ZeroInstanceUid);
    let mut bench = Bench::greeted();
    bench.session.set_instance_uid([0; 16]);
    assert_eq!(bench.session.instance_uid(), UID);
}

//
#[test]
fn a_new_uid_is_used_once_it_is_stored_and_nothing_is_said_before() {
    let mut bench = Bench::greeted();
    bench.hear(&ServerToAgent {
        flags: u64::from((ServerToAgentFlags::ReportFullState as i32).unsigned_abs()),
        ..identify(&OTHER)
    });
    assert_eq!(bench.events(), [SessionEvent::NewInstanceUid(OTHER)]);
    assert_eq!(
        bench.drain(),
        [],
        "the embedder is still writing it to disk"
    );
    bench.hear(&identify(&OTHER));
    assert_eq!(bench.events(), [], "told once");
    bench.session.set_instance_uid(OTHER);
    let sent = bench.one();
    assert_eq!(sent.instance_uid, OTHER);
    assert_eq!((sent.sequence_num, fields_of(&sent).len()), (1, 8));
}

// a disk that does not answer must not silence the agent.
#[test]
fn a_uid_that_is_never_stored_delays_reports_by_ten_seconds_at_most() {
    let mut bench = Bench::greeted();
    bench.hear(&identify(&OTHER));
    bench.session.set_health(health("late"));
    assert_eq!(bench.drain(), []);
    assert_eq!(bench.session.poll_timeout(), Some(bench.now + secs(10)));
    bench.pass(secs(10));
    assert_eq!(bench.one().instance_uid, UID);
}

//
#[test]
fn malformed_uids_are_ignored() {
    for bad in [&[1_u8, 2, 3][..], &[], &[0; 16], &[1; 17]] {
        let mut bench = Bench::greeted();
        bench.hear(&identify(bad));
        assert_eq!(
            bench.events(),
            [SessionEvent::Refused(Refusal::Identification)]
        );
        assert_eq!(bench.session.instance_uid(), UID);
    }
}

//
#[test]
fn a_wanted_uid_is_asked_for_until_it_comes() {
    let mut bench = Bench::full();
    bench.session.request_instance_uid();
    bench.connect();
    assert_eq!(bench.one().flags, 1);
    bench.hear(&ack());
    bench.session.set_health(health("b"));
    assert_eq!(bench.one().flags, 1);
    bench.hear(&identify(&[1, 2]));
    bench.session.set_health(health("c"));
    assert_eq!(bench.one().flags, 1);
    bench.hear(&identify(&OTHER));
    bench.session.set_instance_uid(OTHER);
    bench.session.set_health(health("d"));
    let sent = bench.one();
    assert_eq!((sent.flags, sent.instance_uid), (0, OTHER.to_vec()));
    bench.session.request_instance_uid();
    assert_eq!(bench.one().flags, 1, "a later wish is told at once");
}

// some servers answer with a record id of their own; offers count, orders do not.
#[test]
fn foreign_uid_is_told_once_and_its_orders_are_not_obeyed() {
    let mut bench = Bench::greeted();
    let foreign = |message| ServerToAgent {
        instance_uid: OTHER.to_vec(),
        ..message
    };
    bench.hear(&foreign(ServerToAgent {
        remote_config: Some(offer(b"x")),
        ..ack()
    }));
    assert_eq!(
        bench.events(),
        [
            SessionEvent::ForeignInstanceUid(OTHER.to_vec()),
            SessionEvent::RemoteConfig(offer(b"x")),
        ]
    );
    bench.hear(&foreign(command(0)));
    bench.hear(&foreign(identify(&[3; 16])));
    assert_eq!(
        bench.events(),
        [
            SessionEvent::Refused(Refusal::ForeignCommand),
            SessionEvent::Refused(Refusal::ForeignIdentification),
        ]
    );
    assert_eq!(bench.session.stats().foreign_uid, 3);
    assert_eq!(bench.session.instance_uid(), UID);
}

//
#[test]
fn empty_and_just_replaced_uids_are_ours() {
    let mut bench = Bench::greeted();
    bench.session.set_instance_uid(OTHER);
    bench.hear(&command(0));
    assert_eq!(bench.events(), [SessionEvent::Restart]);
    bench.hear(&ServerToAgent {
        instance_uid: vec![],
        ..command(0)
    });
    assert_eq!(bench.events(), [SessionEvent::Restart]);
    assert_eq!(bench.session.stats().foreign_uid, 0);
}

//
#[test]
fn orders_to_the_new_uid_are_obeyed_before_it_is_stored() {
    let mut bench = Bench::greeted();
    bench.hear(&identify(&OTHER));
    bench.events();
    bench.hear(&ServerToAgent {
        instance_uid: OTHER.to_vec(),
        ..command(0)
    });
    assert_eq!(bench.events(), [SessionEvent::Restart]);
    assert_eq!(bench.session.stats().foreign_uid, 0);
}
