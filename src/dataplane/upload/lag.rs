//! Whether an upload keeps up: how long records have waited without one being acknowledged, and how full its queue
//! is, against the thresholds of its config.
//!
//! Promises: pure but for the two moments it keeps; an empty queue is never behind, however long nobody sent anything;
//! what is said of one state is always the same text.
//! Must never: slow an upload down, or drop anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::dataplane::config::Thresholds;
use crate::dataplane::health::Health;
use crate::units::{Moment, Now, WallTime, format_duration};

/// What an uploader writes down; zero is never.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Milliseconds, plus one, of the moment since when records are due and none was acknowledged.
    due: AtomicU64,
    /// When one was acknowledged last, in Unix milliseconds.
    acknowledged: AtomicU64,
}

impl Progress {
    /// Records are to be sent now.
    pub(crate) fn begin(&self, now: Moment) {
        let due = now.as_millis().saturating_add(1);
        // Whoever was behind already stays so since then.
        _ = self
            .due
            .compare_exchange(0, due, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Some of them were acknowledged.
    pub(crate) fn advance(&self, now: Now) {
        let due = now.mono.as_millis().saturating_add(1);
        self.due.store(due, Ordering::Relaxed);
        self.acknowledged
            .store(now.wall.unix_millis(), Ordering::Relaxed);
    }

    /// Nothing is left to be sent.
    pub(crate) fn end(&self) {
        self.due.store(0, Ordering::Relaxed);
    }

    /// How long records have been due without one being acknowledged.
    pub(crate) fn waited(&self, now: Moment) -> Option<Duration> {
        let due = self.due.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now.since(Moment::from_millis(due)))
    }

    /// When a record was acknowledged last.
    pub(crate) fn acknowledged(&self) -> Option<WallTime> {
        match self.acknowledged.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(WallTime::from_unix_millis(millis)),
        }
    }
}

/// The health of an upload, given what it says itself, how long records have waited and how full its queue is.
pub(crate) fn judge(
    own: Health,
    thresholds: &Thresholds,
    waited: Option<Duration>,
    queue_percent: usize,
) -> Health {
    let late = |after: Duration| {
        let text = format!(
            "records wait and none was acknowledged for {}",
            format_duration(after)
        );
        waited.is_some_and(|waited| waited >= after).then_some(text)
    };
    let full = |percent: usize| {
        (queue_percent >= percent).then(|| format!("{percent} % of the queue or more is taken"))
    };
    let because = |text: String| match own.error() {
        "" => text,
        error => format!("{text}: {error}"),
    };
    let error = late(thresholds.error_after).or_else(|| full(thresholds.error_backlog));
    let degraded = late(thresholds.degraded_after).or_else(|| full(thresholds.degraded_backlog));
    match (&own, error, degraded) {
        // It says worse of itself, or there is nothing to add.
        (Health::Down(_) | Health::Unsupported(_), _, _) | (_, None, None) => own,
        (_, Some(error), _) => Health::Behind(because(error)),
        (_, None, Some(degraded)) => Health::Degraded(because(degraded)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds {
        degraded_after: Duration::from_mins(1),
        error_after: Duration::from_mins(10),
        degraded_backlog: 50,
        error_backlog: 90,
    };

    #[test]
    fn time_without_success_and_backlog_are_judged_by_the_thresholds() {
        let refused = || Health::Degraded("refused".to_owned());
        for (own, waited, percent, word, part) in [
            (Health::Ok, None, 0, "ok", ""),
            (Health::Ok, Some(59), 49, "ok", ""),
            (
                Health::Ok,
                Some(60),
                0,
                "degraded",
                "none was acknowledged for 1m",
            ),
            (
                Health::Ok,
                Some(600),
                0,
                "error",
                "none was acknowledged for 10m",
            ),
            (Health::Ok, None, 50, "degraded", "50 % of the queue"),
            (Health::Ok, None, 90, "error", "90 % of the queue"),
            (refused(), Some(5), 0, "degraded", "refused"),
            (refused(), Some(600), 95, "error", "for 10m: refused"),
            (
                Health::Down("denied".to_owned()),
                Some(600),
                95,
                "error",
                "denied",
            ),
            (Health::Starting, None, 0, "starting", ""),
        ] {
            let waited = waited.map(Duration::from_secs);
            let found = judge(own.clone(), &THRESHOLDS, waited, percent);
            assert_eq!(found.word(), word, "{own:?} {waited:?} {percent}");
            assert!(found.error().contains(part), "{found:?}");
        }
    }

    #[test]
    fn other_thresholds_give_other_answers() {
        let strict = Thresholds {
            degraded_after: Duration::from_secs(1),
            error_after: Duration::from_secs(2),
            degraded_backlog: 1,
            error_backlog: 2,
        };
        let word = |waited, percent| judge(Health::Ok, &strict, waited, percent).word();
        assert_eq!(word(Some(Duration::from_secs(1)), 0), "degraded");
        assert_eq!(word(Some(Duration::from_secs(2)), 0), "error");
        assert_eq!((word(None, 1), word(None, 2)), ("degraded", "error"));
    }

    #[test]
    fn an_upload_without_records_is_never_behind() {
        let progress = Progress::default();
        let at = |secs: u64| Moment::from_millis(secs * 1000);
        assert_eq!(progress.waited(at(9_000)), None);
        progress.begin(at(10));
        progress.begin(at(20));
        assert_eq!(progress.waited(at(40)), Some(Duration::from_secs(30)));
        assert_eq!(progress.acknowledged(), None);
        let wall = WallTime::from_unix_millis(7);
        progress.advance(Now { mono: at(40), wall });
        assert_eq!(progress.waited(at(45)), Some(Duration::from_secs(5)));
        assert_eq!(progress.acknowledged(), Some(wall));
        progress.end();
        assert_eq!(progress.waited(at(9_000)), None);
    }
}
