//! Health reports and heartbeats.

use super::*;

fn interval(seconds: u64) -> ServerToAgent {
    ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            opamp: Some(OpAmpConnectionSettings {
                heartbeat_interval_seconds: seconds,
                ..OpAmpConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        }),
        ..ack()
    }
}

//
#[test]
fn observation_times_alone_are_no_news() {
    let mut bench = Bench::greeted();
    let mut later = health("up");
    later.status_time_unix_nano = 5;
    bench.session.set_health(later.clone());
    assert_eq!(bench.drain(), []);
    later.component_health_map = [("rollout".to_owned(), health("policy"))].into();
    bench.session.set_health(later.clone());
    assert_eq!(bench.one().health, Some(later.clone()));
    later
        .component_health_map
        .entry("rollout".to_owned())
        .or_default()
        .status_time_unix_nano = 9;
    bench.session.set_health(later.clone());
    assert_eq!(bench.drain(), []);
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    assert_eq!(
        bench.one().health,
        Some(later),
        "the newest times go with the next report"
    );
}

//
#[test]
fn health_trees_arrive_intact() {
    let mut tree = health("up");
    let mut part = health("part");
    part.component_health_map = [("inner".to_owned(), health("inner"))].into();
    tree.component_health_map = [("part".to_owned(), part)].into();
    let mut bench = Bench::greeted();
    bench.session.set_health(tree.clone());
    assert_eq!(bench.one().health, Some(tree));
}

//
#[test]
fn flapping_health_is_bounded_and_ends_with_the_last_value() {
    let mut bench = Bench::greeted();
    let mut sent = 0;
    for flip in 0..1000 {
        bench
            .session
            .set_health(health(if flip % 2 == 0 { "down" } else { "back" }));
        sent += bench.drain().len();
        bench.pass(Duration::from_millis(10));
    }
    assert_eq!(sent, 15 + 19, "the rest of a burst, then two a second");
    bench.session.set_health(health("final"));
    bench.pass(Duration::from_millis(500));
    assert_eq!(bench.one().health, Some(health("final")));
}

//
#[test]
fn an_idle_connection_beats_every_thirty_seconds() {
    let mut bench = Bench::greeted();
    assert_eq!(bench.session.poll_timeout(), Some(secs(30)));
    bench.pass(Duration::from_millis(29_999));
    assert_eq!(bench.drain(), []);
    bench.pass(Duration::from_millis(1));
    let beat = bench.one();
    assert_eq!((fields_of(&beat), beat.sequence_num), (vec![], 1));
    assert_eq!((beat.instance_uid, beat.capabilities), (UID.to_vec(), ALL));
    assert_eq!(bench.session.poll_timeout(), Some(secs(60)));
}

//
#[test]
fn without_the_bit_there_is_silence() {
    let mut bench = Bench::with(ALL & !AgentCapabilities::ReportsHeartbeat.bit());
    bench.connect();
    bench.one();
    bench.hear(&interval(1));
    assert_eq!(bench.session.poll_timeout(), None);
    bench.pass(secs(3600));
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn any_message_puts_the_heartbeat_off() {
    let mut bench = Bench::greeted();
    for number in 0..5 {
        bench.pass(secs(20));
        bench.session.set_health(health(&number.to_string()));
        assert_eq!(fields_of(&bench.one()), ["health"]);
    }
    assert_eq!(bench.session.poll_timeout(), Some(secs(130)));
}

//
#[test]
fn offered_intervals_are_clamped_and_in_force_at_once() {
    let cases = [
        ("shorter", 2, secs(2)),
        ("zero keeps", 0, secs(30)),
        ("absurd", u64::MAX, secs(24 * 3600)),
    ];
    for (name, offered, wanted) in cases {
        let mut bench = Bench::greeted();
        // also without the bit for connection settings.
        bench
            .session
            .set_capabilities(ALL & !AgentCapabilities::AcceptsOpAmpConnectionSettings.bit());
        bench.one();
        bench.hear(&interval(offered));
        let status = bench.one().connection_settings_status.unwrap();
        assert_eq!(status.status, ConnectionSettingsStatuses::Applied as i32);
        assert_eq!(bench.session.heartbeat(), wanted, "{name}");
        assert_eq!(
            bench.session.poll_timeout(),
            Some(wanted),
            "{name}: counted from the last message"
        );
        let told = bench
            .events()
            .contains(&SessionEvent::HeartbeatInterval(wanted));
        assert_eq!(told, offered != 0, "{name}");
    }
}

// an agent that accepts settings carries out the whole offer, or nothing of it.
#[test]
fn with_the_bit_for_connection_settings_the_interval_is_part_of_the_offer() {
    let mut bench = Bench::greeted();
    bench.hear(&interval(1));
    assert_eq!(bench.session.heartbeat(), secs(30));
    let events = bench.events();
    let [SessionEvent::ConnectionSettings(offers)] = events.as_slice() else {
        panic!("an offer, not {events:?}")
    };
    let opamp = offers.opamp.as_ref().unwrap();
    assert_eq!(opamp.heartbeat_interval_seconds, 1);
}

#[test]
fn the_embedder_can_restore_an_interval() {
    let mut bench = Bench::greeted();
    bench.session.set_heartbeat(secs(1));
    bench.session.set_heartbeat(secs(30));
    assert_eq!(bench.session.poll_timeout(), Some(secs(30)));
    bench.session.set_heartbeat(Duration::ZERO);
    assert_eq!(bench.session.poll_timeout(), None);
    bench.session.set_heartbeat(Duration::MAX);
    assert_eq!(bench.session.heartbeat(), secs(24 * 3600));
}

//
#[test]
fn any_change_of_health_but_its_time_is_told() {
    type Change = fn(&mut ComponentHealth);
    let part = |name: &str, status: &str| (name.to_owned(), health(status));
    let base = ComponentHealth {
        component_health_map: [part("a", "up"), part("b", "up")].into(),
        ..health("up")
    };
    let mut later = base.clone();
    later.status_time_unix_nano += 1;
    for part in later.component_health_map.values_mut() {
        part.status_time_unix_nano += 1;
    }
    let changes: [(&str, Change); 9] = [
        ("healthy", |health| health.healthy = false),
        ("start", |health| health.start_time_unix_nano += 1),
        ("error", |health| health.last_error = "e".to_owned()),
        ("status", |health| health.status = "down".to_owned()),
        ("attributes", |health| {
            health.attributes = vec![KeyValue::text("k", "v")];
        }),
        ("a part gone", |health| {
            health.component_health_map.remove("b");
        }),
        ("a part more", |health| {
            health
                .component_health_map
                .insert("c".to_owned(), ComponentHealth::default());
        }),
        ("another name", |health| {
            let part = health.component_health_map.remove("b").expect("is there");
            health.component_health_map.insert("c".to_owned(), part);
        }),
        ("inside a part", |health| {
            for part in health.component_health_map.values_mut() {
                part.status = "down".to_owned();
            }
        }),
    ];
    let mut bench = Bench::greeted();
    bench.session.set_health(base.clone());
    bench.one();
    bench.session.set_health(later);
    assert_eq!(bench.drain(), []);
    for (what, change) in changes {
        let mut bench = Bench::greeted();
        bench.session.set_health(base.clone());
        bench.one();
        let mut health = base.clone();
        change(&mut health);
        bench.session.set_health(health.clone());
        assert_eq!(bench.one().health, Some(health), "{what}");
    }
}
