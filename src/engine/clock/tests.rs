//! Given a watched clock, when looks are answered, clocks jump and settings change, then it is as the table says.

mod told;

use super::*;

const EPOCH: u64 = 1_800_000_000_000;

fn settings() -> ClockWatch {
    ClockWatch {
        url: Some("https://time.test/".to_owned()),
        check_interval: Duration::from_mins(5),
        max_skew: Duration::from_secs(5),
        require_synchronised: false,
    }
}

/// A moment of both clocks, the wall clock `ahead_ms` of what it would be.
fn at(secs: u64, ahead_ms: i64) -> Now {
    let wall = EPOCH + secs * 1000;
    Now {
        mono: Moment::START.after(Duration::from_secs(secs)),
        wall: WallTime::from_unix_millis(wall.saturating_add_signed(ahead_ms)),
    }
}

fn clock(settings: ClockWatch) -> Clock {
    let mut clock = Clock::new(ClockSetup {
        settings: Some(settings),
        server: None,
        asleep: Duration::ZERO,
    });
    clock.start(at(0, 0));
    clock
}

fn look(skew: Option<Result<i64, &str>>) -> ClockLook {
    ClockLook {
        skew_ms: skew.map(|skew| skew.map_err(str::to_owned)),
        synchronised: Some(true),
        asleep: Duration::ZERO,
    }
}

fn notes(effects: &[Effect]) -> Vec<(&'static str, String)> {
    let notes = effects.iter().filter_map(|effect| match effect {
        Effect::Note(note) => Some((note.message, note.fields[0].1.clone())),
        _ => None,
    });
    notes.collect()
}

/// Makes the look that is due and answers it; says what was noted.
fn looked(clock: &mut Clock, now: Now, answer: ClockLook) -> Vec<(&'static str, String)> {
    let effects = clock.tick(now);
    let [Effect::LookAtClock { ticket, .. }] = effects.as_slice() else {
        panic!("no look: {effects:?}")
    };
    notes(&clock.looked(now, *ticket, answer))
}

#[test]
fn looks_come_a_minute_after_the_start_then_at_the_interval_and_one_at_a_time() {
    let mut clock = clock(settings());
    assert_eq!(clock.due(), Some(at(60, 0).mono));
    assert!(clock.tick(at(59, 0)).is_empty());
    let effects = clock.tick(at(60, 0));
    assert!(
        matches!(effects.as_slice(), [Effect::LookAtClock { .. }]),
        "{effects:?}"
    );
    assert_eq!(clock.due(), None);
    assert!(clock.tick(at(900, 0)).is_empty());
    // An answer to another question changes nothing.
    clock.looked(at(901, 0), Ticket(99), look(Some(Ok(60_000))));
    assert!(clock.condition().unwrap().0);
    clock.looked(at(901, 0), Ticket(1), look(Some(Ok(0))));
    assert_eq!(clock.due(), Some(at(901 + 300, 0).mono));
    clock.stop();
    assert_eq!(clock.due(), None);
}

#[test]
fn thresholds_are_those_of_the_settings_and_the_sign_is_said() {
    let beyond = "set the clock (NTP)";
    for (skew, well, part) in [
        (0, true, "within 5s of the other clock"),
        (5_000, true, "within 5s"),
        (-5_000, true, "within 5s"),
        (5_001, false, "5 s ahead of the other one"),
        (-60_400, false, "60 s behind the other one"),
    ] {
        let mut clock = clock(settings());
        looked(&mut clock, at(60, 0), look(Some(Ok(skew))));
        let (found, words) = clock.condition().unwrap();
        assert_eq!(found, well, "{skew}");
        assert!(
            words.contains(part) && words.contains(beyond) != well,
            "{words}"
        );
    }
    let wide = ClockWatch {
        max_skew: Duration::from_mins(2),
        ..settings()
    };
    let mut clock = clock(wide);
    looked(&mut clock, at(60, 0), look(Some(Ok(60_000))));
    assert!(clock.condition().unwrap().0);
}

#[test]
fn a_site_that_cannot_be_asked_is_no_fault_of_the_clock() {
    let mut clock = clock(settings());
    let noted = looked(&mut clock, at(60, 0), look(Some(Err("connect: refused"))));
    assert!(noted.is_empty(), "{noted:?}");
    let wanted = "not compared with another clock: connect: refused";
    assert_eq!(clock.condition(), Some((true, wanted.to_owned())));
    // One that was off before stays off until somebody says otherwise.
    looked(&mut clock, at(360, 0), look(Some(Ok(60_000))));
    looked(&mut clock, at(660, 0), look(Some(Err("connect: refused"))));
    assert!(!clock.condition().unwrap().0);
    assert_eq!(clock.snapshot().unwrap().last_error, "connect: refused");
}

#[test]
fn a_clock_that_goes_in_and_out_of_bounds_is_told_of_once_an_hour() {
    let mut clock = clock(settings());
    let mut said = 0;
    for turn in 0..24 {
        let skew = if turn % 2 == 0 { 6_000 } else { 0 };
        let noted = looked(&mut clock, at(60 + turn * 300, 0), look(Some(Ok(skew))));
        said += noted
            .iter()
            .filter(|it| it.0 == "clock is not right")
            .count();
    }
    assert_eq!(said, 2, "in two hours");
}

#[test]
fn a_clock_that_stays_off_is_told_of_once_and_one_that_is_off_again_after_an_hour_again() {
    let told_of = |is_off: fn(u64) -> bool, turns: u64| {
        let mut clock = clock(settings());
        let looks = (0..turns).flat_map(|turn| {
            let skew = if is_off(turn) { 6_000 } else { 0 };
            looked(&mut clock, at(60 + turn * 300, 0), look(Some(Ok(skew))))
        });
        looks.filter(|it| it.0 == "clock is not right").count()
    };
    assert_eq!(told_of(|_| true, 36), 1, "in three hours");
    assert_eq!(told_of(|turn| turn % 12 == 0, 13), 2, "an hour later");
    assert_eq!(told_of(|turn| turn % 11 == 0, 12), 1, "less than an hour");
}

#[test]
fn a_clock_that_was_set_is_told_and_looked_at_and_sleep_is_no_jump() {
    let mut clock = clock(settings());
    looked(&mut clock, at(60, 0), look(Some(Ok(0))));
    let told = notes(&clock.jumped(at(100, 3_600_000), Duration::ZERO));
    assert_eq!(told, [("clock was set", "forward by 3600 s".to_owned())]);
    assert_eq!(clock.due(), Some(at(100, 0).mono), "looked at again now");
    assert_eq!(
        clock.snapshot().unwrap().skew_ms,
        None,
        "what was compared is over"
    );
    looked(&mut clock, at(100, 3_600_000), look(Some(Ok(3_600_000))));
    assert!(!clock.condition().unwrap().0);
    let told = notes(&clock.jumped(at(200, 0), Duration::ZERO));
    assert_eq!(told, [("clock was set", "back by 3600 s".to_owned())]);
    // Two hours of sleep: the wall clock went on, ours did not.
    let slept = Duration::from_hours(2);
    assert!(notes(&clock.jumped(at(201, 7_200_000), slept)).is_empty());
    let snapshot = clock.snapshot().unwrap();
    assert_eq!(
        (snapshot.jumps, snapshot.last_jump.unwrap().1),
        (2, -3_600_000)
    );
    // A service slews by half a thousandth: three seconds in a hundred minutes.
    assert!(notes(&clock.jumped(at(6_201, 7_203_000), slept)).is_empty());
}

#[test]
fn one_that_nothing_keeps_degrades_where_the_settings_say_so() {
    for (required, synchronised, well) in [
        (false, Some(false), true),
        (true, Some(false), false),
        (true, Some(true), true),
        (true, None, true),
    ] {
        let mut clock = clock(ClockWatch {
            url: None,
            require_synchronised: required,
            ..settings()
        });
        if !required {
            assert_eq!(clock.due(), None, "there is nothing to look for");
            clock.jumped(at(0, 0), Duration::ZERO);
            assert_eq!(clock.due(), None);
            continue;
        }
        let seen = ClockLook {
            synchronised,
            ..look(None)
        };
        looked(&mut clock, at(60, 0), seen);
        assert_eq!(clock.condition().unwrap().0, well, "{synchronised:?}");
    }
}

#[test]
fn the_servers_site_is_asked_unless_the_settings_name_another() {
    for (endpoint, wanted) in [
        (
            "wss://fleet.test:4320/v1/opamp?x=1",
            "https://fleet.test:4320/",
        ),
        ("ws://[::1]:80", "http://[::1]:80/"),
        ("https://fleet.test", "https://fleet.test/"),
    ] {
        let server = crate::config::server_at(endpoint.to_owned(), Tls::default());
        let own = ClockWatch {
            url: None,
            ..settings()
        };
        let found = question(Some(&own), Some(&server)).unwrap();
        assert_eq!(found.url, wanted);
        let found = question(Some(&settings()), Some(&server)).unwrap();
        assert_eq!(found.url, "https://time.test/");
    }
    assert_eq!(question(None, None), None);
}
