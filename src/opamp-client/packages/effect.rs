//! What a caller is asked to do, and what it answers.
//!
//! Must never: hold behaviour, or print what may be a secret.

use std::time::Duration;

use crate::messages::{Header, PackageType};

/// Names one piece of work. Never used twice by one [`super::Packages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// Work for the caller. Every effect but [`PackageEffect::Cancel`] is answered by [`super::Packages::handle_result`]
/// with its ticket.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum PackageEffect {
    /// Fetch a file by HTTP GET into a place of its own; answered by [`PackageResult::Downloaded`].
    /// The headers are for this host alone: after a redirect to another one they are left out.
    Download {
        /// The work.
        ticket: Ticket,
        /// Package it is for.
        name: String,
        /// Where from; `http` or `https`.
        url: String,
        /// What the request must carry, values included. Secrets: never to be logged.
        headers: Vec<Header>,
        /// The try before this one, whose partial file may be continued.
        continues: Option<Ticket>,
    },
    /// Verify the downloaded file with a key from the local settings; answered by [`PackageResult::Verified`].
    Verify {
        /// The work; it names the download too.
        ticket: Ticket,
        /// Package it is for.
        name: String,
        /// What the server sent as signature; how it is made is between the caller and its server.
        signature: Vec<u8>,
    },
    /// Put the downloaded file in place of what is there; answered by [`PackageResult::Installed`]. If it fails, the
    /// old one must be there as before.
    Install {
        /// The work; it names the download too.
        ticket: Ticket,
        /// Package it is for.
        name: String,
        /// Its version, for people.
        version: String,
        /// Top level or addon.
        kind: PackageType,
    },
    /// Remove an installed package; answered by [`PackageResult::Removed`].
    Remove {
        /// The work.
        ticket: Ticket,
        /// The package.
        name: String,
    },
    /// The work is not wanted any more: stop it and delete what it downloaded. Not answered; an answer that is under
    /// way already is ignored.
    Cancel {
        /// Whose.
        ticket: Ticket,
    },
}

impl PackageEffect {
    /// The work it belongs to.
    pub fn ticket(&self) -> Ticket {
        match self {
            Self::Download { ticket, .. }
            | Self::Verify { ticket, .. }
            | Self::Install { ticket, .. }
            | Self::Remove { ticket, .. }
            | Self::Cancel { ticket } => *ticket,
        }
    }
}

// Neither headers nor URLs belong into a log.
impl std::fmt::Debug for PackageEffect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, name) = match self {
            Self::Download { name, .. } => ("Download", Some(name)),
            Self::Verify { name, .. } => ("Verify", Some(name)),
            Self::Install { name, .. } => ("Install", Some(name)),
            Self::Remove { name, .. } => ("Remove", Some(name)),
            Self::Cancel { .. } => ("Cancel", None),
        };
        f.debug_struct(word)
            .field("ticket", &self.ticket().0)
            .field("name", &name)
            .finish_non_exhaustive()
    }
}

/// How a piece of work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PackageResult {
    /// The file is there, whole; nobody else can change it.
    Downloaded {
        /// SHA-256 of the file as it lies there.
        sha256: [u8; 32],
    },
    /// The signature is right.
    Verified,
    /// The package runs, or will from its next start.
    Installed,
    /// It is gone.
    Removed,
    /// Not done.
    Failed(PackageFailure),
}

/// Why work was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFailure {
    /// For people at the server; cut to 1 KiB and made printable. No secrets.
    pub message: String,
    /// Whether the same might work later: a network that is down, a full disk.
    pub transient: bool,
    /// How long the file's server asks to wait.
    pub retry_after: Option<Duration>,
}

impl PackageFailure {
    /// It will not work later either.
    pub fn lasting(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            transient: false,
            retry_after: None,
        }
    }

    /// It might work later.
    pub fn transient(message: impl Into<String>) -> Self {
        Self {
            transient: true,
            ..Self::lasting(message)
        }
    }
}

/// A package as the caller found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPackage {
    /// Its version, for people.
    pub version: String,
    /// Its package hash, if it has one from a server.
    pub hash: Vec<u8>,
    /// SHA-256 of its file, or empty; an offer of the same file is then taken over without a download.
    pub content_hash: Vec<u8>,
    /// Top level or addon.
    pub kind: PackageType,
}
