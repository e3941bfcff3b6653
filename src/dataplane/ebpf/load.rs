//! Loads and attaches the kernel programs. The only file that names the loader's crate.
//!
//! Promises: a tracepoint whose prototype differs between kernels has a program per prototype, and the kernel's own
//! verifier says which one fits; one tracepoint that cannot be had does not take the others with it; dropping
//! [`Programs`] detaches everything and leaves nothing in the kernel; the kernel's type information is dropped as soon
//! as the last program is loaded.
//! Must never: pin anything, raise a limit, or fall back to a hook that was not asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use super::own::Own;
use super::raw::{self, Counts};
use crate::dataplane::config::{KernelConfig, KernelEvents};

/// Where the kernel describes its own types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// The compiled programs; `ebpf/build.sh` makes them from the sources beside them.
static OBJECT: Aligned<[u8; include_bytes!("../../../ebpf/kernel.bpf.o").len()]> =
    Aligned(*include_bytes!("../../../ebpf/kernel.bpf.o"));

/// The loader reads headers in place.
#[repr(align(8))]
struct Aligned<T>(T);

/// A tracepoint, the events it is for, and its programs: the first that the kernel takes is used.
struct Hook {
    tracepoint: &'static str,
    wanted_by: Option<KernelEvents>,
    programs: &'static [&'static str],
}

const HOOKS: [Hook; 5] = [
    Hook {
        tracepoint: "sched_process_exec",
        wanted_by: Some(KernelEvents::Exec),
        programs: &["on_exec"],
    },
    Hook {
        tracepoint: "sched_process_exit",
        wanted_by: Some(KernelEvents::Exit),
        programs: &["on_exit_last", "on_exit_first"],
    },
    Hook {
        tracepoint: "inet_sock_set_state",
        wanted_by: Some(KernelEvents::Tcp),
        programs: &["on_tcp"],
    },
    Hook {
        tracepoint: "mark_victim",
        wanted_by: Some(KernelEvents::Oom),
        programs: &["on_oom_task", "on_oom_pid"],
    },
    // For the paths of control groups; without it they are looked up in the file system.
    Hook {
        tracepoint: "cgroup_mkdir",
        wanted_by: None,
        programs: &["on_cgroup"],
    },
];

/// Attached programs; dropping them detaches.
pub(super) struct Programs {
    _object: Ebpf,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Programs")
    }
}

/// Everything that a start leads to.
pub(super) struct Loaded {
    pub(super) programs: Programs,
    pub(super) ring: RingBuf<MapData>,
    pub(super) counts: Counts,
    /// What is wanted and cannot be had here, and why.
    pub(super) without: BTreeMap<&'static str, String>,
}

/// Why nothing can be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// There is no description of the kernel's types.
    #[error(
        "needs a kernel with type information (CONFIG_DEBUG_INFO_BTF): read {KERNEL_TYPES}: {0}"
    )]
    NoTypes(String),
    /// The maps or the relocations were refused.
    #[error("load the kernel programs: {0}")]
    Object(String),
    /// No tracepoint could be attached.
    #[error("no tracepoint can be had: {0}")]
    NoHook(String),
}

/// Loads and attaches what the config asks for.
///
/// # Errors
/// Nothing of it can be had on this kernel with these privileges; nothing is left behind.
pub(super) fn load(config: &KernelConfig, own: &Own) -> Result<Loaded, LoadError> {
    let loaded = attach(config, own);
    raw::trim();
    loaded
}

fn attach(config: &KernelConfig, own: &Own) -> Result<Loaded, LoadError> {
    let Aligned(object) = &OBJECT;
    let ring_bytes = u32::try_from(config.ring_bytes).unwrap_or(u32::MAX);
    let want_args = u32::from(config.command_args);
    let connections_max = u32::try_from(config.connections_max).unwrap_or(u32::MAX);
    let mut loader = EbpfLoader::new();
    // It has read the types for itself; one copy of them at a time is enough.
    loader.btf(None);
    if let Err(error) = std::fs::metadata(Path::new(KERNEL_TYPES)) {
        return Err(LoadError::NoTypes(error.to_string()));
    }
    let types = Btf::from_sys_fs().map_err(|error| LoadError::NoTypes(error.to_string()))?;
    loader
        .btf(Some(&types))
        .override_global("ring_bytes", &ring_bytes, true)
        .override_global("want_args", &want_args, true)
        .override_global("own_tgids", &own.tgids, true)
        .override_global("own_pidns", &own.pidns, true)
        .map_max_entries("events", ring_bytes)
        .map_max_entries("connections", connections_max);
    let mut object = loader
        .load(object)
        .map_err(|error| LoadError::Object(chain(&error)))?;
    let mut take = |name: &str| {
        object
            .take_map(name)
            .ok_or_else(|| LoadError::Object(format!("the object has no map {name}")))
    };
    let refused = |error: &dyn std::error::Error| LoadError::Object(chain(error));
    let ring = RingBuf::try_from(take("events")?).map_err(|error| refused(&error))?;
    // Kept until the programs are loaded: they are told of maps by descriptor.
    let table = take("counts")?;
    let Map::Array(cells) = &table else {
        return Err(LoadError::Object(format!("counts is {table:?}")));
    };
    let counts = Counts::map(cells.fd()).map_err(|error| refused(&error))?;
    let mut excluded: HashMap<_, [u8; 8], u32> =
        HashMap::try_from(take("excluded_ports")?).map_err(|error| refused(&error))?;
    let ports = config.exclude_ports.iter().map(|port| (0, *port));
    for (netns, port) in ports.chain(own.ports.iter().copied()) {
        excluded
            .insert(port_key(netns, port), 1, 0)
            .map_err(|error| refused(&error))?;
    }
    let mut without = BTreeMap::new();
    let mut attached = 0;
    for hook in HOOKS {
        if hook
            .wanted_by
            .is_some_and(|kind| !config.events.contains(&kind))
        {
            continue;
        }
        match hook.attach(&mut object, &types) {
            Ok(()) => attached += usize::from(hook.wanted_by.is_some()),
            Err(why) => {
                let what = hook.wanted_by.map_or("cgroup", KernelEvents::word);
                without.insert(what, why);
            }
        }
    }
    if attached == 0 {
        let mut reasons = String::new();
        for (what, why) in &without {
            // Writing to a string cannot fail.
            _ = write!(reasons, "{what}: {why}; ");
        }
        return Err(LoadError::NoHook(reasons.trim_end_matches("; ").to_owned()));
    }
    Ok(Loaded {
        programs: Programs { _object: object },
        ring,
        counts,
        without,
    })
}

/// As `struct port_key` in the program.
fn port_key(netns: u32, port: u16) -> [u8; 8] {
    let mut key = [0; 8];
    let (head, tail) = key.split_at_mut(4);
    head.copy_from_slice(&netns.to_ne_bytes());
    for (to, from) in tail.iter_mut().zip(port.to_ne_bytes()) {
        *to = from;
    }
    key
}

impl Hook {
    /// Attaches the first of its programs that this kernel takes.
    fn attach(&self, object: &mut Ebpf, types: &Btf) -> Result<(), String> {
        let mut refusals = String::new();
        for name in self.programs {
            let program = object.program_mut(name);
            let program: &mut BtfTracePoint = program
                .ok_or_else(|| format!("the object has no program {name}"))?
                .try_into()
                .map_err(|error: ProgramError| chain(&error))?;
            let attached = program
                .load(self.tracepoint, types)
                .and_then(|()| program.attach().map(|_| ()));
            match attached {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let between = if refusals.is_empty() { "" } else { "; " };
                    // Writing to a string cannot fail.
                    _ = write!(refusals, "{between}{name}: {}", chain(&error));
                }
            }
        }
        Err(format!("tracepoint {}: {refusals}", self.tracepoint))
    }
}

/// An error and its sources in one line; of the verifier's pages the last line says why.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let last = lines
            .rfind(|line| !line.starts_with("processed "))
            .unwrap_or_default();
        next = error.source();
        // Some errors repeat their source in their own words.
        if text.contains(first) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.extend(first.chars().take(300));
        if !last.is_empty() {
            text.push_str(" … ");
            text.extend(last.chars().take(300));
        }
    }
    if text.contains("(os error 1)") {
        let hint = "the capabilities are there, so a seccomp filter, a user namespace or the kernel's lockdown refuses";
        text.push_str("; ");
        text.push_str(hint);
    }
    text
}
