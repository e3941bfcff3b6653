//! What a start inside a container needs to say that no other does.
//!
//! Promises: facts of the system become words that a person can act on.
//! Must never: change how anything starts.

use super::{AppError, AppErrorKind};
use crate::port::host::HostFacts;

/// Where we run, if our process id does not say it.
pub(super) fn whereabouts(facts: &HostFacts) -> String {
    if !facts.is_pid1 {
        return String::new();
    }
    let names = [
        ("k8s.pod.name", "pod"),
        ("container.id", "container"),
        ("host.name", "host"),
    ];
    let known = names.iter().find_map(|(key, what)| {
        let name: String = facts.attributes.get(*key)?.chars().take(64).collect();
        Some(format!("{what} {name}"))
    });
    known.unwrap_or_default()
}

/// Threads are refused in two ways: there are too many, or a seccomp profile that is older than the C library answers
/// its clone3 with EPERM, which no library takes for "not known here".
pub(super) fn no_thread(what: &'static str, error: std::io::Error) -> AppError {
    let refused = error.kind() == std::io::ErrorKind::PermissionDenied;
    let error = anyhow::Error::new(error);
    let cause = if refused {
        error.context(format!(
            "{what}; a container's seccomp profile that does not know clone3 refuses new threads: use Docker Engine \
             20.10.10 or newer, or the profile packaging/docker/seccomp.json"
        ))
    } else {
        error.context(what)
    };
    AppError {
        kind: AppErrorKind::System,
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_of_a_container_says_which_container() {
        let mut facts = HostFacts {
            attributes: [("container.id", "c1"), ("host.name", "web")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..HostFacts::default()
        };
        assert_eq!(whereabouts(&facts), "");
        facts.is_pid1 = true;
        assert_eq!(whereabouts(&facts), "container c1");
        let pod = ("k8s.pod.name".to_owned(), "a-1".to_owned());
        facts.attributes.extend([pod]);
        assert_eq!(whereabouts(&facts), "pod a-1");
    }
}
