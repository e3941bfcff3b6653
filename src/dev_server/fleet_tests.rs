//! The fleet as a value: scripts of messages and requests, and what it answers.

use opamp_client::messages::{
    AgentDescription, AgentDisconnect, ComponentHealth, EffectiveConfig, KeyValue,
    RemoteConfigStatus, RemoteConfigStatuses,
};

use super::super::agent::TIMELINE_MAX;
use super::*;

const NOW: WallTime = WallTime::from_unix_millis(1_760_000_000_000);
const LINK: LinkId = LinkId(1);

fn uid(number: u16) -> Uid {
    let mut bytes = [0; 16];
    bytes[0] = 1;
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    Uid::from_wire(&bytes).expect("a uid")
}

fn mask() -> u64 {
    AgentCapabilities::ReportsStatus.bit()
        | AgentCapabilities::AcceptsRemoteConfig.bit()
        | AgentCapabilities::ReportsHealth.bit()
        | AgentCapabilities::AcceptsRestartCommand.bit()
}

/// A full report.
fn full(who: Uid, sequence_num: u64) -> AgentToServer {
    AgentToServer {
        instance_uid: who.to_wire(),
        sequence_num,
        capabilities: mask(),
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![KeyValue::text("service.name", "test")],
            non_identifying_attributes: Vec::new(),
        }),
        health: Some(ComponentHealth::default()),
        ..AgentToServer::default()
    }
}

fn beat(who: Uid, sequence_num: u64) -> AgentToServer {
    AgentToServer {
        instance_uid: who.to_wire(),
        sequence_num,
        capabilities: mask(),
        ..AgentToServer::default()
    }
}

fn with_status(
    mut message: AgentToServer,
    hash: &[u8],
    status: RemoteConfigStatuses,
) -> AgentToServer {
    message.remote_config_status = Some(RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec(),
        status: status as i32,
        error_message: String::new(),
    });
    message
}

fn with_phase(mut message: AgentToServer, word: &str) -> AgentToServer {
    let rollout = ComponentHealth {
        status: word.to_owned(),
        ..ComponentHealth::default()
    };
    message.health = Some(ComponentHealth {
        component_health_map: [("rollout".to_owned(), rollout)].into(),
        ..ComponentHealth::default()
    });
    message
}

fn answer(reaction: &Reaction) -> &ServerToAgent {
    match reaction.send.as_slice() {
        [(_, Outgoing::Message(message))] => message,
        other => panic!("one message, not {other:?}"),
    }
}

fn files(body: &str) -> BTreeMap<String, AgentConfigFile> {
    let file = AgentConfigFile {
        body: body.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    [("a.yaml".to_owned(), file)].into()
}

fn lines(fleet: &Fleet, who: Uid) -> Vec<String> {
    let agent = fleet.agent(who).expect("known");
    agent.entries_from(0).map(|e| e.text.clone()).collect()
}

#[test]
fn every_message_is_answered_and_gaps_ask_for_the_full_state() {
    let who = uid(1);
    // (message, asks for the full state)
    let script = [
        (full(who, 0), false),
        (beat(who, 1), false),
        (beat(who, 2), false),
        (beat(who, 4), true),
        (beat(who, 5), false),
        // A new process counts from zero; a full report needs no question.
        (full(who, 0), false),
        (beat(who, 0), true),
    ];
    let mut fleet = Fleet::new(1);
    for (index, (message, asks)) in script.into_iter().enumerate() {
        let reaction = fleet.receive(NOW, LINK, message);
        let answer = answer(&reaction);
        assert_eq!(answer.instance_uid, who.to_wire(), "message {index}");
        let flagged = ServerToAgentFlags::ReportFullState.is_in(answer.flags);
        assert_eq!(flagged, asks, "message {index}");
        assert_eq!(answer.capabilities, 0x27, "message {index}");
        assert_eq!(answer.remote_config, None, "message {index}");
    }
    // Nobody knows this one, and it does not introduce itself.
    let reaction = fleet.receive(NOW, LINK, beat(uid(2), 7));
    assert!(ServerToAgentFlags::ReportFullState.is_in(answer(&reaction).flags));
}

#[test]
fn absent_parts_stay_as_they_were() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    let mut first = full(who, 0);
    first.effective_config = Some(EffectiveConfig::default());
    fleet.receive(NOW, LINK, first);
    let later = WallTime::from_unix_millis(NOW.unix_millis() + 5);
    let reaction = fleet.receive(later, LINK, beat(who, 1));
    assert_eq!(reaction.changes[0].parts, []);
    let agent = fleet.agent(who).expect("known");
    assert_eq!(agent.effective_config, Some(EffectiveConfig::default()));
    assert!(agent.description.is_some() && agent.health.is_some());
    assert_eq!((agent.first_seen, agent.last_seen), (NOW, later));
}

#[test]
fn a_stored_config_is_offered_once_per_link_unless_the_agent_has_it() {
    use RemoteConfigStatuses::{Applied, Applying, Failed};
    let who = uid(1);
    let hash = OfferHash::new(*b"h1");
    // (status reported with the first message of the new link, offered again)
    let cases = [
        (None, true),
        (Some(("h0", Applied)), true),
        (Some(("h1", Applied)), false),
        (Some(("h1", Applying)), false),
        // It failed and will fail again.
        (Some(("h1", Failed)), false),
    ];
    for (index, (status, offered)) in cases.into_iter().enumerate() {
        let mut fleet = Fleet::new(1);
        fleet.receive(NOW, LINK, full(who, 0));
        let (pushed, reaction) = fleet
            .push(NOW, who, files("x"), Some(hash.clone()))
            .expect("pushes");
        assert!(pushed.sent);
        let offer = answer(&reaction).remote_config.clone().expect("an offer");
        assert_eq!(offer.config_hash, b"h1");
        fleet.closed(NOW, LINK, "gone");
        let mut hello = full(who, 1);
        if let Some((hash, status)) = status {
            hello = with_status(hello, hash.as_bytes(), status);
        }
        let reaction = fleet.receive(NOW, LinkId(2), hello);
        let again = answer(&reaction).remote_config.clone();
        assert_eq!(again, offered.then_some(offer), "case {index}");
        let reaction = fleet.receive(NOW, LinkId(2), beat(who, 2));
        assert_eq!(answer(&reaction).remote_config, None, "case {index}");
    }
}

#[test]
fn a_config_for_an_agent_that_is_away_waits_for_it() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    fleet.receive(NOW, LINK, full(who, 0));
    fleet.closed(NOW, LINK, "gone");
    let (pushed, reaction) = fleet.push(NOW, who, files("x"), None).expect("stores");
    assert!(!pushed.sent);
    assert_eq!(reaction.send, []);
    assert_eq!(pushed.hash.as_bytes().len(), 32, "SHA-256");
    let reaction = fleet.receive(NOW, LinkId(2), full(who, 1));
    let offer = answer(&reaction).remote_config.clone().expect("an offer");
    assert_eq!(offer.config_hash, pushed.hash.as_bytes());
    // An empty map is an offer too, and another one.
    let (empty, reaction) = fleet.push(NOW, who, BTreeMap::new(), None).expect("pushes");
    let offer = answer(&reaction).remote_config.clone().expect("an offer");
    assert_eq!(offer.config, Some(AgentConfigMap::default()));
    assert_ne!(empty.hash, pushed.hash);
}

#[test]
fn requests_reach_only_agents_that_can() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    let refused = |fleet: &mut Fleet, request| fleet.request(NOW, who, request).map(|_| ());
    assert_eq!(
        refused(&mut fleet, Request::Restart),
        Err(Refused::NoSuchAgent { uid: who })
    );
    fleet.receive(NOW, LINK, full(who, 0));
    let reaction = fleet.request(NOW, who, Request::Restart).expect("sends");
    assert_eq!(answer(&reaction).command.map(|c| c.r#type), Some(0));
    let what = "accepts OpAMP connection settings";
    assert_eq!(
        refused(&mut fleet, Request::Heartbeat { seconds: 1 }),
        Err(Refused::NotCapable { uid: who, what })
    );
    let raw = fleet
        .request(NOW, who, Request::Raw(vec![9]))
        .expect("sends");
    assert_eq!(raw.send, [(LINK, Outgoing::Raw(vec![9]))]);
    let drop = fleet.request(NOW, who, Request::Drop).expect("sends");
    assert_eq!(drop.send, [(LINK, Outgoing::Close)]);
    let mut leaving = beat(who, 1);
    leaving.agent_disconnect = Some(AgentDisconnect {});
    fleet.receive(NOW, LINK, leaving);
    assert_eq!(
        refused(&mut fleet, Request::Restart),
        Err(Refused::NotConnected { uid: who })
    );
}

#[test]
fn an_agent_keeps_its_record_under_a_new_uid() {
    let (old, other, new) = (uid(1), uid(2), uid(3));
    let mut fleet = Fleet::new(1);
    fleet.receive(NOW, LINK, full(old, 0));
    fleet.receive(NOW, LinkId(2), full(other, 0));
    fleet.push(NOW, old, files("x"), None).expect("pushes");
    let taken = fleet.request(NOW, old, Request::Identify(Some(other)));
    assert_eq!(taken, Err(Refused::UidTaken { uid: other }));
    let reaction = fleet
        .request(NOW, old, Request::Identify(Some(new)))
        .expect("sends");
    let given = answer(&reaction).agent_identification.clone();
    assert_eq!(given.map(|g| g.new_instance_uid), Some(new.to_wire()));
    fleet.receive(NOW, LINK, beat(new, 1));
    assert_eq!(
        fleet.agent(old).map(|_| ()),
        Err(Refused::NoSuchAgent { uid: old })
    );
    let agent = fleet.agent(new).expect("renamed");
    assert!(agent.stored.is_some() && agent.description.is_some());
    assert_eq!(fleet.agents().count(), 2);
}

#[test]
fn an_agent_that_asks_for_a_uid_gets_one() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    let mut hello = full(who, 0);
    hello.flags = AgentToServerFlags::RequestInstanceUid as u64;
    let reaction = fleet.receive(NOW, LINK, hello);
    let given = answer(&reaction)
        .agent_identification
        .as_ref()
        .and_then(|given| Uid::from_wire(&given.new_instance_uid))
        .expect("a uid");
    assert_ne!(given, who);
    fleet.receive(NOW, LINK, beat(given, 1));
    let known: Vec<Uid> = fleet.agents().map(|agent| agent.uid).collect();
    assert_eq!(known, [given]);
}

#[test]
fn phases_and_statuses_become_a_timeline() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    fleet.receive(NOW, LINK, full(who, 0));
    let (pushed, _) = fleet.push(NOW, who, files("x"), None).expect("pushes");
    let hash = pushed.hash.as_bytes().to_vec();
    let applying = RemoteConfigStatuses::Applying;
    fleet.receive(NOW, LINK, with_status(beat(who, 1), &hash, applying));
    for (sequence_num, word) in (2..).zip(["policy", "policy", "committed"]) {
        fleet.receive(NOW, LINK, with_phase(beat(who, sequence_num), word));
    }
    let short = short(&pushed.hash);
    assert_eq!(
        lines(&fleet, who),
        [
            "connected",
            "unhealthy",
            "config pushed",
            &format!("APPLYING {short}"),
            "policy",
            "committed"
        ]
    );
    let agent = fleet.agent(who).expect("known");
    let newest = agent.applies.iter().next_back().expect("an apply");
    assert_eq!(newest.outcome.word(), "committed");
    assert_eq!(newest.phases.len(), 2);
}

#[test]
fn a_push_of_what_the_agent_reported_already_has_its_outcome() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    let hello = with_status(full(who, 0), b"bad", RemoteConfigStatuses::Failed);
    fleet.receive(NOW, LINK, hello);
    let hash = Some(OfferHash::new(*b"bad"));
    fleet.push(NOW, who, files("x"), hash).expect("pushes");
    let agent = fleet.agent(who).expect("known");
    let outcomes: Vec<_> = agent.applies.iter().map(|a| a.outcome.word()).collect();
    assert_eq!(outcomes, ["failed"]);
}

#[test]
fn messages_without_a_uid_get_an_error() {
    for bad in [vec![], vec![0; 16], vec![1; 15]] {
        let mut fleet = Fleet::new(1);
        let message = AgentToServer {
            instance_uid: bad.clone(),
            ..AgentToServer::default()
        };
        let reaction = fleet.receive(NOW, LINK, message);
        let error = answer(&reaction).error_response.clone().expect("an error");
        assert_eq!(
            error.r#type(),
            ServerErrorResponseType::BadRequest,
            "{bad:?}"
        );
        assert_eq!(fleet.agents().count(), 0);
    }
}

#[test]
fn agents_and_timelines_are_bounded() {
    let mut fleet = Fleet::new(1);
    let count = u16::try_from(AGENTS_MAX).expect("fits");
    for number in 0..count {
        fleet.receive(NOW, LinkId(number.into()), full(uid(number), 0));
    }
    // All are connected: no room.
    let reaction = fleet.receive(NOW, LinkId(9999), full(uid(count), 0));
    let error = answer(&reaction).error_response.clone().expect("an error");
    assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
    assert!(error.details.is_some(), "says when to come back");
    // One is gone: its room is given away.
    fleet.closed(NOW, LinkId(5), "gone");
    let reaction = fleet.receive(NOW, LinkId(9999), full(uid(count), 0));
    assert_eq!(answer(&reaction).error_response, None);
    assert_eq!(fleet.agents().count(), AGENTS_MAX);
    assert!(fleet.agent(uid(5)).is_err());

    let who = uid(0);
    for number in 0..500 {
        let word = if number % 2 == 0 { "policy" } else { "failed" };
        fleet.receive(NOW, LinkId(0), with_phase(beat(who, number + 1), word));
    }
    let agent = fleet.agent(who).expect("known");
    let numbers: Vec<u64> = agent.entries_from(0).map(|e| e.number).collect();
    assert_eq!(numbers.len(), TIMELINE_MAX);
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[test]
fn the_newest_of_two_links_gets_what_is_pushed() {
    let who = uid(1);
    let mut fleet = Fleet::new(1);
    fleet.receive(NOW, LinkId(1), full(who, 0));
    fleet.receive(NOW, LinkId(2), full(who, 1));
    let to = |fleet: &mut Fleet| {
        let reaction = fleet.request(NOW, who, Request::FullState).expect("sends");
        reaction.send[0].0
    };
    assert_eq!(to(&mut fleet), LinkId(2));
    fleet.closed(NOW, LinkId(2), "gone");
    assert_eq!(to(&mut fleet), LinkId(1));
}
