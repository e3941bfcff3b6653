//! What acts on the world for the engine. Only declares; ports do not know each other.

pub mod child;
pub mod probe;
