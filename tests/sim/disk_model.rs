//! The model disk does what its description says; otherwise the explorations on it would prove nothing.

use std::path::Path;

use adjutant::sys::durable::{Disk as _, FILE_MODE, swap_link, write_durable};
use nix::libc;

use super::disk::ModelDisk;

fn outcomes<T: Ord>(disk: &ModelDisk, look: impl Fn(&ModelDisk) -> T) -> Vec<T> {
    let mut seen: Vec<T> = (0..200)
        .map(|seed| {
            let copy = disk.fork();
            copy.crash(seed);
            look(&copy)
        })
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

fn text(disk: &ModelDisk, path: &str) -> Option<String> {
    let bytes = disk.read(Path::new(path), 1 << 20).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', "."))
}

#[test]
fn a_crash_keeps_what_was_synced_and_plays_with_the_rest() {
    let disk = ModelDisk::new(0);
    write_durable(&disk, Path::new("/a"), b"old", FILE_MODE).unwrap();
    // Die between writing and syncing an appended line.
    disk.die_after(disk.steps() + 2);
    assert!(disk.append(Path::new("/a"), b"new").is_err());
    let seen = outcomes(&disk, |disk| text(disk, "/a").unwrap());
    let wanted = [
        "old", "old...", "oldn", "oldn..", "oldne", "oldne.", "oldnew",
    ];
    assert_eq!(seen, wanted);
}

#[test]
fn a_rename_without_a_sync_of_the_directory_shows_the_old_or_the_new() {
    let disk = ModelDisk::new(0);
    swap_link(&disk, Path::new("/current"), Path::new("one")).unwrap();
    // Link, rename, but no sync.
    disk.die_after(disk.steps() + 2);
    assert!(swap_link(&disk, Path::new("/current"), Path::new("two")).is_err());
    let seen = outcomes(&disk, |disk| disk.read_link(Path::new("/current")).unwrap());
    assert_eq!(seen, [Path::new("one"), Path::new("two")]);
}

#[test]
fn a_name_without_a_sync_of_the_directory_may_be_lost() {
    let disk = ModelDisk::new(0);
    disk.write_file(Path::new("/a"), b"x", FILE_MODE).unwrap();
    let seen = outcomes(&disk, |disk| text(disk, "/a"));
    assert_eq!(seen, [None, Some("x".to_owned())]);
}

#[test]
fn a_sync_after_a_failed_sync_lies() {
    let disk = ModelDisk::new(0);
    write_durable(&disk, Path::new("/a"), b"old", FILE_MODE).unwrap();
    let sync = disk.steps() + 3;
    disk.fail(sync..=sync, libc::EIO);
    let error = disk.append(Path::new("/a"), b"new").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    disk.append(Path::new("/a"), b"er").unwrap();
    assert_eq!(text(&disk, "/a").unwrap(), "oldnewer");
    assert_eq!(
        outcomes(&disk, |disk| text(disk, "/a").unwrap()),
        ["old...er"]
    );
}

#[test]
fn a_full_disk_takes_what_fits() {
    let disk = ModelDisk::new(0);
    disk.limit_space(Some(4));
    let error = disk
        .write_file(Path::new("/a"), b"12345", FILE_MODE)
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(text(&disk, "/a").unwrap(), "1234");
    disk.remove_file(Path::new("/a")).unwrap();
    assert_eq!(disk.used(), 0);
}
