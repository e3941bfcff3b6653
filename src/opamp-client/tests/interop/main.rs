//! A whole normal life against servers that nobody here wrote: the one made with opamp-go, over WebSocket and polling,
//! and Elastic's of npm, which polls only. What they understood is read from their own point of view.
//!
//! The programs are built by `tests/peers/build.sh` of the repository into the directory that `ADJUTANT_PEERS_DIR`
//! names, so these tests are ignored unless asked for (`--include-ignored`); then a missing program is a failure.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod agent;
mod elastic;
mod opamp_go;
mod peer;
mod proxy;
