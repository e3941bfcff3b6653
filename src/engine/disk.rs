//! The order of disk work: one piece at a time, each with a purpose that says what its answer is for.
//!
//! Promises: the next piece is issued only after the answer to the last; no answer is ever discarded; a late one is
//! seen.
//! Must never: do disk work, or know what is in it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::lifecycle::Tickets;
use crate::engine::message::{CommandId, DiskWork};
use crate::units::{Moment, Ticket};

/// After this long without an answer, health says "disk stalled".
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The transaction goes on.
    Transaction,
    /// A record that nothing waits for.
    Record,
    /// The memory of rejections, outside a transaction.
    Memory,
    /// Offered connection settings, and which state of them.
    #[cfg_attr(
        not(feature = "connection"),
        expect(dead_code, reason = "nothing is offered in this build")
    )]
    Connection(SaveId),
    #[cfg(feature = "layers")]
    /// The local layers are looked at.
    Layers,
    #[cfg(feature = "layers")]
    /// What runs is looked at.
    Verify,
    #[cfg(feature = "layers")]
    /// What runs is put right.
    Restore,
    /// Files that a layer of own telemetry names are kept.
    #[cfg(feature = "telemetry")]
    Material,
    /// Old revisions are removed.
    Prune,
    /// A door wants to see a revision.
    Show(CommandId),
}

/// Which state of offered connection settings, of those that were to be saved since the local ones changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SaveId {
    /// How often the local settings had changed by then.
    pub(crate) generation: u64,
    /// Its number.
    pub(crate) number: u64,
}

/// The order of disk work.
#[derive(Debug, Default)]
pub(crate) struct DiskQueue {
    busy: Option<(Ticket, Purpose, Moment)>,
    waiting: VecDeque<(Purpose, DiskWork)>,
}

impl DiskQueue {
    /// Adds work.
    pub(crate) fn push(&mut self, purpose: Purpose, work: DiskWork) {
        self.waiting.push_back((purpose, work));
    }

    /// Adds a state of offered connection settings in place of one that waits: the answer for a later one counts for
    /// all before it.
    #[cfg(feature = "connection")]
    pub(crate) fn push_connection(&mut self, id: SaveId, work: DiskWork) {
        self.waiting
            .retain(|(purpose, _)| !matches!(purpose, Purpose::Connection(_)));
        self.push(Purpose::Connection(id), work);
    }

    /// The next work to issue, if none is under way.
    pub(crate) fn issue(
        &mut self,
        now: Moment,
        tickets: &mut Tickets,
    ) -> Option<(Ticket, DiskWork)> {
        if self.busy.is_some() {
            return None;
        }
        let (purpose, work) = self.waiting.pop_front()?;
        let ticket = tickets.next();
        self.busy = Some((ticket, purpose, now));
        Some((ticket, work))
    }

    /// Takes an answer; none when nobody waits for it (an answer given twice).
    pub(crate) fn answered(&mut self, ticket: Ticket) -> Option<Purpose> {
        match self.busy {
            Some((wanted, purpose, _)) if wanted == ticket => {
                self.busy = None;
                Some(purpose)
            }
            _ => None,
        }
    }

    /// Whether nothing is under way or waiting.
    pub(crate) fn is_idle(&self) -> bool {
        self.busy.is_none() && self.waiting.is_empty()
    }

    /// Whether an answer is late.
    pub(crate) fn stalled(&self, now: Moment) -> bool {
        self.busy
            .is_some_and(|(_, _, since)| now.since(since) >= STALLED_AFTER)
    }

    /// When health has to be looked at again because an answer would be late.
    pub(crate) fn due(&self, now: Moment) -> Option<Moment> {
        let (_, _, since) = self.busy?;
        let late = since.after(STALLED_AFTER);
        (late > now).then_some(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn next_piece_goes_out_after_the_answer_to_the_last_and_no_answer_counts_twice() {
        let (mut queue, mut tickets) = (DiskQueue::default(), Tickets::default());
        assert!(queue.is_idle() && queue.issue(at(0), &mut tickets).is_none());
        queue.push(Purpose::Record, DiskWork::ReadLocal(Vec::new()));
        queue.push(Purpose::Prune, DiskWork::Prune { keep: Vec::new() });
        assert!(!queue.is_idle(), "something waits");
        let (first, work) = queue.issue(at(0), &mut tickets).unwrap();
        assert!(matches!(work, DiskWork::ReadLocal(_)));
        assert!(queue.issue(at(1), &mut tickets).is_none());
        assert_eq!(queue.answered(Ticket(first.0 + 1)), None);
        assert_eq!(queue.answered(first), Some(Purpose::Record));
        assert_eq!(queue.answered(first), None, "given twice");
        assert!(!queue.is_idle(), "the second waits");
        let (second, work) = queue.issue(at(1), &mut tickets).unwrap();
        assert!(matches!(work, DiskWork::Prune { .. }));
        assert!(!queue.is_idle(), "it is under way");
        assert_eq!(queue.answered(first), None);
        assert_eq!(queue.answered(second), Some(Purpose::Prune));
        assert!(queue.is_idle());
    }

    #[test]
    fn answer_is_late_after_ten_seconds_and_health_is_looked_at_then() {
        let (mut queue, mut tickets) = (DiskQueue::default(), Tickets::default());
        assert_eq!((queue.stalled(at(99_999)), queue.due(at(0))), (false, None));
        queue.push(Purpose::Record, DiskWork::ReadLocal(Vec::new()));
        let (ticket, _) = queue.issue(at(5_000), &mut tickets).unwrap();
        for (now, stalled, due) in [
            (5_000, false, Some(at(15_000))),
            (14_999, false, Some(at(15_000))),
            (15_000, true, None),
            (15_001, true, None),
        ] {
            assert_eq!(
                (queue.stalled(at(now)), queue.due(at(now))),
                (stalled, due),
                "{now}"
            );
        }
        queue.answered(ticket);
        assert_eq!(
            (queue.stalled(at(99_999)), queue.due(at(6_000))),
            (false, None)
        );
    }
}
