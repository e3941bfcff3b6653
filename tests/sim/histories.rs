//! Given many short lives of the whole product with one to five agents, each under its own seed and settings; when
//! server, disk, child, clock and people do what they do, by chance and at the moment that suits least; then the
//! invariants hold after every step, every event meets every state it can meet, what becomes of one agent never
//! reaches another, and each life ends with configs that run and are reported.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use adjutant::config::{self, EmptyConfig, Reload, ReportWhen};

use super::coverage::{self, Visits};
use super::host::{APPLIED, settled};
use super::world::{Behaviour, Faults, World, name_of};

/// Histories of a plain `cargo test`; `.ci/run` and `.ci/nightly` run more by `ADJUTANT_SIM_HISTORIES`.
const FEW: u64 = 100;
/// From so many on, every event has to have met every state it can meet.
const MANY: u64 = 50_000;

/// Settings of one agent, who may start after those before it. Set one by one: to read them takes longer than a
/// history.
fn set(agent: &mut config::Agent, number: usize, dice: &mut fastrand::Rng) {
    let secs = Duration::from_secs;
    agent.apply.report = [ReportWhen::AfterProbation, ReportWhen::OnProof][dice.usize(0..2)];
    agent.apply.reload = [Reload::Hup, Reload::Restart][dice.usize(0..2)];
    let empty = [EmptyConfig::Keep, EmptyConfig::Default, EmptyConfig::Stop];
    agent.apply.empty_config = empty[dice.usize(0..3)];
    agent.apply.probation = secs([5, 10, 30][dice.usize(0..3)]);
    agent.restart.give_up_after = [0, 0, 2, 4][dice.usize(0..4)];
    let after = (0..number).filter(|_| dice.u8(0..4) == 0);
    agent.start.after = after.map(|on| name_of(on).parse().unwrap()).collect();
    agent.start.wait = secs([2, 5, 30][dice.usize(0..3)]);
}

/// One history: agents, settings, faults and deeds follow from the seed.
fn history(seed: u64, tracing: bool) -> Visits {
    let mut dice = fastrand::Rng::with_seed(seed);
    let count = [1, 1, 1, 1, 2, 2, 2, 3, 4, 5][dice.usize(0..10)];
    let mut world = World::of_agents(seed, &vec![String::new(); count], "");
    for (number, agent) in world.config.agents.iter_mut().enumerate() {
        set(agent, number, &mut dice);
    }
    world.tracing = tracing;
    // The first one never, so that there is somebody whom something happens to.
    for number in 1..count {
        if dice.bool() {
            world.of(number).spare();
        }
    }
    let often = [0.0, 0.3, 1.0, 3.0][dice.usize(0..4)];
    world.faults = Faults {
        disk: 0.02 * often,
        duplicates: 0.03 * often,
        late: 0.01 * often,
        deaths: 0.004 * often,
        child_deaths: 0.1 * often,
        links: 0.02 * often,
        spawns: 0.04 * often,
    };
    world.boot();
    for round in 0..dice.u64(2..9) {
        somebody(&mut world, &mut dice);
        if dice.u8(0..3) == 0 {
            strike(&mut world, &mut dice, round);
        } else {
            deed(&mut world, &mut dice, round);
            let span = match dice.u8(0..3) {
                0 => dice.u64(1..100),
                1 => dice.u64(100..5_000),
                _ => dice.u64(5_000..50_000),
            };
            world.run(Duration::from_millis(span));
        }
        world.begin_again();
    }
    world.faults = Faults::default();
    // Whoever is about to end has ended by then.
    world.run(Duration::from_secs(20));
    world.begin_again();
    for number in 0..count {
        world.of(number).server_up(true);
        if !world.is_spared() {
            world.offer(Behaviour::Ok.text(1_000 + seed % 1_000));
        }
    }
    settled(&mut world);
    for number in 0..count {
        world.of(number);
        if !world.is_spared() && world.server_status() != Some((APPLIED, String::new())) {
            world.violated(&format!("in the end: {:?}", world.server_status()));
        }
    }
    world.visits.clone()
}

/// Talks about one of those that are not spared.
fn somebody(world: &mut World, dice: &mut fastrand::Rng) {
    let count = world.count();
    loop {
        if !world.of(dice.usize(0..count)).is_spared() {
            return;
        }
    }
}

/// A config that behaves in any way; now and then one that was offered before, or one of several files.
fn config(dice: &mut fastrand::Rng, round: u64) -> String {
    let behaviour = Behaviour::ALL[dice.usize(0..Behaviour::ALL.len())].0;
    text(behaviour, dice, round)
}

fn text(behaviour: Behaviour, dice: &mut fastrand::Rng, round: u64) -> String {
    let number = if dice.u8(0..3) == 0 { 1 } else { round };
    let text = behaviour.text(number);
    match dice.u8(0..3) {
        0 => format!("{text}# with: {}\n", dice.u8(0..4)),
        _ => text,
    }
}

/// An event meets a state of a rollout that an offer begins.
fn strike(world: &mut World, dice: &mut fastrand::Rng, round: u64) {
    static PAIRS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(coverage::possible);
    let (state, event) = PAIRS[dice.usize(0..PAIRS.len())];
    let bad = [
        Behaviour::DiesAtStart,
        Behaviour::BlamesConfig,
        Behaviour::DiesLater,
        Behaviour::NeverHealthy,
        Behaviour::Refused,
        Behaviour::Silent,
    ];
    let offered = match state {
        "rejecting"
        | "fetching good"
        | "restoring good"
        | "staging base"
        | "returning"
        | "marking rolled back"
        | "settling" => {
            let behaviour = bad[dice.usize(0..bad.len())];
            text(behaviour, dice, round)
        }
        "fetching baseline" | "staging trial" | "trying" => {
            let number = dice.u64(100..200);
            format!("{}# with: {number}\n", Behaviour::Invalid.text(number))
        }
        _ => config(dice, round),
    };
    world.server_up(true);
    world.offer(offered);
    world.strike(state, event);
}

/// Something that somebody does.
fn deed(world: &mut World, dice: &mut fastrand::Rng, round: u64) {
    match dice.u8(0..20) {
        0 => world.server_up(false),
        1 | 2 => world.server_up(true),
        3 => world.order_restart(),
        4 => world.hang_up(),
        5 => world.break_link(),
        6 => world.terminate(),
        7 => world.send_config(
            b"empty",
            Some(opamp_client::messages::AgentConfigMap::default()),
        ),
        8 => world.jump(dice.u64(0..7_200_000)),
        9 => world.person_restarts(),
        10 => world.person_rolls_back(),
        11 => world.person_applies(&Behaviour::Ok.text(500 + round)),
        12 => world.person_reloads(),
        _ => world.offer(config(dice, round)),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `ADJUTANT_SIM_HISTORY=N` replays one, `ADJUTANT_SIM_HISTORIES=N` runs that many, from `ADJUTANT_SIM_FROM` on;
/// `ADJUTANT_SIM_FAILURES=N` looks for that many failing seeds before it shows the first.
#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = number("ADJUTANT_SIM_HISTORY") {
        history(seed, true);
        return;
    }
    let histories = number("ADJUTANT_SIM_HISTORIES").unwrap_or(FEW);
    let from = number("ADJUTANT_SIM_FROM").unwrap_or(1);
    let next = AtomicU64::new(from);
    let failures = number("ADJUTANT_SIM_FAILURES").unwrap_or(1);
    let failed = Mutex::new(BTreeSet::new());
    let enough = || failed.lock().unwrap().len() as u64 >= failures;
    let all = Mutex::new(Visits::default());
    let work = || {
        let mut mine = Visits::default();
        while !enough() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + histories {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| history(seed, false))) {
                Ok(visits) => mine.add(&visits),
                Err(_) => {
                    failed.lock().unwrap().insert(seed);
                }
            }
        }
        all.lock().unwrap().add(&mine);
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    if failed.len() > 1 {
        eprintln!("failing seeds: {failed:?}");
    }
    if let Some(&seed) = failed.first() {
        eprintln!("replay: ADJUTANT_SIM_HISTORY={seed} cargo test --test sim every_history");
        history(seed, true);
        panic!("history {seed} failed once and not again");
    }
    let visits = all.into_inner().unwrap();
    assert_eq!(
        visits.strangers(),
        Vec::<&str>::new(),
        "states without a row"
    );
    println!(
        "{histories} histories from seed {from}; what met whom:\n{}",
        visits.table()
    );
    println!("possible and not met: {:?}", visits.missed());
    assert_eq!(visits.wrong(), Vec::<String>::new());
    if histories >= MANY {
        assert_eq!(visits.missed(), []);
    }
}
