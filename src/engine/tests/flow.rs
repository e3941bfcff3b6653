//! Given a child that counts what flows; when it gets another config; then its counters are looked at when that is
//! due, and what they show decides.

use std::time::Duration;

use super::page;
use super::rig::{APPLIED, APPLYING, Bench, FAILED, agent};
use crate::engine::Engine;
use crate::engine::message::{Command, CommandId};

const SETTINGS: &str = "profile: layered, apply: {probation: 30s}";
const WARNS: &str = "profile: layered, apply: {probation: 30s, flow: {mode: warn}}";
const OFF: &str = "profile: layered, apply: {probation: 30s, flow: {mode: off}}";
// The second half of what was read in the window; of the baseline, the two windows that fit into as much.
const COLLAPSED: &str = "logs do not come in any more: 0.00 a second in the last 27511ms, \
     at least 66.64 before the change";

fn config(more: &str) -> String {
    format!("receivers: {{otlp: {{at: a}}}}\nexporters: {{out: {{}}}}\n{more}")
}

/// Under this the child is healthy, and nothing comes in.
fn starving(number: u32) -> String {
    format!("receivers: {{otlp: {{at: starves-{number}}}}}\nexporters: {{out: {{}}}}\n")
}

/// The same after a start, with nothing said yet.
fn started(seconds: u64) -> Bench {
    let mut bench = flowing(SETTINGS, 0);
    bench.boot();
    bench.run_s(seconds);
    assert_eq!(
        words(&bench),
        format!("flow: {}s of baseline", seconds / 10 * 10)
    );
    bench
}

/// A config that flows was committed, and its baseline is this long.
fn flowing(settings: &str, seconds: u64) -> Bench {
    let mut bench = page::counting(settings, page::flow());
    bench.offer("o1", &config(""));
    bench.run_s(35);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench.run_s(seconds);
    bench
}

fn told(bench: &Bench) -> (Option<String>, Duration) {
    let snapshot = bench.engine.snapshot(bench.clock());
    (snapshot.flow, snapshot.flow_baseline)
}

fn words(bench: &Bench) -> String {
    told(bench).0.unwrap()
}

#[test]
fn counters_are_asked_for_at_their_interval_and_more_often_in_probation() {
    let mut bench = page::counting(SETTINGS, page::flow());
    assert_eq!(bench.page.moments(), [0; 0], "nothing runs");
    bench.offer("o1", &config(""));
    bench.run_s(35);
    // The answer takes two milliseconds, and the next question comes a sixth of probation after it.
    assert_eq!(bench.page.steps(), [5_002; 6]);
    assert_eq!(words(&bench), "flow: no verdict, 0s of baseline, 2m wanted");
    bench.run_s(60);
    assert_eq!(bench.page.steps(), [10_002; 5]);
}

#[test]
fn config_under_which_nothing_comes_in_goes_back_and_the_next_one_as_well() {
    let mut bench = flowing(SETTINGS, 300);
    let good = bench.current();
    for number in [2, 3] {
        bench.offer(&format!("o{number}"), &starving(number));
        bench.run_s(34);
        // Probation is over, and it is looked at until the window is.
        assert_eq!(bench.status(), (format!("o{number}"), APPLYING));
        assert!(bench.current().contains("starves"));
        bench.run_s(29);
        assert_eq!(bench.status(), (format!("o{number}"), APPLYING));
        bench.run_s(2);
        assert_eq!(bench.status(), (format!("o{number}"), FAILED));
        let said = &bench.read.last().unwrap().error_message;
        assert!(
            said.contains(&format!("data stopped to flow: {COLLAPSED}")),
            "{said}"
        );
        bench.run_s(10);
        assert_eq!(bench.current(), good);
        assert_eq!(words(&bench), format!("flow: collapsed, {COLLAPSED}"));
        assert_eq!(bench.counted("flow_collapses"), u64::from(number) - 1);
        bench.run_s(60);
    }
    // A good one passes, at the end of its probation.
    bench.offer("o4", &config("more: 1\n"));
    bench.run_s(36);
    assert_eq!(bench.status(), ("o4".to_owned(), APPLIED));
    assert_eq!(words(&bench), "flow: as before");
    assert_eq!(bench.counted("flow_passes"), 1);
}

#[test]
fn baseline_is_of_the_config_that_runs_and_begins_anew_with_each_commit() {
    let mut bench = flowing(SETTINGS, 0);
    let first = told(&bench).1;
    assert!((28..=35).contains(&first.as_secs()), "{first:?}");
    bench.run_s(100);
    let grown = told(&bench).1.as_secs() - first.as_secs();
    assert!((90..=101).contains(&grown), "{grown}");
    bench.offer("o2", &config("more: 1\n"));
    bench.run_s(36);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    let anew = told(&bench).1;
    assert!((28..=35).contains(&anew.as_secs()), "{anew:?}");
}

#[test]
fn where_a_collapse_is_only_warned_of_the_config_is_kept() {
    let mut bench = flowing(WARNS, 300);
    bench.offer("o2", &starving(2));
    bench.run_s(66);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert!(bench.current().contains("starves") && bench.is_good());
    assert_eq!(
        words(&bench),
        format!("flow: collapsed, kept all the same, {COLLAPSED}")
    );
    let note = "data stopped to flow under a config that is kept";
    assert_eq!((bench.noted(note), bench.counted("flow_collapses")), (1, 1));
}

#[test]
fn nobody_looks_where_the_settings_say_so() {
    let mut bench = flowing(OFF, 300);
    bench.offer("o2", &starving(2));
    bench.run_s(36);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert_eq!((bench.page.asked.len(), told(&bench).0), (0, None));
    for counter in ["flow_passes", "flow_unknown", "flow_collapses"] {
        assert_eq!(bench.counted(counter), 0, "{counter}");
    }
}

#[test]
fn page_that_cannot_be_read_is_asked_for_rarely_and_holds_up_nothing() {
    let mut bench = started(85);
    bench.page.gone = Some("connection refused".to_owned());
    bench.page.moments();
    bench.run_s(900);
    assert_eq!(words(&bench), "flow: not known, connection refused");
    assert_eq!(bench.page.steps(), [10_002, 10_002, 300_002, 300_002]);
    bench.offer("o2", &starving(2));
    bench.run_s(36);
    // In probation there is a hurry all the same.
    assert_eq!(bench.page.moments().len(), 7);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert_eq!(words(&bench), "flow: no verdict, connection refused");
    assert_eq!(bench.counted("flow_unknown"), 1);
    // It is there again: so is the hurry.
    bench.page.gone = None;
    bench.run_s(400);
    bench.page.moments();
    bench.run_s(60);
    assert_eq!(bench.page.steps(), [10_002; 5]);
}

#[test]
fn page_of_a_process_that_is_older_than_the_child_says_nothing() {
    let mut bench = started(85);
    let child = bench.engine.life.running().unwrap().started;
    // Ten seconds are what two clocks may differ by.
    for (ahead, known) in [(10_000, true), (10_001, false), (10_000, true)] {
        let asked = bench.page.moments().last().copied().unwrap();
        let age = bench.clock().wall.unix_millis() - child.unix_millis();
        let since = bench.clock().mono.as_millis() - asked;
        // At the next answer.
        let then = age - since + 10_002 + bench.page.takes;
        bench.page.uptime = Some(Duration::from_millis(then + ahead));
        bench.run_s(11);
        let words = words(&bench);
        let other = "the counters there are of another process, which has been up for ";
        assert_eq!(!words.contains(other), known, "{ahead} ms: {words}");
    }
}

#[test]
fn answer_that_comes_after_the_child_was_told_something_is_not_counted() {
    let mut bench = flowing(SETTINGS, 300);
    bench.page.takes = 4_000;
    bench.page.moments();
    while bench.page.asked.is_empty() {
        bench.run_s(1);
    }
    bench.offer("o2", &config("more: 1\n"));
    bench.run_s(40);
    assert_eq!(bench.counted("stale_answers"), 1);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    assert_eq!(words(&bench), "flow: as before");
}

#[test]
fn counters_are_looked_for_where_the_config_has_them() {
    let usual = "http://127.0.0.1:8888/counters";
    let elsewhere = "telemetry: {pages: [{at: {host: 0.0.0.0, port: 9}}]}\n";
    for (more, url) in [("", usual), (elsewhere, "http://127.0.0.1:9/counters")] {
        let mut bench = page::counting(SETTINGS, page::flow());
        bench.offer("o1", &config(more));
        bench.run_s(100);
        assert!(bench.page.asked.len() > 10);
        assert!(bench.page.asked.iter().all(|(_, at)| at == url), "{more}");
    }
    let mut bench = page::counting(SETTINGS, page::flow());
    bench.offer("o1", &config("telemetry: {level: none}\n"));
    bench.run_s(36);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    let why = "telemetry.level is none";
    assert_eq!(words(&bench), format!("flow: no verdict, {why}"));
    bench.run_s(300);
    assert_eq!(bench.page.asked.len(), 0);
}

#[test]
fn who_goes_back_by_hand_knows_what_stops() {
    let mut bench = page::counting(SETTINGS, page::flow());
    bench.offer("o1", &starving(1));
    bench.run_s(36);
    let quiet = bench.disk.current.clone();
    bench.offer("o2", &config(""));
    bench.run_s(336);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLIED));
    let command = Command::Rollback {
        agent: None,
        to: quiet.clone(),
    };
    bench.with(|engine, now| engine.command(now, CommandId(1), command));
    bench.run_s(66);
    assert_eq!(bench.disk.current, quiet);
    let kept = format!("flow: collapsed, kept all the same, {COLLAPSED}");
    assert_eq!(words(&bench), kept);
}

#[test]
fn collapse_is_said_when_the_window_is_over_however_long_probation_is() {
    let settings = "profile: layered, apply: {probation: 5m, flow: {window: 60s}}";
    let mut bench = page::counting(settings, page::flow());
    bench.offer("o1", &config(""));
    bench.run_s(295);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLYING));
    bench.run_s(20);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    bench.run_s(300);
    bench.offer("o2", &starving(2));
    bench.run_s(60);
    assert_eq!(bench.status(), ("o2".to_owned(), APPLYING));
    bench.run_s(15);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
}

#[test]
fn nobody_is_asked_while_the_child_is_down() {
    let mut bench = flowing(SETTINGS, 300);
    for _ in 0..4 {
        bench.kill();
        bench.run(Duration::from_millis(2));
        while !bench.is_up() {
            bench.run_s(1);
        }
    }
    bench.page.moments();
    bench.kill();
    bench.run(Duration::from_millis(2));
    assert!(!bench.is_up(), "it waits before it is started again");
    bench.run_s(120);
    assert!(bench.is_up() && !bench.page.asked.is_empty());
    // The counters began anew, and what was known of the config stays.
    bench.offer("o2", &starving(2));
    bench.run_s(66);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
}

#[test]
fn stopping_asks_for_nothing() {
    let mut bench = flowing(SETTINGS, 30);
    bench.page.moments();
    bench.with(Engine::wind_down);
    bench.run_s(60);
    assert_eq!(bench.page.moments(), [0; 0]);
}

/// The program says its numbers, `more` than before.
fn says(bench: &mut Bench, records: &mut i64, more: i64) {
    *records += more;
    let health = page::health(*records);
    bench.with(|engine, now| {
        engine.child.health = Some(health);
        engine.flow_heard(now.mono);
        engine.tick(now)
    });
}

#[test]
fn numbers_that_the_program_gives_by_itself_are_counted_outside_of_a_change_and_in_probation() {
    let mut bench = page::counting(SETTINGS, page::flow_of_link());
    bench.offer("o1", &config(""));
    bench.run_s(35);
    let mut records = 0;
    for _ in 0..31 {
        says(&mut bench, &mut records, 1_000);
        bench.run_s(10);
    }
    assert_eq!(told(&bench).1, Duration::from_mins(5));
    bench.offer("o2", &starving(2));
    for _ in 0..3 {
        // It is told about its config: what it counts now is of neither.
        bench.run_s(1);
        says(&mut bench, &mut records, 1_000);
    }
    assert_eq!(told(&bench).1, Duration::from_mins(5));
    for _ in 0..30 {
        bench.run_s(2);
        says(&mut bench, &mut records, 0);
    }
    bench.run_s(10);
    assert_eq!(bench.status(), ("o2".to_owned(), FAILED));
    let words = words(&bench);
    assert!(
        words.starts_with("flow: collapsed, logs do not come in any more: 0.00"),
        "{words}"
    );
    assert_eq!(bench.page.asked, []);
}

#[test]
fn hup_forgets_what_was_counted_only_where_it_is_counted_in_another_way() {
    let mut bench = flowing(SETTINGS, 300);
    let before = told(&bench);
    assert!(before.1 >= Duration::from_mins(5), "{before:?}");
    let mut same = agent(SETTINGS);
    same.0.profile.flow = Some(page::flow());
    bench.hup_with(same.clone());
    bench.run(Duration::from_millis(1));
    assert_eq!(told(&bench), before);
    if let Some(flow) = &mut same.0.profile.flow {
        flow.signals[0].name = "traces".to_owned();
    }
    bench.hup_with(same);
    bench.run(Duration::from_millis(1));
    assert_eq!(told(&bench).1, Duration::ZERO);
}
