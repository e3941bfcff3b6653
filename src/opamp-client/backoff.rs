//! When to try again: jittered exponential back-off as arithmetic on time and randomness that the caller gives.
//!
//! Promises: pure and total (every operation saturates, R-282); delays differ between clients by jitter; a
//! server's Retry-After is a floor, up to a cap; the delay falls back to its start only after a link that
//! was worth having, so that a server which accepts and closes at once is not hammered.
//! Must never: read a clock or a random source, or give up by itself: giving up is policy and belongs to the caller.

use std::time::Duration;

/// The numbers of a back-off. Ratios are in per mille, so that the arithmetic is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Middle of the first delay.
    pub initial: Duration,
    /// Growth of the middle per attempt, per mille.
    pub growth_permille: u32,
    /// Largest deviation from the middle, per mille of it; above 1000 counts as 1000.
    pub jitter_permille: u32,
    /// The middle grows up to this.
    pub max: Duration,
    /// Least wait after a throttling answer that names no time.
    pub throttled_min: Duration,
    /// Most that a server can make us wait.
    pub retry_after_max: Duration,
    /// Middle of the delay after refused credentials.
    pub rejected_min: Duration,
    /// A link that stood this long was worth having.
    pub healthy_after: Duration,
    /// The same for a link on which the server answered.
    pub healthy_after_answer: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            growth_permille: 1500,
            jitter_permille: 500,
            max: Duration::from_mins(1),
            throttled_min: Duration::from_secs(30),
            retry_after_max: Duration::from_hours(1),
            rejected_min: Duration::from_mins(1),
            healthy_after: Duration::from_secs(10),
            healthy_after_answer: Duration::from_secs(1),
        }
    }
}

/// Jittered exponential back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    config: BackoffConfig,
    /// Middle of the next delay; never above `config.max`.
    middle: Duration,
    attempts: u32,
}

/// What is known of a link that ended, for [`Backoff::link_lost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkLife {
    /// How long it stood after the handshake.
    pub lasted: Duration,
    /// Whether the server sent at least one message without error.
    pub answered: bool,
}

impl Backoff {
    /// Starts at the first delay.
    pub fn new(config: BackoffConfig) -> Self {
        Self {
            config,
            middle: config.initial.min(config.max),
            attempts: 0,
        }
    }

    /// Delays handed out since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next delay after an attempt that did not connect. `random` is any uniformly distributed number.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let delay = jittered(self.middle, self.config.jitter_permille, random);
        self.middle = scaled(self.middle, self.config.growth_permille).min(self.config.max);
        self.attempts = self.attempts.saturating_add(1);
        delay
    }

    /// The next delay after 429, 503 or Unavailable: the back-off, but not less than what the server asked for, or
    /// [`BackoffConfig::throttled_min`] if it named no time.
    pub fn throttled(&mut self, random: u64, retry_after: Option<Duration>) -> Duration {
        let floor = retry_after.map_or(self.config.throttled_min, |asked| {
            asked.min(self.config.retry_after_max)
        });
        self.next_delay(random).max(floor)
    }

    /// The next delay after refused credentials: never a short one, whatever came before.
    pub fn rejected(&mut self, random: u64) -> Duration {
        let floor = jittered(
            self.config.rejected_min,
            self.config.jitter_permille,
            random,
        );
        self.next_delay(random).max(floor)
    }

    /// The next delay after an established link was lost: a short one if the link was worth having, else the
    /// back-off goes on where it stood.
    pub fn link_lost(&mut self, life: LinkLife, random: u64) -> Duration {
        let enough = if life.answered {
            self.config.healthy_after_answer
        } else {
            self.config.healthy_after
        };
        if life.lasted >= enough {
            self.reset();
        }
        self.next_delay(random)
    }

    /// Starts anew, for example after settings changed.
    pub fn reset(&mut self) {
        self.middle = self.config.initial.min(self.config.max);
        self.attempts = 0;
    }
}

/// `span` times `permille` / 1000, saturating.
fn scaled(span: Duration, permille: u32) -> Duration {
    from_nanos(span.as_nanos().saturating_mul(u128::from(permille)) / 1000)
}

/// A point between `span` − jitter and `span` + jitter, chosen by `random`.
fn jittered(span: Duration, permille: u32, random: u64) -> Duration {
    let reach = scaled(span, permille.min(1000)).as_nanos();
    let low = span.as_nanos().saturating_sub(reach);
    // 64 random bits spread over the width; the product fits because a width above 64 bits is cut first.
    let width = reach.saturating_mul(2).min(u128::from(u64::MAX));
    let offset = width.saturating_mul(u128::from(random)) / u128::from(u64::MAX);
    from_nanos(low.saturating_add(offset))
}

fn from_nanos(nanos: u128) -> Duration {
    // 584 years; whoever waits longer will not notice.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIDDLE: u64 = u64::MAX / 2;

    fn millis(span: Duration) -> u128 {
        // The middle of 64 bits is half a bit low.
        (span + Duration::from_micros(1)).as_millis()
    }

    //
    #[test]
    fn delays_grow_by_half_up_to_a_minute() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let seen: Vec<u128> = (0..5).map(|_| millis(backoff.next_delay(MIDDLE))).collect();
        assert_eq!(seen, [500, 750, 1125, 1687, 2531]);
        let last = (0..100).map(|_| backoff.next_delay(MIDDLE)).last();
        assert_eq!(last.map(millis), Some(60_000));
        assert_eq!(backoff.attempts(), 105);
    }

    //
    #[test]
    fn jitter_reaches_from_half_to_one_and_a_half() {
        for (random, wanted) in [(0, 250), (MIDDLE, 500), (u64::MAX, 750)] {
            let mut backoff = Backoff::new(BackoffConfig::default());
            assert_eq!(millis(backoff.next_delay(random)), wanted, "{random}");
        }
    }

    //
    #[test]
    fn throttling_waits_for_the_longer_of_back_off_and_retry_after() {
        let cases = [
            ("no time named", None, 30_000),
            (
                "longer than the back-off",
                Some(Duration::from_mins(2)),
                120_000,
            ),
            (
                "shorter than the back-off",
                Some(Duration::from_millis(1)),
                500,
            ),
            ("in the past", Some(Duration::ZERO), 500),
            ("absurd", Some(Duration::from_nanos(u64::MAX)), 3_600_000),
            ("longest", Some(Duration::MAX), 3_600_000),
        ];
        for (name, retry_after, wanted) in cases {
            let mut backoff = Backoff::new(BackoffConfig::default());
            assert_eq!(
                millis(backoff.throttled(MIDDLE, retry_after)),
                wanted,
                "{name}"
            );
        }
    }

    //
    #[test]
    fn throttling_grows_past_the_floor() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let last = (0..100).map(|_| backoff.throttled(MIDDLE, None)).last();
        assert_eq!(last.map(millis), Some(60_000));
    }

    //
    #[test]
    fn refused_credentials_are_never_retried_quickly() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        assert_eq!(millis(backoff.rejected(0)), 30_000);
        assert_eq!(millis(backoff.rejected(u64::MAX)), 90_000);
    }

    //
    #[test]
    fn only_a_link_worth_having_resets_the_delay() {
        let life = |lasted_ms, answered| LinkLife {
            lasted: Duration::from_millis(lasted_ms),
            answered,
        };
        let cases = [
            ("closed at once", life(0, false), 2531),
            ("answered and closed at once", life(10, true), 2531),
            ("answered and stood a second", life(1000, true), 500),
            ("stood without answer", life(9_999, false), 2531),
            ("stood long without answer", life(10_000, false), 500),
        ];
        for (name, life, wanted) in cases {
            let mut backoff = Backoff::new(BackoffConfig::default());
            for _ in 0..4 {
                backoff.next_delay(MIDDLE);
            }
            assert_eq!(millis(backoff.link_lost(life, MIDDLE)), wanted, "{name}");
        }
    }

    proptest! {
        #[test]
        fn delays_stay_within_bounds(
            initial_ms: u64, growth_permille: u32, jitter_permille: u32, max_ms: u64,
            randoms in proptest::collection::vec(any::<u64>(), 1..40),
        ) {
            let max = Duration::from_millis(max_ms);
            let mut backoff = Backoff::new(BackoffConfig {
                initial: Duration::from_millis(initial_ms), growth_permille, jitter_permille, max,
                ..BackoffConfig::default()
            });
            for random in randoms {
                prop_assert!(backoff.next_delay(random) <= max.saturating_mul(2));
            }
        }
    }
}
