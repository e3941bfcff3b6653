//! Given a Collector under settings of opampsupervisor's form,
//! when good, bad and empty configs are offered,
//! then the server reads for each what became of it, and the Collector runs what it should.

use super::bench::{AgentForm, Bench, Reload, alive};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;

in_both_modes!(
    bad_config_makes_it_unhealthy_and_a_good_one_heals_it,
    process_1
);
in_both_modes!(bad_config_gives_way_to_the_one_before_it, process_1);
on_both_servers!(empty_config_map_stops_the_collector);
in_both_modes!(each_offer_is_reported_from_applying_to_its_end, process_1);
in_both_modes!(newest_of_many_offers_is_what_runs);
in_both_modes!(
    config_that_does_not_validate_leaves_the_running_one_alone,
    process_1
);

/// A config whose receiver cannot start, because somebody listens on its port.
pub(super) fn port_taken(port: u16) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:{port}'}}}}}}}}
exporters: {{debug: {{}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [debug]}}}}
"
    )
}

// E13, E31
fn bad_config_makes_it_unhealthy_and_a_good_one_heals_it(kind: Kind, reload: Reload) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let uid = bench.connected(&supervisor);

    let bad = bench.push(&uid, &port_taken(port));
    let words = bench.status(&uid, &bad, "FAILED");
    assert!(words.contains("address already in use"), "{words}");
    let words = bench.healthy(&uid, false);
    assert!(words.contains("address already in use"), "{words}");

    let good = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &good, "APPLIED");
    bench.healthy(&uid, true);
    bench.flows("out.json");
}

// E08, E09
fn bad_config_gives_way_to_the_one_before_it(kind: Kind, reload: Reload) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut bench = Bench::new(kind);
    let settings = AgentForm {
        rollback: true,
        ..AgentForm::with_remote(reload)
    };
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    let good = bench.push(&uid, &bench.pipeline("good.json"));
    bench.status(&uid, &good, "APPLIED");
    bench.healthy(&uid, true);

    // Right after it, as fleets do: its probation has hardly begun.
    let bad = bench.push(&uid, &port_taken(port));
    let words = bench.status(&uid, &bad, "FAILED");
    assert!(words.contains("address already in use"), "{words}");
    bench.healthy(&uid, true);
    bench.flows("good.json");
    supervisor.stop();

    // The next life runs the good one, and does not call the bad one applied.
    let supervisor = bench.run(&settings);
    bench.connected(&supervisor);
    supervisor.healthy();
    bench.flows("good.json");
    bench.status(&uid, &bad, "FAILED");
}

// E28
fn empty_config_map_stops_the_collector(kind: Kind) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(Reload::Restart));
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");
    let pid = supervisor.healthy();

    let empty = bench.server().push(&uid, &[], None);
    bench.status(&uid, &empty, "APPLIED");
    supervisor.until("no child", |status| status["child"].is_null());
    assert!(!alive(pid));
    bench.healthy(&uid, true);

    // Nor is it started by the next life of the supervisor.
    let settings = AgentForm::with_remote(Reload::Restart);
    supervisor.stop();
    let supervisor = bench.run(&settings);
    bench.connected(&supervisor);
    bench.healthy(&uid, true);
    assert_eq!(supervisor.pid(), None);
}

// E30
fn each_offer_is_reported_from_applying_to_its_end(kind: Kind, reload: Reload) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let uid = bench.connected(&supervisor);

    let good = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &good, "APPLIED");
    bench.healthy(&uid, true);
    let bad = bench.push(&uid, &port_taken(port));
    bench.status(&uid, &bad, "FAILED");
    bench.healthy(&uid, false);
    let empty = bench.server().push(&uid, &[], None);
    bench.status(&uid, &empty, "APPLIED");
    bench.healthy(&uid, true);
    assert_eq!(supervisor.pid(), None);

    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let told = |word: &str, hash: &str| (word.to_owned(), short(hash));
    let wanted = [
        told("APPLYING", &good),
        told("APPLIED", &good),
        told("APPLYING", &bad),
        told("FAILED", &bad),
        told("APPLYING", &empty),
        told("APPLIED", &empty),
    ];
    let mut statuses = bench.server().statuses(&uid);
    // What a full report says before there was any offer.
    statuses.retain(|(word, _)| word != "UNSET");
    assert_eq!(statuses, wanted);
}

fn newest_of_many_offers_is_what_runs(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let uid = bench.connected(&supervisor);
    // Each may meet the rollout of an earlier one anywhere, and a Collector that is not up yet: HUP would kill that.
    let offers: Vec<String> = (0..12)
        .map(|number| bench.push(&uid, &bench.pipeline(&format!("{number}.json"))))
        .collect();
    bench.status(&uid, &offers[11], "APPLIED");
    bench.flows("11.json");
    bench.agent(&uid, "with the newest effective config", |agent| {
        agent.effective.contains("/11.json")
    });
    let status = supervisor.status().unwrap();
    assert_eq!(status["crashes"], 0, "{status:#}");
    assert_eq!(status["remote"]["offer"], offers[11].as_str());
}

// E39
fn config_that_does_not_validate_leaves_the_running_one_alone(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let settings = AgentForm {
        validate: true,
        ..AgentForm::with_remote(reload)
    };
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    let good = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &good, "APPLIED");
    let pid = supervisor.healthy();

    let bad = bench.pipeline("bad.json").replace("start_at", "starts_at");
    let bad = bench.push(&uid, &bad);
    let words = bench.status(&uid, &bad, "FAILED");
    assert!(
        words.contains("starts_at"),
        "the validator's words: {words}"
    );
    assert_eq!(supervisor.healthy(), pid, "the same process");
    bench.flows("out.json");
    assert!(!bench.path("bad.json").exists());
    bench.agent(&uid, "with the good effective config", |agent| {
        agent.effective.contains("out.json") && !agent.effective.contains("bad.json")
    });
}
