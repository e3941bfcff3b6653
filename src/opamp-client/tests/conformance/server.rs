//! A server that does what it is told, WebSocket and HTTP on one port, written without the crate and without a
//! WebSocket library.
//!
//! Promises: nothing is answered, closed or accepted unless the scenario says so, but for pings; every message that
//! arrived is kept with its bytes; a second connection beside a living one is a violation.
//! Must never: decide whether the client behaved; [`super::run`] does.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use opamp_client::messages::AgentToServer;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::wire;

/// How long a connection that was replaced may take to show its end.
const GONE: Duration = Duration::from_secs(2);

const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const FINAL: u8 = 0x80;

/// How a client is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    WebSocket,
    Http,
}

/// One message that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// As the generated code reads it.
    pub(crate) message: AgentToServer,
    /// As `wire.rs` reads it.
    pub(crate) report: wire::Report,
    /// Protobuf bytes, header excluded.
    pub(crate) length: usize,
}

/// Head of an upgrade or of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    upgraded: bool,
    /// A request that has no answer yet.
    owes: bool,
    /// The client's close code, once it came.
    closed: Option<u16>,
}

/// The server. See the top of this file.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Option<TcpListener>,
    pub(crate) address: SocketAddr,
    pub(crate) wire: Wire,
    connection: Option<Connection>,
    /// Connections that were accepted so far.
    pub(crate) connections: usize,
    /// The head of each upgrade or request.
    pub(crate) heads: Vec<Head>,
    /// Every message, in order.
    pub(crate) log: Vec<Heard>,
    /// Which of them were requests that got no answer, or none that says they were taken.
    pub(crate) untaken: Vec<usize>,
    /// What no client may do.
    pub(crate) violations: Vec<String>,
    /// The code of the last close frame of the client.
    pub(crate) close_code: Option<u16>,
    /// Whether pings get an answer.
    pub(crate) pongs: bool,
    /// Pings that arrived.
    pub(crate) pings: usize,
    /// What the last pong carried.
    pub(crate) pong: Option<Vec<u8>>,
}

impl Server {
    pub(crate) async fn start(wire: Wire) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            listener: Some(listener),
            wire,
            connection: None,
            connections: 0,
            heads: Vec::new(),
            log: Vec::new(),
            untaken: Vec::new(),
            violations: Vec::new(),
            close_code: None,
            pongs: true,
            pings: 0,
            pong: None,
        }
    }

    pub(crate) fn url(&self) -> String {
        match self.wire {
            Wire::WebSocket => format!("ws://{}/v1/opamp", self.address),
            Wire::Http => format!("http://{}/v1/opamp", self.address),
        }
    }

    /// Refuses connections until [`Server::open`].
    pub(crate) fn shut(&mut self) {
        self.listener = None;
        self.cut();
    }

    /// Notes that the client has to make the last request again.
    pub(crate) fn untake(&mut self) {
        if self.wire == Wire::Http {
            self.untaken.extend(self.log.len().checked_sub(1));
        }
    }

    /// Accepts again, on the same port.
    pub(crate) fn open(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.listener = Some(socket.listen(16).unwrap());
    }

    /// The next message of the client; accepts a new connection when there is none. `None` when the client ended its
    /// connection.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        match self.wire {
            Wire::WebSocket => {
                if self.connection.is_none() {
                    self.upgrade().await;
                }
                self.frame().await
            }
            Wire::Http => self.request().await,
        }
    }

    /// Accepts a connection and upgrades it.
    pub(crate) async fn upgrade(&mut self) {
        let head = self.accept().await.expect("a request");
        let key = head.header("sec-websocket-key").unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.heads.push(head);
        self.write(answer.as_bytes()).await.unwrap();
        if let Some(connection) = &mut self.connection {
            connection.upgraded = true;
        }
    }

    /// Answers the next attempt, or the request that waits, with a status.
    pub(crate) async fn refuse(&mut self, status: u16, headers: &str) {
        let answer = format!(
            "HTTP/1.1 {status} Scripted\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        match self.wire {
            Wire::WebSocket => {
                let head = self.accept().await.expect("a request");
                self.heads.push(head);
            }
            Wire::Http => {
                if !self.owes() {
                    self.request().await.expect("a request");
                }
            }
        }
        self.write(answer.as_bytes()).await.unwrap();
        self.untake();
        self.connection = None;
    }

    pub(crate) fn owes(&self) -> bool {
        self.connection.as_ref().is_some_and(|one| one.owes)
    }

    /// Sends one message: a frame of a WebSocket, the answer to the request that waits.
    pub(crate) async fn say(&mut self, message: &[u8]) {
        match self.wire {
            Wire::WebSocket => {
                let mut payload = vec![0];
                payload.extend_from_slice(message);
                self.send(BINARY, &payload).await;
            }
            Wire::Http => self.answer(message).await,
        }
    }

    /// The body of an answer, whatever it is.
    pub(crate) async fn answer(&mut self, body: &[u8]) {
        assert!(self.owes(), "no request waits for an answer");
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.write(&[head.as_bytes(), body].concat()).await.unwrap();
        if let Some(connection) = &mut self.connection {
            connection.owes = false;
        }
    }

    /// Sends one whole frame around any payload.
    pub(crate) async fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.write(&frame(FINAL | opcode, payload)).await.unwrap();
    }

    /// Sends a binary message in fragments of `size` bytes, and the bytes of each in two writes.
    pub(crate) async fn send_in_pieces(&mut self, payload: &[u8], size: usize) {
        let pieces: Vec<_> = payload.chunks(size).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let opcode = if index == 0 { BINARY } else { CONTINUATION };
            let last = if index + 1 == pieces.len() { FINAL } else { 0 };
            let bytes = frame(last | opcode, piece);
            let (front, back) = bytes.split_at(1 + index % (bytes.len() - 1));
            for part in [front, back] {
                self.write(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Ends TCP without a word.
    pub(crate) fn cut(&mut self) {
        if self.owes() {
            self.untake();
        }
        self.connection = None;
    }

    /// Ends only our direction of TCP.
    pub(crate) async fn half_close(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.stream.shutdown().await.unwrap();
        }
    }

    /// Says goodbye with a code, then reads until the client has closed.
    pub(crate) async fn close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.send(CLOSE, &payload).await;
        while self.hear_here().await.is_some() {}
        self.connection = None;
    }

    /// As [`Server::hear`], but never accepts.
    pub(crate) async fn hear_here(&mut self) -> Option<Heard> {
        if self.connection.is_some() {
            self.frame().await
        } else {
            None
        }
    }

    /// Any bytes at all, onto the stream.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.connection {
            Some(connection) => connection.stream.write_all(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Accepts and reads one head.
    async fn accept(&mut self) -> io::Result<Head> {
        let listener = self.listener.as_ref().expect("an open server");
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        if let Some(mut old) = self.connection.take()
            && !is_gone(&mut old.stream).await
        {
            let number = self.connections;
            self.violations
                .push(format!("another connection while number {number} stands"));
        }
        self.connections += 1;
        self.connection = Some(Connection {
            stream,
            upgraded: false,
            owes: false,
            closed: None,
        });
        self.head().await
    }

    async fn head(&mut self) -> io::Result<Head> {
        let connection = self.connection.as_mut().expect("a connection");
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(connection.stream.read_u8().await?);
        }
        let text = String::from_utf8(bytes).unwrap();
        let mut lines = text.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Head { line, headers })
    }

    /// Reads frames up to a binary message.
    async fn frame(&mut self) -> Option<Heard> {
        loop {
            let connection = self.connection.as_mut()?;
            let Ok((opcode, payload)) = read_frame(&mut connection.stream).await else {
                self.connection = None;
                return None;
            };
            if connection.closed.is_some() {
                self.violations
                    .push(format!("opcode {opcode} after the close frame"));
            }
            match opcode {
                BINARY => return Some(self.note(&payload)),
                PING => {
                    self.pings += 1;
                    if self.pongs {
                        self.send(PONG, &payload).await;
                    }
                }
                PONG => self.pong = Some(payload),
                CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map(|bytes| u16::from_be_bytes(*bytes));
                    connection.closed = Some(code.unwrap_or(1005));
                    self.close_code = connection.closed;
                    // The answer may find the client gone.
                    self.write(&frame(FINAL | CLOSE, &payload)).await.ok();
                }
                other => {
                    self.violations.push(format!("a frame of opcode {other}"));
                }
            }
        }
    }

    /// Reads one request.
    async fn request(&mut self) -> Option<Heard> {
        assert!(!self.owes(), "the last request waits for its answer");
        let head = loop {
            if self.connection.is_none() {
                match self.accept().await {
                    Ok(head) => break head,
                    Err(_) => self.connection = None,
                }
            } else {
                // A client may keep a connection or come on a new one.
                let listener = self.listener.as_ref().expect("an open server");
                let stream = &self.connection.as_ref()?.stream;
                tokio::select! {
                    ready = stream.readable() => {
                        ready.unwrap();
                        match self.head().await {
                            Ok(head) => break head,
                            Err(_) => self.connection = None,
                        }
                    }
                    // Nothing is lost: `accept` takes it from the same queue.
                    ready = std::future::poll_fn(|context| listener.poll_accept(context)) => {
                        let (stream, _) = ready.unwrap();
                        let mut old = self.connection.take()?;
                        if !is_gone(&mut old.stream).await {
                            self.violations.push("two connections at a time".to_owned());
                        }
                        self.connections += 1;
                        self.connection = Some(Connection { stream, upgraded: false, owes: false, closed: None });
                    }
                }
            }
        };
        let length = head
            .header("content-length")
            .and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        let connection = self.connection.as_mut()?;
        connection.stream.read_exact(&mut body).await.ok()?;
        connection.owes = true;
        self.heads.push(head);
        Some(self.note(&body))
    }

    fn note(&mut self, bytes: &[u8]) -> Heard {
        let mut body = bytes;
        if self.wire == Wire::WebSocket {
            match bytes.split_first() {
                Some((0, rest)) => body = rest,
                _ => self
                    .violations
                    .push("no header of one zero byte".to_owned()),
            }
        }
        let report = wire::Report::read(body).unwrap_or_else(|error| {
            self.violations.push(error);
            wire::Report::default()
        });
        let heard = Heard {
            message: AgentToServer::decode(body).unwrap(),
            report,
            length: body.len(),
        };
        self.log.push(heard.clone());
        heard
    }

    /// Connections that the client made and nobody accepted.
    pub(crate) async fn knocks(&self) -> usize {
        let mut count = 0;
        if let Some(listener) = &self.listener {
            while timeout(Duration::ZERO, listener.accept()).await.is_ok() {
                count += 1;
            }
        }
        count
    }
}

/// One frame of a server: unmasked.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => bytes.push(u8::try_from(length).unwrap()),
        Ok(length) => {
            bytes.push(126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(127);
            bytes.extend(u64::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// One frame of the client, unmasked. Ours are never fragmented.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let first = stream.read_u8().await?;
    let second = stream.read_u8().await?;
    if first & FINAL == 0 || second & 0x80 == 0 {
        return Err(io::Error::other("a fragment, or a frame without mask"));
    }
    let length = match second & 0x7F {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        length => u64::from(length),
    };
    let mask = stream.read_u32().await?.to_be_bytes();
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok((first & 0x0F, payload))
}

/// Whether the client has ended its direction; what it said before is read over.
async fn is_gone(stream: &mut TcpStream) -> bool {
    let mut rest = [0; 4096];
    loop {
        match timeout(GONE, stream.read(&mut rest)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return true,
            Err(_) => return false,
        }
    }
}
