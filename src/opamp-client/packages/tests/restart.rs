//! What is left after the process died.

use super::*;

/// What a caller stores and reads, through its bytes.
fn stored(bench: &Bench) -> PackagesState {
    let state = bench.packages.state();
    let read = PackagesState::from_bytes(&state.to_bytes()).unwrap();
    // Steps under way are not stored; what is, comes back as it was.
    assert_eq!(PackagesState::from_bytes(&read.to_bytes()).unwrap(), read);
    read
}

fn restarted(bench: &Bench) -> Bench {
    let config = PackagesConfig::new(7);
    Bench {
        packages: Packages::restored(config, stored(bench)),
        now: Duration::ZERO,
    }
}

//
#[test]
fn final_statuses_are_the_same_after_a_restart() {
    let mut bench = Bench::holding([("a", addon(1)), ("b", addon(1))]);
    bench.packages.set_found(bench.now, "own", Some(local(3)));
    bench.offer(available(b"next", [("a", addon(2)), ("c", addon(2))]));
    let ticket = bench.download();
    bench.fail(ticket, PackageFailure::lasting("404"));
    bench.obey();
    let before = bench.statuses().unwrap();
    let mut after = restarted(&bench);
    assert_eq!(after.statuses().unwrap(), before);
    assert_eq!(after.packages.poll_timeout(), None, "nothing is due");
    // The same offer fetches nothing, another one only what differs.
    after.offer(available(b"next", [("a", addon(2)), ("c", addon(2))]));
    assert_eq!(after.obey(), [""; 0], "what failed for good is remembered");
    after.offer(available(b"third", [("a", addon(3)), ("c", addon(2))]));
    assert_eq!(after.obey(), ["download a", "verify a", "install a 3"]);
}

//
#[test]
fn death_at_any_step_is_made_up_for_without_another_offer() {
    for steps in 0..3 {
        let mut bench = Bench::holding([("a", addon(1))]);
        bench.offer(available(b"next", [("a", addon(2))]));
        for step in 0..steps {
            let ticket = bench.one().ticket();
            let result = match step {
                0 => PackageResult::Downloaded { sha256: digest(2) },
                _ => PackageResult::Verified,
            };
            bench.answer(ticket, result);
        }
        let mut after = restarted(&bench);
        // Not "Downloading": nothing is under way.
        assert_eq!(after.word("a"), PackageStatusEnum::InstallPending);
        assert_eq!(
            after.status("a").agent_has_hash,
            addon(1).hash,
            "step {steps}"
        );
        after.pass(Duration::ZERO);
        assert_eq!(after.obey(), ["download a", "verify a", "install a 2"]);
    }
}

#[test]
fn what_was_installed_before_the_death_is_not_fetched_again_if_it_is_found() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(2))]));
    let mut after = restarted(&bench);
    let found = FoundPackage {
        hash: addon(2).hash,
        ..local(2)
    };
    after.packages.set_found(after.now, "a", Some(found));
    assert_eq!(after.obey(), [""; 0]);
    assert_eq!(after.word("a"), PackageStatusEnum::Installed);
    // It came from the offer, so it goes with it.
    after.offer(available(b"2", []));
    assert_eq!(after.obey(), ["remove a"]);
}

#[test]
fn a_package_that_has_vanished_is_fetched_again() {
    let bench = Bench::holding([("a", addon(1))]);
    let mut after = restarted(&bench);
    after.packages.set_found(after.now, "a", None);
    assert_eq!(after.status("a").agent_has_hash, b"");
    assert_eq!(after.effects(), [], "first all that is found is told");
    after.pass(Duration::ZERO);
    assert_eq!(after.obey(), ["download a", "verify a", "install a 1"]);
    // One that nobody offers is just gone.
    after.packages.set_found(after.now, "own", Some(local(1)));
    after.packages.set_found(after.now, "own", None);
    assert_eq!(after.names(), ["a"]);
}

#[test]
fn a_transient_failure_is_tried_after_a_restart_when_the_pause_is_over() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(9) });
    let mut after = restarted(&bench);
    assert_eq!(after.word("a"), PackageStatusEnum::InstallFailed);
    after.offer(available(b"1", [("a", addon(1))]));
    assert_eq!(after.obey(), [""; 0]);
    after.pass(secs(301));
    after.offer(available(b"1", [("a", addon(1))]));
    assert_eq!(after.obey(), ["download a", "verify a", "install a 1"]);
}

#[test]
fn stored_bytes_that_are_something_else_are_an_error_and_bad_names_are_left_out() {
    assert!(PackagesState::from_bytes(&[0xFF; 7]).is_err());
    let mut bench = Bench::holding([("aaaa", addon(1))]);
    bench.statuses();
    let mut bytes = bench.packages.state().to_bytes();
    let at = bytes.windows(4).position(|w| w == b"aaaa").unwrap();
    bytes[at..at + 4].copy_from_slice(b"../x");
    let state = PackagesState::from_bytes(&bytes).unwrap();
    let packages = Packages::restored(PackagesConfig::new(7), state);
    assert_eq!(packages.statuses().packages.len(), 0);
}

#[test]
fn a_withdrawn_package_whose_installation_was_cut_off_is_cleared_away() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(1) });
    bench.effects();
    bench.answer(ticket, PackageResult::Verified);
    bench.offer(available(b"2", []));
    let mut after = restarted(&bench);
    assert_eq!(after.names(), [""; 0], "nobody knows whether it is there");
    after.pass(Duration::ZERO);
    assert_eq!(after.obey(), ["remove a"]);
}
