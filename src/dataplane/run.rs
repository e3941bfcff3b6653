//! The process of the data plane: signals, the plane, the link.
//!
//! Promises: signals are caught before anything else happens; HUP reloads and never kills; TERM and INT stop inside
//! the budget; the link to the supervisor is opened only if the environment names one, and its loss stops nothing.
//! Must never: exit by itself while a config runs.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::link::{self, Identity};
use super::pipeline::Event;
use super::reload::{Host, Plane};
use super::{Args, Exit};
use crate::sys::clock;

/// Time from TERM to the end.
const STOP_BUDGET: Duration = Duration::from_secs(5);
/// Time for the goodbye on the link.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// How often counters are reported while a link is configured; state is reported at once.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// How often while a config is news: whoever watches what flows under it wants to know soon.
const REPORT_NEWS_EVERY: Duration = Duration::from_secs(5);
/// Reports of a config that is news.
const NEWS: u32 = 24;

/// Runs until told to stop.
pub(super) fn run(args: Args) -> Exit {
    // Sockets are private from the first moment; a mode that is configured is set after.
    umask(Mode::from_bits_truncate(0o077));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "start the runtime");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(main(args));
    // A console whose reader stalls must not hold up the end.
    runtime.shutdown_background();
    exit
}

#[derive(Debug)]
struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

#[derive(Debug)]
enum Turn {
    Reload,
    Stop,
    Handle(Event),
    Report,
    Refresh,
    LinkEnded,
}

async fn main(args: Args) -> Exit {
    let mut signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "catch signals");
            return Exit::Failed;
        }
    };
    let uid = args.instance_uid.unwrap_or_else(own_uid);
    let identity = Identity {
        instance_uid: *uid.as_bytes(),
        started: clock::wall(),
        host: host_name(),
    };
    let host = Host {
        name: identity.host.clone(),
        instance_id: uid.to_string(),
        supervised: args.link.is_some(),
    };
    let changed = Arc::new(Notify::new());
    let mut plane = match Plane::start(args.dir, host, Arc::clone(&changed)).await {
        Ok(plane) => plane,
        Err(error) => {
            for error in &error.errors {
                tracing::error!(reason = %error, "config refused");
            }
            return Exit::Config;
        }
    };
    let (reports, mut link) = open_link(args.link, identity, &plane);
    let mut news = NEWS;
    let mut refresh = refreshing(REPORT_NEWS_EVERY);
    loop {
        let turn = tokio::select! {
            biased;
            _ = signals.term.recv() => Turn::Stop,
            _ = signals.int.recv() => Turn::Stop,
            _ = signals.hup.recv() => Turn::Reload,
            () = changed.notified() => Turn::Report,
            _ = refresh.tick(), if reports.is_some() => Turn::Refresh,
            () = &mut link => Turn::LinkEnded,
            event = plane.next() => Turn::Handle(event),
        };
        match turn {
            Turn::Stop => break,
            Turn::Handle(event) => {
                plane.handle(event).await;
                continue;
            }
            Turn::LinkEnded => {
                tracing::warn!("the link to the supervisor has ended");
                link = Box::pin(std::future::pending());
            }
            Turn::Reload => {
                plane.reload().await;
                news = NEWS;
                refresh = refreshing(REPORT_NEWS_EVERY);
            }
            Turn::Refresh => {
                news = news.saturating_sub(1);
                if news == 0 && refresh.period() != REPORT_EVERY {
                    refresh = refreshing(REPORT_EVERY);
                }
            }
            Turn::Report => {}
        }
        if let Some(reports) = &reports {
            reports.send_replace(plane.report());
        }
    }
    plane.stop(STOP_BUDGET).await;
    if reports.is_some() {
        // Without its sender the link says goodbye and ends; it bounds that itself.
        drop(reports);
        _ = tokio::time::timeout(GOODBYE_MAX, link).await;
    }
    Exit::Stopped
}

/// Ticks from one `period` on.
fn refreshing(period: Duration) -> tokio::time::Interval {
    let mut refresh = tokio::time::interval(period);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    refresh
}

/// The link as a future of this task: it is driven while nothing else is done, and ends with the loop.
type Link = Pin<Box<dyn Future<Output = ()>>>;

/// Opens the link, if there is a supervisor; one that cannot be set up is said once and done without.
fn open_link(
    socket: Option<PathBuf>,
    identity: Identity,
    plane: &Plane,
) -> (Option<watch::Sender<link::Report>>, Link) {
    let opened = match socket.map(|socket| link::open(&socket, &identity)) {
        Some(Ok(opened)) => opened,
        Some(Err(error)) => {
            tracing::error!(%error, "no link to the supervisor");
            return (None, Box::pin(std::future::pending()));
        }
        None => return (None, Box::pin(std::future::pending())),
    };
    let (reports, receiver) = watch::channel(plane.report());
    (
        Some(reports),
        Box::pin(link::run(opened, identity, receiver)),
    )
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Without a supervisor: the same on every start of one machine, and not the machine id itself, which is confidential.
fn own_uid() -> uuid::Uuid {
    let Ok(machine) = std::fs::read_to_string("/etc/machine-id") else {
        return uuid::Uuid::now_v7();
    };
    let digest = Sha256::digest(format!("adjutant.collect {}", machine.trim()));
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
