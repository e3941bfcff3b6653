//! Whether a child has room for a reload: open descriptors beside its limit, and what it watches files with beside the
//! host's.
//!
//! A reload may hold the old and the new side by side: programs that ran out half-way came up without their config, or
//! in a loop of crashes.
//!
//! Promises: what cannot be read is no shortage; a look is bounded, whatever the child has open.
//! Must never: block on a child.

use std::fs;
use std::io::Read as _;
use std::path::Path;

/// Descriptors of one process that are looked at; who has more is counted as far as this.
const DESCRIPTORS_MAX: usize = 20_000;
/// Bytes of one file of `/proc` that are read.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// What a link to an inotify instance says.
const INOTIFY: &str = "anon_inode:inotify";

/// Looks at a process; an error is the shortage.
pub(super) fn look(pid: u32, proc: &Path) -> Result<(), String> {
    let process = proc.join(pid.to_string());
    let Some(open) = descriptors(&process) else {
        return Ok(());
    };
    let count = open.len() as u64;
    let limit = limit(&read(&process.join("limits")));
    // From four fifths on; a connection a client opens meanwhile counts, too.
    if let Some(limit) = limit
        && count.saturating_mul(5) >= limit.saturating_mul(4)
    {
        return Err(format!(
            "{count} of its {limit} descriptors are open, a reload could run out of them"
        ));
    }
    let mut instances = 0u64;
    let mut watches = 0u64;
    for name in &open {
        let link = fs::read_link(process.join("fd").join(name));
        if link.is_ok_and(|link| link.as_os_str() == INOTIFY) {
            instances = instances.saturating_add(1);
            let text = read(&process.join("fdinfo").join(name));
            let lines = text.lines().filter(|line| line.starts_with("inotify wd:"));
            watches = watches.saturating_add(lines.count() as u64);
        }
    }
    let told = [
        (instances, "max_user_instances", "inotify instances"),
        (watches, "max_user_watches", "inotify watches"),
    ];
    for (used, file, what) in told {
        let limit = read(&proc.join("sys/fs/inotify").join(file));
        let limit = limit.trim().parse::<u64>().ok();
        // The new ones come before the old ones go.
        if used > 0 && limit.is_some_and(|limit| used.saturating_mul(2) > limit) {
            let limit = limit.unwrap_or_default();
            return Err(format!(
                "it has {used} {what}, and fs.inotify.{file} is {limit}: a reload could run out of them"
            ));
        }
    }
    Ok(())
}

fn descriptors(process: &Path) -> Option<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(process.join("fd")).ok()?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Some(names.take(DESCRIPTORS_MAX).collect())
}

/// The soft limit of `/proc/<pid>/limits`.
fn limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // What was read until an error is as good as any other moment's.
        file.take(FILE_MAX).read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::durable::{Disk as _, RealDisk};

    /// A `/proc` with one process of so many plain descriptors and instances with so many watches each.
    fn machine(plain: usize, instances: usize, watches: usize) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RealDisk.write_file(&path, text.as_bytes(), 0o600).unwrap();
        };
        put(
            "7/limits",
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            100                  4096                 files\n",
        );
        put("sys/fs/inotify/max_user_instances", "8\n");
        put("sys/fs/inotify/max_user_watches", "100\n");
        fs::create_dir_all(root.path().join("7/fd")).unwrap();
        for number in 0..plain {
            symlink("/dev/null", root.path().join(format!("7/fd/{number}"))).unwrap();
        }
        for number in 1_000..1_000 + instances {
            symlink(INOTIFY, root.path().join(format!("7/fd/{number}"))).unwrap();
            put(
                &format!("7/fdinfo/{number}"),
                &"inotify wd:1 ino:2\n".repeat(watches),
            );
        }
        root
    }

    #[test]
    fn a_shortage_is_told_with_its_numbers_and_what_cannot_be_read_is_none() {
        let said = |plain, instances, watches| look(7, machine(plain, instances, watches).path());
        assert_eq!(said(79, 0, 0), Ok(()));
        let short = said(80, 0, 0).unwrap_err();
        assert_eq!(
            short,
            "80 of its 100 descriptors are open, a reload could run out of them"
        );
        assert_eq!(said(1, 4, 12), Ok(()));
        let short = said(1, 5, 1).unwrap_err();
        assert_eq!(
            short,
            "it has 5 inotify instances, and fs.inotify.max_user_instances is 8: a reload could run out of them"
        );
        let short = said(1, 1, 51).unwrap_err();
        assert_eq!(
            short,
            "it has 51 inotify watches, and fs.inotify.max_user_watches is 100: a reload could run out of them"
        );
        assert_eq!(look(8, machine(99, 0, 0).path()), Ok(()), "gone meanwhile");
    }
}
