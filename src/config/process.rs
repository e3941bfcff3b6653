//! As whom a child runs, where, and within which limits.
//!
//! Promises: a user and a group are found when the settings are read, so that a name that does not exist is told with
//! its place; a limit is a pair of numbers in the kernel's unit. Whether we may do it is seen when a child is started.
//! Must never: let a child's directory lie inside a revision, or set anything that the settings do not name.

use std::path::{Component, Path, PathBuf};

#[cfg(feature = "isolation")]
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

#[cfg(feature = "isolation")]
use crate::units::parse_size;

use super::read::Section;

/// How a child is started beside its command line. The default changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// As whom; none runs it as us.
    pub account: Option<Account>,
    /// Its working directory in place of `work/`.
    pub directory: Option<PathBuf>,
    /// Limits that the kernel keeps for each process.
    pub limits: Vec<Limit>,
    /// Whether `exec` gives it no more rights than it has, by setuid files for one; none leaves it as ours.
    pub no_new_privileges: Option<bool>,
    /// Its file mode mask; none leaves it as ours.
    pub umask: Option<u32>,
    /// Limits for it and all its descendants together.
    pub cgroup: CgroupLimits,
}

/// A user as the kernel knows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As the settings name it.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Every further group.
    pub groups: Vec<u32>,
    /// The home directory, where the user is in a database.
    pub home: Option<PathBuf>,
}

/// Limits of a control group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupLimits {
    /// Bytes over which it is ended.
    pub memory_max: Option<u64>,
    /// Bytes over which it is slowed down and its memory taken back.
    pub memory_high: Option<u64>,
    /// Percent of one processor.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
}

impl CgroupLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Below which control group each child gets its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CgroupRoot {
    /// The one that the service manager or the container's runtime gave to us, if it did.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one.
    At(PathBuf),
}

/// One limit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub kind: LimitKind,
    /// What holds; the process may raise it up to `hard`.
    pub soft: u64,
    /// What it cannot go beyond.
    pub hard: u64,
}

/// What a [`Limit`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Open files.
    Nofile,
    /// Bytes of a core file.
    Core,
    /// Bytes of address space.
    As,
    /// Processes and threads of the user.
    Nproc,
    /// Bytes of locked memory.
    Memlock,
    /// Bytes of a stack.
    Stack,
    /// Bytes of one file.
    Fsize,
    /// Seconds of processor time.
    Cpu,
}

impl LimitKind {
    /// Its key in the settings.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nofile => "nofile",
            Self::Core => "core",
            Self::As => "as",
            Self::Nproc => "nproc",
            Self::Memlock => "memlock",
            Self::Stack => "stack",
            Self::Fsize => "fsize",
            Self::Cpu => "cpu",
        }
    }

    #[cfg(feature = "isolation")]
    const fn counts_bytes(self) -> bool {
        match self {
            Self::Core | Self::As | Self::Memlock | Self::Stack | Self::Fsize => true,
            Self::Nofile | Self::Nproc | Self::Cpu => false,
        }
    }
}

#[cfg(feature = "isolation")]
/// The kernel's number for "no limit".
const UNLIMITED: u64 = u64::MAX;

/// The keys of an agent that say how its process is started.
#[cfg(feature = "isolation")]
pub(super) fn process(section: &mut Section<'_, '_, '_>) -> Process {
    let about = (
        "name or number",
        "as whom it runs, with that user's groups; only root can have it so",
    );
    let user = section.parsed("user", about, "ours", |text| Ok(text.to_owned()));
    let about = ("name or number", "its group in place of the user's");
    let group = section.parsed("group", about, "the user's", |text| Ok(text.to_owned()));
    let account = account(section, user.as_deref(), group.as_deref());
    let about = "its working directory; it has to exist";
    let directory = section.path_value(
        "working_directory",
        about,
        "`work/` in the agent's directory",
    );
    let umask = section.parsed(
        "umask",
        ("octal number", "its file mode mask"),
        "ours",
        mask,
    );
    let about = (
        "true, false",
        "whether it and what it starts can get no further rights, by setuid programs for one",
    );
    let no_new_privileges = section.parsed(
        "no_new_privileges",
        about,
        "true with `user`, else as ours",
        |text| text.parse().map_err(|_| "write true or false".to_owned()),
    );
    let limits = limits(section.sub("rlimits"));
    let cgroup = cgroup(section.sub("cgroup"));
    Process {
        no_new_privileges: no_new_privileges.or_else(|| account.as_ref().map(|_| true)),
        account,
        directory,
        limits,
        umask,
        cgroup,
    }
}

/// The key `run_as` of the Collector's form: a user, with the groups that the host gives to it.
#[cfg(all(feature = "isolation", feature = "opampsupervisor"))]
pub(super) fn run_as(section: &mut Section<'_, '_, '_>) -> Process {
    let about = "the user that the Collector runs as, with its groups and no way to more rights; changing users needs \
                 root";
    let user = section.text("run_as", about, "as the supervisor");
    let account = user.and_then(|user| match section.reader.env.account(&user, None) {
        Ok(account) => Some(account),
        Err((_, message)) => {
            let numbered = user.parse::<u32>().is_ok();
            let unnamed = format!("no user has the number {user} on this host");
            section.problem("run_as", if numbered { unnamed } else { message });
            None
        }
    });
    Process {
        no_new_privileges: account.as_ref().map(|_| true),
        account,
        ..Process::default()
    }
}

#[cfg(all(not(feature = "isolation"), feature = "opampsupervisor"))]
/// Without the feature the key is refused.
pub(super) fn run_as(section: &mut Section<'_, '_, '_>) -> Process {
    section.not_built(&["run_as"], WITHOUT);
    Process::default()
}

#[cfg(not(feature = "isolation"))]
const WITHOUT: &str = "this program was built without isolation of children, remove it";

/// Without the feature every one of the keys is refused.
#[cfg(not(feature = "isolation"))]
pub(super) fn process(section: &mut Section<'_, '_, '_>) -> Process {
    section.not_built(
        &[
            "user",
            "group",
            "working_directory",
            "umask",
            "no_new_privileges",
            "rlimits",
            "cgroup",
        ],
        WITHOUT,
    );
    Process::default()
}

#[cfg(feature = "isolation")]
fn account(
    section: &mut Section<'_, '_, '_>,
    user: Option<&str>,
    group: Option<&str>,
) -> Option<Account> {
    let Some(user) = user else {
        if group.is_some() {
            section.problem("group", "a group needs a `user` beside it");
        }
        return None;
    };
    match section.reader.env.account(user, group) {
        Ok(account) => Some(account),
        Err((key, message)) => {
            section.problem(key, message);
            None
        }
    }
}

#[cfg(feature = "isolation")]
/// Finds a user and its groups in the host's databases; a number needs no entry there, but then a group.
///
/// # Errors
/// The key that is wrong and why.
pub(super) fn find_account(
    user: &str,
    group: Option<&str>,
) -> Result<Account, (&'static str, String)> {
    let found = match user.parse::<u32>() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(user),
    };
    let found = found.map_err(|errno| ("user", format!("look up {user}: {}", errno.desc())))?;
    let gid = match group {
        Some(group) => Some(find_group(group).map_err(|message| ("group", message))?),
        None => None,
    };
    match (found, user.parse::<u32>(), gid) {
        (Some(found), _, gid) => {
            let gid = gid.unwrap_or(found.gid.as_raw());
            let groups = std::ffi::CString::new(found.name.clone())
                .ok()
                .and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok())
                .unwrap_or_default();
            Ok(Account {
                name: user.to_owned(),
                uid: found.uid.as_raw(),
                gid,
                groups: groups.into_iter().map(Gid::as_raw).collect(),
                home: Some(found.dir),
            })
        }
        (None, Ok(uid), Some(gid)) => Ok(Account {
            name: user.to_owned(),
            uid,
            gid,
            groups: vec![gid],
            home: None,
        }),
        (None, Ok(_), None) => Err((
            "user",
            format!("no user has the number {user}, so name its `group` too"),
        )),
        (None, Err(_), _) => Err(("user", format!("there is no user {user:?} on this host"))),
    }
}

#[cfg(feature = "isolation")]
fn find_group(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(format!("there is no group {group:?} on this host")),
        Err(errno) => Err(format!("look up {group}: {}", errno.desc())),
    }
}

#[cfg(feature = "isolation")]
fn mask(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777)
        .ok_or_else(|| "an octal number up to 0777 belongs here, such as \"0027\"".to_owned())
}

#[cfg(feature = "isolation")]
fn limits(mut section: Section<'_, '_, '_>) -> Vec<Limit> {
    const ABOUT: [(LimitKind, &str); 8] = [
        (LimitKind::Nofile, "open files"),
        (LimitKind::Core, "bytes of a core file; 0 writes none"),
        (LimitKind::As, "bytes of address space"),
        (LimitKind::Nproc, "processes and threads of its user"),
        (LimitKind::Memlock, "bytes of locked memory"),
        (LimitKind::Stack, "bytes of a stack"),
        (LimitKind::Fsize, "bytes of one file"),
        (LimitKind::Cpu, "seconds of processor time"),
    ];
    let limits = ABOUT.into_iter().filter_map(|(kind, about)| {
        let form = if kind.counts_bytes() {
            "size or soft:hard"
        } else {
            "number or soft:hard"
        };
        section.parsed(kind.word(), (form, about), "ours", |text| limit(kind, text))
    });
    let limits = limits.collect();
    section.finish();
    limits
}

/// `1024`, `1024:4096`, `16MiB`, `unlimited`.
#[cfg(feature = "isolation")]
fn limit(kind: LimitKind, text: &str) -> Result<Limit, String> {
    let one = |text: &str| match text.trim() {
        "unlimited" => Ok(UNLIMITED),
        "0" => Ok(0),
        text if kind.counts_bytes() => parse_size(text).map_err(|error| error.to_string()),
        text => text
            .parse()
            .map_err(|_| format!("{text:?} is no whole number")),
    };
    let (soft, hard) = match text.split_once(':') {
        Some((soft, hard)) => (one(soft)?, one(hard)?),
        None => (one(text)?, one(text)?),
    };
    if soft > hard {
        return Err(
            "the first number holds and the second is its ceiling, so it cannot be less".to_owned(),
        );
    }
    // Kernels have refused more for longer than containers exist.
    if kind == LimitKind::Nofile && hard == UNLIMITED {
        return Err("open files need a number, the kernel knows no unlimited there".to_owned());
    }
    Ok(Limit { kind, soft, hard })
}

#[cfg(feature = "isolation")]
fn cgroup(mut section: Section<'_, '_, '_>) -> CgroupLimits {
    let size = |text: &str| {
        let bytes = parse_size(text).map_err(|error| error.to_string())?;
        match bytes {
            0..0x10_0000 => Err("less than 1MiB, no program starts in that".to_owned()),
            bytes => Ok(bytes),
        }
    };
    let about = (
        "a size",
        "memory of it and its descendants over which the kernel ends it",
    );
    let memory_max = section.parsed("memory_max", about, "no limit", size);
    let about = (
        "a size",
        "memory over which the kernel slows it down and takes memory back",
    );
    let memory_high = section.parsed("memory_high", about, "no limit", size);
    let about = ("percent", "processor time, 100% is one processor");
    let cpu_percent = section.parsed("cpu_max", about, "no limit", |text| {
        text.strip_suffix('%')
            .and_then(|number| number.trim().parse::<u32>().ok())
            .filter(|percent| (1..=100_000).contains(percent))
            .ok_or_else(|| "a whole number of percent belongs here, such as 150%".to_owned())
    });
    let about = ("a number", "processes and threads");
    let pids_max = section.parsed("pids_max", about, "no limit", |text| {
        text.parse::<u32>()
            .ok()
            .filter(|count| (1..=4_194_304).contains(count))
            .ok_or_else(|| "a whole number from 1 to 4194304 belongs here".to_owned())
    });
    if let (Some(high), Some(max)) = (memory_high, memory_max)
        && high > max
    {
        section.problem(
            "memory_high",
            "more than memory_max, so it would never be reached",
        );
    }
    section.finish();
    CgroupLimits {
        memory_max,
        memory_high,
        cpu_percent,
        pids_max,
    }
}

/// The key `cgroup_root`.
#[cfg(feature = "isolation")]
pub(super) fn cgroup_root(root: &mut Section<'_, '_, '_>) -> CgroupRoot {
    let about = (
        "auto, off, path",
        "the control group below which each child gets its own; auto: one that was given to us, if any",
    );
    root.parsed("cgroup_root", about, "auto", |text| match text {
        "auto" => Ok(CgroupRoot::Auto),
        "off" => Ok(CgroupRoot::Off),
        path if path.starts_with('/') => Ok(CgroupRoot::At(path.into())),
        _ => Err("auto, off or an absolute path belongs here".to_owned()),
    })
    .unwrap_or_default()
}

/// Without the feature the key is refused.
#[cfg(not(feature = "isolation"))]
pub(super) fn cgroup_root(root: &mut Section<'_, '_, '_>) -> CgroupRoot {
    root.not_built(&["cgroup_root"], WITHOUT);
    CgroupRoot::Off
}

/// Why a directory cannot be a child's: a revision is immutable and goes away.
pub(super) fn inside_a_revision(storage: &Path, directory: &Path) -> bool {
    let Ok(rest) = directory.strip_prefix(storage.join("agents")) else {
        return false;
    };
    let below = rest.components().nth(1);
    below.is_some_and(|part| match part {
        Component::Normal(name) => ["revisions", "current", "last-good"]
            .iter()
            .any(|it| name == *it),
        _ => false,
    })
}

#[cfg(feature = "isolation")]
#[cfg(test)]
mod tests {
    use crate::config::tests::Env;
    use crate::config::{Config, Limit, LimitKind, Overrides, load};

    use super::*;

    fn read(agent: &str) -> Result<Config, String> {
        let text = format!("agents: {{a: {{{agent}}}}}\n");
        load("s.yaml", &text, &Env::rooted(), &Overrides::default()).map_err(|it| it.to_string())
    }

    fn process(agent: &str) -> Process {
        read(agent)
            .unwrap_or_else(|error| panic!("{agent}: {error}"))
            .agents[0]
            .process
            .clone()
    }

    #[test]
    fn nothing_said_changes_nothing() {
        assert_eq!(process(""), Process::default());
        assert_eq!(read("").unwrap().cgroup_root, CgroupRoot::Auto);
    }

    #[test]
    fn a_user_brings_its_groups_and_no_way_to_more_rights() {
        let account = process("user: telegraf").account.unwrap();
        assert_eq!(
            (account.uid, account.gid, account.groups),
            (998, 997, vec![997, 4])
        );
        assert_eq!(
            process("user: telegraf, group: adm").account.unwrap().gid,
            4
        );
        assert_eq!(process("user: telegraf").no_new_privileges, Some(true));
        let allowed = process("user: telegraf, no_new_privileges: false");
        assert_eq!(allowed.no_new_privileges, Some(false));
        assert_eq!(
            process("no_new_privileges: true").no_new_privileges,
            Some(true)
        );
    }

    #[test]
    fn limits_are_pairs_in_the_units_of_the_kernel() {
        let limits = process(
            "rlimits: {nofile: '1024:4096', core: 0, memlock: 64KiB, as: unlimited, cpu: 60}",
        );
        let limit = |kind, soft, hard| Limit { kind, soft, hard };
        assert_eq!(
            limits.limits,
            [
                limit(LimitKind::Nofile, 1024, 4096),
                limit(LimitKind::Core, 0, 0),
                limit(LimitKind::As, UNLIMITED, UNLIMITED),
                limit(LimitKind::Memlock, 65_536, 65_536),
                limit(LimitKind::Cpu, 60, 60),
            ]
        );
        let group = process("cgroup: {memory_max: 64MiB, cpu_max: 150%, pids_max: 9}").cgroup;
        let (memory, high) = (group.memory_max, group.memory_high);
        assert_eq!((memory, high), (Some(64 << 20), None));
        assert_eq!((group.cpu_percent, group.pids_max), (Some(150), Some(9)));
        assert_eq!(process("umask: '0027'").umask, Some(0o027));
    }

    #[test]
    fn what_cannot_be_is_told_at_its_key() {
        let cases = [
            (
                "user: nobody2",
                "s.yaml:1:20: agents.a.user: there is no user \"nobody2\" on this host",
            ),
            (
                "user: telegraf, group: x",
                "s.yaml:1:37: agents.a.group: there is no group \"x\"",
            ),
            (
                "group: adm",
                "s.yaml:1:21: agents.a.group: a group needs a `user` beside it",
            ),
            (
                "umask: '999'",
                "s.yaml:1:21: agents.a.umask: an octal number up to 0777 belongs here, such as \"0027\"",
            ),
            (
                "rlimits: {nofile: 9:8}",
                "s.yaml:1:32: agents.a.rlimits.nofile: the first number holds and the second is its ceiling, so it \
                cannot be less",
            ),
            (
                "rlimits: {nofile: unlimited}",
                "s.yaml:1:32: agents.a.rlimits.nofile: open files need a number, the kernel knows no unlimited there",
            ),
            (
                "rlimits: {nproc: many}",
                "s.yaml:1:31: agents.a.rlimits.nproc: \"many\" is no whole number",
            ),
            (
                "cgroup: {cpu_max: 2}",
                "s.yaml:1:32: agents.a.cgroup.cpu_max: a whole number of percent belongs here, such as 150%",
            ),
            (
                "cgroup: {memory_max: 1KiB}",
                "s.yaml:1:35: agents.a.cgroup.memory_max: less than 1MiB, no program starts in that",
            ),
            (
                "cgroup: {memory_max: 1MiB, memory_high: 2MiB}",
                "s.yaml:1:54: agents.a.cgroup.memory_high: more than memory_max, so it would never be reached",
            ),
            (
                "cgroup: {pids_max: 0}",
                "s.yaml:1:33: agents.a.cgroup.pids_max: a whole number from 1 to 4194304 belongs here",
            ),
            (
                "working_directory: /var/lib/adjutant/agents/a/current",
                "s.yaml:1:9: agents: agents.a.working_directory: a revision goes away, name another directory",
            ),
        ];
        for (agent, wanted) in cases {
            let told = read(agent).expect_err(agent);
            assert_eq!(told, wanted, "{agent}");
        }
    }

    #[test]
    fn a_number_needs_no_entry_but_a_group() {
        let found = find_account("54321", Some("54322")).unwrap();
        assert_eq!(
            (found.uid, found.gid, found.groups),
            (54_321, 54_322, vec![54_322])
        );
        let (key, why) = find_account("54321", None).unwrap_err();
        assert_eq!(
            (key, why.as_str()),
            (
                "user",
                "no user has the number 54321, so name its `group` too"
            )
        );
        assert_eq!(find_account("root", None).unwrap().uid, 0);
        let (key, _) = find_account("root", Some("no-such-group")).unwrap_err();
        assert_eq!(key, "group");
    }
}
