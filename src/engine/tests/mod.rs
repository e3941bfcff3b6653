//! One engine from outside: what a disk, a child and a server see of it. Each test is named after a symptom that
//! somebody would have met.

mod fallback;
mod flow;
mod handover;
mod inherited;
mod layers;
mod losses;
mod only_config;
mod own_telemetry;
mod page;
mod report;
mod rig;
mod same_again;
mod scenes;
mod starts;
mod stories;
mod story;
mod turn;
mod watched;
mod words;
