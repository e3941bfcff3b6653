//! The clocks of the process, and the only file that may read them.
//!
//! Promises: `monotonic` never goes back and starts near zero at the first call; `wall` may jump and says so by its
//! type.
//! Must never: be called by the engine, which takes time as a value.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use nix::libc;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::units::{Moment, Now, WallTime};

/// The year 2200: no clock that is right comes there in our life.
const NEVER_SECONDS: i64 = 7_258_118_400;

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

/// How long the machine has slept since it booted.
pub fn asleep() -> Duration {
    boottime().saturating_sub(since_boot())
}

/// Whether the kernel says that something keeps the wall clock, such as an NTP service; none where it does not say.
#[expect(unsafe_code, reason = "none of our crates wraps this call")]
pub fn synchronised() -> Option<bool> {
    let mut clock = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to memory of that type which lives during the call. Its `modes` are zero, so the kernel
    // changes nothing and only fills it in, and nobody reads it.
    let state = unsafe { libc::adjtimex(clock.as_mut_ptr()) };
    match state {
        -1 => None,
        libc::TIME_ERROR => Some(false),
        _ => Some(true),
    }
}

/// Reads both clocks.
pub fn now() -> Now {
    Now {
        mono: monotonic(),
        wall: wall(),
    }
}

/// Tells when the wall clock was set or the machine came back from suspend, without ever waking up to look.
///
/// A timer of the kernel that is never due, and that the kernel cancels when its clock jumps; it is cancelled on
/// resume, too, since the wall clock is set then. The loop's own sleep counts running time only and would be late by
/// the whole suspend.
#[derive(Debug)]
pub struct ClockJumps(Option<AsyncFd<OwnedFd>>);

impl ClockJumps {
    /// Begins to watch. Where the kernel has no such timer nothing is ever told; due work is then found at the next
    /// look.
    /// To be called inside a runtime.
    pub fn new() -> Self {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok();
        let timer = timer.filter(|timer| arm(timer).is_ok());
        Self(timer.and_then(|timer| watch(timer).ok()))
    }

    /// Waits for the next jump.
    ///
    /// # Cancel safety
    /// A jump that was not told is told by the next call.
    pub async fn next(&mut self) {
        let Some(timer) = &self.0 else {
            return std::future::pending().await;
        };
        let Ok(mut ready) = timer.readable().await else {
            return std::future::pending().await;
        };
        let mut count = [0; 8];
        // The read fails with ECANCELED, which is the message, and the timer watches on.
        rustix::io::read(timer.get_ref(), &mut count).ok();
        ready.clear_ready();
    }
}

impl Default for ClockJumps {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(
    unsafe_code,
    reason = "tokio's safe constructors of AsyncFd are deprecated in favour of an unsafe one"
)]
fn watch(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, is always the same descriptor, and lives inside the `AsyncFd` until that is
    // dropped, which takes it out of the reactor first. There is no safe way that is not deprecated.
    let watch = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    watch.map_err(io::Error::from)
}

fn arm(timer: &OwnedFd) -> rustix::io::Result<()> {
    let never = Timespec {
        tv_sec: NEVER_SECONDS,
        tv_nsec: 0,
    };
    let at = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: never,
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &at).map(drop)
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
