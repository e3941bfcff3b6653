//! Given the own data plane, alone or under `adjutant run` with its dev server, and real peers around it,
//! when configs are pushed, lines written, processes killed,
//! then what the peers have stored and what the server is told show what the data plane promises.

mod alone;
mod lines;
mod metrics;
mod otlp;
pub(crate) mod rig;
mod rollback;
