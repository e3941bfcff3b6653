//! The agent side of OpAMP: messages, framing, back-off, a session that owns neither socket nor clock, and (feature
//! `tokio`) a transport that moves its frames.
//!
//! Read in this order: [`messages`] (the schema), [`frame`] (bytes in, message or error out), [`backoff`] (when to try
//! again), [`session`] (what to say and what was meant), [`packages`] (what to fetch, install, remove), `transport`
//! (how the bytes travel), `settings` (connection settings that a server offers: checked, tried, kept or undone).
//!
//! Must never: know about supervisors, read a clock, a file or the environment by itself, or panic on what a peer
//! sends.
//!
//! # A session by hand
//!
//! ```
//! use std::time::Duration;
//!
//! use opamp_client::messages::{AgentCapabilities, AgentRemoteConfig, ServerToAgent};
//! use opamp_client::messages::{RemoteConfigStatus, RemoteConfigStatuses};
//! use opamp_client::{Session, SessionConfig, SessionEvent, frame};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let capabilities = AgentCapabilities::AcceptsRemoteConfig.bit()
//!     | AgentCapabilities::ReportsRemoteConfig.bit();
//! let mut session = Session::new(SessionConfig::new([7; 16], capabilities))?;
//! let now = Duration::ZERO;
//! session.handle_connected(now);
//! assert!(session.poll_transmit(now).is_some(), "a status report comes first");
//!
//! // The server offers a configuration.
//! let offer = AgentRemoteConfig {
//!     config_hash: b"v1".to_vec(),
//!     ..AgentRemoteConfig::default()
//! };
//! let message = ServerToAgent {
//!     remote_config: Some(offer.clone()),
//!     ..ServerToAgent::default()
//! };
//! session.handle_frame(now, &frame::encode(&message, 1 << 20)?)?;
//! assert_eq!(session.poll_event(), Some(SessionEvent::RemoteConfig(offer)));
//!
//! // What became of it is state; that it changed is what the next message says.
//! session.set_remote_config_status(RemoteConfigStatus {
//!     last_remote_config_hash: b"v1".to_vec(),
//!     status: RemoteConfigStatuses::Failed as i32,
//!     error_message: "it has no config".to_owned(),
//! });
//! assert!(session.poll_transmit(now).is_some());
//! assert!(session.poll_transmit(now).is_none(), "said once");
//! # Ok(())
//! # }
//! ```
//!
//! With feature `tokio`, `transport::Client` does all of that over a real connection. Interface and messages follow
//! semantic versioning; `#[non_exhaustive]` marks enums that are expected to grow, and structs of settings and messages
//! are to be built by `new` or with `..Default::default()`.

pub mod backoff;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
pub mod messages;
pub mod packages;
pub mod session;
#[cfg(feature = "tokio")]
pub mod settings;
#[cfg(feature = "tokio")]
pub mod transport;

pub use backoff::{Backoff, BackoffConfig};
pub use frame::{FrameError, FrameRules, HeaderRule};
pub use session::{ConfigError, CustomMessageError, Session, SessionConfig, SessionEvent};

/// The examples of the README are compiled and run too.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("README.md")]
struct Readme;
