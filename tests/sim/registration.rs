//! Given a host that registers with a service, on a disk that forgets; when the service is away, refuses, or loses
//! answers, or the process dies before any effect; then the child runs from the first moment, the last token that
//! reached us is used, and the service is not asked more often than it has to be.

use std::path::Path;
use std::time::Duration;

use adjutant::engine::RegistrationSetup;
use adjutant::engine::message::{
    Command, CommandId, Credential, CredentialSource, Event, FailureClass, RegistrationCall,
    RegistrationFailure, RegistrationOrder, RegistrationSnapshot,
};
use adjutant::port::store::{CredentialStore, StoredCredential};
use adjutant::units::{Secret, Ticket};
use nix::libc;

use super::world::{Behaviour, Death, Faults, What, World};

/// The service, and what this life of the process has in memory.
#[derive(Debug)]
pub(super) struct Service {
    up: bool,
    /// Answers instead.
    refusal: Option<FailureClass>,
    /// Answers that get lost, of all.
    lost: f64,
    /// Tokens issued; only the last is worth anything.
    issued: u64,
    /// Not even that one.
    rejects_all: bool,
    calls: u64,
    vault: Option<u64>,
}

const SERVICE: &str = "registration: {url: 'http://service', token_file: /token";

impl World {
    fn registering(seed: u64, more: &str) -> Self {
        let mut world = Self::with(seed, &format!("{SERVICE}{more}}}\n"));
        world.service = Some(Service {
            up: true,
            refusal: None,
            lost: 0.0,
            issued: 0,
            rejects_all: false,
            calls: 0,
            vault: None,
        });
        world
    }

    fn service(&mut self) -> &mut Service {
        self.service.as_mut().unwrap()
    }

    /// What a life finds on disk.
    pub(super) fn known_registration(&mut self) -> RegistrationSetup {
        let mut credential = None;
        if self.service.is_some() {
            let loaded = CredentialStore::load(self.disk.clone(), Path::new("/state"));
            let (_, loaded) = loaded.unwrap_or_else(|(_, fault)| self.violated(&fault.reason));
            if let Some(repair) = loaded.repair {
                self.violated(&format!("half a token is stored: {repair}"));
            }
            let stored = loaded.stored;
            self.service().vault = stored.as_ref().map(number);
            credential = stored.map(|stored| stored.credential);
        }
        RegistrationSetup {
            settings: self.config.registration.clone(),
            credential,
            unreadable: None,
            seed: self.random.next_u64(),
        }
    }

    /// Whether the fleet server refuses whoever shows this token, or none.
    pub(super) fn is_rejected(&self, authorize: bool) -> bool {
        let Some(service) = &self.service else {
            return false;
        };
        if !authorize {
            self.violated("dialled without the token");
        }
        let good = service.vault == Some(service.issued) && service.issued > 0;
        service.rejects_all || !good
    }

    pub(super) fn service_hears(&mut self, ticket: Ticket, call: RegistrationCall) {
        let lost = self.service().lost;
        let (to, back) = (self.chance(lost), self.chance(lost));
        let wait = self.latency(200);
        let service = self.service();
        service.calls += 1;
        if !service.up || to {
            return self.no_token(ticket, FailureClass::Network, wait);
        }
        if let Some(class) = service.refusal {
            return self.no_token(ticket, class, wait);
        }
        service.issued += 1;
        let token = service.issued;
        self.say(format!("token {token} issued"));
        if back {
            return self.no_token(ticket, FailureClass::Network, wait);
        }
        self.later(
            wait,
            What::Issued {
                ticket,
                token,
                call,
            },
        );
    }

    fn no_token(&mut self, ticket: Ticket, class: FailureClass, wait: u64) {
        let outcome = Err(RegistrationFailure {
            class,
            reason: class.word().to_owned(),
            retry_after: None,
        });
        self.later(wait, What::Host(Event::Registration { ticket, outcome }));
    }

    pub(super) fn issued(&mut self, ticket: Ticket, token: u64, call: &RegistrationCall) {
        let source = match call {
            RegistrationCall::Register => CredentialSource::Registered,
            RegistrationCall::Restart { .. } => CredentialSource::Restarted,
        };
        let credential = Credential {
            source,
            at: self.clock().wall,
            expires: None,
            gateway: Some("1".to_owned()),
            org: None,
            endpoint: None,
            management_mode: None,
            unsaved: None,
        };
        self.keep(ticket, token, credential);
    }

    pub(super) fn save_again(&mut self, ticket: Ticket) {
        let token = self.service().vault.unwrap();
        let known = self.snapshot().credential.unwrap();
        self.keep(ticket, token, known);
    }

    /// The disk first, and it may fail or be the last thing this life sees.
    fn keep(&mut self, ticket: Ticket, token: u64, mut credential: Credential) {
        credential.unsaved = None;
        if self.chance(self.faults.disk) {
            let step = self.disk.steps() + 1 + self.random.below(6);
            self.disk.fail(step..=step + 1, libc::ENOSPC);
        }
        let dies = self.chance(self.faults.deaths * 20.0);
        if dies {
            self.disk
                .die_after(self.disk.steps() + self.random.below(8));
        }
        let stored = StoredCredential {
            token: Secret::new(token.to_string()),
            credential: credential.clone(),
            machine_id: String::new(),
        };
        let store = match CredentialStore::load(self.disk.clone(), Path::new("/state")) {
            Ok((store, _)) | Err((store, _)) => store,
        };
        credential.unsaved = store.save(&stored).err().map(|fault| fault.reason);
        self.disk.kill();
        if dies {
            return self.die(Death::Power);
        }
        self.service().vault = Some(token);
        let outcome = Ok(Box::new(credential));
        self.later(1, What::Host(Event::Registration { ticket, outcome }));
    }

    fn snapshot(&self) -> RegistrationSnapshot {
        let clock = self.clock();
        let snapshot = self.host.as_ref().unwrap().snapshot(clock);
        snapshot.registration.unwrap()
    }

    fn order(&mut self, what: RegistrationOrder) {
        let event = Event::Command {
            id: CommandId(1),
            command: Command::Register(what),
        };
        self.later(0, What::Host(event));
    }

    /// Registered, stored and connected with the last token.
    fn is_well(&mut self) {
        let snapshot = self.snapshot();
        if snapshot.state != "registered" || self.server.link.is_none() {
            self.violated(&format!(
                "not well: {snapshot:?}, link {:?}",
                self.server.link
            ));
        }
        let loaded = CredentialStore::load(self.disk.clone(), Path::new("/state"));
        let stored = loaded.unwrap().1.stored.as_ref().map(number);
        let service = self.service();
        if stored != Some(service.issued) {
            let service = format!("{service:?}");
            self.violated(&format!("stored {stored:?}, {service}"));
        }
    }
}

fn number(stored: &StoredCredential) -> u64 {
    stored.token.expose().parse().unwrap()
}

fn started(seed: u64, more: &str) -> World {
    let mut world = World::registering(seed, more);
    world.boot();
    world
}

#[test]
fn the_first_start_makes_one_call_and_a_restart_none() {
    let mut world = started(1, "");
    world.run(Duration::from_mins(2));
    world.is_well();
    assert_eq!(world.living().len(), 1);
    world.die(Death::Power);
    world.run(Duration::from_mins(2));
    world.is_well();
    assert_eq!(world.service().calls, 1);
}

#[test]
fn the_child_does_not_wait_for_a_service_that_is_away() {
    let mut world = started(2, "");
    world.service().up = false;
    world.run(Duration::from_mins(2));
    assert_eq!(world.living().len(), 1);
    let snapshot = world.snapshot();
    assert_eq!(
        (snapshot.state, snapshot.phase),
        ("unregistered", "waiting")
    );
    world.run(Duration::from_hours(6));
    // Five minutes between two calls in the long run, jittered down to half.
    let calls = world.service().calls;
    assert!((60..=170).contains(&calls), "{calls}");
    world.service().up = true;
    world.run(Duration::from_mins(6));
    world.is_well();
}

#[test]
fn a_refusal_is_not_repeated_until_a_person_acts() {
    for class in [
        FailureClass::Unauthorized,
        FailureClass::Forbidden,
        FailureClass::NotFound,
        FailureClass::Invalid,
        FailureClass::Answer,
    ] {
        let mut world = started(3, "");
        world.service().refusal = Some(class);
        world.run(Duration::from_hours(24));
        assert_eq!(world.service().calls, 1, "{class:?}");
        assert_eq!(world.snapshot().phase, "held");
        assert_eq!(world.living().len(), 1);
        world.service().refusal = None;
        world.order(RegistrationOrder::Onboard);
        world.run(Duration::from_mins(2));
        world.is_well();
    }
}

#[test]
fn a_rejected_token_is_replaced_three_times_a_day_at_most() {
    let mut world = started(4, ", on_rejected: register");
    world.run(Duration::from_mins(2));
    world.is_well();
    world.service().rejects_all = true;
    world.break_link();
    world.run(Duration::from_hours(23));
    assert_eq!(world.service().calls, 4);
    assert_eq!(world.snapshot().state, "rejected");
    let mut world = started(4, "");
    world.run(Duration::from_mins(2));
    world.service().rejects_all = true;
    world.break_link();
    world.run(Duration::from_hours(23));
    assert_eq!(world.service().calls, 1, "hold means hold");
}

/// A first start, an offer, and a new token by order.
fn script(world: &mut World) {
    world.boot();
    world.run(Duration::from_secs(20));
    world.offer(Behaviour::Ok.text(1));
    world.run(Duration::from_mins(1));
    world.order(RegistrationOrder::Restart);
    world.run(Duration::from_mins(1));
}

#[test]
fn death_between_any_two_effects_loses_no_token_for_good() {
    let settings = ", on_rejected: register";
    let mut world = World::registering(5, settings);
    script(&mut world);
    let effects = world.effects;
    assert!(effects > 50, "{effects}");
    for death in [Death::Killed, Death::Power] {
        for effect in 1..=effects {
            let mut world = World::registering(5, settings);
            world.die_at_effect(effect, death);
            script(&mut world);
            world.run(Duration::from_mins(30));
            world.is_well();
            // Register, an answer that died with the process, the order, and one more for what the death left.
            let calls = world.service().calls;
            if calls > 4 {
                world.violated(&format!("{calls} calls; died at effect {effect}"));
            }
        }
    }
}

#[test]
fn chaos_ends_in_a_registered_host() {
    for seed in 1..=60 {
        let mut world = World::registering(seed, ", on_rejected: register");
        world.faults = Faults {
            disk: 0.1,
            late: 0.01,
            deaths: 0.004,
            links: 0.05,
            ..Faults::default()
        };
        world.service().lost = 0.3;
        world.boot();
        for round in 0..20 {
            match world.below(8) {
                0 => world.service().up = false,
                1 | 2 => world.service().up = true,
                3 => world.order(RegistrationOrder::Onboard),
                4 => world.order(RegistrationOrder::Restart),
                5 => world.break_link(),
                _ => world.offer(Behaviour::Ok.text(round)),
            }
            let span = Duration::from_millis(200 + world.below(60_000));
            world.run(span);
            assert!(world.living().len() <= 1);
        }
        world.faults = Faults::default();
        world.service().lost = 0.0;
        world.service().up = true;
        world.run(Duration::from_mins(20));
        world.order(RegistrationOrder::Onboard);
        world.run(Duration::from_mins(20));
        world.is_well();
        assert_eq!(world.living().len(), 1);
    }
}
