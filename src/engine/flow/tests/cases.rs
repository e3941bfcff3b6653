//! The labelled cases. A case is what ran before and what runs after, with what the two configs say of it.

use std::time::Duration;

use super::program::{Destination, Habit, Phase, Source, Taking};
use super::{SECOND, Shape, shape};

/// What is true of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    /// Data is lost, and the config does it.
    Broken,
    /// Nothing is wrong with the config.
    Good,
    /// Nobody can tell from counters, so nobody may say anything.
    Untold,
    /// What the classifier gets wrong, and why stands in the manual.
    Limit,
}

impl Truth {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Good => "good",
            Self::Untold => "cannot be told",
            Self::Limit => "known limit",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) family: &'static str,
    pub(super) name: String,
    pub(super) truth: Truth,
    pub(super) before: Phase,
    pub(super) after: Phase,
    pub(super) old: Shape,
    pub(super) new: Shape,
    /// Seconds.
    pub(super) baseline: u64,
    pub(super) restart: bool,
    pub(super) window: Duration,
    /// The program dies and comes back at this second of the baseline.
    pub(super) crash: Option<u64>,
    /// Nobody looks from one second of the baseline to another.
    pub(super) sleep: Option<(u64, u64)>,
}

pub(super) const LOGS: usize = 0;
pub(super) const METRICS: usize = 1;
pub(super) const TRACES: usize = 2;
const IN: usize = 0;
const OUT: usize = 1;

/// A change under construction: one source and one destination of logs, nothing changed.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    old: Vec<(usize, usize, &'static str, u64)>,
    case: Case,
    shared: u64,
}

pub(super) fn steady(rate: f64) -> Habit {
    Habit::Steady(rate)
}

pub(super) const fn source(signal: usize, part: &'static str, habit: Habit) -> Source {
    Source {
        signal,
        part,
        habit,
    }
}

pub(super) const fn to(signal: usize, part: &'static str) -> Destination {
    Destination {
        signal,
        part,
        taking: Taking::All,
        share: 1.0,
    }
}

/// What the config says: parts with their signal and side.
type Config = Vec<(usize, usize, &'static str, u64)>;

fn config(sources: &[Source], destinations: &[Destination]) -> Config {
    let sources = sources.iter().map(|it| (it.signal, IN, it.part, 1));
    let destinations = destinations.iter().map(|it| (it.signal, OUT, it.part, 1));
    sources.chain(destinations).collect()
}

fn phase(sources: &[Source], destinations: &[Destination]) -> Phase {
    Phase {
        sources: sources.to_vec(),
        destinations: destinations.to_vec(),
        refuses: None,
        warm_up: 0,
        hold: 0,
        batch: 1,
    }
}

impl Draft {
    pub(super) fn of(sources: &[Source], destinations: &[Destination]) -> Self {
        let old = config(sources, destinations);
        let both = phase(sources, destinations);
        Self {
            case: Case {
                family: "",
                name: String::new(),
                truth: Truth::Good,
                before: both.clone(),
                after: both,
                old: shape(&old, 0),
                new: shape(&old, 0),
                baseline: 300,
                restart: true,
                window: 60 * SECOND,
                crash: None,
                sleep: None,
            },
            old,
            shared: 0,
        }
    }

    pub(super) fn logs(habit: Habit) -> Self {
        Self::of(&[source(LOGS, "otlp", habit)], &[to(LOGS, "otlp_http")])
    }

    /// The new config says another thing of a part.
    pub(super) fn says(mut self, part: &str) -> Self {
        for (_, _, name, text) in &mut self.old {
            if *name == part {
                *text += 1;
            }
        }
        self.case.new = shape(&self.old, self.shared);
        self
    }

    /// The new config has these parts.
    pub(super) fn has(mut self, sources: &[Source], destinations: &[Destination]) -> Self {
        self.case.after = phase(sources, destinations);
        self.case.new = shape(&config(sources, destinations), 0);
        self
    }

    fn shares(mut self) -> Self {
        self.shared = 1;
        self.case.new = shape(&self.old, 1);
        self
    }

    pub(super) fn after(mut self, change: impl FnOnce(&mut Phase)) -> Self {
        change(&mut self.case.after);
        self
    }

    fn before(mut self, change: impl Fn(&mut Phase)) -> Self {
        change(&mut self.case.before);
        self
    }

    pub(super) fn both(mut self, change: impl Fn(&mut Phase)) -> Self {
        change(&mut self.case.before);
        change(&mut self.case.after);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Case)) -> Self {
        change(&mut self.case);
        self
    }

    /// What comes to a source from now on.
    fn comes(self, part: &'static str, habit: Habit) -> Self {
        self.after(|phase| {
            for source in phase.sources.iter_mut().filter(|it| it.part == part) {
                source.habit = habit;
            }
        })
    }

    /// Nothing comes to it any more.
    pub(super) fn deaf(self, part: &'static str) -> Self {
        self.comes(part, steady(0.0))
    }

    pub(super) fn takes(self, part: &'static str, taking: Taking) -> Self {
        self.after(|phase| {
            for it in phase.destinations.iter_mut().filter(|it| it.part == part) {
                it.taking = taking;
            }
        })
    }

    pub(super) fn lets_through(self, signal: usize, share: f64) -> Self {
        self.after(|phase| {
            for it in phase
                .destinations
                .iter_mut()
                .filter(|it| it.signal == signal)
            {
                it.share = share;
            }
        })
    }
}

/// Cases of a family over ways to reload and lengths of baseline.
pub(super) struct Book(Vec<Case>);

impl Book {
    pub(super) fn add(
        &mut self,
        truth: Truth,
        family: &'static str,
        name: impl Into<String>,
        draft: Draft,
    ) {
        let mut case = draft.case;
        case.truth = truth;
        case.family = family;
        case.name = name.into();
        self.0.push(case);
    }

    pub(super) fn both_ways(
        &mut self,
        truth: Truth,
        family: &'static str,
        name: &str,
        draft: &Draft,
    ) {
        for (restart, way) in [(true, "restart"), (false, "HUP")] {
            let draft = draft.clone().with(|case| case.restart = restart);
            self.add(truth, family, format!("{name}, {way}"), draft);
        }
    }
}

const RATES: [f64; 5] = [1.0, 10.0, 100.0, 2_000.0, 50_000.0];

pub(super) fn all(with_held_out: bool) -> Vec<Case> {
    let mut book = Book(Vec::new());
    if with_held_out {
        super::held_out::held_out(&mut book);
    }
    broken_in(&mut book);
    broken_out(&mut book);
    broken_in_part(&mut book);
    good_by_itself(&mut book);
    good_with_a_gap(&mut book);
    good_on_purpose(&mut book);
    good_in_time(&mut book);
    untold(&mut book);
    limits(&mut book);
    book.0
}

fn broken_in(book: &mut Book) {
    let broken = Truth::Broken;
    for rate in RATES {
        let draft = Draft::logs(steady(rate)).says("otlp").deaf("otlp");
        book.both_ways(
            broken,
            "receiver on another port",
            &format!("{rate}/s"),
            &draft,
        );
        let long = draft.clone().with(|case| case.baseline = 1_200);
        book.add(
            broken,
            "receiver on another port",
            format!("{rate}/s, long baseline"),
            long,
        );
        let auth = Draft::logs(steady(rate)).shares().deaf("otlp");
        book.add(
            broken,
            "clients turned away by an extension",
            format!("{rate}/s"),
            auth,
        );
        let renamed = Draft::logs(steady(rate)).has(
            &[source(LOGS, "otlp/2", steady(0.0))],
            &[to(LOGS, "otlp_http")],
        );
        book.add(
            broken,
            "renamed receiver on another port",
            format!("{rate}/s"),
            renamed,
        );
        let full = Draft::logs(steady(rate)).after(|phase| phase.refuses = Some(0));
        book.both_ways(
            broken,
            "memory limiter turns all away",
            &format!("{rate}/s"),
            &full,
        );
    }
    for rate in [10.0, 500.0] {
        for end in [5, 12, 20] {
            let draft = Draft::logs(steady(rate))
                .says("otlp")
                .comes("otlp", Habit::Until(rate, end));
            book.add(
                broken,
                "flows first, then stops",
                format!("{rate}/s until {end} s"),
                draft,
            );
        }
        for left in [0.97, 0.9, 0.8] {
            let draft = Draft::logs(Habit::Fading(rate * 10.0, left))
                .says("otlp")
                .deaf("otlp");
            book.add(
                broken,
                "breaks while the day fades",
                format!("{rate}/s × {left} a minute"),
                draft,
            );
        }
        let draft = Draft::logs(Habit::Swinging(rate)).says("otlp").deaf("otlp");
        book.both_ways(
            broken,
            "receiver on another port",
            &format!("swinging {rate}/s"),
            &draft,
        );
    }
}

fn broken_out(book: &mut Book) {
    let broken = Truth::Broken;
    for rate in RATES {
        let filter = Draft::logs(steady(rate)).lets_through(LOGS, 0.0);
        book.both_ways(broken, "filter drops all", &format!("{rate}/s"), &filter);
        let nowhere = Draft::logs(steady(rate))
            .says("otlp_http")
            .takes("otlp_http", Taking::Silent);
        book.both_ways(
            broken,
            "exporter to nowhere, it waits",
            &format!("{rate}/s"),
            &nowhere,
        );
        let refused = Draft::logs(steady(rate))
            .says("otlp_http")
            .takes("otlp_http", Taking::Refuses);
        book.both_ways(
            broken,
            "exporter to nowhere, it fails",
            &format!("{rate}/s"),
            &refused,
        );
        let other = Draft::logs(steady(rate)).has(
            &[source(LOGS, "otlp", steady(rate))],
            &[Destination {
                taking: Taking::Silent,
                ..to(LOGS, "kafka")
            }],
        );
        book.add(
            broken,
            "another exporter to nowhere",
            format!("{rate}/s"),
            other,
        );
        let nothing = Draft::logs(steady(rate)).has(&[], &[]);
        book.both_ways(
            broken,
            "all pipelines dropped",
            &format!("{rate}/s"),
            &nothing,
        );
    }
    for period in [10, 15, 30] {
        let scrape = Draft::of(
            &[source(METRICS, "host", Habit::Scrape(period, 300.0))],
            &[to(METRICS, "otlp_http")],
        );
        let filter = scrape.clone().lets_through(METRICS, 0.0);
        let name = format!("every {period} s");
        book.add(
            broken,
            "scrapes into a filter that drops all",
            name.clone(),
            filter,
        );
        let nowhere = scrape.says("otlp_http").takes("otlp_http", Taking::Silent);
        book.add(broken, "scrapes to nowhere", name, nowhere);
    }
    let minute = Draft::of(
        &[source(METRICS, "host", Habit::Scrape(60, 300.0))],
        &[to(METRICS, "otlp_http")],
    );
    let minute = minute.lets_through(METRICS, 0.0).with(|case| {
        case.window = 180 * SECOND;
        case.baseline = 900;
    });
    book.add(
        broken,
        "scrapes into a filter that drops all",
        "every 60 s, window 3m",
        minute,
    );
    for rate in [10.0, 1_000.0] {
        for batch in [2, 5, 10] {
            let draft = Draft::logs(steady(rate)).both(|phase| phase.batch = batch);
            let draft = draft.says("otlp_http").takes("otlp_http", Taking::Refuses);
            book.add(
                broken,
                "exporter to nowhere, it fails",
                format!("{rate}/s, batches of {batch} s"),
                draft,
            );
        }
    }
}

fn two(rate: f64, share: f64) -> [Source; 2] {
    [
        source(LOGS, "otlp", steady(rate * (1.0 - share))),
        source(LOGS, "syslog", steady(rate * share)),
    ]
}

fn broken_in_part(book: &mut Book) {
    let broken = Truth::Broken;
    for share in [0.02, 0.25, 0.5, 0.9] {
        for rate in [200.0, 5_000.0] {
            let name = format!("{share} of {rate}/s");
            let draft = Draft::of(&two(rate, share), &[to(LOGS, "otlp_http")]);
            let dead = draft.says("syslog").deaf("syslog");
            book.add(broken, "one of two receivers dead", name.clone(), dead);
            let sources = [two(rate, share)[0], source(LOGS, "syslog/b", steady(0.0))];
            let renamed = Draft::of(&two(rate, share), &[to(LOGS, "otlp_http")])
                .has(&sources, &[to(LOGS, "otlp_http")]);
            book.add(
                broken,
                "one of two receivers renamed and dead",
                name,
                renamed,
            );
        }
    }
    for rate in [20.0, 2_000.0] {
        for taking in [Taking::Silent, Taking::Refuses] {
            let draft = Draft::of(
                &[source(LOGS, "otlp", steady(rate))],
                &[to(LOGS, "otlp_http"), to(LOGS, "file")],
            );
            let draft = draft.says("otlp_http").takes("otlp_http", taking);
            book.add(
                broken,
                "one of two exporters to nowhere",
                format!("{rate}/s, {taking:?}"),
                draft,
            );
        }
        for signal in [LOGS, METRICS, TRACES] {
            let all = |part| [LOGS, METRICS, TRACES].map(|signal| to(signal, part));
            let sources =
                [LOGS, METRICS, TRACES].map(|signal| source(signal, "otlp", steady(rate)));
            let draft = Draft::of(&sources, &all("otlp_http")).lets_through(signal, 0.0);
            book.add(
                broken,
                "one of three signals dropped",
                format!("signal {signal}, {rate}/s"),
                draft,
            );
        }
    }
}

fn good_by_itself(book: &mut Book) {
    let good = Truth::Good;
    for rate in RATES {
        let draft = Draft::logs(steady(rate)).says("otlp").says("otlp_http");
        book.both_ways(good, "all is well", &format!("{rate}/s"), &draft);
        let swinging = Draft::logs(Habit::Swinging(rate)).says("otlp");
        book.add(good, "all is well", format!("swinging {rate}/s"), swinging);
        let gone = Draft::logs(steady(rate))
            .deaf("otlp")
            .lets_through(LOGS, 1.0);
        book.add(
            good,
            "what comes in ends by itself",
            format!("{rate}/s"),
            gone.says("otlp_http"),
        );
    }
    for left in [0.95, 0.8, 0.6, 0.4] {
        for rate in [5.0, 300.0, 20_000.0] {
            let draft = Draft::logs(Habit::Fading(rate, left)).says("otlp");
            book.add(
                good,
                "night dip",
                format!("{rate}/s × {left} a minute"),
                draft,
            );
        }
    }
    for rate in [0.0, 0.003, 0.02, 0.1] {
        let draft = Draft::logs(steady(rate)).says("otlp").says("otlp_http");
        book.both_ways(good, "quiet host", &format!("{rate}/s"), &draft);
    }
    for (work, rest) in [(5, 55), (20, 100), (60, 240), (120, 480), (200, 60)] {
        for baseline in [300, 1_200] {
            let draft = Draft::logs(Habit::Bursts(500.0, work, rest)).says("otlp");
            let draft = draft.with(|case| case.baseline = baseline);
            book.add(
                good,
                "batch job",
                format!("{work} s of {} s, {baseline} s seen", work + rest),
                draft,
            );
        }
    }
    for rate in [10.0, 1_000.0] {
        for taking in [Taking::Silent, Taking::Refuses] {
            let name = format!("{rate}/s, {taking:?}");
            let dead = |phase: &mut Phase| {
                for it in &mut phase.destinations {
                    it.taking = taking;
                }
            };
            let before = Draft::logs(steady(rate)).both(dead).says("otlp");
            book.add(
                good,
                "backend was dead before",
                name.clone(),
                before.clone(),
            );
            book.add(
                good,
                "backend was dead before",
                format!("{name}, moved"),
                before.says("otlp_http"),
            );
            let dies = Draft::logs(steady(rate))
                .says("otlp")
                .takes("otlp_http", taking);
            book.add(
                good,
                "backend dies after the change",
                name.clone(),
                dies.clone(),
            );
            let comes = Draft::logs(steady(rate)).before(dead).says("otlp_http");
            book.add(good, "backend comes back with the change", name, comes);
        }
        let full = Draft::logs(steady(rate)).takes("otlp_http", Taking::Silent);
        let full = full.after(|phase| phase.refuses = Some(10));
        book.add(
            good,
            "dead backend, full up to the door",
            format!("{rate}/s"),
            full,
        );
    }
}

fn good_with_a_gap(book: &mut Book) {
    let good = Truth::Good;
    for rate in [10.0, 1_000.0] {
        for at in [30, 150, 290] {
            let draft = Draft::logs(steady(rate))
                .says("otlp")
                .with(|case| case.crash = Some(at));
            book.add(
                good,
                "crash in the baseline",
                format!("{rate}/s at {at} s"),
                draft,
            );
        }
        let slept = Draft::logs(steady(rate))
            .says("otlp")
            .with(|case| case.sleep = Some((60, 160)));
        book.add(good, "host slept", format!("{rate}/s"), slept);
    }
}

fn good_on_purpose(book: &mut Book) {
    let good = Truth::Good;
    for rate in [50.0, 3_000.0] {
        for share in [0.5, 0.1, 0.05] {
            let draft = Draft::logs(steady(rate)).lets_through(LOGS, share);
            book.both_ways(
                good,
                "sampling on purpose",
                &format!("{rate}/s to {share}"),
                &draft,
            );
        }
        let sources = [source(LOGS, "otlp/new", steady(rate))];
        let renamed = Draft::logs(steady(rate)).has(&sources, &[to(LOGS, "otlp_http")]);
        book.both_ways(good, "renamed receiver", &format!("{rate}/s"), &renamed);
        let exporter = Draft::logs(steady(rate))
            .has(&[source(LOGS, "otlp", steady(rate))], &[to(LOGS, "file")]);
        book.both_ways(good, "another exporter", &format!("{rate}/s"), &exporter);
        for share in [0.1, 0.5, 0.995] {
            let sources = two(rate, share);
            let draft = Draft::of(&sources, &[to(LOGS, "otlp_http")]);
            let one = draft.has(&sources[..1], &[to(LOGS, "otlp_http")]);
            book.add(
                good,
                "one of two receivers removed",
                format!("{share} of {rate}/s"),
                one,
            );
        }
        let both = [to(LOGS, "otlp_http"), to(LOGS, "file")];
        let sources = [source(LOGS, "otlp", steady(rate))];
        let fewer = Draft::of(&sources, &both).has(&sources, &both[..1]);
        book.add(
            good,
            "one of two exporters removed",
            format!("{rate}/s"),
            fewer,
        );
        let more = Draft::of(&sources, &both[..1]).has(&sources, &both);
        book.add(good, "an exporter added", format!("{rate}/s"), more);
        let silent = [sources[0], source(LOGS, "syslog", steady(0.0))];
        let idle = Draft::of(&sources, &both[..1]).has(&silent, &both[..1]);
        book.add(
            good,
            "a receiver added that nobody uses yet",
            format!("{rate}/s"),
            idle,
        );
        let signals = [sources[0], source(TRACES, "otlp", steady(rate))];
        let outs = [to(LOGS, "otlp_http"), to(TRACES, "otlp_http")];
        let removed = Draft::of(&signals, &outs).has(&signals[..1], &outs[..1]);
        book.both_ways(good, "a signal removed", &format!("{rate}/s"), &removed);
        let instead = Draft::of(&signals[..1], &outs[..1]).has(&signals[1..], &outs[1..]);
        book.add(
            good,
            "one signal in place of another",
            format!("{rate}/s"),
            instead,
        );
        let routed = Draft::of(&sources, &both).after(|phase| phase.destinations[1].share = 0.0);
        book.add(
            good,
            "all routed to one of two exporters",
            format!("{rate}/s"),
            routed,
        );
    }
}

fn good_in_time(book: &mut Book) {
    let good = Truth::Good;
    for rate in [10.0, 1_000.0] {
        for warm_up in [3, 8, 15, 25, 40] {
            let draft = Draft::logs(steady(rate))
                .says("otlp")
                .after(|phase| phase.warm_up = warm_up);
            book.add(good, "slow start", format!("{rate}/s, {warm_up} s"), draft);
        }
        for hold in [10, 30, 45] {
            let draft = Draft::logs(steady(rate)).after(|phase| phase.hold = hold);
            book.add(
                good,
                "held back before it goes out",
                format!("{rate}/s, {hold} s"),
                draft,
            );
        }
        for part in [0.6, 0.3, 0.1] {
            let draft = Draft::logs(steady(rate))
                .says("otlp_http")
                .takes("otlp_http", Taking::Part(part));
            book.add(
                good,
                "back-pressure",
                format!("{rate}/s, {part} taken"),
                draft,
            );
        }
        for batch in [5, 10, 20, 60] {
            let draft = Draft::logs(steady(rate))
                .says("otlp")
                .both(|phase| phase.batch = batch);
            book.add(
                good,
                "goes out in batches",
                format!("{rate}/s every {batch} s"),
                draft,
            );
        }
    }
    for period in [5, 10, 15, 30, 60, 300] {
        let draft = Draft::of(
            &[source(METRICS, "host", Habit::Scrape(period, 250.0))],
            &[to(METRICS, "otlp_http")],
        );
        book.both_ways(
            good,
            "scrapes",
            &format!("every {period} s"),
            &draft.says("host").says("otlp_http"),
        );
    }
    let spans = Draft::of(
        &[source(TRACES, "otlp", steady(100.0))],
        &[to(TRACES, "otlp_http"), to(METRICS, "prometheus")],
    );
    book.both_ways(
        good,
        "metrics out of a connector",
        "100/s",
        &spans.says("otlp"),
    );
}

fn untold(book: &mut Book) {
    let untold = Truth::Untold;
    for baseline in [15, 60, 110] {
        let draft = Draft::logs(steady(200.0))
            .says("otlp")
            .with(|case| case.baseline = baseline);
        book.add(
            untold,
            "too little baseline",
            format!("{baseline} s, good"),
            draft.clone(),
        );
        book.add(
            untold,
            "too little baseline",
            format!("{baseline} s, broken"),
            draft.deaf("otlp"),
        );
    }
    for rate in [0.003, 0.01] {
        let draft = Draft::logs(steady(rate)).says("otlp").deaf("otlp");
        book.add(untold, "quiet host, broken", format!("{rate}/s"), draft);
    }
    let bursts = Draft::logs(Habit::Bursts(500.0, 10, 110))
        .says("otlp")
        .deaf("otlp");
    let bursts = bursts.with(|case| case.baseline = 900);
    book.add(untold, "batch job, broken", "10 s of 120 s", bursts);
}

fn limits(book: &mut Book) {
    let limit = Truth::Limit;
    let close = Draft::logs(steady(300.0)).says("otlp").deaf("otlp");
    book.add(
        limit,
        "clients leave just as their receiver is changed",
        "300/s",
        close,
    );
    let rejects = Draft::logs(steady(300.0)).takes("otlp_http", Taking::Refuses);
    book.add(
        limit,
        "a processor makes the backend refuse all",
        "300/s",
        rejects,
    );
    let thin = Draft::logs(steady(3_000.0)).lets_through(LOGS, 0.005);
    book.add(limit, "sampling to half a percent", "3000/s", thin);
    let minute = Draft::of(
        &[source(METRICS, "host", Habit::Scrape(60, 300.0))],
        &[to(METRICS, "otlp_http")],
    );
    book.add(
        limit,
        "scrapes every 60 s, broken, window 1m",
        "60 s",
        minute.lets_through(METRICS, 0.0),
    );
    let mut late = Draft::logs(steady(300.0)).says("otlp");
    late = late.after(|phase| phase.warm_up = 90);
    book.add(limit, "starts later than the window", "90 s", late);
    let fed = Draft::of(
        &[source(LOGS, "otlp", steady(300.0))],
        &[to(LOGS, "otlp_http"), to(LOGS, "file")],
    );
    let fed = fed.after(|phase| phase.destinations[1].share = 0.0);
    book.add(
        limit,
        "a filter drops all before one of two exporters",
        "300/s",
        fed,
    );
}
