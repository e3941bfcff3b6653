//! One child: what is wanted, what is there, and the way from one to the other.
//!
//! Promises: never two children at once; a stop always ends (signal, grace, KILL, KILL again until it is gone); a
//! crash is answered at once the first time and ever more slowly after; uptime heals. Actual and wanted state are
//! two fields.
//! Must never: know why a child is wanted, what it runs, or what a crash means for a rollout. It states facts,
//! others decide.

use std::time::Duration;

use crate::config::Restart;
use crate::engine::message::{ChildIdentity, Exit, ExitStatus};
use crate::engine::random::Random;
use crate::engine::watch::died;
use crate::units::{Moment, Ticket};

/// KILL cannot be ignored, but a process in uninterruptible sleep keeps it pending; so it is sent again until it is
/// gone.
const KILL_REPEAT: Duration = Duration::from_secs(2);
const SIGKILL: i32 = 9;
/// Deaths in a row, with no stable time between them, that are a loop and no accident: by then it has been restarted
/// at once, and after a pause.
const LOOP_AFTER: u32 = 3;

/// What a lifecycle wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Start the child.
    Spawn(Ticket),
    /// Send a signal to its group.
    Signal {
        /// The process.
        pid: u32,
        /// The signal.
        signal: i32,
    },
}

/// What happened, for those who decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A new process runs.
    Started,
    /// It ended although it was wanted.
    Crashed(Exit),
    /// It could not be started.
    NotStarted(String),
    /// It ended because it was asked to.
    Stopped,
    /// Restarts are used up.
    GaveUp(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Up,
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Actual {
    Down,
    Starting {
        ticket: Ticket,
    },
    Up {
        child: ChildIdentity,
        since: Moment,
    },
    Stopping {
        child: ChildIdentity,
        kill_at: Moment,
        killed: bool,
    },
    Waiting {
        until: Moment,
    },
    GivenUp {
        reason: String,
    },
}

/// One child.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    wanted: Wanted,
    actual: Actual,
    policy: Restart,
    grace: Duration,
    stop_signal: i32,
    /// Unasked ends in a row without a stable time between them.
    failures: u32,
    /// Starts since we started, the first one not counted.
    pub(crate) restarts: u64,
    /// Unasked ends since we started.
    pub(crate) crashes: u64,
    started_before: bool,
    pub(crate) last_exit: Option<String>,
    /// How it died by itself, with its last output; none when we stopped it.
    pub(crate) last_words: Option<String>,
    /// Whether the last stop took a KILL.
    killed: bool,
    /// Nothing is started, whatever is wanted.
    barred: bool,
}

impl Lifecycle {
    /// A lifecycle whose child is down, or whose left-over child has to be stopped first.
    pub(crate) fn new(policy: Restart, grace: Duration, stop_signal: i32) -> Self {
        Self {
            wanted: Wanted::Down,
            actual: Actual::Down,
            policy,
            grace,
            stop_signal,
            failures: 0,
            restarts: 0,
            crashes: 0,
            started_before: false,
            last_exit: None,
            last_words: None,
            killed: false,
            barred: false,
        }
    }

    /// Takes over new settings; a running child is not touched.
    pub(crate) fn set_policy(&mut self, policy: Restart, grace: Duration) {
        self.policy = policy;
        self.grace = grace;
    }

    /// How long the next stop waits before KILL.
    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Starts nothing from here on. What runs is not touched.
    pub(crate) fn bar(&mut self) {
        self.barred = true;
    }

    /// Starts again what is wanted from here on; what was wanted meanwhile has to be wanted again.
    pub(crate) fn unbar(&mut self) {
        self.barred = false;
    }

    /// A child of an earlier life is still there: it goes by the ladder before a new one starts.
    pub(crate) fn stop_leftover(&mut self, now: Moment, child: ChildIdentity) -> Vec<Order> {
        debug_assert_eq!(
            self.actual,
            Actual::Down,
            "a left-over is found before anything starts"
        );
        self.begin_stop(now, child)
    }

    /// A child of an earlier life goes on as ours.
    #[cfg(feature = "adopt")]
    pub(crate) fn adopt(&mut self, now: Moment, child: ChildIdentity) {
        debug_assert_eq!(
            self.actual,
            Actual::Down,
            "a left-over is found before anything starts"
        );
        self.wanted = Wanted::Up;
        self.actual = Actual::Up { child, since: now };
        self.started_before = true;
    }

    /// Wants it up. Forgets a give-up: somebody has a reason to try again.
    pub(crate) fn want_up(&mut self, now: Moment, tickets: &mut Tickets) -> Vec<Order> {
        self.wanted = Wanted::Up;
        match self.actual {
            Actual::Down | Actual::GivenUp { .. } => {
                self.failures = 0;
                self.spawn(tickets)
            }
            Actual::Waiting { until } if until <= now => self.spawn(tickets),
            Actual::Waiting { .. }
            | Actual::Starting { .. }
            | Actual::Up { .. }
            | Actual::Stopping { .. } => Vec::new(),
        }
    }

    /// Wants it down.
    pub(crate) fn want_down(&mut self, now: Moment) -> Vec<Order> {
        self.wanted = Wanted::Down;
        self.killed = false;
        match &self.actual {
            Actual::Up { child, .. } => {
                let child = child.clone();
                self.begin_stop(now, child)
            }
            Actual::Waiting { .. } | Actual::GivenUp { .. } => {
                self.actual = Actual::Down;
                Vec::new()
            }
            Actual::Down | Actual::Starting { .. } | Actual::Stopping { .. } => Vec::new(),
        }
    }

    /// Wants a new process. Repeated orders while one is under way are one restart.
    pub(crate) fn restart(&mut self, now: Moment, tickets: &mut Tickets) -> Vec<Order> {
        self.wanted = Wanted::Up;
        match &self.actual {
            Actual::Up { child, .. } => {
                let child = child.clone();
                self.failures = 0;
                self.begin_stop(now, child)
            }
            Actual::Down | Actual::Waiting { .. } | Actual::GivenUp { .. } => {
                self.failures = 0;
                self.spawn(tickets)
            }
            Actual::Starting { .. } | Actual::Stopping { .. } => Vec::new(),
        }
    }

    /// Stops waiting for grace: KILL now.
    pub(crate) fn force(&mut self, now: Moment) -> Vec<Order> {
        self.wanted = Wanted::Down;
        match &mut self.actual {
            Actual::Stopping {
                child,
                kill_at,
                killed,
            } => {
                *killed = true;
                *kill_at = now.after(KILL_REPEAT);
                vec![Order::Signal {
                    pid: child.pid,
                    signal: SIGKILL,
                }]
            }
            Actual::Up { child, .. } => {
                let child = child.clone();
                let pid = child.pid;
                let kill_at = now.after(KILL_REPEAT);
                self.actual = Actual::Stopping {
                    child,
                    kill_at,
                    killed: true,
                };
                vec![Order::Signal {
                    pid,
                    signal: SIGKILL,
                }]
            }
            Actual::Waiting { .. } | Actual::GivenUp { .. } => {
                self.actual = Actual::Down;
                Vec::new()
            }
            Actual::Down | Actual::Starting { .. } => Vec::new(),
        }
    }

    /// The process runs.
    pub(crate) fn spawned(
        &mut self,
        now: Moment,
        ticket: Ticket,
        child: ChildIdentity,
    ) -> (Option<Fact>, Vec<Order>) {
        let awaited = Actual::Starting { ticket };
        debug_assert_eq!(self.actual, awaited, "one spawn at a time");
        if self.wanted == Wanted::Down {
            return (None, self.begin_stop(now, child));
        }
        self.actual = Actual::Up { child, since: now };
        if self.started_before {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.started_before = true;
        (Some(Fact::Started), Vec::new())
    }

    /// The process could not be started.
    pub(crate) fn spawn_failed(
        &mut self,
        now: Moment,
        reason: String,
        random: &mut Random,
    ) -> Vec<Fact> {
        self.last_exit = Some(reason.clone());
        self.last_words = None;
        let mut facts = vec![Fact::NotStarted(reason)];
        if self.wanted == Wanted::Down {
            self.actual = Actual::Down;
            facts.push(Fact::Stopped);
            return facts;
        }
        facts.extend(self.wait_or_give_up(now, random));
        facts
    }

    /// A process is gone. Strangers are ignored.
    pub(crate) fn exited(
        &mut self,
        now: Moment,
        pid: u32,
        exit: Exit,
        tickets: &mut Tickets,
        random: &mut Random,
    ) -> (Vec<Fact>, Vec<Order>) {
        match &self.actual {
            Actual::Stopping { child, killed, .. } if child.pid == pid => {
                self.killed = *killed;
                self.last_exit = Some(describe(&exit));
                self.last_words = None;
                self.actual = Actual::Down;
                let orders = match self.wanted {
                    Wanted::Up => self.spawn(tickets),
                    Wanted::Down => Vec::new(),
                };
                (vec![Fact::Stopped], orders)
            }
            Actual::Up { child, since } if child.pid == pid => {
                if now.since(*since) >= self.policy.stable_after {
                    self.failures = 0;
                }
                self.crashes = self.crashes.saturating_add(1);
                self.last_exit = Some(describe(&exit));
                self.last_words = Some(died(&exit));
                let mut facts = vec![Fact::Crashed(exit)];
                facts.extend(self.wait_or_give_up(now, random));
                let orders = match self.actual {
                    Actual::Waiting { until } if until <= now => self.spawn(tickets),
                    _ => Vec::new(),
                };
                (facts, orders)
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// A deadline passed.
    pub(crate) fn handle_timeout(&mut self, now: Moment, tickets: &mut Tickets) -> Vec<Order> {
        match &mut self.actual {
            Actual::Waiting { until } if *until <= now => self.spawn(tickets),
            Actual::Stopping {
                child,
                kill_at,
                killed,
            } if *kill_at <= now => {
                *killed = true;
                *kill_at = now.after(KILL_REPEAT);
                vec![Order::Signal {
                    pid: child.pid,
                    signal: SIGKILL,
                }]
            }
            _ => Vec::new(),
        }
    }

    /// The next moment it wants to be called.
    pub(crate) fn due(&self) -> Option<Moment> {
        match self.actual {
            Actual::Waiting { until } => Some(until),
            Actual::Stopping { kill_at, .. } => Some(kill_at),
            Actual::Down | Actual::Starting { .. } | Actual::Up { .. } | Actual::GivenUp { .. } => {
                None
            }
        }
    }

    /// The running process; none while it starts or stops.
    pub(crate) fn running(&self) -> Option<&ChildIdentity> {
        match &self.actual {
            Actual::Up { child, .. } => Some(child),
            _ => None,
        }
    }

    /// Since when it runs.
    pub(crate) fn up_since(&self) -> Option<Moment> {
        match self.actual {
            Actual::Up { since, .. } => Some(since),
            _ => None,
        }
    }

    /// The process that is there in whatever state.
    pub(crate) fn process(&self) -> Option<&ChildIdentity> {
        match &self.actual {
            Actual::Up { child, .. } | Actual::Stopping { child, .. } => Some(child),
            _ => None,
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_down(&self) -> bool {
        matches!(
            self.actual,
            Actual::Down | Actual::GivenUp { .. } | Actual::Waiting { .. }
        )
    }

    /// Whether the last stop took a KILL.
    pub(crate) fn was_killed(&self) -> bool {
        self.killed
    }

    /// Whether restarts are used up, and why.
    pub(crate) fn given_up(&self) -> Option<&str> {
        match &self.actual {
            Actual::GivenUp { reason } => Some(reason),
            _ => None,
        }
    }

    /// How often it died in a row, once that is a loop; a stable time ends it.
    pub(crate) fn crash_loop(&self, now: Moment) -> Option<u32> {
        let stable = self
            .up_since()
            .is_some_and(|since| now.since(since) >= self.policy.stable_after);
        let looping = self.failures >= LOOP_AFTER || self.given_up().is_some();
        (looping && !stable).then_some(self.failures)
    }

    /// Whether it was told to end so that a new process takes its place.
    pub(crate) fn is_restarting(&self) -> bool {
        matches!(self.actual, Actual::Stopping { .. }) && self.wanted == Wanted::Up
    }

    /// Whether it had to be killed and is still there.
    pub(crate) fn unkillable(&self) -> bool {
        matches!(self.actual, Actual::Stopping { killed: true, .. })
    }

    /// One word for people.
    pub(crate) fn word(&self) -> &'static str {
        match (&self.actual, self.wanted) {
            (Actual::Down, Wanted::Down) => "stopped",
            (Actual::Down | Actual::Starting { .. }, _) => "starting",
            (Actual::Up { .. }, _) => "running",
            (Actual::Stopping { .. }, Wanted::Down) => "stopping",
            (Actual::Stopping { .. }, Wanted::Up) => "restarting",
            (Actual::Waiting { .. }, _) => "backing off",
            (Actual::GivenUp { .. }, _) => "given up",
        }
    }

    /// The name of the state it is in.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.actual {
            Actual::Down => "down",
            Actual::Starting { .. } => "starting",
            Actual::Up { .. } => "up",
            Actual::Stopping { .. } => "stopping",
            Actual::Waiting { .. } => "waiting",
            Actual::GivenUp { .. } => "given up",
        }
    }

    fn spawn(&mut self, tickets: &mut Tickets) -> Vec<Order> {
        if self.barred {
            self.actual = Actual::Down;
            return Vec::new();
        }
        let ticket = tickets.next();
        self.actual = Actual::Starting { ticket };
        vec![Order::Spawn(ticket)]
    }

    fn begin_stop(&mut self, now: Moment, child: ChildIdentity) -> Vec<Order> {
        let pid = child.pid;
        self.actual = Actual::Stopping {
            child,
            kill_at: now.after(self.grace),
            killed: false,
        };
        vec![Order::Signal {
            pid,
            signal: self.stop_signal,
        }]
    }

    fn wait_or_give_up(&mut self, now: Moment, random: &mut Random) -> Option<Fact> {
        self.failures = self.failures.saturating_add(1);
        let limit = self.policy.give_up_after;
        if limit > 0 && self.failures >= limit {
            let last = self.last_words.as_deref().or(self.last_exit.as_deref());
            let last = last.unwrap_or("for an unknown reason");
            let reason = format!("{limit} failed starts in a row: {last}");
            self.actual = Actual::GivenUp {
                reason: reason.clone(),
            };
            return Some(Fact::GaveUp(reason));
        }
        self.actual = Actual::Waiting {
            until: now.after(self.delay(random)),
        };
        None
    }

    /// The first restart is at once; then the delay doubles, with a quarter of jitter to either side.
    fn delay(&self, random: &mut Random) -> Duration {
        let Some(doublings) = self.failures.checked_sub(2) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX);
        let delay = self
            .policy
            .initial
            .saturating_mul(factor)
            .min(self.policy.max);
        delay
            .mul_f64(random.between(0.75, 1.25))
            .min(self.policy.max)
    }
}

fn describe(exit: &Exit) -> String {
    if exit.oom_killed {
        return format!("{} (killed by the kernel for lack of memory)", exit.status);
    }
    match exit.status {
        ExitStatus::Code(_) | ExitStatus::Signal(_) | ExitStatus::Unknown => {
            exit.status.to_string()
        }
    }
}

/// Hands out ticket numbers; one per engine, so a late answer is never taken for another.
#[derive(Debug, Default)]
pub(crate) struct Tickets(u64);

impl Tickets {
    /// The next number.
    pub(crate) fn next(&mut self) -> Ticket {
        self.0 = self.0.saturating_add(1);
        Ticket(self.0)
    }
}

#[cfg(test)]
mod tests;
