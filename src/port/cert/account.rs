//! The account at an authority: made once, kept for its owner alone.
//!
//! Promises: one file per authority, written durably before the account is used; a damaged one is answered by a new
//! account, which costs nothing. The file is read and written off the loop.
//! Must never: use one authority's account at another.

use std::path::{Path, PathBuf};

use instant_acme::{Account, AccountCredentials, Error, NewAccount};
use serde::{Deserialize, Serialize};

use super::client::{Failure, Wire};
use crate::config::Acme;
use crate::sys::durable::{DIR_MODE, Disk as _, FILE_MODE, Kind, RealDisk, write_durable};
use crate::units::RevisionHash;

const FORMAT: u64 = 1;
const BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
struct AccountFile {
    format: u64,
    directory: String,
    account: AccountCredentials,
}

/// The kept account, or a new one.
pub(super) async fn open(directory: &Path, acme: &Acme, wire: &Wire) -> Result<Account, Error> {
    let path = path(directory, acme);
    let url = acme.directory.clone();
    let kept = blocking(move || {
        let bytes = RealDisk.read(&path, BYTES_MAX).ok()?;
        let file: AccountFile = serde_json::from_slice(&bytes).ok()?;
        (file.format == FORMAT && file.directory == url).then_some(file.account)
    })
    .await?;
    match kept {
        Some(credentials) => {
            let builder = Account::builder_with_http(Box::new(wire.clone()));
            builder.from_credentials(credentials).await
        }
        None => create(directory, acme, wire).await,
    }
}

/// A new account, in place of a kept one.
pub(super) async fn create(directory: &Path, acme: &Acme, wire: &Wire) -> Result<Account, Error> {
    let contact: Vec<&str> = acme.contact.as_deref().into_iter().collect();
    let wanted = NewAccount {
        contact: &contact,
        // The settings are not acceptable without.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let builder = Account::builder_with_http(Box::new(wire.clone()));
    let (account, credentials) = builder
        .create(&wanted, acme.directory.clone(), None)
        .await?;
    let file = AccountFile {
        format: FORMAT,
        directory: acme.directory.clone(),
        account: credentials,
    };
    let bytes = serde_json::to_vec(&file)?;
    let (directory, path) = (directory.to_owned(), path(directory, acme));
    let shown = path.display().to_string();
    let written = blocking(move || {
        if RealDisk.kind(&directory)? == Kind::Absent {
            RealDisk.create_dir(&directory, DIR_MODE)?;
            RealDisk.sync_dir(directory.parent().unwrap_or_else(|| Path::new("/")))?;
        }
        write_durable(&RealDisk, &path, &bytes, FILE_MODE)
    });
    written.await?.map_err(|error| {
        let reason = format!("write {shown}: {error}");
        Error::Other(Box::new(Failure::unreached(reason)))
    })?;
    Ok(account)
}

fn path(directory: &Path, acme: &Acme) -> PathBuf {
    let hash = RevisionHash::of([("directory", "", acme.directory.as_bytes())]);
    let short: String = hash.to_hex().chars().take(8).collect();
    directory.join(format!("account-{short}.json"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Other(Box::new(error)))
}
