//! The thread that reads what children and tools write.
//!
//! Promises: each round reads at most [`READ`] bytes of a pipe, so that a flood of one child does not silence the
//! others; sleeps while there is nothing to read and nothing ordered; what cannot be written is counted and dropped.
//! Must never: end while the handle lives, or know what a child is for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::lines::{Held, SinkState, StreamId, Write};
use super::marker::Marker;
use super::output::{Counters, Destination, Order};
use super::peek::Peek;
#[cfg(feature = "opampsupervisor")]
use super::tagged::Tagged;
use super::tail::{LastBytes, Tail};
use crate::sys::clock;
#[cfg(feature = "opampsupervisor")]
use crate::sys::log;
use crate::sys::log_file::LogFile;
use crate::units::{AgentName, Moment};

/// Bytes read from one pipe in one round.
const READ: usize = 32 * 1024;
/// Bytes read from one pipe after its child is gone: what a pipe can hold, and what escaped grandchildren may add.
const DRAIN: usize = 2 * 1024 * 1024;
/// How long a standard output that is not ready may hold the thread before the bytes are dropped.
const SLOW_OUTPUT_MS: u16 = 2000;

/// How often an unfinished line is looked at, and how long it may stand still before it is taken out of its pipe. A
/// program that writes in blocks ends many of them inside a line, and soon goes on; one that asks a question does not.
const LINGER_MS: u16 = 50;
const LINGER: Duration = Duration::from_secs(1);

/// An unfinished line that is left in its pipe, where it outlives us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begun {
    bytes: usize,
    since: Moment,
}

/// The two streams of one agent and where they go.
struct Channel {
    pipes: [File; 2],
    begun: [Option<Begun>; 2],
    held: [Held; 2],
    tail: Tail,
    sink: Sink,
    marker: Option<Marker>,
}

enum Sink {
    File {
        log: LogFile,
        state: SinkState,
    },
    Passthrough,
    #[cfg(feature = "opampsupervisor")]
    OwnLog {
        lines: Tagged,
        /// Streams do not wait for each other: lines are put together before they go out.
        states: [SinkState; 2],
    },
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

/// What the thread owns.
pub(super) struct Reader {
    inbox: Receiver<Order>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    channels: BTreeMap<AgentName, Channel>,
    captures: BTreeMap<u64, Capture>,
    /// Of our standard output and standard error, which all agents share.
    own: [SinkState; 2],
    next_stream: u64,
    buffer: Vec<u8>,
    peek: Peek,
}

impl Reader {
    /// Nothing is read yet.
    pub(super) fn new(inbox: Receiver<Order>, wake: Arc<OwnedFd>, counters: Arc<Counters>) -> Self {
        Self {
            inbox,
            wake,
            counters,
            channels: BTreeMap::new(),
            captures: BTreeMap::new(),
            own: [SinkState::default(), SinkState::default()],
            next_stream: 0,
            buffer: vec![0; READ],
            peek: Peek::default(),
        }
    }

    /// Reads until it is told to stop.
    pub(super) fn run(mut self) {
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
                        self.read_child(&agent, stream, Until::LineEnds);
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
        let mut lingering = Vec::new();
        let mut fds: Vec<PollFd<'_>> = vec![wanted(self.wake.as_fd())];
        for (agent, channel) in &self.channels {
            for (stream, pipe) in channel.pipes.iter().enumerate() {
                if channel.begun.get(stream).is_some_and(Option::is_some) {
                    lingering.push(Source::Child(agent.clone(), stream));
                    continue;
                }
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
        let wait = if lingering.is_empty() {
            PollTimeout::NONE
        } else {
            PollTimeout::from(LINGER_MS)
        };
        match poll(&mut fds, wait) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let readable = fds.iter().skip(1).map(|fd| fd.any() == Some(true));
        let ready = sources
            .into_iter()
            .zip(readable)
            .filter_map(|(source, readable)| readable.then_some(source));
        Ok(ready.chain(lingering).collect())
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
                Ok(Order::Watch {
                    agent,
                    marker,
                    begun,
                }) => {
                    if let Some(channel) = self.channels.get_mut(&agent) {
                        channel.marker = Some(marker);
                        _ = begun.send(());
                    }
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
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn follow(&mut self, agent: AgentName, pipes: [File; 2], to: Destination) {
        if let Some(channel) = self.channels.get_mut(&agent)
            && channel.goes_to(&to)
        {
            // The new ends keep the pipes' content alive while the old ones close.
            channel.pipes = pipes;
            channel.begun = [None; 2];
            channel.tail = Tail::default();
            channel.marker = None;
            return;
        }
        let mut held = || {
            self.next_stream = self.next_stream.saturating_add(1);
            Held::new(StreamId(self.next_stream))
        };
        let held = [held(), held()];
        let sink = match to {
            Destination::File { path, rotation } => {
                let mut log = LogFile::continued(path, rotation);
                for pipe in &pipes {
                    let seen = self.peek.look(pipe, &mut self.buffer);
                    let coming = seen.ok().and_then(|there| self.buffer.get(..there));
                    // A disk that refuses is met again by the first line.
                    log.take_back_half_line(coming.unwrap_or_default()).ok();
                }
                let state = SinkState::default();
                Sink::File { log, state }
            }
            Destination::Passthrough => Sink::Passthrough,
            #[cfg(feature = "opampsupervisor")]
            Destination::OwnLog => Sink::OwnLog {
                lines: Tagged::new(agent.to_string()),
                states: [SinkState::default(), SinkState::default()],
            },
        };
        let tail = Tail::default();
        let channel = Channel {
            pipes,
            begun: [None; 2],
            held,
            tail,
            sink,
            marker: None,
        };
        if let Some(mut old) = self.channels.insert(agent, channel) {
            for stream in 0..2 {
                old.write(stream, &mut self.own, &self.counters, Held::finish);
            }
        }
    }

    /// Reads one portion; the number of bytes, zero when there is nothing now. They are written before they are taken
    /// out of the pipe.
    fn read_child(&mut self, agent: &AgentName, stream: usize, until: Until) -> usize {
        let Some(channel) = self.channels.get_mut(agent) else {
            return 0;
        };
        let (length, taken) = channel.read(stream, &mut self.buffer, &mut self.peek, until);
        if length > 0 {
            channel.write(stream, &mut self.own, &self.counters, Held::deliver);
            if !taken {
                channel.take(stream, length, &mut self.buffer);
            }
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
                // Nobody writes any longer. What was kept waits for the tool's exit; a closed pipe would wake us for
                // ever.
                capture.pipe = None;
                0
            }
        }
    }

    fn finish_child(&mut self, agent: &AgentName) -> String {
        for stream in 0..2 {
            let mut drained = 0;
            while drained < DRAIN {
                let length = self.read_child(agent, stream, Until::Empty);
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
        channel.marker = None;
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
                #[cfg(feature = "opampsupervisor")]
                channel.end_line(stream, &self.counters);
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
            #[cfg(feature = "opampsupervisor")]
            (Sink::OwnLog { .. }, Destination::OwnLog) => true,
            _ => false,
        }
    }

    /// Looks at one portion and hands it on; how much of it, and whether it is out of the pipe already.
    fn read(
        &mut self,
        stream: usize,
        buffer: &mut [u8],
        peek: &mut Peek,
        until: Until,
    ) -> (usize, bool) {
        let streams = self.pipes.get_mut(stream).zip(self.held.get_mut(stream));
        let Some(((pipe, held), begun)) = streams.zip(self.begun.get_mut(stream)) else {
            return (0, true);
        };
        let (length, taken) = match peek.look(pipe, buffer) {
            Ok(there) => (whole(buffer, there, begun, until), false),
            // Both ends are ours too, so the end of the file never comes.
            Err(_) => match read_once(pipe, buffer) {
                Read::Bytes(length) => (length, true),
                Read::NothingNow | Read::Over => (0, true),
            },
        };
        if length == 0 {
            return (0, taken);
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        held.add(bytes);
        self.tail.add(stream, bytes);
        self.marker.take_if(|marker| marker.add(stream, bytes));
        (length, taken)
    }

    /// Takes out of the pipe what was written.
    fn take(&mut self, stream: usize, length: usize, buffer: &mut [u8]) {
        let Some(pipe) = self.pipes.get_mut(stream) else {
            return;
        };
        let mut left = length;
        while left > 0 {
            let Some(part) = buffer.get_mut(..left) else {
                return;
            };
            match read_once(pipe, part) {
                Read::Bytes(read) => left -= read,
                // Nobody else reads it, so all of it is there.
                Read::NothingNow | Read::Over => return,
            }
        }
    }

    /// Lets one stream write to the sink in one of the three ways that [`Held`] has.
    fn write(
        &mut self,
        stream: usize,
        own: &mut [SinkState; 2],
        counters: &Counters,
        how: fn(&mut Held, &mut SinkState, &mut Write<'_>),
    ) {
        let Some(held) = self.held.get_mut(stream) else {
            return;
        };
        let count = |bytes: &[u8], result| count(counters, bytes, &result);
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
            #[cfg(feature = "opampsupervisor")]
            Sink::OwnLog { lines, states } => {
                let Some(state) = states.get_mut(stream) else {
                    return;
                };
                how(held, state, &mut |bytes, _| {
                    for line in lines.add(stream, bytes, (log::format(), clock::wall())) {
                        count(&line, log::pass_on(&line, write_own));
                    }
                });
                state
            }
        };
        let split = std::mem::take(&mut state.split_lines);
        counters.split_lines.fetch_add(split, Ordering::Relaxed);
    }

    /// Lines of our log go out whole, so that one that nobody will end is ended here.
    #[cfg(feature = "opampsupervisor")]
    fn end_line(&mut self, stream: usize, counters: &Counters) {
        if let Sink::OwnLog { lines, .. } = &mut self.sink {
            let how = (log::format(), clock::wall());
            for line in lines.rest(stream, how) {
                count(counters, &line, &log::pass_on(&line, write_own));
            }
        }
    }
}

/// Counts what was not written.
fn count(counters: &Counters, bytes: &[u8], result: &io::Result<()>) {
    if result.is_err() {
        counters.failed_writes.fetch_add(1, Ordering::Relaxed);
        let lost = bytes.len() as u64;
        counters.lost_bytes.fetch_add(lost, Ordering::Relaxed);
    }
}

/// How far one reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// As far as lines are whole.
    LineEnds,
    /// Everything: nothing more will come.
    Empty,
}

/// How many of `there` bytes at the front of the buffer are taken: whole lines, and what cannot wait for its end.
fn whole(buffer: &[u8], there: usize, begun: &mut Option<Begun>, until: Until) -> usize {
    let seen = buffer.get(..there).unwrap_or_default();
    let before = begun.take();
    if until == Until::Empty || there == buffer.len() && !seen.contains(&b'\n') {
        return there;
    }
    if let Some(end) = seen.iter().rposition(|byte| *byte == b'\n') {
        return end + 1;
    }
    if there == 0 {
        return 0;
    }
    let now = clock::monotonic();
    let still = before.filter(|before| before.bytes == there);
    let since = still.map_or(now, |begun| begun.since);
    if now.since(since) >= LINGER {
        return there;
    }
    let bytes = there;
    *begun = Some(Begun { bytes, since });
    0
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
