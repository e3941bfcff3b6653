//! What ports and data plane both need from the system.

pub mod durable;
