//! The task that empties the ring.
//!
//! Promises: at rest it is never woken; a burst wakes it once, and it gathers for a moment before it reads; losses the
//! kernel counted are booked and become gap records in the stream; at a stop the programs are detached first, then
//! everything they wrote is read.
//! Must never: keep the other tasks of the runtime waiting for a flood to end.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::event::Clock;
use super::{Attached, Outlet};
use crate::dataplane::book::Reason;
use crate::dataplane::ebpf::Counters;
use crate::dataplane::ebpf::layout::{Detail, Kind};
use crate::dataplane::health::{Health, HealthCell};
use crate::dataplane::record::Record;
use crate::units::Moment;

/// How long events gather once the first has come; the kernel cuts it short when a quarter of the ring is full.
const GATHER: Duration = Duration::from_millis(20);
/// Records that are handed on together.
const BATCH: usize = 512;
/// Records of one round, so that a flood cannot hide an order to stop.
const ROUND: usize = 65_536;
/// Time between two gap records of one loss that goes on.
const GAP_EVERY: Duration = Duration::from_secs(1);
/// How long a stop waits for a program that was running when it was detached.
const LAST_WAITS: u32 = 100;

/// Empties the ring until told to stop.
pub(super) struct Drain {
    attached: Box<Attached>,
    ready: AsyncFd<OwnedFd>,
    outlet: Outlet,
    health: HealthCell,
    /// Read from the ring, by kind.
    read: [u64; Kind::ALL.len()],
    /// What the losses booked so far were.
    booked: Counters,
    /// What the gap records so far tell.
    told: Counters,
    gap_after: Moment,
    unreadable: u64,
}

/// What the waiting came to.
enum Wake {
    Events,
    Stop,
}

impl Drain {
    /// Registers the ring with the runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn new(
        attached: Box<Attached>,
        outlet: Outlet,
        health: HealthCell,
    ) -> io::Result<Self> {
        Ok(Self {
            ready: attached.watch()?,
            attached,
            outlet,
            health,
            read: [0; Kind::ALL.len()],
            booked: Counters::default(),
            told: Counters::default(),
            gap_after: Moment::START,
            unreadable: 0,
        })
    }

    /// The task.
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut more = false;
        loop {
            if !more {
                match self.wait(&mut stopped).await {
                    Wake::Stop => break,
                    Wake::Events => {}
                }
            }
            more = self.round().await;
            if stopped.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
                break;
            }
        }
        self.last().await;
    }

    /// Waits for the first event and then for company, or for half a ring.
    async fn wait(&mut self, stopped: &mut oneshot::Receiver<()>) -> Wake {
        let ready = tokio::select! {
            biased;
            _ = &mut *stopped => return Wake::Stop,
            ready = self.ready.readable() => ready,
        };
        if let Ok(mut ready) = ready {
            ready.clear_ready();
        }
        let gathered = tokio::select! {
            biased;
            _ = &mut *stopped => return Wake::Stop,
            () = tokio::time::sleep(GATHER) => None,
            ready = self.ready.readable() => Some(ready),
        };
        if let Some(Ok(mut ready)) = gathered {
            ready.clear_ready();
        }
        Wake::Events
    }

    /// Reads until the ring is empty or the round is full, which is the answer.
    async fn round(&mut self) -> bool {
        let clock = Clock::now();
        let mut left = ROUND;
        let mut batch = Vec::new();
        while left > 0 {
            let attached = &mut self.attached;
            let Some(event) = attached.next() else {
                break;
            };
            left -= 1;
            match event {
                Ok(event) => {
                    if let Some(count) = self.read.get_mut(event.kind as usize) {
                        *count += 1;
                    }
                    if let Detail::Cgroup(path) = &event.detail {
                        attached.cgroups.made(event.cgroup_id, path.as_deref());
                    } else {
                        let cgroup = attached.cgroups.get(event.cgroup_id, clock.monotonic);
                        batch.push(Record::Log(clock.record(&event, cgroup.as_deref())));
                    }
                }
                Err(error) => {
                    self.unreadable += 1;
                    self.health.set(Health::Degraded(format!("{error}")));
                }
            }
            if batch.len() >= BATCH {
                self.outlet.offer(std::mem::take(&mut batch));
                tokio::task::yield_now().await;
            }
        }
        self.outlet.offer(batch);
        let more = left == 0;
        self.account(&clock, more);
        more
    }

    /// Books what the kernel lost since the last time, and leaves a mark in the stream.
    fn account(&mut self, clock: &Clock, more: bool) {
        let counters = self.attached.counters();
        for kind in told_kinds() {
            let lost = counters.lost(kind) - self.booked.lost(kind);
            self.outlet.lose(lost, Reason::RingFull);
        }
        self.booked = counters;
        if more && clock.monotonic < self.gap_after {
            return;
        }
        let mut gaps = Vec::new();
        for kind in told_kinds() {
            let lost = counters.lost(kind) - self.told.lost(kind);
            if lost > 0 {
                gaps.push(Record::Log(clock.gap(kind, lost, Reason::RingFull.word())));
            }
        }
        let untracked = counters.untracked() - self.told.untracked();
        if untracked > 0 {
            let reason = "connections_full";
            gaps.push(Record::Log(clock.gap(Kind::Close, untracked, reason)));
        }
        self.told = counters;
        if !gaps.is_empty() {
            self.gap_after = clock.monotonic.after(GAP_EVERY);
            self.outlet.offer(gaps);
        }
    }

    /// Detaches, and reads what was written until then.
    async fn last(&mut self) {
        self.attached.detach();
        let mut counters = self.attached.counters();
        for _ in 0..LAST_WAITS {
            while self.round().await {}
            // A program may have been in the middle of an event when it was detached.
            counters = self.attached.counters();
            let sum = |count: fn(&Counters, Kind) -> u64| {
                Kind::ALL
                    .iter()
                    .map(|kind| count(&counters, *kind))
                    .sum::<u64>()
            };
            let read = self.read.iter().sum::<u64>() + self.unreadable;
            if read + sum(Counters::lost) >= sum(Counters::seen) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut events = String::new();
        for kind in told_kinds().filter(|kind| counters.seen(*kind) > 0) {
            let between = if events.is_empty() { "" } else { ", " };
            let (seen, lost) = (counters.seen(kind), counters.lost(kind));
            // Writing to a string cannot fail.
            _ = write!(
                events,
                "{between}{} {seen} lost {lost}",
                super::event::name(kind)
            );
        }
        tracing::info!(events, "kernel programs detached");
    }
}

/// The kinds that leave the data plane.
fn told_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_stand_in_the_order_of_the_kinds() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind:?}");
            assert_eq!(kind.number(), index + 1, "{kind:?}");
        }
    }
}
