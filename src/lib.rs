//! Adjutant, a supervisor for telemetry agents that speaks OpAMP.
//!
//! This library exists so that tests can link the parts; it promises no stable API and decides nothing.
//! The modules stand in reading order, lowest floor first. An arrow may only point to an earlier floor.

pub mod app;
mod authenticator;
pub mod cli;
pub mod config;
#[cfg(feature = "collect")]
pub mod dataplane;
#[cfg(feature = "dev-server")]
pub mod dev_server;
pub mod engine;
pub mod perform;
pub mod port;
mod registrar;
pub mod run;
pub mod sys;
mod telemetry;
pub mod units;
pub mod yaml;
