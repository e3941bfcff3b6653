//! What the protocol asks of a client, shown from outside: the crate's own `Client` over real sockets against a server
//! that stalls, lies, cuts and floods as it is told. Each scenario is played over every transport that it binds.
//!
//! The server shares no code with the crate: WebSocket frames, HTTP and protobuf are read by hand in `server.rs` and
//! `wire.rs`. What has to hold in every run is checked by `Run::finish` in `run.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking"
)]

mod run;
mod server;
mod wire;

mod connection;
mod hostile;
mod idle;
mod life;
mod orders;
mod state;
