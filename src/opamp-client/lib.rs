//! The agent side of OpAMP: messages, framing, back-off, a session that owns neither socket nor clock, and (feature
//! `tokio`) a transport that moves its frames.
//!
//! Read in this order: [`messages`] (the schema), [`frame`] (bytes in, message or error out), [`backoff`] (when to try
//! again), [`session`] (what to say and what was meant), `transport` (how the bytes travel), `settings` (connection
//! settings that a server offers: checked, tried, kept or undone).
//!
//! Must never: know about supervisors, read a clock, a file or the environment by itself, or panic on what a peer
//! sends.

pub mod backoff;
pub mod frame;
pub mod messages;
pub mod session;
#[cfg(feature = "tokio")]
pub mod settings;
#[cfg(feature = "tokio")]
pub mod transport;

pub use backoff::{Backoff, BackoffConfig};
pub use frame::{FrameError, FrameRules, HeaderRule};
pub use session::{ConfigError, CustomMessageError, Session, SessionConfig, SessionEvent};
