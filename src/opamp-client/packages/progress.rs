//! How far a download is, as two finite numbers.
//!
//! Promises: percent between 0 and 100, a rate that is never infinite, whatever the caller counts.
//! Must never: read a clock.

use std::time::Duration;

use crate::messages::PackageDownloadDetails;

/// A rate over less than this would be noise.
const SAMPLE_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress {
    received: u64,
    total: Option<u64>,
    /// Where the present sample began.
    mark_at: Duration,
    mark_bytes: u64,
    bytes_per_second: f64,
}

impl Progress {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            received: 0,
            total: None,
            mark_at: now,
            mark_bytes: 0,
            bytes_per_second: 0.0,
        }
    }

    pub(super) fn update(&mut self, now: Duration, received: u64, total: Option<u64>) {
        self.received = received;
        self.total = total;
        let span = now.saturating_sub(self.mark_at);
        if span >= SAMPLE_MIN {
            self.bytes_per_second =
                as_float(received.saturating_sub(self.mark_bytes)) / span.as_secs_f64();
            self.mark_at = now;
            self.mark_bytes = received;
        }
    }

    pub(super) fn details(&self) -> PackageDownloadDetails {
        let percent = match self.total {
            Some(total) if total > 0 => as_float(self.received) * 100.0 / as_float(total),
            _ => 0.0,
        };
        PackageDownloadDetails {
            download_percent: percent.clamp(0.0, 100.0),
            download_bytes_per_second: self.bytes_per_second,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a percentage needs no more than 52 bits"
)]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn one_of_two_bytes_is_half_and_no_number_is_infinite() {
        let secs = Duration::from_secs;
        let mut progress = Progress::new(secs(5));
        progress.update(secs(5), 1, Some(2));
        let details = progress.details();
        assert_eq!(
            (details.download_percent, details.download_bytes_per_second),
            (50.0, 0.0)
        );
        progress.update(secs(7), 2, Some(2));
        let details = progress.details();
        assert_eq!(
            (details.download_percent, details.download_bytes_per_second),
            (100.0, 1.0)
        );
        for (now, received, total) in [
            (0, 0, Some(0)),
            (7, u64::MAX, Some(1)),
            (9, u64::MAX, None),
            (11, 0, Some(u64::MAX)),
        ] {
            progress.update(secs(now), received, total);
            let details = progress.details();
            assert!(
                (0.0..=100.0).contains(&details.download_percent),
                "{details:?}"
            );
            assert!(details.download_bytes_per_second.is_finite(), "{details:?}");
            assert!(details.download_bytes_per_second >= 0.0, "{details:?}");
        }
    }
}
