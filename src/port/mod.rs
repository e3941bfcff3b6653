//! The ports: everything that touches the world, one file or directory per piece of it. Only declares.
//!
//! Must never: let one port know another.

pub mod admin;
