//! Every call of the watch in an order that shows each of its limits, with everything that it shows after each.

use super::*;
use crate::engine::diary::{Diary, fields};

struct Told {
    clock: Clock,
    secs: u64,
    millis: u64,
    ahead: i64,
    asleep: u64,
    diary: Diary,
}

impl Told {
    fn new(settings: Option<ClockWatch>, server: Option<&str>) -> Self {
        let server = server.map(|it| crate::config::server_at(it.to_owned(), Tls::default()));
        let mut told = Self {
            clock: Clock::new(ClockSetup {
                settings,
                server,
                asleep: Duration::from_secs(100),
            }),
            secs: 0,
            millis: 0,
            ahead: 0,
            asleep: 100,
            diary: Diary::default(),
        };
        told.clock.start(told.now());
        told.line("start", &[]);
        told
    }

    /// The wall clock also goes on while the machine sleeps.
    fn now(&self) -> Now {
        let mono = Moment::from_millis(self.secs * 1000 + self.millis);
        let wall = EPOCH + mono.as_millis() + (self.asleep - 100) * 1000;
        Now {
            mono,
            wall: WallTime::from_unix_millis(wall.saturating_add_signed(self.ahead)),
        }
    }

    fn line(&mut self, what: &str, effects: &[Effect]) {
        let shown = self.clock.snapshot();
        let mut state = shown.map_or_else(Vec::new, |shown| fields(&format!("{shown:#?}")));
        let due = self.clock.due().map(Moment::as_millis);
        state.push(("due".to_owned(), format!("{due:?}")));
        state.push((
            "condition".to_owned(),
            format!("{:?}", self.clock.condition()),
        ));
        let effects = effects.iter().map(|effect| format!("\n    > {effect:?}"));
        let effects: String = effects.collect();
        self.diary.call(
            &format!("{}.{:03}: {what}{effects}", self.secs, self.millis),
            state,
        );
    }

    fn waits(&mut self, secs: u64) -> &mut Self {
        self.secs += secs;
        self
    }

    fn tick(&mut self) -> &mut Self {
        let effects = self.clock.tick(self.now());
        self.line("tick", &effects);
        self
    }

    fn looks(&mut self, skew: Option<Result<i64, &str>>, synchronised: Option<bool>) -> &mut Self {
        let asleep = Duration::from_secs(self.asleep);
        let look = ClockLook {
            synchronised,
            asleep,
            ..look(skew)
        };
        let ticket = Ticket(self.clock.next_ticket);
        let effects = self.clock.looked(self.now(), ticket, look);
        self.line(&format!("looked {skew:?} {synchronised:?}"), &effects);
        self
    }

    fn jumps(&mut self, ahead: i64) -> &mut Self {
        self.ahead += ahead;
        let effects = self
            .clock
            .jumped(self.now(), Duration::from_secs(self.asleep));
        self.line(&format!("jumped {ahead} ms"), &effects);
        self
    }

    fn set(&mut self, settings: Option<ClockWatch>, server: Option<&str>) -> &mut Self {
        let server = server.map(|it| crate::config::server_at(it.to_owned(), Tls::default()));
        self.clock.set(self.now(), settings, server);
        self.line("set", &[]);
        self
    }
}

#[test]
fn looks_jumps_and_settings_do_what_the_text_says() {
    let mut told = Told::new(Some(settings()), None);
    told.diary.chapter("Looks, and who is asked");
    told.waits(59)
        .tick()
        .waits(1)
        .tick()
        .tick()
        .looks(Some(Ok(-300)), Some(true));
    told.waits(300).tick().looks(Some(Ok(5_001)), Some(false));
    told.waits(300).tick().looks(Some(Err("no route")), None);
    told.waits(300).tick().looks(None, None);
    told.waits(300).tick().looks(Some(Ok(0)), None);
    told.diary
        .chapter("Off again within the hour, and after it");
    told.waits(300).tick().looks(Some(Ok(-5_500)), None);
    told.waits(300).tick().looks(Some(Ok(-5_499)), None);
    told.waits(300).tick().looks(Some(Ok(1)), None);
    told.waits(1700).tick().looks(Some(Ok(5_499)), None);
    told.waits(300).tick().looks(Some(Ok(1)), None);
    told.waits(3299).tick().looks(Some(Ok(6_499)), None);
    told.waits(300).tick().looks(Some(Ok(1)), None);
    told.waits(300).tick().looks(Some(Ok(6_500)), None);
    told.diary
        .chapter("Set by as much as may be, and a little more");
    told.jumps(0)
        .jumps(1000)
        .jumps(1001)
        .jumps(-1000)
        .jumps(-1001);
    told.waits(2000).jumps(2000).waits(2000).jumps(2001).tick();
    told.looks(Some(Ok(0)), None);
    told.diary.chapter("Slept");
    told.asleep += 500;
    told.jumps(0).waits(10).jumps(-700).waits(10).jumps(-90_000);
    told.diary.chapter("Set while somebody looks");
    told.tick().jumps(60_000).looks(Some(Ok(0)), None);
    told.diary.chapter("Other settings");
    let wide = ClockWatch {
        max_skew: Duration::from_mins(2),
        ..settings()
    };
    told.set(Some(wide), None)
        .tick()
        .looks(Some(Ok(100_000)), None);
    told.set(Some(settings()), None).waits(60).tick();
    let other = ClockWatch {
        url: None,
        check_interval: Duration::from_secs(30),
        ..settings()
    };
    told.set(Some(other.clone()), Some("ws://a.test/x"))
        .looks(Some(Ok(0)), None);
    told.waits(30).tick().looks(Some(Ok(7_000)), None);
    told.set(Some(other.clone()), None)
        .set(None, None)
        .jumps(1_000_000)
        .tick();
    told.looks(Some(Ok(9_000)), None);
    told.set(Some(other), Some("wss://b.test"));
    let server = crate::config::server_at("wss://c.test".to_owned(), Tls::default());
    told.clock.set_server(told.now(), server);
    told.line("server", &[]);
    told.waits(30).tick();
    told.clock.stop();
    told.line("stop", &[]);
    told.looks(Some(Ok(0)), None)
        .jumps(5_000)
        .set(Some(settings()), None);
    told.diary.is("looks", include_str!("looks.txt"));
}

#[test]
fn kernel_is_believed_where_the_settings_ask_for_it() {
    let required = ClockWatch {
        url: None,
        require_synchronised: true,
        ..settings()
    };
    let mut told = Told::new(Some(required.clone()), None);
    told.waits(60).tick().looks(None, None);
    told.waits(300).tick().looks(None, Some(false));
    told.waits(300).tick().looks(None, Some(true));
    told.diary.chapter("With another clock to ask");
    told.set(Some(required), Some("https://a.test"))
        .waits(60)
        .tick();
    told.looks(Some(Ok(1)), None)
        .waits(300)
        .tick()
        .looks(Some(Ok(8_000)), Some(false));
    told.waits(300).tick().looks(Some(Ok(2)), Some(false));
    told.diary.is("kernel", include_str!("kernel.txt"));
}
