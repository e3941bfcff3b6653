//! Given a link and a clock; when it is lost, refused or ordered away; then it is made again in its time.

use super::*;
use crate::config::Tls;
use crate::engine::diary::{Diary, fields};

fn uplink() -> (Uplink, Random) {
    let server = Server {
        endpoint: "wss://user:word@fleet.example:4320/v1/opamp?token=x".to_owned(),
        headers: vec![],
        tls: Tls::default(),
        heartbeat: Duration::from_secs(30),
        proxy: None,
        auth: None,
    };
    (Uplink::new(Some(server)), Random::seeded(7))
}

fn loss(kind: LossKind, retry_after: Option<Duration>) -> LinkLoss {
    LinkLoss {
        kind,
        reason: "refused".to_owned(),
        retry_after,
    }
}

fn wait_after(uplink: &mut Uplink, now: Moment, loss: &LinkLoss, random: &mut Random) -> Duration {
    let Some(LinkOrder::Dial(link)) = uplink.handle_timeout(now) else {
        panic!("no dial")
    };
    assert!(uplink.down(now, link, loss, random));
    uplink.due().unwrap().since(now)
}

#[test]
fn refused_connections_are_retried_ever_more_slowly_up_to_a_minute() {
    let (mut uplink, mut random) = uplink();
    let mut now = Moment::START;
    let mut waits = Vec::new();
    for _ in 0..30 {
        let wait = wait_after(
            &mut uplink,
            now,
            &loss(LossKind::Network, None),
            &mut random,
        );
        waits.push(wait);
        now = now.after(wait);
    }
    assert!(waits[0] <= Duration::from_millis(750), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= CAP), "{waits:?}");
    assert!(waits[29] >= Duration::from_secs(30), "{waits:?}");
}

#[test]
fn rejected_credentials_are_a_state_of_their_own_with_slow_retry() {
    let (mut uplink, mut random) = uplink();
    let wait = wait_after(
        &mut uplink,
        Moment::START,
        &loss(LossKind::Rejected, None),
        &mut random,
    );
    assert!(wait >= Duration::from_secs(15), "{wait:?}");
    assert_eq!(uplink.snapshot(Moment::START).state, "rejected");
}

#[test]
fn retry_after_is_a_floor_with_a_cap() {
    let cases = [
        (
            LossKind::Throttled,
            Some(Duration::from_mins(2)),
            Duration::from_mins(2),
        ),
        (LossKind::Throttled, None, THROTTLED),
        (LossKind::Throttled, Some(Duration::MAX), RETRY_AFTER_CAP),
    ];
    for (kind, asked, wanted) in cases {
        let (mut uplink, mut random) = uplink();
        let wait = wait_after(&mut uplink, Moment::START, &loss(kind, asked), &mut random);
        assert_eq!(wait, wanted, "{asked:?}");
    }
}

#[test]
fn good_link_that_breaks_is_redialled_within_a_second() {
    let (mut uplink, mut random) = uplink();
    let Some(LinkOrder::Dial(link)) = uplink.handle_timeout(Moment::START) else {
        panic!()
    };
    assert!(uplink.up(Moment::START, link));
    assert!(uplink.heard(link));
    let now = Moment::from_millis(50);
    uplink.down(now, link, &loss(LossKind::Network, None), &mut random);
    assert!(uplink.due().unwrap().since(now) < Duration::from_secs(1));
}

#[test]
fn link_that_dies_right_after_the_handshake_is_no_hot_loop() {
    let (mut uplink, mut random) = uplink();
    let mut now = Moment::START;
    for _ in 0..20 {
        let Some(LinkOrder::Dial(link)) = uplink.handle_timeout(now) else {
            panic!()
        };
        uplink.up(now, link);
        uplink.down(now, link, &loss(LossKind::Network, None), &mut random);
        now = uplink.due().unwrap();
    }
    assert!(now.since(Moment::START) > Duration::from_mins(2), "{now:?}");
}

#[test]
fn late_answers_of_an_old_link_are_ignored() {
    let (mut uplink, mut random) = uplink();
    let Some(LinkOrder::Dial(old)) = uplink.handle_timeout(Moment::START) else {
        panic!()
    };
    uplink.down(
        Moment::START,
        old,
        &loss(LossKind::Network, None),
        &mut random,
    );
    let now = uplink.due().unwrap();
    let Some(LinkOrder::Dial(new)) = uplink.handle_timeout(now) else {
        panic!()
    };
    assert!(!uplink.up(now, old));
    assert!(uplink.up(now, new));
    assert!(!uplink.heard(old));
}

#[test]
fn endpoint_is_shown_without_credentials() {
    let (uplink, _) = uplink();
    let endpoint = uplink.snapshot(Moment::START).endpoint;
    assert_eq!(endpoint, "wss://fleet.example:4320/v1/opamp");
}

/// A link of which everything is written down.
struct Told {
    uplink: Uplink,
    random: Random,
    now: Moment,
    link: LinkId,
    diary: Diary,
}

impl Told {
    fn new(endpoint: &str) -> Self {
        Self {
            uplink: Uplink::new(server(endpoint)),
            random: Random::seeded(7),
            now: Moment::from_millis(1000),
            link: LinkId(0),
            diary: Diary::default(),
        }
    }

    fn call<T: std::fmt::Debug>(
        &mut self,
        what: &str,
        call: impl FnOnce(&mut Uplink, Moment, LinkId, &mut Random) -> T,
    ) -> T {
        let came = call(&mut self.uplink, self.now, self.link, &mut self.random);
        let text = format!("{}: {what} -> {came:?}", self.now.as_millis());
        let state = state(&self.uplink, self.now);
        self.diary.call(&text, state);
        came
    }

    fn waits(&mut self, millis: u64) -> &mut Self {
        self.now = self.now.after(Duration::from_millis(millis));
        self
    }

    fn until_due(&mut self) -> &mut Self {
        self.now = self.uplink.due().unwrap().max(self.now);
        self
    }

    fn timeout(&mut self) -> &mut Self {
        let order = self.call("timeout", |uplink, now, _, _| uplink.handle_timeout(now));
        if let Some(LinkOrder::Dial(link)) = order {
            self.link = link;
        }
        self
    }

    fn up(&mut self) -> &mut Self {
        self.call("up", |uplink, now, link, _| uplink.up(now, link));
        self
    }

    fn heard(&mut self) -> &mut Self {
        self.call("heard", |uplink, _, link, _| uplink.heard(link));
        self
    }

    fn down(&mut self, kind: LossKind, retry_after: Option<u64>) -> &mut Self {
        let loss = loss(kind, retry_after.map(Duration::from_secs));
        let what = format!("down {kind:?} {retry_after:?}");
        self.call(&what, |uplink, now, link, random| {
            uplink.down(now, link, &loss, random)
        });
        self
    }

    fn unavailable(&mut self, retry_after: Option<u64>) -> &mut Self {
        let asked = retry_after.map(Duration::from_secs);
        let what = format!("unavailable {retry_after:?}");
        self.call(&what, |uplink, now, _, random| {
            uplink.unavailable(now, asked, random)
        });
        self
    }

    fn token(&mut self, needed: bool, known: bool, new: bool) -> &mut Self {
        let what = format!("token needed {needed}, known {known}, new {new}");
        self.call(&what, |uplink, now, _, _| {
            uplink.set_token(now, needed, known, new)
        });
        self
    }

    fn server(&mut self, endpoint: &str) -> &mut Self {
        let server = server(endpoint);
        self.call(&format!("server {endpoint}"), |uplink, now, _, _| {
            uplink.set_server(now, server)
        });
        self
    }

    fn stop(&mut self) -> &mut Self {
        self.call("stop", |uplink, now, _, _| uplink.stop(now));
        self
    }

    fn anew(&mut self) -> &mut Self {
        self.call("anew", |uplink, now, _, _| uplink.begin_anew(now));
        self
    }

    fn until_due_or(&mut self, millis: u64) -> &mut Self {
        assert_eq!(self.uplink.due(), None, "nothing is waited for");
        self.waits(millis)
    }

    fn stands(&mut self) -> &mut Self {
        self.until_due().timeout().up().heard()
    }
}

fn server(endpoint: &str) -> Option<Server> {
    let headers = match endpoint.split_once('!') {
        Some(_) => vec![(
            "Authorization".to_owned(),
            crate::units::Secret::new("x".to_owned()),
        )],
        None => vec![],
    };
    (!endpoint.is_empty()).then(|| Server {
        endpoint: endpoint.trim_end_matches('!').to_owned(),
        headers,
        tls: Tls::default(),
        heartbeat: Duration::from_secs(30),
        proxy: None,
        auth: None,
    })
}

fn state(uplink: &Uplink, now: Moment) -> Vec<(String, String)> {
    let mut state = fields(&format!("{:#?}", uplink.snapshot(now)));
    let facts = [
        ("failed", uplink.has_failed()),
        ("unheard", uplink.is_unheard()),
        ("rejected", uplink.is_rejected()),
        ("down", uplink.is_down()),
        ("polled", uplink.is_polled()),
        ("token", uplink.uses_token()),
    ];
    state.extend(facts.map(|(name, fact)| (name.to_owned(), fact.to_string())));
    state.push(("live".to_owned(), format!("{:?}", uplink.live())));
    state.push(("connects".to_owned(), uplink.connects.to_string()));
    let due = uplink.due().map(Moment::as_millis);
    state.push(("due".to_owned(), format!("{due:?}")));
    #[cfg(feature = "connection")]
    {
        let tokens = [None, Some(true), Some(false)].map(|own| uplink.would_use_token(own));
        state.push(("beside it".to_owned(), format!("{tokens:?}")));
        state.push(("is heard".to_owned(), uplink.is_heard().to_string()));
    }
    state
}

const PLACE: &str = "wss://a.example/v1/opamp";

#[cfg(feature = "connection")]
#[test]
fn every_call_in_every_state_does_what_the_text_says() {
    let mut told = Told::new(PLACE);
    told.diary
        .chapter("An attempt that is never answered is given up after its limit");
    told.timeout().waits(89_999).timeout().waits(1).timeout();
    told.up().heard().down(LossKind::Network, None);
    told.diary.chapter("A wait ends when it ends");
    let due = told.uplink.due().unwrap();
    told.now = Moment::from_millis(due.as_millis() - 1);
    told.timeout();
    told.waits(1).timeout().up();
    told.diary
        .chapter("A link that stood ten seconds was good, one that stood less was not");
    told.waits(9_999).down(LossKind::Network, None);
    told.until_due()
        .timeout()
        .up()
        .waits(10_000)
        .down(LossKind::Network, None);
    told.diary
        .chapter("So was one on which something was heard, for some kinds of loss");
    for kind in [
        LossKind::Closed,
        LossKind::Ours,
        LossKind::Tls,
        LossKind::Protocol,
        LossKind::TooLarge,
        LossKind::Rejected,
        LossKind::Throttled,
    ] {
        told.stands().waits(5).down(kind, None);
    }
    told.stands().down(LossKind::Network, Some(40));
    told.stands().down(LossKind::Protocol, Some(40));
    told.stands().down(LossKind::Throttled, Some(2));
    told.stands().down(LossKind::Throttled, Some(4000));
    told.diary
        .chapter("Failures in a row are spaced more and more");
    for _ in 0..14 {
        told.until_due().timeout().down(LossKind::Network, None);
    }
    told.until_due()
        .timeout()
        .up()
        .down(LossKind::Throttled, None);
    told.diary.chapter("Rejections too, at another pace");
    for _ in 0..10 {
        told.until_due().timeout().down(LossKind::Rejected, None);
    }
    told.stands();
    told.diary.chapter("The server is not available");
    told.unavailable(Some(7)).unavailable(Some(8));
    told.stands()
        .unavailable(None)
        .until_due()
        .timeout()
        .unavailable(None);
    told.up().heard();
    told.diary.chapter("A link is made anew");
    told.anew()
        .anew()
        .waits(5_999)
        .timeout()
        .waits(1)
        .timeout()
        .timeout();
    told.anew().down(LossKind::Rejected, None).anew().timeout();
    told.up().anew().down(LossKind::Network, Some(60));
    told.diary.chapter("Stopped");
    told.stands()
        .stop()
        .stop()
        .down(LossKind::Ours, None)
        .timeout()
        .stop();
    let mut dialling = Told::new(PLACE);
    dialling.timeout().stop().waits(6_000).timeout().timeout();
    told.diary.line("\n-- while dialling");
    told.diary.line(dialling.diary.text());
    told.diary.is("calls", include_str!("calls.txt"));
}

#[test]
fn token_and_server_decide_what_is_dialled() {
    let mut told = Told::new(PLACE);
    told.diary.chapter("No token");
    told.token(true, false, false).timeout();
    told.diary.chapter("A token");
    told.token(true, true, false).stands();
    told.diary
        .chapter("The same, a new one, none needed, none there");
    told.token(true, true, false).token(true, true, true);
    told.down(LossKind::Ours, None).stands();
    told.token(false, true, false)
        .down(LossKind::Ours, None)
        .stands();
    told.token(true, false, false)
        .down(LossKind::Ours, None)
        .timeout();
    told.token(true, false, true);
    told.diary.chapter("Its own authorization");
    told.server("wss://a.example!").timeout();
    told.token(true, true, true).token(true, false, true);
    told.diary
        .chapter("Another server, the same, none, one again, a polled one");
    told.server("wss://b.example:1/x#y")
        .down(LossKind::Ours, None);
    told.server("wss://b.example:1/x#y")
        .token(false, false, false)
        .stands();
    told.server("").down(LossKind::Ours, None).timeout().anew();
    told.server("http://c.example").until_due().timeout().up();
    told.waits(20_000).down(LossKind::Network, None);
    told.until_due().timeout().up().heard().heard();
    told.down(LossKind::Network, None);
    told.diary.is("places", include_str!("places.txt"));
}

#[cfg(feature = "connection")]
#[test]
fn offered_place_is_dialled_beside_and_takes_over() {
    fn place(endpoint: &str, polled: bool, authorizes: Option<bool>) -> Place {
        Place {
            endpoint: endpoint.to_owned(),
            polled,
            authorizes,
        }
    }
    let mut told = Told::new(PLACE);
    told.token(true, true, true).stands();
    told.diary.chapter("Another link takes over");
    told.call("number", |uplink, _, _, _| uplink.number());
    told.call("lead", |uplink, _, _, _| {
        uplink.lead_to(Some(place("wss://o.example", false, Some(true))));
    });
    told.call("replace", |uplink, now, _, _| {
        uplink.replace(now, LinkId(2))
    });
    told.link = LinkId(2);
    told.heard();
    told.diary
        .chapter("A polled one, without words of its own about who we are");
    told.call("lead", |uplink, _, _, _| {
        uplink.lead_to(Some(place("https://p.example", true, None)));
    });
    told.call("replace", |uplink, now, _, _| {
        uplink.replace(now, LinkId(3))
    });
    told.link = LinkId(3);
    told.heard().down(LossKind::Rejected, None);
    told.diary
        .chapter("A link takes over while the other waits, or is closed");
    told.call("replace", |uplink, now, _, _| {
        uplink.replace(now, LinkId(4))
    });
    told.link = LinkId(4);
    told.anew();
    told.call("replace", |uplink, now, _, _| {
        uplink.replace(now, LinkId(5))
    });
    told.link = LinkId(5);
    told.diary.chapter("Without a token of ours");
    told.call("lead", |uplink, _, _, _| {
        uplink.lead_to(Some(place("wss://q.example", false, Some(false))));
    });
    told.down(LossKind::Network, None);
    told.diary.chapter("Paused, and hurried");
    told.call("pause", |uplink, _, _, _| uplink.pause(true));
    told.until_due_or(60_000).timeout();
    told.call("go on", |uplink, _, _, _| uplink.pause(false));
    told.timeout().down(LossKind::Rejected, None);
    told.call("hurry", |uplink, now, _, _| {
        uplink.hurry(now, Duration::from_secs(500));
    });
    told.call("hurry", |uplink, now, _, _| {
        uplink.hurry(now, Duration::from_secs(2));
    });
    told.call("hurry", |uplink, now, _, _| {
        uplink.hurry(now, Duration::ZERO);
    });
    told.timeout();
    told.call("hurry", |uplink, now, _, _| {
        uplink.hurry(now, Duration::ZERO);
    });
    told.call("replace", |uplink, now, _, _| {
        uplink.replace(now, LinkId(90))
    });
    told.diary.is("beside", include_str!("beside.txt"));
}

#[test]
fn endpoints_are_shown_without_what_may_be_secret() {
    let cases = [
        ("wss://a.example", "wss://a.example"),
        ("wss://u:p@a.example", "wss://a.example"),
        ("wss://u:p@a.example:1/x/y?t=1#z", "wss://a.example:1/x/y"),
        ("wss://a.example/x@y", "wss://a.example/x@y"),
        ("a.example#u", "a.example"),
        ("", ""),
    ];
    for (endpoint, shown) in cases {
        assert_eq!(bare(endpoint), shown);
    }
}
