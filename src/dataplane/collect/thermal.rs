//! Temperatures of the thermal zones.
//!
//! Promises (S2-21): zone 0 is `cpu.temperature`, every zone is `hw.temperature`; millidegrees become degrees; a
//! zone that cannot be read is skipped; a host without zones, such as a virtual machine, is no error.
//! Data: `/sys/class/thermal/thermal_zone*`.

use std::sync::Arc;

use super::host::{CollectError, Collector, Files, Scrape};
use crate::dataplane::record::{Metric, Number, Unit};

static CPU: Metric = Metric::gauge("cpu.temperature", Unit::Celsius);
static ZONE: Metric = Metric::gauge("hw.temperature", Unit::Celsius);

const CLASS: &str = "sys/class/thermal";
/// Zones beyond this many are left out.
const ZONES_MAX: usize = 64;

/// Reads the thermal class.
#[derive(Debug, Default)]
pub(crate) struct Thermal;

impl Collector for Thermal {
    fn name(&self) -> &'static str {
        "thermal"
    }

    fn collect(&mut self, files: &mut Files, out: &mut Scrape) -> Result<(), CollectError> {
        for number in zones(files)? {
            let zone = format!("{CLASS}/thermal_zone{number}");
            let Some(degrees) = files
                .read(&format!("{zone}/temp"))
                .ok()
                .and_then(|text| text.trim().parse::<i32>().ok())
                .map(|millidegrees| f64::from(millidegrees) / 1000.0)
            else {
                continue;
            };
            let kind: Arc<str> = files
                .read(&format!("{zone}/type"))
                .map_or_else(|_| "unknown".into(), |text| text.trim().into());
            let of = vec![
                ("hw.id", format!("thermal_zone{number}").into()),
                ("hw.name", kind),
            ];
            if number == 0 {
                out.gauge(&CPU, Number::Float(degrees), Vec::new());
            }
            out.gauge(&ZONE, Number::Float(degrees), of);
        }
        Ok(())
    }
}

/// The numbers of the zones there are, in order.
fn zones(files: &Files) -> Result<Vec<u32>, CollectError> {
    let path = files.path(CLASS);
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CollectError::Read { path, source }),
    };
    let mut numbers: Vec<u32> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("thermal_zone")?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers.truncate(ZONES_MAX);
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::collect::host::testing::Host;

    #[test]
    fn every_readable_zone_is_described_and_zone_zero_is_the_cpu() {
        let host = Host::new(&[
            ("sys/class/thermal/thermal_zone0/temp", "45500\n"),
            ("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp\n"),
            ("sys/class/thermal/thermal_zone1/temp", "not a number\n"),
            ("sys/class/thermal/thermal_zone10/temp", "-5000\n"),
            ("sys/class/thermal/cooling_device0/type", "fan\n"),
        ]);
        assert_eq!(
            host.scrape(&mut Thermal, 1).unwrap(),
            [
                "cpu.temperature{} 45.5",
                "hw.temperature{hw.id=thermal_zone0,hw.name=x86_pkg_temp} 45.5",
                "hw.temperature{hw.id=thermal_zone10,hw.name=unknown} -5",
            ]
        );
    }

    #[test]
    fn a_machine_without_zones_is_no_error() {
        let host = Host::new(&[]);
        assert_eq!(host.scrape(&mut Thermal, 1), Ok(Vec::new()));
    }
}
