//! Packages without I/O: an offer goes in, work for the caller comes out, results go in, statuses come out.
//!
//! The same verbs as [`crate::session`]: [`Packages::handle_offer`], [`Packages::handle_result`],
//! [`Packages::handle_progress`] and [`Packages::handle_timeout`] bring what happened; [`Packages::poll_effect`] says
//! what to do, [`Packages::poll_statuses`] what to report, [`Packages::poll_timeout`] when to come back. Whenever
//! `poll_statuses` gave something, store [`Packages::state`]; [`Packages::restored`] goes on from it.
//!
//! Invariants:
//! 1. Statuses tell what the caller said it has, not what it was told to do: `agent_has_*` changes by results and by
//!    [`Packages::set_found`] alone.
//! 2. One package at a time is worked on, and of each ticket at most one effect is out.
//! 3. Nothing is installed whose digest differs from the offered one, or that the caller did not verify where the
//!    rules ask for it.
//! 4. What failed for good is not tried again before the offer of it changes.
//! 5. A package that was not installed from an offer is not removed, unless the settings say so.
//!
//! Must never: fetch, verify, install or remove anything, compute a package hash, or use a name that looks
//! like a path.

mod config;
mod effect;
mod name;
mod offer;
mod package;
mod progress;
mod state;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use config::{PackagesConfig, Removal, Verification};
pub use effect::{FoundPackage, PackageEffect, PackageFailure, PackageResult, Ticket};
pub use state::PackagesState;

use crate::messages::{PackageStatuses, PackageType, PackagesAvailable};
use package::{Failure, Goal, Held, Offer, Package, Step};

/// Least span between two reports of progress.
const PROGRESS_MIN: Duration = Duration::from_secs(1);

/// All packages of one agent. See the top of this file.
#[derive(Debug)]
pub struct Packages {
    config: PackagesConfig,
    known: BTreeMap<String, Package>,
    /// The last aggregate hash that was offered, echoed whatever became of the offer.
    offered_hash: Vec<u8>,
    /// What of the last offer belongs to no package.
    complaint: String,
    /// At most one for the package that is worked on, and a cancellation before it.
    effects: VecDeque<PackageEffect>,
    tickets: u64,
    random: u64,
    now: Duration,
    told: Option<PackageStatuses>,
    progress_told_at: Duration,
}

impl Packages {
    /// No package and no offer.
    pub fn new(config: PackagesConfig) -> Self {
        Self {
            config,
            known: BTreeMap::new(),
            offered_hash: Vec::new(),
            complaint: String::new(),
            effects: VecDeque::new(),
            tickets: 0,
            random: config.seed,
            now: Duration::ZERO,
            told: None,
            progress_told_at: Duration::ZERO,
        }
    }

    /// Goes on where an earlier life stopped. Work that was under way is planned anew; what was found on disk
    /// since may be told by [`Packages::set_found`] first.
    pub fn restored(config: PackagesConfig, state: PackagesState) -> Self {
        let mut packages = Self::new(config);
        packages.offered_hash = state.offered_hash;
        packages.complaint = state.complaint;
        packages.known = state.packages;
        for package in packages.known.values_mut() {
            if let Step::Failed(Failure { retry_at, .. }) = &mut package.step {
                *retry_at = retry_at.map(|_| config.retry_pause);
            }
        }
        packages.settle_all();
        packages
    }

    /// What to store, and to give to [`Packages::restored`] after a restart. It holds the headers of downloads that
    /// are not done, which may be secrets.
    pub fn state(&self) -> PackagesState {
        PackagesState {
            offered_hash: self.offered_hash.clone(),
            complaint: self.complaint.clone(),
            packages: self.known.clone(),
        }
    }

    /// What the caller found: a package installed by other means, one that is gone (`None`), or after a restart the
    /// outcome of work that was interrupted. One that has the hash of its offer counts as installed from it, so what
    /// is local is best told before the first offer. What follows from it is begun by the next call of a `handle_*`,
    /// so that all of a disk can be told first. A name that looks like a path is ignored.
    pub fn set_found(&mut self, now: Duration, name: &str, found: Option<FoundPackage>) {
        self.advance(now);
        if !name::is_allowed(name, PackageType::TopLevel) {
            return;
        }
        let package = self.known.entry(name.to_owned()).or_default();
        let found = found.map(|found| {
            let known = |hash: &Vec<u8>| !found.hash.is_empty() && *hash == found.hash;
            Held {
                from_offer: match (&package.held, &package.offer) {
                    (Some(held), _) if known(&held.hash) => held.from_offer,
                    (_, offer) => [offer, &package.interrupted]
                        .into_iter()
                        .flatten()
                        .any(|offer| known(&offer.hash)),
                },
                version: found.version,
                hash: found.hash,
                content_hash: found.content_hash,
                kind: found.kind,
            }
        });
        package.is_now(found);
        self.settle(name);
    }

    /// The server offers packages. An offer that says nothing new changes nothing, one under way goes
    /// on, work for what is not wanted any more is cancelled.
    pub fn handle_offer(&mut self, now: Duration, available: PackagesAvailable) {
        self.advance(now);
        if available.packages.is_empty() && available.all_packages_hash.is_empty() {
            return;
        }
        if available.all_packages_hash == self.offered_hash
            && !self.offered_hash.is_empty()
            && self.is_done()
        {
            return;
        }
        let read = offer::read(available, self.config.packages_max);
        self.offered_hash = read.hash;
        self.complaint = read.complaint;
        let Some(offers) = read.offers else {
            // As a whole not to be used: what is there stays as it is.
            return;
        };
        for (name, package) in &mut self.known {
            if !read.refused.contains(name) {
                package.withdrawn = !offers.contains_key(name);
            }
        }
        for (name, offer) in offers {
            self.known.entry(name).or_default().offer = Some(offer);
        }
        self.settle_all();
        self.begin();
    }

    /// Work ended. False if its ticket is not the one under way, or the answer is not one to what was asked; it is
    /// ignored then.
    pub fn handle_result(&mut self, now: Duration, ticket: Ticket, result: PackageResult) -> bool {
        self.advance(now);
        let Some((name, package)) = self
            .known
            .iter_mut()
            .find(|(_, package)| package.step.ticket() == Some(ticket))
        else {
            return false;
        };
        let name = name.clone();
        // An answer to what the caller was not told yet is none.
        if self.effects.iter().any(|effect| effect.ticket() == ticket) {
            return false;
        }
        match (&package.step, result) {
            (Step::Downloading { .. }, PackageResult::Downloaded { sha256 }) => {
                self.downloaded(&name, ticket, sha256);
            }
            (Step::Verifying { .. }, PackageResult::Verified) => self.install(&name, ticket),
            (Step::Installing { offer, .. }, PackageResult::Installed) => {
                let held = offer.installed();
                package.is_now(Some(held));
                package.step = Step::Rest;
            }
            (Step::Removing { .. }, PackageResult::Removed) => {
                package.is_now(None);
                package.step = Step::Rest;
            }
            (_, PackageResult::Failed(failure)) => self.failed(&name, failure),
            _ => return false,
        }
        self.settle(&name);
        self.begin();
        true
    }

    /// A download goes on: bytes that are there, and of how many if that is known. False if the ticket is not that of
    /// the download under way.
    pub fn handle_progress(
        &mut self,
        now: Duration,
        ticket: Ticket,
        received: u64,
        total: Option<u64>,
    ) -> bool {
        self.advance(now);
        let now = self.now;
        let found = self
            .known
            .values_mut()
            .find_map(|package| match &mut package.step {
                Step::Downloading {
                    ticket: own,
                    progress,
                    ..
                } if *own == ticket => Some(progress),
                _ => None,
            });
        if let Some(progress) = found {
            progress.update(now, received, total);
            true
        } else {
            false
        }
    }

    /// A deadline of [`Packages::poll_timeout`] has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
        self.begin();
    }

    /// Forgets what failed and tries it again; for a person who mended something. Packages under way are not touched.
    pub fn retry_failed(&mut self, now: Duration) {
        self.advance(now);
        for package in self.known.values_mut() {
            if matches!(package.step, Step::Failed(_)) {
                package.step = Step::Rest;
            }
        }
        self.settle_all();
        self.begin();
    }

    /// The next piece of work.
    pub fn poll_effect(&mut self) -> Option<PackageEffect> {
        self.effects.pop_front()
    }

    /// All statuses, if they changed since they were polled last; new numbers of a download alone are given once per
    /// interval.
    pub fn poll_statuses(&mut self, now: Duration) -> Option<PackageStatuses> {
        self.advance(now);
        let due = self.news_at().is_some_and(|at| at <= self.now);
        due.then(|| {
            let statuses = self.statuses();
            self.progress_told_at = self.now;
            self.told = Some(statuses.clone());
            statuses
        })
    }

    /// All statuses as they are now.
    pub fn statuses(&self) -> PackageStatuses {
        PackageStatuses {
            packages: self
                .known
                .iter()
                .filter_map(|(name, package)| Some((name.clone(), package.status(name)?)))
                .collect(),
            server_provided_all_packages_hash: self.offered_hash.clone(),
            error_message: self.complaint.clone(),
        }
    }

    /// When to call [`Packages::handle_timeout`] and [`Packages::poll_statuses`] again; `None` if nothing will become
    /// due by itself.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let next = self
            .known
            .values()
            .filter_map(|package| match package.step {
                Step::Pending { after, .. } => Some(after),
                _ => None,
            })
            .min()
            .filter(|_| !self.is_busy());
        [next, self.news_at()].into_iter().flatten().min()
    }

    /// Whether the last offer was carried out whole and nothing is under way.
    pub fn is_done(&self) -> bool {
        self.complaint.is_empty()
            && self
                .known
                .values()
                .all(|package| matches!(package.step, Step::Rest))
    }

    fn is_busy(&self) -> bool {
        self.known
            .values()
            .any(|package| package.step.ticket().is_some())
    }

    /// When what was polled last and what is the case may be told apart; zero means at once.
    fn news_at(&self) -> Option<Duration> {
        let statuses = self.statuses();
        let interval = self.config.progress_interval.max(PROGRESS_MIN);
        match &self.told {
            Some(told) if *told == statuses => None,
            Some(told) if without_details(told) == without_details(&statuses) => {
                Some(self.progress_told_at.saturating_add(interval))
            }
            _ => Some(Duration::ZERO),
        }
    }

    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn settle_all(&mut self) {
        let names: Vec<String> = self.known.keys().cloned().collect();
        let mut kept = BTreeSet::new();
        for name in names {
            if self.settle(&name) {
                kept.insert(name);
            }
        }
        if let (Some(name), true) = (kept.first(), self.complaint.is_empty()) {
            // Said once, for one: the policy is one for all.
            self.complaint = format!("package \"{name}\" is not offered any more and stays");
        }
    }

    /// Brings one package from where it stands onto the way to what is wanted. True if it stays though the offer
    /// lacks it.
    fn settle(&mut self, name: &str) -> bool {
        let Some(package) = self.known.get_mut(name) else {
            return false;
        };
        let under_way = matches!(
            package.step,
            Step::Installing { .. } | Step::Removing { .. }
        );
        if !under_way {
            package.adopt();
        }
        let (goal, stays) = package.goal(self.config.removal, self.config.remove_top_level);
        let same_file = |offer: &Offer| {
            package
                .offer
                .as_ref()
                .is_some_and(|now| now.same_file(offer))
        };
        let on_its_way = match &package.step {
            // These are beyond recall; what comes next is decided when they have ended.
            Step::Installing { .. } => true,
            Step::Removing { .. } => !package.is_gone(),
            Step::Downloading { offer, .. } | Step::Verifying { offer, .. } => {
                goal == Goal::Install && same_file(offer)
            }
            Step::Pending {
                goal: planned,
                retry,
                ..
            } => *planned == goal && retry.as_ref().is_none_or(|retry| same_file(&retry.offer)),
            Step::Failed(failure) => {
                failure.goal == goal
                    && (goal == Goal::Remove || failure.offer == package.offer)
                    && failure.retry_at.is_none_or(|at| at > self.now)
            }
            Step::Rest => goal == Goal::Nothing,
        };
        if !on_its_way {
            let leftover = package.step.leftover();
            package.step = if goal == Goal::Nothing {
                Step::Rest
            } else {
                Step::pending(goal)
            };
            if let Some(ticket) = leftover {
                self.cancel(ticket);
            }
        }
        if self.known.get(name).is_some_and(Package::is_forgotten) {
            self.known.remove(name);
        }
        stays
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets = self.tickets.wrapping_add(1);
        Ticket(self.tickets)
    }

    /// `SplitMix64`: jitter needs spread, not secrecy.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Statuses without the numbers of a download, which alone are no news before their time.
fn without_details(statuses: &PackageStatuses) -> PackageStatuses {
    let mut statuses = statuses.clone();
    for status in statuses.packages.values_mut() {
        status.download_details = None;
    }
    statuses
}
