//! What an hour of rest costs on the wire: real frames on a Unix socket, the hour passed by a paused clock.

use std::time::Duration;

use opamp_client::messages::AGENT_CAPABILITIES_ALL;
use opamp_client::transport::{Change, Client, ClientConfig, Target};
use opamp_client::{Session, SessionConfig};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::run::{UID, ack};
use crate::server::{BINARY, CLOSE, FINAL, PING, PONG, frame, read_frame};
use crate::wire;

/// What one connection carried after its upgrade.
#[derive(Debug, Default)]
struct Carried {
    messages: usize,
    pings: usize,
    up: usize,
    down: usize,
}

/// Serves one connection: every message is acknowledged, every ping answered.
async fn serve(mut stream: UnixStream, hour: Instant, stop: impl AsyncFn()) -> Carried {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let text = String::from_utf8(head).unwrap();
    let key = text
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap();
    let accept = derive_accept_key(key.trim().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let ack = [&[0][..], &ack().encode_to_vec()].concat();
    let mut carried = Carried::default();
    let mut stopped = false;
    loop {
        let (opcode, payload) = read_frame(&mut stream).await.unwrap();
        if Instant::now() > hour && !stopped {
            stopped = true;
            stop().await;
            continue;
        }
        let answer = match opcode {
            BINARY => {
                wire::Report::read(&payload[1..]).unwrap();
                carried.messages += usize::from(!stopped);
                frame(FINAL | BINARY, &ack)
            }
            PING => {
                carried.pings += 1;
                frame(FINAL | PONG, &payload)
            }
            CLOSE => return carried,
            other => panic!("opcode {other}"),
        };
        if stopped {
            continue;
        }
        // Two bytes of head, four of mask: what rest needs is short.
        carried.up += 6 + payload.len();
        carried.down += answer.len();
        stream.write_all(&answer).await.unwrap();
    }
}

// the first report and a beat each thirty seconds, no pings beside them.
#[tokio::test(start_paused = true)]
async fn an_hour_of_rest_is_a_hundred_and_twenty_small_messages() {
    let directory = std::env::temp_dir().join(format!("opamp-client-idle-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let session = SessionConfig::new(UID, AGENT_CAPABILITIES_ALL);
    assert_eq!(
        Session::new(session).unwrap().heartbeat(),
        Duration::from_secs(30)
    );
    let (client, handle) =
        Client::new(ClientConfig::new(session, Target::unix(&path).unwrap(), 1)).unwrap();
    // The clock of the runtime counts in whole milliseconds, upwards.
    let hour = Instant::now() + Duration::from_hours(1) + Duration::from_secs(1);
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, hour, async || {
            handle.set(Change::Stop).await.unwrap();
        })
        .await
    };
    let (carried, ()) = tokio::join!(server, client.run());
    std::fs::remove_dir_all(&directory).unwrap();
    println!("an idle hour: {carried:?}");
    assert_eq!((carried.messages, carried.pings), (121, 0));
    assert!(
        carried.up <= 121 * 40 && carried.down <= 121 * 24,
        "{carried:?}"
    );
}
