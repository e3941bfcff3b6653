//! One thread that does the disk work of one owner, in order.
//!
//! Promises: every job that was taken is answered exactly once, in the order taken, even when doing it panics. The
//! thread ends when its [`Writer`] is dropped and the job under way is done.
//! Must never: make anybody wait for a stuck disk; dropping a writer returns at once, and the thread dies with the
//! process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::{io, thread};

use tokio::sync::mpsc;

use super::AgentStore;
use crate::engine::message::{DiskDone, DiskFault, DiskWork, FaultKind};
use crate::sys::durable::Disk;
use crate::units::{AgentName, Ticket};

/// The engine issues one effect at a time; more than a few waiting are a mistake of ours.
const QUEUE_MAX: usize = 8;
/// Enough for JSON, hashing and a directory tree; the default of 2 MiB would be address space for nothing.
const STACK_BYTES: usize = 256 * 1024;

/// What came of disk work, with whose it was.
pub type AgentAnswer = (AgentName, Ticket, Result<DiskDone, DiskFault>);

/// The near end of a writer thread.
#[derive(Debug)]
pub struct Writer<J> {
    jobs: SyncSender<(Ticket, J)>,
}

/// A job that was not taken, because the queue is full or the thread is gone.
#[derive(Debug, thiserror::Error)]
#[error("queue work for a writer thread that does not take any more")]
pub struct Overrun<J: std::fmt::Debug>(pub J);

impl<J: Send + std::fmt::Debug + 'static> Writer<J> {
    /// Starts a thread that does each job with `perform` and hands the answer to `deliver`, until that returns
    /// false or the writer is dropped.
    ///
    /// # Errors
    /// When the system has no thread for us.
    pub fn start<T: 'static>(
        name: String,
        mut perform: impl FnMut(J) -> Result<T, DiskFault> + Send + 'static,
        mut deliver: impl FnMut(Ticket, Result<T, DiskFault>) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue): (_, Receiver<(Ticket, J)>) = sync_channel(QUEUE_MAX);
        let run = move || {
            for (ticket, job) in queue {
                // What guards data on disk asserts. The engine waits for an answer for ever, so it must get one.
                let answer = catch_unwind(AssertUnwindSafe(|| perform(job)))
                    .unwrap_or_else(|panic| Err(broken(panic.as_ref())));
                if !deliver(ticket, answer) {
                    return;
                }
            }
        };
        // Not joined: a thread in an uninterruptible write would take us with it.
        thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(run)?;
        Ok(Self { jobs })
    }

    /// Hands over a job without waiting.
    ///
    /// # Errors
    /// The job, when it was not taken.
    pub fn submit(&self, ticket: Ticket, job: J) -> Result<(), Overrun<J>> {
        self.jobs.try_send((ticket, job)).map_err(|error| {
            let (TrySendError::Full((_, job)) | TrySendError::Disconnected((_, job))) = error;
            Overrun(job)
        })
    }
}

/// Starts the writer of one agent; answers go to `answers`, and wait there for room.
///
/// # Errors
/// When the system has no thread for us.
pub fn start_agent_writer<D: Disk + 'static>(
    agent: AgentName,
    mut store: AgentStore<D>,
    answers: mpsc::Sender<AgentAnswer>,
) -> io::Result<Writer<DiskWork>> {
    #[cfg(feature = "isolation")]
    let revisions = store.revisions_dir();
    // The kernel shows 15 bytes of a thread's name.
    let name = format!("disk {agent}").chars().take(15).collect();
    Writer::start(
        name,
        move |work| {
            let done = store.perform(work);
            #[cfg(feature = "isolation")]
            if let Err(error) = crate::sys::share::follow(&revisions) {
                let path = revisions.display();
                tracing::warn!(%path, %error, "new revision not opened to the user of the child");
            }
            done
        },
        move |ticket, answer| {
            answers
                .blocking_send((agent.clone(), ticket, answer))
                .is_ok()
        },
    )
}

fn broken(panic: &(dyn std::any::Any + Send)) -> DiskFault {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    DiskFault {
        kind: FaultKind::Device,
        reason: format!(
            "disk work given up by its own guard: {}",
            text.unwrap_or("no reason")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(reason: &str) -> DiskFault {
        DiskFault {
            kind: FaultKind::Full,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn jobs_are_answered_in_order_even_when_one_panics() {
        let (tx, rx) = std::sync::mpsc::channel();
        let perform = |job: u32| match job {
            1 => panic!("guard of job {job}"),
            2 => Err(fault("full")),
            _ => Ok(job),
        };
        let deliver = move |ticket, answer: Result<u32, DiskFault>| {
            tx.send((ticket, answer.map_err(|fault| fault.reason)))
                .is_ok()
        };
        let writer = Writer::start("test".to_owned(), perform, deliver).unwrap();
        for job in 0..4u32 {
            writer.submit(Ticket(u64::from(job)), job).unwrap();
        }
        let answers: Vec<_> = rx.iter().take(4).collect();
        let given_up = "disk work given up by its own guard: guard of job 1";
        let wanted = [
            (Ticket(0), Ok(0)),
            (Ticket(1), Err(given_up.to_owned())),
            (Ticket(2), Err("full".to_owned())),
            (Ticket(3), Ok(3)),
        ];
        assert_eq!(answers, wanted);
    }

    #[test]
    fn a_stuck_disk_holds_up_nobody_and_a_full_queue_is_said() {
        let (release, stuck) = std::sync::mpsc::channel::<()>();
        let (tx, rx) = std::sync::mpsc::channel();
        let perform = move |job: u32| {
            stuck.recv().map_err(|_| fault("released"))?;
            Ok(job)
        };
        let deliver = move |_, answer: Result<u32, DiskFault>| tx.send(answer).is_ok();
        let writer = Writer::start("test".to_owned(), perform, deliver).unwrap();
        let mut taken = 0;
        while writer.submit(Ticket(0), 0).is_ok() {
            taken += 1;
            assert!(taken <= QUEUE_MAX + 1, "the queue has no bound");
        }
        assert!(taken >= QUEUE_MAX);
        drop(writer);
        // Let go, the thread answers what it had taken and ends, which closes the channel of the answers.
        drop(release);
        assert_eq!(rx.iter().count(), taken);
    }
}
