//! The body of a request: read within bounds of size, memory and time, and unpacked within a bound.
//!
//! Promises: no more than the limit of one body is ever held for it, packed or unpacked; all bodies that are being read
//! share one budget, and a sender beyond it is told to come again instead of waiting for others who may wait for it.
//! Must never: trust a length that a stranger names.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// Bodies of full size that may be under way together.
const BODIES_MAX: usize = 2;

/// Why there is no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// More bytes than allowed, as it came or unpacked.
    Large,
    /// Other senders are sending too much at this moment.
    Crowded,
    /// It did not come in time.
    Slow,
    /// The connection broke, or its framing is wrong.
    Broken(String),
    /// It is no gzip, or ends too early.
    Packing(String),
}

/// Room for a body that is being read; given back when it is dropped.
struct Lease<'a> {
    bodies: &'a AtomicUsize,
    budget: usize,
    bytes: usize,
}

impl Lease<'_> {
    fn grow(&mut self, more: usize) -> bool {
        if self.bodies.load(Ordering::Relaxed).saturating_add(more) > self.budget {
            return false;
        }
        self.bodies.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        true
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.bodies.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body of at most `max` bytes. `bodies` counts what is being read over all connections.
pub(super) async fn read(
    body: Incoming,
    max: usize,
    time: Duration,
    bodies: &AtomicUsize,
) -> Result<Vec<u8>, Trouble> {
    if body.size_hint().lower() > max as u64 {
        return Err(Trouble::Large);
    }
    let lease = Lease {
        bodies,
        budget: max.saturating_mul(BODIES_MAX),
        bytes: 0,
    };
    tokio::time::timeout(time, gather(body, max, lease))
        .await
        .unwrap_or(Err(Trouble::Slow))
}

async fn gather(mut body: Incoming, max: usize, mut lease: Lease<'_>) -> Result<Vec<u8>, Trouble> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Trouble::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > max {
            return Err(Trouble::Large);
        }
        // Twice what is there, as vectors grow, but not beyond what was announced.
        let more = bytes
            .len()
            .min(announced.saturating_sub(bytes.len()))
            .max(data.len());
        let room =
            bytes.capacity() - bytes.len() >= data.len() || bytes.try_reserve_exact(more).is_ok();
        if !room || !lease.grow(data.len()) {
            return Err(Trouble::Crowded);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Unpacks gzip to at most `max` bytes.
pub(super) fn unzip(packed: &[u8], max: usize) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(packed)
        .take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Trouble::Packing(error.to_string()))?;
    if bytes.len() > max {
        return Err(Trouble::Large);
    }
    Ok(bytes)
}
