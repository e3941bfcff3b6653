//! `health.clock` of the `agents:` form: how the host's clock is watched.
//!
//! Promises: its defaults are written here once; no bound is finer than what an HTTP date can say.
//! Must never: name a credential; the time is asked for without any.

use std::time::Duration;

use super::read::Section;

const SECOND: Duration = Duration::from_secs(1);

/// How the clock is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockWatch {
    /// Whose time is asked for; that of the OpAMP server without it.
    pub url: Option<String>,
    /// Time between two looks.
    pub check_interval: Duration,
    /// A clock that is further off degrades.
    pub max_skew: Duration,
    /// Whether one that nothing keeps degrades, too.
    pub require_synchronised: bool,
}

/// Reads the section `health`.
pub(super) fn health(mut section: Section<'_, '_, '_>) -> Option<ClockWatch> {
    let clock = clock(section.sub("clock"));
    section.finish();
    clock
}

fn clock(mut section: Section<'_, '_, '_>) -> Option<ClockWatch> {
    let watch = section.switch("watch", "whether the host's clock is watched", true);
    let url = section.parsed(
        "url",
        (
            "URL",
            "http or https: whose time it is compared with; asked without credentials",
        ),
        "the OpAMP server's site",
        site,
    );
    let check_interval = section.duration(
        "check_interval",
        "time between two looks; the first is a minute after the start, others follow when the clock was set",
        300 * SECOND,
        SECOND..=24 * 3600 * SECOND,
    );
    let max_skew = section.duration(
        "max_skew",
        "a clock that is further off degrades",
        5 * SECOND,
        2 * SECOND..=3600 * SECOND,
    );
    let require_synchronised = section.switch(
        "require_synchronised",
        "whether a clock that no time service keeps, by the kernel's word, degrades",
        false,
    );
    section.finish();
    watch.then_some(ClockWatch {
        url,
        check_interval,
        max_skew,
        require_synchronised,
    })
}

fn site(text: &str) -> Result<String, String> {
    if !(text.starts_with("http://") || text.starts_with("https://")) {
        return Err("begin the URL with http:// or https://".to_owned());
    }
    super::ours::endpoint(text)
}
