//! Given a Collector under settings of our own form, with a committed config whose data flows,
//! when a config is offered that does not validate, that dies at its start, that dies later, or that never becomes
//! healthy,
//! then the committed config runs again without help, the server reads FAILED with the reason, and the same content is
//! refused at once when it is offered again.

use std::process::{Child, Command};

use nix::fcntl::{Flock, FlockArg};

use super::bench::{Bench, Reload, Supervisor, own_form};
use super::in_both_modes;
use crate::fleet::Kind;

in_both_modes!(config_that_does_not_validate_never_reaches_the_child);
in_both_modes!(config_that_dies_at_its_start_is_rolled_back);
in_both_modes!(config_that_dies_in_probation_is_rolled_back);
in_both_modes!(config_that_never_becomes_healthy_is_rolled_back);

fn settings(reload: Reload, probation: &str, proof: &str) -> String {
    let apply = format!("probation: {probation}, proof_timeout: {proof}");
    own_form(reload, &apply, "")
}

/// A supervisor whose Collector runs a committed config.
struct Committed {
    supervisor: Supervisor,
    bench: Bench,
    uid: String,
    pid: u64,
    revision: String,
}

impl Committed {
    /// `proof` is how long a config may take to prove itself.
    fn new(kind: Kind, reload: Reload, proof: &str) -> Self {
        let mut bench = Bench::new(kind);
        let supervisor = bench.run_text(&settings(reload, "2s", proof));
        let uid = bench.connected(&supervisor);
        let good = bench.push(&uid, &bench.pipeline("good.json"));
        bench.status(&uid, &good, "APPLIED");
        let status = supervisor.phase("committed");
        assert_eq!(status["current"]["id"], status["last_good"]);
        bench.flows("good.json");
        Self {
            pid: supervisor.healthy(),
            revision: status["last_good"].as_str().unwrap().to_owned(),
            bench,
            supervisor,
            uid,
        }
    }

    /// Offers a config that will fail; returns its reason as the server reads it.
    fn fails(&self, bad: &str) -> String {
        let hash = self.bench.push(&self.uid, bad);
        self.bench.status(&self.uid, &hash, "FAILED")
    }

    /// What is true after any failed config: the committed one runs, and the failed one is remembered.
    fn runs_the_committed_one(&self, bad: &str) {
        let status = self
            .supervisor
            .until("healthy on the committed config", |status| {
                status["healthy"] == true && status["current"]["id"] == self.revision.as_str()
            });
        assert_eq!(status["last_good"], self.revision.as_str());
        assert_eq!(status["rejected"], 1);
        self.bench.healthy(&self.uid, true);
        self.bench.flows("good.json");
        self.bench
            .agent(&self.uid, "with the committed effective config", |agent| {
                agent.effective.contains("good.json") && !agent.effective.contains("bad.json")
            });

        // The same content under another hash: answered from memory.
        let pid = self.supervisor.healthy();
        let again = "0123456789abcdef";
        let files = [("config.yaml", bad)];
        self.bench.server().push(&self.uid, &files, Some(again));
        let words = self.bench.status(&self.uid, again, "FAILED");
        assert!(words.starts_with("rejected before"), "{words}");
        let status = self
            .supervisor
            .until("no rollout", |status| status["phase"] == "failed");
        assert_eq!(status["child"]["pid"], pid, "nothing was tried");
        assert_eq!(status["current"]["id"], self.revision.as_str());
    }
}

fn config_that_does_not_validate_never_reaches_the_child(kind: Kind, reload: Reload) {
    let on = Committed::new(kind, reload, "20s");
    let bad = on
        .bench
        .pipeline("bad.json")
        .replace("exporters: [file]", "exporters: [flie]");
    let words = on.fails(&bad);
    assert!(words.contains("flie"), "the validator's words: {words}");
    assert_eq!(
        on.supervisor.healthy(),
        on.pid,
        "the running pipeline was not touched"
    );
    assert!(!on.bench.path("bad.json").exists());
    on.runs_the_committed_one(&bad);
    assert_eq!(on.supervisor.healthy(), on.pid);
}

fn config_that_dies_at_its_start_is_rolled_back(kind: Kind, reload: Reload) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let on = Committed::new(kind, reload, "20s");
    let bad = format!(
        "{}receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '{}'}}}}}}}}
exporters: {{debug: {{}}}}
",
        "service:
  telemetry: {metrics: {level: none}}
  pipelines: {logs: {receivers: [otlp], exporters: [debug]}}
",
        taken.local_addr().unwrap()
    );
    let words = on.fails(&bad);
    assert!(
        words.contains("address already in use"),
        "its last words: {words}"
    );
    on.runs_the_committed_one(&bad);
}

/// A process whose end is the end of a Collector that was told its pid.
struct Parent(Child);

impl Parent {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    /// Ends it and reaps it: a zombie would still count as there.
    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.end();
    }
}

fn config_that_dies_in_probation_is_rolled_back(kind: Kind, reload: Reload) {
    let mut on = Committed::new(kind, reload, "20s");
    // From here on a probation is long enough to act in it, however busy the machine is.
    let settings = settings(reload, "1m", "20s");
    on.bench.settings_change(&mut on.supervisor, &settings);
    let mut parent = Parent::new();
    let bad = format!(
        "{}extensions: {{opamp: {{ppid: {}, ppid_poll_interval: 50ms}}}}\n",
        on.bench.pipeline("bad.json"),
        parent.0.id()
    );
    let hash = on.bench.push(&on.uid, &bad);
    on.supervisor.phase("probation");
    parent.end();
    let words = on.bench.status(&on.uid, &hash, "FAILED");
    assert!(words.contains("died with exit code 0"), "{words}");
    on.runs_the_committed_one(&bad);
}

fn config_that_never_becomes_healthy_is_rolled_back(kind: Kind, reload: Reload) {
    let on = Committed::new(kind, reload, "5s");
    // The Collector opens this file before it is healthy, and waits for whoever has it locked.
    let storage = on.bench.path("storage");
    std::fs::create_dir(&storage).unwrap();
    let file = std::fs::File::create(storage.join("receiver_filelog_")).unwrap();
    let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let bad = format!(
        "{}  extensions: [file_storage]
extensions: {{file_storage: {{directory: '{}', timeout: 5m}}}}
",
        on.bench
            .pipeline("bad.json")
            .replace("    start_at", "    storage: file_storage\n    start_at"),
        storage.display()
    );
    let words = on.fails(&bad);
    assert!(words.contains("healthy within 5s"), "{words}");
    on.runs_the_committed_one(&bad);
    drop(lock);
}
