//! Reads a bundle from a directory, as `apply` and `validate` take it.
//!
//! Promises: regular files only, sorted by name, names relative with `/`; hidden files are left out; a link, a fifo
//! or a device is an error that names it, and so is too much of anything.
//! Must never: follow a link out of the directory, or judge what is in a file.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::units::order;

/// Files of one bundle.
const FILES_MAX: usize = 1000;
/// Directories below each other.
const DEPTH_MAX: usize = 8;
/// Bytes of all files; with JSON around it, more does not pass the control socket.
const BYTES_MAX: u64 = 12 * 1024 * 1024;

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Path below the directory.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A bundle that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The system refused.
    #[error("read {path}")]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither file nor directory.
    #[error("{path}: a bundle holds regular files only")]
    Kind {
        /// Which.
        path: PathBuf,
    },
    /// A name that is not UTF-8.
    #[error("{path}: the name is not UTF-8")]
    Name {
        /// Which.
        path: PathBuf,
    },
    /// Too much of something.
    #[error("{path}: a bundle holds at most {limit}")]
    Limit {
        /// The directory.
        path: PathBuf,
        /// Of what, with its number.
        limit: String,
    },
    /// Nothing at all.
    #[error("{path}: no files to apply")]
    Empty {
        /// The directory.
        path: PathBuf,
    },
}

/// Reads every file of a directory.
///
/// # Errors
/// The first thing that is not as a bundle should be.
pub fn read(directory: &Path) -> Result<Vec<BundleFile>, BundleError> {
    let mut reading = Reading {
        root: directory,
        files: Vec::new(),
        bytes: 0,
    };
    reading.directory(directory, 0)?;
    let mut files = reading.files;
    if files.is_empty() {
        return Err(BundleError::Empty {
            path: directory.to_owned(),
        });
    }
    order::sort_by(&mut files, |one, other| one.name.cmp(&other.name));
    Ok(files)
}

struct Reading<'a> {
    root: &'a Path,
    files: Vec<BundleFile>,
    bytes: u64,
}

impl Reading<'_> {
    fn directory(&mut self, directory: &Path, depth: usize) -> Result<(), BundleError> {
        if depth > DEPTH_MAX {
            return Err(self.limit(format!("{DEPTH_MAX} directories below each other")));
        }
        let failed = |source| BundleError::Read {
            path: directory.to_owned(),
            source,
        };
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(|source| BundleError::Read {
                path: path.clone(),
                source,
            })?;
            if kind.is_dir() {
                self.directory(&path, depth + 1)?;
            } else if kind.is_file() {
                self.file(&path)?;
            } else {
                return Err(BundleError::Kind { path });
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), BundleError> {
        if self.files.len() == FILES_MAX {
            return Err(self.limit(format!("{FILES_MAX} files")));
        }
        let name = path
            .strip_prefix(self.root)
            .ok()
            .and_then(Path::to_str)
            .ok_or_else(|| BundleError::Name {
                path: path.to_owned(),
            })?;
        let failed = |source| BundleError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let left = BYTES_MAX.saturating_sub(self.bytes);
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(left.saturating_add(1)).read_to_end(&mut bytes))
            .map_err(failed)?;
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        if read > left {
            return Err(self.limit(format!("{BYTES_MAX} bytes")));
        }
        self.bytes = self.bytes.saturating_add(read);
        self.files.push(BundleFile {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }

    fn limit(&self, limit: String) -> BundleError {
        BundleError::Limit {
            path: self.root.to_owned(),
            limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, create_dir_all};
    use std::io::Write as _;

    use super::*;

    fn put(path: &Path, text: &str) {
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn files_come_sorted_with_names_below_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(dir.path().join("b")).unwrap();
        put(&dir.path().join("b/c.yaml"), "c");
        put(&dir.path().join("a.yaml"), "a");
        put(&dir.path().join(".swp"), "x");
        let files = read(dir.path()).unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|file| (file.name.as_str(), file.bytes.as_slice()))
            .collect();
        assert_eq!(found, [("a.yaml", b"a".as_slice()), ("b/c.yaml", b"c")]);
    }

    #[test]
    fn what_is_not_a_bundle_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let said = |dir: &Path| read(dir).unwrap_err().to_string();
        assert!(said(dir.path()).ends_with("no files to apply"));
        assert!(said(&dir.path().join("gone")).starts_with("read "));
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(said(dir.path()).ends_with("link: a bundle holds regular files only"));
    }

    #[test]
    fn a_bundle_has_limits() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=FILES_MAX {
            put(&dir.path().join(format!("{number}")), "");
        }
        let error = read(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("at most 1000 files"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        create_dir_all(dir.path().join("a/a/a/a/a/a/a/a/a")).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(error.to_string().contains("8 directories"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("big")).unwrap();
        file.set_len(BYTES_MAX + 1).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("12582912 bytes"), "{error}");
    }
}
