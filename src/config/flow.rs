//! Where a program's own counters are, and what is made of them after a new config: `flow:` of a profile, `apply.flow:`
//! of an agent.
//!
//! Promises: what counts as come in and gone out is data of the profile; a selector that could match nothing is an
//! error. A build without the feature `flow` reads profiles all the same, and refuses settings that ask for the
//! check.
//! Must never: know one program from another in code, or read a counter.

use std::time::Duration;

use super::read::Section;

/// Signals of one program; more is no kind of program that is known.
#[cfg(feature = "flow")]
const SIGNALS_MAX: usize = 8;

/// Where a program's own counters are and what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// How they are read.
    pub format: FlowFormat,
    /// Where, unless the config says so itself; empty for [`FlowFormat::LocalLink`].
    pub url: String,
    /// Path of the list in the config whose entries hold `host` and `port` in place of those of `url`: the list, and
    /// the path below one of its entries.
    pub address: Option<(String, String)>,
    /// Path in the config and the value there with which there are no counters.
    pub off: Option<(String, String)>,
    /// The counter that says how many seconds the program has been up.
    pub uptime: Option<String>,
    /// The label that names the part of the program a counter is of: where data comes in, where it goes out.
    pub labels: [Option<String>; 2],
    /// Sections of the config that those parts stand in: where data comes in, where it goes out.
    pub sections: [Option<String>; 2],
    /// Sections whose change may change what any part does.
    pub shared: Vec<String>,
    /// The signals.
    pub signals: Vec<FlowSignal>,
}

/// How counters are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowFormat {
    /// The text format of Prometheus, over HTTP.
    Prometheus,
    /// A JSON document, over HTTP; a selector is a dotted path, one `*` in it the part.
    Json,
    /// Numbers that the program gives over its own OpAMP; selectors as in JSON.
    LocalLink,
}

/// One signal and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FlowSignal {
    /// `logs`, `metrics` …
    pub name: String,
    /// Selectors by [`FlowRole`].
    pub counters: [Vec<String>; 5],
    /// Section of the config whose entries, by their names' beginning, carry the signal from part to part.
    pub pipelines: Option<String>,
}

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowRole {
    /// Came in.
    Accepted,
    /// Came, and was not taken.
    Refused,
    /// Went out.
    Sent,
    /// Should have gone out, and did not.
    Failed,
    /// Waits to go out; a level, no counter.
    Waiting,
}

impl FlowRole {
    /// All, in the order of [`FlowSignal::counters`].
    pub const ALL: [Self; 5] = [
        Self::Accepted,
        Self::Refused,
        Self::Sent,
        Self::Failed,
        Self::Waiting,
    ];

    /// 0 where data comes in, 1 where it goes out: the index of [`Flow::labels`] and [`Flow::sections`].
    pub const fn side(self) -> usize {
        match self {
            Self::Accepted | Self::Refused => 0,
            Self::Sent | Self::Failed | Self::Waiting => 1,
        }
    }
}

/// What is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCheck {
    /// What a collapse leads to.
    pub mode: FlowMode,
    /// Between two looks.
    pub interval: Duration,
    /// Least time of looks at the config before.
    pub min_baseline: Duration,
    /// Less than so many percent of the least that flowed before is a collapse.
    pub collapse_below_percent: u32,
    /// How long it must last, from the beginning of probation.
    pub window: Duration,
}

/// What a collapse leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowMode {
    /// Back to last good.
    Rollback,
    /// A line in the log and in the history.
    Warn,
    /// Nobody looks.
    Off,
}

/// What applies unless the settings say otherwise, in our own form. The other form has no such check.
pub(super) const FLOW: FlowCheck = FlowCheck {
    mode: if cfg!(feature = "flow") {
        FlowMode::Rollback
    } else {
        FlowMode::Off
    },
    interval: Duration::from_secs(10),
    min_baseline: Duration::from_mins(2),
    collapse_below_percent: 1,
    window: Duration::from_mins(1),
};

/// The check as the form of the Collector's supervisor has it: not at all.
#[cfg(any(feature = "opampsupervisor", not(feature = "flow")))]
pub(super) const NO_FLOW: FlowCheck = FlowCheck {
    mode: FlowMode::Off,
    ..FLOW
};

/// `apply.flow:` of an agent. `profile` may get another address.
#[cfg(feature = "flow")]
pub(super) fn check(mut section: Section<'_, '_, '_>, profile: &mut Option<Flow>) -> FlowCheck {
    let second = Duration::from_secs(1);
    let check = FlowCheck {
        mode: section.choice(
            "mode",
            "what follows when data stops to flow under a new config",
            &[
                ("rollback", FlowMode::Rollback),
                ("warn", FlowMode::Warn),
                ("off", FlowMode::Off),
            ],
            ("rollback", FLOW.mode),
        ),
        interval: section.duration(
            "interval",
            "between two looks at the program's counters; more often in probation",
            FLOW.interval,
            Duration::from_millis(100)..=600 * second,
        ),
        min_baseline: section.duration(
            "min_baseline",
            "least time of looks before the change; with less there is no verdict",
            FLOW.min_baseline,
            Duration::from_millis(500)..=3600 * second,
        ),
        collapse_below_percent: section.number(
            "collapse_below_percent",
            "less than this part of the least that flowed before is a collapse",
            FLOW.collapse_below_percent,
            1..=50,
        ),
        window: section.duration(
            "window",
            "how long a collapse must last, from the beginning of probation, which may last longer for it",
            FLOW.window,
            Duration::from_millis(500)..=3600 * second,
        ),
    };
    let about = (
        "URL",
        "where the program's counters are, in place of what its profile and its config say",
    );
    if let Some(url) = section.parsed("url", about, "of the profile", super::profile::probe_url) {
        match profile {
            Some(flow) => {
                flow.url = url;
                flow.address = None;
                flow.off = None;
            }
            None => section.problem("url", "the profile says nothing of counters"),
        }
    }
    section.finish();
    check
}

/// `apply.flow:` in a build that has no check: only `mode: off` can be said.
#[cfg(not(feature = "flow"))]
pub(super) fn check(mut section: Section<'_, '_, '_>, _: &mut Option<Flow>) -> FlowCheck {
    let about = "what follows when data stops to flow under a new config";
    let choices = [("rollback", true), ("warn", true), ("off", false)];
    if section.optional_choice("mode", about, &choices, "off") == Some(true) {
        section.problem("mode", NOT_BUILT);
    }
    section.not_built(
        &[
            "interval",
            "min_baseline",
            "collapse_below_percent",
            "window",
            "url",
        ],
        NOT_BUILT,
    );
    section.finish();
    NO_FLOW
}

#[cfg(not(feature = "flow"))]
const NOT_BUILT: &str =
    "this build cannot watch what flows (feature flow), remove it, or use the full build";

/// `flow:` of a profile, or `None` without one.
#[cfg(feature = "flow")]
pub(super) fn flow(mut section: Section<'_, '_, '_>) -> Option<Flow> {
    let present = section.is_present();
    let format = section.optional_choice(
        "format",
        "how the program's own counters are read",
        &[
            ("prometheus", FlowFormat::Prometheus),
            ("json", FlowFormat::Json),
            ("local_link", FlowFormat::LocalLink),
        ],
        "none",
    );
    let about = ("URL", "`prometheus`, `json`: where they are");
    let url = section.parsed("url", about, "none", super::profile::probe_url);
    let about = (
        "text",
        "`list[].path`: a list in the config; `host` and `port` at `path` of an entry replace those of `url`",
    );
    let address = section.parsed("address", about, "none", |text| pair(text, "[]."));
    let about = (
        "text",
        "`path=value`: with this in the config there are no counters",
    );
    let off = section.parsed("off", about, "none", |text| pair(text, "="));
    let uptime = section.text(
        "uptime",
        "the counter that says how many seconds the program has been up; one that is too high is of another process",
        "none",
    );
    let labels = [
        section.text(
            "source_label",
            "label that names where data came in",
            "none",
        ),
        section.text(
            "destination_label",
            "label that names where data went",
            "none",
        ),
    ];
    let sections = [
        section.text(
            "source_section",
            "section of the config with what takes data in",
            "none",
        ),
        section.text(
            "destination_section",
            "section of the config with what sends data out",
            "none",
        ),
    ];
    let shared = section.texts(
        "shared_sections",
        "sections whose change may change what any of them does",
        "none",
    );
    let named = section.named("signals");
    let mut signals = Vec::new();
    if named.is_empty() {
        // So that its keys are known.
        signal(section.entry("signals", "", None), "");
        if present {
            section.problem("signals", "no signal, so nothing could be judged");
        }
    }
    if named.len() > SIGNALS_MAX {
        section.problem(
            "signals",
            format!("{} signals; the limit is {SIGNALS_MAX}", named.len()),
        );
    }
    for (key, node) in named {
        let name = key.text().unwrap_or_default();
        signals.push(signal(section.entry("signals", name, Some(node)), name));
    }
    if present && format.is_none() && !section.has("format") {
        section.problem("format", "say how the counters are read");
    }
    if format.is_some_and(|it| it != FlowFormat::LocalLink) && url.is_none() && !section.has("url")
    {
        section.problem("url", "this format needs a url");
    }
    section.finish();
    Some(Flow {
        format: format?,
        url: url.unwrap_or_default(),
        address,
        off,
        uptime,
        labels,
        sections,
        shared: shared.unwrap_or_default(),
        signals,
    })
}

/// A build without the check takes the section for read.
#[cfg(not(feature = "flow"))]
pub(super) fn flow(_: Section<'_, '_, '_>) -> Option<Flow> {
    None
}

#[cfg(feature = "flow")]
fn signal(mut section: Section<'_, '_, '_>, name: &str) -> FlowSignal {
    let abouts = [
        ("accepted", "counters of what came in"),
        ("refused", "counters of what came and was not taken"),
        ("sent", "counters of what went out"),
        (
            "failed",
            "counters of what should have gone out and did not",
        ),
        ("waiting", "levels of what waits to go out"),
    ];
    let counters = abouts.map(|(key, about)| {
        let kind = ("list of texts", about);
        let found = section.list(key, kind, "none", |_, text| selector(text));
        found.unwrap_or_default()
    });
    let flows = [FlowRole::Accepted, FlowRole::Sent];
    if section.is_present()
        && flows
            .iter()
            .all(|role| counters.get(*role as usize).is_none_or(Vec::is_empty))
    {
        section.problem(
            "",
            "neither `accepted` nor `sent`, so nothing could be judged",
        );
    }
    let pipelines = section.text(
        "pipelines",
        "section whose entries carry the signal: those of the last key, and those that begin with it and `/`",
        "none",
    );
    section.finish();
    FlowSignal {
        name: name.to_owned(),
        counters,
        pipelines,
    }
}

/// `name`, `name{label=value}`, or a dotted path with at most one `*`.
#[cfg(feature = "flow")]
fn selector(text: &str) -> Result<String, String> {
    const BYTES_MAX: usize = 200;
    let braces = text.matches(['{', '}']).count();
    let labelled = text.ends_with('}') && text.contains('{') && text.contains('=') && braces == 2;
    if text.is_empty() || text.len() > BYTES_MAX || text.matches('*').count() > 1 {
        Err("a counter's name belongs here, or a dotted path with at most one `*`".to_owned())
    } else if braces > 0 && !labelled {
        Err("write a label as `name{label=value}`".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(feature = "flow")]
fn pair(text: &str, by: &str) -> Result<(String, String), String> {
    match text.split_once(by) {
        Some((left, right)) if !left.is_empty() && !right.is_empty() => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => Err(format!("two parts with `{by}` between them belong here")),
    }
}

/// The part that a dotted path is of, if the selector means it: what stands for its `*`, or nothing without one.
#[cfg(feature = "flow")]
pub fn part_by_path<'p>(selector: &str, path: &'p str) -> Option<&'p str> {
    match selector.split_once('*') {
        Some((before, after)) => path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .filter(|part| !part.is_empty()),
        None => (selector == path).then_some(""),
    }
}
