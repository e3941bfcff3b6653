//! Given a server that is not there: not yet, not any more, or every other moment,
//! when the supervisor starts or goes on without it,
//! then the Collector runs what there is, its process never notices, the back-off can be seen, and what happened
//! meanwhile is reported once the server is back.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::bench::{AgentForm, Bench, Reload, Supervisor, alive};
use super::{in_both_modes, on_both_servers};
use crate::fleet::Kind;
use crate::peers::{Door, eventually, free_port, now, within};

in_both_modes!(local_config_runs_before_the_server_is_there);
in_both_modes!(stored_config_runs_before_the_server_is_there, process_1);
on_both_servers!(nothing_runs_until_a_late_server_offers_something);
on_both_servers!(server_that_goes_away_is_waited_for_with_growing_delay);
on_both_servers!(flapping_server_gets_what_is_owed_and_the_child_never_notices);

/// Waits until the link has been tried in vain a few times, as the command line shows it.
fn backs_off(supervisor: &Supervisor) -> u64 {
    eventually("the command line shows the back-off", || {
        let shown = supervisor.command(&["status", "--json"]);
        let status: Value = serde_json::from_str(&shown).unwrap();
        let link = &status["agents"][0]["link"];
        let attempt = link["attempt"].as_u64().unwrap_or(0);
        let waits = link["state"] == "waiting" && link["retry_in_seconds"].is_number();
        let says_why = link["last_error"]
            .as_str()
            .is_some_and(|why| !why.is_empty());
        if waits && says_why && attempt >= 3 {
            Ok(attempt)
        } else {
            Err(link.to_string())
        }
    })
}

// E06
fn local_config_runs_before_the_server_is_there(kind: Kind, reload: Reload) {
    let mut bench = Bench::without_server(kind);
    let (port, health) = (free_port(), free_port());
    let config = format!(
        "{}  extensions: [health_check]
extensions: {{health_check: {{endpoint: '127.0.0.1:{health}'}}}}
",
        bench.pipeline("local.json")
    );
    let file = bench.file("local.yaml", &config);
    let supervisor = bench.run_alone(&AgentForm::with_local(reload, file), port);
    let door = Door::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, health)));
    eventually("the Collector's own health endpoint answers", || {
        let answer = door.get("/")?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
    let pid = supervisor.healthy();
    bench.flows("local.json");
    backs_off(&supervisor);

    bench.server_comes(port);
    let uid = bench.connected(&supervisor);
    bench.healthy(&uid, true);
    assert_eq!(supervisor.pid(), Some(pid), "the Collector did not notice");
}

// E07, E24
fn stored_config_runs_before_the_server_is_there(kind: Kind, reload: Reload) {
    let mut bench = Bench::without_server(kind);
    let settings = AgentForm::with_remote(reload);
    let port = free_port();
    bench.server_comes(port);
    let supervisor = bench.run_alone(&settings, port);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    bench.server_goes();
    supervisor.stop();

    let supervisor = bench.run_alone(&settings, port);
    let pid = supervisor.healthy();
    bench.flows("remote.json");

    // It has forgotten everything, and is told.
    bench.server_comes(port);
    assert_eq!(bench.connected(&supervisor), uid);
    bench.agent(&uid, "with the stored config", |agent| {
        agent.effective.contains("remote.json")
    });
    bench.status(&uid, &hash, "APPLIED");
    assert_eq!(supervisor.pid(), Some(pid), "the Collector did not notice");
}

// E12
fn nothing_runs_until_a_late_server_offers_something(kind: Kind) {
    let mut bench = Bench::without_server(kind);
    let port = free_port();
    let supervisor = bench.run_alone(&AgentForm::with_remote(Reload::Restart), port);
    backs_off(&supervisor);
    assert_eq!(supervisor.pid(), None, "nothing is stored");

    bench.server_comes(port);
    let uid = bench.connected(&supervisor);
    assert_eq!(supervisor.pid(), None, "nothing was offered");
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    bench.flows("remote.json");
}

fn server_that_goes_away_is_waited_for_with_growing_delay(kind: Kind) {
    let mut bench = Bench::without_server(kind);
    let port = free_port();
    bench.server_comes(port);
    let supervisor = bench.run_alone(&AgentForm::with_remote(Reload::Hup), port);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    let pid = supervisor.healthy();

    bench.server_goes();
    let attempts = backs_off(&supervisor);
    supervisor.until("it has tried again", |status| {
        status["link"]["attempt"]
            .as_u64()
            .is_some_and(|attempt| attempt > attempts)
    });
    bench.flows("remote.json");
    assert_eq!(supervisor.pid(), Some(pid));

    bench.server_comes(port);
    assert_eq!(bench.connected(&supervisor), uid);
    bench.status(&uid, &hash, "APPLIED");
    bench.healthy(&uid, true);
    let status = supervisor.until("connected", |status| status["link"]["state"] == "connected");
    assert_eq!(status["link"]["attempt"], 0);
    assert_eq!(supervisor.pid(), Some(pid), "the Collector did not notice");
    assert_eq!(status["restarts"], 0, "{status:#}");
}

/// How long the server is away, and how long it may take until the next attempt, a minute apart by then, has found it.
const AWAY: Duration = Duration::from_mins(2);
const FOUND: Duration = Duration::from_mins(2);

/// Two minutes of the wall clock: the delay grows to its cap meanwhile, and the Collector works all the time.
#[test]
fn server_that_is_away_for_two_minutes_is_never_noticed_by_the_collector() {
    let mut bench = Bench::without_server(Kind::OpampGo);
    let port = free_port();
    bench.server_comes(port);
    let supervisor = bench.run_alone(&AgentForm::with_remote(Reload::Hup), port);
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("remote.json"));
    bench.status(&uid, &hash, "APPLIED");
    let pid = supervisor.healthy();

    bench.server_goes();
    let back = now() + AWAY;
    let (mut attempts, mut longest) = (backs_off(&supervisor), 0.0_f64);
    within(AWAY + FOUND, "two minutes are over", || {
        bench.flows("remote.json");
        let status = supervisor.status()?;
        assert_eq!(supervisor.pid(), Some(pid), "{status:#}");
        let link = &status["link"];
        attempts = attempts.max(link["attempt"].as_u64().unwrap_or(0));
        longest = longest.max(link["retry_in_seconds"].as_f64().unwrap_or(0.0));
        if now() < back {
            return Err(link.to_string());
        }
        Ok(())
    });
    assert!((5..=30).contains(&attempts), "{attempts} attempts");
    assert!(longest >= 10.0, "the longest delay seen is {longest} s");

    bench.server_comes(port);
    within(FOUND, "the server has been found again", || {
        let link = supervisor.status()?["link"].take();
        if link["state"] == "connected" {
            return Ok(());
        }
        Err(link.to_string())
    });
    assert_eq!(bench.connected(&supervisor), uid);
    bench.status(&uid, &hash, "APPLIED");
    bench.healthy(&uid, true);
    bench.flows("remote.json");
    assert_eq!(supervisor.pid(), Some(pid), "the Collector did not notice");
    let status = supervisor.status().unwrap();
    assert_eq!(status["restarts"], 0, "{status:#}");
}

fn flapping_server_gets_what_is_owed_and_the_child_never_notices(kind: Kind) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(Reload::Hup));
    let uid = bench.connected(&supervisor);
    let mut hash = bench.push(&uid, &bench.pipeline("0.json"));
    bench.status(&uid, &hash, "APPLIED");
    let pid = supervisor.healthy();

    for round in 1..=3 {
        let before = bench.server().connections(&uid);
        let out = format!("{round}.json");
        hash = bench.push(&uid, &bench.pipeline(&out));
        // The link breaks somewhere between the offer and the end of its rollout.
        bench.server().refuse();
        supervisor.until("it has lost the link", |status| {
            status["link"]["state"] == "waiting"
        });
        assert!(alive(pid));
        bench.server().accept();
        bench.agent(&uid, "back", |agent| agent.connected);
        assert!(bench.server().connections(&uid) > before);
        bench.status(&uid, &hash, "APPLIED");
        bench.flows(&out);
        assert_eq!(supervisor.healthy(), pid, "round {round}");
    }
    let status = supervisor.status().unwrap();
    assert_eq!(
        (&status["restarts"], &status["crashes"]),
        (&0.into(), &0.into())
    );
}
