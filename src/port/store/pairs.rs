//! `certificates/`: key pairs, the link to the live one of each certificate, and what was tried.
//!
//! Promises: `<name>/current` names a whole pair at every moment, or nothing before the first: a pair is written and
//! synced beside the others under a name that nobody looks for, gets its own name by one rename, and becomes live by
//! another; a pair that was looked at and refused is never visible. Keys are for their owner alone. Older pairs stay a
//! while, so that a config that goes back to an older domain needs no new order.
//! Must never: remove the live pair, or let anybody see a chain beside another's key.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fault::fault_of;
use super::layout::{FORMAT, SMALL_BYTES_MAX};
use super::pair;
use super::wire::{self, Unreadable};
use crate::engine::message::{
    Attempts, CertificateDone, CertificateFault, CertificateFaultKind, CertificateWork, Pair,
    PairId, PemPair, StoredPairs,
};
use crate::sys::durable::{
    DIR_MODE, Disk, FILE_MODE, Kind, remove_tree, swap_link, temporary_name, write_durable,
};
use crate::units::{CertificateName, Domain, Secret, WallTime, order};

/// The chain, leaf first.
pub const CHAIN_FILE: &str = "fullchain.pem";
/// The key.
pub const KEY_FILE: &str = "key.pem";
/// The link to the live pair.
pub const CURRENT: &str = "current";
const ATTEMPTS: &str = "attempts.json";
const STAGING: &str = ".staging-";
const TRASH: &str = ".trash-";
/// Bound of a chain or key.
const PEM_BYTES_MAX: u64 = 256 * 1024;
/// Pairs that stay beside the live one.
const SPARE_MAX: usize = 3;
/// Other names for a pair whose own is taken by a damaged one.
const NAMES_MAX: u32 = 8;

/// Reads and writes the pairs of all certificates.
#[derive(Debug)]
pub struct PairStore<D> {
    disk: D,
    root: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct AttemptsFile {
    format: u64,
    attempts: Vec<WireAttempts>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireAttempts {
    domains: Vec<String>,
    begun_ms: Vec<u64>,
    failures: u32,
    not_before_ms: Option<u64>,
    #[serde(default)]
    asked_to_wait: bool,
    #[serde(default)]
    last_error: String,
}

type Done<T> = Result<T, CertificateFault>;

impl<D: Disk> PairStore<D> {
    /// The pairs below the state directory `state`. Nothing is read or made yet.
    pub fn new(disk: D, state: &Path) -> Self {
        Self {
            disk,
            root: state.join("certificates"),
        }
    }

    /// The link that names the live pair of a certificate.
    pub fn current(&self, name: &CertificateName) -> PathBuf {
        self.directory(name).join(CURRENT)
    }

    /// Does one piece of work; it is durable when this returns. `now` judges validity.
    ///
    /// # Errors
    /// What was tried, on what, and why not; the live pair is what it was.
    pub fn perform(
        &mut self,
        name: &CertificateName,
        work: CertificateWork,
        now: WallTime,
    ) -> Done<CertificateDone> {
        match work {
            CertificateWork::Look => self.look(name).map(CertificateDone::Found),
            CertificateWork::Remember(attempts) => self.remember(name, &attempts),
            CertificateWork::Install { pair, domains } => {
                let whose = format!("the pair issued for certificate {name}");
                self.install(name, &pair, &domains, now, &whose)
            }
            CertificateWork::Adopt {
                certificate,
                key,
                domains,
            } => {
                let pair = self.adopted(&certificate, &key)?;
                let whose = format!("{} with {}", certificate.display(), key.display());
                self.install(name, &pair, &domains, now, &whose)
            }
            CertificateWork::Select(id) => self.select(name, &id, now),
            CertificateWork::Order(_) => {
                Err(refused("an order is no work for the disk".to_owned()))
            }
        }
    }

    fn directory(&self, name: &CertificateName) -> PathBuf {
        self.root.join(name.as_str())
    }

    fn look(&self, name: &CertificateName) -> Done<StoredPairs> {
        let directory = self.directory(name);
        let what = || format!("read {}", directory.display());
        let mut found = StoredPairs::default();
        if self.disk.kind(&directory).blame(what)? == Kind::Absent {
            return Ok(found);
        }
        // What an earlier life left half-made was never visible; one that stays is swept up after the next pair.
        drop(self.sweep(&directory));
        for entry in self.disk.list(&directory).blame(what)? {
            let Some(id) = entry.to_str().and_then(|name| name.parse::<PairId>().ok()) else {
                continue;
            };
            match self.read(&directory.join(id.as_str())) {
                Ok(pair) => found.pairs.push(Pair { id, ..pair }),
                Err(why) => {
                    let path = directory.join(id.as_str());
                    found
                        .repairs
                        .push(format!("{} is left out: {why}", path.display()));
                }
            }
        }
        match self.live(name)? {
            Some(id) if found.pairs.iter().any(|pair| pair.id == id) => found.current = Some(id),
            Some(id) => found.repairs.push(format!(
                "{} names {id}, which is not whole",
                self.current(name).display()
            )),
            None => {}
        }
        match self.attempts(name) {
            Ok(attempts) => found.attempts = attempts,
            Err(Unreadable::Newer(_)) => {}
            Err(Unreadable::Damaged(why)) => {
                let path = directory.join(ATTEMPTS);
                found
                    .repairs
                    .push(format!("{} is begun anew: {why}", path.display()));
            }
        }
        Ok(found)
    }

    /// What `current` names, if it is a link of ours.
    fn live(&self, name: &CertificateName) -> Done<Option<PairId>> {
        let link = self.current(name);
        let what = || format!("read {}", link.display());
        if self.disk.kind(&link).blame(what)? != Kind::Link {
            return Ok(None);
        }
        let target = self.disk.read_link(&link).blame(what)?;
        Ok(target.to_str().and_then(|target| target.parse().ok()))
    }

    /// Reads a stored pair and looks at it.
    fn read(&self, directory: &Path) -> Result<Pair, String> {
        let file = |name: &str| {
            let path = directory.join(name);
            let read = self.disk.read(&path, PEM_BYTES_MAX);
            read.map_err(|error| format!("read {}: {error}", path.display()))
        };
        pair::read(&file(CHAIN_FILE)?, &file(KEY_FILE)?)
    }

    fn attempts(&self, name: &CertificateName) -> Result<Vec<Attempts>, Unreadable> {
        let path = self.directory(name).join(ATTEMPTS);
        let Ok(bytes) = self.disk.read(&path, SMALL_BYTES_MAX) else {
            return Ok(Vec::new());
        };
        let file: AttemptsFile = wire::parse(&bytes)?;
        Ok(file.attempts.into_iter().filter_map(of_wire).collect())
    }

    fn remember(&self, name: &CertificateName, attempts: &[Attempts]) -> Done<CertificateDone> {
        let path = self.directory(name).join(ATTEMPTS);
        let what = || format!("write {}", path.display());
        if matches!(self.attempts(name), Err(Unreadable::Newer(_))) {
            // A newer version keeps its own count, which this one must not destroy.
            return Ok(CertificateDone::Remembered);
        }
        self.make_directory(name)?;
        let file = AttemptsFile {
            format: FORMAT,
            attempts: attempts.iter().map(to_wire).collect(),
        };
        wire::print(&file)
            .and_then(|bytes| write_durable(&self.disk, &path, &bytes, FILE_MODE))
            .blame(what)?;
        Ok(CertificateDone::Remembered)
    }

    fn make_directory(&self, name: &CertificateName) -> Done<()> {
        for directory in [self.root.clone(), self.directory(name)] {
            let what = || format!("create {}", directory.display());
            if self.disk.kind(&directory).blame(what)? == Kind::Absent {
                let parent = directory.parent().unwrap_or_else(|| Path::new("/"));
                self.disk
                    .create_dir(&directory, DIR_MODE)
                    .and_then(|()| self.disk.sync_dir(parent))
                    .blame(what)?;
            }
        }
        Ok(())
    }

    /// The operator's files.
    fn adopted(&self, certificate: &Path, key: &Path) -> Done<PemPair> {
        const OTHERS: u32 = 0o007;
        let read = |path: &Path| {
            let bytes = self.disk.read(path, PEM_BYTES_MAX);
            bytes.map_err(|error| refused(format!("read {}: {error}", path.display())))
        };
        let text = |path: &Path, bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| refused(format!("{} is not PEM", path.display())))
        };
        let chain = text(certificate, read(certificate)?)?;
        let mode = self.disk.mode(key);
        let mode = mode.map_err(|error| refused(format!("read {}: {error}", key.display())))?;
        if mode & OTHERS != 0 {
            return Err(refused(format!(
                "the key {} is open to everybody (mode {:04o}); run `chmod o= {}`",
                key.display(),
                mode & 0o7777,
                key.display()
            )));
        }
        let key = Secret::new(text(key, read(key)?)?);
        Ok(PemPair { chain, key })
    }

    fn install(
        &self,
        name: &CertificateName,
        pem: &PemPair,
        domains: &[Domain],
        now: WallTime,
        whose: &str,
    ) -> Done<CertificateDone> {
        let bad = |why: String| refused(format!("{whose}: {why}"));
        let (chain, key) = (pem.chain.as_bytes(), pem.key.expose().as_bytes());
        let mut pair = pair::read(chain, key).map_err(bad)?;
        pair::check(&pair, domains, now).map_err(bad)?;
        self.make_directory(name)?;
        pair.id = self.stage(name, &pair, chain, key)?;
        let changed = self.point(name, &pair.id)?;
        if changed {
            // What could not be tidied up now is tidied up after the next pair.
            drop(self.prune(name, &pair.id));
        }
        Ok(CertificateDone::Live { pair, changed })
    }

    /// Writes a pair under its name; one that is there already, whole and the same, is kept.
    fn stage(&self, name: &CertificateName, pair: &Pair, chain: &[u8], key: &[u8]) -> Done<PairId> {
        let directory = self.directory(name);
        let what = || format!("store pair {} in {}", pair.id, directory.display());
        let mut id = pair.id.clone();
        for again in 1..=NAMES_MAX {
            let place = directory.join(id.as_str());
            if self.disk.kind(&place).blame(what)? == Kind::Absent {
                break;
            }
            let same = |file: &str, bytes: &[u8]| {
                let there = self.disk.read(&place.join(file), PEM_BYTES_MAX);
                there.is_ok_and(|there| there == bytes)
            };
            if same(CHAIN_FILE, chain) && same(KEY_FILE, key) {
                // It got its name in an attempt whose last sync failed, or in an earlier life.
                self.disk.sync_dir(&directory).blame(what)?;
                return Ok(id);
            }
            // Damaged, and perhaps live: it must not be touched before another is.
            let salt = [again.to_string().into_bytes(), pair.id.as_str().into()].concat();
            let hash = crate::units::RevisionHash::of([("again", "", salt.as_slice())]).to_hex();
            id = PairId::new(&pair.serial, &hash);
        }
        let staging = directory.join(format!("{STAGING}{id}"));
        remove_tree(&self.disk, &staging)
            .and_then(|()| self.disk.create_dir(&staging, DIR_MODE))
            .and_then(|()| {
                self.disk
                    .write_file(&staging.join(CHAIN_FILE), chain, FILE_MODE)
            })
            .and_then(|()| {
                self.disk
                    .write_file(&staging.join(KEY_FILE), key, FILE_MODE)
            })
            .and_then(|()| self.disk.sync_dir(&staging))
            .and_then(|()| self.disk.rename(&staging, &directory.join(id.as_str())))
            .and_then(|()| self.disk.sync_dir(&directory))
            .blame(what)?;
        Ok(id)
    }

    /// Makes a stored pair the live one by one rename. Says whether another was.
    fn point(&self, name: &CertificateName, id: &PairId) -> Done<bool> {
        let link = self.current(name);
        let what = || format!("make pair {id} live in {}", link.display());
        let before = self.live(name)?;
        if before.as_ref() == Some(id) {
            return Ok(false);
        }
        if let Kind::Dir | Kind::File { .. } | Kind::Other = self.disk.kind(&link).blame(what)? {
            return Err(CertificateFault {
                kind: CertificateFaultKind::Disk,
                reason: format!("{}: something else stands there, move it away", what()),
                retry_after: None,
            });
        }
        if let Err(error) = swap_link(&self.disk, &link, Path::new(id.as_str())) {
            // When only the last sync failed, readers see the new pair already. "Not done" must be true for them, too.
            drop(self.point_back(&link, before.as_ref()));
            return Err(error).blame(what);
        }
        Ok(true)
    }

    fn point_back(&self, link: &Path, before: Option<&PairId>) -> std::io::Result<()> {
        match before {
            Some(id) => swap_link(&self.disk, link, Path::new(id.as_str())),
            None => self.disk.remove_file(link),
        }
    }

    fn select(&self, name: &CertificateName, id: &PairId, now: WallTime) -> Done<CertificateDone> {
        let place = self.directory(name).join(id.as_str());
        let bad = |why: String| refused(format!("{}: {why}", place.display()));
        let pair = self.read(&place).map_err(bad)?;
        pair::check(&pair, &[], now).map_err(bad)?;
        let pair = Pair {
            id: id.clone(),
            ..pair
        };
        let changed = self.point(name, id)?;
        Ok(CertificateDone::Live { pair, changed })
    }

    /// Removes what is half-made or half-removed.
    fn sweep(&self, directory: &Path) -> std::io::Result<()> {
        let links = [temporary_name(CURRENT), temporary_name(ATTEMPTS)];
        for entry in self.disk.list(directory)? {
            let Some(text) = entry.to_str() else { continue };
            let litter = text.starts_with(STAGING) || text.starts_with(TRASH);
            if litter || links.iter().any(|link| link == text) {
                remove_tree(&self.disk, &directory.join(text))?;
            }
        }
        Ok(())
    }

    /// Removes what nobody needs: all but the live pair and the few that end last.
    fn prune(&self, name: &CertificateName, live: &PairId) -> std::io::Result<()> {
        let directory = self.directory(name);
        self.sweep(&directory)?;
        let mut others = Vec::new();
        for entry in self.disk.list(&directory)? {
            let Some(text) = entry.to_str() else { continue };
            let place = directory.join(text);
            if let Ok(id) = text.parse::<PairId>()
                && &id != live
            {
                let until = self
                    .read(&place)
                    .map_or(0, |pair| pair.not_after.unix_millis());
                others.push((until, id));
            }
        }
        order::sort(&mut others);
        let surplus = others.len().saturating_sub(SPARE_MAX);
        for (_, id) in others.into_iter().take(surplus) {
            let trash = directory.join(format!("{TRASH}{id}"));
            self.disk.rename(&directory.join(id.as_str()), &trash)?;
            self.disk.sync_dir(&directory)?;
            remove_tree(&self.disk, &trash)?;
        }
        Ok(())
    }
}

/// Turns results of the system into results of work for a certificate.
trait Blame<T> {
    fn blame(self, what: impl FnOnce() -> String) -> Done<T>;
}

impl<T> Blame<T> for std::io::Result<T> {
    fn blame(self, what: impl FnOnce() -> String) -> Done<T> {
        self.map_err(|error| CertificateFault {
            kind: CertificateFaultKind::Disk,
            reason: fault_of(&what(), &error).reason,
            retry_after: None,
        })
    }
}

fn refused(reason: String) -> CertificateFault {
    CertificateFault {
        kind: CertificateFaultKind::Pair,
        reason,
        retry_after: None,
    }
}

fn to_wire(attempts: &Attempts) -> WireAttempts {
    WireAttempts {
        domains: attempts.domains.iter().map(ToString::to_string).collect(),
        begun_ms: attempts.begun.iter().map(|at| at.unix_millis()).collect(),
        failures: attempts.failures,
        not_before_ms: attempts.not_before.map(WallTime::unix_millis),
        asked_to_wait: attempts.asked_to_wait,
        last_error: attempts.last_error.clone(),
    }
}

fn of_wire(wire: WireAttempts) -> Option<Attempts> {
    let domains = wire.domains.iter().map(|text| text.parse::<Domain>());
    Some(Attempts {
        domains: domains.collect::<Result<_, _>>().ok()?,
        begun: wire
            .begun_ms
            .into_iter()
            .map(WallTime::from_unix_millis)
            .collect(),
        failures: wire.failures,
        not_before: wire.not_before_ms.map(WallTime::from_unix_millis),
        asked_to_wait: wire.asked_to_wait,
        last_error: wire.last_error,
    })
}

#[cfg(test)]
mod tests;
