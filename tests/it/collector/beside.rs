//! Given the same settings, Collector and server under a real opampsupervisor and under Adjutant,
//! when something happens to either that the other answers differently, or did,
//! then each answers as docs/opampsupervisor.md says.

use super::bench::{Bench, alive};
use super::succession::{Rival, settings};
use crate::fleet::{Kind, Server};
use crate::peers::eventually;

/// Words of a hash in the order in which they were reported.
fn words(server: &Server, uid: &str, hash: &str) -> Vec<String> {
    let of_it = |(word, about): (String, String)| hash.starts_with(&about).then_some(word);
    let all = server.statuses(uid).into_iter();
    all.filter(|(_, about)| !about.is_empty())
        .filter_map(of_it)
        .collect()
}

#[test]
fn with_nothing_stored_theirs_runs_a_collector_and_ours_waits() {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    assert_eq!(rival.collectors().len(), 1);
    rival.stop(&bench);

    let supervisor = bench.run_text(&settings);
    bench.agent(&bench.connected(&supervisor), "waiting", |agent| {
        let waits = |health: &crate::fleet::Health| health.status == "waiting for config";
        agent.health.as_ref().is_some_and(waits)
    });
    assert_eq!(supervisor.pid(), None);
}

#[test]
fn a_hup_ends_theirs_and_its_collector_and_ours_reads_its_settings() {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let mut rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let collectors = rival.collectors();
    rival.process.signal("HUP");
    eventually("it ends", || {
        let ended = rival.process.ended();
        ended.then_some(()).ok_or_else(|| "it runs".to_owned())
    });
    eventually("its Collector ends", || {
        let left = collectors.iter().filter(|pid| alive(**pid)).count();
        (left == 0)
            .then_some(())
            .ok_or_else(|| "it runs".to_owned())
    });

    let mut supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");
    let child = supervisor.pid();
    bench.settings_change(&mut supervisor, &settings);
    assert_eq!(supervisor.pid(), child);
    bench.flows("out.json");
}

#[test]
fn a_new_comment_is_nothing_new_to_both() {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(false);
    let config = bench.pipeline("out.json");
    let commented = format!("{config}# said twice\n");
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let hash = bench.push(&rival.uid, &config);
    bench.status(&rival.uid, &hash, "APPLIED");
    let collectors = rival.collectors();
    let hash = bench.push(&rival.uid, &commented);
    bench.status(&rival.uid, &hash, "APPLIED");
    assert_eq!(words(bench.server(), &rival.uid, &hash), ["APPLIED"]);
    assert_eq!(rival.collectors(), collectors);
    let uid = rival.stop(&bench);

    let supervisor = bench.run_text(&settings);
    bench.connected(&supervisor);
    let hash = bench.push(&uid, &config);
    bench.status(&uid, &hash, "APPLIED");
    let child = supervisor.healthy();
    let hash = bench.push(&uid, &commented);
    bench.status(&uid, &hash, "APPLIED");
    let last = words(bench.server(), &uid, &hash);
    assert_eq!(last.last().map(String::as_str), Some("APPLIED"));
    assert_eq!(supervisor.healthy(), child);
}

#[test]
fn after_a_rollback_theirs_reports_the_old_config_and_ours_the_bad_one() {
    const BAD: &str = "receivers: {nonsense: {}}\nexporters: {debug: {}}\n\
                       service: {pipelines: {logs: {receivers: [nonsense], exporters: [debug]}}}\n";
    let mut bench = Bench::new(Kind::OpampGo);
    // The validator would stop it before.
    let settings = settings(false).replace("validate_config: true", "validate_config: false");
    let rival = Rival::start(&bench, &settings);
    bench.healthy(&rival.uid, true);
    let good = bench.push(&rival.uid, &bench.pipeline("out.json"));
    bench.status(&rival.uid, &good, "APPLIED");
    let bad = bench.push(&rival.uid, BAD);
    eventually("it reports the bad one", || {
        let seen = words(bench.server(), &rival.uid, &bad);
        seen.contains(&"FAILED".to_owned())
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    });
    bench.status(&rival.uid, &good, "APPLIED");
    bench.flows("out.json");
    // Only what our own part is given from here on.
    drop(rival);
    std::fs::remove_dir_all(bench.path("state")).unwrap();

    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let good = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &good, "APPLIED");
    supervisor.phase("committed");
    let bad = bench.push(&uid, BAD);
    bench.status(&uid, &bad, "FAILED");
    bench.flows("out.json");
    bench.healthy(&uid, true);
    bench.status(&uid, &bad, "FAILED");
}
