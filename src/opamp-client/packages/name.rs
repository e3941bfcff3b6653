//! Which names of packages are taken from a server.
//!
//! Promises: an allowed name can be joined to a directory and stays in it, on every system.
//! Must never: mend a name. One that is refused is refused.

use crate::messages::PackageType;

/// Bytes of a name, as file systems bound them.
const NAME_MAX: usize = 255;

/// Whether a package may be called this. No name at all is for the one top-level package.
pub(super) fn is_allowed(name: &str, kind: PackageType) -> bool {
    if name.is_empty() {
        return kind == PackageType::TopLevel;
    }
    name.len() <= NAME_MAX
        // `.`, `..` and hidden files; a trailing dot or space is dropped by one system.
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && !name.chars().any(|char| char.is_control() || "/\\:*?\"<>|".contains(char))
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn names_that_look_like_paths_are_refused() {
        let allowed = |name: &str| is_allowed(name, PackageType::Addon);
        for name in [
            "otelcol",
            "otelcol-contrib_0.100+build",
            "ünïcode",
            "a b",
            "a..b",
        ] {
            assert!(allowed(name), "{name:?}");
        }
        let long = "x".repeat(256);
        for name in [
            "../../x",
            "..",
            ".",
            ".hidden",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "C:x",
            "a\0b",
            "a\nb",
            "trailing.",
            "trailing ",
            "",
            &long,
        ] {
            assert!(!allowed(name), "{name:?}");
        }
        assert!(is_allowed("", PackageType::TopLevel));
    }
}
