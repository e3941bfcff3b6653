//! Looking at the world from outside: what runs, what was reported, whether the invariants hold.

use super::*;

impl World {
    pub(crate) fn has_exited(&self) -> bool {
        self.exited
    }

    pub(crate) fn living(&self) -> Vec<(u32, String)> {
        let living = self.children.iter().filter(|(_, child)| child.alive);
        living
            .map(|(pid, child)| (*pid, child.text.clone()))
            .collect()
    }

    /// Children that were started since the world began.
    pub(crate) fn spawns(&self) -> u32 {
        self.next_pid - 100
    }

    /// Children that this life has taken over.
    pub(crate) fn adoptions(&self) -> u64 {
        let host = self.host.as_ref().unwrap();
        let snapshot = host.snapshot(self.clock());
        snapshot.agents[self.at].counters["adoptions"]
    }

    /// Whether a living child was told to end.
    pub(crate) fn is_ending(&self) -> bool {
        let mut living = self.children.values().filter(|child| child.alive);
        living.any(|child| child.ending)
    }

    pub(crate) fn current(&self) -> Option<String> {
        self.text_at("current")
    }

    /// The names of the revisions on disk.
    pub(crate) fn stored(&self) -> Vec<String> {
        let names = self.disk.list(&self.root().join("revisions"));
        let names = names.unwrap().into_iter();
        names.map(|name| name.into_string().unwrap()).collect()
    }

    pub(crate) fn last_good(&self) -> Option<String> {
        self.text_at("last-good")
    }

    /// The last status the server read, of whatever offer.
    pub(crate) fn server_read(&self) -> Option<(&[u8], i32, &str)> {
        let status = self.server.status.as_ref()?;
        Some((
            &status.last_remote_config_hash,
            status.status,
            &status.error_message,
        ))
    }

    pub(crate) fn server_status(&self) -> Option<(i32, String)> {
        let status = self.server.status.as_ref()?;
        let hash = &self.server.offer.as_ref()?.hash;
        (&status.last_remote_config_hash == hash)
            .then(|| (status.status, status.error_message.clone()))
    }

    pub(crate) fn server_effective(&self) -> Option<String> {
        self.server.effective.clone()
    }

    pub(crate) fn server_health(&self) -> Option<ComponentHealth> {
        self.server.health.clone()
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// The settings of the agent that is talked about.
    pub(super) fn settings(&self) -> &config::Agent {
        let mut agents = self.config.agents.iter();
        agents.find(|agent| agent.name == self.name).unwrap()
    }

    pub(crate) fn check(&mut self) {
        if self.host.is_none() {
            // Between two lives the link may be anything; what the next life makes of it counts.
            return;
        }
        let at = self.at;
        for number in 0..self.agents.len() {
            self.at = number;
            // What was well is well until somebody writes.
            if !self.checked {
                self.checked = true;
                self.check_directory();
            }
        }
        self.at = at;
    }

    fn check_directory(&mut self) {
        let current = self.root().join("current");
        let there = self.disk.kind(&current).unwrap_or(Kind::Absent) != Kind::Absent;
        if there {
            let target = self.link_target("current").unwrap();
            if self.read(&target.join("manifest.json")).is_none() {
                self.violated(&format!(
                    "current points to {} without manifest",
                    target.display()
                ));
            }
        } else if self.seen_current {
            self.violated("current is gone");
        }
        let Some(good) = self.last_good() else { return };
        if !Behaviour::of(&good).is_good() {
            self.violated(&format!("last good is {good:?}"));
        }
        if self.spared {
            let runs = self.current();
            let keeps = self.keeps.get_or_insert(good).clone();
            if runs.as_ref() != Some(&keeps) {
                self.violated(&format!(
                    "nobody touched this agent, and instead of {keeps:?} it runs {runs:?}"
                ));
            }
        }
    }

    /// A spared agent is started once, and again where something of the whole host is a reason for it.
    pub(super) fn check_spared_start(&mut self) {
        if self.spared && !std::mem::take(&mut self.may_start) {
            self.violated("a new process for an agent that nobody touched");
        }
    }

    /// Nothing will ever happen by itself any more: then nobody may be waiting for anything.
    pub(super) fn check_nothing_waits(&self) {
        let Some(host) = &self.host else { return };
        for (agent, child, rollout) in host.positions() {
            let child_waits = matches!(child, "starting" | "stopping" | "waiting");
            if child_waits || rollout != "idle" {
                self.violated(&format!(
                    "{agent} waits for ever: its child is {child}, its transaction is {rollout}"
                ));
            }
        }
    }

    pub(crate) fn violated(&self, what: &str) -> ! {
        panic!(
            "invariant violated: {what}\nreplay: ADJUTANT_SIM_SEED={} cargo test --test sim replay",
            self.seed
        );
    }

    // ---- small things
}

/// Whatever ends a test early, what led to it is told.
impl Drop for World {
    #[expect(clippy::print_stderr, reason = "the last lines of a failing seed")]
    fn drop(&mut self) {
        if !std::thread::panicking() || !self.tracing {
            return;
        }
        let shown = std::env::var("ADJUTANT_SIM_TRACE").map_or(60, |n| n.parse().unwrap());
        let skipped = self.trace.len().saturating_sub(shown);
        for line in self.trace.iter().skip(skipped) {
            eprintln!("{line}");
        }
    }
}
