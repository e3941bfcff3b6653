//! House rules that no compiler checks, read from the sources: which way `use` arrows point, what the engine may not
//! name, how long a line and a file may be, and that documents name only what exists.
//!
//! Promises: a failure names file and line and says which rule it breaks. Must never: skip a file it cannot read.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a check that meets the unexpected has to stop at once"
)]

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/text.rs"]
mod text;

/// Fails with every finding, a line each.
#[track_caller]
fn nothing(findings: &[String]) {
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}
