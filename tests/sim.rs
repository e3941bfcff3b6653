//! Simulation: the product's own code on a disk that forgets, under seeds that are printed and replayable.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a simulation that meets the unexpected has to stop at once"
)]

#[path = "sim/adopt.rs"]
mod adopt;
#[path = "sim/authority.rs"]
mod authority;
#[path = "sim/certs.rs"]
mod certs;
#[path = "sim/connection.rs"]
mod connection;
#[path = "sim/coverage.rs"]
mod coverage;
#[path = "sim/disk.rs"]
mod disk;
#[path = "sim/disk_model.rs"]
mod disk_model;
#[path = "sim/histories.rs"]
mod histories;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/life.rs"]
mod life;
#[path = "sim/offers.rs"]
mod offers;
#[path = "sim/order.rs"]
mod order;
#[path = "sim/registration.rs"]
mod registration;
#[path = "sim/remains.rs"]
mod remains;
#[path = "sim/store.rs"]
mod store;
#[path = "sim/world.rs"]
mod world;
