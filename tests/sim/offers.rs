//! Given an agent with a committed config; when offers come in any number and at any moment of a rollout or a stop;
//! then the newest is what runs in the end, nothing piles up, and what is referred to is never removed.

use std::time::Duration;

use super::host::{APPLIED, FAILED, settled};
use super::world::{Behaviour, World};

/// A world whose agent runs a committed config.
fn committed(seed: u64) -> World {
    let mut world = World::new(seed);
    world.boot();
    world.run(Duration::from_mins(1));
    world.offer(Behaviour::Ok.text(1));
    world.run(Duration::from_secs(90));
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    world
}

#[test]
fn two_hundred_revisions_are_pruned_and_what_is_referred_to_stays() {
    let mut world = committed(21);
    let bad = Behaviour::DiesAtStart.text(0);
    world.offer(bad.clone());
    world.run(Duration::from_mins(5));
    assert_eq!(world.server_status().unwrap().0, FAILED);
    for number in 2..202 {
        world.offer(Behaviour::Ok.text(number));
        world.run(Duration::from_secs(65));
        assert_eq!(world.server_status(), Some((APPLIED, String::new())));
        let stored = world.stored();
        assert!(
            stored.len() <= 12,
            "{} revisions after {number}",
            stored.len()
        );
        for link in ["current", "last-good"] {
            let target = world.link_target(link).unwrap();
            let name = target.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(stored.contains(&name), "{link} is gone after {number}");
        }
    }
    // The default of `keep_revisions`, and what runs, which is last good, too.
    assert_eq!(world.stored().len(), 11);
    // What was rejected at the begin is still known, in this life and in the next.
    for _ in 0..2 {
        world.offer(bad.clone());
        world.run(Duration::from_secs(2));
        let (status, message) = world.server_status().unwrap();
        assert_eq!(status, FAILED);
        assert!(message.starts_with("rejected before"), "{message}");
        world.terminate();
        world.run(Duration::from_secs(12));
        assert!(world.has_exited());
        world.boot();
        world.run(Duration::from_mins(1));
    }
    assert_eq!(world.current(), Some(Behaviour::Ok.text(201)));
}

/// Offers one config and, `wait` later, another; returns the phase that the second one met.
fn overtaken(wait: Duration) -> String {
    let mut world = committed(22);
    world.phases.clear();
    world.offer(Behaviour::Ok.text(2));
    world.run(wait);
    let phase = world.phases.last().cloned().unwrap_or_default();
    world.offer(Behaviour::Ok.text(3));
    world.run(Duration::from_mins(3));
    assert_eq!(
        world.current(),
        Some(Behaviour::Ok.text(3)),
        "{wait:?}, {phase}"
    );
    assert_eq!(
        world.server_status(),
        Some((APPLIED, String::new())),
        "{wait:?}"
    );
    let living = world.living();
    assert_eq!(living.len(), 1, "{wait:?}, {phase}");
    settled(&mut world);
    phase
}

#[test]
fn newer_offer_takes_over_in_every_phase() {
    let mut met = std::collections::BTreeSet::new();
    let fine = (0..200).map(Duration::from_millis);
    let coarse = (1..40).map(|number| Duration::from_millis(number * 1_000));
    for wait in fine.chain(coarse) {
        met.insert(overtaken(wait));
    }
    for phase in [
        "policy",
        "staging",
        "validating",
        "promoting",
        "reloading",
        "proving",
        "probation",
        "committed",
    ] {
        assert!(met.contains(phase), "no offer met {phase}: {met:?}");
    }
}

#[test]
fn same_offer_again_and_again_is_one_rollout() {
    let mut world = committed(23);
    world.offer(Behaviour::Ok.text(2));
    world.run(Duration::from_secs(1));
    let child = world.living();
    world.phases.clear();
    for _ in 0..20 {
        world.offer_again();
        world.run(Duration::from_secs(5));
    }
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    assert_eq!(world.living().len(), 1);
    let again = world.phases.iter().filter(|phase| *phase == "policy");
    assert_eq!(again.count(), 0, "{:?}", world.phases);
    assert_eq!(world.current(), Some(Behaviour::Ok.text(2)));
    assert!(child.len() <= 1);
    settled(&mut world);
}

#[test]
fn offers_while_stopping_wait_for_the_next_life() {
    for wait in (0..60).chain([200, 1_000]) {
        let mut world = committed(24);
        world.terminate();
        world.run(Duration::from_millis(wait));
        world.offer(Behaviour::Ok.text(2));
        world.run(Duration::from_secs(12));
        assert!(world.has_exited(), "{wait} ms");
        assert!(world.living().is_empty(), "{wait} ms");
        let there = world.current();
        let known = [Some(Behaviour::Ok.text(1)), Some(Behaviour::Ok.text(2))];
        assert!(known.contains(&there), "{wait} ms: {there:?}");
        world.boot();
        world.run(Duration::from_mins(3));
        assert_eq!(world.current(), Some(Behaviour::Ok.text(2)), "{wait} ms");
        assert_eq!(world.server_status(), Some((APPLIED, String::new())));
        settled(&mut world);
    }
}
