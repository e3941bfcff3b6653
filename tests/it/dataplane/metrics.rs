//! Given a data plane under `adjutant run` and a real VictoriaMetrics,
//! when configs are pushed,
//! then host metrics are stored at the pushed interval, by the same process, with one HUP per promotion.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::rig::{Rig, Victoria, eventually};

const METRIC: &str = "system_memory_limit_bytes";

fn host_metrics(interval: &str, victoria: &Victoria) -> String {
    format!(
        "sources: {{host: {{kind: host_metrics, interval: {interval}}}}}
uploads: {{vm: {{kind: victoria_metrics, endpoint: \"http://{}\", from: [host], interval: 200ms}}}}
",
        victoria.at
    )
}

/// The middle one of the times between neighbours: one late reading on a busy machine does not move it.
fn usual_gap(times: &[u64]) -> u64 {
    let mut gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    gaps[gaps.len() / 2]
}

#[test]
fn host_metrics_can_be_queried_within_two_intervals_of_a_push() {
    let victoria = Victoria::start();
    let rig = Rig::own("probation: 1s");
    let interval = Duration::from_secs(10);
    let pushed = Instant::now();
    rig.offer("collect.yaml", &host_metrics("10s", &victoria));
    let queries = [
        "system_cpu_time_seconds_total",
        METRIC,
        "system_network_io_bytes_total",
    ];
    for metric in queries {
        eventually(metric, || {
            let body = victoria.get(&format!("/api/v1/query?query={metric}"))?;
            let stored = body.contains("\"value\":[") && body.contains("\"host_name\":");
            if stored { Ok(()) } else { Err(body) }
        });
    }
    let took = pushed.elapsed();
    assert!(took < interval * 2, "{took:?}");
    let verdict = rig.verdict("host metrics");
    assert_eq!(verdict["status"], "APPLIED", "{verdict}");
}

#[test]
fn a_pushed_interval_shows_in_the_times_of_the_stored_samples() {
    let victoria = Victoria::start();
    let rig = Rig::own("probation: 1s");
    let samples = |from: u64, count: usize| {
        eventually("samples", || {
            let mut times = victoria.times(METRIC)?;
            times.retain(|time| *time > from);
            if times.len() >= count {
                Ok(times)
            } else {
                Err(format!("{times:?}"))
            }
        })
    };
    let verdict = rig.push("collect.yaml", &host_metrics("3s", &victoria));
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    let before = samples(0, 4);
    let gap = usual_gap(&before);
    assert!((2700..3300).contains(&gap), "{gap} ms of {before:?}");

    let verdict = rig.push("collect.yaml", &host_metrics("500ms", &victoria));
    assert_eq!(verdict["outcome"], "committed", "{verdict}");
    let started = verdict["started"].as_u64().unwrap();
    let after = samples(started, 7);
    let gap = usual_gap(&after);
    assert!((400..700).contains(&gap), "{gap} ms of {after:?}");
}

#[test]
fn a_reload_keeps_the_process_and_the_sources_that_did_not_change() {
    let victoria = Victoria::start();
    let rig = Rig::own("probation: 1s");
    let socket = rig.path("app.sock");
    let config = |interval: &str| {
        format!(
            "sources:
  host: {{kind: host_metrics, interval: {interval}}}
  app: {{kind: unix_socket, path: {}}}
uploads:
  vm: {{kind: victoria_metrics, endpoint: \"http://{}\", from: [host], interval: 200ms}}
  out: {{kind: console, from: [app]}}
",
            socket.display(),
            victoria.at
        )
    };
    let first = rig.child();
    assert_eq!(
        rig.push("collect.yaml", &config("2s"))["outcome"],
        "committed"
    );
    let mut writer = UnixStream::connect(&socket).unwrap();
    writeln!(writer, "{{\"before\":true}}").unwrap();
    let reloads = rig.count("reloads");
    for round in 1..=4 {
        let interval = format!("{}ms", 1000 + round);
        let verdict = rig.push("collect.yaml", &config(&interval));
        assert_eq!(verdict["outcome"], "committed", "{verdict}");
        // One promotion, one HUP; what runs is what was promoted, in the words of the child.
        assert_eq!(rig.count("reloads"), reloads + round);
        let status = rig.status();
        let marker = std::fs::read_to_string(rig.path("state/agents/a/current/adjutant.revision"));
        assert_eq!(status["current"]["hash"], marker.unwrap().trim());
        assert_eq!(status["last_good"], status["current"]["id"]);
        assert_eq!(rig.agent().unwrap()["revision"], status["current"]["id"]);
        // The writer of before the reload is still connected to the same listener.
        writeln!(writer, "{{\"round\":{round}}}").unwrap();
    }
    drop(writer);
    assert_eq!(rig.data_planes(), [first]);
    let status = rig.status();
    assert_eq!(status["child"]["pid"], first);
    assert_eq!(
        (&status["restarts"], &status["crashes"]),
        (&0.into(), &0.into())
    );
    // The books of the source that did not change go on over all reloads; nothing was lost.
    eventually("all five lines on the books", || {
        let books = rig.part("source.app")?;
        if books == "ok: received 5 delivered 5 pending 0 dropped 0" {
            Ok(())
        } else {
            Err(books)
        }
    });
}
