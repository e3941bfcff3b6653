//! Given local files that are watched; when somebody edits, removes or mends them; then each change is taken once,
//! when it has come to rest, and what was refused is said until it is right again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rig::{APPLIED, Bench, agent, setup};
use crate::engine::Engine;
use crate::engine::message::{
    AgentEffect, AgentEvent, DriftedFile, LayersSnapshot, Persisted, WatchedBy,
};

const A: &str = "/etc/a.yaml";
const B: &str = "/etc/b.yaml";
const SETTINGS: &str =
    "profile: layered, config_files: [/etc/a.yaml, /etc/b.yaml], apply: {probation: 10s}";
const OF_A: &str = "receivers: {a: {}}\n";
const OF_B: &str = "processors: {b: {}}\n";
const OFFER: &str = "exporters: {offered: {}}\n";
const REFUSED: &str = "local config refused, what runs keeps its own copy";
const CHANGED: &str = "local config changed";

/// Both files run, and an offer with them.
fn calm() -> Bench {
    let mut bench = Bench::calm(SETTINGS, &[(A, OF_A), (B, OF_B)]);
    bench.offer("o1", OFFER);
    bench.run_s(30);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench
}

fn millis(bench: &mut Bench, millis: u64) {
    bench.run(Duration::from_millis(millis));
}

/// Somebody removes a local file.
fn lose(bench: &mut Bench, path: &str) {
    bench.disk.local.remove(Path::new(path));
    let (ticket, _) = bench.watches.last().unwrap().clone();
    bench.with(|engine, now| engine.step(now, AgentEvent::FilesTouched { ticket }));
}

fn commits(bench: &Bench) -> u64 {
    bench.counted("commits")
}

fn shown(bench: &Bench) -> LayersSnapshot {
    bench.engine.layers_snapshot()
}

/// What a door shows while nothing is wrong.
fn right() -> LayersSnapshot {
    LayersSnapshot {
        watched_by: Some(WatchedBy::Events.to_string()),
        ..LayersSnapshot::default()
    }
}

#[test]
fn refused_edit_is_said_whole_until_the_file_is_as_it_was() {
    let mut bench = calm();
    let before = (bench.current(), commits(&bench));
    assert_eq!(shown(&bench), right());
    assert_eq!(bench.engine.layers_trouble(), None);
    bench.edit(A, "receivers: {invalid: {}}\n");
    bench.run_s(30);
    let snapshot = shown(&bench);
    let reason = snapshot.reason.clone();
    assert!(reason.contains("no such word"), "{reason}");
    let wanted = LayersSnapshot {
        refused: vec![A.to_owned()],
        reason: reason.clone(),
        ..right()
    };
    assert_eq!(snapshot, wanted);
    let trouble = format!("local config refused ({A}), what runs keeps its own copy: {reason}");
    assert_eq!(bench.engine.layers_trouble(), Some(trouble.clone()));
    assert_eq!((bench.current(), commits(&bench)), before);

    // Offers are put on top of what runs, and the other file with them.
    bench.offer("o2", "exporters: {second: {}}\n");
    bench.run_s(30);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    let runs = bench.current();
    for text in [OF_A, OF_B, "second"] {
        assert!(runs.contains(text), "{runs}");
    }
    assert_eq!(
        bench.engine.layers_trouble(),
        Some(trouble),
        "it is still there"
    );
    assert_eq!(bench.noted(REFUSED), 1);

    // As it was: nothing to try.
    let settled = (bench.disk.journal.len(), bench.validated.len());
    bench.edit(A, OF_A);
    bench.run_s(30);
    assert_eq!(shown(&bench), right());
    assert_eq!((bench.disk.journal.len(), bench.validated.len()), settled);
    assert_eq!(bench.engine.layers_trouble(), None);
    assert_eq!(
        (bench.noted(CHANGED), bench.counted("local_changes")),
        (2, 2)
    );
    assert_eq!(bench.noted(REFUSED), 1);
}

#[test]
fn refused_edit_that_is_mended_is_applied_and_nothing_is_refused_any_more() {
    let mut bench = calm();
    bench.edit(A, "receivers: {invalid: {}}\n");
    bench.run_s(30);
    assert_eq!(shown(&bench).refused, [A]);
    bench.edit(B, "processors: {invalid: {}}\n");
    bench.run_s(30);
    assert_eq!(shown(&bench).refused, [A, B]);
    bench.edit(A, "receivers: {mended: {}}\n");
    bench.run_s(30);
    assert_eq!(shown(&bench).refused, [A, B], "one of two is no good yet");
    assert!(bench.current().contains(OF_A));
    let before = commits(&bench);
    bench.edit(B, "processors: {mended: {}}\n");
    bench.run_s(30);
    assert_eq!((shown(&bench), commits(&bench)), (right(), before + 1));
    let runs = bench.current();
    assert_eq!(runs.matches("mended").count(), 2, "{runs}");
    assert!(runs.contains(OFFER) && bench.is_good());
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
}

#[test]
fn edit_is_taken_when_two_looks_half_a_second_apart_see_the_same() {
    let mut bench = calm();
    bench.edit(A, "receivers: {first: {}}\n");
    millis(&mut bench, 900);
    assert_eq!(bench.counted("local_changes"), 0);
    millis(&mut bench, 200);
    assert_eq!(bench.counted("local_changes"), 1);
    bench.run_s(20);
    assert!(bench.current().contains("first"));
}

#[test]
fn file_that_never_comes_to_rest_is_taken_as_it_is_after_half_a_minute() {
    // A look half a second after the last edit, whose answer takes two milliseconds: one before the time, or on it.
    for (last, taken) in [(29_497, 0), (29_498, 1)] {
        let mut bench = calm();
        let mut at = 0;
        while at < last {
            bench.edit(A, &format!("receivers: {{n{at}: {{}}}}\n"));
            let step = (last - at).min(400);
            millis(&mut bench, step);
            at += step;
        }
        bench.edit(A, "receivers: {last: {}}\n");
        millis(&mut bench, 502);
        assert_eq!(bench.counted("local_changes"), 0, "{last}");
        millis(&mut bench, 1);
        assert_eq!(bench.counted("local_changes"), taken, "{last}");
    }
}

#[test]
fn file_that_is_gone_for_a_moment_is_no_change_and_after_ten_seconds_it_is_one() {
    let mut bench = calm();
    lose(&mut bench, A);
    bench.run_s(9);
    assert_eq!(
        (bench.counted("local_changes"), bench.noted(CHANGED)),
        (0, 0)
    );
    bench.edit(A, OF_A);
    bench.run_s(30);
    assert_eq!(
        (bench.counted("local_changes"), shown(&bench)),
        (0, right())
    );
    // The first time is forgotten.
    lose(&mut bench, A);
    bench.run_s(9);
    assert_eq!(bench.counted("local_changes"), 0);
    bench.run_s(3);
    assert_eq!(bench.counted("local_changes"), 1);
    bench.run_s(30);
    assert!(
        bench.current().contains(OF_A),
        "what runs keeps its own copy"
    );
    assert_eq!(shown(&bench).refused, [A]);
    // What was gone when it was taken is gone: another edit need not wait for it.
    bench.edit(B, "processors: {edited: {}}\n");
    millis(&mut bench, 1_200);
    assert_eq!(bench.counted("local_changes"), 2);
}

#[test]
fn watch_is_for_the_local_files_and_for_those_of_what_runs() {
    let local = [A, B].map(PathBuf::from);
    for (more, locals, own) in [
        ("", true, true),
        (", drift: off", true, false),
        (", watch_local_files: false", false, true),
        (", watch_local_files: false, drift: off", false, false),
    ] {
        let settings = SETTINGS.replace("10s", &format!("10s{more}"));
        let mut bench = Bench::calm(&settings, &[(A, OF_A), (B, OF_B)]);
        let home = format!(
            "/s/agents/it/revisions/{}",
            bench.disk.current.as_ref().unwrap()
        );
        let wanted = |bench: &Bench| {
            let current = &bench.disk.revisions[bench.disk.current.as_ref().unwrap()];
            let files = current.files.iter();
            let files = files.map(|file| PathBuf::from(&home).join(&file.path));
            let locals = local.iter().filter(|_| locals).cloned();
            locals.chain(files.filter(|_| own)).collect::<Vec<_>>()
        };
        let last = bench.watches.last().map(|(_, paths)| paths.clone());
        assert_eq!(last.unwrap_or_default(), wanted(&bench), "{more}");
        assert_eq!(bench.watches.is_empty(), !locals && !own, "{more}");
        let armed = bench.watches.len();
        bench.run_s(600);
        assert_eq!(bench.watches.len(), armed, "once for what runs");
        assert_eq!(shown(&bench).watched_by.is_some(), locals || own, "{more}");
        // An edit is seen where local files are watched, and armed for again.
        bench.edit(A, "receivers: {edited: {}}\n");
        bench.run_s(30);
        assert_eq!(bench.current().contains("edited"), locals, "{more}");
    }
}

#[test]
fn watch_that_is_wanted_no_more_is_taken_off_once() {
    let mut bench = calm();
    let off = SETTINGS.replace("10s", "10s, watch_local_files: false, drift: off");
    bench.hup(&off);
    bench.run_s(60);
    let (_, last) = bench.watches.last().unwrap();
    assert_eq!(*last, Vec::<PathBuf>::new());
    assert_eq!(shown(&bench).watched_by, None);
    let armed = bench.watches.len();
    bench.hup(&off);
    bench.run_s(60);
    assert_eq!(bench.watches.len(), armed);
}

#[test]
fn answers_of_a_watch_that_stands_no_more_change_nothing() {
    let mut bench = calm();
    let (old, _) = bench.watches[0].clone();
    let (now, _) = bench.watches.last().unwrap().clone();
    assert_ne!(old, now);
    let by = |reason: &str| WatchedBy::Looks {
        every: Duration::from_secs(5),
        reason: reason.to_owned(),
    };
    let due = bench.engine.layers_due();
    let stale = |bench: &Bench| bench.engine.counters.get("stale_answers").copied();
    let before = stale(&bench).unwrap_or(0);
    for event in [
        AgentEvent::FilesWatched {
            ticket: old,
            by: by("x"),
        },
        AgentEvent::FilesTouched { ticket: old },
    ] {
        bench.with(|engine, now| engine.step(now, event));
    }
    assert_eq!(stale(&bench), Some(before + 2));
    assert_eq!((shown(&bench), bench.engine.layers_due()), (right(), due));
    let poor = "files are not watched by the kernel";
    assert_eq!(bench.noted(poor), 0);
    let watched = AgentEvent::FilesWatched {
        ticket: now,
        by: by("no watches left"),
    };
    bench.with(|engine, now| engine.step(now, watched));
    assert_eq!(bench.noted(poor), 1);
    assert_eq!(
        shown(&bench).watched_by,
        Some(by("no watches left").to_string())
    );
    // What changed before it was armed is seen by one look.
    let look = bench.engine.layers_due().unwrap();
    assert_eq!(look, bench.clock().mono.after(Duration::from_millis(500)));
    assert_eq!(stale(&bench), Some(before + 2));
}

#[test]
fn nothing_is_looked_at_while_it_stops() {
    let mut bench = calm();
    bench.edit(A, "receivers: {edited: {}}\n");
    millis(&mut bench, 10);
    assert!(bench.engine.layers_due().is_some());
    let armed = bench.watches.len();
    bench.with(Engine::wind_down);
    assert_eq!(bench.engine.layers_due(), None);
    bench.run_s(60);
    assert_eq!(bench.counted("local_changes"), 0);
    assert_eq!(bench.watches.len(), armed);
}

#[test]
fn eight_names_are_listed_and_the_others_counted() {
    use crate::engine::layers::listed;
    let names: Vec<String> = (1..=10).map(|number| format!("f{number}")).collect();
    assert_eq!(listed(&[]), "");
    assert_eq!(listed(&names[..2]), "f1, f2");
    assert_eq!(listed(&names[..8]), "f1, f2, f3, f4, f5, f6, f7, f8");
    assert_eq!(
        listed(&names[..9]),
        "f1, f2, f3, f4, f5, f6, f7, f8 and 1 more"
    );
    assert_eq!(listed(&names), "f1, f2, f3, f4, f5, f6, f7, f8 and 2 more");
}

#[test]
fn offer_is_composed_with_an_edit_that_has_not_been_taken_yet() {
    let mut bench = calm();
    bench.edit(A, "receivers: {edited: {}}\n");
    millis(&mut bench, 100);
    bench.offer("o2", "exporters: {second: {}}\n");
    bench.run_s(30);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    let runs = bench.current();
    assert!(runs.contains("edited") && runs.contains("second"), "{runs}");
    assert_eq!((shown(&bench), bench.noted(CHANGED)), (right(), 0));
}

#[test]
fn refused_edit_is_tried_again_when_somebody_asks_for_it() {
    let mut bench = calm();
    bench.edit(A, "receivers: {invalid: {}}\n");
    bench.run_s(30);
    let tried = bench.validated.len();
    bench.run_s(600);
    assert_eq!(bench.validated.len(), tried, "not by itself");
    bench.hup(SETTINGS);
    bench.run_s(30);
    assert!(bench.validated.len() > tried);
    assert!(bench.validated.last().unwrap().contains("invalid"));
    assert_eq!(
        (bench.noted(REFUSED), shown(&bench).refused),
        (2, vec![A.to_owned()])
    );
}

#[test]
fn start_takes_what_was_edited_meanwhile_and_tries_nothing_where_nothing_was() {
    let mut bench = calm();
    let tried = |bench: &Bench| (bench.disk.journal.len(), bench.validated.len());
    let before = tried(&bench);
    bench.boot();
    bench.run_s(60);
    assert_eq!(tried(&bench), before);
    bench
        .disk
        .local
        .insert(A.into(), "receivers: {meanwhile: {}}\n".to_owned());
    bench.boot();
    bench.run_s(60);
    let runs = bench.current();
    assert!(runs.contains("meanwhile") && runs.contains(OFFER), "{runs}");
    assert!(bench.is_good());

    // Nor where the built-in config runs, alone or with local files.
    for files in [&[][..], &[(A, OF_A)]] {
        let named = if files.is_empty() {
            ""
        } else {
            "config_files: [/etc/a.yaml],"
        };
        let settings = format!("profile: defaulted, {named} apply: {{probation: 10s}}");
        let mut bench = Bench::calm(&settings, files);
        assert!(bench.is_up());
        let before = tried(&bench);
        bench.boot();
        bench.run_s(60);
        assert_eq!(tried(&bench), before, "{named}");
        assert!(bench.is_up());
    }
}

#[test]
fn file_that_the_settings_add_and_the_validator_refuses_is_no_change_of_the_other_files() {
    let settings = SETTINGS.replace(", /etc/b.yaml", "");
    let mut bench = Bench::calm(&settings, &[(A, OF_A), (B, "receivers: {invalid: {}}\n")]);
    let validated = bench.validated.len();
    bench.hup(SETTINGS);
    bench.run_s(30);
    let last = bench.disk.journal.last().unwrap();
    assert_eq!(
        last.reason,
        "the validator refused the config (exit code 1); no file changed since the last good revision; the settings \
         or the host did: no such word"
    );
    assert_eq!(bench.validated.len(), validated + 1);
    assert!(bench.is_up() && bench.is_good());
}

#[test]
fn drift_that_a_start_found_is_shown_and_frozen_state_is_not_watched() {
    let drift = DriftedFile {
        path: "config.yaml".to_owned(),
        expected: "1".to_owned(),
        found: None,
    };
    let settings = agent(SETTINGS);
    let engine = |persisted| Engine::new(setup(&settings, persisted, None));
    let found = engine(Persisted {
        drift: vec![drift.clone()],
        ..Persisted::default()
    });
    assert_eq!(found.layers_snapshot().drift, [drift]);
    let bench = calm();
    let id = bench.disk.current.clone().unwrap();
    let current = bench.disk.revisions.get(&id).cloned();
    for (frozen, watched) in [(None, true), (Some("of a newer version".to_owned()), false)] {
        let mut engine = engine(Persisted {
            frozen,
            current: current.clone(),
            last_good: Some(id.clone()),
            ..Persisted::default()
        });
        let effects = engine.start(bench.clock(), None).effects;
        let watch = |effect: &AgentEffect| matches!(effect, AgentEffect::WatchFiles { .. });
        assert_eq!(effects.iter().any(watch), watched);
    }
}
