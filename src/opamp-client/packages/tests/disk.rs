//! A caller with a disk that holds what was really installed, for properties over any order of events.

use std::collections::BTreeMap;

use super::*;

/// What is really there: version and type by name.
pub(super) type Disk = BTreeMap<String, (String, PackageType)>;

/// Checks what the protocol says of every report, and that it is true.
pub(super) fn check(packages: &Packages, disk: &Disk, offered: &[u8]) {
    let statuses = packages.statuses();
    assert_eq!(statuses.server_provided_all_packages_hash, offered, "R-230");
    for name in disk.keys() {
        assert!(
            statuses.packages.contains_key(name),
            "R-227: {name} is not listed"
        );
    }
    for (name, status) in &statuses.packages {
        assert_eq!(*name, status.name, "R-228");
        let there = disk.get(name).map(|(version, _)| version.as_str());
        assert_eq!(
            there.unwrap_or(""),
            status.agent_has_version,
            "R-231: {name} {status:?}"
        );
        assert_eq!(
            there.is_some(),
            !status.agent_has_hash.is_empty(),
            "R-231: {status:?}"
        );
        let word = PackageStatusEnum::try_from(status.status).expect("a known status");
        let has_text = !status.error_message.is_empty();
        let is_offered = !status.server_offered_hash.is_empty();
        match word {
            PackageStatusEnum::Installed => {
                assert!(there.is_some() && !has_text, "R-234: {status:?}");
            }
            PackageStatusEnum::Downloading | PackageStatusEnum::Installing => {
                assert!(is_offered && !has_text, "R-235: {status:?}");
            }
            PackageStatusEnum::InstallFailed => {
                assert!(is_offered && has_text, "R-236: {status:?}");
            }
            PackageStatusEnum::InstallPending => assert!(is_offered && !has_text, "{status:?}"),
        }
        assert_eq!(
            word == PackageStatusEnum::Downloading,
            status.download_details.is_some(),
            "R-239: {status:?}"
        );
        if let Some(details) = status.download_details {
            assert!((0.0..=100.0).contains(&details.download_percent), "R-239");
            assert!(details.download_bytes_per_second.is_finite(), "R-239");
        }
    }
}
