//! The data plane: `adjutant collect`. Sources → bounded queues → uploads, reloaded by HUP with proof.

mod book;
mod collect;
mod config;
mod health;
mod record;
