//! Given many short lives of the whole product, each under its own seed and settings; when server, disk, child, clock
//! and people do what they do; then the invariants hold after every step, every state was met, and
//! each life ends with a config that runs and is reported.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::coverage::Visits;
use super::host::{APPLIED, settled};
use super::order;
use super::world::{Behaviour, Faults, World};

/// Histories of a plain `cargo test`; `.ci/run` and `.ci/nightly` run more by `ADJUTANT_SIM_HISTORIES`.
const FEW: u64 = 100;
/// From so many on, every state has to have been met.
const MANY: u64 = 20_000;

/// One history: settings, faults and deeds follow from the seed.
fn history(seed: u64, tracing: bool) -> Visits {
    let mut dice = fastrand::Rng::with_seed(seed);
    let report = ["after_probation", "on_proof"][dice.usize(0..2)];
    let reload = ["hup", "restart"][dice.usize(0..2)];
    let empty = ["keep", "default", "stop"][dice.usize(0..3)];
    let give_up = [0, 0, 2, 4][dice.usize(0..4)];
    let probation = [5, 10, 30][dice.usize(0..3)];
    let agent = format!(
        "apply: {{report: {report}, reload: {reload}, empty_config: {empty}, probation: {probation}s}}, \
         restart: {{give_up_after: {give_up}}}"
    );
    let mut world = World::of_agent(seed, &agent, "");
    world.tracing = tracing;
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
        deed(&mut world, &mut dice, round);
        let span = match dice.u8(0..3) {
            0 => dice.u64(1..100),
            1 => dice.u64(100..5_000),
            _ => dice.u64(5_000..50_000),
        };
        world.run(Duration::from_millis(span));
        world.begin_again();
    }
    world.faults = Faults::default();
    // Whoever is about to end has ended by then.
    world.run(Duration::from_secs(20));
    world.begin_again();
    world.server_up(true);
    let last = Behaviour::Ok.text(1_000 + seed % 1_000);
    world.offer(last);
    settled(&mut world);
    if world.server_status() != Some((APPLIED, String::new())) {
        world.violated(&format!("in the end: {:?}", world.server_status()));
    }
    world.visits.clone()
}

/// One in four is about one to five agents that start and stop in an order; the others about one agent's rollouts.
fn any(seed: u64, tracing: bool) -> Visits {
    if seed.is_multiple_of(4) {
        order::history(seed);
        return Visits::default();
    }
    history(seed, tracing)
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
        _ => {
            let behaviour = Behaviour::ALL[dice.usize(0..Behaviour::ALL.len())].0;
            let number = if dice.u8(0..3) == 0 { 1 } else { round };
            world.offer(behaviour.text(number));
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `ADJUTANT_SIM_HISTORY=N` replays one, `ADJUTANT_SIM_HISTORIES=N` runs that many, from `ADJUTANT_SIM_FROM` on.
#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = number("ADJUTANT_SIM_HISTORY") {
        any(seed, true);
        return;
    }
    let histories = number("ADJUTANT_SIM_HISTORIES").unwrap_or(FEW);
    let from = number("ADJUTANT_SIM_FROM").unwrap_or(1);
    let next = AtomicU64::new(from);
    let failed = Mutex::new(None);
    let all = Mutex::new(Visits::default());
    let work = || {
        let mut mine = Visits::default();
        while failed.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + histories {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| any(seed, false))) {
                Ok(visits) => mine.add(&visits),
                Err(_) => *failed.lock().unwrap() = Some(seed),
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
    if let Some(seed) = *failed.lock().unwrap() {
        eprintln!("replay: ADJUTANT_SIM_HISTORY={seed} cargo test --test sim every_history");
        any(seed, true);
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
    if histories >= MANY {
        assert_eq!(visits.wrong(), Vec::<String>::new());
    }
}
