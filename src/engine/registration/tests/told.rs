//! Registrations through whole stories of calls, rejections, orders and disks, with everything that is asked for and
//! shown after each step.

use super::*;
use crate::engine::diary::{Diary, fields};

struct Told {
    known: Registration,
    millis: u64,
    ticket: Ticket,
    diary: Diary,
}

impl Told {
    fn new(settings: Option<config::Registration>, credential: Option<Credential>) -> Self {
        Self::unreadable(settings, credential, None)
    }

    fn unreadable(
        settings: Option<config::Registration>,
        credential: Option<Credential>,
        unreadable: Option<&str>,
    ) -> Self {
        let mut told = Self {
            known: Registration::new(RegistrationSetup {
                settings,
                credential,
                unreadable: unreadable.map(str::to_owned),
                seed: 7,
            }),
            millis: 0,
            ticket: Ticket(0),
            diary: Diary::default(),
        };
        let steps = told.known.start(told.now());
        told.line("start", &steps);
        told
    }

    fn now(&self) -> Now {
        at(Duration::from_millis(self.millis))
    }

    fn line(&mut self, what: &str, steps: &Steps) {
        for effect in &steps.effects {
            if let Effect::Register { ticket, .. } | Effect::SaveCredential { ticket } = effect {
                self.ticket = *ticket;
            }
        }
        let now = self.now();
        let shown = self.known.snapshot(now);
        let mut state = shown.map_or_else(Vec::new, |shown| fields(&format!("{shown:#?}")));
        let due = self.known.due(now).map(Moment::as_millis);
        for (name, value) in [
            ("due", format!("{due:?}")),
            ("needs", format!("{:?}", self.known.needs())),
            (
                "server",
                format!("{:?}", self.known.server().map(|server| server.endpoint)),
            ),
            ("calling", self.known.is_calling().to_string()),
        ] {
            state.push((name.to_owned(), value));
        }
        let effects = steps
            .effects
            .iter()
            .map(|effect| format!("\n    > {effect:?}"));
        let effects: String = effects.collect();
        let renewed = if steps.renewed { " (renewed)" } else { "" };
        self.diary
            .call(&format!("{}: {what}{renewed}{effects}", self.millis), state);
    }

    fn chapter(&mut self, title: &str) -> &mut Self {
        self.diary.chapter(title);
        self
    }

    fn waits(&mut self, secs: u64) -> &mut Self {
        self.millis += secs * 1000;
        self
    }

    /// Goes on to the next moment that it wants to be called at.
    fn due(&mut self) -> &mut Self {
        let due = self.known.due(self.now()).unwrap();
        self.millis = self.millis.max(due.as_millis());
        self.tick()
    }

    fn tick(&mut self) -> &mut Self {
        let steps = self.known.tick(self.now());
        self.line("tick", &steps);
        self
    }

    fn issued(&mut self, days: u64, unsaved: Option<&str>) -> &mut Self {
        let mut issued = credential(0);
        issued.at = self.now().wall;
        issued.expires = (days > 0)
            .then(|| WallTime::from_unix_millis(issued.at.unix_millis() + days * 86_400_000));
        issued.unsaved = unsaved.map(str::to_owned);
        let steps = self
            .known
            .answered(self.now(), self.ticket, Ok(Box::new(issued)));
        self.line(&format!("issued for {days} days {unsaved:?}"), &steps);
        self
    }

    fn fails(&mut self, class: FailureClass, asked: Option<u64>) -> &mut Self {
        let failure = failure(class, asked.map(Duration::from_secs));
        let steps = self.known.answered(self.now(), self.ticket, Err(failure));
        self.line(&format!("fails {class:?} {asked:?}"), &steps);
        self
    }

    fn rejected(&mut self) -> &mut Self {
        let steps = self.known.rejected(self.now(), "401");
        self.line("rejected", &steps);
        self
    }

    fn accepted(&mut self) -> &mut Self {
        let steps = self.known.accepted(self.now());
        self.line("accepted", &steps);
        self
    }

    fn order(&mut self, what: RegistrationOrder) -> &mut Self {
        let mut steps = Steps::default();
        let reply = self.known.order(self.now(), what, &mut steps);
        self.line(&format!("order {what:?} -> {reply:?}"), &steps);
        self
    }

    fn set(&mut self, settings: Option<config::Registration>) -> &mut Self {
        let steps = self.known.set_settings(self.now(), settings);
        self.line("set", &steps);
        self
    }

    fn stop(&mut self) -> &mut Self {
        self.known.stop();
        self.line("stop", &Steps::default());
        self
    }
}

use FailureClass::{Network, Server as Broken, Settings, Throttled, Unauthorized};
use OnRejected::{Hold, Register};
use RegistrationOrder::{Onboard, Restart};

#[test]
fn a_first_registration_is_repeated_until_it_brings_a_token() {
    let mut told = Told::new(Some(settings(Hold)), None);
    told.chapter("Failures in a row");
    for class in [Network, Network, Broken, Throttled, Throttled, Network] {
        told.fails(class, None).due();
    }
    for _ in 0..6 {
        told.fails(Network, None).due();
    }
    told.fails(Throttled, Some(700))
        .due()
        .fails(Throttled, Some(5000))
        .due();
    told.fails(Settings, None).due();
    told.chapter("Nobody answers for two minutes")
        .waits(119)
        .tick()
        .waits(1)
        .tick();
    told.chapter("A token that the disk refuses")
        .issued(40, Some("no space"));
    told.due()
        .issued(40, Some("no space"))
        .due()
        .fails(Network, None)
        .due();
    told.waits(120).tick().issued(40, None);
    told.chapter("The end of its life").due().due().due().due();
    told.chapter("Rejected, and a person")
        .rejected()
        .rejected()
        .order(Restart);
    told.order(Restart).issued(0, None).accepted();
    told.chapter("Stopping")
        .rejected()
        .accepted()
        .stop()
        .order(Onboard)
        .tick();
    told.diary.is("first", include_str!("first.txt"));
}

#[test]
fn orders_of_a_person_always_come_to_an_end() {
    let mut told = Told::new(Some(settings(Hold)), Some(credential(365)));
    told.chapter("Four calls").order(Restart);
    told.fails(Network, None)
        .due()
        .fails(Network, None)
        .due()
        .fails(Broken, None)
        .due();
    told.fails(Network, None);
    told.chapter("Sent away for longer than a person waits")
        .order(Onboard);
    told.fails(Throttled, Some(15))
        .due()
        .fails(Throttled, Some(16));
    told.chapter("Not allowed")
        .order(Onboard)
        .fails(Unauthorized, None);
    told.chapter("While a token is not on disk")
        .order(Restart)
        .issued(365, Some("no space"));
    told.order(Onboard)
        .fails(Unauthorized, None)
        .due()
        .issued(365, None);
    told.chapter("Without one").set(Some(config::Registration {
        url: None,
        ..settings(Hold)
    }));
    told.order(Onboard).set(Some(config::Registration {
        token: TokenSource::None,
        ..settings(Hold)
    }));
    told.order(Onboard)
        .set(None)
        .order(Onboard)
        .rejected()
        .tick();
    let mut new = Told::new(Some(settings(Hold)), None);
    new.chapter("Nothing known yet")
        .fails(Unauthorized, None)
        .order(Onboard);
    new.fails(Network, None)
        .due()
        .fails(Network, None)
        .due()
        .fails(Network, None)
        .due();
    new.fails(Throttled, Some(100)).due().issued(9, None);
    told.diary.line(new.diary.text());
    told.diary.is("orders", include_str!("orders.txt"));
}

#[test]
fn a_rejected_token_is_replaced_a_few_times_a_day_where_the_settings_say_so() {
    let mut told = Told::new(Some(settings(Register)), Some(credential(365)));
    told.chapter("Taken again before anybody was called")
        .rejected()
        .accepted();
    told.chapter("Three times")
        .rejected()
        .due()
        .issued(365, None)
        .rejected()
        .due();
    told.fails(Network, None)
        .set(Some(settings(Register)))
        .due()
        .fails(Unauthorized, None);
    told.rejected()
        .accepted()
        .rejected()
        .due()
        .waits(120)
        .tick()
        .issued(365, None)
        .rejected();
    told.rejected()
        .waits(86_000)
        .rejected()
        .waits(300)
        .rejected()
        .waits(300)
        .rejected();
    told.chapter("The settings change")
        .set(Some(settings(Hold)))
        .set(Some(settings(Register)));
    told.set(None)
        .set(Some(settings(Register)))
        .due()
        .set(None)
        .issued(365, None);
    told.diary.is("rejected", include_str!("rejected.txt"));
}

#[test]
fn what_cannot_be_read_or_asked_for_is_said_and_left_to_a_person() {
    let reason = "read /state/credentials/opamp.json: input/output error";
    let mut told = Told::unreadable(Some(settings(Register)), None, Some(reason));
    told.set(Some(settings(Register)))
        .order(Onboard)
        .issued(365, None);
    let without = config::Registration {
        url: None,
        token: TokenSource::None,
        ..settings(Hold)
    };
    let mut none = Told::new(Some(without), None);
    none.tick().rejected().accepted();
    let mut nothing = Told::new(None, Some(credential(3)));
    nothing.tick().rejected().accepted().stop();
    let mut named = credential(3);
    named.endpoint = Some("wss://fleet.example/v1/opamp".to_owned());
    named.source = CredentialSource::Environment;
    let setup = RegistrationSetup {
        settings: Some(settings(Hold)),
        credential: Some(named.clone()),
        unreadable: None,
        seed: 7,
    };
    let server = setup.server().map(|server| server.endpoint);
    assert_eq!(server.as_deref(), Some("wss://fleet.example/v1/opamp"));
    let mut known = Told::new(Some(settings(Hold)), Some(named));
    known.due().due().waits(1).tick();
    for other in [none, nothing, known] {
        told.diary.line(other.diary.text());
    }
    told.diary.is("left", include_str!("left.txt"));
}

#[test]
fn answers_of_another_call_change_nothing_and_a_stop_ends_the_waiting() {
    let mut told = Told::new(Some(settings(Hold)), None);
    told.issued(9, Some("no space")).due();
    let saving = told.ticket;
    told.ticket = Ticket(saving.0 + 1);
    told.chapter("Of another")
        .issued(5, None)
        .fails(Network, None);
    told.ticket = saving;
    told.chapter("Of this one")
        .fails(Network, None)
        .stop()
        .waits(3600)
        .tick();
    told.diary.is("another", include_str!("another.txt"));
}

#[test]
fn words_of_documents_are_read_back() {
    for (source, word) in [
        (CredentialSource::Registered, "registration"),
        (CredentialSource::Restarted, "restart-registration"),
        (CredentialSource::Environment, "environment"),
    ] {
        assert_eq!(source.word(), word);
        assert_eq!(CredentialSource::of(word), Some(source));
    }
    assert_eq!(CredentialSource::of("else"), None);
    let words = FailureClass::ALL.map(|class| (class.word(), class.is_transient()));
    let wanted = [
        ("settings", false),
        ("network", true),
        ("throttled", true),
        ("server", true),
        ("unauthorized", false),
        ("forbidden", false),
        ("not_found", false),
        ("invalid", false),
        ("answer", false),
    ];
    assert_eq!(words, wanted);
    assert_eq!(
        (Onboard.word(), Restart.word()),
        ("onboard", "restart-registration")
    );
}
