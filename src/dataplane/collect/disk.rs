//! Disks: bytes, operations, times and queue of whole devices.
//!
//! Promises (S2-19): partitions, loop, RAM and device-mapper devices are left out, so that nothing is counted
//! twice; a sector is
//! 512 bytes whatever the device says of itself, because the kernel counts in these; a device whose counters go
//! back is skipped once.
//! Data: `/proc/diskstats`.

use std::sync::Arc;

use super::host::{Baseline, CollectError, Collector, Files, Scrape, numbers};
use crate::dataplane::record::{Metric, Number, Unit};

static IO: Metric = Metric::sum("system.disk.io", Unit::Bytes);
static OPERATIONS: Metric = Metric::sum("system.disk.operations", Unit::Count("{operation}"));
static OPERATION_TIME: Metric = Metric::sum("system.disk.operation_time", Unit::Seconds);
static IO_TIME: Metric = Metric::sum("system.disk.io_time", Unit::Seconds);
static WEIGHTED_TIME: Metric = Metric::sum("system.disk.weighted_io_time", Unit::Seconds);
static PENDING: Metric =
    Metric::gauge("system.disk.pending_operations", Unit::Count("{operation}"));

/// The unit of the kernel's sector counters, on 4Kn devices too.
const SECTOR_BYTES: u64 = 512;
/// Devices beyond this many are left out.
const DEVICES_MAX: usize = 256;

/// The columns after the name, without the momentary queue length.
const READS: usize = 0;
const READ_SECTORS: usize = 1;
const READ_MS: usize = 2;
const WRITES: usize = 3;
const WRITE_SECTORS: usize = 4;
const WRITE_MS: usize = 5;
const BUSY_MS: usize = 6;
const WEIGHTED_MS: usize = 7;

/// Reads `/proc/diskstats`.
#[derive(Debug)]
pub(crate) struct Disk {
    devices: Vec<Baseline<8>>,
    read: Arc<str>,
    write: Arc<str>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            read: "read".into(),
            write: "write".into(),
        }
    }
}

impl Collector for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn collect(&mut self, files: &mut Files, out: &mut Scrape) -> Result<(), CollectError> {
        let text = files.read("proc/diskstats")?;
        for line in text.lines() {
            let Some((name, counters, in_flight)) = parse(line) else {
                continue;
            };
            self.device(name, counters, in_flight, out);
        }
        self.devices.retain_mut(Baseline::take_seen);
        Ok(())
    }
}

impl Disk {
    fn device(&mut self, name: &str, counters: [u64; 8], in_flight: u64, out: &mut Scrape) {
        let room = self.devices.len() < DEVICES_MAX;
        let known = self.devices.iter_mut().find(|known| *known.name == *name);
        let (name, start) = if let Some(known) = known {
            (Arc::clone(&known.name), known.advance(counters, out.now))
        } else if room {
            let first = Baseline::first(name, counters, out.now);
            let name = Arc::clone(&first.name);
            self.devices.push(first);
            (name, Some(out.now))
        } else {
            return;
        };
        let device = || ("system.device", Arc::clone(&name));
        out.gauge(&PENDING, Number::Int(in_flight), vec![device()]);
        let Some(start) = start else { return };
        let directions = [
            (&self.read, READS, READ_SECTORS, READ_MS),
            (&self.write, WRITES, WRITE_SECTORS, WRITE_MS),
        ];
        let column = |index: usize| counters.get(index).copied().unwrap_or(0);
        for (direction, operations, sectors, millis) in directions {
            let of = || vec![device(), ("disk.io.direction", Arc::clone(direction))];
            let bytes = Number::Int(column(sectors).saturating_mul(SECTOR_BYTES));
            out.sum(&IO, bytes, of(), start);
            out.sum(&OPERATIONS, Number::Int(column(operations)), of(), start);
            out.sum(&OPERATION_TIME, seconds(column(millis)), of(), start);
        }
        out.sum(&IO_TIME, seconds(column(BUSY_MS)), vec![device()], start);
        let weighted = seconds(column(WEIGHTED_MS));
        out.sum(&WEIGHTED_TIME, weighted, vec![device()], start);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 milliseconds are 285 000 years"
)]
fn seconds(millis: u64) -> Number {
    Number::Float(millis as f64 / 1000.0)
}

/// `major minor name reads merged sectors ms writes merged sectors ms in-flight busy-ms weighted-ms …`
fn parse(line: &str) -> Option<(&str, [u64; 8], u64)> {
    let mut rest = line.trim_start();
    for _ in 0..2 {
        rest = rest.split_once(' ')?.1.trim_start();
    }
    let (name, rest) = rest.split_once(' ')?;
    if !is_whole_device(name) {
        return None;
    }
    let [
        reads,
        _,
        read_sectors,
        read_ms,
        writes,
        _,
        write_sectors,
        write_ms,
        in_flight,
        busy,
        weighted,
    ] = numbers::<11>(rest)?;
    let counters = [
        reads,
        read_sectors,
        read_ms,
        writes,
        write_sectors,
        write_ms,
        busy,
        weighted,
    ];
    Some((name, counters, in_flight))
}

/// `sda`, `vdb`, `xvda`, `hdc`, `nvme0n1`, `mmcblk0` — and not `sda1`, `nvme0n1p2`, `mmcblk0boot0`, `dm-0`, `loop0`.
fn is_whole_device(name: &str) -> bool {
    let letters = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase());
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = name.strip_prefix("nvme") {
        return rest
            .split_once('n')
            .is_some_and(|(controller, namespace)| digits(controller) && digits(namespace));
    }
    if let Some(rest) = name.strip_prefix("mmcblk") {
        return digits(rest);
    }
    ["xvd", "sd", "hd", "vd"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .is_some_and(letters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::collect::host::testing::Host;

    #[test]
    fn only_whole_devices_count() {
        for whole in [
            "sda",
            "sdaa",
            "hdc",
            "vdb",
            "xvda",
            "nvme0n1",
            "nvme10n12",
            "mmcblk0",
        ] {
            assert!(is_whole_device(whole), "{whole}");
        }
        for other in [
            "sda1",
            "nvme0n1p1",
            "nvme0c0n1",
            "mmcblk0p1",
            "mmcblk0boot0",
            "dm-0",
            "loop0",
            "ram0",
            "md0",
            "sr0",
            "zram0",
            "sd",
            "nvme",
            "nvme0n",
            "",
        ] {
            assert!(!is_whole_device(other), "{other}");
        }
    }

    #[test]
    fn sectors_are_512_bytes_and_partitions_are_left_out() {
        let host = Host::new(&[
            (
                "proc/diskstats",
                "   8       0 sda 10 1 2000 300 20 2 4000 600 3 500 900 0 0 0 0 7 8\n   8       1 sda1 10 1 2000 300 20 2 4000 600 3 500 900\n",
            ),
            // A device of 4096-byte sectors: the kernel's counters are in 512-byte sectors all the same.
            ("sys/block/sda/queue/logical_block_size", "4096\n"),
        ]);
        assert_eq!(
            host.scrape(&mut Disk::default(), 1).unwrap(),
            [
                "system.disk.io_time{system.device=sda} 0.5",
                "system.disk.io{system.device=sda,disk.io.direction=read} 1024000",
                "system.disk.io{system.device=sda,disk.io.direction=write} 2048000",
                "system.disk.operation_time{system.device=sda,disk.io.direction=read} 0.3",
                "system.disk.operation_time{system.device=sda,disk.io.direction=write} 0.6",
                "system.disk.operations{system.device=sda,disk.io.direction=read} 10",
                "system.disk.operations{system.device=sda,disk.io.direction=write} 20",
                "system.disk.pending_operations{system.device=sda} 3",
                "system.disk.weighted_io_time{system.device=sda} 0.9",
            ]
        );
    }

    #[test]
    fn a_device_that_was_replaced_skips_one_sample() {
        let line = |reads: u64| format!("8 0 sda {reads} 0 8 0 0 0 0 0 0 0 0\n");
        let host = Host::new(&[("proc/diskstats", &line(100))]);
        let mut disk = Disk::default();
        assert_eq!(host.scrape(&mut disk, 1).unwrap().len(), 9);
        host.put("proc/diskstats", &line(5));
        assert_eq!(
            host.scrape(&mut disk, 2).unwrap(),
            ["system.disk.pending_operations{system.device=sda} 0"]
        );
        host.put("proc/diskstats", &line(6));
        assert_eq!(host.scrape(&mut disk, 3).unwrap().len(), 9);
    }

    #[test]
    fn the_number_of_devices_is_bounded() {
        use std::fmt::Write as _;
        let mut text = String::new();
        for index in 0..300 {
            writeln!(text, "259 {index} nvme{index}n1 1 0 8 0 0 0 0 0 0 0 0").unwrap();
        }
        let host = Host::new(&[("proc/diskstats", &text)]);
        let lines = host.scrape(&mut Disk::default(), 1).unwrap();
        assert_eq!(lines.len(), DEVICES_MAX * 9);
    }
}
