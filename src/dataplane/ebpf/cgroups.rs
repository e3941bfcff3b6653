//! Control groups by number: path, container, pod.
//!
//! Promises: groups made while we run are known from the moment they are made and stay known after they are gone; those
//! of before are found by walking the unified hierarchy, at most once per second and never beyond its bounds; what is
//! unknown stays unknown.
//! Must never: guess from a process.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::units::Moment;

/// Groups that are remembered; when there are more, those that exist are looked for again.
const GROUPS_MAX: usize = 16_384;
const DEPTH_MAX: usize = 32;
/// Time between two walks.
const WALK_EVERY: Duration = Duration::from_secs(1);

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Below the root of the hierarchy, with a slash in front.
    pub(crate) path: Arc<str>,
    /// The container it belongs to.
    pub(crate) container: Option<Arc<str>>,
    /// The pod it belongs to.
    pub(crate) pod: Option<Arc<str>>,
}

impl Cgroup {
    fn of(path: &str) -> Self {
        let parts = || path.split('/').rev();
        Self {
            path: path.into(),
            container: parts().find_map(container).map(Arc::from),
            pod: parts().find_map(pod).map(Arc::from),
        }
    }
}

/// The id of a container, as `<id>`, `docker-<id>.scope`, `cri-containerd-<id>.scope`, `libpod-<id>.scope` …
fn container(part: &str) -> Option<&str> {
    const ID_CHARS: usize = 64;
    part.split(|c: char| !c.is_ascii_hexdigit())
        .find(|run| run.len() == ID_CHARS)
}

/// The uid of a pod, as `pod<uid>` or `kubepods-burstable-pod<uid with underscores>.slice`.
fn pod(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let (_, uid) = part.rsplit_once("pod")?;
    let uid = uid.replace('_', "-");
    uuid::Uuid::parse_str(&uid).is_ok().then_some(uid)
}

/// What is known.
#[derive(Debug)]
pub(crate) struct Cgroups {
    mount: Option<PathBuf>,
    known: HashMap<u64, Arc<Cgroup>>,
    walk_after: Moment,
}

impl Cgroups {
    /// Finds the unified hierarchy and walks it.
    pub(super) fn find(now: Moment) -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::at(unified(&table), now)
    }

    fn at(mount: Option<PathBuf>, now: Moment) -> Self {
        let mut cgroups = Self {
            mount,
            known: HashMap::new(),
            walk_after: now,
        };
        cgroups.walk(now);
        cgroups
    }

    /// Notes a group that was just made.
    pub(crate) fn made(&mut self, id: u64, path: Option<&str>) {
        if let Some(path) = path {
            self.make_room();
            self.known.insert(id, Arc::new(Cgroup::of(path)));
        } else {
            // Its path did not fit; a number that was used before must not keep the old one.
            self.known.remove(&id);
        }
    }

    /// The group of a number.
    pub(crate) fn get(&mut self, id: u64, now: Moment) -> Option<Arc<Cgroup>> {
        if id == 0 {
            return None;
        }
        if !self.known.contains_key(&id) && now >= self.walk_after {
            self.walk(now);
        }
        self.known.get(&id).map(Arc::clone)
    }

    fn make_room(&mut self) {
        if self.known.len() >= GROUPS_MAX {
            self.known.clear();
        }
    }

    fn walk(&mut self, now: Moment) {
        self.walk_after = now.after(WALK_EVERY);
        if let Some(mount) = self.mount.clone() {
            self.visit(&mount, "/", 0);
        }
    }

    fn visit(&mut self, directory: &Path, path: &str, depth: usize) {
        let Ok(found) = fs::metadata(directory) else {
            return;
        };
        if self.known.len() >= GROUPS_MAX && !self.known.contains_key(&found.ino()) {
            return;
        }
        // What is there now is true, whatever had the number before.
        self.known.insert(found.ino(), Arc::new(Cgroup::of(path)));
        if depth >= DEPTH_MAX {
            return;
        }
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let (true, Some(name)) = (is_group, entry.file_name().to_str()) {
                let below = format!("{}/{name}", path.trim_end_matches('/'));
                self.visit(&entry.path(), &below, depth + 1);
            }
        }
    }
}

/// The mount point of the unified hierarchy in a table of mounts.
fn unified(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        let point = before.split(' ').nth(4)?;
        // Blanks are written in octal; a hierarchy mounted at such a place is not worth a decoder.
        (kind == "cgroup2" && !point.contains('\\')).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "1fa9e3b0-6c1b-4f3b-9b0e-2f6d1c9e7a55";

    #[test]
    fn containers_and_pods_are_read_from_the_paths_in_use() {
        let under = POD.replace('-', "_");
        let cases = [
            (format!("/kubepods/burstable/pod{POD}/{ID}"), true, true),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
                ),
                true,
                true,
            ),
            (
                format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{ID}.scope/container"),
                true,
                true,
            ),
            (
                format!("/system.slice/docker-{ID}.scope/init.scope"),
                true,
                false,
            ),
            (format!("/kubepods/besteffort/pod{POD}"), false, true),
            ("/system.slice/ssh.service".to_owned(), false, false),
            ("/".to_owned(), false, false),
            ("/podman.slice/pod".to_owned(), false, false),
        ];
        for (path, contained, in_pod) in cases {
            let cgroup = Cgroup::of(&path);
            let wanted = (contained.then_some(ID), in_pod.then_some(POD));
            let found = (cgroup.container.as_deref(), cgroup.pod.as_deref());
            assert_eq!(found, wanted, "{path}");
        }
    }

    #[test]
    fn groups_are_found_by_walking_and_kept_when_they_go() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let id = fs::metadata(&inner).unwrap().ino();
        let mut cgroups = Cgroups::at(Some(dir.path().to_owned()), Moment::START);
        let path = |cgroups: &mut Cgroups, id, now| {
            let found: Option<Arc<Cgroup>> = cgroups.get(id, now);
            found.map(|cgroup| cgroup.path.to_string())
        };
        assert_eq!(
            path(&mut cgroups, id, Moment::START).as_deref(),
            Some("/a/b")
        );
        fs::remove_dir(&inner).unwrap();
        let late = Moment::START.after(Duration::from_mins(1));
        assert_eq!(path(&mut cgroups, id, late).as_deref(), Some("/a/b"));

        let next = dir.path().join("c");
        fs::create_dir(&next).unwrap();
        let id = fs::metadata(&next).unwrap().ino();
        // A walk has just been made for a number that nobody has.
        assert_eq!(
            path(&mut cgroups, u64::MAX, late.after(WALK_EVERY)).as_deref(),
            None
        );
        let later = late.after(WALK_EVERY * 2);
        assert_eq!(path(&mut cgroups, id, later).as_deref(), Some("/c"));
    }

    #[test]
    fn a_group_that_is_made_takes_over_its_number() {
        let mut cgroups = Cgroups::at(None, Moment::START);
        cgroups.made(7, Some("/old"));
        cgroups.made(7, Some("/new"));
        let found = cgroups.get(7, Moment::START).unwrap();
        assert_eq!(&*found.path, "/new");
        cgroups.made(7, None);
        assert_eq!(cgroups.get(7, Moment::START), None);
    }

    #[test]
    fn the_unified_hierarchy_is_found_among_the_mounts() {
        let table = "\
22 1 0:20 / /sys/fs/cgroup ro - tmpfs tmpfs ro
23 22 0:21 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
24 22 0:22 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
";
        assert_eq!(unified(table), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(unified(""), None);
    }
}
