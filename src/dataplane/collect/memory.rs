//! Memory and swap, in bytes.
//!
//! Promises (S2-18): used is total − available; a host that does not say its total is an error; a kernel without
//! `MemAvailable` (before 3.14) is answered with free + buffers + cached.
//! Data: `/proc/meminfo`.

use std::sync::Arc;

use super::host::{CollectError, Collector, Files, Scrape};
use crate::dataplane::record::{Metric, Number, Unit};

static USAGE: Metric = Metric::gauge("system.memory.usage", Unit::Bytes);
static LIMIT: Metric = Metric::gauge("system.memory.limit", Unit::Bytes);
static AVAILABLE: Metric = Metric::gauge("system.linux.memory.available", Unit::Bytes);
static UTILIZATION: Metric = Metric::gauge("system.memory.utilization", Unit::Ratio);
static SWAP_USAGE: Metric = Metric::gauge("system.paging.usage", Unit::Bytes);

/// Reads `/proc/meminfo`.
#[derive(Debug)]
pub(crate) struct Memory {
    used: Arc<str>,
    free: Arc<str>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            used: "used".into(),
            free: "free".into(),
        }
    }
}

#[derive(Debug, Default)]
struct Fields {
    total: Option<u64>,
    available: Option<u64>,
    free: u64,
    buffers: u64,
    cached: u64,
    swap_total: Option<u64>,
    swap_free: u64,
}

impl Collector for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a share needs no more than 2^53 bytes of precision"
    )]
    fn collect(&mut self, files: &mut Files, out: &mut Scrape) -> Result<(), CollectError> {
        let fields = parse(files.read("proc/meminfo")?);
        let Some(total) = fields.total.filter(|total| *total > 0) else {
            return Err(files.shape("proc/meminfo", "has no MemTotal"));
        };
        let guess = fields.free + fields.buffers + fields.cached;
        let available = fields.available.unwrap_or(guess).min(total);
        let used = total - available;
        let state = |state: &Arc<str>| vec![("system.memory.state", Arc::clone(state))];
        out.gauge(&USAGE, Number::Int(used), state(&self.used));
        out.gauge(&LIMIT, Number::Int(total), Vec::new());
        out.gauge(&AVAILABLE, Number::Int(available), Vec::new());
        let share = Number::Float(used as f64 / total as f64);
        out.gauge(&UTILIZATION, share, state(&self.used));
        if let Some(swap) = fields.swap_total {
            let free = fields.swap_free.min(swap);
            let state = |state: &Arc<str>| vec![("system.paging.state", Arc::clone(state))];
            out.gauge(&SWAP_USAGE, Number::Int(swap - free), state(&self.used));
            out.gauge(&SWAP_USAGE, Number::Int(free), state(&self.free));
        }
        Ok(())
    }
}

fn parse(text: &str) -> Fields {
    let mut fields = Fields::default();
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let Some(kib) = rest
            .split_ascii_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok())
        else {
            continue;
        };
        let bytes = kib.saturating_mul(1024);
        match key {
            "MemTotal" => fields.total = Some(bytes),
            "MemAvailable" => fields.available = Some(bytes),
            "MemFree" => fields.free = bytes,
            "Buffers" => fields.buffers = bytes,
            "Cached" => fields.cached = bytes,
            "SwapTotal" => fields.swap_total = Some(bytes),
            "SwapFree" => fields.swap_free = bytes,
            _ => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::collect::host::testing::Host;

    fn scrape(meminfo: &str) -> Result<Vec<String>, String> {
        Host::new(&[("proc/meminfo", meminfo)]).scrape(&mut Memory::default(), 1)
    }

    #[test]
    fn used_is_total_minus_available() {
        let lines = scrape(
            "MemTotal:       1000 kB\nMemFree:  100 kB\nMemAvailable: 250 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
        )
        .unwrap();
        assert_eq!(
            lines,
            [
                "system.linux.memory.available{} 256000",
                "system.memory.limit{} 1024000",
                "system.memory.usage{system.memory.state=used} 768000",
                "system.memory.utilization{system.memory.state=used} 0.75",
                "system.paging.usage{system.paging.state=free} 4096",
                "system.paging.usage{system.paging.state=used} 6144",
            ]
        );
    }

    #[test]
    fn an_old_kernel_is_answered_from_free_buffers_and_cached() {
        let lines = scrape("MemTotal: 100 kB\nMemFree: 10 kB\nBuffers: 20 kB\nCached: 30 kB\n");
        assert!(
            lines
                .unwrap()
                .contains(&"system.memory.usage{system.memory.state=used} 40960".to_owned())
        );
    }

    #[test]
    fn a_missing_total_is_an_error() {
        for text in [
            "",
            "MemFree: 1 kB\n",
            "MemTotal: x kB\n",
            "MemTotal: 0 kB\n",
        ] {
            let error = scrape(text).unwrap_err();
            assert!(error.ends_with("proc/meminfo has no MemTotal"), "{error}");
        }
    }
}
