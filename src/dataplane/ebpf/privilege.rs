//! What this process may do, and how it gives that up for good.
//!
//! Promises: what is missing is said in the names an operator can grant; after [`drop_all`] neither this process nor
//! anything it may ever start has a capability again.
//! Must never: be called once there is a second thread — capabilities belong to threads, and only later ones inherit.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Each need, and the name under which it is granted.
const NEEDS: [(CapabilitySet, &str); 2] = [
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
];

/// What is missing to load kernel programs, as a sentence.
pub(super) fn missing() -> Option<String> {
    let effective = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => return Some(format!("read the capabilities of this process: {error}")),
    };
    lacking(effective, rustix::process::geteuid().as_raw())
}

fn lacking(effective: CapabilitySet, uid: u32) -> Option<String> {
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return None;
    }
    let names: Vec<_> = NEEDS
        .into_iter()
        .filter(|(need, _)| !effective.contains(*need))
        .map(|(_, name)| name)
        .collect();
    if names.is_empty() {
        return None;
    }
    let missing = names.join(" and ");
    Some(format!(
        "needs CAP_BPF and CAP_PERFMON; user {uid} lacks {missing}"
    ))
}

/// Gives up every capability.
///
/// # Errors
/// The system refuses, which it does to nobody; the caller must not go on as if it had not.
pub(crate) fn drop_all() -> io::Result<()> {
    // Only who may change the bounding set has something to lose from it.
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if remove_capability_from_bounding_set(one).is_err() {
            break;
        }
    }
    // Kernels without ambient capabilities have none to clear.
    _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let cases = [
            (
                CapabilitySet::empty(),
                Some("needs CAP_BPF and CAP_PERFMON; user 7 lacks CAP_BPF and CAP_PERFMON"),
            ),
            (
                CapabilitySet::BPF,
                Some("needs CAP_BPF and CAP_PERFMON; user 7 lacks CAP_PERFMON"),
            ),
            (CapabilitySet::BPF | CapabilitySet::PERFMON, None),
            (CapabilitySet::SYS_ADMIN, None),
        ];
        for (effective, wanted) in cases {
            assert_eq!(
                lacking(effective, 7).as_deref(),
                wanted,
                "{:#x}",
                effective.bits()
            );
        }
    }

    #[test]
    fn nothing_is_left_after_the_drop() {
        // Capabilities belong to a thread: this one, which ends with them.
        let thread = std::thread::spawn(|| {
            drop_all().unwrap();
            let sets = capabilities(None).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            (sets.effective | sets.permitted | sets.inheritable, status)
        });
        let (left, status) = thread.join().unwrap();
        assert!(left.is_empty(), "{:#x}", left.bits());
        let line = |name: &str| status.lines().find(|line| line.starts_with(name));
        assert_eq!(line("CapAmb:"), Some("CapAmb:\t0000000000000000"));
        assert_eq!(line("NoNewPrivs:"), Some("NoNewPrivs:\t1"));
    }
}
