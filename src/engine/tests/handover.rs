//! Given another executable that takes over; when the host is told to stop before it has; then the stop has its way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rig::{agent, setup};
use crate::config::{GiveUp, Process, Stop};
use crate::engine::host::{Host, HostSetup};
use crate::engine::message::{
    AgentEffect, AgentEvent, ChildIdentity, Command, CommandId, DiskDone, DiskWork, Effect, Event,
    HostSignal, Identity, Persisted, ToolEnd, ToolOutcome, ToolSpec,
};
use crate::engine::{CertificatesSetup, ClockSetup, RegistrationSetup};
use crate::units::{Moment, Now, Ticket, WallTime};

fn at(millis: u64) -> Now {
    Now {
        mono: Moment::from_millis(millis),
        wall: WallTime::from_unix_millis(1_800_000_000_000 + millis),
    }
}

fn host() -> Host {
    let settings = agent("profile: defaulted");
    Host::new(HostSetup {
        agents: vec![(setup(&settings, Persisted::default(), None), None)],
        identity: Identity::default(),
        certificates: CertificatesSetup {
            list: Vec::new(),
            directory: "/s/certificates".into(),
            seed: 1,
        },
        stop: Stop {
            grace: Duration::from_secs(7),
            budget: Duration::from_secs(9),
        },
        give_up: GiveUp::Hold,
        previous_end: None,
        clock: ClockSetup {
            settings: None,
            server: None,
            asleep: Duration::ZERO,
        },
        registration: RegistrationSetup {
            settings: None,
            credential: None,
            unreadable: None,
            seed: 1,
        },
        has_server: true,
    })
}

/// The disk answers, and the child starts; it does not stop.
fn answer(host: &mut Host, now: Now, effects: Vec<Effect>) {
    let mut waiting: VecDeque<Effect> = effects.into();
    while let Some(effect) = waiting.pop_front() {
        let Effect::Agent { agent, effect } = effect else {
            continue;
        };
        let event = match effect {
            AgentEffect::Disk { ticket, work } => {
                let done = match work {
                    DiskWork::ReadLocal(_) => DiskDone::Local(Vec::new()),
                    DiskWork::Verify(id) => DiskDone::Verified {
                        id,
                        drift: Vec::new(),
                    },
                    DiskWork::Prune { keep } => DiskDone::Pruned(keep),
                    _ => DiskDone::Durable,
                };
                let result = Ok(done);
                AgentEvent::Disk { ticket, result }
            }
            AgentEffect::Spawn { ticket, .. } => {
                let child = ChildIdentity {
                    pid: 100,
                    start_ticks: 1,
                    started: now.wall,
                };
                AgentEvent::Spawned { ticket, child }
            }
            _ => continue,
        };
        waiting.extend(host.step(now, Event::Agent { agent, event }));
    }
}

#[test]
fn stop_while_another_executable_takes_over_does_not_turn_for_ever() {
    let mut host = host();
    let effects = host.start(at(0));
    answer(&mut host, at(0), effects);
    assert_eq!(host.positions().next().unwrap().1, "up");
    host.set_successor(ToolSpec {
        program: "/bin/sh".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        inherit: Vec::new(),
        timeout: Duration::from_secs(5),
        output_max: 100,
        process: Process::default(),
    });
    let (id, command) = (CommandId(1), Command::Upgrade);
    host.step(at(10), Event::Command { id, command });
    let event = AgentEvent::ToolDone {
        ticket: Ticket(u64::MAX),
        outcome: ToolOutcome {
            end: ToolEnd::Exited(0),
            output: String::new(),
        },
    };
    let agent = "it".parse().unwrap();
    let effects = host.step(at(20), Event::Agent { agent, event });
    answer(&mut host, at(20), effects);
    // It would leave in a moment.
    assert!(host.deadline(at(20)).is_some_and(|due| due <= at(220).mono));
    let effects = host.step(at(30), Event::Signal(HostSignal::Terminate));
    answer(&mut host, at(30), effects);
    for millis in [220, 221, 2_020, 5_000] {
        let effects = host.step(at(millis), Event::Tick);
        answer(&mut host, at(millis), effects);
        assert_eq!(host.positions().next().unwrap().1, "stopping");
        let due = host.deadline(at(millis));
        assert!(
            due.is_some_and(|due| due > at(millis).mono),
            "{millis}: {due:?}"
        );
    }
}
