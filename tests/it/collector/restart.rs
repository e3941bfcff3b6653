//! Given a Collector that runs,
//! when the server sends the restart command,
//! then a new process runs the same config, and the link to the server is the old one.

use super::bench::{AgentForm, Bench, Reload, alive};
use super::in_both_modes;
use crate::fleet::Kind;

in_both_modes!(
    restart_command_makes_a_new_process_on_the_old_link,
    process_1
);

// E21
fn restart_command_makes_a_new_process_on_the_old_link(kind: Kind, reload: Reload) {
    let mut bench = Bench::new(kind);
    let supervisor = bench.run(&AgentForm::with_remote(reload));
    let uid = bench.connected(&supervisor);
    let hash = bench.push(&uid, &bench.pipeline("out.json"));
    bench.status(&uid, &hash, "APPLIED");
    let old = supervisor.healthy();
    let connections = bench.server().connections(&uid);

    bench.server().restart(&uid);
    supervisor.until("another process", |_| {
        supervisor.pid().is_some_and(|pid| pid != old)
    });
    supervisor.healthy();
    assert!(!alive(old));
    bench.healthy(&uid, true);
    bench.flows("out.json");
    assert_eq!(
        bench.server().connections(&uid),
        connections,
        "the link was kept"
    );
    bench.status(&uid, &hash, "APPLIED");
}
