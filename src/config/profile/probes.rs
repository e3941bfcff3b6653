//! How a profile, or the settings in its place, say what proves a reload and what shows health.
//!
//! Promises: both are read the same way in both places; a kind without what it needs is an error.
//! Must never: probe anything.

use std::time::Duration;

use crate::config::read::Section;
use crate::config::{HealthProbe, Proof};

const SECOND: Duration = Duration::from_secs(1);
/// Bytes of one text that is looked for in each line of a program's output.
const MARKER_BYTES_MAX: usize = 512;
/// What such a text is, for who wrote another.
const MARKER: &str = "none of them empty or over 512 bytes";

/// The `proof:` section, or `None` when there is none.
pub(in crate::config) fn proof(mut section: Section<'_, '_, '_>) -> Option<Proof> {
    let present = section.is_present();
    let kind = section.optional_choice(
        "kind",
        "how a reload is proven",
        &[
            ("local_description", "local_description"),
            ("local_status", "local_status"),
            ("exec", "exec"),
            ("http", "http"),
            ("output", "output"),
            ("fresh_process", "fresh_process"),
        ],
        "of the profile",
    );
    let command = section.texts(
        "command",
        "`exec`: program and arguments; exit 0 is the proof",
        "none",
    );
    let url = section.parsed(
        "url",
        ("URL", "`http`: answers 2xx when the new config runs"),
        "none",
        probe_url,
    );
    let expect_revision = section.switch(
        "expect_revision",
        "`http`: the body must contain the revision hash",
        false,
    );
    let counter = section.parsed(
        "counter",
        (
            "dotted path",
            "`http`: a number in the JSON body that grows with each reload; read before the HUP, greater after it",
        ),
        "none",
        counter_path,
    );
    let reloaded = section.texts(
        "reloaded",
        "`output`: a line with one of these, after the HUP, says that the program has reloaded",
        "none",
    );
    let failed = section.texts(
        "failed",
        "`output`: a line with one of these says that it has not",
        "none",
    );
    let alive_for = section.duration(
        "alive_for",
        "`fresh_process`, `output`: how long a new process must stay up",
        3 * SECOND,
        Duration::from_millis(100)..=600 * SECOND,
    );
    let proof = match (kind, command, url) {
        (Some("local_description"), _, _) => Some(Proof::LocalDescription),
        (Some("local_status"), _, _) => Some(Proof::LocalStatus),
        (Some("exec"), Some(command), _) if !command.is_empty() => Some(Proof::Exec(command)),
        (Some("exec"), _, _) => {
            section.problem("command", "kind `exec` needs a command");
            None
        }
        (Some("http"), _, Some(url)) => {
            one_kind_of_page(&mut section, expect_revision, counter.as_deref());
            Some(Proof::Http {
                url,
                expect_revision,
                counter,
            })
        }
        (Some("http"), _, None) => {
            if !section.has("url") {
                section.problem("url", "kind `http` needs a url");
            }
            None
        }
        (Some("output"), _, _) => {
            let (reloaded, failed) = (reloaded.unwrap_or_default(), failed.unwrap_or_default());
            are_markers(&mut section, &reloaded, &failed).then_some(Proof::Output {
                reloaded,
                failed,
                alive_for,
            })
        }
        (Some(_), _, _) => Some(Proof::FreshProcess { alive_for }),
        (None, _, _) => {
            if present && !section.has("kind") {
                section.problem("kind", "say which kind of proof");
            }
            None
        }
    };
    section.finish();
    proof
}

/// The `health:` section, or `None` when there is none.
pub(in crate::config) fn health(mut section: Section<'_, '_, '_>) -> Option<HealthProbe> {
    let present = section.is_present();
    let kind = section.optional_choice(
        "kind",
        "how health is seen",
        &[
            ("local_link", "local_link"),
            ("http", "http"),
            ("exec", "exec"),
            ("process", "process"),
        ],
        "of the profile",
    );
    let command = section.texts(
        "command",
        "`exec`: program and arguments; exit 0 is healthy",
        "none",
    );
    let url = section.parsed(
        "url",
        ("URL", "`http`: answers 2xx when healthy"),
        "none",
        probe_url,
    );
    let interval = section.duration(
        "interval",
        "time between probes",
        10 * SECOND,
        Duration::from_millis(100)..=3600 * SECOND,
    );
    let timeout = section.duration(
        "timeout",
        "time one probe may take",
        5 * SECOND,
        Duration::from_millis(100)..=600 * SECOND,
    );
    let failures = section.number(
        "failures",
        "failures in a row that make it unhealthy",
        3,
        1..=100,
    );
    let probe = match (kind, command, url) {
        (Some("local_link"), _, _) => Some(HealthProbe::LocalLink),
        (Some("http"), _, Some(url)) => Some(HealthProbe::Http {
            url,
            interval,
            timeout,
            failures,
        }),
        (Some("http"), _, None) => {
            if !section.has("url") {
                section.problem("url", "kind `http` needs a url");
            }
            None
        }
        (Some("exec"), Some(command), _) if !command.is_empty() => Some(HealthProbe::Exec {
            command,
            interval,
            timeout,
            failures,
        }),
        (Some("exec"), _, _) => {
            section.problem("command", "kind `exec` needs a command");
            None
        }
        (Some(_), _, _) => Some(HealthProbe::Process),
        (None, _, _) => {
            if present && !section.has("kind") {
                section.problem("kind", "say which kind of probe");
            }
            None
        }
    };
    section.finish();
    probe
}

pub(in crate::config) fn probe_url(text: &str) -> Result<String, String> {
    if text.starts_with("http://") {
        Ok(text.to_owned())
    } else {
        Err("a URL that begins with http:// belongs here; probes stay on the host".to_owned())
    }
}

/// Keys joined by dots.
fn counter_path(text: &str) -> Result<String, String> {
    if text.split('.').all(|key| !key.is_empty()) {
        Ok(text.to_owned())
    } else {
        Err("keys joined by dots belong here, such as `hot_reload_count`".to_owned())
    }
}

/// A page that counts reloads and one that names the revision are asked at different times.
fn one_kind_of_page(section: &mut Section<'_, '_, '_>, revision: bool, counter: Option<&str>) {
    if revision && counter.is_some() {
        section.problem(
            "counter",
            "a page names the revision or counts reloads, write `expect_revision` or `counter`",
        );
    }
}

/// Whether texts can be looked for in each line; that a reload came to nothing need not be said in one.
fn are_markers(section: &mut Section<'_, '_, '_>, reloaded: &[String], failed: &[String]) -> bool {
    // An empty text is in every line.
    let fits = |text: &String| !text.trim().is_empty() && text.len() <= MARKER_BYTES_MAX;
    let known = !reloaded.is_empty() && reloaded.iter().all(fits);
    if !known {
        let message = format!("kind `output` needs texts to look for, {MARKER}");
        section.problem("reloaded", message);
    }
    if !failed.iter().all(fits) {
        section.problem("failed", format!("texts to look for belong here, {MARKER}"));
    }
    known
}
