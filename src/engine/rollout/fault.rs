//! A refused bundle names the guilty file: the changes since the last good revision are put to the agent's validator
//! again, in other combinations.
//!
//! Promises: only staged copies in a directory of their own are judged, nothing that runs is touched; a search costs
//! at most [`RUNS_MAX`] runs and one `apply.validate_timeout` in all; a newer offer ends it at once; whatever comes of
//! it, the bundle is refused for the validator's reason.
//! Must never: turn a refusal into an acceptance, or blame a file that was not tried.

use super::search::{Next, RUNS_MAX, Search, Verdict};
use super::{Remember, Source, Stage, VALIDATOR_OUTPUT_MAX};
use crate::engine::desired::{self, Candidate};
use crate::engine::disk::Purpose;
use crate::engine::message::{
    AgentEffect, DiskWork, LayerKind, LocalFile, OfferedFile, Revision, RevisionFile, ToolEnd,
    ToolSpec,
};
use crate::engine::{Engine, report};
use crate::units::{Moment, Now};

/// Files that one sentence names.
const NAMED_MAX: usize = 8;

/// A search that runs.
#[derive(Debug)]
pub(super) struct FaultSearch {
    /// What the validator said of the whole bundle.
    code: i32,
    words: String,
    /// The refused files and, once they are read, those of the last good revision.
    new: Vec<RevisionFile>,
    old: Vec<RevisionFile>,
    changes: Vec<Change>,
    search: Search,
    /// The set that is being judged.
    trying: Vec<usize>,
    until: Moment,
}

/// A file of a layer that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    layer: LayerKind,
    source: String,
}

impl Change {
    fn is_of(&self, file: &RevisionFile) -> bool {
        self.layer == file.layer && self.source == file.source
    }
}

impl FaultSearch {
    /// The files with exactly these changes.
    fn mixed(&self, set: &[usize]) -> Vec<&RevisionFile> {
        let at = |file: &RevisionFile| self.changes.iter().position(|change| change.is_of(file));
        let new = self.new.iter().filter(|file| written(file));
        let new = new.filter(|file| at(file).is_none_or(|change| set.contains(&change)));
        let old = self.old.iter().filter(|file| written(file));
        let old = old.filter(|file| at(file).is_some_and(|change| !set.contains(&change)));
        new.chain(old).collect()
    }

    fn name(&self, change: usize, main_file: &str) -> String {
        self.changes
            .get(change)
            .map_or_else(String::new, |change| match change.source.as_str() {
                "" => format!("`{main_file}`"),
                source => format!("`{source}`"),
            })
    }

    fn names(&self, main_file: &str) -> String {
        let names: Vec<_> = (0..self.changes.len().min(NAMED_MAX))
            .map(|change| self.name(change, main_file))
            .collect();
        let more = self.changes.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            return format!("{} and {more} more", names.join(", "));
        }
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }

    /// What was found, as a sentence about the bundle.
    fn told(&self, verdict: &Verdict, main_file: &str) -> String {
        let name = |change: usize| self.name(change, main_file);
        match verdict {
            Verdict::BaseRefused => "no file of it is to blame alone: the last good revision is \
                                     refused now, too"
                .to_owned(),
            Verdict::One(guilty) => {
                let guilty = name(*guilty);
                format!(
                    "the fault is in {guilty} (the other files pass with the {guilty} of the last good revision)"
                )
            }
            Verdict::Clash(one, Some(other)) => format!(
                "no single file is at fault: {} and {} pass each with the other of the last good revision, but not \
                 together",
                name(*other),
                name(*one)
            ),
            Verdict::Clash(one, None) => format!(
                "no single file is at fault: {} passes without the other changes and they pass without it, but not \
                 together",
                name(*one)
            ),
            Verdict::Several(_) | Verdict::Tangle if self.changes.len() == 2 => format!(
                "no single file is at fault: neither {} nor {} passes with the other of the last good revision",
                name(0),
                name(1)
            ),
            Verdict::Several(one) => format!(
                "no single file is at fault: {} does not pass with the others of the last good revision, and the \
                 others do not pass without it",
                name(*one)
            ),
            Verdict::Tangle => format!(
                "no single file is at fault: {} changed, and they do not go together",
                self.names(main_file)
            ),
            Verdict::Unknown => format!(
                "which file is at fault was not found in {} runs: {} changed",
                self.search.runs(),
                self.names(main_file)
            ),
        }
    }
}

fn written(file: &RevisionFile) -> bool {
    matches!(file.layer, LayerKind::Local | LayerKind::Remote)
}

/// What is in one list of files and not the same in the other, in order of the layers.
fn changes(new: &[RevisionFile], old: &[RevisionFile]) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    for (file, others) in new
        .iter()
        .map(|file| (file, old))
        .chain(old.iter().map(|file| (file, new)))
        .filter(|(file, _)| written(file))
    {
        let change = Change {
            layer: file.layer,
            source: file.source.clone(),
        };
        let twin = others.iter().find(|other| change.is_of(other));
        let same = twin
            .is_some_and(|twin| twin.bytes == file.bytes && twin.content_type == file.content_type);
        // A local layer that came or went with the settings is not the bundle's doing.
        let settings = file.layer == LayerKind::Local && twin.is_none();
        if !same && !settings && !found.contains(&change) {
            found.push(change);
        }
    }
    found
}

impl Engine {
    /// The validator refused the candidate. Looks for the file that is to blame where there is something to compare
    /// with, else says no more than the validator did.
    pub(super) fn refused(&mut self, now: Now, code: i32, words: &str) {
        let plain = refusal(code, "", words);
        // Which file is to blame is asked of files that somebody offered or edited.
        let files_came = matches!(
            super::transaction_source(self),
            Some(Source::Files(_) | Source::Recompose | Source::Base)
        );
        let on = self.settings.apply.find_fault && files_came;
        let good = self.last_good.clone();
        let files = self.transaction.as_ref().and_then(|t| t.revision.as_ref());
        let (true, Some(good), Some(revision)) = (on, good, files) else {
            return self.fail(now, &plain, Remember::Yes);
        };
        let search = FaultSearch {
            code,
            words: words.to_owned(),
            new: revision.files.clone(),
            old: Vec::new(),
            changes: Vec::new(),
            search: Search::new(0),
            trying: Vec::new(),
            until: now.mono.after(self.settings.apply.validate_timeout),
        };
        let current = self.current.as_ref().filter(|current| current.id == good);
        let known = current.map(|current| current.files.clone());
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        transaction.search = Some(Box::new(search));
        if let Some(files) = known {
            self.compare(now, files);
        } else {
            transaction.stage = Stage::FetchingBaseline;
            self.push_disk(Purpose::Transaction, DiskWork::ReadRevision(good));
        }
    }

    /// The files of the last good revision are there.
    pub(super) fn compare(&mut self, now: Now, old: Vec<RevisionFile>) {
        let main_file = self.settings.profile.main_file.clone();
        let Some(search) = self.transaction.as_mut().and_then(|t| t.search.as_mut()) else {
            return;
        };
        search.changes = changes(&search.new, &old);
        search.old = old;
        search.search = Search::new(search.changes.len());
        let told = match search.changes.len() {
            0 => "no file changed since the last good revision; the settings or the host did"
                .to_owned(),
            1 => format!(
                "{} is the only file that changed since the last good revision",
                search.name(0, &main_file)
            ),
            _ => return self.search_on(now),
        };
        self.search_ends(now, &told);
    }

    /// The next question, or the end.
    pub(super) fn search_on(&mut self, now: Now) {
        loop {
            let main_file = &self.settings.profile.main_file;
            let Some(search) = self.transaction.as_ref().and_then(|t| t.search.as_deref()) else {
                return;
            };
            let set = match search.search.next() {
                Next::Done(verdict) => {
                    let told = search.told(&verdict, main_file);
                    return self.search_ends(now, &told);
                }
                Next::Try(_) if search.until <= now.mono => {
                    let told = search.told(&Verdict::Unknown, main_file);
                    return self.search_ends(now, &told);
                }
                Next::Try(set) => set,
            };
            let candidate = self.mix(&search.mixed(&set));
            let Some(transaction) = &mut self.transaction else {
                return;
            };
            let Some(search) = &mut transaction.search else {
                return;
            };
            let Some(candidate) = candidate else {
                search.search.refuse(set);
                continue;
            };
            search.trying = set;
            transaction.stage = Stage::StagingTrial {
                files: candidate.files.clone(),
            };
            self.push_disk(Purpose::Transaction, DiskWork::StageTrial(candidate.files));
            return;
        }
    }

    /// A candidate of other files, as the rules of layers make it; none where they refuse it or nothing is left.
    fn mix(&self, files: &[&RevisionFile]) -> Option<Candidate> {
        let of = |layer| files.iter().filter(move |file| file.layer == layer);
        let mut local: Vec<LocalFile> = of(LayerKind::Local)
            .map(|file| LocalFile {
                path: file.source.clone().into(),
                bytes: Ok(file.bytes.clone()),
            })
            .collect();
        // Those whose place an offered file has taken are in no revision.
        let missing: Vec<_> = self
            .local
            .iter()
            .filter(|known| !local.iter().any(|file| file.path == known.path))
            .cloned()
            .collect();
        local.extend(missing);
        let offered: Vec<OfferedFile> = of(LayerKind::Remote)
            .map(|file| OfferedFile {
                name: file.source.clone(),
                content_type: file.content_type.clone(),
                body: file.bytes.clone(),
            })
            .collect();
        let candidate = self.composed_of(&local, &offered).ok()?;
        (!candidate.is_empty()).then_some(candidate)
    }

    /// The trial is on disk.
    pub(super) fn judge_trial(&mut self, now: Now) {
        if self.stopping {
            return;
        }
        let Some(transaction) = &self.transaction else {
            return;
        };
        let (Stage::StagingTrial { files }, Some(search)) =
            (&transaction.stage, &transaction.search)
        else {
            return;
        };
        let Some(own) = &self.settings.profile.validate else {
            return self.search_ends(now, "");
        };
        let left = search.until.since(now.mono);
        let directory = self.places.trial_dir();
        let uid = report::uid_text(self.instance_uid);
        let spec = ToolSpec {
            program: self.settings.executable.clone(),
            args: desired::arguments(&self.settings, &self.places, own, &directory, files),
            env: desired::environment(&self.settings, &self.places, &directory, &uid),
            inherit: self.inherit(),
            timeout: left.min(self.settings.apply.validate_timeout),
            output_max: VALIDATOR_OUTPUT_MAX,
            process: self.settings.process.clone(),
        };
        let ticket = self.tickets.next();
        if let Some(transaction) = &mut self.transaction {
            transaction.stage = Stage::Trying { ticket };
        }
        self.out.effects.push(AgentEffect::RunTool { ticket, spec });
    }

    /// The validator has judged a trial.
    pub(super) fn tried(&mut self, now: Now, end: &ToolEnd) {
        if self.stopping {
            // The next life begins the transaction anew.
            return;
        }
        let Some(search) = self.transaction.as_mut().and_then(|t| t.search.as_mut()) else {
            return;
        };
        let set = std::mem::take(&mut search.trying);
        let accepted = match end {
            ToolEnd::Exited(code) => *code == 0,
            // What is no answer ends the search: a guess would be worse than none.
            ToolEnd::Signalled(_) | ToolEnd::TimedOut | ToolEnd::NotStarted(_) => {
                let told = search.told(&Verdict::Unknown, &self.settings.profile.main_file);
                return self.search_ends(now, &told);
            }
        };
        search.search.learn(set, accepted);
        debug_assert!(search.search.runs() <= RUNS_MAX, "a search has its bound");
        self.search_on(now);
    }

    /// The baseline or a trial could not be read or written: what the validator said stands.
    pub(super) fn search_breaks(&mut self, now: Now, reason: &str) {
        let told = format!("which file is at fault was not looked for: {reason}");
        self.search_ends(now, &told);
    }

    /// Ends the search with what it has found, and the bundle with it.
    pub(super) fn search_ends(&mut self, now: Now, told: &str) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let Some(search) = transaction.search.take() else {
            return;
        };
        if search.search.runs() > 0 || matches!(transaction.stage, Stage::Trying { .. }) {
            self.push_disk(Purpose::Record, DiskWork::DropTrial);
        }
        let reason = refusal(search.code, told, &search.words);
        self.fail(now, &reason, Remember::Yes);
    }

    /// A newer job came: the refusal stands without the rest of the search.
    pub(super) fn search_overtaken(&mut self, now: Now) {
        self.search_ends(
            now,
            "which file is at fault was not found before a newer offer came",
        );
    }

    /// Takes the baseline that was read.
    pub(super) fn baseline(&mut self, now: Now, revision: Revision) {
        self.compare(now, revision.files);
    }
}

/// The reason as the server reads it. The finding stands before the words, which may be cut.
fn refusal(code: i32, told: &str, words: &str) -> String {
    if told.is_empty() {
        format!("the validator refused the config (exit code {code}): {words}")
    } else {
        format!("the validator refused the config (exit code {code}); {told}: {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(layer: LayerKind, source: &str, bytes: &str) -> RevisionFile {
        RevisionFile {
            path: source.to_owned(),
            layer,
            source: source.to_owned(),
            content_type: String::new(),
            bytes: bytes.as_bytes().to_vec(),
        }
    }

    fn remote(source: &str, bytes: &str) -> RevisionFile {
        file(LayerKind::Remote, source, bytes)
    }

    fn search(new: Vec<RevisionFile>, old: Vec<RevisionFile>) -> FaultSearch {
        let changes = changes(&new, &old);
        FaultSearch {
            code: 1,
            words: String::new(),
            search: Search::new(changes.len()),
            changes,
            new,
            old,
            trying: Vec::new(),
            until: Moment::from_millis(0),
        }
    }

    #[test]
    fn a_trial_holds_its_changes_and_the_last_good_of_all_others() {
        type Mixed<'a> = (&'a [usize], &'a [(&'a str, &'a str)]);
        let new = vec![
            remote("kept", "0"),
            remote("edited", "new"),
            remote("added", "new"),
            file(LayerKind::Generated, "overlay", "new"),
        ];
        let old = vec![
            remote("kept", "0"),
            remote("edited", "old"),
            remote("gone", "old"),
            file(LayerKind::Generated, "overlay", "old"),
        ];
        let search = search(new, old);
        let named: Vec<_> = search.changes.iter().map(|it| it.source.as_str()).collect();
        assert_eq!(named, ["edited", "added", "gone"]);
        let cases: [Mixed<'_>; 5] = [
            (&[], &[("kept", "0"), ("edited", "old"), ("gone", "old")]),
            (&[0], &[("kept", "0"), ("edited", "new"), ("gone", "old")]),
            (
                &[1],
                &[
                    ("kept", "0"),
                    ("added", "new"),
                    ("edited", "old"),
                    ("gone", "old"),
                ],
            ),
            (&[2], &[("kept", "0"), ("edited", "old")]),
            (
                &[0, 1, 2],
                &[("kept", "0"), ("edited", "new"), ("added", "new")],
            ),
        ];
        for (set, wanted) in cases {
            let mixed = search.mixed(set);
            let found: Vec<_> = mixed
                .iter()
                .map(|it| (it.source.as_str(), std::str::from_utf8(&it.bytes).unwrap()))
                .collect();
            assert_eq!(found, wanted, "{set:?}");
        }
    }

    #[test]
    fn a_layer_that_came_with_the_settings_is_no_change_of_the_bundle() {
        let local = |bytes| file(LayerKind::Local, "a", bytes);
        assert_eq!(changes(&[local("1")], &[]), []);
        assert_eq!(changes(&[], &[local("1")]), []);
        assert_eq!(changes(&[local("1")], &[local("2")]).len(), 1);
        let mut typed = remote("a", "1");
        typed.content_type = "text/yaml".to_owned();
        assert_eq!(changes(&[typed], &[remote("a", "1")]).len(), 1);
    }

    #[test]
    fn each_verdict_names_the_files_it_is_about() {
        let of = |count: usize| {
            let name = |n: usize| {
                if n == 0 {
                    String::new()
                } else {
                    format!("f{n}")
                }
            };
            let new = (0..count).map(|n| remote(&name(n), "new")).collect();
            let old = (0..count).map(|n| remote(&name(n), "old")).collect();
            search(new, old)
        };
        let cases = [
            (
                2,
                Verdict::BaseRefused,
                "the last good revision is refused now",
            ),
            (
                3,
                Verdict::One(0),
                "the fault is in `main` (the other files",
            ),
            (3, Verdict::One(2), "the fault is in `f2`"),
            (
                3,
                Verdict::Clash(1, Some(2)),
                "at fault: `f2` and `f1` pass each",
            ),
            (
                3,
                Verdict::Clash(1, None),
                "at fault: `f1` passes without the other",
            ),
            (2, Verdict::Several(1), "neither `main` nor `f1` passes"),
            (3, Verdict::Several(1), "`f1` does not pass with the others"),
            (2, Verdict::Tangle, "neither `main` nor `f1` passes"),
            (
                3,
                Verdict::Tangle,
                "at fault: `main`, `f1` and `f2` changed",
            ),
            (8, Verdict::Tangle, "`f6` and `f7` changed"),
            (10, Verdict::Tangle, "`f7` and 2 more changed"),
            (1, Verdict::Unknown, "not found in 0 runs: `main` changed"),
        ];
        for (count, verdict, wanted) in cases {
            let told = of(count).told(&verdict, "main");
            assert!(told.contains(wanted), "{verdict:?}: {told}");
        }
    }
}
