//! Packages as a table of situations: a scripted server on one side, a caller with a disk on the other.

mod disk;
mod offers;
mod restart;
mod statuses;
mod truth;
mod work;

use std::time::Duration;

use super::*;
use crate::messages::{
    DownloadableFile, Header, Headers, PackageAvailable, PackageStatus, PackageStatusEnum,
};

const DIGEST: [u8; 32] = [0xD1; 32];

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Version, package hash and digest all follow from one number.
fn digest(version: u8) -> [u8; 32] {
    let mut digest = DIGEST;
    digest[0] = version;
    digest
}

fn package(kind: PackageType, version: u8) -> PackageAvailable {
    PackageAvailable {
        r#type: kind as i32,
        version: version.to_string(),
        file: Some(DownloadableFile {
            download_url: format!("https://files.example/{version}"),
            content_hash: digest(version).to_vec(),
            signature: vec![0x51, version],
            headers: Some(Headers {
                headers: vec![Header {
                    key: "Authorization".to_owned(),
                    value: "Bearer hidden-token".to_owned(),
                }],
            }),
        }),
        // Not a digest, not text: opaque.
        hash: vec![0xFF, 0x00, version],
    }
}

fn addon(version: u8) -> PackageAvailable {
    package(PackageType::Addon, version)
}

fn top(version: u8) -> PackageAvailable {
    package(PackageType::TopLevel, version)
}

fn available<const N: usize>(
    hash: &[u8],
    packages: [(&str, PackageAvailable); N],
) -> PackagesAvailable {
    PackagesAvailable {
        packages: packages
            .into_iter()
            .map(|(name, package)| (name.to_owned(), package))
            .collect(),
        all_packages_hash: hash.to_vec(),
    }
}

fn local(version: u8) -> FoundPackage {
    FoundPackage {
        version: version.to_string(),
        hash: Vec::new(),
        content_hash: digest(version).to_vec(),
        kind: PackageType::Addon,
    }
}

/// A caller: polls after each input, keeps the time.
struct Bench {
    packages: Packages,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self::with(PackagesConfig::new(7))
    }

    fn with(config: PackagesConfig) -> Self {
        Self {
            packages: Packages::new(config),
            now: Duration::ZERO,
        }
    }

    /// With these packages installed from an offer, everything told.
    fn holding<const N: usize>(packages: [(&str, PackageAvailable); N]) -> Self {
        let mut bench = Self::new();
        bench.offer(available(b"before", packages));
        bench.obey();
        bench.statuses();
        bench
    }

    fn offer(&mut self, offer: PackagesAvailable) {
        self.packages.handle_offer(self.now, offer);
    }

    fn answer(&mut self, ticket: Ticket, result: PackageResult) {
        assert!(self.packages.handle_result(self.now, ticket, result));
    }

    fn fail(&mut self, ticket: Ticket, failure: PackageFailure) {
        self.answer(ticket, PackageResult::Failed(failure));
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        self.packages.handle_timeout(self.now);
    }

    fn effects(&mut self) -> Vec<PackageEffect> {
        std::iter::from_fn(|| self.packages.poll_effect()).collect()
    }

    /// The one effect that is out.
    fn one(&mut self) -> PackageEffect {
        let mut effects = self.effects();
        assert_eq!(effects.len(), 1, "{effects:?}");
        effects.remove(0)
    }

    /// The one download that is asked for.
    fn download(&mut self) -> Ticket {
        match self.one() {
            PackageEffect::Download { ticket, .. } => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// Does all that is asked for, and says what that was.
    fn obey(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        while let Some(effect) = self.packages.poll_effect() {
            let ticket = effect.ticket();
            let (word, result) = match &effect {
                PackageEffect::Download { name, url, .. } => {
                    let version: u8 = url.rsplit('/').next().unwrap().parse().unwrap();
                    let sha256 = digest(version);
                    (
                        format!("download {name}"),
                        PackageResult::Downloaded { sha256 },
                    )
                }
                PackageEffect::Verify { name, .. } => {
                    (format!("verify {name}"), PackageResult::Verified)
                }
                PackageEffect::Install { name, version, .. } => (
                    format!("install {name} {version}"),
                    PackageResult::Installed,
                ),
                PackageEffect::Remove { name, .. } => {
                    (format!("remove {name}"), PackageResult::Removed)
                }
                PackageEffect::Cancel { .. } => {
                    done.push("cancel".to_owned());
                    continue;
                }
            };
            done.push(word);
            self.answer(ticket, result);
        }
        done
    }

    /// The statuses, if there is news.
    fn statuses(&mut self) -> Option<PackageStatuses> {
        self.packages.poll_statuses(self.now)
    }

    fn status(&self, name: &str) -> PackageStatus {
        self.packages.statuses().packages[name].clone()
    }

    fn word(&self, name: &str) -> PackageStatusEnum {
        PackageStatusEnum::try_from(self.status(name).status).unwrap()
    }

    fn names(&self) -> Vec<String> {
        self.packages.statuses().packages.into_keys().collect()
    }
}
