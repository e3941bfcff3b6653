//! A new pair is on disk: the child that uses it has to read it.
//!
//! Promises: a child is told once for each new pair, by HUP where a HUP is what its configs are reloaded by, else by a
//! restart; what could not be told yet (a rollout is under way, the child is still coming up) stays owed; where the
//! profile has a proof that can be asked for, the HUP is repeated once without it, and then the child is restarted. A
//! process that was started after the pair was there owes nothing.
//! Must never: undo a renewal, or disturb a rollout.

use opamp_client::messages::ComponentHealth;

use crate::config::{Proof, Reload};
use crate::engine::certificates::Known;
use crate::engine::message::NoteLevel;
use crate::engine::{Engine, Outcome, report};
use crate::units::{CertificateName, Moment, Now};

/// HUPs for one pair; after the last without a proof comes a restart.
const HUPS_MAX: u32 = 2;

/// What the child still has to be told.
#[derive(Debug, Default)]
pub(crate) struct PairDebt {
    /// Pairs it may not have read.
    pub(super) owed: Vec<CertificateName>,
    /// When it was told: until when a proof is waited for, and how often it was told.
    told: Option<(Moment, u32)>,
}

impl Engine {
    /// The host's certificates changed; `renewed` are those with a new live pair.
    pub(crate) fn set_certificates(
        &mut self,
        now: Now,
        known: &Known,
        renewed: &[CertificateName],
    ) -> Outcome {
        self.know_certificates(known);
        self.owe_unread_pairs();
        let files = self
            .current
            .as_ref()
            .map_or(&[][..], |current| &current.files);
        let used: Vec<CertificateName> = self
            .certificates
            .used_by(&self.settings, files)
            .map(|entry| entry.name.clone())
            .filter(|name| renewed.contains(name))
            .collect();
        if self.life.running().is_some() {
            for name in used {
                if !self.debt.owed.contains(&name) {
                    self.debt.owed.push(name);
                }
                self.debt.told = None;
            }
        }
        self.tick(now)
    }

    /// What is known before anything has started.
    pub(crate) fn know_certificates(&mut self, known: &Known) {
        self.certificates.clone_from(known);
    }

    /// The certificates that the agent uses, as components of its health. They change only when something happened.
    pub(crate) fn certificate_health(&self, now: Now) -> Vec<(String, ComponentHealth)> {
        let files = self
            .current
            .as_ref()
            .map_or(&[][..], |current| &current.files);
        let used = self.certificates.used_by(&self.settings, files);
        used.map(|entry| {
            let status = match &entry.live {
                Some(pair) if pair.not_after <= now.wall => format!("expired {}", pair.not_after),
                Some(pair) => format!("valid until {}", pair.not_after),
                None => "no pair yet".to_owned(),
            };
            let live = entry.live.as_ref();
            let valid = live.is_some_and(|pair| pair.not_after > now.wall);
            let health = ComponentHealth {
                healthy: valid && entry.error.is_empty(),
                last_error: report::bounded(&entry.error),
                status,
                ..ComponentHealth::default()
            };
            (format!("certificate.{}", entry.name), health)
        })
        .collect()
    }

    /// A new process, or one that was just told to read everything again, owes nothing.
    pub(crate) fn forget_debt(&mut self) {
        if self.debt.told.is_some() {
            // It was begun for the debt; nobody waits for its answer any more.
            self.proof_probe.stop();
        }
        self.debt = PairDebt::default();
    }

    /// Tells the child what is owed, when that disturbs nothing.
    pub(crate) fn pay_debt(&mut self, now: Now) {
        if self.debt.owed.is_empty() || self.stopping {
            return;
        }
        if self.is_changing() {
            // Whatever comes of it, the debt stands until the child was really told.
            self.debt.told = None;
            return;
        }
        let Some(pid) = self.life.running().map(|child| child.pid) else {
            return;
        };
        let by_hup = self.settings.apply.reload == Reload::Hup;
        let asked = matches!(
            self.settings.profile.proof,
            Proof::Exec(_) | Proof::Http { .. } | Proof::Output { .. }
        );
        let times = match self.debt.told {
            Some(_) if self.shows_reload() => {
                self.reload_proven();
                self.note(NoteLevel::Info, "new certificate taken up", vec![]);
                return self.forget_debt();
            }
            Some((until, _)) if until > now.mono => return,
            Some((_, times)) => times,
            None => 0,
        };
        if !by_hup || times >= HUPS_MAX {
            let why = if by_hup {
                "no proof after HUP"
            } else {
                "its configs are reloaded that way"
            };
            let fields = vec![("how", format!("restart: {why}"))];
            self.note(
                NoteLevel::Info,
                "child told about a new certificate",
                fields,
            );
            self.count("certificate_reloads");
            self.forget_debt();
            return self.restart_child(now);
        }
        // A program that has not come up yet may not have its handler: HUP would end it.
        if !self.child_health().0 && self.hup_after().is_some_and(|at| at > now.mono) {
            return;
        }
        let fields = vec![("how", "hup".to_owned()), ("process.pid", pid.to_string())];
        self.note(
            NoteLevel::Info,
            "child told about a new certificate",
            fields,
        );
        self.count("certificate_reloads");
        self.hup(pid);
        if asked {
            let until = now.mono.after(self.settings.apply.proof_timeout);
            self.debt.told = Some((until, times.saturating_add(1)));
            self.proof_probe.begin(now.mono);
        } else {
            self.forget_debt();
        }
    }

    /// Whether a HUP for a pair was sent and waits for its proof.
    pub(crate) fn reload_is_awaited(&self) -> bool {
        self.debt.told.is_some()
    }

    /// When the debt wants to be looked at.
    pub(crate) fn debt_due(&self) -> Option<Moment> {
        let nobody = self.life.running().is_none();
        if self.debt.owed.is_empty() || self.stopping || nobody || self.is_changing() {
            return None;
        }
        match self.debt.told {
            Some((until, _)) => Some(until),
            None => self.hup_after(),
        }
    }

    /// An unhealthy child gets its HUP all the same after this long: what ails it may be the old pair.
    fn hup_after(&self) -> Option<Moment> {
        let up = self.life.up_since()?;
        Some(up.after(self.settings.apply.proof_timeout))
    }

    /// Whether a rollout is about to tell the child something, or waits for what it says.
    fn is_changing(&self) -> bool {
        let waits = |transaction: &super::rollout::Transaction| transaction.is_awaiting();
        let busy = self.transaction.as_ref().is_some_and(|it| !waits(it));
        busy || self.settling.is_some()
    }
}
