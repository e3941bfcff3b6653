//! Given a host that takes connection settings from its server, on a disk that forgets; when the server offers another
//! place that works, that does not, or that says nothing, or the process dies before any effect; then either the old
//! or the new settings are used and never none, the link that stands is not left for a place that does not let us in,
//! and what the server reads of the offer is true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opamp_client::messages::{
    ConnectionSettingsOffers, ConnectionSettingsStatus, OpAmpConnectionSettings,
};
use opamp_client::transport::Target;

use super::host::{APPLIED, FAILED};
use super::world::{Death, Faults, World};

/// The place of the local settings; the world's settings name it.
const OLD: &str = "ws://127.0.0.1:1/v1/opamp";
const NEW: &str = "ws://127.0.0.1:2/v1/opamp";
/// Longer than a trial, its delays and every back-off together.
const LONG: Duration = Duration::from_mins(20);

/// Which places there are, and what stands to them.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Links that stand or are being made: where to, and the number of the last message.
    links: BTreeMap<adjutant::units::LinkId, (String, Option<u64>)>,
    /// Nobody answers there.
    dead: BTreeSet<String>,
    /// What every server offers until it reads what became of it.
    offer: Option<ConnectionSettingsOffers>,
    /// What a server read last of that.
    pub(super) status: Option<ConnectionSettingsStatus>,
    /// Places that let us in, in order.
    visited: Vec<String>,
}

impl Network {
    pub(super) fn dialled(
        &mut self,
        link: adjutant::units::LinkId,
        server: &adjutant::config::Server,
        offered: Option<&adjutant::engine::message::Offered>,
    ) -> bool {
        let local: Target = server.endpoint.parse().unwrap();
        let target = offered.map_or_else(|| local.clone(), |offered| offered.on(&local).unwrap());
        let place = target.to_string();
        let alive = !self.dead.contains(&place);
        if alive {
            self.links.insert(link, (place, None));
        }
        alive
    }

    pub(super) fn let_in(&mut self, link: adjutant::units::LinkId) {
        if let Some((place, _)) = self.links.get(&link)
            && self.visited.last() != Some(place)
        {
            self.visited.push(place.clone());
        }
    }

    pub(super) fn gone(&mut self, link: adjutant::units::LinkId) {
        self.links.remove(&link);
    }

    pub(super) fn cleared(&mut self) {
        self.links.clear();
    }

    pub(super) fn stands(&self, link: adjutant::units::LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// The number of the message before.
    pub(super) fn count(&mut self, link: adjutant::units::LinkId, number: u64) -> Option<u64> {
        self.links.get_mut(&link)?.1.replace(number)
    }

    /// What is offered to somebody who reports this.
    pub(super) fn owed(&self) -> Option<ConnectionSettingsOffers> {
        let offer = self.offer.as_ref()?;
        let read = self.status.as_ref();
        let known = read.is_some_and(|read| read.last_connection_settings_hash == offer.hash);
        (!known).then(|| offer.clone())
    }
}

impl World {
    fn taking_offers(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.config.capabilities |= 0x100;
        world.boot();
        world.run(Duration::from_mins(1));
        world
    }

    fn offer_place(&mut self, place: &str) {
        self.network.offer = Some(ConnectionSettingsOffers {
            hash: format!("to {place}").into_bytes(),
            opamp: Some(OpAmpConnectionSettings {
                destination_endpoint: place.to_owned(),
                ..OpAmpConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        });
        self.network.status = None;
        // Any message makes a server answer, and the answer brings the offer.
        self.break_link();
    }

    fn place(&self) -> Option<String> {
        let (place, _) = self.network.links.get(&self.server.link?)?;
        Some(place.clone())
    }

    fn outcome(&self) -> Option<(i32, String)> {
        let status = self.network.status.as_ref()?;
        Some((status.status, status.error_message.clone()))
    }

    /// What must be true in the end.
    fn settled_at(&mut self, place: &str, status: i32) {
        self.faults = Faults::default();
        self.server_up(true);
        self.run(LONG);
        self.check();
        if self.place().as_deref() != Some(place) {
            self.violated(&format!("connected to {:?}, not to {place}", self.place()));
        }
        if self.outcome().map(|(status, _)| status) != Some(status) {
            self.violated(&format!("the server reads {:?}", self.outcome()));
        }
        if self.living().len() != 1 {
            self.violated("the child is not what it was");
        }
    }
}

#[test]
fn a_place_that_lets_us_in_is_moved_to_and_kept_over_a_restart() {
    let mut world = World::taking_offers(1);
    assert_eq!(world.place().as_deref(), Some(OLD));
    world.offer_place(NEW);
    world.settled_at(NEW, APPLIED);
    world.die(Death::Power);
    world.network.visited.clear();
    world.settled_at(NEW, APPLIED);
    assert_eq!(world.network.visited, [NEW], "the old place is not asked");
}

#[test]
fn the_link_that_stands_is_not_left_for_a_place_that_does_not_answer() {
    let mut world = World::taking_offers(2);
    world.network.dead.insert(NEW.to_owned());
    world.offer_place(NEW);
    world.run(Duration::from_secs(5));
    let link = world.server.link;
    assert!(link.is_some());
    world.settled_at(OLD, FAILED);
    assert_eq!(world.server.link, link, "the same link all the while");
    let (_, reason) = world.outcome().unwrap();
    assert!(reason.starts_with("opamp: "), "{reason}");
}

#[test]
fn dying_before_any_effect_of_a_move_leaves_the_old_or_the_new_place() {
    let begin = |seed| {
        let world = World::taking_offers(seed);
        let before = world.effects;
        (world, before)
    };
    let (mut whole, before) = begin(3);
    whole.offer_place(NEW);
    whole.settled_at(NEW, APPLIED);
    let effects = (whole.effects - before).min(120);
    assert!(effects > 15, "{effects}");
    for death in [Death::Killed, Death::Power] {
        for effect in 1..=effects {
            for dead in [false, true] {
                let (mut world, before) = begin(3);
                if dead {
                    world.network.dead.insert(NEW.to_owned());
                }
                world.die_at_effect(before + effect, death);
                world.offer_place(NEW);
                if dead {
                    world.settled_at(OLD, FAILED);
                } else {
                    world.settled_at(NEW, APPLIED);
                }
            }
        }
    }
}

#[test]
fn both_places_going_away_in_any_order_strand_nobody() {
    for seed in 10..60 {
        let mut world = World::taking_offers(seed);
        world.offer_place(NEW);
        for _ in 0..6 {
            let span = Duration::from_secs(1 + world.below(90));
            for place in [OLD, NEW] {
                if world.below(2) == 0 {
                    world.network.dead.insert(place.to_owned());
                } else {
                    world.network.dead.remove(place);
                }
            }
            world.break_link();
            world.run(span);
        }
        // Only one of the two comes back.
        let (back, away) = if world.below(2) == 0 {
            (OLD, NEW)
        } else {
            (NEW, OLD)
        };
        world.network.dead.remove(back);
        world.network.dead.insert(away.to_owned());
        world.break_link();
        world.run(LONG);
        let settled = world.outcome().map(|(status, _)| status);
        match (world.place().as_deref(), settled) {
            (Some(place), _) => assert_eq!(place, back, "seed {seed}"),
            // What was proven last is in force, and nobody has named another place since.
            (None, Some(APPLIED)) => assert_eq!(back, OLD, "seed {seed}"),
            // Failed, or never heard of.
            (None, Some(FAILED) | None) => assert_eq!(back, NEW, "seed {seed}"),
            (None, other) => panic!("seed {seed}: connected to nobody, status {other:?}"),
        }
        world.network.dead.clear();
        world.break_link();
        world.run(LONG);
        assert!(world.place().is_some(), "seed {seed}");
    }
}

#[test]
fn everything_that_can_fail_fails_and_the_offer_is_settled_in_the_end() {
    for seed in 100..220 {
        let mut world = World::taking_offers(seed);
        let dead = seed % 2 == 0;
        if dead {
            world.network.dead.insert(NEW.to_owned());
        }
        world.faults = Faults {
            disk: 0.05,
            duplicates: 0.1,
            late: 0.1,
            deaths: 0.003,
            links: 0.02,
            ..Faults::default()
        };
        world.offer_place(NEW);
        world.run(Duration::from_mins(5));
        world.faults = Faults::default();
        world.run(LONG);
        let (status, reason) = world.outcome().unwrap();
        match (status, world.place().as_deref()) {
            (APPLIED, Some(NEW)) if !dead => {}
            (FAILED, Some(OLD)) => assert!(!reason.is_empty(), "seed {seed}"),
            (status, place) => world.violated(&format!("seed {seed}: {status} at {place:?}")),
        }
    }
}
