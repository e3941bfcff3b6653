//! Reads what children and tools write, on one thread of its own, and keeps their last words.
//!
//! Promises: a child never waits for our loop, and our loop never waits for a log disk or for whoever reads our standard
//! output. Each round reads at most [`READ`] bytes of a pipe, so that a flood of one child does not silence the others.
//! What cannot be written is counted and dropped: a full disk ends nothing.
//! Must never: know what a child is for, or send anything but last words, and those only when asked.
//!
//! Why a thread: files and standard output block (a stalled disk, a slow `docker logs`), and the loop must not. Why one
//! for all: a thread per child costs memory for nothing while all write to the same disk. A stalled disk therefore holds
//! up the output of every child once its pipe (64 KiB) is full; it never holds up supervision.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::event::EventfdFlags;
use tokio::sync::oneshot;

use super::lines::{Held, SinkState, StreamId};
use super::log_file::LogFile;
use super::tail::{LastBytes, Tail};
use crate::config::Rotation;
use crate::units::AgentName;

/// Bytes read from one pipe in one round.
const READ: usize = 32 * 1024;
/// Bytes read from one pipe after its child is gone: what a pipe can hold, and what escaped grandchildren may add.
const DRAIN: usize = 1024 * 1024;
/// Orders that may wait while the thread writes.
const ORDERS: usize = 64;
/// Stack of the thread: the read buffer is on the heap.
const STACK: usize = 128 * 1024;
/// How long dropping waits for the last bytes to be written.
const LAST_WRITE: Duration = Duration::from_millis(500);
/// How long a standard output that is not ready may hold the thread before the bytes are dropped.
const SLOW_OUTPUT_MS: u16 = 2000;

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

#[derive(Debug, Default)]
struct Counters {
    failed_writes: AtomicU64,
    lost_bytes: AtomicU64,
    split_lines: AtomicU64,
}

/// The thread's queue is full: it has been writing for long.
#[derive(Debug, thiserror::Error)]
#[error("child output is stalled: the log disk or our own output does not take more")]
pub(super) struct Stalled;

enum Order {
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
        let reader = Reader {
            inbox,
            wake: Arc::clone(&wake),
            counters: Arc::clone(&counters),
            channels: BTreeMap::new(),
            captures: BTreeMap::new(),
            own: [SinkState::default(), SinkState::default()],
            next_stream: 0,
            buffer: vec![0; READ],
        };
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

/// The two streams of one agent and where they go.
struct Channel {
    pipes: [File; 2],
    held: [Held; 2],
    tail: Tail,
    sink: Sink,
}

enum Sink {
    File { log: LogFile, state: SinkState },
    Passthrough,
}

struct Capture {
    /// Until every writer has closed it.
    pipe: Option<File>,
    last: LastBytes,
}

/// What became readable.
enum Source {
    Child(AgentName, usize),
    Tool(u64),
}

struct Reader {
    inbox: Receiver<Order>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    channels: BTreeMap<AgentName, Channel>,
    captures: BTreeMap<u64, Capture>,
    /// Of our standard output and standard error, which all agents share.
    own: [SinkState; 2],
    next_stream: u64,
    buffer: Vec<u8>,
}

impl Reader {
    fn run(mut self) {
        loop {
            let Ok(ready) = self.wait() else {
                // poll fails for want of memory only; whoever waits for last words sees the sender dropped.
                return;
            };
            if !self.obey() {
                break;
            }
            for source in ready {
                match source {
                    Source::Child(agent, stream) => {
                        self.read_child(&agent, stream);
                    }
                    Source::Tool(id) => {
                        self.read_tool(id);
                    }
                }
            }
        }
        self.hand_over();
    }

    /// Sleeps until a pipe is readable or an order came.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut sources = Vec::new();
        let mut fds: Vec<PollFd<'_>> = vec![wanted(self.wake.as_fd())];
        for (agent, channel) in &self.channels {
            for (stream, pipe) in channel.pipes.iter().enumerate() {
                fds.push(wanted(pipe.as_fd()));
                sources.push(Source::Child(agent.clone(), stream));
            }
        }
        for (id, capture) in &self.captures {
            if let Some(pipe) = &capture.pipe {
                fds.push(wanted(pipe.as_fd()));
                sources.push(Source::Tool(*id));
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let readable = fds.iter().skip(1).map(|fd| fd.any() == Some(true));
        Ok(sources
            .into_iter()
            .zip(readable)
            .filter_map(|(source, readable)| readable.then_some(source))
            .collect())
    }

    /// Carries out what was ordered; `false` when it is time to end.
    fn obey(&mut self) -> bool {
        let mut counter = [0; 8];
        // Nothing to read means nothing was ordered since.
        _ = rustix::io::read(&*self.wake, &mut counter);
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Follow { agent, pipes, to }) => self.follow(agent, pipes, to),
                Ok(Order::Capture { id, pipe, max }) => {
                    let last = LastBytes::new(max);
                    let pipe = Some(pipe);
                    self.captures.insert(id, Capture { pipe, last });
                }
                Ok(Order::FinishChild { agent, answer }) => {
                    let words = self.finish_child(&agent);
                    // Nobody waits any longer: then nobody wants it.
                    drop(answer.send(words));
                }
                Ok(Order::FinishTool { id, answer }) => {
                    let words = self.finish_tool(id);
                    drop(answer.send(words));
                }
                Ok(Order::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn follow(&mut self, agent: AgentName, pipes: [File; 2], to: Destination) {
        if let Some(channel) = self.channels.get_mut(&agent)
            && channel.goes_to(&to)
        {
            // The new ends keep the pipes' content alive while the old ones close.
            channel.pipes = pipes;
            channel.tail = Tail::default();
            return;
        }
        let mut held = || {
            self.next_stream = self.next_stream.saturating_add(1);
            Held::new(StreamId(self.next_stream))
        };
        let held = [held(), held()];
        let sink = match to {
            Destination::File { path, rotation } => Sink::File {
                log: LogFile::new(path, rotation),
                state: SinkState::default(),
            },
            Destination::Passthrough => Sink::Passthrough,
        };
        let tail = Tail::default();
        let channel = Channel {
            pipes,
            held,
            tail,
            sink,
        };
        if let Some(mut old) = self.channels.insert(agent, channel) {
            for stream in 0..2 {
                old.write(stream, &mut self.own, &self.counters, Held::finish);
            }
        }
    }

    /// Reads one portion; the number of bytes, zero when there is nothing now.
    fn read_child(&mut self, agent: &AgentName, stream: usize) -> usize {
        let Some(channel) = self.channels.get_mut(agent) else {
            return 0;
        };
        let length = channel.read(stream, &mut self.buffer);
        if length > 0 {
            channel.write(stream, &mut self.own, &self.counters, Held::deliver);
            self.deliver_waiting(agent);
        }
        length
    }

    /// A finished line may have been what other streams of the same sink waited for.
    fn deliver_waiting(&mut self, agent: &AgentName) {
        let shared = self
            .channels
            .get(agent)
            .is_some_and(|channel| matches!(channel.sink, Sink::Passthrough));
        for (name, channel) in &mut self.channels {
            if name == agent || (shared && matches!(channel.sink, Sink::Passthrough)) {
                for stream in 0..2 {
                    channel.write(stream, &mut self.own, &self.counters, Held::deliver);
                }
            }
        }
    }

    fn read_tool(&mut self, id: u64) -> usize {
        let Some(capture) = self.captures.get_mut(&id) else {
            return 0;
        };
        let Some(pipe) = &mut capture.pipe else {
            return 0;
        };
        match read_once(pipe, &mut self.buffer) {
            Read::Bytes(length) => {
                let bytes = self.buffer.get(..length).unwrap_or_default();
                capture.last.add(bytes);
                length
            }
            Read::NothingNow => 0,
            Read::Over => {
                // Nobody writes any longer. What was kept waits for the tool's exit; a closed pipe would wake us for ever.
                capture.pipe = None;
                0
            }
        }
    }

    fn finish_child(&mut self, agent: &AgentName) -> String {
        for stream in 0..2 {
            let mut drained = 0;
            while drained < DRAIN {
                let length = self.read_child(agent, stream);
                if length == 0 {
                    break;
                }
                drained += length;
            }
        }
        let Some(channel) = self.channels.get_mut(agent) else {
            return String::new();
        };
        for stream in 0..2 {
            channel.write(stream, &mut self.own, &self.counters, Held::finish);
        }
        let words = channel.tail.take();
        self.deliver_waiting(agent);
        words
    }

    fn finish_tool(&mut self, id: u64) -> String {
        let mut drained = 0;
        while drained < DRAIN {
            let length = self.read_tool(id);
            if length == 0 {
                break;
            }
            drained += length;
        }
        self.captures
            .remove(&id)
            .map(|mut capture| capture.last.take())
            .unwrap_or_default()
    }

    /// Writes what was read, half lines included: the children may live on, and our next life reads on.
    fn hand_over(&mut self) {
        for channel in self.channels.values_mut() {
            for stream in 0..2 {
                channel.write(stream, &mut self.own, &self.counters, Held::hand_over);
            }
        }
    }
}

impl Channel {
    fn goes_to(&self, to: &Destination) -> bool {
        match (&self.sink, to) {
            (Sink::File { log, .. }, Destination::File { path, rotation }) => {
                log.is_at(path, *rotation)
            }
            (Sink::Passthrough, Destination::Passthrough) => true,
            _ => false,
        }
    }

    fn read(&mut self, stream: usize, buffer: &mut [u8]) -> usize {
        let Some((pipe, held)) = self.pipes.get_mut(stream).zip(self.held.get_mut(stream)) else {
            return 0;
        };
        // Both ends are ours too, so the end of the file never comes.
        let Read::Bytes(length) = read_once(pipe, buffer) else {
            return 0;
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        held.add(bytes);
        self.tail.add(stream, bytes);
        length
    }

    /// Lets one stream write to the sink in one of the three ways that [`Held`] has.
    fn write(
        &mut self,
        stream: usize,
        own: &mut [SinkState; 2],
        counters: &Counters,
        how: fn(&mut Held, &mut SinkState, &mut super::lines::Write<'_>),
    ) {
        let Some(held) = self.held.get_mut(stream) else {
            return;
        };
        let count = |bytes: &[u8], result: io::Result<()>| {
            if result.is_err() {
                counters.failed_writes.fetch_add(1, Ordering::Relaxed);
                let lost = bytes.len() as u64;
                counters.lost_bytes.fetch_add(lost, Ordering::Relaxed);
            }
        };
        let state = match &mut self.sink {
            Sink::File { log, state } => {
                how(held, state, &mut |bytes, inside| {
                    count(bytes, log.write(bytes, inside));
                });
                state
            }
            Sink::Passthrough => {
                let Some(state) = own.get_mut(stream) else {
                    return;
                };
                how(held, state, &mut |bytes, _| {
                    count(bytes, write_own(stream, bytes));
                });
                state
            }
        };
        let split = std::mem::take(&mut state.split_lines);
        counters.split_lines.fetch_add(split, Ordering::Relaxed);
    }
}

enum Read {
    Bytes(usize),
    NothingNow,
    Over,
}

fn read_once(pipe: &mut File, buffer: &mut [u8]) -> Read {
    match pipe.read(buffer) {
        Ok(0) => Read::Over,
        Ok(length) => Read::Bytes(length),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Read::NothingNow
        }
        Err(_) => Read::Over,
    }
}

/// Writes to our standard output or standard error without the buffer and lock that `print!` would bring.
fn write_own(stream: usize, bytes: &[u8]) -> io::Result<()> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let fd: BorrowedFd<'_> = if stream == 0 {
        stdout.as_fd()
    } else {
        stderr.as_fd()
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        match nix::unistd::write(fd, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => rest = rest.get(length..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Somebody who shares the descriptor made it non-blocking.
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
                if poll(&mut fds, SLOW_OUTPUT_MS)? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
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
