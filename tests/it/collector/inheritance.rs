//! Given a state directory as the OpenTelemetry Collector's supervisor leaves it,
//! when Adjutant starts on it for the first time with the settings of that supervisor,
//! then the agent keeps its uid, runs what it ran, and the server reads the truth about the last offer.

use std::fs;
use std::path::Path;

use opamp_client::messages::{AgentConfigFile, AgentConfigMap, AgentRemoteConfig};
use prost::Message as _;

use super::bench::{AgentForm, Bench, Reload};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;
use crate::peers::free_port;

in_both_modes!(last_offer_is_run_and_reported_under_its_own_hash);
on_both_servers!(what_failed_there_is_not_tried_and_the_one_before_it_runs);
on_both_servers!(offer_that_does_not_hold_gives_way_to_the_one_that_worked);
on_both_servers!(broken_files_are_told_of_and_left_alone);

const UID: &str = "0190a6d0-0000-7000-8000-00000000002a";

/// The bytes of a `.dat` file.
fn offer(hash: &[u8], text: &str) -> Vec<u8> {
    let file = AgentConfigFile {
        body: text.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    let config_map = [("config.yaml".to_owned(), file)].into_iter().collect();
    AgentRemoteConfig {
        config: Some(AgentConfigMap { config_map }),
        config_hash: hash.to_vec(),
    }
    .encode_to_vec()
}

/// The state directory; `status` is what `persistent_state.yaml` says of the last offer.
fn left(bench: &Bench, status: &str, files: &[(&str, &[u8])]) {
    let state = bench.path("state");
    fs::create_dir(&state).unwrap();
    let persistent = format!("instance_id: {UID}\nlast_remote_config_status:{status}\n");
    write(&state.join("persistent_state.yaml"), persistent.as_bytes());
    for (name, bytes) in files {
        write(&state.join(name), bytes);
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let file = fs::File::create(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
        .unwrap();
}

/// That not a byte of it has changed.
fn untouched(bench: &Bench, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let found = fs::read(bench.path("state").join(name)).unwrap();
        assert_eq!(found, *bytes, "{name}");
    }
}

fn last_offer_is_run_and_reported_under_its_own_hash(kind: Kind, reload: Reload) {
    let mut bench = Bench::without_server(kind);
    let received = offer(b"\x0a\x0b", &bench.pipeline("remote.json"));
    let files = [("last_recv_remote_config.dat", received.as_slice())];
    let status = "\n    status: 1\n    last_remote_config_hash: 0a0b\n    error_message: \"\"";
    left(&bench, status, &files);
    // The server is not there yet, and the fallback is for hosts that have nothing.
    let fallback = bench.file("fallback.yaml", &bench.pipeline("fallback.json"));
    let settings = AgentForm {
        more: format!("  startup_fallback_configs: ['{}']\n", fallback.display()),
        ..AgentForm::with_remote(reload)
    };
    let port = free_port();
    let supervisor = bench.run_alone(&settings, port);
    let pid = supervisor.healthy();
    bench.flows("remote.json");
    assert_eq!(supervisor.uid(), UID);
    assert!(!bench.path("fallback.json").exists());

    bench.server_comes(port);
    assert_eq!(bench.connected(&supervisor), UID);
    bench.status(UID, "0a0b", "APPLIED");
    bench.agent(UID, "with the effective config", |agent| {
        agent.effective.contains("remote.json")
    });
    assert_eq!(supervisor.pid(), Some(pid));
    supervisor.stop();

    // From now on our own state counts, and theirs is still there.
    let supervisor = bench.run_alone(&settings, port);
    supervisor.healthy();
    bench.flows("remote.json");
    bench.status(UID, "0a0b", "APPLIED");
    untouched(&bench, &files);
    supervisor.stop();
}

fn what_failed_there_is_not_tried_and_the_one_before_it_runs(kind: Kind) {
    let mut bench = Bench::new(kind);
    let received = offer(b"\x02", &bench.pipeline("bad.json"));
    let working = offer(b"\x01", &bench.pipeline("good.json"));
    let files = [
        ("last_recv_remote_config.dat", received.as_slice()),
        ("last_working_remote_config.dat", working.as_slice()),
    ];
    let status =
        "\n    status: 3\n    last_remote_config_hash: \"02\"\n    error_message: no such receiver";
    left(&bench, status, &files);
    let settings = AgentForm::with_remote(Reload::Restart);
    for life in 1..=2 {
        let supervisor = bench.run(&settings);
        assert_eq!(bench.connected(&supervisor), UID);
        supervisor.healthy();
        bench.flows("good.json");
        assert_eq!(
            bench.status(UID, "02", "FAILED"),
            "no such receiver",
            "life {life}"
        );
        assert!(!bench.path("bad.json").exists());
        supervisor.stop();
    }
    untouched(&bench, &files);
}

fn offer_that_does_not_hold_gives_way_to_the_one_that_worked(kind: Kind) {
    let mut bench = Bench::new(kind);
    let broken = bench.pipeline("bad.json").replace("start_at", "starts_at");
    let received = offer(b"\x02", &broken);
    let working = offer(b"\x01", &bench.pipeline("good.json"));
    let files = [
        ("last_recv_remote_config.dat", received.as_slice()),
        ("last_working_remote_config.dat", working.as_slice()),
    ];
    // It died before it knew.
    left(&bench, " null", &files);
    let settings = AgentForm {
        validate: true,
        ..AgentForm::with_remote(Reload::Restart)
    };
    let supervisor = bench.run(&settings);
    assert_eq!(bench.connected(&supervisor), UID);
    supervisor.healthy();
    bench.flows("good.json");
    let words = bench.status(UID, "02", "FAILED");
    assert!(words.contains("starts_at"), "{words}");
    untouched(&bench, &files);
}

fn broken_files_are_told_of_and_left_alone(kind: Kind) {
    let mut bench = Bench::new(kind);
    let files: [(&str, &[u8]); 3] = [
        ("last_recv_remote_config.dat", b"\xff\xff\xff\xff"),
        ("last_recv_own_telemetry_config.dat", b"\xff\xff\xff\xff"),
        ("last_working_remote_config.dat", b""),
    ];
    left(&bench, " null", &files);
    let local = bench.file("local.yaml", &bench.pipeline("local.json"));
    let settings = AgentForm {
        files: vec![local],
        ..AgentForm::with_remote(Reload::Restart)
    };
    let supervisor = bench.run(&settings);
    assert_eq!(bench.connected(&supervisor), UID);
    bench.flows("local.json");
    for (name, _) in files {
        let told = |line: &String| line.contains("not taken over") && line.contains(name);
        assert!(supervisor.log().iter().any(told), "{:#?}", supervisor.log());
    }
    untouched(&bench, &files);
}
