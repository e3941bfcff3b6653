//! Transport against real sockets on loopback. The other side is a WebSocket library without our code, or raw bytes.

mod client;
mod dial;
#[cfg(feature = "gzip")]
mod poll;
mod proxies;
mod pump;
mod secure;
#[cfg(feature = "csr")]
mod settings;
mod tls;

use std::future::Future;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// Far longer than anything here takes; a test that hangs fails.
async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

async fn listen() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    (listener, url.parse().unwrap())
}

/// Accepts one connection with the library alone.
async fn plain_server(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    tokio_tungstenite::accept_async(stream).await.unwrap()
}

/// Reads a request head and answers with `answer`, then closes.
async fn answer_once(listener: &TcpListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

/// A dialled connection and the library's end of it.
async fn pair() -> (Connection, WebSocketStream<TcpStream>) {
    let (listener, target) = listen().await;
    let options = DialOptions {
        max_message: 1024,
        ..DialOptions::default()
    };
    let (ours, theirs) =
        in_time(async { tokio::join!(dial(&target, options), plain_server(&listener)) }).await;
    (ours.unwrap(), theirs)
}
