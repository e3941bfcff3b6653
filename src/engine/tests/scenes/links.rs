//! What becomes of the link to a server: each kind of loss, what a server can say besides an offer, a server that is
//! polled, one that is found later, a token that is missing or rejected.

use std::time::Duration;

use opamp_client::messages::{
    AgentIdentification, RetryInfo, ServerErrorResponse, ServerToAgent, ServerToAgentCommand,
    server_error_response,
};

use super::OFFER;
use crate::config::Server;
use crate::engine::message::{AgentEvent, LinkEvent, LinkLoss, LossKind};
use crate::engine::tests::rig::{Bench, There, agent_of};
use crate::units::LinkId;

const LAYERED: &str = "profile: layered, apply: {probation: 10s}";

fn calm(bench: &mut Bench) {
    bench.boot();
    bench.offer("o1", OFFER);
    bench.run_s(20);
}

pub(super) fn failed(kind: i32, message: &str, retry: Option<u64>) -> ServerToAgent {
    let details = retry.map(|seconds| {
        server_error_response::Details::RetryInfo(RetryInfo {
            retry_after_nanoseconds: seconds * 1_000_000_000,
        })
    });
    ServerToAgent {
        error_response: Some(ServerErrorResponse {
            r#type: kind,
            error_message: message.to_owned(),
            details,
        }),
        ..ServerToAgent::default()
    }
}

#[test]
fn lost_links_are_made_again_in_their_time_and_the_child_never_hears_of_it() {
    let mut bench = Bench::told(LAYERED, &[]);
    bench.chapter("Nobody listens at first");
    bench.server_is(There::Away);
    bench.boot();
    bench.run_s(4);
    bench.server_is(There::Up);
    bench.run_s(5);
    bench.offer("o1", OFFER);
    bench.run_s(20);
    bench.chapter("Lost a while after something was heard");
    bench.waits_for_link();
    bench.loses(LossKind::Network, None);
    bench.run_s(3);
    bench.waits_for_link();
    bench.loses(LossKind::Closed, None);
    bench.run_s(3);
    bench.waits_for_link();
    bench.loses(LossKind::Tls, None);
    bench.run_s(3);
    bench.waits_for_link();
    bench.loses(LossKind::Protocol, None);
    bench.run_s(3);
    bench.waits_for_link();
    bench.loses(LossKind::TooLarge, None);
    bench.run_s(3);
    bench.waits_for_link();
    bench.loses(LossKind::Throttled, None);
    bench.run_s(40);
    bench.waits_for_link();
    bench.loses(LossKind::Throttled, Some(Duration::from_secs(2)));
    bench.run_s(5);
    bench.chapter("Sent away because of who we are");
    bench.sends_away(LossKind::Rejected, None);
    bench.waits_for_link();
    bench.loses(LossKind::Rejected, None);
    bench.run_s(100);
    bench.server_is(There::Up);
    bench.run_s(90);
    bench.chapter("Silent");
    bench.server_is(There::Silent);
    bench.run_s(200);
    bench.server_is(There::Up);
    bench.run_s(70);
    bench.chapter("Answers of a link that is gone");
    for event in [
        LinkEvent::Up,
        LinkEvent::Frame(vec![0, 10, 0]),
        LinkEvent::Down(LinkLoss {
            kind: LossKind::Network,
            reason: "late".to_owned(),
            retry_after: None,
        }),
    ] {
        let link = LinkId(1);
        bench.happens(AgentEvent::Link { link, event });
    }
    bench.stops();
    bench.is("links", include_str!("links.txt"));
}

#[test]
fn everything_that_a_server_can_say_is_answered_once() {
    let mut bench = Bench::told(LAYERED, &[]);
    calm(&mut bench);
    bench.chapter("A restart is ordered");
    bench.waits_for_link();
    bench.says(ServerToAgent {
        command: Some(ServerToAgentCommand { r#type: 0 }),
        ..ServerToAgent::default()
    });
    bench.run_s(5);
    bench.chapter("A report was not understood");
    bench.waits_for_link();
    bench.says(failed(1, "no such field", None));
    bench.run_s(1);
    bench.waits_for_link();
    bench.says(failed(0, "some error", None));
    bench.run_s(1);
    bench.chapter("It is unavailable");
    bench.waits_for_link();
    bench.says(failed(2, "later", Some(4)));
    bench.run_s(10);
    bench.waits_for_link();
    bench.says(failed(2, "later", None));
    bench.run_s(40);
    bench.chapter("All is to be reported again");
    bench.waits_for_link();
    bench.says(ServerToAgent {
        flags: 1,
        ..ServerToAgent::default()
    });
    bench.run_s(1);
    bench.chapter("Another identity");
    let identity = |byte: u8| ServerToAgent {
        agent_identification: Some(AgentIdentification {
            new_instance_uid: vec![byte; 16],
        }),
        ..ServerToAgent::default()
    };
    bench.waits_for_link();
    bench.says(identity(9));
    bench.run_s(1);
    bench.with(|engine, now| engine.refuse_instance_uid(now, "disk full"));
    bench.waits_for_link();
    bench.says(identity(8));
    bench.run_s(1);
    bench.with(|engine, now| engine.confirm_instance_uid(now, [8; 16]));
    bench.run_s(1);
    bench.chapter("What nobody can read");
    let link = LinkId(3);
    for bytes in [vec![], vec![0], vec![1, 2, 3], vec![0, 255, 255, 255]] {
        let event = LinkEvent::Frame(bytes);
        bench.happens(AgentEvent::Link { link, event });
    }
    bench.chapter("A destination that the settings leave to no server");
    bench.direct("d1", "http://127.0.0.1:9/v1/metrics");
    bench.run_s(2);
    bench.stops();
    bench.is("server", include_str!("server.txt"));
}

#[test]
fn polled_server_counts_as_reached_with_its_first_answer() {
    let mut bench = Bench::told(LAYERED, &[]);
    bench.chapter("No server in the settings");
    bench.settings_of(agent_of("", LAYERED));
    bench.boot();
    bench.run_s(5);
    let (_, server) = agent_of("server: {endpoint: 'ws://a.example'}", LAYERED);
    let polled = Server {
        endpoint: "http://fleet.example/v1/opamp".to_owned(),
        heartbeat: Duration::from_secs(20),
        ..server.unwrap()
    };
    bench.chapter("One is found");
    bench.with(|engine, now| engine.set_server(now, polled.clone()));
    bench.run_s(5);
    bench.offer("o1", OFFER);
    bench.run_s(50);
    bench.chapter("It fails");
    bench.waits_for_link();
    bench.loses(LossKind::Network, None);
    bench.sends_away(LossKind::Throttled, Some(Duration::from_secs(3)));
    bench.run_s(10);
    bench.server_is(There::Up);
    bench.run_s(10);
    bench.chapter("A HUP names another");
    bench.hup_with(agent_of(
        "server: {endpoint: 'wss://b.example/x?t=1'}",
        LAYERED,
    ));
    bench.run_s(10);
    bench.chapter("The same, and then none");
    bench.hup_with(agent_of(
        "server: {endpoint: 'wss://b.example/x?t=1'}",
        LAYERED,
    ));
    bench.run_s(1);
    bench.hup_with(agent_of("", LAYERED));
    bench.run_s(10);
    bench.stops();
    bench.is("polled", include_str!("polled.txt"));
}

#[test]
fn token_decides_when_a_link_is_made_and_a_rejected_one_is_asked_for_again() {
    let mut bench = Bench::told(LAYERED, &[]);
    bench.prepare();
    bench.engine.begin_with_token(true, false);
    bench.chapter("There is no token yet");
    bench.start();
    bench.run_s(5);
    bench.chapter("One came");
    bench.with(|engine, now| engine.set_token(now, true, true, true));
    bench.run_s(5);
    bench.chapter("The same, which is no news");
    bench.with(|engine, now| engine.set_token(now, true, true, false));
    bench.chapter("It is rejected");
    bench.sends_away(LossKind::Rejected, None);
    bench.waits_for_link();
    bench.loses(LossKind::Rejected, None);
    bench.run_s(1);
    bench.server_is(There::Up);
    bench.with(|engine, now| engine.set_token(now, true, true, true));
    bench.run_s(2);
    bench.chapter("It is lost");
    bench.with(|engine, now| engine.set_token(now, true, false, false));
    bench.run_s(10);
    bench.chapter("None is needed");
    bench.with(|engine, now| engine.set_token(now, false, true, false));
    bench.run_s(2);
    bench.chapter("The settings say themselves who we are");
    let own = "server: {endpoint: 'wss://a.example', headers: {Authorization: 'Bearer x'}}";
    bench.hup_with(agent_of(own, LAYERED));
    bench.run_s(2);
    bench.with(|engine, now| engine.set_token(now, true, true, true));
    bench.run_s(2);
    bench.with(|engine, now| engine.set_token(now, true, false, false));
    bench.waits_for_link();
    bench.loses(LossKind::Rejected, None);
    bench.run_s(60);
    bench.is("token", include_str!("token.txt"));
}

#[test]
fn polled_server_that_never_answers_is_told_once() {
    let mut bench = Bench::new(LAYERED, &[]);
    let (agent, server) = agent_of("server: {endpoint: 'ws://a.example'}", LAYERED);
    let polled = Server {
        endpoint: "http://fleet.example/v1/opamp".to_owned(),
        ..server.unwrap()
    };
    bench.settings_of((agent, Some(polled)));
    bench.answer = None;
    bench.boot();
    for _ in 0..5 {
        bench.waits_for_link();
        bench.run(Duration::from_millis(50));
        bench.loses(LossKind::Network, None);
        bench.run(Duration::from_millis(50));
    }
    assert_eq!(bench.noted("no link to the server"), 1);
    assert_eq!(bench.noted("connected to the server"), 0);
    bench.answer = Some(ServerToAgent::default());
    bench.waits_for_link();
    bench.run_s(60);
    bench.loses(LossKind::Network, None);
    bench.run(Duration::from_millis(50));
    assert_eq!(bench.noted("no link to the server"), 2);
}

#[test]
fn reason_of_a_link_that_is_not_made_is_told_once_and_again_when_it_is_another() {
    let mut bench = Bench::new(LAYERED, &[]);
    bench.server_is(There::Silent);
    bench.boot();
    let reasons = ["no such host", "no such host", "refused", "refused"];
    for (number, (reason, told)) in (1..).zip(reasons.into_iter().zip([1, 1, 2, 2])) {
        let loss = LinkLoss {
            kind: LossKind::Network,
            reason: reason.to_owned(),
            retry_after: None,
        };
        let (link, event) = (LinkId(number), LinkEvent::Down(loss));
        bench.happens(AgentEvent::Link { link, event });
        assert_eq!(bench.noted("no link to the server"), told, "{number}");
        bench.run_s(10);
    }
    assert_eq!(bench.counted("stale_answers"), 0);
}
