//! Given any program under the profile `generic`, whose proof is a new process that stays up,
//! when a good and then a bad config are offered,
//! then each is run by a new process, and after the bad one the good one runs again.

use std::fs;

use super::bench::{Bench, alive};
use super::on_both_servers;
use crate::fleet::Kind;
use crate::peers::eventually;

on_both_servers!(program_that_does_not_stay_up_is_rolled_back);

fn program_that_does_not_stay_up_is_rolled_back(kind: Kind) {
    let mut bench = Bench::new(kind);
    let settings = "server: {endpoint: SERVER}
storage: {directory: STATE}
http: {listen: []}
agents:
  script:
    profile: generic
    executable: /bin/sh
    args: ['{config_file}']
    main_file: run.sh
    proof: {kind: fresh_process, alive_for: 500ms}
    apply: {probation: 1s, proof_timeout: 20s}
";
    let supervisor = bench.run_text(settings);
    let uid = bench.connected(&supervisor);
    let good = |word: &str| {
        let out = bench.path(word);
        format!("echo $$ > '{}'\nwhile :; do sleep 1; done\n", out.display())
    };
    let says_pid = |word: &str| {
        let path = bench.path(word);
        eventually("the script says its pid", || {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            text.trim()
                .parse::<u64>()
                .map_err(|error| error.to_string())
        })
    };

    let first = bench
        .server()
        .push(&uid, &[("run.sh", &good("first"))], None);
    bench.status(&uid, &first, "APPLIED");
    supervisor.phase("committed");
    let old = supervisor.healthy();
    assert_eq!(says_pid("first"), old);

    let second = bench
        .server()
        .push(&uid, &[("run.sh", &good("second"))], None);
    bench.status(&uid, &second, "APPLIED");
    supervisor.phase("committed");
    let new = supervisor.healthy();
    assert_eq!(says_pid("second"), new);
    assert_ne!(new, old, "a fresh process");
    assert!(!alive(old), "and only one");
    fs::remove_file(bench.path("second")).unwrap();

    let bad = "echo no such thing as a frobnicator >&2\nexit 3\n";
    let bad = bench.server().push(&uid, &[("run.sh", bad)], None);
    let words = bench.status(&uid, &bad, "FAILED");
    assert!(words.contains("exit code 3"), "{words}");
    assert!(words.contains("frobnicator"), "its last words: {words}");
    let pid = supervisor.healthy();
    assert_eq!(says_pid("second"), pid, "the committed config runs again");
    assert_eq!(supervisor.status().unwrap()["rejected"], 1);
}
