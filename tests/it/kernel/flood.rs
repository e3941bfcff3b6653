//! More events than there is room for.

use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;

use super::rig::{Plane, is};

/// Refused connections of the flood; a ring of 64 KiB holds fewer than five hundred.
const REFUSED: usize = 5000;

/// Given a ring of 64 KiB whose reader is frozen,
/// when five thousand connections are refused and it may go on,
/// then delivered and counted losses are together what the kernel saw, in the books as in the stream.
#[test]
fn a_flood_is_accounted_to_the_last_event() {
    let mut plane = Plane::start("events: [tcp], ring: 64KiB");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = holder.local_addr().unwrap();
    drop(holder);
    plane.signal(Signal::SIGSTOP);
    for _ in 0..REFUSED {
        TcpStream::connect(door).unwrap_err();
    }
    plane.signal(Signal::SIGCONT);
    let lost = |plane: &Plane| -> u64 {
        let gaps = plane.events("adjutant.gap", |gap| {
            gap["adjutant.gap.event"] == "tcp.connect_failed"
        });
        gaps.iter()
            .map(|gap| {
                assert_eq!(
                    gap["attributes"]["adjutant.gap.reason"], "ring_full",
                    "{gap}"
                );
                gap["attributes"]["adjutant.gap.count"].as_u64().unwrap()
            })
            .sum()
    };
    plane.record("adjutant.gap", |gap| {
        gap["adjutant.gap.event"] == "tcp.connect_failed"
    });
    // It goes on after the flood.
    let after = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    TcpStream::connect(after).unwrap_err();
    plane.event("tcp.connect_failed", |event| {
        is(event, "network.peer.port", after.port())
    });
    assert_eq!(plane.stop().code(), Some(0));

    let log = plane.log();
    let (seen, said_lost) = counted(&log, "tcp.connect_failed");
    let told = plane.events("tcp.connect_failed", |_| true).len() as u64;
    assert_eq!(told + lost(&plane), seen, "{log}");
    assert_eq!(lost(&plane), said_lost, "{log}");
    let ours = plane.events("tcp.connect_failed", |event| {
        is(event, "network.peer.port", door.port())
    });
    let (ours, all) = (ours.len() as u64, REFUSED as u64);
    assert!(
        said_lost > all / 2,
        "the ring was too large for this test: {log}"
    );
    assert!(
        ours > 0 && ours + said_lost >= all,
        "{ours} told, {said_lost} lost"
    );
    assert!(log.contains("\"closed\":true"), "{log}");
    let books = log
        .lines()
        .find(|line| line.contains("source stopped") && line.contains("\"k\""))
        .unwrap();
    assert!(books.contains("(ring_full "), "{books}");
}

/// What the programs counted of one kind, from the last words of the source.
fn counted(log: &str, name: &str) -> (u64, u64) {
    let line = log
        .lines()
        .find(|line| line.contains("kernel programs detached"))
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let events = line["events"].as_str().unwrap();
    let of = events
        .split(", ")
        .find_map(|one| one.strip_prefix(name))
        .unwrap();
    let numbers: Vec<u64> = of.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

/// Given a table of 16 connections,
/// when thirty stand at the same time,
/// then those without a place are counted in a gap and the others are told to their end.
#[test]
fn connections_without_a_place_are_counted() {
    let plane = Plane::start("events: [tcp], max_connections: 16");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let ends: Vec<_> = (0..30)
        .map(|_| (TcpStream::connect(at).unwrap(), listener.accept().unwrap()))
        .collect();
    let gap = plane.event("adjutant.gap", |gap| {
        gap["adjutant.gap.reason"] == "connections_full"
    });
    assert_eq!(gap["adjutant.gap.event"], "tcp.close");
    assert!(gap["adjutant.gap.count"].as_u64().unwrap() >= 1, "{gap}");
    drop(ends);
    let next = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = next.local_addr().unwrap().port();
    // Others may take the places that are free again; it is not long until one is left.
    super::rig::eventually("a connection that is followed", || {
        drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
        let found = plane.events("tcp.close", |event| is(event, "network.peer.port", port));
        if found.is_empty() {
            Err("none yet".to_owned())
        } else {
            Ok(())
        }
    });
}
