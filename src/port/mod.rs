//! One port per thing outside; this file only declares them.

pub mod store;
