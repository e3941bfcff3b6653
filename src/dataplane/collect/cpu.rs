//! CPU: how busy the host and each core were since the last reading, and the time spent by mode.
//!
//! Promises (S2-17): busy is total − idle − iowait; guest time, which the kernel already counts in user and nice,
//! is not counted again; the first reading yields no utilization; an interval that is empty or goes back is skipped.
//! Data: `/proc/stat`.

use std::sync::Arc;

use super::host::{Baseline, CollectError, Collector, Files, Scrape, numbers};
use crate::dataplane::record::{Metric, Number, Unit};

static UTILIZATION: Metric = Metric::gauge("system.cpu.utilization", Unit::Ratio);
static CORE_UTILIZATION: Metric = Metric::gauge("system.cpu.core.utilization", Unit::Ratio);
static TIME: Metric = Metric::sum("system.cpu.time", Unit::Seconds);
static CORES: Metric = Metric::gauge("system.cpu.logical.count", Unit::Count("{cpu}"));

/// Cores beyond this many are counted, not described.
const CORES_MAX: usize = 1024;
/// `USER_HZ`: what the kernel shows to user space is in hundredths of a second on every architecture Linux still has.
const TICKS_PER_SECOND: u32 = 100;
/// The modes in the order of the file, without `guest` and `guest_nice`.
const MODES: [&str; 8] = [
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "interrupt",
    "softirq",
    "steal",
];

type Ticks = [u64; MODES.len()];

/// Reads `/proc/stat`.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    host: Option<Baseline<8>>,
    host_last: Option<Ticks>,
    cores: Vec<(Arc<str>, Option<Ticks>)>,
    modes: Vec<Arc<str>>,
}

impl Collector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(&mut self, files: &mut Files, out: &mut Scrape) -> Result<(), CollectError> {
        let text = files.read("proc/stat")?;
        let mut total = None;
        let mut count = 0_usize;
        for line in text.lines() {
            let Some((label, rest)) = line.split_once(' ') else {
                continue;
            };
            let Some(core) = label.strip_prefix("cpu") else {
                // The cpu lines stand first.
                break;
            };
            let Some(ticks) = parse(rest) else { continue };
            if core.is_empty() {
                total = Some(ticks);
            } else {
                if count < CORES_MAX {
                    self.core(count, core, ticks, out);
                }
                count += 1;
            }
        }
        self.cores.truncate(count);
        let Some(ticks) = total else {
            return Err(files.shape("proc/stat", "has no cpu line"));
        };
        if let Some(busy) = self.host_last.and_then(|last| utilization(last, ticks)) {
            out.gauge(&UTILIZATION, Number::Float(busy), Vec::new());
        }
        self.host_last = Some(ticks);
        out.gauge(&CORES, Number::Int(count as u64), Vec::new());
        self.time(ticks, out);
        Ok(())
    }
}

impl Cpu {
    fn core(&mut self, index: usize, name: &str, ticks: Ticks, out: &mut Scrape) {
        // A core that was switched off or on moves the lines below it: compare by name, not by place.
        if self.cores.get(index).is_none_or(|(old, _)| **old != *name) {
            self.cores.truncate(index);
            self.cores.push((name.into(), None));
        }
        let Some((name, last)) = self.cores.get_mut(index) else {
            return;
        };
        if let Some(busy) = last.and_then(|last| utilization(last, ticks)) {
            let of = vec![("cpu.logical_number", Arc::clone(name))];
            out.gauge(&CORE_UTILIZATION, Number::Float(busy), of);
        }
        *last = Some(ticks);
    }

    fn time(&mut self, ticks: Ticks, out: &mut Scrape) {
        if self.modes.is_empty() {
            self.modes = MODES.map(Arc::from).into();
        }
        let start = match &mut self.host {
            Some(baseline) => baseline.advance(ticks, out.now),
            empty => {
                *empty = Some(Baseline::first("cpu", ticks, out.now));
                Some(out.now)
            }
        };
        let Some(start) = start else { return };
        for (mode, ticks) in self.modes.iter().zip(ticks) {
            let of = vec![("cpu.mode", Arc::clone(mode))];
            out.sum(&TIME, Number::Float(seconds(ticks)), of, start);
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 ticks are 2.8 million years of one core"
)]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / f64::from(TICKS_PER_SECOND)
}

/// The first columns; old kernels have fewer, newer ones more.
fn parse(rest: &str) -> Option<Ticks> {
    let mut ticks = [0; MODES.len()];
    let [user, nice, system, idle] = numbers::<4>(rest)?;
    let mut words = rest.split_ascii_whitespace();
    for slot in &mut ticks {
        *slot = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }
    debug_assert_eq!([user, nice, system, idle], ticks[..4]);
    Some(ticks)
}

/// The busy share between two readings; nothing when no time passed or a sum went back.
#[expect(
    clippy::cast_precision_loss,
    reason = "an interval is some thousand ticks"
)]
fn utilization(last: Ticks, next: Ticks) -> Option<f64> {
    let sums = |ticks: Ticks| {
        let total: u64 = ticks.iter().sum();
        let [.., idle, iowait, _, _, _] = ticks;
        (total, total.saturating_sub(idle).saturating_sub(iowait))
    };
    let ((total_last, busy_last), (total, busy)) = (sums(last), sums(next));
    let total = total.checked_sub(total_last).filter(|span| *span > 0)?;
    // The kernel may set iowait back a little, which would make busy grow faster than time.
    let busy = busy.checked_sub(busy_last)?.min(total);
    Some(busy as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::collect::host::testing::Host;

    /// Two readings; the utilization lines of the second.
    fn second(first: &str, second: &str) -> Vec<String> {
        let host = Host::new(&[("proc/stat", first)]);
        let mut cpu = Cpu::default();
        host.scrape(&mut cpu, 1000).unwrap();
        host.put("proc/stat", second);
        let mut lines = host.scrape(&mut cpu, 11_000).unwrap();
        lines.retain(|line| line.contains("utilization"));
        lines
    }

    #[test]
    fn scripted_trees_give_exact_shares() {
        let base =
            "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0\nintr 1\nctxt 2\n";
        let cases: [(&str, &[&str]); 7] = [
            // 50 user + 50 system of 200.
            (
                "cpu  150 0 150 900 0 0 0 0 0 0\ncpu0 150 0 150 900 0 0 0 0 0 0\n",
                &[
                    "system.cpu.core.utilization{cpu.logical_number=0} 0.5",
                    "system.cpu.utilization{} 0.5",
                ],
            ),
            // Waiting for disks is not busy.
            (
                "cpu  150 0 100 800 150 0 0 0 0 0\n",
                &["system.cpu.utilization{} 0.25"],
            ),
            // Guest time is inside user already.
            (
                "cpu  200 0 100 900 0 0 0 0 100 0\n",
                &["system.cpu.utilization{} 0.5"],
            ),
            // Interrupts and stolen time are busy.
            (
                "cpu  100 0 100 850 0 25 15 10 0 0\n",
                &["system.cpu.utilization{} 0.5"],
            ),
            // No time passed.
            ("cpu  100 0 100 800 0 0 0 0 0 0\n", &[]),
            // The sums went back.
            ("cpu  10 0 10 80 0 0 0 0 0 0\n", &[]),
            // iowait went back by more than idle grew.
            ("cpu  150 0 100 800 0\n", &["system.cpu.utilization{} 1"]),
        ];
        for (next, wanted) in cases {
            assert_eq!(second(base, next), wanted, "{next}");
        }
    }

    #[test]
    fn the_first_reading_has_times_but_no_share() {
        let host = Host::new(&[(
            "proc/stat",
            "cpu  150 0 25 800 0 0 0 0 0 0\ncpu0 1 0 1 8\ncpu1 1 0 1 8\n",
        )]);
        let lines = host.scrape(&mut Cpu::default(), 1000).unwrap();
        assert!(
            lines.iter().all(|line| !line.contains("utilization")),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"system.cpu.logical.count{} 2".to_owned()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"system.cpu.time{cpu.mode=user} 1.5".to_owned()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"system.cpu.time{cpu.mode=system} 0.25".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn a_core_that_went_away_does_not_shift_the_others() {
        let lines = second(
            "cpu  0 0 0 0\ncpu0 0 0 0 100\ncpu1 100 0 0 100\ncpu2 0 0 0 100\n",
            "cpu  0 0 0 100\ncpu0 0 0 0 200\ncpu2 100 0 0 200\n",
        );
        assert_eq!(
            lines,
            [
                "system.cpu.core.utilization{cpu.logical_number=0} 0",
                "system.cpu.utilization{} 0"
            ]
        );
    }

    #[test]
    fn a_file_without_a_cpu_line_is_an_error() {
        let host = Host::new(&[("proc/stat", "ctxt 1\n")]);
        let error = host.scrape(&mut Cpu::default(), 1).unwrap_err();
        assert!(error.ends_with("proc/stat has no cpu line"), "{error}");
    }
}
