//! Families that the classifier was not made with: mixtures of habits that the others have one at a time.

use super::cases::{Book, Draft, LOGS, METRICS, TRACES, Truth, source, steady, to};
use super::program::{Destination, Habit, Taking};

pub(super) fn held_out(book: &mut Book) {
    for rate in [3.0, 60.0, 900.0] {
        three_habits(book, rate);
        three_signals(book, rate);
    }
    for (work, rest) in [(30, 30), (7, 13), (45, 15)] {
        let draft = Draft::logs(Habit::Bursts(400.0, work, rest)).says("otlp");
        let name = format!("{work} s of {} s", work + rest);
        book.both_ways(Truth::Good, "held out: short bursts", &name, &draft);
    }
    let tail = Draft::logs(steady(80.0)).after(|phase| {
        phase.hold = 20;
        phase.warm_up = 15;
        phase.batch = 10;
    });
    book.both_ways(
        Truth::Good,
        "held out: late, held back and in batches",
        "80/s",
        &tail.says("otlp"),
    );
}

fn three_habits(book: &mut Book, rate: f64) {
    let name = format!("{rate}/s");
    let habits = [
        source(LOGS, "otlp", Habit::Swinging(rate)),
        source(LOGS, "file", Habit::Bursts(rate * 5.0, 20, 40)),
        source(LOGS, "syslog", Habit::Fading(rate, 0.9)),
    ];
    let outs = [to(LOGS, "otlp_http"), to(LOGS, "file")];
    let mixed = Draft::of(&habits, &outs).both(|phase| phase.batch = 3);
    book.both_ways(
        Truth::Good,
        "held out: three habits",
        &name,
        &mixed.clone().says("otlp").says("file"),
    );
    book.add(
        Truth::Good,
        "held out: three habits",
        format!("{name}, slow"),
        mixed.clone().says("otlp").after(|phase| phase.warm_up = 18),
    );
    book.add(
        Truth::Good,
        "held out: three habits",
        format!("{name}, thinned"),
        mixed.clone().lets_through(LOGS, 0.07),
    );
    let dropped = mixed.clone().lets_through(LOGS, 0.0);
    book.both_ways(
        Truth::Broken,
        "held out: three habits, nothing let through",
        &name,
        &dropped,
    );
    let deaf = mixed
        .clone()
        .says("otlp")
        .deaf("otlp")
        .deaf("file")
        .deaf("syslog");
    book.add(
        Truth::Broken,
        "held out: three habits, nothing comes in",
        name.clone(),
        deaf,
    );
    let lost = mixed.says("otlp_http").takes("otlp_http", Taking::Silent);
    book.add(
        Truth::Broken,
        "held out: three habits, one of two lost",
        name,
        lost,
    );
}

fn three_signals(book: &mut Book, rate: f64) {
    let name = format!("{rate}/s");
    let signals = [
        source(LOGS, "otlp", Habit::Swinging(rate)),
        source(METRICS, "host", Habit::Scrape(20, rate * 3.0)),
        source(TRACES, "otlp", Habit::Fading(rate, 0.7)),
    ];
    let outs = [to(LOGS, "a"), to(METRICS, "a"), to(TRACES, "a")];
    let three = Draft::of(&signals, &outs);
    let fewer = three.clone().has(&signals[..2], &outs[..2]);
    book.both_ways(
        Truth::Good,
        "held out: traces removed from three signals",
        &name,
        &fewer,
    );
    let moved = signals.map(|mut it| {
        it.part = if it.part == "otlp" { "otlp/b" } else { it.part };
        it
    });
    let renamed = three.clone().has(&moved, &outs);
    book.both_ways(
        Truth::Good,
        "held out: receivers renamed in three signals",
        &name,
        &renamed,
    );
    let elsewhere = outs.map(|it| Destination {
        part: "b",
        taking: Taking::Refuses,
        ..it
    });
    let lost = three.has(&signals, &elsewhere).both(|phase| phase.hold = 4);
    book.both_ways(
        Truth::Broken,
        "held out: another backend refuses all signals",
        &name,
        &lost,
    );
}
