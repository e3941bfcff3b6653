//! What ports and data plane both need from the system: clocks, durable writes, signals, log set-up, TLS roots, who holds a port.
//! Only declares.
//!
//! Must never: import anything of ours but `units`.

pub mod clock;
pub mod durable;
pub mod holder;
pub mod log;
pub mod signal;
pub mod tls;
