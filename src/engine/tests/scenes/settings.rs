//! What becomes of connection settings that a server offers: ones that work, ones that do not, ones that outlive us.

use std::time::Duration;

use opamp_client::messages::{
    ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings, ServerToAgent,
};

use crate::engine::message::LossKind;
use crate::engine::tests::rig::{Bench, There, agent_of};

const SETTINGS: &str = "profile: layered, own_telemetry: []";
const SERVER: &str = "server: {endpoint: 'wss://home.example/v1/opamp'}";

fn bench() -> Bench {
    let mut bench = Bench::told(SETTINGS, &[]);
    bench.allowed = u64::MAX;
    bench.settings_of(agent_of(SERVER, SETTINGS));
    bench.boot();
    bench.run_s(2);
    bench
}

fn offer(hash: &str, settings: OpAmpConnectionSettings) -> ServerToAgent {
    ServerToAgent {
        connection_settings: Some(ConnectionSettingsOffers {
            hash: hash.as_bytes().to_vec(),
            opamp: Some(settings),
            ..ConnectionSettingsOffers::default()
        }),
        ..ServerToAgent::default()
    }
}

fn place(endpoint: &str) -> OpAmpConnectionSettings {
    OpAmpConnectionSettings {
        destination_endpoint: endpoint.to_owned(),
        ..OpAmpConnectionSettings::default()
    }
}

impl Bench {
    fn is_led(&mut self, hash: &str, endpoint: &str) {
        self.waits_for_link();
        self.says(offer(hash, place(endpoint)));
    }
}

#[test]
fn offered_server_is_proven_beside_the_link_that_stands_and_outlives_a_restart() {
    let mut bench = bench();
    bench.chapter("Another server");
    bench.is_led("c1", "wss://other.example/v1/opamp");
    bench.run_s(40);
    bench.chapter("The same, with a heartbeat");
    let settings = OpAmpConnectionSettings {
        heartbeat_interval_seconds: 17,
        ..place("wss://other.example/v1/opamp")
    };
    bench.waits_for_link();
    bench.says(offer("c2", settings));
    bench.run_s(40);
    bench.chapter("A HUP that changes nothing");
    bench.hup_with(agent_of(SERVER, SETTINGS));
    bench.run_s(2);
    bench.chapter("Started again");
    bench.boot();
    bench.run_s(20);
    bench.chapter("A polled one, and who we are there");
    let header = Header {
        key: "Authorization".to_owned(),
        value: "Bearer hush".to_owned(),
    };
    let settings = OpAmpConnectionSettings {
        headers: Some(Headers {
            headers: vec![header],
        }),
        ..place("https://polled.example/v1/opamp")
    };
    bench.waits_for_link();
    bench.says(offer("c3", settings));
    bench.run_s(45);
    bench.chapter("A HUP names another server at home");
    bench.hup_with(agent_of(
        "server: {endpoint: 'wss://new.example/v1/opamp'}",
        SETTINGS,
    ));
    bench.run_s(10);
    bench.stops();
    bench.is("offered_server", include_str!("offered_server.txt"));
}

#[test]
fn offered_server_that_does_not_answer_leaves_everything_as_it_was() {
    let mut bench = bench();
    bench.chapter("Nobody listens there");
    bench.is_led("c1", "wss://refused.example/v1/opamp");
    bench.run_s(150);
    bench.chapter("Nobody says anything there, and home is lost meanwhile");
    bench.is_led("c2", "wss://silent.example/v1/opamp");
    bench.run_s(10);
    bench.waits_for_link();
    bench.loses(LossKind::Network, None);
    bench.run_s(150);
    bench.chapter("It is stopped while one is tried");
    bench.is_led("c3", "wss://silent.example/v1/opamp");
    bench.run_s(5);
    bench.stops();
    bench.is("offered_nowhere", include_str!("offered_nowhere.txt"));
}

#[test]
fn offered_server_is_tried_by_the_main_link_where_nothing_stands() {
    let mut bench = bench();
    bench.chapter("Offered, and home is lost");
    bench.is_led("c1", "wss://silent.example/v1/opamp");
    bench.run(Duration::from_millis(50));
    bench.server_is(There::Away);
    bench.run_s(60);
    bench.server_is(There::Up);
    bench.run_s(100);
    bench.chapter("One is refused for what it is");
    bench.is_led("c2", "ws://plain.example/v1/opamp");
    bench.run_s(3);
    bench.is_led("c3", "no place");
    bench.run_s(3);
    bench.chapter("A HUP while one is tried");
    bench.is_led("c4", "wss://silent.example/v1/opamp");
    bench.run_s(3);
    bench.hup_with(agent_of(
        "server: {endpoint: 'wss://new.example/v1/opamp'}",
        SETTINGS,
    ));
    bench.run_s(5);
    bench.chapter("Works, and is lost before it is proven");
    bench.is_led("c5", "wss://other.example/v1/opamp");
    bench.run(Duration::from_millis(20));
    bench.waits_for_link();
    bench.loses(LossKind::Rejected, None);
    bench.run_s(100);
    bench.chapter("Lost later, and home takes over");
    bench.is_led("c6", "wss://other.example/v1/opamp");
    bench.run_s(30);
    bench.sends_away(LossKind::Throttled, Some(Duration::from_secs(7)));
    bench.waits_for_link();
    bench.loses(LossKind::Throttled, Some(Duration::from_secs(7)));
    bench.run_s(60);
    bench.server_is(There::Up);
    bench.run_s(60);
    bench.is("offered_alone", include_str!("offered_alone.txt"));
}

#[test]
fn trial_of_an_offered_server_ends_whatever_that_server_does() {
    let mut bench = bench();
    bench.chapter("It sends us away for a while, then for good");
    bench.sends_away(LossKind::Throttled, Some(Duration::from_secs(9)));
    bench.is_led("c1", "wss://busy.example/v1/opamp");
    bench.run_s(12);
    bench.sends_away(LossKind::Throttled, None);
    bench.run_s(40);
    bench.sends_away(LossKind::Rejected, None);
    bench.run_s(60);
    bench.server_is(There::Up);
    bench.chapter("It lets us in, and says nothing");
    bench.is_led("c2", "wss://mute.example/v1/opamp");
    bench.run(Duration::from_millis(8));
    bench.answer = None;
    bench.run_s(100);
    bench.answer = Some(ServerToAgent::default());
    bench.run_s(60);
    bench.chapter("It says that it cannot do anything for us");
    for (kind, seconds) in [(1, None), (2, Some(5)), (2, None)] {
        bench.is_led(
            &format!("c3{kind}{seconds:?}"),
            "wss://sorry.example/v1/opamp",
        );
        bench.run(Duration::from_millis(8));
        bench.answer = Some(super::links::failed(kind, "not for you", seconds));
        bench.run_s(4);
        bench.answer = Some(ServerToAgent::default());
        bench.run_s(100);
    }
    bench.is("trials", include_str!("trials.txt"));
}

#[test]
fn stored_settings_wait_until_the_local_ones_allow_them() {
    let mut bench = bench();
    bench.is_led("c1", "wss://other.example/v1/opamp");
    bench.run_s(10);
    bench.chapter("Started again, and not allowed any more");
    bench.allowed = !0x100;
    bench.boot();
    bench.run_s(10);
    bench.chapter("Allowed again, while the disk refuses");
    bench.allowed = u64::MAX;
    bench.refuses = "SaveConnection";
    bench.boot();
    bench.run_s(10);
    bench.is_led("c2", "wss://third.example/v1/opamp");
    bench.run_s(100);
    bench.refuses = "nothing";
    bench.chapter("Another is tried by the main link, as home is away");
    bench.is_led("c3", "wss://fourth.example/v1/opamp");
    bench.run(Duration::from_millis(6));
    bench.server_is(There::Away);
    bench.run_s(10);
    bench.sends_away(LossKind::Throttled, Some(Duration::from_secs(8)));
    bench.run_s(100);
    bench.server_is(There::Up);
    bench.run_s(100);
    bench.stops();
    bench.is("stored_settings", include_str!("stored_settings.txt"));
}

fn with_header(hash: &str, endpoint: &str, key: &str) -> ServerToAgent {
    let header = Header {
        key: key.to_owned(),
        value: "hush".to_owned(),
    };
    let headers = vec![header];
    let settings = OpAmpConnectionSettings {
        headers: Some(Headers { headers }),
        ..place(endpoint)
    };
    offer(hash, settings)
}

#[test]
fn token_of_the_registration_goes_where_no_offered_header_says_who_we_are() {
    let mut bench = Bench::told(SETTINGS, &[]);
    bench.allowed = u64::MAX;
    bench.settings_of(agent_of(SERVER, SETTINGS));
    bench.prepare();
    bench.engine.begin_with_token(true, true);
    bench.start();
    bench.run_s(2);
    bench.chapter("With a header of any kind");
    bench.says(with_header("c1", "wss://any.example/v1/opamp", "x-tenant"));
    bench.run_s(20);
    bench.chapter("One that does not want us, tried by the main link");
    led_alone(&mut bench, LossKind::Rejected);
    bench.server_is(There::Up);
    bench.run_s(5);
    bench.chapter("With one that says who we are");
    bench.says(with_header(
        "c2",
        "wss://known.example/v1/opamp",
        "authorization",
    ));
    bench.run_s(20);
    bench.is("offered_token", include_str!("offered_token.txt"));
}

#[test]
fn server_that_is_offered_while_we_stop_is_not_tried() {
    let mut bench = Bench::told(SETTINGS, &[]);
    bench.allowed = u64::MAX;
    bench.settings_of(agent_of(SERVER, SETTINGS));
    bench.boot();
    bench.offer("o1", super::OFFER);
    bench.run_s(60);
    bench.with(crate::engine::Engine::wind_down);
    let before = bench.counted("ignored_session_events");
    bench.is_led("c1", "wss://other.example/v1/opamp");
    bench.run_s(1);
    assert_eq!(bench.noted("connection settings offered"), 0);
    assert_eq!(bench.counted("ignored_session_events"), before + 1);
    assert_eq!(bench.read_of_settings, []);
}

fn link(bench: &Bench) -> (String, &'static str) {
    let link = bench.engine.snapshot(bench.clock()).link;
    (link.endpoint, link.state)
}

/// Another server is offered while home is lost, so that the main link tries it; whoever comes there is sent away.
fn led_alone(bench: &mut Bench, loss: LossKind) {
    bench.is_led("c9", "wss://other.example/v1/opamp");
    bench.run(Duration::from_millis(3));
    bench.server_is(There::Away);
    bench.sends_away(loss, None);
    bench.run(Duration::from_millis(20));
}

#[test]
fn home_is_tried_at_once_after_a_server_that_does_not_want_us() {
    let mut bench = bench();
    led_alone(&mut bench, LossKind::Rejected);
    bench.server_is(There::Up);
    bench.run_s(2);
    let home = "wss://home.example/v1/opamp".to_owned();
    assert_eq!(link(&bench), (home, "connected"));
}

#[test]
fn overloaded_server_on_trial_is_left_alone_as_long_as_any() {
    let mut bench = bench();
    led_alone(&mut bench, LossKind::Throttled);
    bench.server_is(There::Up);
    bench.run_s(25);
    let other = "wss://other.example/v1/opamp".to_owned();
    assert_eq!(link(&bench), (other.clone(), "waiting"));
    bench.run_s(10);
    assert_eq!(link(&bench), (other, "connected"));
}

#[test]
fn silent_server_is_given_up_beside_a_home_that_is_unavailable() {
    let mut bench = bench();
    bench.is_led("c1", "wss://silent.example/v1/opamp");
    bench.run_s(10);
    bench.waits_for_link();
    bench.loses(LossKind::Network, None);
    // The trial ends, and home takes nothing either: both get their turns.
    bench.answer = Some(super::links::failed(2, "later", Some(1)));
    bench.run_s(200);
    bench.answer = Some(ServerToAgent::default());
    bench.run_s(400);
    let home = "wss://home.example/v1/opamp".to_owned();
    assert_eq!(link(&bench), (home, "connected"));
}
