//! The pure middle: `state + event → state + effects`.

pub mod message;
