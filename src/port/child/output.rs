//! The handle of the thread that reads what children and tools write and keeps their last words (`reader.rs`).
//!
//! Promises: a child never waits for our loop, and our loop never waits for a log disk or for whoever reads our
//! standard output. What cannot be written is counted and dropped: a full disk ends nothing.
//! Must never: know what a child is for, or send anything but last words, and those only when asked.
//!
//! Why a thread: files and standard output block (a stalled disk, a slow `docker logs`), and the loop must not. Why one
//! for all: a thread per child costs memory for nothing while all write to the same disk. A stalled disk therefore
//! holds up the output of every child once its pipe (64 KiB) is full; it never holds up supervision.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::EventfdFlags;
use tokio::sync::oneshot;

use super::marker::{Marker, Said};
use super::reader::Reader;
use crate::config::Rotation;
use crate::units::AgentName;

/// Orders that may wait while the thread writes.
const ORDERS: usize = 64;
/// Stack of the thread: the read buffer is on the heap.
const STACK: usize = 128 * 1024;
/// How long dropping waits for the last bytes to be written.
const LAST_WRITE: Duration = Duration::from_millis(500);

/// Where the output of a child goes.
#[derive(Debug, Clone)]
pub(super) enum Destination {
    /// To a rotated file.
    File {
        /// Its path.
        path: PathBuf,
        /// When it is rotated.
        rotation: Rotation,
    },
    /// To our own standard output and standard error.
    Passthrough,
    /// Among the lines of our own log.
    #[cfg(feature = "opampsupervisor")]
    OwnLog,
}

/// What was not written as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputLosses {
    /// Writes that failed.
    pub failed_writes: u64,
    /// Bytes that were dropped by them.
    pub lost_bytes: u64,
    /// Unfinished lines that were ended early, because another stream could not wait.
    pub split_lines: u64,
}

/// Two answers of a watch over a child's output; both are dropped when there is nothing to wait for any more.
#[derive(Debug)]
pub struct OutputWatch {
    /// What is written from here on is looked at.
    pub has_begun: oneshot::Receiver<()>,
    /// The first hit.
    pub said: oneshot::Receiver<Said>,
}

/// [`OutputLosses`] as they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) failed_writes: AtomicU64,
    pub(super) lost_bytes: AtomicU64,
    pub(super) split_lines: AtomicU64,
}

/// The thread's queue is full: it has been writing for long.
#[derive(Debug, thiserror::Error)]
#[error("child output is stalled: the log disk or our own output does not take more")]
pub(super) struct Stalled;

/// What the thread is told.
pub(super) enum Order {
    Follow {
        agent: AgentName,
        pipes: [File; 2],
        to: Destination,
    },
    Capture {
        id: u64,
        pipe: File,
        max: usize,
    },
    /// Look for texts in what the child writes from now on; the first answer says that this has begun.
    Watch {
        agent: AgentName,
        marker: Marker,
        begun: oneshot::Sender<()>,
    },
    FinishChild {
        agent: AgentName,
        answer: oneshot::Sender<String>,
    },
    FinishTool {
        id: u64,
        answer: oneshot::Sender<String>,
    },
    Stop,
}

/// The handle of the thread; dropping it writes what was read and ends it.
#[derive(Debug)]
pub(super) struct Output {
    orders: SyncSender<Order>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl Output {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, inbox) = sync_channel(ORDERS);
        let (ending, ended) = sync_channel(1);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags)?);
        let counters = Arc::new(Counters::default());
        let reader = Reader::new(inbox, Arc::clone(&wake), Arc::clone(&counters));
        let thread = std::thread::Builder::new()
            .name("output".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Dropped when the thread ends, also by a panic: that is the notice.
                let _ending = ending;
                reader.run();
            })?;
        Ok(Self {
            orders,
            wake,
            counters,
            thread: Some(thread),
            ended,
        })
    }

    /// Reads the pipes of an agent's child from now on; its last words start anew.
    pub(super) fn follow(
        &self,
        agent: &AgentName,
        pipes: [File; 2],
        to: Destination,
    ) -> Result<(), Stalled> {
        let agent = agent.clone();
        self.order(Order::Follow { agent, pipes, to })
    }

    /// Reads the pipe of a tool and keeps its last `max` bytes.
    pub(super) fn capture(&self, id: u64, pipe: File, max: usize) -> Result<(), Stalled> {
        self.order(Order::Capture { id, pipe, max })
    }

    /// Looks for texts in what an agent's child writes from now on; in place of what was looked for before.
    pub(super) fn watch(
        &self,
        agent: &AgentName,
        reloaded: Vec<String>,
        failed: Vec<String>,
    ) -> Result<OutputWatch, Stalled> {
        let (begun, has_begun) = oneshot::channel();
        let (answer, said) = oneshot::channel();
        let marker = Marker::new(reloaded, failed, answer);
        let agent = agent.clone();
        self.order(Order::Watch {
            agent,
            marker,
            begun,
        })?;
        Ok(OutputWatch { has_begun, said })
    }

    /// Asks for the last words of an agent's child that has ended. The pipes stay open for the next one.
    pub(super) fn finish_child(&self, agent: &AgentName) -> oneshot::Receiver<String> {
        let (answer, words) = oneshot::channel();
        let agent = agent.clone();
        // When the queue is full the answer is dropped, which is an answer.
        drop(self.order(Order::FinishChild { agent, answer }));
        words
    }

    /// Asks for what was kept of a tool that has ended, and forgets it.
    pub(super) fn finish_tool(&self, id: u64) -> oneshot::Receiver<String> {
        let (answer, words) = oneshot::channel();
        drop(self.order(Order::FinishTool { id, answer }));
        words
    }

    /// What was not written as it came, since the start.
    pub(super) fn losses(&self) -> OutputLosses {
        OutputLosses {
            failed_writes: self.counters.failed_writes.load(Ordering::Relaxed),
            lost_bytes: self.counters.lost_bytes.load(Ordering::Relaxed),
            split_lines: self.counters.split_lines.load(Ordering::Relaxed),
        }
    }

    fn order(&self, order: Order) -> Result<(), Stalled> {
        match self.orders.try_send(order) {
            Ok(()) => {
                // Fails only when the counter is at its maximum, and then the thread is awake.
                _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
                Ok(())
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Stalled),
        }
    }
}

impl Drop for Output {
    /// Waits a moment for the last bytes; a thread that hangs on a dead disk is left behind, it ends with the process.
    fn drop(&mut self) {
        let stopping = self.order(Order::Stop).is_ok();
        let ended = self.ended.recv_timeout(LAST_WRITE) == Err(RecvTimeoutError::Disconnected);
        if let Some(thread) = self.thread.take()
            && stopping
            && ended
        {
            // A panic was printed by the hook; there is nobody left to tell.
            drop(thread.join());
        }
    }
}

/// Makes the pipe of a tool: our end, which never blocks, and the tool's.
pub(super) fn tool_pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((File::from(reader), writer))
}

/// The log file of an agent.
pub(super) fn log_path(logs: &Path, agent: &AgentName) -> PathBuf {
    logs.join(format!("{agent}.log"))
}
