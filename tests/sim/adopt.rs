//! Given a child that runs what it should; when the supervisor is killed, at any point of what it was doing, and comes
//! back; then the same child goes on, is told what it was not told, and what is reported is what it runs. A child that
//! was told to end, or would be started in another way now, makes place for a new one first.

use std::time::Duration;

use super::host::{APPLIED, settled};
use super::world::{Behaviour, Death, World};

/// A world whose child runs a committed config.
fn committed(seed: u64) -> World {
    let mut world = World::new(seed);
    world.boot();
    world.run(Duration::from_mins(1));
    world.offer(Behaviour::Ok.text(1));
    world.run(Duration::from_mins(2));
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    world
}

fn kill(world: &mut World) {
    world.die(Death::Killed);
}

#[test]
fn a_proven_child_goes_on_untouched_however_often_we_are_killed() {
    let mut world = committed(21);
    let before = (world.living(), world.signals);
    for round in 0..20 {
        kill(&mut world);
        world.run(Duration::from_millis(1 + round * 700));
        assert_eq!((world.living(), world.signals), before, "round {round}");
    }
    world.run(Duration::from_mins(1));
    assert_eq!(world.adoptions(), 1, "by the life that lives");
    settled(&mut world);
    assert_eq!((world.living(), world.signals), before);
}

#[test]
fn health_does_not_flap_while_an_adopted_child_looks_for_us() {
    let mut world = committed(22);
    world.redial_ms = 60_000;
    let before = (world.living(), world.signals);
    for _ in 0..10 {
        kill(&mut world);
        for _ in 0..50 {
            world.run(Duration::from_secs(2));
            let health = world.server_health().unwrap();
            assert!(health.healthy, "{}", health.last_error);
        }
    }
    assert_eq!((world.living(), world.signals), before);
    settled(&mut world);
}

#[test]
fn a_proven_child_that_never_finds_us_again_is_not_called_healthy_for_ever() {
    let mut world = committed(23);
    world.redial_ms = u64::MAX / 4;
    let before = (world.living(), world.signals);
    kill(&mut world);
    world.run(Duration::from_secs(80));
    assert!(world.server_health().unwrap().healthy);
    world.run(Duration::from_mins(1));
    let health = world.server_health().unwrap();
    assert!(!health.healthy);
    assert!(
        health.last_error.contains("no health report"),
        "{}",
        health.last_error
    );
    assert_eq!(
        (world.living(), world.signals),
        before,
        "it is left alone all the same"
    );
}

#[test]
fn probation_goes_on_with_the_same_child() {
    for seconds in [1, 5, 15, 29] {
        let mut world = committed(24);
        world.redial_ms = 30_000;
        world.offer(Behaviour::Ok.text(2));
        world.run(Duration::from_secs(seconds));
        let before = (world.living(), world.signals);
        assert_eq!(world.current(), Some(Behaviour::Ok.text(2)));
        kill(&mut world);
        world.run(Duration::from_mins(3));
        assert_eq!((world.living(), world.signals), before, "after {seconds} s");
        assert_eq!(world.server_status(), Some((APPLIED, String::new())));
        settled(&mut world);
    }
}

#[test]
fn a_bad_config_is_gone_back_from_by_the_life_that_adopts() {
    for behaviour in [
        Behaviour::NeverHealthy,
        Behaviour::DiesLater,
        Behaviour::Silent,
    ] {
        let mut world = committed(25);
        world.offer(behaviour.text(2));
        world.run(Duration::from_secs(2));
        kill(&mut world);
        world.run(Duration::from_mins(6));
        let (status, message) = world.server_status().unwrap();
        assert_eq!(status, super::host::FAILED, "{behaviour:?}: {message}");
        assert_eq!(
            world.current(),
            Some(Behaviour::Ok.text(1)),
            "{behaviour:?}"
        );
        settled(&mut world);
    }
}

/// A good config on top of another, by HUP.
fn script(world: &mut World) {
    world.boot();
    world.run(Duration::from_secs(45));
    world.offer(Behaviour::Ok.text(1));
    world.run(Duration::from_secs(75));
}

#[test]
fn killed_before_any_effect_of_a_rollout_by_hup_it_needs_no_new_child() {
    let mut world = World::new(26);
    script(&mut world);
    let effects = world.effects;
    assert_eq!(world.spawns(), 1);
    let mut adopted = 0;
    for effect in 1..=effects {
        let mut world = World::new(26);
        world.die_at_effect(effect, Death::Killed);
        script(&mut world);
        world.run(Duration::from_mins(2));
        assert_eq!(
            world.spawns(),
            1,
            "killed before effect {effect} of {effects}"
        );
        assert_eq!(
            world.server_status(),
            Some((APPLIED, String::new())),
            "{effect}"
        );
        settled(&mut world);
        adopted += world.adoptions();
    }
    assert!(
        adopted * 2 > effects,
        "{adopted} of {effects} lives adopted"
    );
}

#[test]
fn a_child_that_died_while_nobody_watched_is_replaced() {
    let mut world = committed(27);
    kill(&mut world);
    world.end_children();
    world.run(Duration::from_mins(1));
    assert_eq!(world.living().len(), 1);
    assert_eq!(world.adoptions(), 0);
    settled(&mut world);
}

#[test]
fn a_child_that_was_told_to_end_is_not_adopted() {
    let mut world = committed(28);
    let before = world.living();
    world.order_restart();
    for _ in 0..1_000 {
        if world.is_ending() {
            break;
        }
        world.run(Duration::from_millis(1));
    }
    assert!(world.is_ending());
    assert_eq!(world.living(), before);
    kill(&mut world);
    world.run(Duration::from_mins(1));
    assert_eq!(world.adoptions(), 0);
    assert_ne!(world.living(), before);
    settled(&mut world);
}

#[test]
fn settings_that_start_it_in_another_way_give_a_new_child_and_others_do_not() {
    let mut world = committed(29);
    let before = world.living();
    kill(&mut world);
    let agent = &mut world.config.agents[0];
    agent.restart.give_up_after = 7;
    agent.apply.probation = Duration::from_secs(20);
    world.run(Duration::from_mins(2));
    assert_eq!(world.living(), before);
    kill(&mut world);
    world.protects = false;
    let colour = ("COLOUR".to_owned(), "green".to_owned());
    world.config.agents[0].env.extend([colour]);
    world.run(Duration::from_mins(2));
    assert_ne!(world.living(), before);
    assert_eq!(world.adoptions(), 0);
    settled(&mut world);
}

#[test]
fn without_adoption_the_child_is_stopped_before_another_starts() {
    let mut world = committed(30);
    let before = world.living();
    kill(&mut world);
    world.protects = false;
    world.config.agents[0].on_our_death = adjutant::config::OnDeath::Restart;
    world.run(Duration::from_mins(2));
    assert_ne!(world.living(), before);
    assert_eq!(world.spawns(), 2);
    settled(&mut world);
}
