//! What ports and data plane both need from the system: clocks, durable writes, signals, logs, TLS, one HTTP exchange.
//! Only declares.
//!
//! Must never: import anything of ours but `units`.

pub mod clock;
pub mod durable;
pub mod http;
pub mod log;
pub mod pem;
pub mod signal;
pub mod tls;
