//! Black-box tests of the executable, with real agents and real servers around it.
//!
//! Promises: one crate, so that linking happens once; each scenario file opens with given, when, then; a missing part is a
//! failure that says how to install it.
//! Must never: depend on order, on fixed ports, or on another test's files.

mod collector;
mod fleet;
mod peers;
