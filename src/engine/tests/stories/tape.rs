//! What a story came to, as text that people read: one line for each thing that the product wants done, says, or is
//! told by a story.
//!
//! Promises: nothing that changes from run to run is on it; revisions and their hashes are numbered in the order in
//! which they are made; the status is told as far as it has changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use opamp_client::messages::{AgentToServer, ComponentHealth};

use super::house::offer_word;
use crate::engine::host::Host;
use crate::engine::message::{
    AgentEffect, ChildNote, DiskWork, Effect, LayerKind, Note, NoteLevel, Origin, Record, Reply,
    Revision, RevisionFile,
};
use crate::units::{AgentName, Now, OfferHash, RevisionHash, RevisionId, hex};

/// With this set, what the stories came to is written in place of being compared.
const WRITE: &str = "ADJUTANT_STORIES_WRITE";

/// The text.
#[derive(Default)]
pub(super) struct Tape {
    lines: Vec<String>,
    /// Where the story begins, and when.
    from: usize,
    zero: u64,
    /// Whether lines have to say whose they are.
    pub(super) several: bool,
    aliases: Vec<(String, String)>,
    revisions: usize,
    capabilities: BTreeMap<AgentName, u64>,
    status: BTreeMap<String, String>,
    /// Only lines with one of these words are told; all where there is none.
    only: &'static [&'static str],
    /// Phases, which the server reads too, and looks at what runs are told as well.
    pub(super) all: bool,
}

impl Tape {
    /// What was before does not belong to the story.
    pub(super) fn begin(&mut self, now: u64) {
        (self.from, self.zero) = (self.lines.len(), now);
    }

    /// A story as a part of a longer one.
    pub(super) fn chapter(&mut self, title: &str, story: &Self) {
        self.lines.push(format!("\n## {title}\n"));
        self.lines.extend(story.text().lines().map(str::to_owned));
    }

    /// A story of this alone, and of what is done to the product.
    pub(super) fn only(&mut self, words: &'static [&'static str]) {
        self.only = words;
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether these words are in a line from that one on.
    pub(super) fn has(&self, from: usize, words: &str) -> bool {
        self.lines[from..].iter().any(|line| line.contains(words))
    }

    pub(super) fn text(&self) -> String {
        let is_told = |line: &&String| {
            let dull = ["note: rollout phase", "disk: verify"];
            if !self.all && dull.iter().any(|it| line.contains(it)) {
                return self.only.iter().any(|word| line.contains(word));
            }
            let always =
                self.only.is_empty() || line.contains(" > ") || line.starts_with("         ");
            always || self.only.iter().any(|word| line.contains(word))
        };
        let told = self.lines[self.from..].iter().filter(is_told);
        told.flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    pub(super) fn say(&mut self, now: u64, what: impl std::fmt::Display) {
        let at = now.saturating_sub(self.zero);
        self.write(format!("{:>6}.{:03} {what}", at / 1000, at % 1000));
    }

    pub(super) fn write(&mut self, mut line: String) {
        for (from, to) in &self.aliases {
            if line.contains(from.as_str()) {
                line = line.replace(from.as_str(), to);
            }
        }
        self.lines.push(line.trim_end().to_owned());
    }

    /// From here on this revision is called by its number.
    fn name(&mut self, id: &RevisionId, hash: RevisionHash) {
        let id = id.to_string();
        if self.aliases.iter().any(|(known, _)| *known == id) {
            return;
        }
        self.revisions += 1;
        let number = self.revisions;
        // The id first: the beginning of the hash is a part of it.
        self.aliases.push((id, format!("r{number}")));
        let debug = format!("{hash:?}");
        let short = debug.trim_start_matches("RevisionHash(");
        let short = short.trim_end_matches(')').to_owned();
        for text in [hash.to_hex(), debug, short] {
            self.aliases.push((text, format!("hash-of-r{number}")));
        }
    }

    /// Compares the story with what is told of it, or tells it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a document of the sources needs no durable write"
    )]
    pub(super) fn is_as_told(&self, name: &str, about: &str) {
        let text = format!("# {about}\n\n{}", self.text());
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/tests/stories");
        let path = format!("{directory}/{name}.txt");
        if std::env::var_os(WRITE).is_some() {
            return std::fs::write(&path, text).unwrap();
        }
        let told = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = told.lines().zip(text.lines()).position(|(a, b)| a != b);
        let at = differs.unwrap_or_else(|| told.lines().count().min(text.lines().count()));
        let around = |text: &str| {
            let lines = text.lines().skip(at.saturating_sub(3)).take(8);
            lines.collect::<Vec<_>>().join("\n")
        };
        assert!(
            told == text,
            "{path}, line {}:\n{}\n\nis now:\n{}\n\n{WRITE}=1 writes it anew",
            at + 1,
            around(&told),
            around(&text)
        );
    }

    /// What people see, as far as it is not what they saw last.
    pub(super) fn status(&mut self, host: &Host, now: Now, tell: bool) {
        let mut fields = flat(&format!("{:#?}", host.snapshot(now)));
        for (agent, child, rollout) in host.positions() {
            fields.insert(format!("{agent} is"), format!("{child}, {rollout}"));
        }
        for (number, agent) in host.agents().enumerate() {
            let named = |(key, value): (String, String)| {
                let key = key.replace(&format!("agents[{number}]"), agent.as_str());
                (key, value)
            };
            fields = fields.into_iter().map(named).collect();
        }
        // What is not there is not told.
        fields.retain(|_, value| !["None", "\"\"", "[]"].contains(&value.as_str()));
        // What is told elsewhere, or is of no interest.
        let dull = [
            "at[",
            "uptime",
            ".revisions[",
            ".started",
            ".counters.messages",
            ".current[0].at",
            ".bytes",
            ".offer",
            ".current[0].hash",
        ];
        fields.retain(|key, _| {
            !dull
                .iter()
                .any(|it| key.starts_with(it) || it.starts_with('.') && key.contains(it))
        });
        // Of the past, the journal has told.
        fields.retain(|key, _| !key.contains(".history[") || key.contains(".history[0].step"));
        let before = std::mem::replace(&mut self.status, fields.clone());
        if !tell {
            return;
        }
        for (key, value) in &fields {
            if before.get(key) != Some(value) {
                self.write(format!("         {key} = {value}"));
            }
        }
        for key in before.keys().filter(|key| !fields.contains_key(*key)) {
            self.write(format!("         {key} is gone"));
        }
    }

    /// What the server reads, as far as it is said.
    pub(super) fn read(&mut self, now: u64, agent: &AgentName, message: &AgentToServer) {
        let mut said = Vec::new();
        if self
            .capabilities
            .insert(agent.clone(), message.capabilities)
            != Some(message.capabilities)
        {
            said.push(format!("capabilities {:#x}", message.capabilities));
        }
        if message.agent_description.is_some() {
            said.push("a description".to_owned());
        }
        if let Some(status) = &message.remote_config_status {
            let outcome = ["unset", "APPLIED", "APPLYING", "FAILED"];
            let outcome = outcome[usize::try_from(status.status).unwrap()];
            let hash = OfferHash::new(status.last_remote_config_hash.clone());
            let error = quoted(&status.error_message);
            said.push(format!("{} {outcome}{error}", offer_word(&hash)));
        }
        if let Some(status) = &message.connection_settings_status {
            let error = quoted(&status.error_message);
            said.push(format!("settings status {}{error}", status.status));
        }
        if let Some(effective) = &message.effective_config {
            let map = effective.config_map.clone().unwrap_or_default().config_map;
            let files = map
                .iter()
                .filter(|(file, _)| !file.starts_with("adjutant/"));
            let files = files.map(|(file, it)| {
                let body = String::from_utf8_lossy(&it.body);
                let body: String = body.chars().take(100).collect();
                format!("{file:?} {body:?}")
            });
            said.push(format!(
                "effective {}",
                files.collect::<Vec<_>>().join(", ")
            ));
        }
        if let Some(health) = &message.health {
            said.push(format!("health {}", in_words(health)));
        }
        if message.agent_disconnect.is_some() {
            said.push("goodbye".to_owned());
        }
        if message.flags != 0 {
            said.push(format!("flags {}", message.flags));
        }
        if !said.is_empty() {
            let who = self.who(Some(agent));
            self.say(now, format_args!("{who}server reads: {}", said.join("; ")));
        }
    }

    fn who(&self, agent: Option<&AgentName>) -> String {
        match agent {
            Some(agent) if self.several => format!("{agent}: "),
            _ => String::new(),
        }
    }

    /// What the product wants done.
    pub(super) fn effect(&mut self, now: u64, effect: &Effect) {
        let line = match effect {
            Effect::Agent { agent, effect } => {
                if let AgentEffect::Disk { work, .. } = effect {
                    match work {
                        DiskWork::Stage(revision) => self.name(&revision.id, revision.hash),
                        DiskWork::Journal(record) => {
                            if let (Some(id), Some(hash)) = (&record.revision, record.hash) {
                                self.name(id, hash);
                            }
                        }
                        _ => {}
                    }
                }
                let Some(line) = for_agent(effect) else {
                    return;
                };
                format!("{}{line}", self.who(Some(agent)))
            }
            Effect::Note(note) => format!("{}{}", self.who(note.agent.as_ref()), noted(note)),
            Effect::SaveIdentity { identity, .. } => {
                let uids = identity.instance_uids.iter();
                let uids: Vec<_> = uids.map(|(it, uid)| format!("{it} {}", uid[0])).collect();
                format!("save identity: {}", uids.join(", "))
            }
            Effect::Reply { reply, .. } => replied(reply),
            Effect::Admit {
                agent,
                instance_uid,
                ..
            } => format!("admit {} {instance_uid:?}", agent.name),
            Effect::Certificate { name, work, .. } => {
                let word = format!("{work:?}");
                let word = word.split([' ', '(']).next().unwrap_or_default();
                format!("certificate {name}: {word}")
            }
            Effect::LookAtClock { .. } => "look at the clock".to_owned(),
            Effect::Dismiss { agent } => format!("dismiss {agent}"),
            Effect::Announce(milestone) => format!("announce {milestone:?}"),
            other => format!("{other:?}"),
        };
        self.say(now, line);
    }
}

fn quoted(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!(" {text:?}"),
    }
}

fn in_words(health: &ComponentHealth) -> String {
    let well = if health.healthy { "well" } else { "ILL" };
    let error = quoted(&health.last_error);
    let mut text = format!("{well} {:?}{error}", health.status);
    for (name, part) in &health.component_health_map {
        write!(text, " {{{name}: {}}}", in_words(part)).unwrap();
    }
    text
}

fn noted(note: &Note) -> String {
    let level = match note.level {
        NoteLevel::Debug => "debug",
        NoteLevel::Info => "note",
        NoteLevel::Warn => "WARNING",
        NoteLevel::Error => "ERROR",
    };
    let fields = note.fields.iter().filter(|(_, value)| !value.is_empty());
    let fields = fields.map(|(key, value)| format!("{key}={value:?}"));
    let fields: Vec<_> = fields.collect();
    let text = format!("{level}: {} {}", note.message, fields.join(" "));
    text.trim_end().to_owned()
}

fn replied(reply: &Reply) -> String {
    match reply {
        Reply::Status(_) => "reply: the status".to_owned(),
        Reply::Accepted { what } => format!("reply: {what}"),
        Reply::Refused(refusal) => format!("reply: {:?}, {}", refusal.kind, refusal.reason),
        Reply::Revision(revision) => format!("reply: {}", whole(revision)),
    }
}

fn offered(offer: Option<&OfferHash>) -> String {
    offer.map_or_else(String::new, |offer| format!(" offer {}", offer_word(offer)))
}

fn file(file: &RevisionFile) -> String {
    let RevisionFile {
        path,
        layer,
        source,
        bytes,
        ..
    } = file;
    match layer {
        LayerKind::Local | LayerKind::Remote => {
            format!(
                "{layer:?} {path} ({source}) {:?}",
                String::from_utf8_lossy(bytes)
            )
        }
        LayerKind::Generated | LayerKind::Marker => path.clone(),
    }
}

fn whole(revision: &Revision) -> String {
    let files: Vec<_> = revision.files.iter().map(file).collect();
    format!(
        "{} {:?}{} at {}: {}",
        revision.id,
        revision.origin,
        offered(revision.offer.as_ref()),
        revision.at.unix_millis() % 100_000_000,
        files.join(", ")
    )
}

fn journaled(record: &Record) -> String {
    let revision = record.revision.as_ref();
    let revision = revision.map_or_else(String::new, |id| format!(" {id}"));
    let origin = match record.origin {
        Origin::Offer => "",
        Origin::Manual => " by a person",
        Origin::Local => " of local files",
        Origin::Default => " by default",
    };
    let (offer, reason) = (offered(record.offer.as_ref()), quoted(&record.reason));
    let (number, step) = (record.transaction, record.step);
    format!("journal {number} {step:?}{revision}{offer}{origin}{reason}")
}

fn disk(work: &DiskWork) -> String {
    match work {
        DiskWork::Stage(revision) => format!("disk: stage {}", whole(revision)),
        DiskWork::Restore(revision) => format!("disk: restore {}", revision.id),
        DiskWork::Journal(record) => journaled(record),
        DiskWork::Promote(id) => format!("disk: current is {id}"),
        DiskWork::MarkGood(id) => format!("disk: last good is {id}"),
        DiskWork::ReadRevision(id) => format!("disk: read {id}"),
        DiskWork::Verify(id) => format!("disk: verify {id}"),
        DiskWork::Prune { keep } => {
            let keep: Vec<_> = keep.iter().map(ToString::to_string).collect();
            format!("disk: prune all but {}", keep.join(" "))
        }
        DiskWork::SaveRejected(rejected) => {
            let words = rejected.iter().map(|it| {
                let offers: Vec<_> = it.offers.iter().map(offer_word).collect();
                format!("{} ({}) {:?}", it.hash, offers.join(" "), it.reason)
            });
            format!(
                "disk: rejected are [{}]",
                words.collect::<Vec<_>>().join(", ")
            )
        }
        DiskWork::ShowEffective(text) => {
            format!("disk: show effective {:?}", String::from_utf8_lossy(text))
        }
        DiskWork::StageTrial(files) => {
            let files: Vec<_> = files.iter().map(file).collect();
            format!("disk: stage trial {}", files.join(", "))
        }
        DiskWork::ReadLocal(paths) => format!("disk: read local {paths:?}"),
        DiskWork::SaveConnection(_) => "disk: save connection settings".to_owned(),
        DiskWork::DropTrial | DiskWork::KeepMaterial(_) => format!("disk: {work:?}"),
    }
}

/// Arguments, without what is the same in every run.
fn args(args: &[String]) -> String {
    let dull = |it: &&String| {
        *it == "--config" || it.starts_with("--feature-gates") || it.contains("/adjutant/")
    };
    let args = args.iter().filter(|it| !dull(it));
    args.map(|it| in_state(it)).collect::<Vec<_>>().join(" ")
}

/// A path below an agent's directory.
fn in_state(path: &str) -> &str {
    let rest = path.strip_prefix("/s/agents/");
    rest.and_then(|rest| rest.split_once('/'))
        .map_or(path, |(_, rest)| rest)
}

fn told(note: &ChildNote) -> String {
    let revision = note.revision.as_ref();
    let revision = revision.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let how = if note.by_hup { " by HUP" } else { "" };
    let old = if note.outdated { " outdated" } else { "" };
    let start = if note.start.is_empty() {
        ""
    } else {
        " and how it was started"
    };
    format!("told {revision}{how}{old}{start}")
}

fn for_agent(effect: &AgentEffect) -> Option<String> {
    let line = match effect {
        AgentEffect::Disk { work, .. } => disk(work),
        AgentEffect::Spawn { spec, .. } => {
            format!("spawn {}: {}", args(&spec.args), told(&spec.note))
        }
        AgentEffect::Signal {
            pid,
            signal,
            group,
            note,
        } => {
            let whom = if *group { "group" } else { "process" };
            let note = note.as_ref().map(|note| format!(" {}", told(note)));
            format!(
                "signal {signal} to {whom} {pid}{}",
                note.unwrap_or_default()
            )
        }
        AgentEffect::RunTool { spec, .. } => {
            let (program, limit) = (spec.program.display(), spec.timeout);
            format!("run {program} {} for {limit:?}", args(&spec.args))
        }
        AgentEffect::CancelTool { .. } => "cancel the tool".to_owned(),
        AgentEffect::HttpProbe { url, timeout, .. } => format!("ask {url} for {timeout:?}"),
        AgentEffect::LookAtRoom { pid, .. } => format!("look at the room of {pid}"),
        AgentEffect::WatchOutput {
            reloaded, failed, ..
        } => format!("watch output for {reloaded:?} or {failed:?}"),
        AgentEffect::WatchFiles { paths, .. } => {
            let paths: Vec<_> = paths
                .iter()
                .map(|it| it.to_string_lossy().into_owned())
                .collect();
            format!("watch {}", args(&paths))
        }
        AgentEffect::Dial {
            link,
            authorize,
            instance_uid,
            offered,
            ..
        } => {
            let authorize = if *authorize { " with the token" } else { "" };
            let offered = if offered.is_some() { " as offered" } else { "" };
            let uid = hex(&instance_uid[..1]);
            format!("dial link {} as {uid}{authorize}{offered}", link.0)
        }
        AgentEffect::Hangup { link } => format!("hang up link {}", link.0),
        // What is in it is told by who reads it.
        AgentEffect::Send { .. } | AgentEffect::LocalSend { .. } => return None,
        AgentEffect::LocalClose { connection } => format!("close connection {connection}"),
        AgentEffect::ReadCounters { .. } => "read counters".to_owned(),
    };
    Some(line)
}

/// Pretty `Debug` text as one line for each field, by its path.
fn flat(pretty: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    // Names, and how many unnamed things were met below each.
    let mut path: Vec<(String, usize)> = Vec::new();
    for line in pretty.lines().skip(1) {
        let line = line.trim();
        if matches!(line.trim_end_matches(','), "}" | "]" | ")") {
            path.pop();
            continue;
        }
        let (key, value) = match line.split_once(": ") {
            Some((key, value))
                if key
                    .chars()
                    .all(|it| it.is_alphanumeric() || "_\"./".contains(it)) =>
            {
                (format!(".{}", key.trim_matches('"')), value)
            }
            _ => {
                let count = path.last_mut().map_or(0, |(_, count)| {
                    *count += 1;
                    *count - 1
                });
                (format!("[{count}]"), line)
            }
        };
        let opens = value.ends_with('{') || value.ends_with('[') || value.ends_with('(');
        if opens {
            path.push((key, 0));
            continue;
        }
        let full: String = path.iter().map(|(name, _)| name.as_str()).collect();
        let full = format!("{full}{key}");
        let full = full.trim_start_matches('.').to_owned();
        fields.insert(full, value.trim_end_matches(',').to_owned());
    }
    fields
}
