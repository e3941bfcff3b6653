//! Given the data plane with a source of kernel events, on the kernel of this machine, as root,
//! when processes, connections and control groups come and go, the programs are flooded, or privileges are missing,
//! then every event is told with its fields, every loss is counted, and nothing stays behind in the kernel.
//!
//! Other tests run on the same kernel at the same time: every look is for what this test itself provoked.

mod attribution;
mod flood;
mod life;
mod object;
mod processes;
mod rig;
mod supervised;
mod tcp;
