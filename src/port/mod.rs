//! What acts on the world for the engine: one port per thing outside. This file only declares them; ports do not
//! know each other.

pub mod admin;
pub mod bundle;
#[cfg(feature = "acme")]
pub(crate) mod cert;
pub mod child;
#[cfg(feature = "doctor")]
pub mod doctor;
pub mod events;
pub mod fetch;
pub mod host;
pub mod life;
pub mod link;
pub mod local;
pub mod logs;
pub mod notify;
pub mod probe;
pub mod store;
pub mod termination;
#[cfg(feature = "layers")]
pub(crate) mod watch;
