//! One side of `benches/client.sh`: the same orders as `tests/peers/opampclient` takes, carried out by this crate.
//!
//! `codec`; `idle URL COUNT BEAT_SECONDS`. Each prints one line of JSON.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for numbers: it fails by panicking and says them on standard output"
)]

use std::alloc::System;
use std::hint::black_box;
use std::io::Read as _;
use std::time::Duration;

use opamp_client::frame;
use opamp_client::messages::{
    AgentCapabilities, AgentConfigFile, AgentConfigMap, AgentDescription, AgentRemoteConfig,
    AgentToServer, ComponentHealth, EffectiveConfig, KeyValue, ServerToAgent,
};
use opamp_client::transport::{Change, Client, ClientConfig, ClientEvent, ClientHandle};
use opamp_client::{FrameRules, Session, SessionConfig};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often a small operation is repeated.
const ROUNDS: u64 = 20_000;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match args[..] {
        ["codec"] => println!("{}", codec()),
        ["idle", url, count, beat] => {
            let beat = Duration::from_secs(beat.parse().unwrap());
            runtime.block_on(idle(url, count.parse().unwrap(), beat));
        }
        ref other => panic!("not understood: {other:?}"),
    }
}

fn description() -> AgentDescription {
    AgentDescription {
        identifying_attributes: vec![
            KeyValue::text("service.name", "bench"),
            KeyValue::text("service.version", "1.0.0"),
            KeyValue::text("service.instance.id", "bench-0"),
        ],
        non_identifying_attributes: vec![
            KeyValue::text("os.type", "linux"),
            KeyValue::text("host.name", "bench-host"),
            KeyValue::text("host.arch", "amd64"),
        ],
    }
}

fn health(status: &str) -> ComponentHealth {
    ComponentHealth {
        healthy: true,
        start_time_unix_nano: 1,
        status: status.to_owned(),
        ..ComponentHealth::default()
    }
}

fn files() -> AgentConfigMap {
    let file = AgentConfigFile {
        body: vec![b'x'; 4096],
        content_type: "text/yaml".to_owned(),
    };
    AgentConfigMap {
        config_map: [(String::new(), file)].into(),
    }
}

/// Nanoseconds and allocations of one call.
fn measured(mut call: impl FnMut()) -> (u64, u64) {
    (0..ROUNDS / 10).for_each(|_| call());
    let (before, start) = (HEAP.stats(), Instant::now());
    (0..ROUNDS).for_each(|_| call());
    let spent = u64::try_from(start.elapsed().as_nanos()).unwrap();
    let after = HEAP.stats();
    let made = after.allocations + after.reallocations - before.allocations - before.reallocations;
    (spent / ROUNDS, u64::try_from(made).unwrap() / ROUNDS)
}

fn codec() -> String {
    let report = AgentToServer {
        instance_uid: vec![0; 16],
        sequence_num: 7,
        capabilities: 0xFFFF,
        agent_description: Some(description()),
        health: Some(health("up")),
        effective_config: Some(EffectiveConfig {
            config_map: Some(files()),
        }),
        ..AgentToServer::default()
    };
    let offer = ServerToAgent {
        instance_uid: vec![1; 16],
        remote_config: Some(AgentRemoteConfig {
            config: Some(files()),
            config_hash: vec![0; 32],
        }),
        ..ServerToAgent::default()
    };
    let limit = frame::MAX_MESSAGE_DEFAULT;
    let encode = measured(|| {
        black_box(frame::encode(black_box(&report), limit).unwrap());
    });
    let bytes = frame::encode(&offer, limit).unwrap();
    let decode = measured(|| {
        let message: ServerToAgent =
            frame::decode(black_box(&bytes), FrameRules::default()).unwrap();
        black_box(message);
    });
    // An answer is heard, the state changes, a report leaves.
    let mut session = Session::new(SessionConfig::new([1; 16], 0xFFFF)).unwrap();
    session.handle_connected(Duration::ZERO);
    let ack = frame::encode(
        &ServerToAgent {
            instance_uid: vec![1; 16],
            ..ServerToAgent::default()
        },
        limit,
    )
    .unwrap();
    let mut flip = false;
    let mut now = Duration::ZERO;
    let step = measured(|| {
        flip = !flip;
        now += Duration::from_secs(1);
        session.set_health(health(if flip { "up" } else { "down" }));
        let sent = session.poll_transmit(now);
        assert!(black_box(sent).is_some());
        session.handle_frame(now, black_box(&ack)).unwrap();
        while session.poll_event().is_some() {}
    });
    format!(
        "{{\"encode_ns\":{},\"encode_allocations\":{},\"decode_ns\":{},\"decode_allocations\":{},\
         \"step_ns\":{},\"step_allocations\":{}}}",
        encode.0, encode.1, decode.0, decode.1, step.0, step.1
    )
}

fn client(url: &str, index: u64, beat: Duration) -> (Client, ClientHandle) {
    let mut uid = [0x70; 16];
    uid[0] = 1;
    uid[8..].copy_from_slice(&index.to_be_bytes());
    let capabilities =
        AgentCapabilities::ReportsHealth.bit() | AgentCapabilities::ReportsHeartbeat.bit();
    let session = SessionConfig {
        heartbeat: beat,
        ..SessionConfig::new(uid, capabilities)
    };
    Client::new(ClientConfig::new(session, url.parse().unwrap(), index)).unwrap()
}

async fn hello(handle: &ClientHandle) {
    handle
        .set(Change::Description(description()))
        .await
        .unwrap();
    handle.set(Change::Health(health("up"))).await.unwrap();
}

/// Clients that say hello and beat until standard input closes.
async fn idle(url: &str, count: u64, beat: Duration) {
    let mut clients = JoinSet::new();
    let (tell, mut told) = tokio::sync::mpsc::channel(64);
    for index in 0..count {
        let (client, mut handle) = client(url, index, beat);
        let tell = tell.clone();
        clients.spawn(async move {
            let drive = async {
                hello(&handle).await;
                while let Some(event) = handle.next_event().await {
                    if matches!(event, ClientEvent::Connected) {
                        tell.send(()).await.unwrap();
                    }
                }
            };
            tokio::join!(client.run(), drive);
        });
    }
    for _ in 0..count {
        told.recv().await.unwrap();
    }
    println!("{{\"connected\":{count}}}");
    // Until standard input closes; the wait has a thread of its own.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
    clients.abort_all();
}
