//! Flow-aware probation (feature `flow`): a config under which data stops to flow is no good config, however healthy
//! the program says it is.
//!
//! Promises: counters are read only where the profile says where they are and the settings want it; while a config is
//! committed what flows is remembered in bounded memory, and after a change it is compared. What nobody can tell
//! passes.
//! Must never: keep a config on probation for longer than its window asks for, or blame a config for what it cannot
//! have done.

mod judge;
mod meter;
mod shape;
mod watch;

pub(crate) use watch::{FlowWatch, Judged};

#[cfg(test)]
mod tests;
