//! The loop: whatever happens outside becomes an event, the host takes it, and its effects are performed.
//!
//! Promises: signals, timers and answers enter here and nowhere else; the loop sleeps until the host's deadline or
//! the next event; one log line per transition, none at rest. An effect that is answered at once is answered before
//! anything else is heard.
//! Must never: decide anything, or wait anywhere but in its one `select!`, each branch of which is safe to cancel.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::engine::host::Host;
use crate::engine::message::{
    AgentEvent, CertificateDone, CertificateFault, DiskFault, Effect, Event, ExitReason,
    HostSignal, Note, NoteLevel,
};
use crate::perform::{Admissions, Performed, Ports};
use crate::port::admin::Question;
use crate::port::child::ChildrenEvent;
use crate::port::link::{LinkKey, LinkReport};
use crate::port::local::{LocalKey, LocalReport};
use crate::port::store::AgentAnswer;
use crate::sys::clock::{self, ClockJumps};
use crate::sys::signal::{Caught, HostSignals};
use crate::units::{AgentName, Now, Ticket};

/// A deadline that stays in the past after a tick would make the loop spin; this is the least it sleeps then.
const SPIN_GUARD: Duration = Duration::from_millis(10);

/// What came of work for a certificate.
pub(crate) type CertificateAnswer = (Ticket, Result<CertificateDone, CertificateFault>);

/// Where everything comes in.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) signals: HostSignals,
    pub(crate) links: mpsc::Receiver<(LinkKey, LinkReport)>,
    pub(crate) locals: mpsc::Receiver<(LocalKey, LocalReport)>,
    pub(crate) disk: mpsc::Receiver<AgentAnswer>,
    pub(crate) identity: mpsc::Receiver<(Ticket, Result<(), DiskFault>)>,
    pub(crate) certificates: mpsc::Receiver<CertificateAnswer>,
    pub(crate) jumps: ClockJumps,
    pub(crate) questions: mpsc::Receiver<Question>,
    pub(crate) admissions: mpsc::Receiver<Admissions>,
}

/// Runs the host until it says why to leave.
pub(crate) async fn run(mut host: Host, ports: &mut Ports, inbox: &mut Inbox) -> ExitReason {
    let mut ready = VecDeque::new();
    let mut effects = host.start(clock::now());
    let mut ticked = false;
    loop {
        if let Some(reason) = perform(effects, ports, &mut ready) {
            return reason;
        }
        let event = if let Some(event) = ready.pop_front() {
            event
        } else {
            let now = clock::now();
            ports.notifier.turn(now.mono, || host.headline(now));
            let wait = pause(&host, now, ticked);
            let feed = ports.notifier.deadline().map(|at| at.since(now.mono));
            let wait = [wait, feed].into_iter().flatten().min();
            let Some(event) = next(ports, inbox, wait).await else {
                effects = Vec::new();
                continue;
            };
            event
        };
        ticked = matches!(event, Event::Tick);
        let watched = ports.telemetry.watch(&event);
        let began = clock::now();
        effects = host.step(began, event);
        if let Some(agent) = watched {
            ports.telemetry.handled(&agent, (began, clock::now()));
        }
    }
}

/// Performs effects in order; the whole list, also when one of them says to leave.
fn perform(
    effects: Vec<Effect>,
    ports: &mut Ports,
    ready: &mut VecDeque<Event>,
) -> Option<ExitReason> {
    let mut left = None;
    for effect in effects {
        match ports.perform(effect) {
            Performed::Quietly => {}
            Performed::Answered(event) => ready.push_back(event),
            Performed::Noted(note) => {
                ports.events.record(clock::wall(), &note);
                ports.telemetry.note(clock::now(), &note);
                log(&note);
            }
            Performed::Left(reason) => left = Some(reason),
        }
    }
    left
}

fn pause(host: &Host, now: Now, ticked: bool) -> Option<Duration> {
    let wait = host.deadline(now)?.since(now.mono);
    Some(if ticked && wait.is_zero() {
        SPIN_GUARD
    } else {
        wait
    })
}

/// Waits for the next thing to happen; none when it concerns nobody any more.
///
/// Every branch is a channel's `recv`, or says in its documentation that it may be cancelled.
async fn next(ports: &mut Ports, inbox: &mut Inbox, wait: Option<Duration>) -> Option<Event> {
    tokio::select! {
        caught = inbox.signals.next() => Some(Event::Signal(match caught {
            Caught::Terminate => HostSignal::Terminate,
            Caught::Hangup => HostSignal::Hangup,
        })),
        event = ports.children.next() => Some(of_children(event)),
        Some((agent, ticket, result)) = inbox.disk.recv() => Some(Event::Agent {
            agent,
            event: AgentEvent::Disk { ticket, result },
        }),
        Some((ticket, result)) = inbox.identity.recv() => Some(Event::IdentitySaved { ticket, result }),
        Some((ticket, result)) = inbox.certificates.recv() => Some(Event::Certificate { ticket, result }),
        () = inbox.jumps.next() => Some(Event::ClockJumped { asleep: clock::asleep() }),
        Some((key, report)) = inbox.links.recv() => ports.on_link(key, report),
        Some((key, report)) = inbox.locals.recv() => Some(ports.on_local(key, report)),
        Some((command, answer)) = inbox.questions.recv() => Some(ports.on_question(command, answer)),
        Some(made) = inbox.admissions.recv() => Some(ports.on_admitted(made)),
        ended = ports.tasks.next() => ended,
        () = sleep(wait) => Some(Event::Tick),
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn of_children(event: ChildrenEvent) -> Event {
    match event {
        ChildrenEvent::Exited { agent, pid, exit } => Event::Agent {
            agent,
            event: AgentEvent::Exited { pid, exit },
        },
        ChildrenEvent::ToolDone {
            agent,
            ticket,
            outcome,
        } => Event::Agent {
            agent,
            event: AgentEvent::ToolDone { ticket, outcome },
        },
    }
}

/// Fields that notes carry. A field has to be named where it is logged; one that is not named here lands in `fields`.
const FIELDS: [&str; 20] = [
    "process.pid",
    "status",
    "reason",
    "error",
    "attempt",
    "delay_ms",
    "from",
    "to",
    "offer_hash",
    "revision",
    "revision_hash",
    "origin",
    "how",
    "link",
    "endpoint",
    "crashes",
    "oom_killed",
    "exit_code",
    "signal",
    "service.instance.id",
];

/// Logs a note at its level, every field of it as a field.
fn log(note: &Note) {
    // An absent field is not recorded at all.
    let field = |name: &str| {
        let found = note.fields.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.as_str())
    };
    let agent = note.agent.as_ref().map(AgentName::as_str);
    let rest = rest(note);
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(
                agent,
                process.pid = field("process.pid"),
                status = field("status"),
                reason = field("reason"),
                error = field("error"),
                attempt = field("attempt"),
                delay_ms = field("delay_ms"),
                from = field("from"),
                to = field("to"),
                offer_hash = field("offer_hash"),
                revision = field("revision"),
                revision_hash = field("revision_hash"),
                origin = field("origin"),
                how = field("how"),
                link = field("link"),
                endpoint = field("endpoint"),
                crashes = field("crashes"),
                oom_killed = field("oom_killed"),
                exit_code = field("exit_code"),
                signal = field("signal"),
                service.instance.id = field("service.instance.id"),
                fields = rest.as_deref(),
                "{}",
                note.message
            )
        };
    }
    match note.level {
        NoteLevel::Debug => at!(debug),
        NoteLevel::Info => at!(info),
        NoteLevel::Warn => at!(warn),
        NoteLevel::Error => at!(error),
    }
}

fn rest(note: &Note) -> Option<String> {
    let rest: Vec<String> = note
        .fields
        .iter()
        .filter(|(name, _)| !FIELDS.contains(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    (!rest.is_empty()).then(|| rest.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_without_a_name_of_their_own_are_not_lost() {
        let note = Note {
            level: NoteLevel::Info,
            agent: None,
            message: "something happened",
            fields: vec![
                ("status", "exit code 1".to_owned()),
                ("unheard_of", "7".to_owned()),
            ],
        };
        assert_eq!(rest(&note).as_deref(), Some("unheard_of=7"));
    }
}
