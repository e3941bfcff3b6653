//! The child as the engine handles it: how it is started, what its life means, what it says over its own link.
//!
//! Promises: every order of the lifecycle becomes one effect; every fact is noted, counted and passed to the watch.
//! Must never: decide to restart; that is the lifecycle's.

use std::time::Duration;

use crate::config::{HealthProbe, OnDeath};
use crate::engine::adoption;
use crate::engine::lifecycle::{Fact, Order};
use crate::engine::message::{
    AgentEffect, ChildNote, Exit, LocalEvent, NoteLevel, SpawnSpec, Step, ToolSpec,
};
use crate::engine::watch::Watch;
use crate::engine::{Engine, HostRequest, PROBE_OUTPUT_MAX, desired, report};
use crate::units::Now;

impl Engine {
    pub(super) fn obey(&mut self, orders: impl IntoIterator<Item = Order>) {
        for order in orders {
            let effect = match order {
                Order::Spawn(ticket) => AgentEffect::Spawn {
                    ticket,
                    spec: self.spawn_spec(),
                },
                Order::Signal { pid, signal } => AgentEffect::Signal {
                    pid,
                    signal,
                    group: true,
                    note: None,
                },
            };
            self.out.effects.push(effect);
        }
    }

    pub(super) fn spawn_spec(&self) -> SpawnSpec {
        let directory = self.places.config_dir();
        let files = self
            .current
            .as_ref()
            .map_or(&[][..], |current| &current.files);
        let uid = report::uid_text(self.instance_uid);
        let mut spec = SpawnSpec {
            program: self.settings.executable.clone(),
            args: desired::arguments(
                &self.settings,
                &self.places,
                &self.settings.profile.args,
                &directory,
                files,
            ),
            env: desired::environment(&self.settings, &self.places, &directory, &uid),
            inherit: self.inherit(),
            passthrough: self.settings.passthrough_logs,
            death_signal: (self.settings.on_our_death == OnDeath::End)
                .then_some(self.settings.profile.stop_signal),
            note: ChildNote::default(),
            process: self.settings.process.clone(),
        };
        spec.note = self.child_note(false, adoption::fingerprint(&spec));
        spec
    }

    pub(super) fn inherit(&self) -> Vec<String> {
        let own = self.settings.profile.environment.iter();
        own.chain(&self.settings.policy.environment)
            .cloned()
            .collect()
    }

    pub(super) fn tool_spec(&self, command: &[String], timeout: Duration) -> Option<ToolSpec> {
        let directory = self.places.config_dir();
        let pid = self.life.running().map(|child| child.pid);
        let mut words = command
            .iter()
            .map(|text| desired::expand(text, &self.settings, &self.places, &directory, pid));
        let program = words.next()?;
        let uid = report::uid_text(self.instance_uid);
        Some(ToolSpec {
            program: program.into(),
            args: words.collect(),
            env: desired::environment(&self.settings, &self.places, &directory, &uid),
            inherit: self.inherit(),
            timeout,
            output_max: PROBE_OUTPUT_MAX,
            process: self.settings.process.clone(),
        })
    }

    pub(super) fn on_facts(&mut self, now: Now, facts: impl IntoIterator<Item = Fact>) {
        for fact in facts {
            match fact {
                Fact::Started => self.on_started(now),
                Fact::Crashed(exit) => self.on_crashed(now, &exit),
                Fact::NotStarted(reason) => {
                    self.note(
                        NoteLevel::Warn,
                        "child not started",
                        vec![("error", reason.clone())],
                    );
                    self.count("spawn_failures");
                    if let Some(watch) = self.watch_mut() {
                        watch.not_started(&reason);
                    }
                }
                Fact::Stopped => {
                    self.health_probe.stop();
                    self.note(
                        NoteLevel::Info,
                        "child stopped",
                        vec![("status", self.life.last_exit.clone().unwrap_or_default())],
                    );
                }
                Fact::GaveUp(reason) => {
                    self.note(
                        NoteLevel::Error,
                        "child given up",
                        vec![("reason", reason.clone())],
                    );
                    self.out.requests.push(HostRequest::GaveUp(reason));
                }
            }
        }
    }

    pub(super) fn on_started(&mut self, now: Now) {
        self.forget_debt();
        self.child_has_read();
        self.reload_ends_with_process(now);
        if let Some(child) = self.life.running() {
            let pid = child.pid.to_string();
            self.note(NoteLevel::Info, "child started", vec![("process.pid", pid)]);
        }
        match self.settings.profile.health {
            HealthProbe::Http { .. } | HealthProbe::Exec { .. } => {
                self.health_probe.begin(now.mono);
            }
            HealthProbe::LocalLink | HealthProbe::Process => self.health_probe.stop(),
        }
    }

    /// What it ran; empty for nothing.
    fn running_revision(&self) -> String {
        let current = self.current.as_ref();
        current.map_or_else(String::new, |current| current.id.to_string())
    }

    /// How long ago the config last became another one; empty when that is not known.
    fn since_last_change(&self, now: Now) -> String {
        let mut history = self.history.iter().rev();
        let last = history.find(|it| matches!(it.step, Step::Promoted | Step::RolledBack));
        let ago = last.map(|record| {
            let (now, then) = (now.wall.unix_millis(), record.at.unix_millis());
            now.saturating_sub(then)
        });
        ago.map_or_else(String::new, |ago| ago.to_string())
    }

    pub(super) fn on_crashed(&mut self, now: Now, exit: &Exit) {
        self.health_probe.stop();
        self.count("crashes");
        self.note(
            NoteLevel::Warn,
            "child died",
            vec![
                ("status", exit.status.to_string()),
                ("oom_killed", exit.oom_killed.to_string()),
                ("crashes", self.life.crashes.to_string()),
                ("cpu_ms", exit.cpu.as_millis().to_string()),
                ("memory_bytes_max", exit.max_resident.to_string()),
                ("revision", self.running_revision()),
                ("config_changed_ms_ago", self.since_last_change(now)),
            ],
        );
        let profile = self.settings.profile.clone();
        if let Some(watch) = self.watch_mut() {
            watch.crashed(&profile, exit);
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.crashed(exit);
        }
    }

    pub(super) fn watch_mut(&mut self) -> Option<&mut Watch> {
        match (&mut self.transaction, &mut self.settling) {
            (Some(transaction), _) => transaction.watch_mut(),
            (None, Some(settling)) => Some(settling.watch_mut()),
            (None, None) => None,
        }
    }

    pub(super) fn on_local(&mut self, now: Now, connection: u64, event: LocalEvent) {
        match event {
            LocalEvent::Opened { .. } => {
                if let Some(old) = self.child.opened(connection) {
                    self.out
                        .effects
                        .push(AgentEffect::LocalClose { connection: old });
                }
            }
            LocalEvent::Frame(bytes) => {
                let Some((heard, answer)) = self.child.frame(connection, &bytes, self.instance_uid)
                else {
                    return;
                };
                self.out.effects.push(AgentEffect::LocalSend {
                    connection,
                    frame: answer,
                });
                self.effective_stale |= heard.effective;
                if heard.health {
                    self.flow_heard(now.mono);
                }
            }
            LocalEvent::Closed => {
                if self.child.closed(connection) {
                    self.effective_stale = true;
                }
            }
        }
    }
}
