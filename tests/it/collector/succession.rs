//! Given a real opampsupervisor that has run a Collector by order of a server,
//! when it is stopped and Adjutant starts with the same settings file on the same state directory,
//! then the server finds the same agent, and nothing that it offered before has to be offered again: neither the config
//! nor where the Collector's own metrics go.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use opamp_client::messages::{AgentRemoteConfig, ConnectionSettingsOffers};
use serde_json::json;

use super::bench::Bench;
use crate::fleet::Kind;
use crate::peers::{Process, eventually, opampsupervisor, otelcol};

/// Its settings, nothing in them that only one of the two understands. The time to apply is how long theirs always
/// waits before it says APPLIED, and how long ours does at most, also on a busy machine.
pub(super) fn settings(hup: bool) -> String {
    format!(
        "server: {{endpoint: SERVER}}
capabilities:
  accepts_remote_config: true
  reports_remote_config: true
  reports_own_metrics: true
storage: {{directory: STATE}}
agent:
  executable: {otelcol}
  args: ['--set=service.telemetry.metrics.level=none']
  config_apply_timeout: 10s
  use_hup_config_reload: {hup}
  validate_config: true
  automatic_config_rollback: true
",
        otelcol = otelcol().display(),
    )
}

/// A run of theirs with the settings file that ours is given later.
pub(super) struct Rival {
    pub(super) process: Process,
    state: PathBuf,
    pub(super) uid: String,
}

/// How often it may fail to start before that is ours to explain.
const STARTS_MAX: usize = 20;

impl Rival {
    /// Starts it, again where its start fails: it asks the Collector for its feature gates, may read the answer too
    /// late, and then expects components that our Collector does not have.
    pub(super) fn start(bench: &Bench, settings: &str) -> Self {
        let file = bench.settings(settings);
        // A test run in the background may have both ignored: it stops its Collector by INT, and is told by HUP.
        let program = opampsupervisor();
        let args = [
            "--default-signal=INT,HUP".as_ref(),
            program.as_os_str(),
            "--config".as_ref(),
            file.as_os_str(),
        ];
        let connected = || {
            let uid = bench.server().uids().pop()?;
            let agent = bench.server().agent(&uid).ok()?;
            agent.connected.then_some(uid)
        };
        for _ in 0..STARTS_MAX {
            let mut process = Process::start("opampsupervisor", Path::new("/usr/bin/env"), args);
            let uid = eventually("it connects or ends", || match connected() {
                Some(uid) => Ok(Some(uid)),
                None if process.ended() => Ok(None),
                None => Err(format!("{:?}", process.lines())),
            });
            if let Some(uid) = uid {
                return Self {
                    process,
                    state: bench.path("state"),
                    uid,
                };
            }
        }
        panic!("opampsupervisor does not start, {STARTS_MAX} times");
    }

    /// The processes of the Collector that it has started.
    pub(super) fn collectors(&self) -> Vec<u64> {
        let main = format!("/proc/{0}/task", self.process.id());
        let threads = fs::read_dir(main).unwrap().flatten();
        let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")));
        lists
            .flat_map(|list| {
                let words = list.unwrap_or_default();
                let pids: Vec<u64> = words
                    .split(' ')
                    .filter_map(|pid| pid.parse().ok())
                    .collect();
                pids
            })
            .collect()
    }

    /// What it has kept of what it received.
    fn kept<T: prost::Message + Default>(&self, name: &str) -> T {
        eventually(&format!("it keeps {name}"), || {
            let bytes = fs::read(self.state.join(name)).map_err(|error| error.to_string())?;
            // It makes the file empty before it writes.
            if bytes.is_empty() {
                return Err("an empty file".to_owned());
            }
            T::decode(bytes.as_slice()).map_err(|error| error.to_string())
        })
    }

    pub(super) fn stop(mut self, bench: &Bench) -> String {
        // It listens for TERM only once its start is over.
        bench.healthy(&self.uid, true);
        let status = self.process.stop();
        assert_eq!(status.code(), Some(0), "{:#?}", self.process.lines());
        self.uid
    }
}

/// A server that has been obeyed: a config runs, and the Collector's own metrics have a place to go.
fn obeyed(bench: &Bench, rival: &Rival) -> String {
    // It sends HUP to a Collector that is still starting, too, and that kills it.
    bench.healthy(&rival.uid, true);
    let hash = bench.push(&rival.uid, &bench.pipeline("out.json"));
    bench.status(&rival.uid, &hash, "APPLIED");
    bench.flows("out.json");
    let settings = json!({"connectionSettings": {
        "ownMetrics": {"destinationEndpoint": "http://127.0.0.1:9/v1/metrics"},
    }});
    bench.server().message(&rival.uid, &settings);
    let kept: AgentRemoteConfig = rival.kept("last_recv_remote_config.dat");
    assert_eq!(hex(&kept.config_hash), hash);
    let kept: ConnectionSettingsOffers = rival.kept("last_recv_own_telemetry_config.dat");
    let metrics = kept.own_metrics.unwrap();
    assert_eq!(
        metrics.destination_endpoint,
        "http://127.0.0.1:9/v1/metrics"
    );
    with_own_metrics(bench, &rival.uid);
    hash
}

/// That its Collector says itself where its own metrics go.
fn with_own_metrics(bench: &Bench, uid: &str) {
    bench.agent(uid, "with its own metrics", |agent| {
        agent.effective.contains("127.0.0.1:9/v1/metrics")
            && agent.health.as_ref().is_some_and(|health| health.healthy)
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn same_agent_goes_on(hup: bool) {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(hup);
    let rival = Rival::start(&bench, &settings);
    let hash = obeyed(&bench, &rival);
    let uid = rival.stop(&bench);
    fs::remove_file(bench.path("out.json")).unwrap();

    let supervisor = bench.run_text(&settings);
    assert_eq!(bench.connected(&supervisor), uid);
    assert_eq!(bench.server().uids(), [uid.as_str()]);
    bench.status(&uid, &hash, "APPLIED");
    bench.flows("out.json");
    with_own_metrics(&bench, &uid);
    supervisor.stop();
    // From now on they are known here.
    let supervisor = bench.run_text(&settings);
    assert_eq!(bench.connected(&supervisor), uid);
    with_own_metrics(&bench, &uid);
    supervisor.stop();

    // The way back stays open: what it had written is still there.
    let state = bench.path("state");
    for name in [
        "persistent_state.yaml",
        "last_recv_remote_config.dat",
        "last_recv_own_telemetry_config.dat",
    ] {
        assert!(state.join(name).is_file(), "{name} is gone");
    }
    let rival = Rival::start(&bench, &settings);
    assert_eq!(rival.stop(&bench), uid);
}

fn stored_offer_runs_before_the_server_is_back(hup: bool) {
    let mut bench = Bench::new(Kind::OpampGo);
    let settings = settings(hup).replace("SERVER", &bench.server().endpoint());
    let rival = Rival::start(&bench, &settings);
    let hash = obeyed(&bench, &rival);
    let uid = rival.stop(&bench);
    let port = bench.server().port();
    bench.server_goes();
    fs::remove_file(bench.path("out.json")).unwrap();

    let supervisor = bench.run_without(&settings);
    bench.flows("out.json");
    let child = supervisor.healthy();

    // A server that has forgotten everything is told whose offer runs, and nothing has to be done for that.
    bench.server_comes(port);
    assert_eq!(bench.connected(&supervisor), uid);
    bench.status(&uid, &hash, "APPLIED");
    assert_eq!(supervisor.healthy(), child);
}

#[test]
fn stored_offer_runs_before_the_server_is_back_by_restart() {
    stored_offer_runs_before_the_server_is_back(false);
}

#[test]
fn stored_offer_runs_before_the_server_is_back_by_hup() {
    stored_offer_runs_before_the_server_is_back(true);
}

#[test]
fn same_agent_goes_on_by_restart() {
    same_agent_goes_on(false);
}

#[test]
fn same_agent_goes_on_by_hup() {
    same_agent_goes_on(true);
}
