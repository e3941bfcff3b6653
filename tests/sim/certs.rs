//! Given a host that keeps a certificate; when the authority is away, refuses or is late, domains change, the clock
//! jumps and the process dies between any two effects; then readers find a whole pair at every moment, configs that
//! name it wait for it and go on by themselves, children run with the live one, and the authority is not asked more
//! often than it allows.

use std::time::Duration;

use adjutant::units::Domain;

use super::authority::LIFE;
use super::host::{APPLIED, FAILED, settled};
use super::world::{Behaviour, Death, Faults, World};

const APPLYING: i32 = 2;
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A config that names the pair and, where given, the domain it is for.
fn tls(number: u64, domain: Option<&str>) -> String {
    let domain = domain.map_or(String::new(), |domain| format!("# domain: {domain}\n"));
    let path = "# tls: /state/certificates/web/current/fullchain.pem\n";
    format!("{}{path}{domain}", Behaviour::Ok.text(number))
}

fn begun(seed: u64, domain: Option<&str>) -> World {
    let mut world = World::with_certificate(seed, domain);
    world.authority.down = true;
    world.boot();
    world.run(MINUTE);
    world
}

/// The phase of the rollout and its words, as the server reads them.
fn rollout(world: &World) -> (String, String) {
    let health = world.server_health().unwrap();
    let rollout = &health.component_health_map["rollout"];
    (rollout.status.clone(), rollout.last_error.clone())
}

/// What must be true once the authority and everything else has been well for long enough.
fn well(world: &mut World) {
    world.authority.down = false;
    world.authority.refuses = false;
    world.faults = Faults::default();
    // Longer than the longest wait after failures.
    world.run(8 * HOUR);
    settled(world);
    let live = world.live_pair();
    if live.is_none() {
        world.violated("no pair is live in the end");
    }
    if world.child_pair() != live {
        world.violated(&format!(
            "the child has read {:?}, live is {live:?}",
            world.child_pair()
        ));
    }
    paced(world);
}

/// No more than four orders in an hour for one set of names.
fn paced(world: &World) {
    let mut sets: Vec<Vec<Domain>> = Vec::new();
    for (_, domains) in &world.authority.orders {
        if !sets.contains(domains) {
            sets.push(domains.clone());
        }
    }
    for set in sets {
        let orders = world.authority.orders.iter().filter(|(_, of)| *of == set);
        let at: Vec<u64> = orders.map(|(at, _)| *at).collect();
        for window in at.windows(5) {
            let span = Duration::from_millis(window[4] - window[0]);
            // Written down before it reaches the authority, which may take a while.
            if span + MINUTE < HOUR {
                world.violated(&format!("five orders within {span:?}"));
            }
        }
    }
}

#[test]
fn config_that_names_a_pair_waits_for_it_and_goes_on_without_a_new_push() {
    let mut world = begun(1, Some("a.example.com"));
    let before = world.current();
    world.offer(tls(1, None));
    world.run(3 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLYING, String::new())));
    assert_eq!(world.current(), before, "the old config runs on");
    let (phase, words) = rollout(&world);
    assert_eq!(phase, "waiting for certificate");
    assert!(
        words.starts_with("certificate web: connect: refused"),
        "{words}"
    );
    world.authority.down = false;
    world.run(18 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    assert_eq!(world.current(), Some(tls(1, None)));
    well(&mut world);
}

#[test]
fn newer_offer_takes_the_place_of_one_that_waits() {
    let mut world = begun(2, Some("a.example.com"));
    world.offer(tls(1, None));
    world.run(MINUTE);
    world.offer(Behaviour::Ok.text(2));
    world.run(MINUTE);
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    assert_eq!(world.current(), Some(Behaviour::Ok.text(2)));
}

#[test]
fn hup_does_not_drop_a_config_that_waits() {
    let mut world = begun(7, Some("a.example.com"));
    world.offer(tls(1, None));
    world.run(MINUTE);
    world.hang_up();
    world.run(MINUTE);
    assert_eq!(rollout(&world).0, "waiting for certificate");
    world.authority.down = false;
    world.run(18 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    assert_eq!(world.current(), Some(tls(1, None)));
    well(&mut world);
}

#[test]
fn waiting_ends_in_failed_and_counts_over_restarts() {
    let mut world = begun(3, Some("a.example.com"));
    world.offer(tls(1, None));
    for _ in 0..12 {
        world.run(HOUR);
        assert_eq!(world.server_status(), Some((APPLYING, String::new())));
        world.die(Death::Killed);
    }
    world.run(13 * HOUR);
    let (status, message) = world.server_status().unwrap();
    assert_eq!(status, FAILED);
    assert!(
        message.starts_with("not there within 24h: certificate web"),
        "{message}"
    );
    // It was the certificate's fault: the same config is taken again.
    world.authority.down = false;
    world.run(HOUR);
    world.offer(tls(1, None));
    world.run(2 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    well(&mut world);
}

#[test]
fn renewals_reach_the_child_by_hup_and_nothing_else_does() {
    let mut world = World::with_certificate(4, Some("a.example.com"));
    world.boot();
    world.offer(tls(1, None));
    world.run(2 * MINUTE);
    let (child, signals) = (world.living(), world.signals);
    let orders = world.authority.orders.len();
    world.run(10 * HOUR);
    assert_eq!(world.living(), child, "no restart");
    let renewed = world.authority.orders.len() - orders;
    // Between 61 and 66 percent of an hour.
    assert!((14..=17).contains(&renewed), "{renewed} renewals");
    assert_eq!(world.signals - signals, renewed as u64);
    well(&mut world);
}

#[test]
fn domain_follows_the_bundle_and_the_old_pair_stays_until_the_new_one_is_live() {
    let mut world = World::with_certificate(5, None);
    world.boot();
    world.run(MINUTE);
    assert_eq!(world.authority.orders.len(), 0, "no domain, no order");
    world.offer(tls(1, Some("a.example.com")));
    world.run(2 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    let first = world.live_pair();
    world.authority.refuses = true;
    world.offer(tls(2, Some("b.example.com")));
    world.run(2 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLYING, String::new())));
    assert_eq!(world.live_pair(), first);
    let (_, asked) = world.authority.orders.last().unwrap();
    assert_eq!(asked[0].as_str(), "b.example.com", "asked at once");
    world.authority.refuses = false;
    world.run(20 * MINUTE);
    assert_eq!(world.server_status(), Some((APPLIED, String::new())));
    assert_ne!(world.live_pair(), first);
    // Back to the first domain: its pair is still there, nobody is asked.
    let orders = world.authority.orders.len();
    world.offer(tls(3, Some("a.example.com")));
    world.run(2 * MINUTE);
    assert_eq!(world.live_pair(), first);
    assert_eq!(world.authority.orders.len(), orders);
    // No domain any more: renewals stop, the pair stays.
    world.offer(Behaviour::Ok.text(4));
    world.run(MINUTE);
    let orders = world.authority.orders.len();
    world.run(10 * HOUR);
    assert_eq!(world.authority.orders.len(), orders);
    assert_eq!(world.live_pair(), first);
}

#[test]
fn what_names_no_domain_is_refused_with_a_sentence() {
    let mut world = World::with_certificate(6, None);
    world.boot();
    world.run(MINUTE);
    world.offer(tls(1, Some("not a domain")));
    world.run(MINUTE);
    let (status, message) = world.server_status().unwrap();
    assert_eq!(status, FAILED);
    assert!(
        message.starts_with("file \"ssl_certificate_host.txt\": domain \"not a domain\" is not"),
        "{message}"
    );
    assert_eq!(world.authority.orders.len(), 0);
}

#[test]
fn clock_that_jumps_over_the_end_renews_at_the_next_look() {
    let mut world = World::with_certificate(7, Some("a.example.com"));
    world.boot();
    world.run(MINUTE);
    let first = world.live_pair();
    assert!(first.is_some());
    world.ahead = 100 * 60 * 60 * 1000;
    // The kernel tells the loop at once.
    world.tick();
    world.run(MINUTE);
    assert_ne!(world.live_pair(), first);
    // A clock that went back to before the pair's own beginning is not believed.
    let orders = world.authority.orders.len();
    world.ahead = 0;
    world.tick();
    world.run(MINUTE);
    assert_eq!(world.authority.orders.len(), orders);
}

fn script(world: &mut World) {
    world.authority.down = true;
    world.boot();
    world.run(Duration::from_secs(30));
    world.offer(tls(1, Some("a.example.com")));
    world.run(Duration::from_secs(30));
    world.authority.down = false;
    world.run(18 * MINUTE);
    // A renewal, and another domain.
    world.run(LIFE);
    world.offer(tls(2, Some("b.example.com")));
    world.run(2 * MINUTE);
}

/// Each commit tries every third effect; `ADJUTANT_SIM_ALL=1` tries them all.
fn stride() -> usize {
    if std::env::var_os("ADJUTANT_SIM_ALL").is_some() {
        1
    } else {
        3
    }
}

#[test]
fn death_between_any_two_effects_leaves_a_whole_pair_and_is_carried_on() {
    let mut world = World::with_certificate(8, None);
    script(&mut world);
    let effects = world.effects;
    assert!(effects > 100, "{effects}");
    for death in [Death::Killed, Death::Power] {
        for effect in (1..=effects).step_by(stride()) {
            let mut world = World::with_certificate(8, None);
            world.die_at_effect(effect, death);
            script(&mut world);
            world.authority.down = false;
            world.run(40 * MINUTE);
            settled(&mut world);
            if world.server_status() != Some((APPLIED, String::new())) {
                let status = world.server_status();
                world.violated(&format!("{status:?} in the end; died at effect {effect}"));
            }
            if world.child_pair() != world.live_pair() || world.live_pair().is_none() {
                world.violated(&format!(
                    "the child has not read the live pair; died at {effect}"
                ));
            }
            paced(&world);
        }
    }
}

fn chaos(seed: u64) {
    let fixed = seed.is_multiple_of(2).then_some("a.example.com");
    let mut world = World::with_certificate(seed, fixed);
    world.faults = Faults {
        disk: 0.02,
        duplicates: 0.03,
        late: 0.02,
        deaths: 0.004,
        child_deaths: 0.02,
        links: 0.02,
        spawns: 0.01,
    };
    world.boot();
    for round in 0..25 {
        match world.below(8) {
            0 => world.authority.down = true,
            1 => world.authority.refuses = true,
            2 | 3 => {
                world.authority.down = false;
                world.authority.refuses = false;
            }
            4 => {
                world.ahead += world.below(90 * 60 * 1000);
                world.tick();
            }
            5 => world.offer(Behaviour::Ok.text(round)),
            _ => {
                let domains = ["a.example.com", "b.example.com", "c.example.com"];
                let domain = domains[usize::try_from(world.below(3)).unwrap()];
                world.offer(tls(round, (fixed.is_none()).then_some(domain)));
            }
        }
        let span = Duration::from_millis(500 + world.below(40 * 60 * 1000));
        world.run(span);
    }
    world.faults = Faults::default();
    world.authority.down = false;
    world.authority.refuses = false;
    world.server_up(true);
    world.offer(tls(
        1_000 + seed,
        fixed.is_none().then_some("d.example.com"),
    ));
    well(&mut world);
    assert_eq!(
        world.server_status(),
        Some((APPLIED, String::new())),
        "seed {seed}"
    );
}

#[test]
fn certificate_chaos_under_a_fixed_set_of_seeds() {
    for seed in 1..=25 {
        chaos(seed);
    }
}
