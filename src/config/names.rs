//! Where offered entries go inside a revision, decided from their names and sizes alone.
//!
//! Promises: a placed name is a relative path of plain segments below the revision, no two entries share a
//! file, and nothing is a file and a directory at once; counts and bytes stay inside the limits. All refusals
//! come together, bounded.
//! Must never: touch a disk, or repair a name: a server that sends `a/../b` is told so, not second-guessed.

use std::collections::BTreeMap;

use super::OfferLimits;

/// Bytes of a whole name. A file name on Linux holds 255 bytes; the revision adds nothing to it.
pub const NAME_BYTES_MAX: usize = 200;
/// Segments of a name.
pub const DEPTH_MAX: usize = 4;
/// What the store writes beside the files of a revision.
pub const RESERVED: &str = "manifest.json";
/// Refusals listed of one offer; more tell the reader nothing new.
const REFUSALS_MAX: usize = 20;

/// Why a name is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters.
    #[error("the name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("the name is longer than {NAME_BYTES_MAX} bytes")]
    Long,
    /// Begins with `/`.
    #[error("the name is an absolute path")]
    Absolute,
    /// NUL, a line break, or another control character.
    #[error("the name holds a control character")]
    Control,
    /// `\`, which other systems read as `/`.
    #[error("the name holds a backslash")]
    Backslash,
    /// `.` or `..`.
    #[error("the name walks through `.` or `..`")]
    Walks,
    /// A segment begins with `.`; the revision keeps its own notes under such names.
    #[error("a part of the name begins with a dot")]
    Hidden,
    /// `a//b` or `a/`.
    #[error("a part of the name is empty")]
    Gap,
    /// The name of the store's own note beside the files of a revision.
    #[error("the name {RESERVED:?} is taken by the revision's own manifest")]
    Reserved,
    /// More than [`DEPTH_MAX`] segments.
    #[error("the name is more than {DEPTH_MAX} directories deep")]
    Deep,
}

/// Checks one name.
///
/// # Errors
/// The first rule it breaks.
pub fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::Long);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    if name.contains('\\') {
        return Err(NameError::Backslash);
    }
    if name.starts_with('/') {
        return Err(NameError::Absolute);
    }
    for part in name.split('/') {
        match part {
            "" => return Err(NameError::Gap),
            "." | ".." => return Err(NameError::Walks),
            _ if part.starts_with('.') => return Err(NameError::Hidden),
            _ => {}
        }
    }
    if name == RESERVED {
        return Err(NameError::Reserved);
    }
    if name.split('/').count() > DEPTH_MAX {
        return Err(NameError::Deep);
    }
    Ok(())
}

/// One entry of an offer and the file it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed<'a> {
    /// The key in the offer.
    pub key: &'a str,
    /// The path below the revision.
    pub file: String,
}

/// Places the entries of an offer, given as key and byte count, in their order. An empty key becomes `main_file`.
///
/// # Errors
/// One sentence for each entry that cannot be placed and each limit that is exceeded.
pub fn place_files<'a>(
    entries: impl IntoIterator<Item = (&'a str, u64)>,
    main_file: &str,
    limits: OfferLimits,
) -> Result<Vec<Placed<'a>>, Vec<String>> {
    let mut refusals = Vec::new();
    let mut placed: Vec<Placed<'a>> = Vec::new();
    let mut owners: BTreeMap<String, &'a str> = BTreeMap::new();
    let (mut count, mut total) = (0usize, 0u64);
    for (key, bytes) in entries {
        count += 1;
        total = total.saturating_add(bytes);
        // Names beyond the count limit are not even looked at: ten thousand of them get one sentence.
        if count > limits.files {
            continue;
        }
        let file = if key.is_empty() { main_file } else { key };
        if let Err(reason) = check(file) {
            refusals.push(format!("file {}: {reason}", shown(key)));
            continue;
        }
        if bytes > limits.file_bytes {
            let limit = limits.file_bytes;
            refusals.push(format!(
                "file {}: {bytes} bytes; the limit is {limit}",
                shown(key)
            ));
            continue;
        }
        if let Some(other) = owners.insert(file.to_owned(), key) {
            refusals.push(format!(
                "file {}: the entry {} is the same file",
                shown(key),
                shown(other)
            ));
            continue;
        }
        placed.push(Placed {
            key,
            file: file.to_owned(),
        });
    }
    for file in owners.keys() {
        let parents = file.match_indices('/').filter_map(|(at, _)| file.get(..at));
        for parent in parents.filter(|parent| owners.contains_key(*parent)) {
            refusals.push(format!(
                "file {}: {} is a file, not a directory",
                shown(file),
                shown(parent)
            ));
        }
    }
    if count > limits.files {
        refusals.push(format!("{count} files; the limit is {}", limits.files));
    }
    if total > limits.total_bytes {
        refusals.push(format!(
            "{total} bytes in all files; the limit is {}",
            limits.total_bytes
        ));
    }
    if refusals.is_empty() {
        return Ok(placed);
    }
    let more = refusals.len().saturating_sub(REFUSALS_MAX);
    if more > 0 {
        refusals.truncate(REFUSALS_MAX);
        refusals.push(format!("and {more} more"));
    }
    Err(refusals)
}

/// A hostile name made fit to print: short, quoted, control characters escaped.
fn shown(key: &str) -> String {
    let short: String = key.chars().take(60).collect();
    let rest = if short.len() < key.len() { "…" } else { "" };
    format!("{short:?}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: OfferLimits = OfferLimits {
        files: 5,
        file_bytes: 100,
        total_bytes: 250,
    };

    #[test]
    fn hostile_names_are_refused_each_for_its_reason() {
        let long = "x".repeat(300);
        let cases = [
            ("../x", NameError::Walks),
            ("/etc/x", NameError::Absolute),
            ("a/../../b", NameError::Walks),
            ("a\0b", NameError::Control),
            ("a\nb", NameError::Control),
            ("a\u{85}b", NameError::Control),
            (&long, NameError::Long),
            (".", NameError::Walks),
            ("..", NameError::Walks),
            ("a/.", NameError::Walks),
            (".hidden", NameError::Hidden),
            ("a/.hidden", NameError::Hidden),
            ("a\\b", NameError::Backslash),
            ("..\\x", NameError::Backslash),
            ("a//b", NameError::Gap),
            ("a/", NameError::Gap),
            ("a/b/c/d/e", NameError::Deep),
            ("manifest.json", NameError::Reserved),
            ("", NameError::Empty),
        ];
        for (name, wanted) in cases {
            assert_eq!(check(name), Err(wanted), "{name:?}");
        }
        for name in [
            "config.yaml",
            "a/b/c/d",
            "name with space",
            "é.yaml",
            "a..b",
            "-x",
        ] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn an_empty_key_is_the_main_file_and_order_is_kept() {
        let placed = place_files([("b", 1), ("", 2), ("d/a", 3)], "main.yaml", LIMITS).unwrap();
        let pairs: Vec<_> = placed.iter().map(|p| (p.key, p.file.as_str())).collect();
        assert_eq!(pairs, [("b", "b"), ("", "main.yaml"), ("d/a", "d/a")]);
        assert_eq!(place_files([], "main.yaml", LIMITS), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_placed_is_refused_in_one_go() {
        let refused = |entries: &[(&'static str, u64)]| {
            place_files(entries.iter().copied(), "main.yaml", LIMITS).unwrap_err()
        };
        assert_eq!(
            refused(&[("", 1), ("main.yaml", 1)]),
            ["file \"main.yaml\": the entry \"\" is the same file"]
        );
        assert_eq!(
            refused(&[("a", 1), ("a/b", 1)]),
            ["file \"a/b\": \"a\" is a file, not a directory"]
        );
        assert_eq!(
            refused(&[("../x", 1), ("big", 101), ("c", 100), ("d", 100)]),
            [
                "file \"../x\": the name walks through `.` or `..`",
                "file \"big\": 101 bytes; the limit is 100",
                "302 bytes in all files; the limit is 250",
            ]
        );
        assert_eq!(
            refused(&[("a\0\u{1b}[31m", 1)]),
            ["file \"a\\0\\u{1b}[31m\": the name holds a control character"]
        );
    }

    #[test]
    fn ten_thousand_files_get_one_sentence() {
        let names: Vec<String> = (0..10_000).map(|i| format!("../{i}")).collect();
        let limits = OfferLimits {
            files: 64,
            ..LIMITS
        };
        let refusals = place_files(names.iter().map(|n| (n.as_str(), 0)), "m", limits).unwrap_err();
        assert_eq!(refusals.len(), 21);
        assert_eq!(refusals.last().unwrap(), "and 45 more");
    }

    proptest::proptest! {
        #[test]
        fn a_placed_name_stays_below_the_revision(name in "[a./\\\\ \0]{0,12}") {
            if let Ok(placed) = place_files([(name.as_str(), 0)], "main", LIMITS) {
                let path = std::path::Path::new("/r").join(&placed[0].file);
                assert!(path.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                assert!(path.starts_with("/r") && path != std::path::Path::new("/r"));
            }
        }
    }
}
