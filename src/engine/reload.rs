//! A reload by HUP: what is looked at before it, what the child shows after it, and whether a HUP is worth trying.
//!
//! Promises: a proof that only counts reloads is begun before the HUP, so that nothing older is taken for it; while one
//! HUP has not shown its end no config is told by a second one to that process, because programs drop it without a word
//! (a new pair is told twice before it takes a new process); a child that twice needed a new process for a config that
//! was good gets no HUP any more.
//! Must never: judge a rollout, or send a HUP to a process that was not looked at.

use crate::config::Proof;
use crate::engine::message::{AgentEffect, HttpAnswer, NoteLevel};
use crate::engine::{Engine, PROOF_TIMEOUT, SIGHUP};
use crate::units::{Now, Ticket};

/// HUPs that came to nothing, with a new process that then ran the same config, after which HUP is given up.
const FAILURES_MAX: u32 = 2;

/// What is known about the reloads of a child.
#[derive(Debug, Default)]
pub(crate) struct ReloadMemory {
    /// The process that got the last HUP, or is about to.
    told: Option<u32>,
    /// Whether that HUP has not been proven.
    open: bool,
    /// The look at its room that has to come first.
    looking: Option<Ticket>,
    /// The question or the watch that has to stand before the HUP goes out.
    preparing: Option<Ticket>,
    /// The watch over the child's output.
    listening: Option<Ticket>,
    /// What the output said: that it has reloaded, or why not.
    said: Option<Result<(), String>>,
    /// The count of reloads before the HUP.
    before: Option<u64>,
    /// The process that was told is gone without a proof, and a new one has the same config to run.
    replaced: bool,
    failures: u32,
    /// Why nobody can say that a process which came up by itself runs its config; none when one can.
    lacking: Option<String>,
}

/// What the output of the running process said about a HUP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// It got none.
    NotTold,
    /// Nothing yet.
    Nothing,
    /// That it has reloaded.
    Reloaded,
    /// That it has not: the line.
    Refused(&'a str),
}

impl Engine {
    /// Tells the child to reload, if it has room for one, and as soon as what its proof needs is in place.
    pub(super) fn hup(&mut self, pid: u32) {
        self.reload.told = Some(pid);
        self.reload.open = true;
        self.reload.before = None;
        self.reload.said = None;
        self.reload.listening = None;
        self.reload.preparing = None;
        let ticket = self.tickets.next();
        self.reload.looking = Some(ticket);
        self.out
            .effects
            .push(AgentEffect::LookAtRoom { ticket, pid });
    }

    /// Whether the child has room: then the HUP, else a new process. Some programs come up without their config, or not
    /// at all, when a reload runs out of descriptors half-way.
    pub(super) fn on_room_seen(&mut self, now: Now, ticket: Ticket, room: Result<(), String>) {
        if self.reload.looking != Some(ticket) {
            return self.count("stale_answers");
        }
        self.reload.looking = None;
        let running = self.life.running().map(|child| child.pid);
        match (running, room) {
            (Some(pid), Ok(())) if self.reload.told == Some(pid) && !self.stopping => {
                self.prepare_hup(pid);
            }
            (_, Ok(())) => {}
            (_, Err(shortage)) => self.cannot_prove(now, &shortage),
        }
    }

    fn prepare_hup(&mut self, pid: u32) {
        match &self.settings.profile.proof {
            Proof::Http {
                url,
                counter: Some(_),
                ..
            } => {
                let ticket = self.tickets.next();
                let url = self.address(url);
                self.reload.preparing = Some(ticket);
                let timeout = PROOF_TIMEOUT;
                self.out.effects.push(AgentEffect::HttpProbe {
                    ticket,
                    url,
                    timeout,
                });
            }
            Proof::Output {
                reloaded, failed, ..
            } => {
                let (reloaded, failed) = (reloaded.clone(), failed.clone());
                let ticket = self.tickets.next();
                self.reload.preparing = Some(ticket);
                self.reload.listening = Some(ticket);
                self.out.effects.push(AgentEffect::WatchOutput {
                    ticket,
                    reloaded,
                    failed,
                });
            }
            Proof::LocalDescription
            | Proof::LocalStatus
            | Proof::Exec(_)
            | Proof::Http { .. }
            | Proof::FreshProcess { .. } => self.signal_hup(pid),
        }
    }

    fn signal_hup(&mut self, pid: u32) {
        let fields = vec![("process.pid", pid.to_string())];
        self.note(NoteLevel::Info, "child told to reload", fields);
        self.child_has_read();
        // How it was started stays as it was written down.
        let note = self.child_note(true, String::new());
        self.out.effects.push(AgentEffect::Signal {
            pid,
            signal: SIGHUP,
            group: false,
            note: Some(Box::new(note)),
        });
    }

    /// An HTTP answer; true when it is the count of reloads before a HUP.
    pub(super) fn counted_before(
        &mut self,
        now: Now,
        ticket: Ticket,
        outcome: &Result<HttpAnswer, String>,
    ) -> bool {
        if self.reload.preparing != Some(ticket) {
            return false;
        }
        self.reload.preparing = None;
        match outcome
            .as_ref()
            .map_err(String::clone)
            .and_then(|answer| self.count_of(answer))
        {
            Ok(before) => {
                self.reload.before = Some(before);
                self.prepared(now);
            }
            Err(reason) => {
                self.cannot_prove(now, &format!("its reloads cannot be counted: {reason}"));
            }
        }
        true
    }

    /// The output is watched, or cannot be.
    pub(super) fn on_output_watched(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<(), String>,
    ) {
        if self.reload.preparing != Some(ticket) {
            return self.count("stale_answers");
        }
        self.reload.preparing = None;
        match result {
            Ok(()) => self.prepared(now),
            Err(reason) => {
                self.cannot_prove(now, &format!("its output cannot be watched: {reason}"));
            }
        }
    }

    /// The output said what was watched for.
    pub(super) fn on_output_said(&mut self, ticket: Ticket, said: Result<(), String>) {
        if self.reload.listening != Some(ticket) {
            return self.count("stale_answers");
        }
        self.reload.listening = None;
        self.reload.said = Some(said);
        // Taken up or refused: this reload is over.
        self.reload.open = false;
    }

    /// What the proof needs is there: now the HUP, if it is still the same process.
    fn prepared(&mut self, now: Now) {
        let running = self.life.running().map(|child| child.pid);
        if let (Some(pid), true) = (running, running == self.reload.told && !self.stopping) {
            self.signal_hup(pid);
            if self.settings.profile.proof.is_asked() {
                self.proof_probe.begin(now.mono);
            }
        }
    }

    /// A HUP could not be proven or would fail, so there is none.
    fn cannot_prove(&mut self, now: Now, reason: &str) {
        self.reload.forget_hup();
        if self.stopping || self.life.running().is_none() {
            return;
        }
        let fields = vec![("reason", reason.to_owned())];
        self.note(
            NoteLevel::Warn,
            "child restarted instead of reloaded",
            fields,
        );
        self.renew_child(now);
    }

    /// Why the child gets a new process instead of a HUP; none when HUP is fine.
    pub(super) fn why_no_hup(&self, pid: u32) -> Option<String> {
        let is_open = self.reload.open && self.reload.told == Some(pid);
        if is_open && self.settings.profile.proof.counts_reloads() {
            Some("the reload before has not shown its end".to_owned())
        } else if self.runs_old_program() {
            Some("its program was replaced since it was started".to_owned())
        } else if self.reload.failures >= FAILURES_MAX {
            Some("HUP came to nothing before where a new process ran the same config".to_owned())
        } else {
            None
        }
    }

    /// A new way of telling begins; what the last one left is of no use.
    pub(super) fn forget_hup(&mut self) {
        self.reload.forget_hup();
    }

    /// A new process: it was not told anything, it read what there is.
    pub(super) fn reload_ends_with_process(&mut self, now: Now) {
        let replaced = self.reload.open;
        self.reload.forget_hup();
        self.reload.replaced = replaced;
        let proof = &self.settings.profile.proof;
        let names_config = proof.names_config();
        self.reload.lacking = None;
        if self.watch_mut().is_some() {
            if self.settings.profile.proof.is_asked() {
                // What the process before it answered says nothing about this one.
                self.proof_probe.begin(now.mono);
            }
        } else if names_config && self.current.is_some() {
            self.reload.lacking = Some("not asked yet".to_owned());
            self.proof_probe.begin(now.mono);
        }
    }

    /// Nothing is tried any more for a child that has not shown that it runs its config. It may yet.
    pub(super) fn config_stays_unproven(&mut self, now: Now, reason: &str) {
        if self.settings.profile.proof.names_config() && self.life.running().is_some() {
            self.reload.lacking = Some(reason.to_owned());
            self.proof_probe.begin(now.mono);
        }
    }

    /// The child has proven its config.
    pub(super) fn reload_proven(&mut self) {
        self.reload.open = false;
        self.reload.lacking = None;
        if std::mem::take(&mut self.reload.replaced) {
            self.reload.failures = self.reload.failures.saturating_add(1);
            self.count("failed_reloads");
            let fields = vec![("times", self.reload.failures.to_string())];
            self.note(
                NoteLevel::Warn,
                "a HUP came to nothing, a new process runs the config",
                fields,
            );
        }
    }

    /// Whether the child has shown that it took up the last HUP.
    pub(super) fn shows_reload(&self) -> bool {
        match self.settings.profile.proof {
            Proof::Output { .. } => self.reload.said == Some(Ok(())),
            _ => self.proof_probe.good == Some(true),
        }
    }

    /// What the output said after the HUP that the running process got.
    pub(super) fn said_after_hup(&self) -> Heard<'_> {
        let running = self.life.running().map(|child| child.pid);
        match &self.reload.said {
            _ if running.is_none() || self.reload.told != running => Heard::NotTold,
            None => Heard::Nothing,
            Some(Ok(())) => Heard::Reloaded,
            Some(Err(line)) => Heard::Refused(line),
        }
    }

    /// Judges an answer with the count of reloads: greater than before the HUP, or any from a new process.
    pub(super) fn judge_count(&self, answer: &HttpAnswer) -> Result<(), String> {
        let count = self.count_of(answer)?;
        let running = self.life.running().map(|child| child.pid);
        match self.reload.before {
            _ if running.is_none() || self.reload.told != running => Ok(()),
            Some(before) if count > before => Ok(()),
            Some(before) => Err(format!(
                "{before} reloads before the HUP and {count} after it"
            )),
            None => Err("the reloads before the HUP are not counted yet".to_owned()),
        }
    }

    fn count_of(&self, answer: &HttpAnswer) -> Result<u64, String> {
        let Proof::Http {
            counter: Some(path),
            ..
        } = &self.settings.profile.proof
        else {
            return Err("the profile names no counter".to_owned());
        };
        if !(200..=299).contains(&answer.status) {
            return Err(format!("the answer has status {}", answer.status));
        }
        let body: serde_json::Value =
            serde_json::from_str(&answer.body).map_err(|_| "the answer is not JSON".to_owned())?;
        path.split('.')
            .try_fold(&body, |value, key| value.get(key))
            .and_then(serde_json::Value::as_u64)
            .ok_or_else(|| format!("the answer has no number {path:?}"))
    }

    /// What the last answer means for a process that came up by itself.
    pub(super) fn note_config_shown(&mut self) {
        if self.reload.lacking.is_some() {
            self.reload.lacking = match self.proof_probe.good {
                Some(true) => None,
                _ => Some(self.proof_probe.error.clone()),
            };
        }
    }

    /// Why it is not known that the child runs its config, while no rollout watches it.
    pub(super) fn lacks_proof(&self) -> Option<&str> {
        let watched = self.watched_hash().is_some();
        self.reload.lacking.as_deref().filter(|_| !watched)
    }
}

impl ReloadMemory {
    fn forget_hup(&mut self) {
        self.told = None;
        self.open = false;
        self.looking = None;
        self.preparing = None;
        self.listening = None;
        self.said = None;
        self.before = None;
        self.replaced = false;
    }
}
