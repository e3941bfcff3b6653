//! The token that opens a door which is not on loopback.
//!
//! Promises: only its digest is kept, and comparing takes the same time whatever is presented; a file that is empty, or
//! that everybody on the host can read, is refused by name.
//! Must never: print a token, or take one from a URL.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::base64;

/// Bytes of a token file that are read; one more is too many.
const BYTES_MAX: u64 = 4096;
/// Characters below which a token can be guessed.
const LENGTH_MIN: usize = 16;
/// Read by others: the rest of the world.
const OTHERS: u32 = 0o007;

/// A token, as its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The system refused.
    #[error("read the token file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anybody can read it.
    #[error(
        "the token file {path} is open to everybody on this host (mode {mode:04o}); chmod 0640 or less"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds no token.
    #[error(
        "the token file {path} holds {found} characters; a token has {LENGTH_MIN} to {BYTES_MAX}, on one line"
    )]
    Length {
        /// Which.
        path: PathBuf,
        /// How many characters it holds.
        found: usize,
    },
}

impl Token {
    /// Reads a token from a file; blanks around it do not count.
    ///
    /// # Errors
    /// The file cannot be read, everybody can read it, or it holds nothing that could be a token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let path = path.to_owned();
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| {
            let mode = file.metadata()?.mode() & 0o7777;
            file.take(BYTES_MAX + 1).read_to_string(&mut text)?;
            Ok(mode)
        });
        let mode = match read {
            Ok(mode) => mode,
            Err(source) => return Err(TokenError::Read { path, source }),
        };
        if mode & OTHERS != 0 {
            return Err(TokenError::Open { path, mode });
        }
        let text = text.trim();
        let found = text.chars().count();
        if found < LENGTH_MIN || text.len() as u64 > BYTES_MAX || text.contains(char::is_whitespace)
        {
            return Err(TokenError::Length { path, found });
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether an `Authorization` header presents it: as a bearer, or as the password that a browser asks for.
    pub(crate) fn is_in(&self, header: &str) -> bool {
        let Some((scheme, presented)) = header.split_once(' ') else {
            return false;
        };
        let presented = presented.trim();
        let password;
        let presented = if scheme.eq_ignore_ascii_case("bearer") {
            presented.as_bytes()
        } else if scheme.eq_ignore_ascii_case("basic") {
            let Some(pair) = base64::decode(presented) else {
                return false;
            };
            password = pair;
            let colon = password.iter().position(|byte| *byte == b':');
            colon
                .and_then(|colon| password.get(colon + 1..))
                .unwrap_or_default()
        } else {
            return false;
        };
        let digest: [u8; 32] = Sha256::digest(presented).into();
        digest
            .iter()
            .zip(self.0)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    fn put(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        RealDisk.write_file(&path, text.as_bytes(), mode).unwrap();
        (dir, path)
    }

    #[test]
    fn a_token_opens_as_bearer_and_as_password_and_nothing_else_does() {
        let (_dir, path) = put("0123456789abcdef\n", 0o600);
        let token = Token::read(&path).unwrap();
        let basic = |pair: &str| format!("Basic {}", base64::encode(pair.as_bytes()));
        for good in [
            "Bearer 0123456789abcdef".to_owned(),
            "bearer  0123456789abcdef ".to_owned(),
            basic("anybody:0123456789abcdef"),
            basic(":0123456789abcdef"),
        ] {
            assert!(token.is_in(&good), "{good}");
        }
        for bad in [
            String::new(),
            "0123456789abcdef".to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            "Bearer 0123456789abcdeF".to_owned(),
            "Bearer 0123456789abcdef0".to_owned(),
            "Digest 0123456789abcdef".to_owned(),
            basic("0123456789abcdef"),
            basic("0123456789abcdef:"),
            "Basic ???".to_owned(),
        ] {
            assert!(!token.is_in(&bad), "{bad}");
        }
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn a_file_that_cannot_be_a_secret_is_refused_by_name() {
        let said = |text: &str, mode: u32| {
            let (_dir, path) = put(text, mode);
            let error = Token::read(&path).unwrap_err();
            error
                .to_string()
                .replace(&path.display().to_string(), "FILE")
        };
        assert_eq!(
            said("0123456789abcdef", 0o644),
            "the token file FILE is open to everybody on this host (mode 0644); chmod 0640 or less"
        );
        for text in ["", "\n", "short", "0123456789 abcdef"] {
            assert!(said(text, 0o600).contains("characters; a token has 16 to 4096"));
        }
        assert!(said(&"x".repeat(5000), 0o600).contains("4097 characters"));
        let missing = Token::read(Path::new("/nonexistent/token")).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "read the token file /nonexistent/token"
        );
    }
}
