//! Any order of offers, results, losses and restarts ends in a truthful status.

use proptest::prelude::*;

use super::disk::{Disk, check};
use super::*;

const NAMES: [&str; 4] = ["a", "b", "c", ""];

#[derive(Debug, Clone, Copy)]
enum Event {
    /// Per name: nothing, or version 1…3 as addon or top level.
    Offer([Option<(u8, bool)>; 4], bool),
    /// The work that is out succeeds.
    Done,
    /// It fails, for good or not.
    Fail(bool),
    /// An answer that fits nothing: of an old ticket, or not to what was asked.
    Nonsense(u64, u8),
    Progress(u64, Option<u64>),
    Pass(u16),
    /// The process dies, what is under way with it; installed or not is the toss of a coin.
    Restart(bool),
    Retry,
}

fn event() -> impl Strategy<Value = Event> {
    let one = proptest::option::of((1..4_u8, any::<bool>()));
    prop_oneof![
        3 => (proptest::array::uniform4(one), any::<bool>()).prop_map(|(o, h)| Event::Offer(o, h)),
        8 => Just(Event::Done),
        2 => any::<bool>().prop_map(Event::Fail),
        2 => (0..40_u64, 0..4_u8).prop_map(|(t, r)| Event::Nonsense(t, r)),
        1 => (any::<u64>(), any::<Option<u64>>()).prop_map(|(r, t)| Event::Progress(r, t)),
        3 => any::<u16>().prop_map(Event::Pass),
        1 => any::<bool>().prop_map(Event::Restart),
        1 => Just(Event::Retry),
    ]
}

struct World {
    packages: Packages,
    disk: Disk,
    /// What the caller was asked and has not answered.
    out: Option<PackageEffect>,
    offered: Vec<u8>,
    offers: u8,
    last: PackagesAvailable,
    now: Duration,
    config: PackagesConfig,
}

impl World {
    fn poll(&mut self) {
        while let Some(effect) = self.packages.poll_effect() {
            match effect {
                PackageEffect::Cancel { ticket } => {
                    if self.out.as_ref().is_some_and(|out| out.ticket() == ticket) {
                        self.out = None;
                    }
                }
                effect => {
                    assert!(
                        self.out.is_none(),
                        "two at a time: {:?} {effect:?}",
                        self.out
                    );
                    self.out = Some(effect);
                }
            }
        }
        self.packages.poll_statuses(self.now);
        check(&self.packages, &self.disk, &self.offered);
    }

    /// Carries out what is asked for on the disk.
    fn act(&mut self, effect: &PackageEffect) -> PackageResult {
        match effect {
            PackageEffect::Download { url, .. } => {
                let version: u8 = url.rsplit('/').next().unwrap().parse().unwrap();
                PackageResult::Downloaded {
                    sha256: digest(version),
                }
            }
            PackageEffect::Verify { .. } => PackageResult::Verified,
            PackageEffect::Install {
                name,
                version,
                kind,
                ..
            } => {
                self.disk.insert(name.clone(), (version.clone(), *kind));
                PackageResult::Installed
            }
            PackageEffect::Remove { name, .. } => {
                self.disk.remove(name);
                PackageResult::Removed
            }
            PackageEffect::Cancel { .. } => unreachable!("has no answer"),
        }
    }

    fn done(&mut self) {
        if let Some(effect) = self.out.take() {
            let result = self.act(&effect);
            assert!(
                self.packages
                    .handle_result(self.now, effect.ticket(), result)
            );
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Offer(packages, with_hash) => {
                self.offers = self.offers.wrapping_add(1);
                let hash = if with_hash {
                    vec![1, self.offers]
                } else {
                    vec![]
                };
                let packages: BTreeMap<_, _> = NAMES
                    .iter()
                    .zip(packages)
                    .filter_map(|(name, one)| {
                        let (version, addon) = one?;
                        let kind = if addon && !name.is_empty() {
                            PackageType::Addon
                        } else {
                            PackageType::TopLevel
                        };
                        Some(((*name).to_owned(), package(kind, version)))
                    })
                    .collect();
                let offer = PackagesAvailable {
                    packages,
                    all_packages_hash: hash.clone(),
                };
                if !offer.packages.is_empty() || with_hash {
                    self.offered = hash;
                    self.last = offer.clone();
                }
                self.packages.handle_offer(self.now, offer);
            }
            Event::Done => self.done(),
            Event::Fail(transient) => {
                if let Some(effect) = self.out.take() {
                    let failure = PackageFailure {
                        transient,
                        ..PackageFailure::lasting("no")
                    };
                    let result = PackageResult::Failed(failure);
                    assert!(
                        self.packages
                            .handle_result(self.now, effect.ticket(), result)
                    );
                }
            }
            Event::Nonsense(ticket, result) => self.nonsense(Ticket(ticket), result),
            Event::Progress(received, total) => {
                if let Some(effect) = &self.out {
                    self.packages
                        .handle_progress(self.now, effect.ticket(), received, total);
                }
            }
            Event::Pass(secs) => {
                self.now += Duration::from_secs(u64::from(secs));
                self.packages.handle_timeout(self.now);
            }
            Event::Restart(finished) => self.restart(finished),
            Event::Retry => self.packages.retry_failed(self.now),
        }
        self.poll();
    }

    fn nonsense(&mut self, ticket: Ticket, result: u8) {
        let result = match result {
            0 => PackageResult::Downloaded { sha256: [0; 32] },
            1 => PackageResult::Verified,
            2 => PackageResult::Installed,
            _ => PackageResult::Removed,
        };
        let fits = self.out.as_ref().is_some_and(|out| {
            out.ticket() == ticket
                && matches!(
                    (out, &result),
                    (
                        PackageEffect::Download { .. },
                        PackageResult::Downloaded { .. }
                    ) | (PackageEffect::Verify { .. }, PackageResult::Verified)
                        | (PackageEffect::Install { .. }, PackageResult::Installed)
                        | (PackageEffect::Remove { .. }, PackageResult::Removed)
                )
        });
        if !fits {
            let before = self.packages.state();
            assert!(!self.packages.handle_result(self.now, ticket, result));
            assert_eq!(self.packages.state(), before);
        }
    }

    fn restart(&mut self, finished: bool) {
        let state = PackagesState::from_bytes(&self.packages.state().to_bytes()).unwrap();
        if let Some(effect) = self.out.take()
            && finished
        {
            self.act(&effect);
        }
        self.now = Duration::ZERO;
        self.packages = Packages::restored(self.config, state);
        // A caller looks at its disk first.
        for name in NAMES {
            let found = self.disk.get(name).map(|(version, kind)| {
                let number: u8 = version.parse().unwrap();
                FoundPackage {
                    version: version.clone(),
                    hash: package(*kind, number).hash,
                    content_hash: digest(number).to_vec(),
                    kind: *kind,
                }
            });
            self.packages.set_found(self.now, name, found);
        }
    }

    /// From here on everything works: what is offered comes to be there, and nothing else happens.
    fn settle(&mut self) {
        self.packages.retry_failed(self.now);
        self.poll();
        for _ in 0..100 {
            if self.out.is_some() {
                self.done();
            } else if let Some(due) = self.packages.poll_timeout() {
                self.now = self.now.max(due);
                self.packages.handle_timeout(self.now);
            } else {
                break;
            }
            self.poll();
        }
        assert!(
            self.out.is_none(),
            "never comes to rest: {:?}",
            self.packages
        );
        let statuses = self.packages.statuses();
        for (name, wanted) in &self.last.packages {
            let status = &statuses.packages[name];
            assert_eq!(
                status.status,
                PackageStatusEnum::Installed as i32,
                "{status:?}"
            );
            assert_eq!(status.agent_has_hash, wanted.hash);
            let kind = PackageType::try_from(wanted.r#type).unwrap();
            assert_eq!(self.disk[name], (wanted.version.clone(), kind));
        }
        for (name, (_, kind)) in &self.disk {
            let stays = *kind == PackageType::TopLevel;
            assert!(
                self.last.packages.contains_key(name) || stays,
                "{name} was not removed"
            );
        }
        assert_eq!(self.packages.poll_timeout(), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    // R-227…R-243
    #[test]
    fn any_order_of_events_ends_in_a_truthful_status(events in prop::collection::vec(event(), 0..60)) {
        let config = PackagesConfig::new(7);
        let mut world = World {
            packages: Packages::new(config),
            disk: Disk::new(),
            out: None,
            offered: Vec::new(),
            offers: 0,
            last: PackagesAvailable::default(),
            now: Duration::ZERO,
            config,
        };
        for event in events {
            world.step(event);
        }
        world.settle();
    }
}
