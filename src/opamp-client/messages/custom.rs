//! Names of custom capabilities.
//!
//! Promises: a list that was built here has names of the form that the protocol asks for.
//! Must never: judge the names of a peer; those are heard as they are.

use super::CustomCapabilities;

/// Bytes of a name; as long as a host name may be.
const NAME_MAX: usize = 255;

/// A name that is not the reverse of a domain with a name behind it, optionally with `/v` and a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("custom capability {name:?} is not of the form org.example.name or org.example.name/v1")]
pub struct CustomNameError {
    /// The name, cut to 255 bytes.
    pub name: String,
}

impl CustomCapabilities {
    /// A list of the agent's own names.
    ///
    /// # Errors
    /// [`CustomNameError`] names the first that has another form.
    pub fn named<N: Into<String>>(
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, CustomNameError> {
        let capabilities: Vec<String> = names.into_iter().map(Into::into).collect();
        match capabilities.iter().find(|name| !is_custom_name(name)) {
            Some(name) => Err(CustomNameError {
                name: name.chars().take(NAME_MAX / 4).collect(),
            }),
            None => Ok(Self { capabilities }),
        }
    }
}

/// `org.example.name`, three labels at least, and perhaps `/v2`.
fn is_custom_name(name: &str) -> bool {
    let (labels, version) = match name.split_once('/') {
        Some((labels, version)) => (labels, Some(version)),
        None => (name, None),
    };
    let is_version = |version: &str| {
        version.strip_prefix('v').is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= NAME_MAX
        && version.is_none_or(is_version)
        && labels.split('.').count() >= 3
        && labels.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn names_are_reversed_domains_with_a_name() {
        for name in [
            "io.opentelemetry.teapot",
            "org.example.a_b-c/v12",
            "com.example.x.y/v1",
        ] {
            let list = CustomCapabilities::named([name]).unwrap();
            assert_eq!(list.capabilities, [name]);
        }
        let long = format!("org.example.{}", "x".repeat(255));
        for name in [
            "",
            "echo",
            "org.example",
            "org..x",
            ".org.example.x",
            "org.example.x.",
            "org.example.x/",
            "org.example.x/2",
            "org.example.x/v",
            "org.example.x/v1/v2",
            "org.example.-x",
            "org.exa mple.x",
            &long,
        ] {
            let error = CustomCapabilities::named(["org.example.good", name]).unwrap_err();
            assert!(name.starts_with(&error.name), "{error}");
        }
    }
}
