//! Given a Collector that runs, and a server that has gone mad,
//! when it sends garbage, frames beyond the limit, bundles of ten thousand files, or names that lead elsewhere,
//! then each is refused with one clear line, the Collector's process stays, and a good config is still taken.

use super::bench::{AgentForm, Bench, Reload, Supervisor};
use super::on_both_servers;
use crate::fleet::Kind;

on_both_servers!(garbage_is_one_line_and_the_link_goes_on);
on_both_servers!(frame_over_the_limit_is_one_line_and_a_new_link);
on_both_servers!(ten_thousand_files_are_refused);
on_both_servers!(names_that_lead_elsewhere_are_refused);

/// One byte more than the protocol's usual limit.
const TOO_MANY_BYTES: usize = 64 * 1024 * 1024 + 1;

struct Running {
    bench: Bench,
    supervisor: Supervisor,
    uid: String,
    pid: u64,
}

impl Running {
    fn new(kind: Kind) -> Self {
        let mut bench = Bench::new(kind);
        let supervisor = bench.run(&AgentForm {
            validate: true,
            ..AgentForm::with_remote(Reload::Hup)
        });
        let uid = bench.connected(&supervisor);
        let hash = bench.push(&uid, &bench.pipeline("out.json"));
        bench.status(&uid, &hash, "APPLIED");
        let pid = supervisor.healthy();
        Self {
            bench,
            supervisor,
            uid,
            pid,
        }
    }

    fn lines(&self, words: &str) -> Vec<String> {
        let lines = self.supervisor.log().into_iter();
        lines.filter(|line| line.contains(words)).collect()
    }

    /// The Collector did not notice, and the next order is taken.
    fn goes_on(&self) {
        self.bench.flows("out.json");
        assert_eq!(self.supervisor.pid(), Some(self.pid));
        let hash = self
            .bench
            .push(&self.uid, &self.bench.pipeline("next.json"));
        self.bench.status(&self.uid, &hash, "APPLIED");
        self.bench.flows("next.json");
        assert_eq!(self.supervisor.healthy(), self.pid);
    }

    /// Offers a bundle that is refused; returns the reason.
    fn refused(&self, files: &[(&str, &str)]) -> String {
        let hash = self.bench.server().push(&self.uid, files, None);
        let words = self.bench.status(&self.uid, &hash, "FAILED");
        assert_eq!(words.lines().count(), 1, "{words}");
        assert!(words.len() < 1000, "{words}");
        words
    }
}

fn garbage_is_one_line_and_the_link_goes_on(kind: Kind) {
    let on = Running::new(kind);
    let connections = on.bench.server().connections(&on.uid);
    on.bench.server().raw(&on.uid, 0xff, 100);
    on.supervisor.until("a malformed frame", |status| {
        status["counters"]["malformed_frames"].as_u64() == Some(1)
    });
    on.goes_on();
    let lines = on.lines("message from the server not understood");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(
        on.bench.server().connections(&on.uid),
        connections,
        "on the same link"
    );
}

fn frame_over_the_limit_is_one_line_and_a_new_link(kind: Kind) {
    let on = Running::new(kind);
    let connections = on.bench.server().connections(&on.uid);
    on.bench.server().raw(&on.uid, 0, TOO_MANY_BYTES);
    on.supervisor.until("a new link", |status| {
        status["counters"]["connects"].as_u64() > Some(1) && status["link"]["state"] == "connected"
    });
    on.goes_on();
    let lines = on.lines("no link to the server");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("too large") || lines[0].contains("64"),
        "{lines:?}"
    );
    assert!(on.bench.server().connections(&on.uid) > connections);
}

fn ten_thousand_files_are_refused(kind: Kind) {
    let on = Running::new(kind);
    let names: Vec<String> = (0..10_000)
        .map(|number| format!("file-{number}.yaml"))
        .collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "{}")).collect();
    let words = on.refused(&files);
    assert!(words.contains("10000 files"), "{words}");
    on.goes_on();
}

fn names_that_lead_elsewhere_are_refused(kind: Kind) {
    let on = Running::new(kind);
    let long = "n".repeat(300);
    let names = [
        "../outside.yaml",
        "inside/../../outside.yaml",
        "/etc/outside.yaml",
        "back\\slash.yaml",
        ".hidden.yaml",
        "line\nbreak.yaml",
        "zero\0byte.yaml",
        "manifest.json",
        "a/b/c/d/e/f.yaml",
        "./same.yaml",
        "trailing/",
        &long,
    ];
    for name in names {
        let words = on.refused(&[("config.yaml", "{}"), (name, "{}")]);
        let shown: String = name.escape_debug().take(20).collect();
        assert!(words.contains(&shown), "{name:?}: {words}");
    }
    let words = on.refused(&[("config.yaml", "{}"), ("", "{}")]);
    assert!(words.contains("config.yaml"), "{words}");
    assert!(!on.bench.path("outside.yaml").exists());
    on.goes_on();
}
