//! The pure middle: `state + event → state + effects`.

pub(crate) mod lifecycle;
pub mod message;
pub mod random;
pub(crate) mod uplink;
