//! TCP to a name: all its addresses, IPv6 and IPv4 raced against each other.
//!
//! Promises: the name is resolved anew at each attempt; families take turns, IPv6 first; the next address is tried when
//! one fails, or when it has not answered for a quarter of a second (RFC 8305), so that a dead route costs no more than
//! that; no more than [`ADDRESSES_MAX`] are tried. The first that connects is kept, the rest are dropped.
//! Must never: wait longer for one address than its share, or spawn.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::DialError;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// The lead of each address over the next.
const LEAD: Duration = Duration::from_millis(250);

/// Connects to whichever address of `host` answers first; each gets at most `limit`.
pub(super) async fn tcp(host: &str, port: u16, limit: Duration) -> Result<TcpStream, DialError> {
    let resolve = |source| DialError::Resolve {
        host: host.to_owned(),
        source,
    };
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(resolve)?;
    let addresses = in_turn(found);
    if addresses.is_empty() {
        return Err(resolve(io::Error::new(
            io::ErrorKind::NotFound,
            "no address",
        )));
    }
    let stream = race(&addresses, limit).await?;
    // Messages are small and whole; waiting to merge them only adds delay. Failing that costs nothing else.
    _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Families in turn, IPv6 first; within a family as the resolver sorted them.
fn in_turn(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut six, mut four): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv6);
    six.dedup();
    four.dedup();
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut out = Vec::new();
    while out.len() < ADDRESSES_MAX {
        let before = out.len();
        out.extend(six.next());
        out.extend(four.next());
        if out.len() == before {
            break;
        }
    }
    out.truncate(ADDRESSES_MAX);
    out
}

async fn race(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, DialError> {
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut last = None;
    running.extend(waiting.next().map(|address| one(address, limit)));
    while !running.is_empty() {
        let ended = tokio::select! {
            ended = running.next() => ended,
            () = sleep(LEAD), if waiting.len() > 0 => None,
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = Some(error),
            None => {}
        }
        // Either the present one has failed, or its lead is over.
        running.extend(waiting.next().map(|address| one(address, limit)));
    }
    Err(last.unwrap_or_else(|| DialError::Connect {
        place: "no address".to_owned(),
        source: io::ErrorKind::NotFound.into(),
    }))
}

async fn one(address: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let connected = timeout(limit, TcpStream::connect(address)).await;
    connected
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| DialError::Connect {
            place: address.to_string(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_there_is_an_end() {
        let found = ["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1", "[::1]:1", "[::2]:1"].map(address);
        let wanted = ["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "1.0.0.3:1"].map(address);
        assert_eq!(in_turn(found.into_iter()), wanted);
        let many = (1..=100).map(|last| SocketAddr::from(([10, 0, 0, last], 1)));
        assert_eq!(in_turn(many).len(), ADDRESSES_MAX);
        assert_eq!(in_turn([].into_iter()), []);
    }

    /// An address that answers nothing: its queue of connections is full.
    async fn black_hole() -> (TcpListener, VecDeque<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address("127.0.0.1:0")).unwrap();
        let listener = socket.listen(1).unwrap();
        let place = listener.local_addr().unwrap();
        let mut held = VecDeque::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(place)).await
        {
            held.push_back(stream.unwrap());
            assert!(held.len() < 16, "the queue has no end");
        }
        (listener, held, place)
    }

    async fn refusing() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_dead_route_costs_a_quarter_of_a_second() {
        let (_hole, _held, dead) = black_hole().await;
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let start = Instant::now();
        let stream = race(&[dead, live], LIMIT).await.unwrap();
        let took = start.elapsed();
        assert_eq!(stream.peer_addr().unwrap(), live);
        assert!(took >= LEAD && took < Duration::from_secs(5), "{took:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_followed_by_the_next_address_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let start = Instant::now();
        let stream = race(&[refusing().await, refusing().await, live], LIMIT).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), live);
        assert!(start.elapsed() < LEAD, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn an_address_that_never_answers_gets_its_share_only() {
        let (_hole, _held, dead) = black_hole().await;
        let share = Duration::from_millis(50);
        let error = race(&[dead], share).await.unwrap_err();
        assert_eq!(error.to_string(), format!("connect to {dead}"));
        let refused = refusing().await;
        let error = race(&[refused], LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), format!("connect to {refused}"));
    }
}
