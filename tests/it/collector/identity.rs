//! Given an agent that a server knows by its uid,
//! when the supervisor is restarted, or the server gives the agent another uid,
//! then the server finds it under the uid that was last agreed on.

use super::bench::{AgentForm, Bench, Reload};
use super::on_both_servers;
use crate::fleet::Kind;

on_both_servers!(uid_survives_a_restart_of_the_supervisor);
on_both_servers!(uid_given_by_the_server_is_used_at_once_and_kept);

// E25
fn uid_survives_a_restart_of_the_supervisor(kind: Kind) {
    let mut bench = Bench::new(kind);
    let settings = AgentForm::with_remote(Reload::Restart);
    let supervisor = bench.run(&settings);
    let uid = bench.connected(&supervisor);
    supervisor.stop();

    let supervisor = bench.run(&settings);
    assert_eq!(bench.connected(&supervisor), uid);
    assert_eq!(bench.server().uids(), [uid]);
}

// E26
fn uid_given_by_the_server_is_used_at_once_and_kept(kind: Kind) {
    const NEW: &str = "0190a5c2-7b1e-7c3d-9f00-2a6b1c4d5e6f";
    let mut bench = Bench::new(kind);
    let settings = AgentForm::with_remote(Reload::Restart);
    let supervisor = bench.run(&settings);
    let old = bench.connected(&supervisor);
    bench.server().identify(&old, NEW);
    bench.agent(NEW, "connected", |agent| agent.connected);
    supervisor.until("its new uid", |status| status["instance_uid"] == NEW);

    // A config reaches it there, and the Collector is told who it is.
    let hash = bench.push(NEW, &bench.pipeline("out.json"));
    bench.status(NEW, &hash, "APPLIED");
    let agent = bench.agent(NEW, "described", |agent| {
        agent.identifying.contains_key("service.version")
    });
    assert_eq!(agent.identifying["service.instance.id"], NEW);
    supervisor.stop();

    let supervisor = bench.run(&settings);
    assert_eq!(bench.connected(&supervisor), NEW);
}
