//! The certificates of the host: which pair is live, when the next one is wanted, and how often an authority is asked.
//!
//! Promises: one order at a time on the whole host and one per certificate, whatever the number of agents; a new
//! domain is ordered at once, a failure backs off inside what authorities allow (four begun orders an hour for one set
//! of names) and never sooner than the authority asked for; what was tried survives our death, so that dying in a loop
//! does not use up the limit. The live pair is given up only for another live one. Expiry is judged by the wall clock
//! as it stands at each look, so neither suspend nor a jump of the clock hides a due renewal; a clock that stands
//! before the live pair's own beginning is not believed.
//! Must never: know how a pair is stored or fetched, or tell a child anything: it says what changed.

mod entry;
mod known;
mod pace;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use known::{DIRECTORY_VARIABLE, Known, KnownCertificate, entry_domains};

use crate::config::{Certificate, CertificateSource, Domains};
use crate::engine::message::{
    CertificateDone, CertificateFault, CertificateSnapshot, Effect, NoteLevel,
};
use crate::engine::random::Random;
use crate::units::{AgentName, CertificateName, Domain, Moment, Now, Ticket, WallTime};
use entry::{Doing, Entry};

/// What certificates are built from.
#[derive(Debug, Default)]
pub struct CertificatesSetup {
    /// The settings.
    pub list: Vec<Certificate>,
    /// `certificates/` in the state directory, as configs name it.
    pub directory: PathBuf,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What a step came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) effects: Vec<Effect>,
    /// Pairs that became live just now.
    pub(crate) renewed: Vec<CertificateName>,
}

/// The certificates of the host.
#[derive(Debug)]
pub(crate) struct Certificates {
    entries: Vec<Entry>,
    directory: PathBuf,
    random: Random,
    next_ticket: u64,
    stopping: bool,
    out: Outcome,
}

impl Certificates {
    pub(crate) fn new(setup: CertificatesSetup) -> Self {
        Self {
            entries: setup.list.into_iter().map(Entry::new).collect(),
            directory: setup.directory,
            random: Random::seeded(setup.seed),
            next_ticket: 0,
            stopping: false,
            out: Outcome::default(),
        }
    }

    /// Whether there is nothing to do and never was.
    pub(crate) fn are_none(&self) -> bool {
        self.entries.is_empty() && self.out.effects.is_empty()
    }

    /// Takes over changed settings; what is stored stays stored.
    pub(crate) fn set(&mut self, list: Vec<Certificate>) {
        let mut before = std::mem::take(&mut self.entries);
        for settings in list {
            let same = before
                .iter()
                .position(|entry| entry.settings.name == settings.name);
            let entry = match same.map(|at| before.swap_remove(at)) {
                Some(mut entry) => {
                    if let Domains::Fixed(domains) = &settings.domains {
                        entry.domains.clone_from(domains);
                    } else if matches!(entry.settings.domains, Domains::Fixed(_)) {
                        entry.domains.clear();
                    }
                    // The operator may have mended what failed.
                    entry.checked_at = None;
                    entry.settings = settings;
                    entry
                }
                None => Entry::new(settings),
            };
            self.entries.push(entry);
        }
        for gone in before {
            if let Doing::Ordering { ticket, .. } = gone.doing {
                self.out.effects.push(Effect::CancelCertificate { ticket });
            }
        }
    }

    /// Files of the operator are looked at now: the clock was set, or the machine woke up, and a pair of theirs may be
    /// over, or valid, since.
    pub(crate) fn look_at_files(&mut self) {
        for entry in &mut self.entries {
            if matches!(entry.settings.source, CertificateSource::Files { .. }) {
                entry.checked_at = None;
            }
        }
    }

    /// Where the domains of a certificate come from, for those that follow a bundle.
    pub(crate) fn followed(&self) -> Vec<(usize, AgentName, String)> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter_map(|(at, entry)| match &entry.settings.domains {
                Domains::FromBundle { agent, file } => Some((at, agent.clone(), file.clone())),
                Domains::Fixed(_) => None,
            })
            .collect()
    }

    /// The domains that the followed bundle names now; none at all ends the renewals and keeps the pair.
    pub(crate) fn want(&mut self, at: usize, domains: Vec<Domain>) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        if entry.domains == domains {
            return;
        }
        let names: Vec<&str> = domains.iter().map(Domain::as_str).collect();
        let fields = vec![("domains", names.join(" "))];
        entry.domains = domains;
        entry.error.clear();
        entry.checked_at = None;
        let note = entry.note(
            NoteLevel::Info,
            "certificate is for other domains now",
            fields,
        );
        self.out.effects.push(Effect::Note(note));
    }

    /// A person wants a new pair now.
    pub(crate) fn renew(
        &mut self,
        now: Now,
        name: Option<&CertificateName>,
    ) -> Result<String, String> {
        let known = || {
            let names = self
                .entries
                .iter()
                .map(|entry| entry.settings.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        if self.entries.is_empty() {
            return Err(
                "no certificates are set up; add `certificates:` to the settings".to_owned(),
            );
        }
        if let Some(name) = name
            && !self
                .entries
                .iter()
                .any(|entry| &entry.settings.name == name)
        {
            return Err(format!(
                "no certificate is named {name}; there are: {}",
                known()
            ));
        }
        let mut taken = Vec::new();
        for entry in &mut self.entries {
            if name.is_some_and(|name| name != &entry.settings.name) {
                continue;
            }
            if let Err(reason) = entry.force(now) {
                return Err(format!("certificate {}: {reason}", entry.settings.name));
            }
            taken.push(entry.settings.name.to_string());
        }
        Ok(format!("renewing {}", taken.join(", ")))
    }

    /// Nothing new is begun any more.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        for entry in &mut self.entries {
            if let Doing::Ordering { ticket, .. } = entry.doing {
                entry.doing = Doing::Nothing;
                self.out.effects.push(Effect::CancelCertificate { ticket });
            }
        }
    }

    /// An answer came.
    pub(crate) fn answered(
        &mut self,
        now: Now,
        ticket: Ticket,
        result: Result<CertificateDone, CertificateFault>,
    ) {
        let found = self
            .entries
            .iter_mut()
            .find(|entry| entry.doing.ticket() == Some(ticket));
        // One that was called off, or an answer given twice.
        let Some(entry) = found else { return };
        let doing = std::mem::replace(&mut entry.doing, Doing::Nothing);
        if self.stopping {
            // Nothing new is begun; what is on disk is found by the next life.
            return;
        }
        match result {
            Ok(done) => entry.done(now, doing, done, &mut self.next_ticket, &mut self.out),
            Err(fault) => {
                entry.failed(now, &doing, &fault, &mut self.random, &mut self.out);
                entry.write_down(&doing, &fault, &mut self.next_ticket, &mut self.out);
            }
        }
    }

    /// Does what has come due.
    pub(crate) fn drive(&mut self, now: Now) -> Outcome {
        if !self.stopping {
            for at in 0..self.entries.len() {
                let others = self.entries.iter().enumerate();
                let busy = others
                    .filter(|(other, _)| *other != at)
                    .any(|(_, entry)| entry.is_ordering());
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.drive(now, busy, &mut self.next_ticket, &mut self.out);
                }
            }
        }
        std::mem::take(&mut self.out)
    }

    /// The next moment it wants to be called.
    pub(crate) fn due(&self, now: Now) -> Option<Moment> {
        if self.stopping {
            return None;
        }
        let busy = self.entries.iter().any(Entry::is_ordering);
        let due = self.entries.iter().filter_map(|entry| entry.due(now, busy));
        due.min()
    }

    /// What engines are told.
    pub(crate) fn known(&self) -> Known {
        let entries = self.entries.iter().map(Entry::known);
        Known::new(&self.directory, entries)
    }

    /// Everything a door may show.
    pub(crate) fn snapshot(&self, now: Now) -> Vec<CertificateSnapshot> {
        self.entries
            .iter()
            .map(|entry| entry.snapshot(now))
            .collect()
    }
}

fn later(at: WallTime, span: Duration) -> WallTime {
    let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    WallTime::from_unix_millis(at.unix_millis().saturating_add(span))
}
