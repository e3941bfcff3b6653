//! Network: bytes, packets, errors and drops of the interfaces that matter.
//!
//! Promises (S2-20): virtual and container interfaces are left out; at most 32 interfaces are described, those
//! already described stay, and the rest is counted; an interface whose counters go back is skipped once.
//! Data: `/proc/net/dev`; under a prefix `/proc/1/net/dev` first, because `/proc/net` means "of the reader" and
//! would show the container's own interfaces instead of the host's.

use std::sync::Arc;

use super::host::{Baseline, CollectError, Collector, Files, Scrape, numbers};
use crate::dataplane::record::{Metric, Number, Unit};
use crate::units::WallTime;

static IO: Metric = Metric::sum("system.network.io", Unit::Bytes);
static PACKETS: Metric = Metric::sum("system.network.packet.count", Unit::Count("{packet}"));
static ERRORS: Metric = Metric::sum("system.network.errors", Unit::Count("{error}"));
static DROPPED: Metric = Metric::sum("system.network.packet.dropped", Unit::Count("{packet}"));
static LEFT_OUT: Metric = Metric::sum(
    "system.network.interfaces_dropped",
    Unit::Count("{interface}"),
);

/// Interfaces beyond this many are counted, not described.
const INTERFACES_MAX: usize = 32;

/// Reads `/proc/net/dev`.
#[derive(Debug)]
pub(crate) struct Network {
    interfaces: Vec<Baseline<8>>,
    left_out: u64,
    since: Option<WallTime>,
    receive: Arc<str>,
    transmit: Arc<str>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            left_out: 0,
            since: None,
            receive: "receive".into(),
            transmit: "transmit".into(),
        }
    }
}

impl Collector for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn collect(&mut self, files: &mut Files, out: &mut Scrape) -> Result<(), CollectError> {
        let of_init = "proc/1/net/dev";
        let path = if files.has_prefix() && files.path(of_init).exists() {
            of_init
        } else {
            "proc/net/dev"
        };
        let text = files.read(path)?;
        let found = || text.lines().filter_map(parse);
        // First those already described, so that a newcomer higher in the file pushes nobody out.
        for (name, counters) in found() {
            let known = self
                .interfaces
                .iter_mut()
                .find(|known| *known.name == *name);
            let Some(known) = known else { continue };
            let start = known.advance(counters, out.now);
            let name = Arc::clone(&known.name);
            if let Some(start) = start {
                self.interface(&name, counters, start, out);
            }
        }
        self.interfaces.retain_mut(Baseline::take_seen);
        for (name, counters) in found() {
            if self.interfaces.iter().any(|known| *known.name == *name) {
                continue;
            }
            if self.interfaces.len() >= INTERFACES_MAX {
                self.left_out += 1;
                continue;
            }
            let mut first = Baseline::first(name, counters, out.now);
            first.take_seen();
            let name = Arc::clone(&first.name);
            self.interfaces.push(first);
            self.interface(&name, counters, out.now, out);
        }
        let since = *self.since.get_or_insert(out.now);
        out.sum(&LEFT_OUT, Number::Int(self.left_out), Vec::new(), since);
        Ok(())
    }
}

impl Network {
    fn interface(&self, name: &Arc<str>, counters: [u64; 8], start: WallTime, out: &mut Scrape) {
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        ] = counters;
        let directions = [
            (&self.receive, rx_bytes, rx_packets, rx_errors, rx_dropped),
            (&self.transmit, tx_bytes, tx_packets, tx_errors, tx_dropped),
        ];
        for (direction, bytes, packets, errors, dropped) in directions {
            for (metric, value) in [
                (&IO, bytes),
                (&PACKETS, packets),
                (&ERRORS, errors),
                (&DROPPED, dropped),
            ] {
                let of = vec![
                    ("network.interface.name", Arc::clone(name)),
                    ("network.io.direction", Arc::clone(direction)),
                ];
                out.sum(metric, Number::Int(value), of, start);
            }
        }
    }
}

/// `name: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop …`
fn parse(line: &str) -> Option<(&str, [u64; 8])> {
    let (name, rest) = line.rsplit_once(':')?;
    let name = name.trim();
    if name.is_empty() || is_left_out(name) {
        return None;
    }
    let [
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        _,
        _,
        _,
        _,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
    ] = numbers::<12>(rest)?;
    let counters = [
        rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped,
    ];
    Some((name, counters))
}

/// Loopback, container, bridge, monitor, modem and tether interfaces.
fn is_left_out(name: &str) -> bool {
    name == "lo"
        || ["docker", "veth", "br-", "virbr", "wwan", "wwp", "usb"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || (name.starts_with("wlan") && name.ends_with("mon"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::collect::host::testing::Host;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    fn row(name: &str, received: u64) -> String {
        format!("{name:>6}: {received} 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n")
    }

    fn table(rows: &[String]) -> String {
        format!("{HEAD}{}", rows.concat())
    }

    #[test]
    fn both_directions_of_a_real_interface_are_described() {
        let text = table(&[row("lo", 5), row("eth0", 1000)]);
        let host = Host::new(&[("proc/net/dev", &text)]);
        let of = |direction: &str| {
            format!("{{network.interface.name=eth0,network.io.direction={direction}}}")
        };
        let (rx, tx) = (of("receive"), of("transmit"));
        assert_eq!(
            host.scrape(&mut Network::default(), 1).unwrap(),
            [
                format!("system.network.errors{rx} 1"),
                format!("system.network.errors{tx} 3"),
                "system.network.interfaces_dropped{} 0".to_owned(),
                format!("system.network.io{rx} 1000"),
                format!("system.network.io{tx} 2000"),
                format!("system.network.packet.count{rx} 10"),
                format!("system.network.packet.count{tx} 20"),
                format!("system.network.packet.dropped{rx} 2"),
                format!("system.network.packet.dropped{tx} 4"),
            ]
        );
    }

    #[test]
    fn virtual_interfaces_are_left_out() {
        for name in [
            "lo", "docker0", "veth1a2b", "br-12", "virbr0", "wwan0", "wwp0s1", "usb0", "wlan0mon",
        ] {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["eth0", "enp3s0", "wlan0", "bond0", "br0", "lo1"] {
            assert!(!is_left_out(name), "{name}");
        }
    }

    #[test]
    fn forty_interfaces_are_thirty_two_and_a_counter() {
        let rows: Vec<_> = (0..40)
            .map(|index| row(&format!("eth{index}"), 1))
            .collect();
        let host = Host::new(&[("proc/net/dev", &table(&rows))]);
        let mut network = Network::default();
        let lines = host.scrape(&mut network, 1).unwrap();
        assert_eq!(lines.len(), 32 * 8 + 1);
        assert!(lines.contains(&"system.network.interfaces_dropped{} 8".to_owned()));

        // A newcomer at the top pushes nobody out.
        let mut rows = rows;
        rows.insert(0, row("aaa0", 1));
        host.put("proc/net/dev", &table(&rows));
        let lines = host.scrape(&mut network, 2).unwrap();
        assert_eq!(lines.len(), 32 * 8 + 1);
        assert!(!lines.iter().any(|line| line.contains("aaa0")));
        assert!(lines.contains(&"system.network.interfaces_dropped{} 17".to_owned()));
    }

    #[test]
    fn counters_that_go_back_cost_one_sample() {
        let host = Host::new(&[("proc/net/dev", &table(&[row("eth0", 1000)]))]);
        let mut network = Network::default();
        assert_eq!(host.scrape(&mut network, 1).unwrap().len(), 9);
        host.put("proc/net/dev", &table(&[row("eth0", 10)]));
        assert_eq!(host.scrape(&mut network, 2).unwrap().len(), 1);
        host.put("proc/net/dev", &table(&[row("eth0", 20)]));
        assert_eq!(host.scrape(&mut network, 3).unwrap().len(), 9);
    }

    #[test]
    fn under_a_prefix_the_interfaces_of_the_hosts_init_count() {
        let host = Host::new(&[
            ("proc/net/dev", &table(&[row("eth0", 1)])),
            ("proc/1/net/dev", &table(&[row("host0", 1)])),
        ]);
        let lines = host.scrape(&mut Network::default(), 1).unwrap();
        assert!(lines.iter().any(|line| line.contains("host0")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("eth0")), "{lines:?}");
    }
}
