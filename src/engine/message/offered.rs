//! Offered connection settings on their way to a connection.
//!
//! Promises: a build without them (feature `connection`) has a type that nobody can have a value of.
//! Must never: look into them.

#[cfg(feature = "connection")]
pub use opamp_client::settings::Offered;

/// Settings that a server offered; none are taken in this build.
#[cfg(not(feature = "connection"))]
#[derive(Debug, Clone, PartialEq)]
pub enum Offered {}
