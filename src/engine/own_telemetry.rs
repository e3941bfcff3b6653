//! Where the server wants an agent's own telemetry: a layer of its config, tried like any other config.
//!
//! Promises: destinations that the child has not proven are tried alone, so that a bad one is not blamed on an offered
//! config and the other way round; until they are proven every other config is composed without them; what became of
//! them is answered once, within a bound. The status of the server's remote config never changes because of them.
//! Must never: touch the disk, hold a header or a key longer than it takes to hand it to the disk, or report.

use std::collections::BTreeMap;
use std::time::Duration;

use opamp_client::messages::{AgentCapabilities, ConnectionSettingsOffers};
use opamp_client::settings::{Class, Destination};

use crate::config::telemetry::Directed;
use crate::config::{Composition, Layer};
use crate::engine::desired::telemetry::{self, Exporter};
use crate::engine::desired::{self, Candidate, OWN_TELEMETRY_FILE, Refused};
use crate::engine::disk::Purpose;
use crate::engine::message::{
    DiskFault, DiskWork, Material, NoteLevel, OfferedFile, Origin, Revision, RevisionFile, Step,
};
use crate::engine::rollout::{Job, Source};
use crate::engine::{Engine, report};
use crate::units::{Moment, Now};

/// How long destinations wait for their turn. Connection settings give up after a minute.
const TURN_MAX: Duration = Duration::from_secs(50);

/// What is known of the destinations of an agent's own telemetry.
#[derive(Debug, Default)]
pub(crate) struct OwnTelemetry {
    /// In force: every config is composed with them.
    accepted: BTreeMap<Class, Exporter>,
    /// What ran before anything was known of destinations in this life; until something is, it stays.
    inherited: Option<String>,
    /// Whether what an earlier life stored was taken up.
    begun: bool,
    trial: Option<Trial>,
    /// What was in force before, while the window of the transaction that proved the present ones has not ended.
    before: Option<(u64, BTreeMap<Class, Exporter>)>,
    given_up: GivenUp,
    /// What became of orders, until somebody asks.
    outcomes: Vec<(u64, Result<(), String>)>,
}

/// What the child did not hold; it is not tried again in this life.
#[derive(Debug, Default, PartialEq, Eq)]
enum GivenUp {
    #[default]
    Nothing,
    /// The layer of what was in force, if it had one.
    Layer(Option<String>),
}

#[derive(Debug)]
struct Trial {
    wanted: BTreeMap<Class, Exporter>,
    /// Whom to answer.
    tickets: Vec<u64>,
    give_up_at: Moment,
    stage: TrialStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrialStage {
    /// Files that the layer names are on their way to the disk.
    Keeping,
    /// Something else is being applied.
    Waiting,
    /// This transaction carries it.
    Running(u64),
}

impl OwnTelemetry {
    /// The layer in force; none where the child did not hold it, so that no config is blamed for it.
    pub(crate) fn layer(&self) -> Option<String> {
        self.known_layer().filter(|_| !self.is_given_up())
    }

    fn known_layer(&self) -> Option<String> {
        telemetry::layer(&self.accepted).or_else(|| self.inherited.clone())
    }

    fn is_given_up(&self) -> bool {
        matches!(&self.given_up, GivenUp::Layer(layer) if *layer == self.known_layer())
    }

    /// At the start: what runs.
    pub(crate) fn of(current: Option<&Revision>) -> Self {
        let layer = current.and_then(|current| layer_of(&current.files));
        Self {
            inherited: layer.map(str::to_owned),
            ..Self::default()
        }
    }

    fn trial_layer(&self) -> Option<String> {
        telemetry::layer(
            self.trial
                .as_ref()
                .map_or(&self.accepted, |trial| &trial.wanted),
        )
    }

    /// Forgets what the settings leave to no server any more.
    fn leave_to_server(&mut self, kinds: u64) {
        let trial = self.trial.as_mut().map(|trial| &mut trial.wanted);
        let before = self.before.as_mut().map(|(_, before)| before);
        for exporters in [Some(&mut self.accepted), trial, before]
            .into_iter()
            .flatten()
        {
            exporters.retain(|class, _| is_directed(class, kinds));
        }
        if kinds == 0 {
            self.inherited = None;
        }
    }

    /// Whoever gave orders is not there any more; who comes after him counts his own from the beginning.
    pub(super) fn forget_orders(&mut self) {
        self.outcomes.clear();
        if let Some(trial) = &mut self.trial {
            trial.tickets.clear();
        }
    }

    /// What became of orders since it was asked last.
    pub(crate) fn take_outcomes(&mut self) -> Vec<(u64, Result<(), String>)> {
        std::mem::take(&mut self.outcomes)
    }

    /// The signals that are sent somewhere, for doors.
    pub(crate) fn signals(&self) -> Vec<String> {
        self.accepted.keys().map(ToString::to_string).collect()
    }

    pub(super) fn due(&self) -> Option<Moment> {
        let waits = |trial: &&Trial| trial.stage == TrialStage::Waiting;
        self.trial
            .as_ref()
            .filter(waits)
            .map(|trial| trial.give_up_at)
    }
}

impl Engine {
    /// The server wants own telemetry of a class somewhere, or nowhere. What becomes of it is one of
    /// [`OwnTelemetry::take_outcomes`].
    pub(crate) fn order_destination(
        &mut self,
        now: Now,
        ticket: u64,
        class: Class,
        destination: Option<&Destination>,
    ) {
        self.own.inherited = None;
        let exporter = match self.exporter(&class, destination) {
            Ok(exporter) => exporter,
            Err(reason) => {
                if !self.own.begun {
                    // Nobody waits for an answer about what an earlier life left.
                    let fields = vec![("reason", report::bounded(&reason))];
                    self.note(NoteLevel::Warn, "own telemetry not set up", fields);
                }
                return self.own.outcomes.push((ticket, Err(reason)));
            }
        };
        if !self.own.begun {
            // Proven in an earlier life.
            if let Some(exporter) = exporter {
                self.own.accepted.insert(class, exporter);
            }
            return;
        }
        let accepted = &self.own.accepted;
        let running = |trial: &Trial| matches!(trial.stage, TrialStage::Running(_));
        // Orders of one offer come one after the other and are tried together.
        let (mut wanted, mut tickets) = match self.own.trial.take() {
            Some(trial) if !running(&trial) => (trial.wanted, trial.tickets),
            _ => (accepted.clone(), Vec::new()),
        };
        match exporter {
            Some(exporter) => wanted.insert(class, exporter),
            None => wanted.remove(&class),
        };
        tickets.push(ticket);
        self.own.given_up = GivenUp::Nothing;
        self.keep_material(wanted, tickets, now.mono.after(TURN_MAX));
    }

    /// The exporter of a destination that may be used here; none where it is withdrawn.
    fn exporter(
        &self,
        class: &Class,
        destination: Option<&Destination>,
    ) -> Result<Option<Exporter>, String> {
        let Some(destination) = destination else {
            return Ok(None);
        };
        let layered = self.settings.profile.composition == Composition::OtelLayers;
        let reason = match &self.frozen {
            _ if !layered => "this kind of agent has no layer for it",
            _ if !is_directed(class, self.settings.own_telemetry.kinds) => {
                "the settings do not leave it to a server"
            }
            Some(frozen) => frozen,
            None => return telemetry::exporter(class, destination).map(Some),
        };
        Err(format!("{class}: {reason}"))
    }

    /// Where the server wanted it under another supervisor, where one left that; told once.
    pub(super) fn take_destinations(&mut self) -> Option<Box<ConnectionSettingsOffers>> {
        self.inheritance.as_mut()?.destinations.take()
    }

    /// Says what of that is used here.
    pub(super) fn note_taken_over(&mut self) {
        let fields = vec![("to", self.own.signals().join(" "))];
        let message = "destinations of own telemetry of opampsupervisor taken over";
        self.note(NoteLevel::Info, message, fields);
    }

    /// The settings say anew which kinds a server may direct: what it may not any more goes with the next config, and
    /// what was offered before is taken up again where it may now. The link stands.
    pub(super) fn direct_anew(&mut self, now: Now) {
        self.own.leave_to_server(self.settings.own_telemetry.kinds);
        let left = self.is_on_candidate();
        self.rebuild_connection(now);
        let elsewhere = left || self.settings_in_use() != "local";
        if elsewhere {
            let order = self.uplink.begin_anew(now.mono);
            self.part(now, order.as_ref());
        } else if self.uplink.live().is_some() {
            self.connection_up(now);
            if self.uplink.is_heard() {
                self.connection_heard();
                self.connection_answered(now, &[]);
            }
        }
    }

    /// What an earlier life stored is known now; `known` says whether there was anybody to know it.
    pub(crate) fn own_telemetry_begins(&mut self, known: bool) {
        self.own.begun = true;
        if known || self.settings.own_telemetry.kinds == 0 {
            self.own.inherited = None;
        }
        let files = self
            .own
            .accepted
            .values()
            .flat_map(|exporter| exporter.material.clone());
        let files: Vec<Material> = files.collect();
        if !files.is_empty() {
            // They are there, unless somebody removed them.
            self.push_disk(Purpose::Material, DiskWork::KeepMaterial(files));
        }
    }

    /// Composes what a job asks for with the layer in force.
    pub(crate) fn composed(&self, files: &[OfferedFile]) -> Result<Candidate, Refused> {
        self.composed_with(files, self.own.layer().as_deref())
    }

    /// What runs, with the layer on trial in it. Of the local layers it has the copies that run, because those on disk
    /// may have been refused, and which there are may have changed since.
    pub(crate) fn composed_on_trial(&self) -> Result<Candidate, Refused> {
        let files = self.current.as_ref().map_or(&[][..], |it| &it.files);
        let local = desired::local(files);
        let paths: Vec<_> = local.iter().map(|file| file.path.clone()).collect();
        let mut settings = self.settings.clone();
        if self.local_paths() != paths {
            let is_local = |layer: &Layer| matches!(layer, Layer::Local(_));
            let first = settings.layers.iter().position(is_local).unwrap_or(0);
            settings.layers.retain(|layer| !is_local(layer));
            let copies = paths.into_iter().map(Layer::Local);
            settings.layers.splice(first..first, copies);
        }
        let (offered, layer) = (desired::offered(files), self.own.trial_layer());
        desired::compose_with(&settings, &self.places, &local, &offered, layer.as_deref())
    }

    /// The built-in default config with the layer in force; none where there is no default.
    pub(crate) fn composed_default(&self) -> Option<Result<Candidate, Refused>> {
        let layer = self.own.layer();
        desired::compose_default(&self.settings, &self.places, layer.as_deref())
    }

    /// The same with other local layers.
    #[cfg(feature = "layers")]
    pub(crate) fn composed_of(
        &self,
        local: &[super::message::LocalFile],
        files: &[OfferedFile],
    ) -> Result<Candidate, Refused> {
        let layer = self.own.layer();
        desired::compose_with(&self.settings, &self.places, local, files, layer.as_deref())
    }

    fn composed_with(
        &self,
        files: &[OfferedFile],
        layer: Option<&str>,
    ) -> Result<Candidate, Refused> {
        let (settings, places, local) = (&self.settings, &self.places, &self.local);
        desired::compose_with(settings, places, local, files, layer)
    }

    fn keep_material(
        &mut self,
        wanted: BTreeMap<Class, Exporter>,
        tickets: Vec<u64>,
        give_up_at: Moment,
    ) {
        let mut material: Vec<Material> = Vec::new();
        for file in wanted.values().flat_map(|exporter| &exporter.material) {
            if !material.contains(file) {
                material.push(file.clone());
            }
        }
        let stage = if material.is_empty() {
            TrialStage::Waiting
        } else {
            self.push_disk(Purpose::Material, DiskWork::KeepMaterial(material));
            TrialStage::Keeping
        };
        self.own.trial = Some(Trial {
            wanted,
            tickets,
            give_up_at,
            stage,
        });
    }

    /// The files that a layer names are on disk, or are not.
    pub(super) fn material_kept(&mut self, fault: Option<&DiskFault>) {
        match (fault, &mut self.own.trial) {
            (Some(fault), Some(_)) => self.end_trial(Err(&fault.reason)),
            (None, Some(trial)) if trial.stage == TrialStage::Keeping => {
                trial.stage = TrialStage::Waiting;
            }
            _ => {}
        }
    }

    /// Moves a trial along, and brings what runs to the destinations in force. Called in every step.
    pub(super) fn follow_own_telemetry(&mut self, now: Now) {
        self.look_at_window();
        match self
            .own
            .trial
            .as_ref()
            .map(|trial| (trial.stage, trial.give_up_at))
        {
            Some((TrialStage::Running(number), _)) => self.look_at_trial(number),
            Some((TrialStage::Waiting, give_up_at)) if give_up_at <= now.mono => {
                self.end_trial(Err("another config was being applied all the time"));
            }
            Some((TrialStage::Waiting, _)) => self.begin_trial(now),
            None if self.runs_other_layer() => {
                // Restored, or what a rollback brought back: in force, but not what runs.
                let accepted = self.own.accepted.clone();
                self.keep_material(accepted, Vec::new(), now.mono.after(TURN_MAX));
            }
            Some((TrialStage::Keeping, _)) | None => {}
        }
    }

    fn begin_trial(&mut self, now: Now) {
        let files = self
            .current
            .as_ref()
            .map_or(&[][..], |current| &current.files);
        if desired::is_empty(files) {
            // With nothing that runs there is nothing to prove; the next config has it.
            return self.end_trial(Ok(()));
        }
        if !self.is_between_configs() {
            return;
        }
        // Only now: while a config is on its way, what runs may have the layer and not be proven.
        if layer_of(files) == self.own.trial_layer().as_deref() {
            return self.end_trial(Ok(()));
        }
        let job = Job {
            origin: Origin::Local,
            offer: None,
            source: Source::OwnTelemetry,
            last_resort: false,
        };
        self.propose(now, job);
        let number = self
            .transaction
            .as_ref()
            .map(crate::engine::rollout::Transaction::number);
        if let (Some(trial), Some(number)) = (&mut self.own.trial, number) {
            trial.stage = TrialStage::Running(number);
        }
    }

    fn look_at_trial(&mut self, number: u64) {
        if let Some(transaction) = &self.transaction
            && transaction.number() == number
        {
            if transaction.is_proven() {
                self.end_trial(Ok(()));
            }
            return;
        }
        match self.end_of(number) {
            Some((Step::Committed, _)) => self.end_trial(Ok(())),
            Some((Step::Failed | Step::RolledBack, reason)) => self.end_trial(Err(&reason)),
            // An offer took its place: its turn comes again.
            _ => {
                if let Some(trial) = &mut self.own.trial {
                    trial.stage = TrialStage::Waiting;
                }
            }
        }
    }

    /// How a transaction ended that is over.
    fn end_of(&self, number: u64) -> Option<(Step, String)> {
        let mut records = self.history.iter().rev();
        let end = records.find(|it| it.transaction == number)?;
        Some((end.step, end.reason.clone()))
    }

    /// Proven destinations whose window ends badly are in force no more. The server was told that they are; the log and
    /// the effective config say what became of them.
    fn look_at_window(&mut self) {
        let Some((number, _)) = &self.own.before else {
            return;
        };
        let number = *number;
        let runs = self.transaction.as_ref();
        if runs.is_some_and(|transaction| transaction.number() == number) {
            return;
        }
        let before = self.own.before.take();
        let end = self.end_of(number);
        if let (Some((Step::Failed | Step::RolledBack, reason)), Some((_, before))) = (end, before)
        {
            self.own.given_up = GivenUp::Layer(self.own.known_layer());
            self.own.accepted = before;
            let fields = vec![("reason", report::bounded(&reason))];
            self.note(NoteLevel::Warn, "own telemetry did not hold", fields);
        }
    }

    fn end_trial(&mut self, result: Result<(), &str>) {
        let Some(trial) = self.own.trial.take() else {
            return;
        };
        match result {
            Ok(()) => {
                let before = std::mem::replace(&mut self.own.accepted, trial.wanted);
                if let TrialStage::Running(number) = trial.stage {
                    self.own.before = Some((number, before));
                }
                self.effective_stale = true;
                let signals = self.own.signals().join(" ");
                self.note(
                    NoteLevel::Info,
                    "own telemetry set up",
                    vec![("to", signals)],
                );
            }
            Err(reason) => {
                if trial.wanted == self.own.accepted {
                    self.own.given_up = GivenUp::Layer(self.own.known_layer());
                }
                let fields = vec![("reason", report::bounded(reason))];
                self.note(NoteLevel::Warn, "own telemetry not set up", fields);
            }
        }
        let outcome = result.map_err(report::bounded);
        let outcomes = trial
            .tickets
            .into_iter()
            .map(|ticket| (ticket, outcome.clone()));
        self.own.outcomes.extend(outcomes);
    }

    fn runs_other_layer(&self) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        if desired::is_empty(&current.files) || !self.is_between_configs() {
            return false;
        }
        !self.own.is_given_up() && layer_of(&current.files) != self.own.layer().as_deref()
    }
}

/// Whether the settings leave a class to a server.
fn is_directed(class: &Class, kinds: u64) -> bool {
    let kind = match class {
        Class::OwnTraces => AgentCapabilities::ReportsOwnTraces as u64,
        Class::OwnMetrics => AgentCapabilities::ReportsOwnMetrics as u64,
        Class::OwnLogs => AgentCapabilities::ReportsOwnLogs as u64,
        Class::Other(_) => 0,
    };
    kinds & kind != 0
}

/// Withdraws the kinds that an offer does not name, where one that names any stands for all of them.
pub(crate) fn complete(
    directed: Directed,
    mut offers: ConnectionSettingsOffers,
) -> ConnectionSettingsOffers {
    let named = [&offers.own_metrics, &offers.own_traces, &offers.own_logs];
    if directed.whole && named.iter().any(|offer| offer.is_some()) {
        for kind in [
            &mut offers.own_metrics,
            &mut offers.own_traces,
            &mut offers.own_logs,
        ] {
            // An empty endpoint withdraws.
            kind.get_or_insert_default();
        }
    }
    offers
}

/// The layer of own telemetry among files.
fn layer_of(files: &[RevisionFile]) -> Option<&str> {
    let layer = files.iter().find(|file| file.path == OWN_TELEMETRY_FILE)?;
    std::str::from_utf8(&layer.bytes).ok()
}
