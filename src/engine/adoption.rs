//! A child that an earlier life of ours left behind goes on as ours.
//!
//! Promises: a child is taken over only when it is known what it was told to run and that this is what it would be
//! given now; what was promoted and not told any more is told as usual; everything else is stopped by the ladder
//! before a new one starts, and the reason is said. Until it has had time to find us again, a child that had proven
//! its config counts as well.
//! Must never: restart a child that runs what it should, or take over one that was told to end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{HealthProbe, OnDeath, Process, Reload};
use crate::engine::message::{
    ChildIdentity, ChildNote, DiskWork, Leftover, NoteLevel, SpawnSpec, Step,
};
use crate::engine::{Engine, desired};
use crate::units::{Moment, Now, RevisionHash, RevisionId};

/// How long a child may take to connect to us again. The client of a Collector's extension waits up to a minute, half
/// as much again by its jitter, after we were away for long.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// A child of an earlier life, while it runs.
#[derive(Debug)]
pub(crate) struct Adoption {
    pid: u32,
    /// It had proven its config and has not been heard of yet: until when that counts for health.
    trusted_until: Option<Moment>,
    /// Until when it may take to be heard of.
    patience: Moment,
    /// What it was told last, where that has to be told anew.
    behind: Option<RevisionId>,
    /// The pairs it has read, by certificate.
    pairs: BTreeMap<String, String>,
    /// It runs a program that is not there any more.
    outdated: bool,
}

/// A hash over how a child is started. What decides where its output goes is none of its matter, and what is written
/// down about it neither.
pub(super) fn fingerprint(spec: &SpawnSpec) -> String {
    let SpawnSpec {
        program,
        args,
        env,
        inherit,
        passthrough: _,
        death_signal,
        process,
        note: _,
    } = spec;
    let program = program.to_string_lossy();
    // One text for each list, so that their order counts; NUL is in none of them.
    let args = args.join("\0");
    let inherit = inherit.join("\0");
    let env: Vec<String> = env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let env = env.join("\0");
    let mut parts = vec![
        ("program", "", program.as_bytes()),
        ("args", "", args.as_bytes()),
        ("inherit", "", inherit.as_bytes()),
        ("env", "", env.as_bytes()),
    ];
    // Only where it is set: a version that knows more about a start must not find every child changed.
    let death_signal = death_signal.map(|signal| signal.to_string());
    if let Some(signal) = &death_signal {
        parts.push(("death_signal", "", signal.as_bytes()));
    }
    let process = (*process != Process::default()).then(|| format!("{process:?}"));
    if let Some(process) = &process {
        parts.push(("process", "", process.as_bytes()));
    }
    RevisionHash::of(parts).to_hex()
}

impl Engine {
    /// What is written down about the child that is told now.
    pub(super) fn child_note(&self, by_hup: bool, start: String) -> ChildNote {
        ChildNote {
            revision: self.current.as_ref().map(|current| current.id.clone()),
            by_hup,
            start,
            link: self.places.link.clone(),
            pairs: BTreeMap::new(),
            outdated: false,
        }
    }

    /// Takes the child of an earlier life over, or stops it.
    pub(super) fn take_over(&mut self, now: Now, leftover: Leftover) {
        let Leftover { child, note } = leftover;
        let pid = child.pid.to_string();
        match note.and_then(|note| self.may_go_on(note)) {
            Ok((note, behind)) => self.adopt(now, child, note, behind),
            Err(reason) => {
                let fields = vec![("process.pid", pid), ("reason", reason)];
                self.note(NoteLevel::Warn, "left-over child found", fields);
                let orders = self.life.stop_leftover(now.mono, child);
                self.obey(orders);
            }
        }
    }

    /// Whether the child may go on; what it was told before, where it has to be told anew; or why not.
    fn may_go_on(&self, note: ChildNote) -> Result<(ChildNote, Option<RevisionId>), String> {
        if self.settings.on_our_death != OnDeath::Adopt {
            return Err("on_supervisor_death says that it ends with us".to_owned());
        }
        let current = self.current.as_ref();
        let Some(current) = current.filter(|current| !desired::is_empty(&current.files)) else {
            return Err("there is nothing for it to run".to_owned());
        };
        let rejected = self.rejected.iter().any(|bad| bad.hash == current.hash);
        if rejected && self.last_good.as_ref() != Some(&current.id) {
            return Err("its config was rejected".to_owned());
        }
        let Some(told) = note.revision.clone() else {
            return Err("what it runs was not written down".to_owned());
        };
        if note.start != fingerprint(&self.spawn_spec()) {
            return Err(
                "it would be started in another way now: program, arguments or environment changed"
                    .to_owned(),
            );
        }
        let last = self.history.back();
        let open = last.filter(|record| {
            !record.step.is_final() && record.revision.as_ref() == Some(&current.id)
        });
        // A proof that only shows that a reload happened cannot be asked for a HUP of an earlier life.
        let unseen = note.by_hup
            && self.settings.profile.proof.counts_reloads()
            && self.last_good.as_ref() != Some(&current.id)
            && !self.passed_proof(&current.id);
        if told == current.id && !unseen {
            return Ok((note, None));
        }
        if open.is_some() && self.settings.apply.reload == Reload::Hup {
            return Ok((note, Some(told)));
        }
        Err(format!(
            "it was told to run {told}, and {} is current",
            current.id
        ))
    }

    /// Whether the last transaction of a revision got as far as its window.
    fn passed_proof(&self, id: &RevisionId) -> bool {
        let records = self.history.iter().rev();
        records
            .filter(|record| record.revision.as_ref() == Some(id))
            .take_while(|record| record.step != Step::Signalled)
            .any(|record| matches!(record.step, Step::Probation | Step::Committed))
    }

    fn adopt(
        &mut self,
        now: Now,
        child: ChildIdentity,
        note: ChildNote,
        behind: Option<RevisionId>,
    ) {
        let patience = now.mono.after(PATIENCE);
        let proven = note.revision.is_some() && note.revision == self.last_good;
        let mut fields = vec![("process.pid", child.pid.to_string())];
        if let Some(told) = &note.revision {
            fields.push(("revision", told.to_string()));
        }
        self.adoption = Some(Adoption {
            pid: child.pid,
            trusted_until: proven.then_some(patience),
            patience,
            behind,
            pairs: note.pairs,
            outdated: note.outdated,
        });
        if note.outdated {
            let how = "as it is; its program was replaced, and a restart runs the new one";
            fields.push(("how", how.to_owned()));
        }
        self.note(NoteLevel::Info, "child adopted", fields);
        self.count("adoptions");
        self.life.adopt(now.mono, child);
        match self.settings.profile.health {
            HealthProbe::Http { .. } | HealthProbe::Exec { .. } => {
                self.health_probe.begin(now.mono);
            }
            HealthProbe::LocalLink | HealthProbe::Process => {}
        }
        if !proven {
            self.reload_ends_with_process(now);
        }
    }

    /// An adopted child ends, or is heard of.
    pub(super) fn follow_adoption(&mut self, now: Now) {
        let Some(adoption) = &mut self.adoption else {
            return;
        };
        if self
            .life
            .process()
            .is_none_or(|child| child.pid != adoption.pid)
        {
            self.adoption = None;
            return;
        }
        let heard = self.child.health.is_some() || self.health_probe.good.is_some();
        if heard
            || adoption
                .trusted_until
                .is_some_and(|until| until <= now.mono)
        {
            adoption.trusted_until = None;
        }
    }

    /// When it has to be looked at.
    pub(super) fn adoption_due(&self) -> Option<Moment> {
        self.adoption.as_ref()?.trusted_until
    }

    /// Whether the child that runs is one of an earlier life.
    pub(super) fn is_adopted(&self) -> bool {
        self.adoption.is_some()
    }

    /// Whether the child runs a program that was replaced since: then its next change is a restart.
    pub(super) fn runs_old_program(&self) -> bool {
        self.adoption.as_ref().is_some_and(|it| it.outdated)
    }

    /// Whether it counts as well although it has said nothing yet.
    pub(super) fn is_trusted(&self) -> bool {
        let adoption = self.adoption.as_ref();
        adoption.is_some_and(|adoption| adoption.trusted_until.is_some())
    }

    /// Until when an adopted child may take to find us again; none when it is another one.
    pub(super) fn adoption_patience(&self) -> Option<Moment> {
        let adoption = self.adoption.as_ref()?;
        let silent = self.child.health.is_none();
        let linked = self.places.link.is_some();
        (silent && linked).then_some(adoption.patience)
    }

    /// What an adopted child was told last, where it has to be told anew; once.
    pub(super) fn take_behind(&mut self) -> Option<RevisionId> {
        self.adoption.as_mut()?.behind.take()
    }

    /// Reads what the child runs, to see how it can be told what it should.
    pub(super) fn recall(&mut self, told: RevisionId) {
        use crate::engine::disk::Purpose;
        self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(told));
    }

    /// Pairs that became live after an adopted child was told last are owed to it.
    pub(super) fn owe_unread_pairs(&mut self) {
        let Some(adoption) = &mut self.adoption else {
            return;
        };
        let files = self
            .current
            .as_ref()
            .map_or(&[][..], |current| &current.files);
        for entry in self.certificates.used_by(&self.settings, files) {
            let Some(live) = &entry.live else { continue };
            let read = adoption
                .pairs
                .insert(entry.name.to_string(), live.id.to_string());
            if read.as_deref() != Some(live.id.as_str()) && !self.debt.owed.contains(&entry.name) {
                self.debt.owed.push(entry.name.clone());
            }
        }
    }
}
