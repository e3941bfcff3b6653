//! The doors for people and machines: control socket, health, metrics, status, and the client of the control socket.
//!
//! Promises: mutates nothing. Every answer comes from the loop, asked over a bounded channel, so that an answer
//! proves that the loop is alive; a full channel or a late answer is a 503 that says so. Orders are taken on the Unix
//! socket only, from root and from our own user.
//! Must never: judge an order, keep state between requests, or bind anything but what the settings name.

use tokio::sync::{mpsc, oneshot};

use crate::engine::message::{Command, Reply};

pub(crate) mod base64;
pub mod client;
pub mod health;
mod metrics;
pub mod registration;
mod routes;
#[cfg(feature = "opampsupervisor")]
mod secured;
mod serve;
mod socket;
mod token;
pub mod wire;

#[cfg(test)]
pub(crate) mod testing;

#[cfg(feature = "telemetry")]
pub(crate) use metrics::page as metrics_page;
pub use serve::{Admin, BindError, Doors};
pub use socket::{SOCKET, SocketError};
pub use token::{Token, TokenError};

/// How many questions may wait for the loop; one more is answered 503 at once.
pub const QUEUE_MAX: usize = 64;

/// The largest body of a request or an answer: a bundle of the greatest size an offer may have, in JSON.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A question for the loop, and where its answer goes.
pub type Question = (Command, oneshot::Sender<Reply>);

/// Where questions go.
pub type Questions = mpsc::Sender<Question>;
