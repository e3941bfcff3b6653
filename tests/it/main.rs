//! Black-box runs of the program: one module per family of scenarios, one place for how they are started.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and a black-box test has a clock of its own"
)]

mod collector;
mod container;
mod dataplane;
mod fleet;
mod kernel;
mod lifecycle;
mod load;
mod page;
mod peers;
mod robust;
mod support;
mod systemd;
