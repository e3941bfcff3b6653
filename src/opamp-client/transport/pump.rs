//! Moves frames over one connection until it ends. Knows bytes, not OpAMP; what is polled over HTTP is `poll.rs`'s.
//!
//! Promises: reading and writing never wait for each other; both queues are bounded and push back; a link on which
//! nothing is heard is found dead; closing ends within its deadline; how it ended is a value.
//! Must never: spawn, retry, or drop a frame that it accepted while the connection stands.
//!
//! [`Pump::run`] is one future that the caller drives; it ends when the peer closes, the link breaks, every
//! [`FrameSender`] is gone, or one of them asks to close.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::socket::{Carrier, Connection, Socket};

/// Frames that wait in either direction.
pub(super) const QUEUE: usize = 16;

/// Bytes of a close reason, as the protocol bounds them.
const REASON_MAX: usize = 123;

pub(super) const CODE_NORMAL: u16 = 1000;
const CODE_UNSUPPORTED: u16 = 1003;
const CODE_NO_STATUS: u16 = 1005;
pub(super) const CODE_BROKEN: u16 = 1006;
const CODE_POLICY: u16 = 1008;
pub(super) const CODE_TOO_LARGE: u16 = 1009;
const CODE_RESTART: u16 = 1012;
const CODE_TRY_LATER: u16 = 1013;

/// HTTP statuses that mean what some close codes mean. The two ranges of numbers do not meet.
const STATUS_UNAUTHORIZED: u16 = 401;
const STATUS_FORBIDDEN: u16 = 403;
const STATUS_TOO_LARGE: u16 = 413;
const STATUS_TOO_MANY: u16 = 429;
const STATUS_UNAVAILABLE: u16 = 503;

/// The clocks of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PumpConfig {
    /// A ping is sent when nothing was heard for this long, and after twice as long the link is dead; zero turns
    /// both off.
    pub ping_after: Duration,
    /// For the whole closing handshake.
    pub close_timeout: Duration,
    /// For writing one frame.
    pub write_timeout: Duration,
    /// While polling: for one request and its answer, a connection that has to be made anew aside.
    pub request_timeout: Duration,
    /// While polling: bodies of requests are compressed. Answers are inflated in any case.
    pub compress: bool,
}

impl Default for PumpConfig {
    fn default() -> Self {
        Self {
            // Longer than the usual heartbeat: whose beats are answered, that link needs no pings.
            ping_after: Duration::from_secs(45),
            close_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_mins(1),
            compress: false,
        }
    }
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClosedBy {
    /// We closed it, as asked or because of what the peer sent.
    Us,
    /// The peer sent a close frame.
    Peer,
    /// Nobody: it broke, or fell silent.
    Failure,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The WebSocket close code; 1006 if there was none because the link broke, 1005 if the peer gave none. The HTTP
    /// status if a request was answered with one that ended the polling.
    pub code: u16,
    /// The peer's reason, or ours; at most 123 bytes, printable.
    pub reason: String,
    /// Who ended it.
    pub by: ClosedBy,
    /// How long the peer asks to stay away, if it says.
    pub retry_after: Option<Duration>,
}

/// What a caller does about a connection that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClosedClass {
    /// We wanted it.
    Wanted,
    /// The peer went away or the link broke: reconnect.
    Lost,
    /// The peer does not accept our credentials or behaviour (1008, 401, 403): long back-off.
    Rejected,
    /// The peer is overloaded or restarts (1012, 1013, 429, 503): back-off.
    Throttled,
    /// A message was too large for one side (1009, 413). If the peer says so, tell the session
    /// ([`crate::session::Session::handle_too_large`]).
    TooLarge,
}

impl Closed {
    pub(super) fn new(by: ClosedBy, code: u16, reason: &str) -> Self {
        let mut text = String::new();
        for char in reason
            .chars()
            .map(|char| if char.is_control() { ' ' } else { char })
        {
            if text.len().saturating_add(char.len_utf8()) > REASON_MAX {
                break;
            }
            text.push(char);
        }
        Self {
            code,
            reason: text,
            by,
            retry_after: None,
        }
    }

    /// What to do about it.
    pub fn class(&self) -> ClosedClass {
        match (self.by, self.code) {
            (_, CODE_TOO_LARGE | STATUS_TOO_LARGE) => ClosedClass::TooLarge,
            (ClosedBy::Us, CODE_NORMAL) => ClosedClass::Wanted,
            (ClosedBy::Peer, CODE_POLICY | STATUS_UNAUTHORIZED | STATUS_FORBIDDEN) => {
                ClosedClass::Rejected
            }
            (
                ClosedBy::Peer,
                CODE_RESTART | CODE_TRY_LATER | STATUS_TOO_MANY | STATUS_UNAVAILABLE,
            ) => ClosedClass::Throttled,
            _ => ClosedClass::Lost,
        }
    }
}

/// The connection has ended; the frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection has ended")]
pub struct LinkClosed;

/// Why a frame was not taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full: the peer reads slowly.
    #[error("send queue is full")]
    Full,
    /// The connection has ended.
    #[error("connection has ended")]
    Closed,
}

#[derive(Debug)]
pub(super) enum Outgoing {
    Frame(Vec<u8>),
    Close { code: u16, reason: String },
}

/// Queues frames for a pump. The connection is closed with code 1000 when all senders are gone and the queue is empty.
#[derive(Debug, Clone)]
pub struct FrameSender(mpsc::Sender<Outgoing>);

/// Room for one frame.
#[derive(Debug)]
pub struct Permit<'a>(mpsc::Permit<'a, Outgoing>);

impl Permit<'_> {
    /// Queues the frame.
    pub fn send(self, frame: Vec<u8>) {
        self.0.send(Outgoing::Frame(frame));
    }
}

impl FrameSender {
    /// Queues one binary message; waits while the queue is full.
    ///
    /// # Errors
    /// [`LinkClosed`] if the connection has ended.
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), LinkClosed> {
        self.0
            .send(Outgoing::Frame(frame))
            .await
            .map_err(|_| LinkClosed)
    }

    /// Queues one binary message if there is room.
    ///
    /// # Errors
    /// [`SendError`] if there is not.
    pub fn try_send(&self, frame: Vec<u8>) -> Result<(), SendError> {
        self.0
            .try_send(Outgoing::Frame(frame))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::Closed,
            })
    }

    /// Waits for room, so that a message can be made when it is certain to leave.
    ///
    /// # Errors
    /// [`LinkClosed`] if the connection has ended.
    ///
    /// # Cancel safety
    /// Safe; only the place in the line is lost.
    pub async fn reserve(&self) -> Result<Permit<'_>, LinkClosed> {
        self.0.reserve().await.map(Permit).map_err(|_| LinkClosed)
    }

    /// Closes after what is queued, with a code of the caller's.
    ///
    /// # Errors
    /// [`LinkClosed`] if the connection has ended.
    pub async fn close(&self, code: u16, reason: &str) -> Result<(), LinkClosed> {
        let reason = reason.to_owned();
        self.0
            .send(Outgoing::Close { code, reason })
            .await
            .map_err(|_| LinkClosed)
    }
}

/// Receives the binary messages of a pump.
#[derive(Debug)]
pub struct FrameReceiver(mpsc::Receiver<Vec<u8>>);

impl FrameReceiver {
    /// The next message; `None` when the connection has ended and all was read.
    ///
    /// # Cancel safety
    /// Safe; no message is lost.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.0.recv().await
    }
}

/// One connection and its two queues.
#[derive(Debug)]
pub struct Pump {
    connection: Connection,
    config: PumpConfig,
    outgoing: mpsc::Receiver<Outgoing>,
    incoming: mpsc::Sender<Vec<u8>>,
}

/// Why frames stopped.
enum End {
    /// We close, with this code.
    Close { code: u16, reason: String },
    /// The peer closes.
    Peer { code: u16, reason: String },
    /// Nothing can be said to the peer any more.
    Broken(String),
}

/// A value that the two halves of the pump take turns on. `std::cell::Cell` would do, but would keep the pump's
/// future from being `Send`, and a task set takes nothing else. The lock is never held across an await.
struct Cell<T>(Mutex<T>);

impl<T: Copy> Cell<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn get(&self) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// When something was last heard; shared by the two halves, which take turns on one task.
struct Heard {
    at: Cell<Instant>,
    /// A frame waits for its receiver, so the socket is not read and silence means nothing.
    blocked: Cell<bool>,
    pinged_at: Cell<Option<Instant>>,
}

impl Heard {
    /// Whether a ping went out and nothing came back since.
    fn is_pinged(&self) -> bool {
        self.pinged_at.get().is_some_and(|at| at > self.at.get())
    }
}

impl Pump {
    /// Prepares to pump `connection`.
    pub fn new(connection: Connection, config: PumpConfig) -> (Self, FrameSender, FrameReceiver) {
        let (out_tx, outgoing) = mpsc::channel(QUEUE);
        let (incoming, in_rx) = mpsc::channel(QUEUE);
        let pump = Self {
            connection,
            config,
            outgoing,
            incoming,
        };
        (pump, FrameSender(out_tx), FrameReceiver(in_rx))
    }

    /// Moves frames until the connection ends.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection without a close frame.
    pub async fn run(self) -> Closed {
        let Self {
            connection,
            config,
            mut outgoing,
            incoming,
        } = self;
        let socket = match connection.carrier {
            Carrier::Socket(socket) => *socket,
            #[cfg(feature = "polling")]
            Carrier::Poll(exchanger) => {
                let polling = super::poll::run(*exchanger, config, outgoing, incoming);
                // On the heap, so that a WebSocket does not carry the room for it.
                return Box::pin(polling).await;
            }
        };
        let heard = Heard {
            at: Cell::new(Instant::now()),
            blocked: Cell::new(false),
            pinged_at: Cell::new(None),
        };
        let (mut sink, mut stream) = socket.split();
        let end = {
            let read = read(&mut stream, &incoming, &heard);
            let write = write(&mut sink, &mut outgoing, config, &heard);
            tokio::pin!(read, write);
            tokio::select! {
                end = &mut read => end,
                end = &mut write => end,
            }
        };
        let closed = |by, code, reason: &str| Closed::new(by, code, reason);
        let socket = sink.reunite(stream);
        let deadline = Instant::now() + config.close_timeout;
        match (end, socket) {
            (End::Close { code, reason }, Ok(socket)) => {
                let us = closed(ClosedBy::Us, code, &reason);
                // The deadline is the point: whatever is unfinished then is dropped with the socket.
                _ = timeout_at(deadline, say_goodbye(socket, &us)).await;
                us
            }
            (End::Peer { code, reason }, Ok(mut socket)) => {
                // The answer is queued already. After it nothing follows in either direction.
                let answer = async {
                    socket.flush().await?;
                    socket.into_inner().shutdown().await.map_err(WsError::Io)
                };
                _ = timeout_at(deadline, answer).await;
                closed(ClosedBy::Peer, code, &reason)
            }
            (End::Broken(reason), _) => closed(ClosedBy::Failure, CODE_BROKEN, &reason),
            (_, Err(_)) => closed(ClosedBy::Failure, CODE_BROKEN, "halves do not match"),
        }
    }
}

async fn read(
    stream: &mut SplitStream<Socket>,
    incoming: &mpsc::Sender<Vec<u8>>,
    heard: &Heard,
) -> End {
    loop {
        let message = stream.next().await;
        heard.at.set(Instant::now());
        match message {
            Some(Ok(Message::Binary(bytes))) => {
                heard.blocked.set(true);
                if incoming.send(bytes.into()).await.is_err() {
                    return End::Close {
                        code: CODE_NORMAL,
                        reason: String::new(),
                    };
                }
                heard.blocked.set(false);
                heard.at.set(Instant::now());
            }
            // Pongs are the socket's own affair, and raw frames are never read.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Text(_))) => {
                return End::Close {
                    code: CODE_UNSUPPORTED,
                    reason: "text messages are not supported".to_owned(),
                };
            }
            Some(Ok(Message::Close(frame))) => {
                return match frame {
                    Some(frame) => End::Peer {
                        code: frame.code.into(),
                        reason: frame.reason.to_string(),
                    },
                    None => End::Peer {
                        code: CODE_NO_STATUS,
                        reason: String::new(),
                    },
                };
            }
            Some(Err(WsError::Capacity(error))) => {
                return End::Close {
                    code: CODE_TOO_LARGE,
                    reason: error.to_string(),
                };
            }
            Some(Err(error)) => return End::Broken(error.to_string()),
            None => return End::Broken("connection was dropped".to_owned()),
        }
    }
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    config: PumpConfig,
    heard: &Heard,
) -> End {
    loop {
        let message = tokio::select! {
            asked = outgoing.recv() => match asked {
                Some(Outgoing::Frame(frame)) => Message::Binary(frame.into()),
                Some(Outgoing::Close { code, reason }) => return End::Close { code, reason },
                None => return End::Close { code: CODE_NORMAL, reason: String::new() },
            },
            () = silent_for(config.ping_after, heard) => {
                if heard.is_pinged() {
                    return End::Broken("nothing was heard for two ping intervals".to_owned());
                }
                heard.pinged_at.set(Some(Instant::now()));
                Message::Ping(Vec::new().into())
            }
        };
        match timeout(config.write_timeout, sink.send(message)).await {
            Ok(Ok(())) => {}
            // What the peer said last explains more than the broken pipe; the reader finds it if it is there.
            Ok(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => {
                std::future::pending::<()>().await;
            }
            Ok(Err(error)) => return End::Broken(error.to_string()),
            Err(_) => return End::Broken("peer does not read".to_owned()),
        }
    }
}

/// Waits until nothing was heard for `span`, or for twice as long once a ping went out.
async fn silent_for(span: Duration, heard: &Heard) {
    if span.is_zero() {
        std::future::pending::<()>().await;
    }
    loop {
        let intervals = if heard.is_pinged() { 2 } else { 1 };
        let due = heard.at.get() + span.saturating_mul(intervals);
        if due <= Instant::now() {
            if !heard.blocked.get() {
                return;
            }
            heard.at.set(Instant::now());
        } else {
            sleep_until(due).await;
        }
    }
}

/// Sends the close frame, then reads up to the answer or the end of the stream: closing it over unread bytes would
/// reset the connection and could take our last frames with it.
async fn say_goodbye(mut socket: Socket, closed: &Closed) {
    let frame = CloseFrame {
        code: CloseCode::from(closed.code),
        reason: closed.reason.as_str().into(),
    };
    if socket.close(Some(frame)).await.is_err() {
        return;
    }
    let mut answered = false;
    while let Some(Ok(late)) = socket.next().await {
        if late.is_close() {
            // The library would wait for the peer to drop the stream, too.
            answered = true;
            break;
        }
    }
    let mut stream = socket.into_inner();
    if stream.shutdown().await.is_err() || answered {
        return;
    }
    let mut rest = [0_u8; 4096];
    while let Ok(1..) = stream.read(&mut rest).await {}
}
