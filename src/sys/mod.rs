//! What ports and data plane both need from the system: clocks, durable writes, rotated files, signals, logs, TLS, one
//! HTTP exchange, who holds a port, where names are looked up, what a group may read. Only declares.
//!
//! Must never: import anything of ours but `units`.

pub mod clock;
pub mod durable;
pub mod holder;
pub mod http;
pub mod log;
pub(crate) mod log_file;
pub mod names;
pub mod pem;
pub mod records;
#[cfg(feature = "isolation")]
pub mod share;
pub mod signal;
pub mod tls;
