//! One config directory → one loaded revision: its config, its files, its hash.
//!
//! Promises: the directory's link is resolved once per load, so that one load never mixes two revisions; the number
//! and size of files is bounded; the hash is the one the supervisor wrote, or computed the same way without it.
//! Must never: write, or follow a symbolic link inside the directory.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::config::{self, Config, ConfigError, DEFAULT_CONFIG, FILE_NAME};
use crate::units::RevisionHash;

/// The proof marker that the supervisor generates: the revision's hash in 64 hexadecimal digits. Not part of the
/// hash itself.
pub const MARKER_NAME: &str = "adjutant.revision";

const FILES_MAX: usize = 1000;
const BYTES_MAX: u64 = 8 * 1024 * 1024;
const DEPTH_MAX: usize = 8;

/// A revision that can run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    /// What it says.
    pub(crate) config: Config,
    /// Its files by name, without the marker.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Its hash.
    pub(crate) revision: RevisionHash,
}

/// A revision that cannot run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoadError {
    /// Its hash, if that much could be read.
    pub(crate) revision: Option<RevisionHash>,
    /// Everything that is wrong with it.
    pub(crate) errors: Vec<ConfigError>,
}

impl LoadError {
    pub(super) fn one(revision: Option<RevisionHash>, file: &str, message: String) -> Self {
        let error = ConfigError {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message,
        };
        Self {
            revision,
            errors: vec![error],
        }
    }

    /// All errors, one line each.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<_> = self.errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

/// The built-in default.
pub(crate) fn built_in() -> Result<Loaded, LoadError> {
    let files = vec![(FILE_NAME.to_owned(), DEFAULT_CONFIG.as_bytes().to_vec())];
    resolve(files, None)
}

/// Loads a directory.
///
/// # Errors
/// The directory cannot be read, or its config is wrong.
pub(crate) fn load(dir: &Path) -> Result<Loaded, LoadError> {
    let name = dir.display().to_string();
    let unreadable =
        |error: io::Error| LoadError::one(None, &name, format!("cannot be read: {error}"));
    let resolved = fs::canonicalize(dir).map_err(unreadable)?;
    let mut files = Vec::new();
    let mut bytes_left = BYTES_MAX;
    walk(&resolved, "", 0, &mut files, &mut bytes_left).map_err(unreadable)?;
    files.sort();
    let marker = files
        .iter()
        .position(|(name, _)| name == MARKER_NAME)
        .map(|index| files.remove(index).1);
    let revision = match marker {
        None => None,
        Some(bytes) => {
            let hash = str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            let wrong = || {
                LoadError::one(
                    None,
                    MARKER_NAME,
                    "does not hold 64 hexadecimal digits".to_owned(),
                )
            };
            Some(hash.ok_or_else(wrong)?)
        }
    };
    resolve(files, revision)
}

fn resolve(
    files: Vec<(String, Vec<u8>)>,
    revision: Option<RevisionHash>,
) -> Result<Loaded, LoadError> {
    let revision = revision.unwrap_or_else(|| {
        RevisionHash::of(
            files
                .iter()
                .map(|(name, bytes)| (name.as_str(), "", bytes.as_slice())),
        )
    });
    let fail = |message: &str| LoadError::one(Some(revision), FILE_NAME, message.to_owned());
    let (_, bytes) = files
        .iter()
        .find(|(name, _)| name == FILE_NAME)
        .ok_or_else(|| fail("is missing in the config directory"))?;
    let text = str::from_utf8(bytes).map_err(|_| fail("is not UTF-8"))?;
    let config = config::parse(FILE_NAME, text).map_err(|errors| LoadError {
        revision: Some(revision),
        errors,
    })?;
    Ok(Loaded {
        config,
        files,
        revision,
    })
}

fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, Vec<u8>)>,
    bytes_left: &mut u64,
) -> io::Result<()> {
    let too_much = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if depth > DEPTH_MAX {
        return Err(too_much(format!(
            "more than {DEPTH_MAX} directories inside each other"
        )));
    }
    for entry in dir.read_dir()? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(too_much("a file name is not UTF-8".to_owned()));
        };
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            walk(
                &entry.path(),
                &format!("{name}/"),
                depth + 1,
                files,
                bytes_left,
            )?;
        }
        if !kind.is_file() {
            continue;
        }
        if files.len() >= FILES_MAX {
            return Err(too_much(format!("more than {FILES_MAX} files")));
        }
        let mut bytes = Vec::new();
        File::open(entry.path())?
            .take(*bytes_left + 1)
            .read_to_end(&mut bytes)?;
        *bytes_left = bytes_left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| too_much(format!("more than {BYTES_MAX} bytes")))?;
        files.push((name, bytes));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod testing {
    //! Writes config directories.

    use super::*;
    use std::io::Write as _;

    pub(in crate::dataplane) fn put(dir: &Path, name: &str, text: &str) {
        let mut file = File::create(dir.join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::testing::put;
    use super::*;

    #[test]
    fn the_hash_is_the_markers_or_that_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), FILE_NAME, "sources: {}\n");
        let plain = load(dir.path()).unwrap();
        assert_eq!(
            plain.revision,
            RevisionHash::of([(FILE_NAME, "", b"sources: {}\n".as_slice())])
        );

        let hash = "ab".repeat(32);
        put(dir.path(), MARKER_NAME, &format!("{hash}\n"));
        let marked = load(dir.path()).unwrap();
        assert_eq!(marked.revision.to_hex(), hash);
        assert_eq!(marked.files, plain.files);

        put(dir.path(), FILE_NAME, "sauces: {}\n");
        let error = load(dir.path()).unwrap_err();
        assert_eq!(error.revision.unwrap().to_hex(), hash);
        assert_eq!(
            error.text(),
            "collect.yaml:1:1: sauces: unknown key, did you mean \"sources\"?"
        );

        put(dir.path(), MARKER_NAME, "xyz");
        assert_eq!(
            load(dir.path()).unwrap_err().text(),
            "adjutant.revision: does not hold 64 hexadecimal digits"
        );
    }

    #[test]
    fn a_directory_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = load(dir.path()).unwrap_err().text();
        assert_eq!(text, "collect.yaml: is missing in the config directory");
        let text = load(Path::new("/nonexistent/x")).unwrap_err().text();
        assert!(
            text.starts_with("/nonexistent/x: cannot be read: "),
            "{text}"
        );
    }

    #[test]
    fn the_size_of_a_directory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("big"))
            .unwrap()
            .set_len(BYTES_MAX + 1)
            .unwrap();
        let text = load(dir.path()).unwrap_err().text();
        assert!(text.ends_with("more than 8388608 bytes"), "{text}");
    }
}
