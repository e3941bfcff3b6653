//! Given a Collector with a committed config of several files,
//! when a bundle is offered in which one of them, or none of them alone, is what the Collector's validator refuses,
//! then the server reads which file it is, or that no single one is, and what runs is not touched.

use super::bench::{Bench, Supervisor};
use super::on_both_servers;
use crate::fleet::Kind;
use crate::peers::otelcol;

on_both_servers!(refused_bundle_names_the_file_that_is_to_blame);
on_both_servers!(dangling_reference_is_not_hidden_by_the_old_file);
on_both_servers!(only_file_that_changed_is_named_without_a_run);

const SETTINGS: &str = "server: {endpoint: SERVER}
storage: {directory: STATE}
http: {listen: []}
stop: {grace: 1s, budget: 5s}
agents:
  collector:
    profile: otelcol
    executable: OTELCOL
    apply: {probation: 1s, proof_timeout: 30s}
";

/// A supervisor whose Collector runs three committed files.
struct Committed {
    supervisor: Supervisor,
    bench: Bench,
    uid: String,
    pid: u64,
}

impl Committed {
    fn new(kind: Kind) -> Self {
        let mut bench = Bench::new(kind);
        let settings = SETTINGS.replace("OTELCOL", &otelcol().display().to_string());
        let supervisor = bench.run_text(&settings);
        let uid = bench.connected(&supervisor);
        let mut on = Self {
            pid: 0,
            bench,
            supervisor,
            uid,
        };
        let [receivers, exporters, service] = on.files();
        let hash = on.push(&receivers, &exporters, &service);
        on.bench.status(&on.uid, &hash, "APPLIED");
        on.bench.flows("out.json");
        on.pid = on.supervisor.healthy();
        on
    }

    fn files(&self) -> [String; 3] {
        let receivers = format!(
            "receivers:
  filelog:
    include: ['{}']
    start_at: beginning
    poll_interval: 50ms
",
            self.bench.path("in.log").display()
        );
        let exporters = format!(
            "exporters:
  file:
    path: '{}'
    flush_interval: 50ms
  debug: {{}}
",
            self.bench.path("out.json").display()
        );
        let service = "service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [filelog], exporters: [file]}
";
        [receivers, exporters, service.to_owned()]
    }

    fn push(&self, receivers: &str, exporters: &str, service: &str) -> String {
        let files = [
            ("receivers.yaml", receivers),
            ("exporters.yaml", exporters),
            ("service.yaml", service),
        ];
        self.bench.server().push(&self.uid, &files, None)
    }

    /// Offers files that are refused; returns the reason as the server reads it. What runs was not touched.
    fn fails(&self, receivers: &str, exporters: &str, service: &str) -> String {
        let hash = self.push(receivers, exporters, service);
        let words = self.bench.status(&self.uid, &hash, "FAILED");
        assert!(
            words.starts_with("the validator refused the config"),
            "{words}"
        );
        assert_eq!(self.supervisor.healthy(), self.pid, "the same process");
        self.bench.flows("out.json");
        crate::peers::eventually("the trials are gone", || {
            if self.bench.path("state/agents/collector/trial").exists() {
                Err("trial is there".to_owned())
            } else {
                Ok(())
            }
        });
        words
    }
}

fn refused_bundle_names_the_file_that_is_to_blame(kind: Kind) {
    let on = Committed::new(kind);
    let [receivers, exporters, service] = on.files();
    // All three change, one of them for the worse.
    let receivers = receivers.replace("50ms", "60ms");
    let service = service.replace("level: none", "level: basic");
    let bad = exporters.replace("flush_interval", "flash_interval");
    let words = on.fails(&receivers, &bad, &service);
    let told = "the fault is in `exporters.yaml` (the other files pass with the `exporters.yaml` of the last good \
                revision)";
    assert!(words.contains(told), "{words}");
    assert!(
        words.contains("flash_interval"),
        "the validator's words: {words}"
    );

    // A renamed reference of which each half was written differently: neither file is right or wrong alone.
    let renamed = exporters.replace("  file:", "  file/new:");
    let refers = service.replace("[file]", "[file/other]");
    let words = on.fails(&receivers, &renamed, &refers);
    let told = "no single file is at fault: ";
    assert!(words.contains(told), "{words}");
    assert!(words.contains("exporters.yaml"), "{words}");
}

/// The accident of opampsupervisor's #50153: there the new file was judged together with the old one, so that a
/// reference to what the new one no longer has was found.
fn dangling_reference_is_not_hidden_by_the_old_file(kind: Kind) {
    let on = Committed::new(kind);
    let [receivers, exporters, service] = on.files();
    // The one takes away what the other begins to use. Each passes with the old half.
    let without = exporters.replace("  debug: {}\n", "");
    let uses = service.replace("[file]", "[file, debug]");
    let words = on.fails(&receivers, &without, &uses);
    let told = "no single file is at fault: `exporters.yaml` and `service.yaml` pass each with the other of the last \
                good revision, but not together";
    assert!(words.contains(told), "{words}");
    assert!(words.contains("debug"), "the validator's words: {words}");
}

fn only_file_that_changed_is_named_without_a_run(kind: Kind) {
    let on = Committed::new(kind);
    let [receivers, exporters, service] = on.files();
    let bad = service.replace("[filelog]", "[filelgo]");
    let words = on.fails(&receivers, &exporters, &bad);
    let told = "`service.yaml` is the only file that changed since the last good revision";
    assert!(words.contains(told), "{words}");
    assert!(!words.contains("the fault is in"), "{words}");
}
