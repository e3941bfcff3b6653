//! What ports and data plane both need from the system: clocks, log set-up, TLS roots. Only declares.
//!
//! Must never: import anything of ours but `units`.

pub mod clock;
pub mod signal;
