//! Given a thousand clients in one process and a real server on loopback, when they all connect at once, when the
//! server dies and comes back, and when they leave, then each is there again and nothing is left behind.
//!
//! Counts are asserted: connections, attempts, descriptors, tasks, bytes of the heap. Times are printed. It is a
//! program of its own because it counts the descriptors and the heap of the whole process. `OPAMP_SOAK_CLIENTS` and
//! `OPAMP_SOAK_ROUNDS` (restarts of the server) make it longer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

#[expect(
    dead_code,
    reason = "shared with the tests of interoperation, which ask more"
)]
#[path = "../interop/peer.rs"]
mod peer;

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opamp_client::messages::{AgentCapabilities, AgentDescription, ComponentHealth, KeyValue};
use opamp_client::transport::{Change, Client, ClientConfig, ClientEvent, ClientHandle};
use opamp_client::{BackoffConfig, SessionConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use peer::Peer;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// At rest, without TLS: session, pump, socket buffers of ours, queues.
const HEAP_PER_CLIENT_MAX: usize = 40 * 1024;

/// The longest wait for all of them; far more than the jitter window.
const PATIENCE: Duration = Duration::from_secs(50);

/// How much later than its delay a client may be back: handshakes of all of them on a machine with two cores.
const SLACK: Duration = Duration::from_secs(20);

/// What the clients have lived through, all together.
#[derive(Debug, Default)]
struct Seen {
    connected: AtomicUsize,
    lost: AtomicUsize,
    failed: AtomicUsize,
    /// The longest delay that any of them was given, in milliseconds.
    longest_ms: AtomicUsize,
}

impl Seen {
    fn note(&self, event: &ClientEvent) {
        let (count, delay) = match event {
            ClientEvent::Connected => (&self.connected, Duration::ZERO),
            ClientEvent::Disconnected { retry_in, .. } => (&self.lost, *retry_in),
            ClientEvent::DialFailed { retry_in, .. } => (&self.failed, *retry_in),
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let delay = usize::try_from(delay.as_millis()).unwrap();
        self.longest_ms.fetch_max(delay, Ordering::Relaxed);
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn heap() -> usize {
    let stats = HEAP.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// Memory that is only ours, as the kernel counts it.
fn private() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let kib = |line: &str| {
        line.split_whitespace()
            .nth(1)
            .and_then(|text| text.parse::<usize>().ok())
    };
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    lines.filter_map(kib).sum::<usize>() * 1024
}

/// A description as agents have it, and a name of its own.
fn config(url: &str, index: u64) -> ClientConfig {
    let mut uid = [0x70; 16];
    uid[8..].copy_from_slice(&index.to_be_bytes());
    uid[0] = 1;
    let capabilities =
        AgentCapabilities::ReportsHealth.bit() | AgentCapabilities::ReportsHeartbeat.bit();
    ClientConfig::new(
        SessionConfig::new(uid, capabilities),
        url.parse().unwrap(),
        index,
    )
}

async fn describe(handle: &ClientHandle) {
    let description = AgentDescription {
        identifying_attributes: vec![KeyValue::text("service.name", "soak")],
        non_identifying_attributes: vec![KeyValue::text("os.type", "linux")],
    };
    handle.set(Change::Description(description)).await.unwrap();
    let health = ComponentHealth {
        healthy: true,
        ..ComponentHealth::default()
    };
    handle.set(Change::Health(health)).await.unwrap();
}

/// Waits until a count is reached, and says how long that took.
async fn until(what: &str, done: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}");
        sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

/// How many agents the server holds a connection of, each described.
async fn present(server: &Peer) -> usize {
    let agents = server.get("/agents").await;
    let there =
        |agent: &&serde_json::Value| agent["connected"] == true && agent["description"].is_object();
    agents.as_object().unwrap().values().filter(there).count()
}

/// How many agents have said goodbye.
async fn goodbyes(server: &Peer) -> usize {
    let agents = server.get("/agents").await;
    let gone = |agent: &&serde_json::Value| agent["agent_disconnect"] == true;
    agents.as_object().unwrap().values().filter(gone).count()
}

/// Nobody was told to wait longer than the back-off may, and all are back when those who waited longest must be.
fn back_in_time(back: Duration, longest: Duration) {
    let max = BackoffConfig::default().max.mul_f64(1.5);
    assert!(longest <= max, "a delay of {longest:?}");
    assert!(
        back <= longest + SLACK,
        "all back after {back:?}, the longest delay was {longest:?}"
    );
}

async fn until_present(server: &Peer, count: usize) {
    let start = Instant::now();
    loop {
        let there = present(server).await;
        if there == count {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{there} of {count} are there");
        sleep(Duration::from_millis(50)).await;
    }
}

//
#[tokio::test]
#[ignore = "needs the server that tests/peers/build.sh builds"]
async fn a_thousand_clients_outlive_their_server_and_leave_nothing() {
    let count = number("OPAMP_SOAK_CLIENTS", 1000);
    let rounds = number("OPAMP_SOAK_ROUNDS", 1);
    // One descriptor each here, one each there, and what both need anyway.
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let wanted = u64::try_from(count).unwrap() + 100;
    assert!(
        limit >= wanted,
        "{limit} descriptors are allowed, {wanted} are needed"
    );

    let mut server = Peer::opamp_go(0);
    let (files, bytes, pages) = (descriptors(), heap(), private());
    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for index in 0..u64::try_from(count).unwrap() {
        let (client, mut handle) = Client::new(config(&server.url("ws"), index)).unwrap();
        let (seen, mut stopped) = (Arc::clone(&seen), stopped.clone());
        clients.spawn(async move {
            let mut leaving = false;
            let drive = async {
                describe(&handle).await;
                loop {
                    tokio::select! {
                        event = handle.next_event() => match event {
                            Some(event) => seen.note(&event),
                            None => return,
                        },
                        _ = stopped.changed(), if !leaving => {
                            leaving = true;
                            handle.set(Change::Stop).await.unwrap();
                        }
                    }
                }
            };
            // The same task: a client spawns none.
            tokio::join!(client.run(), drive);
        });
    }
    let all = |of: &AtomicUsize, times: usize| of.load(Ordering::Relaxed) == count * times;
    let storm = until("all are connected", || all(&seen.connected, 1)).await;
    until_present(&server, count).await;
    assert_eq!(
        seen.failed.load(Ordering::Relaxed),
        0,
        "a storm on loopback refuses nobody"
    );
    let heap_each = heap().saturating_sub(bytes) / count;
    let pages_each = private().saturating_sub(pages) / count;
    println!(
        "{count} clients connected in {} ms; each holds {} KiB of heap, {} KiB of memory",
        storm.as_millis(),
        heap_each.div_ceil(1024),
        pages_each.div_ceil(1024)
    );
    assert!(
        heap_each <= HEAP_PER_CLIENT_MAX,
        "{heap_each} bytes of heap for each"
    );
    assert_eq!(descriptors() - files, count, "one socket each");

    for round in 1..=rounds {
        let port = server.port;
        server.kill();
        until("all have noticed", || all(&seen.lost, round)).await;
        let back_at = Instant::now();
        server = Peer::opamp_go(port);
        until("all are back", || all(&seen.connected, round + 1)).await;
        let back = back_at.elapsed();
        until_present(&server, count).await;
        let failed = seen.failed.swap(0, Ordering::Relaxed);
        let longest = seen.longest_ms.swap(0, Ordering::Relaxed);
        println!(
            "restart {round}: all back {} ms after the server, {failed} attempts in vain, longest delay {longest} ms",
            back.as_millis()
        );
        back_in_time(back, Duration::from_millis(longest.try_into().unwrap()));
        // Half a second, give or take half of it, grows by half with each attempt in vain: however long the server
        // was away, nobody tried more often than that.
        assert!(failed <= count * 8, "{failed} attempts in vain");
        assert_eq!(
            descriptors() - files,
            count,
            "one socket each, and none of the old ones"
        );
    }
    let grown = heap().saturating_sub(bytes) / count;
    assert!(
        grown <= HEAP_PER_CLIENT_MAX,
        "{grown} bytes of heap for each after the restarts"
    );

    stop.send(true).unwrap();
    let leaving = Instant::now();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
        assert!(leaving.elapsed() < PATIENCE, "they do not leave");
    }
    assert_eq!(goodbyes(&server).await, count, "each has said goodbye");
    drop(stop);
    assert_eq!(descriptors(), files, "no descriptor is left");
    let left = heap().saturating_sub(bytes);
    println!("after all have left {left} bytes of heap remain");
    assert!(left <= 256 * 1024, "{left} bytes of heap remain");
}
