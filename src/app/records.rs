//! What a life of the supervisor writes down about itself: its log, the history for people, its beginning and its end.
//!
//! Promises: nothing here can fail a start; what cannot be written down is a line in the log.
//! Must never: be read by the supervisor to decide anything.

use std::path::Path;
use std::time::Duration;

use super::{AppError, Ended};
use crate::config::Config;
use crate::engine::message::ExitReason;
use crate::perform::Ports;
use crate::port::events::{self, Events};
use crate::port::life::{self, Life};
use crate::port::termination::Termination;
use crate::sys::log;
use crate::units::WallTime;

/// How long the last lines of the log may take.
const FLUSH: Duration = Duration::from_millis(500);

/// How long the mark of an ordered end may take.
const MARK: Duration = Duration::from_millis(300);

/// What the loop writes to, and what the life before left to tell.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) events: Events,
    pub(super) termination: Termination,
    pub(super) previous_end: Option<String>,
}

/// Begins a life in a state directory whose lock is held.
pub(super) fn begin(config: &Config, state_dir: &Path, now: WallTime) -> (Life, Records) {
    let events = match events::open(state_dir, config.log.rotation) {
        Ok((events, own_log)) => {
            if config.log.to_files {
                log::also_to(own_log);
            }
            events
        }
        Err(error) => {
            tracing::warn!(%error, "no history of events, and no log file");
            Events::default()
        }
    };
    let (life, previous_end) = life::begin(state_dir, now);
    let records = Records {
        events,
        termination: Termination::new(config.termination_message.as_deref()),
        previous_end,
    };
    (life, records)
}

/// How the loop ended, with its last events on disk.
pub(super) fn ended(reason: ExitReason, ports: Ports) -> Ended {
    ports.events.flush();
    Ended {
        reason,
        last_words: ports.last_words,
    }
}

/// Ends it.
pub(super) fn end(life: Life, how: &Result<Ended, AppError>) {
    let how = match how {
        Ok(ended) => match ended.reason {
            ExitReason::Stopped => "stopped",
            ExitReason::Forced => "stopped by force",
            ExitReason::GaveUp => "gave up",
            #[cfg(feature = "adopt")]
            ExitReason::Replaced => "another executable took over",
        },
        Err(_) => "the start failed",
    };
    // On a thread of its own: a disk that does not answer must not hold up the end.
    let (written, wait) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("last mark".to_owned());
    let write = move || {
        life.end(how);
        written.send(()).ok();
    };
    if thread.spawn(write).is_ok() {
        wait.recv_timeout(MARK).ok();
    }
    log::flush(FLUSH);
}
