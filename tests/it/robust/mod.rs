//! What a supervisor has to survive, shown on the real binary: death at every step, failing disks, hostile input,
//! process 1, stubborn children.
//!
//! Every test has a directory of its own and ends what it started, by process id. Nothing sleeps to wait: a condition
//! is asked for until it holds or a minute is over.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod adopt;
mod certs;
mod children;
mod crash;
mod disk;
mod doctor;
mod doors;
mod hostile;
mod isolation;
mod lock;
mod manager;
mod order;
mod pid1;
mod points;
mod proc;
mod promote;
mod registration;
mod reload;
pub(crate) mod rig;
mod roster;
mod settings;
mod several;
mod tracer;
