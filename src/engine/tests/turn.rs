//! Given an agent that is held back until its turn; when its turn comes; then what an earlier life began comes first,
//! and nothing that was asked meanwhile is lost.

use std::time::Duration;

use super::rig::{APPLIED, Bench};
use crate::engine::Engine;
use crate::engine::message::Step;

const FILE: &str = "/etc/a.yaml";
const SETTINGS: &str = "profile: layered, config_files: [/etc/a.yaml], apply: {probation: 10s}";
const OFFER: &str = "exporters: {offered: {}}\n";

#[test]
fn offer_taken_up_from_the_journal_is_not_overtaken_by_a_hup_that_waited() {
    for step in [Step::Staged, Step::Promoted] {
        let mut bench = Bench::calm(SETTINGS, &[(FILE, "receivers: {a: {}}\n")]);
        bench.offer("o1", OFFER);
        while bench.disk.journal.last().unwrap().step != step {
            bench.run(Duration::from_millis(1));
        }
        bench.prepare();
        bench.engine.hold_back("after another".to_owned());
        bench.start();
        bench.run_s(5);
        assert!(!bench.is_up());
        bench.edit(FILE, "receivers: {edited: {}}\n");
        bench.hup(SETTINGS);
        bench.run_s(5);
        bench.with(Engine::let_start);
        bench.run_s(120);
        assert_eq!(bench.status(), ("o1".to_owned(), APPLIED), "{step:?}");
        // What the HUP was for comes after it.
        let runs = bench.current();
        assert!(runs.contains(OFFER), "{step:?}: {runs}");
        assert!(runs.contains("edited"), "{step:?}: {runs}");
        assert!(bench.is_good());
    }
}
