//! Given a Collector with a committed config,
//! when offers come in numbers, or are what went wrong in the field before,
//! then the newest is what runs, nothing is left behind by the others, and what is wrong is refused or undone on every
//! host by itself.

use std::fs;
use std::time::{Duration, Instant};

use super::bench::{Bench, Reload, Supervisor, own_form};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;

in_both_modes!(fifty_offers_in_ten_seconds_leave_the_newest_and_nothing_else);
on_both_servers!(config_of_twice_the_size_is_taken_and_a_dangling_reference_is_not);

fn settings(reload: Reload) -> String {
    let apply = "probation: 1s, proof_timeout: 30s";
    own_form(reload, apply, "    restart: {initial_delay: 1s}\n")
}

/// What a process holds: descriptors, threads, children, kilobytes in memory.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    children: usize,
    resident: u64,
}

fn held(pid: u32) -> Held {
    let count = |path: String| fs::read_dir(path).unwrap().count();
    let text = |path: String| fs::read_to_string(path).unwrap();
    let status = text(format!("/proc/{pid}/status"));
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap().trim().trim_end_matches(" kB");
    let children = text(format!("/proc/{pid}/task/{pid}/children"));
    Held {
        descriptors: count(format!("/proc/{pid}/fd")),
        children: children.split_whitespace().count(),
        resident: resident.parse().unwrap(),
    }
}

fn committed(supervisor: &Supervisor, hash: &str) {
    supervisor.until("the offer committed", |status| {
        status["phase"] == "committed"
            && status["current"]["offer"] == hash
            && status["current"]["id"] == status["last_good"]
            && status["healthy"] == true
    });
}

#[expect(clippy::print_stdout, reason = "what was measured is for people")]
fn fifty_offers_in_ten_seconds_leave_the_newest_and_nothing_else(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run_text(&settings(reload));
    let uid = bench.connected(&supervisor);
    // One whole rollout before the count, so that what is made once is made.
    let first = bench.push(&uid, &bench.pipeline("first.json"));
    committed(&supervisor, &first);
    let second = bench.push(&uid, &bench.pipeline("second.json"));
    committed(&supervisor, &second);
    let (before, said) = (held(supervisor.process()), supervisor.log().len());

    let begun = Instant::now();
    let mut newest = String::new();
    for number in 0..50_u32 {
        newest = bench.push(&uid, &bench.pipeline(&format!("{number}.json")));
        let due = begun + Duration::from_millis(200) * (number + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    bench.status(&uid, &newest, "APPLIED");
    committed(&supervisor, &newest);
    bench.flows("49.json");
    let status = supervisor.status().unwrap();
    assert_eq!(status["remote"]["offer"], newest.as_str());
    assert_eq!(status["crashes"], 0, "{status:#}");
    assert_eq!(status["rejected"], 0);
    supervisor.until("few revisions", |status| {
        status["revisions"].as_array().unwrap().len() <= 11
    });

    let after = held(supervisor.process());
    println!("50 offers, {reload:?}: {before:?} became {after:?}");
    assert_eq!(after.children, 1, "one Collector and nothing else");
    assert!(
        after.descriptors <= before.descriptors + 4,
        "{before:?} {after:?}"
    );
    assert!(
        after.resident <= before.resident + 4 * 1024,
        "{before:?} {after:?}"
    );
    // Lines of the supervisor alone; each offer has its phases at most.
    let lines = supervisor.log().split_off(said.min(supervisor.log().len()));
    let ours = lines.iter().filter(|line| line.contains("agent=")).count();
    assert!(ours <= 50 * 16, "{ours} lines for 50 offers");
    let none = fs::read_dir(bench.path("state/agents/collector/revisions")).unwrap();
    for entry in none.flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(!name.starts_with('.'), "{name} is left");
    }
}

/// The accident of opampsupervisor's #50153: a config grew from 28 089 to 29 039 bytes and named what it no longer
/// had; that was accepted, took every listener down, and took the place of the last one that worked.
fn config_of_twice_the_size_is_taken_and_a_dangling_reference_is_not(kind: Kind) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run_text(&settings(Reload::Restart));
    let uid = bench.connected(&supervisor);
    let sized = |out: &str, bytes: usize| {
        let mut text = bench.pipeline(out);
        while text.len() < bytes {
            let left = bytes - text.len();
            let line = "# ".to_owned() + &"x".repeat(left.saturating_sub(3).min(77)) + "\n";
            text.push_str(&line[line.len() - line.len().min(left)..]);
        }
        assert_eq!(text.len(), bytes);
        text
    };
    let good = bench.push(&uid, &sized("good.json", 28_089));
    bench.status(&uid, &good, "APPLIED");
    committed(&supervisor, &good);
    let pid = supervisor.healthy();

    let dangling = sized("bad.json", 29_039).replacen("exporters: [file]", "exporters: [flie]", 1);
    assert_eq!(dangling.len(), 29_039);
    let bad = bench.push(&uid, &dangling);
    let words = bench.status(&uid, &bad, "FAILED");
    assert!(words.contains("flie"), "{words}");
    assert_eq!(supervisor.healthy(), pid, "no listener went down");
    let status = supervisor.status().unwrap();
    assert_eq!(status["current"]["offer"], good.as_str());
    assert_eq!(status["current"]["id"], status["last_good"]);
    bench.flows("good.json");

    let double = bench.push(&uid, &sized("double.json", 2 * 28_089));
    bench.status(&uid, &double, "APPLIED");
    bench.flows("double.json");
}

/// The same bad config on every host of a fleet, which the validator does not see through.
#[test]
fn config_that_crash_loops_a_whole_fleet_is_undone_on_every_host() {
    const HOSTS: usize = 4;
    let mut bench = Bench::new(Kind::OpampGo);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = settings(Reload::Restart);
    let fleet: Vec<Supervisor> = (0..HOSTS)
        .map(|host| bench.run_beside(&format!("host{host}"), &text))
        .collect();
    let uids: Vec<String> = fleet.iter().map(|it| bench.connected(it)).collect();
    for (host, uid) in uids.iter().enumerate() {
        let good = bench.push(uid, &bench.pipeline(&format!("{host}.json")));
        bench.status(uid, &good, "APPLIED");
    }
    let restarts = |it: &Supervisor| it.status().unwrap()["restarts"].as_u64().unwrap();
    let before: Vec<u64> = fleet.iter().map(restarts).collect();

    let bad = format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
exporters: {{debug: {{}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [debug]}}}}
"
    );
    let hashes: Vec<String> = uids.iter().map(|uid| bench.push(uid, &bad)).collect();
    for (uid, hash) in uids.iter().zip(&hashes) {
        let words = bench.status(uid, hash, "FAILED");
        assert!(words.contains("address already in use"), "{words}");
    }
    for (host, it) in fleet.iter().enumerate() {
        it.healthy();
        bench.flows(&format!("{host}.json"));
        let status = it.status().unwrap();
        assert_eq!(status["phase"], "rolled back");
        assert_eq!(status["rejected"], 1);
        // One that is bad, perhaps a second try of it, one that is good: not a storm.
        let tries = restarts(it) - before[host];
        assert!(tries <= 6, "host {host}: {tries} restarts");
        assert_eq!(
            status["counters"]["connects"], 1,
            "host {host} hammers the server"
        );
    }
    // And the same content again is answered from memory, everywhere.
    for (uid, it) in uids.iter().zip(&fleet) {
        let pid = it.healthy();
        let again = "0123456789abcdef";
        bench
            .server()
            .push(uid, &[("config.yaml", bad.as_str())], Some(again));
        let words = bench.status(uid, again, "FAILED");
        assert!(words.starts_with("rejected before"), "{words}");
        assert_eq!(it.healthy(), pid);
    }
}
