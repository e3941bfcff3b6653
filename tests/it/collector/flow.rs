//! Given a Collector whose otlp receiver is under load, with a committed config and a baseline of what flows,
//! when a config is offered under which it is healthy and nothing flows,
//! then the committed config runs again without help, and the server reads which signal stopped, from what to what;
//! a config under which data flows commits, and so does one of a host on which nothing flowed before.

use super::bench::{Bench, Reload, Supervisor, own_form};
use crate::fleet::Kind;
use crate::load::Load;
use crate::peers::free_port;

/// Short spans, so that a test is; everything else is as by default.
fn settings(reload: Reload, flow: &str) -> String {
    let spans = "interval: 500ms, min_baseline: 6s, window: 6s";
    own_form(
        reload,
        &format!("probation: 3s, flow: {{{spans}{flow}}}"),
        "",
    )
}

struct Under {
    supervisor: Supervisor,
    bench: Bench,
    uid: String,
    config: String,
    /// Where the receiver listens.
    port: u16,
    revision: String,
}

impl Under {
    /// A committed config with a baseline; `load` is whether anything comes.
    fn new(reload: Reload, flow: &str, load: bool) -> (Self, Option<Load>) {
        let mut bench = Bench::new(Kind::Dev);
        let supervisor = bench.run_text(&settings(reload, flow));
        let uid = bench.connected(&supervisor);
        let (port, metrics) = (free_port(), free_port());
        let out = bench.path("out.json");
        let config = format!(
            "receivers:
  otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}
exporters:
  file: {{path: '{}', flush_interval: 50ms}}
service:
  telemetry:
    metrics:
      readers: [{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {metrics}}}}}}}}}]
  pipelines:
    logs: {{receivers: [otlp], exporters: [file]}}
",
            out.display()
        );
        let load = load.then(|| Load::on(port));
        let good = bench.push(&uid, &config);
        bench.status(&uid, &good, "APPLIED");
        let status = supervisor.phase("committed");
        let revision = status["current"]["id"].as_str().unwrap().to_owned();
        let first = words(&status);
        assert!(
            first.contains("no verdict"),
            "nothing to compare with: {first}"
        );
        let under = Self {
            supervisor,
            bench,
            uid,
            config,
            port,
            revision,
        };
        (under, load)
    }

    /// Waits until enough was seen for a verdict.
    fn has_baseline(&self) {
        self.supervisor.until("a baseline of 20 s", |status| {
            let seen = status["flow_baseline_seconds"].as_f64();
            seen.is_some_and(|seen| seen >= 20.0)
        });
    }

    fn goes_back(&self, bad: &str, wanted: &[&str]) {
        let hash = self.bench.push(&self.uid, bad);
        let error = self.bench.status(&self.uid, &hash, "FAILED");
        for words in wanted {
            assert!(error.contains(words), "{words:?} in {error}");
        }
        let status = self
            .supervisor
            .until("the committed config again", |status| {
                status["healthy"] == true && status["current"]["id"] == self.revision.as_str()
            });
        assert_eq!(status["rejected"], 1);
        assert_eq!(status["counters"]["flow_collapses"], 1);
        assert_eq!(status["crashes"], 0, "it was well all the time");
        // Remembered as bad.
        let files = [("config.yaml", bad)];
        self.bench
            .server()
            .push(&self.uid, &files, Some("0123456789abcdef"));
        let again = self.bench.status(&self.uid, "0123456789abcdef", "FAILED");
        assert!(again.starts_with("rejected before"), "{again}");
    }
}

/// What the last transaction said about the flow.
fn words(status: &serde_json::Value) -> String {
    let last = &status["history"][0];
    assert_eq!(last["step"], "committed", "{status:#}");
    last["reason"].as_str().unwrap().to_owned()
}

const IN: &[&str] = &["data stopped to flow: logs do not come in any more: 0.00 a second"];
const OUT: &[&str] = &["data stopped to flow: logs do not go out any more: 0.00 a second"];

#[test]
fn a_receiver_on_another_port_is_rolled_back_after_a_restart() {
    let (under, _load) = Under::new(Reload::Restart, "", true);
    under.has_baseline();
    let bad = under
        .config
        .replace(&format!(":{}'", under.port), &format!(":{}'", free_port()));
    under.goes_back(&bad, IN);
}

#[test]
fn an_exporter_to_nowhere_is_rolled_back_after_a_hup() {
    let (under, _load) = Under::new(Reload::Hup, "", true);
    under.has_baseline();
    let bad = under
        .config
        .replace("exporters: [file]", "exporters: [otlp_http]")
        .replace(
            "exporters:\n",
            "exporters:\n  otlp_http: {endpoint: 'http://127.0.0.1:1'}\n",
        );
    under.goes_back(&bad, OUT);
}

#[test]
fn a_config_under_which_data_flows_commits() {
    let (under, _load) = Under::new(Reload::Hup, "", true);
    under.has_baseline();
    let good = format!("{}  extensions: []\n", under.config.replace("50ms", "60ms"));
    let hash = under.bench.push(&under.uid, &good);
    under.bench.status(&under.uid, &hash, "APPLIED");
    let status = under.supervisor.phase("committed");
    assert_eq!(words(&status), "flow: as before");
    assert_eq!(status["counters"]["flow_passes"], 1);
    assert_eq!(status["counters"]["rollbacks"], 0);
}

#[test]
fn on_a_quiet_host_every_config_commits_without_a_verdict() {
    let (under, _) = Under::new(Reload::Restart, "", false);
    under.has_baseline();
    let other = under
        .config
        .replace(&format!(":{}'", under.port), &format!(":{}'", free_port()));
    let hash = under.bench.push(&under.uid, &other);
    under.bench.status(&under.uid, &hash, "APPLIED");
    let status = under.supervisor.phase("committed");
    assert_eq!(words(&status), "flow: no verdict, too little flows to tell");
}

#[test]
fn with_warn_a_collapse_is_told_and_kept() {
    let (under, _load) = Under::new(Reload::Restart, ", mode: warn", true);
    under.has_baseline();
    let bad = under
        .config
        .replace(&format!(":{}'", under.port), &format!(":{}'", free_port()));
    let hash = under.bench.push(&under.uid, &bad);
    under.bench.status(&under.uid, &hash, "APPLIED");
    let status = under.supervisor.phase("committed");
    assert!(words(&status).starts_with("flow: collapsed, kept all the same, logs do not come in"));
    let log = under.supervisor.log();
    assert!(
        log.iter()
            .any(|line| line.contains("data stopped to flow under a config that is kept"))
    );
}
