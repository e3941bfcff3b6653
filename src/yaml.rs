//! The guarded YAML door. The only file that names the YAML crate.

use serde::de::DeserializeOwned;
pub use serde_yaml::Spanned;

/// Text that is not the YAML that was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{origin}:{line}:{column}: {text}")]
pub struct Error {
    /// What was read.
    pub origin: String,
    /// Line, from 1; 0 when unknown.
    pub line: u64,
    /// Column, from 1; 0 when unknown.
    pub column: u64,
    /// What is wrong.
    pub text: String,
}

/// Reads one document.
///
/// # Errors
/// With the position, if the parser knows it.
pub fn from_str<T: DeserializeOwned>(origin: &str, text: &str) -> Result<T, Error> {
    serde_yaml::from_str(text).map_err(|error| {
        let place = error.location();
        Error {
            origin: origin.to_owned(),
            line: place.map_or(0, |place| place.line()),
            column: place.map_or(0, |place| place.column()),
            text: error.without_snippet().to_string(),
        }
    })
}
