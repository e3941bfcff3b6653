//! The clocks of the process, and the only file that may read them.
//!
//! Promises: `monotonic` never goes back and starts near zero at the first call; `wall` may jump and says so by its
//! type.
//! Must never: be called by the engine, which takes time as a value.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::units::{Moment, Now, WallTime};

static START: OnceLock<Instant> = OnceLock::new();

/// Reads the monotonic clock as time since its first reading, which `main` makes at start.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one clock everything else is given"
)]
pub fn monotonic() -> Moment {
    let start = *START.get_or_init(Instant::now);
    Moment::START.after(Instant::now().saturating_duration_since(start))
}

/// Reads the wall clock; a clock set before 1970 reads as the epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one clock everything else is given"
)]
pub fn wall() -> WallTime {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    WallTime::from_unix_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Reads the kernel's monotonic clock as it is, for others on this machine who compare it with their own reading.
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part is ever negative on this clock.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Reads the clock that counts from boot and does not stop in suspend; the kernel stamps its events with it.
pub fn boottime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// Reads both clocks.
pub fn now() -> Now {
    Now {
        mono: monotonic(),
        wall: wall(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_starts_near_zero_and_never_goes_back() {
        let first = monotonic();
        let second = monotonic();
        assert!(second >= first);
        assert!(
            first.as_millis() < 3_600_000,
            "counts from process start, not from boot"
        );
    }

    #[test]
    fn the_wall_clock_is_after_the_day_this_was_written() {
        assert!(wall().unix_millis() > 1_760_000_000_000);
    }
}
