//! Given a server that is polled over plain HTTP, made with opamp-go,
//! when it offers, restarts and is left,
//! then all goes as over a WebSocket, one request at a time.

use super::bench::{AgentForm, Bench, Reload};
use crate::fleet::{Kind, Server, endpoint};
use crate::peers::{eventually, free_port};

/// The server's URL with the scheme that makes it a polled one.
fn polled(port: u16) -> String {
    endpoint(port).replacen("ws", "http", 1)
}

impl Bench {
    /// The last message of an agent as the server logged it.
    fn last_message(&self, uid: &str) -> serde_json::Value {
        self.server().messages(uid).pop().unwrap()
    }
}

#[test]
fn polled_server_configures_a_collector_and_hears_its_goodbye() {
    let mut bench = Bench::without_server(Kind::OpampGo);
    let port = free_port();
    bench.server_comes(port);
    let settings = AgentForm::with_remote(Reload::Restart);
    let supervisor = bench.run_polled(&settings, &polled(port));
    let uid = bench.connected(&supervisor);
    let status = supervisor.until("connected", |status| status["link"]["state"] == "connected");
    assert_eq!(status["link"]["endpoint"], polled(port));
    let connections = bench.server().all_connections();
    let first = &connections[0];
    assert_eq!(first["transport"], "http", "{first:#}");
    assert_eq!(first["headers"]["Opamp-Instance-Uid"], uid, "{first:#}");
    supervisor.stop();
    assert_eq!(bench.last_message(&uid)["agent_disconnect"], true);

    // Offered while nobody is there: it comes with the answer to the first report of the next life.
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    let supervisor = bench.run_polled(&settings, &polled(port));
    bench.status(&uid, &hash, "APPLIED");
    supervisor.healthy();
    bench.flows("out.json");
    let messages = bench.server().messages(&uid);
    let numbers: Vec<u64> = messages
        .iter()
        .map(|message| message["sequence_num"].as_u64().unwrap_or(0))
        .collect();
    let starts = numbers.iter().filter(|number| **number == 0).count();
    assert_eq!(starts, 2, "one per life: {numbers:?}");
    for pair in numbers.windows(2) {
        assert!(
            pair[1] == pair[0] + 1 || pair[1] == 0,
            "no holes: {numbers:?}"
        );
    }
    supervisor.stop();
}

#[test]
fn polled_server_is_asked_each_second_and_found_again_after_its_restart() {
    let mut bench = Bench::without_server(Kind::OpampGo);
    let port = free_port();
    bench.server_comes(port);
    let settings = format!(
        "server: {{endpoint: '{}', heartbeat_interval: 1s}}
storage: {{directory: STATE}}
http: {{listen: []}}
agents:
  script:
    profile: generic
    executable: /bin/sh
    args: ['{{config_file}}']
    main_file: run.sh
    proof: {{kind: fresh_process, alive_for: 200ms}}
    apply: {{probation: 300ms, proof_timeout: 20s}}
",
        polled(port)
    );
    let supervisor = bench.run_text(&settings);
    let uid = bench.connected(&supervisor);
    let offer = |server: &Server, word: &str| {
        let script = format!(": {word}\nwhile :; do sleep 1; done\n");
        server.push(&uid, &[("run.sh", &script)], None)
    };
    let first = offer(bench.server(), "first");
    bench.status(&uid, &first, "APPLIED");
    let pid = supervisor.healthy();

    bench.server_goes();
    supervisor.until("not connected", |status| {
        status["link"]["state"] != "connected" && status["link"]["attempt"].as_u64() > Some(1)
    });
    let lines = |log: Vec<String>| {
        let ours = |line: &&String| line.contains("connected to the server");
        log.iter().filter(ours).count()
    };
    assert_eq!(lines(supervisor.log()), 1, "{:#?}", supervisor.log());
    bench.server_comes(port);
    assert_eq!(bench.connected(&supervisor), uid);
    supervisor.until("connected", |status| status["link"]["state"] == "connected");
    assert_eq!(lines(supervisor.log()), 2, "{:#?}", supervisor.log());
    bench.status(&uid, &first, "APPLIED");
    assert_eq!(supervisor.healthy(), pid, "the child did not notice");

    let second = offer(bench.server(), "second");
    bench.status(&uid, &second, "APPLIED");
    assert_ne!(supervisor.healthy(), pid);
    eventually("polls that hold nothing but who asks", || {
        let last = bench.last_message(&uid);
        let more = ["health", "remote_config_status", "description"];
        match more.iter().find(|field| last.get(**field).is_some()) {
            None => Ok(()),
            Some(_) => Err(last.to_string()),
        }
    });
    supervisor.stop();
    assert_eq!(bench.last_message(&uid)["agent_disconnect"], true);
}
