//! How the bytes travel: dialling (TCP, TLS, proxies, Unix sockets), the WebSocket handshake on both sides, and the
//! pump that moves frames over an established connection.
//!
//! Promises: nothing here knows what a frame means; every wait has a deadline, every buffer a bound, and no task is
//! spawned. [`Client`] joins a [`crate::session::Session`] with all this for embedders that want no loop of their own.
//! Must never: read the environment (proxies are values), retry by itself (delays are [`crate::backoff`]'s, policy
//! is the caller's), or fall back to unverified TLS.
//!
//! The tokio I/O traits are the one foreign thing in this interface; everything else is ours, `http` or std.

mod accept;
mod client;
mod date;
mod dial;
#[cfg(feature = "polling")]
mod exchange;
#[cfg(feature = "polling")]
mod poll;
mod proxy;
mod pump;
mod race;
mod redirect;
mod socket;
mod socks;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use accept::{AcceptError, AcceptRules, accept};
pub use client::{
    Change, Client, ClientConfig, ClientEvent, ClientHandle, SettingsAnswer, SettingsStart, Stopped,
};
pub(crate) use date::days_from_civil;
pub use date::retry_after;
pub use dial::{DialClass, DialError, DialOptions, connect, dial};
pub use proxy::ProxyRules;
pub use pump::{
    Closed, ClosedBy, ClosedClass, FrameReceiver, FrameSender, LinkClosed, Permit, Pump,
    PumpConfig, SendError,
};
pub use socket::{Connection, RequestHead};
pub use target::{Target, TargetError};
pub(crate) use target::{checked_connect_header, checked_header};
pub(crate) use tls::check as check_tls;
pub use tls::{ClientCertificate, Curve, CurveError, TlsOptions, TlsVersion, TlsVersionError};
