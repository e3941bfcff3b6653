//! Given certificates of a host; when disks, authorities, files and people do what they can; then the texts beside this
//! file say what is asked of whom, when, and what the doors are shown.

use std::time::Duration;

use super::{Certificates, DAY, EPOCH_MS, MINUTE, domain, fault, machine, pair, settings};
use crate::config::{CertificateSource, Domains};
use crate::engine::certificates::CertificatesSetup;
use crate::engine::diary::{Diary, fields};
use crate::engine::message::{
    Attempts, CertificateDone, CertificateFaultKind, Effect, PairId, PemPair, StoredPairs,
};
use crate::units::{Moment, Now, Secret, Ticket, WallTime};

const HOUR: u64 = 60 * MINUTE;

struct Told {
    certificates: Certificates,
    millis: u64,
    /// How far the wall clock was set.
    ahead: i64,
    tickets: Vec<Ticket>,
    diary: Diary,
}

impl Told {
    fn new(certificates: Certificates) -> Self {
        Self {
            certificates,
            millis: 0,
            ahead: 0,
            tickets: Vec::new(),
            diary: Diary::default(),
        }
    }

    fn now(&self) -> Now {
        let wall = (EPOCH_MS + self.millis).saturating_add_signed(self.ahead);
        Now {
            mono: Moment::from_millis(self.millis),
            wall: WallTime::from_unix_millis(wall),
        }
    }

    fn state(&self) -> Vec<(String, String)> {
        let now = self.now();
        let mut state = Vec::new();
        for shown in self.certificates.snapshot(now) {
            let name = shown.name.to_string();
            for (field, value) in fields(&format!("{shown:#?}")) {
                state.push((format!("{name}.{field}"), value));
            }
        }
        let due = self.certificates.due(now).map(Moment::as_millis);
        state.push(("due".to_owned(), format!("{due:?}")));
        let known = fields(&format!("{:#?}", self.certificates.known()));
        state.extend(
            known
                .into_iter()
                .map(|(name, value)| (format!("known {name}"), value)),
        );
        state
    }

    fn line(&mut self, what: &str) {
        let state = self.state();
        self.diary.call(&format!("{}: {what}", self.millis), state);
    }

    fn chapter(&mut self, title: &str) -> &mut Self {
        self.diary.chapter(title);
        self
    }

    fn waits(&mut self, millis: u64) -> &mut Self {
        self.millis += millis;
        self
    }

    fn until_due(&mut self) -> &mut Self {
        match self.certificates.due(self.now()) {
            Some(due) => self.millis = self.millis.max(due.as_millis()),
            None => self.diary.line("nothing is due"),
        }
        self
    }

    fn drive(&mut self) -> &mut Self {
        let outcome = self.certificates.drive(self.now());
        for effect in &outcome.effects {
            if let Effect::Certificate { ticket, .. } = effect {
                self.tickets.push(*ticket);
            }
        }
        let effects = outcome
            .effects
            .iter()
            .map(|effect| format!("\n    > {effect:?}"));
        let effects: String = effects.collect();
        self.line(&format!("drive, renewed {:?}{effects}", outcome.renewed));
        self
    }

    /// The oldest work that is open is done; what follows from it is driven.
    fn done(&mut self, done: CertificateDone) -> &mut Self {
        let Some(ticket) = self.next() else {
            return self;
        };
        let now = self.now();
        let word = format!("{done:?}");
        let word = word.split(['(', ' ']).next().unwrap().to_owned();
        self.certificates.answered(now, ticket, Ok(done));
        self.line(&format!("{} {word}", ticket.0));
        self.drive()
    }

    fn next(&mut self) -> Option<Ticket> {
        if self.tickets.is_empty() {
            self.diary.line("nothing is asked for");
            return None;
        }
        Some(self.tickets.remove(0))
    }

    fn fails(&mut self, kind: CertificateFaultKind, retry_after: Option<u64>) -> &mut Self {
        let Some(ticket) = self.next() else {
            return self;
        };
        let now = self.now();
        let fault = fault(kind, retry_after.map(Duration::from_secs));
        self.certificates.answered(now, ticket, Err(fault));
        self.line(&format!("{} {kind:?} {retry_after:?}", ticket.0));
        self.drive()
    }

    fn renew(&mut self, name: Option<&str>) -> &mut Self {
        let now = self.now();
        let name = name.map(|name| name.parse().unwrap());
        let told = self.certificates.renew(now, name.as_ref());
        self.line(&format!("renew {name:?} -> {told:?}"));
        self.drive()
    }

    fn wants(&mut self, at: usize, names: &[&str]) -> &mut Self {
        let domains = names.iter().map(|name| domain(name)).collect();
        self.certificates.want(at, domains);
        self.line(&format!("want {at} {names:?}"));
        self.drive()
    }

    fn found(&mut self, found: StoredPairs) -> &mut Self {
        self.drive().done(CertificateDone::Found(found))
    }

    fn remembered(&mut self) -> &mut Self {
        self.done(CertificateDone::Remembered)
    }

    fn issued(&mut self) -> &mut Self {
        self.done(CertificateDone::Issued(PemPair {
            chain: "chain".to_owned(),
            key: Secret::new("key"),
        }))
    }

    fn live(&mut self, serial: &str, days: u64, changed: bool) -> &mut Self {
        let pair = pair(serial, self.millis, days * DAY);
        self.done(CertificateDone::Live { pair, changed })
    }
}

fn stored(serials: &[(&str, u64, u64)], current: Option<&str>) -> StoredPairs {
    StoredPairs {
        pairs: serials
            .iter()
            .map(|(serial, begin, days)| pair(serial, *begin, days * DAY))
            .collect(),
        current: current.map(|serial| PairId::new(serial, "0011223344")),
        ..StoredPairs::default()
    }
}

fn from_files(checked_every: u64) -> Certificates {
    let mut files = settings("files");
    files.source = CertificateSource::Files {
        certificate: "/etc/web.pem".into(),
        key: "/etc/web.key".into(),
    };
    files.check_interval = Duration::from_millis(checked_every);
    Certificates::new(CertificatesSetup {
        list: vec![files],
        directory: "/state/certificates".into(),
        seed: 7,
    })
}

#[test]
fn a_certificate_is_ordered_installed_and_renewed_in_its_time() {
    let mut told = Told::new(machine(&["web"]));
    told.chapter("Nothing is stored")
        .found(StoredPairs::default());
    told.remembered().waits(1000).issued().live("01", 90, true);
    told.chapter("At rest")
        .until_due()
        .drive()
        .until_due()
        .drive();
    told.chapter("Shortly before it is due, and then");
    let renew_at = told.certificates.snapshot(told.now())[0].renew_at.unwrap();
    told.millis = renew_at.unix_millis() - EPOCH_MS - 1;
    told.drive().waits(1).drive();
    told.remembered()
        .fails(CertificateFaultKind::Refused, None)
        .remembered();
    told.chapter("Its next attempt").until_due().drive();
    told.chapter("It expires").waits(40 * DAY).drive();
    told.chapter("The order is answered by nobody");
    told.until_due().drive();
    if !told.tickets.is_empty() {
        told.remembered();
    }
    told.waits(6 * MINUTE - 1).drive().waits(1).drive();
    told.is("renewed", include_str!("renewed.txt"));
}

#[test]
fn each_failure_is_kept_and_waited_for_in_its_way() {
    use CertificateFaultKind as Kind;
    let mut told = Told::new(machine(&["web"]));
    told.chapter("The disk does not say what is stored")
        .drive()
        .fails(Kind::Disk, None);
    told.until_due().found(StoredPairs {
        repairs: vec!["removed a half pair".to_owned()],
        ..StoredPairs::default()
    });
    told.chapter("It does not keep that an order begins")
        .fails(Kind::Disk, None);
    told.chapter("Each kind of an order's failure")
        .until_due()
        .drive();
    for (kind, asked) in [
        (Kind::Unreachable, None),
        (Kind::Address, None),
        (Kind::Refused, None),
        (Kind::Refused, Some(20)),
        (Kind::Refused, Some(4 * 3600)),
        (Kind::Refused, Some(40 * 3600)),
        (Kind::Unreachable, Some(3600)),
        (Kind::Cancelled, None),
    ] {
        told.remembered().fails(kind, asked);
        if kind != Kind::Cancelled {
            told.remembered().renew(None);
            if asked == Some(40 * 3600) {
                told.waits(DAY).drive();
            }
            told.until_due().drive();
        }
    }
    told.chapter("What came is no pair")
        .until_due()
        .drive()
        .remembered()
        .issued()
        .fails(Kind::Pair, None);
    told.fails(Kind::Disk, None).until_due().drive();
    told.chapter("It cannot be installed")
        .waits(DAY)
        .drive()
        .remembered()
        .issued()
        .fails(Kind::Disk, None);
    told.until_due().drive().live("02", 90, true);
    told.chapter("A person wants another")
        .waits(1)
        .renew(Some("web"))
        .renew(None);
    told.remembered().renew(None).issued().live("03", 90, true);
    told.renew(Some("nobodys"));
    told.chapter("Stopped while one is ordered")
        .renew(None)
        .remembered();
    told.certificates.stop();
    told.drive();
    told.is("failures", include_str!("failures.txt"));
}

#[test]
fn stored_pairs_are_taken_where_they_are_good() {
    use CertificateFaultKind as Kind;
    let mut told = Told::new(machine(&["web"]));
    told.waits(10 * DAY);
    told.chapter("Two are stored, the older one is live, the other lasts longer");
    told.found(stored(
        &[("01", 0, 10), ("02", 0, 90), ("03", 0, 80)],
        Some("01"),
    ));
    told.fails(Kind::Pair, None)
        .until_due()
        .found(stored(&[("03", 0, 80)], Some("gone")));
    told.live("03", 80, false);
    told.chapter("The disk does not select")
        .waits(70 * DAY)
        .drive();
    told.chapter("The wall clock stands before everything");
    let mut told2 = Told::new(machine(&["web"]));
    told2.ahead = -2 * i64::try_from(DAY).unwrap();
    told2.found(stored(&[("01", DAY, 90), ("02", 2, 90)], None));
    let mut told3 = Told::new(machine(&["web"]));
    told3.ahead = -i64::try_from(DAY).unwrap();
    told3
        .found(stored(&[("01", 0, 90)], None))
        .fails(Kind::Disk, None);
    told3.until_due().drive().live("01", 90, true);
    for other in [told2, told3] {
        told.diary.line(other.diary.text());
    }
    told.is("stored", include_str!("stored.txt"));
}

#[test]
fn domains_and_settings_that_change_are_followed() {
    use CertificateFaultKind as Kind;
    let mut list = vec![settings("web"), settings("api")];
    list[1].domains = Domains::FromBundle {
        agent: "it".parse().unwrap(),
        file: "domains".to_owned(),
    };
    let mut told = Told::new(Certificates::new(CertificatesSetup {
        list: list.clone(),
        directory: "/state/certificates".into(),
        seed: 7,
    }));
    told.diary
        .line(&format!("{:?}", told.certificates.followed()));
    told.chapter("One has a pair, the bundle names nothing");
    told.drive()
        .done(CertificateDone::Found(stored(&[("01", 0, 90)], Some("01"))));
    told.done(CertificateDone::Found(StoredPairs::default()));
    told.renew(None).renew(Some("api"));
    told.chapter("It names domains, the same, others while they are ordered");
    told.tickets.clear();
    told.wants(1, &["b.test"]);
    told.wants(1, &["b.test"]);
    told.is_ordered();
    told.wants(1, &["b.test", "c.test"]);
    told.wants(9, &["z.test"]);
    told.chapter("None any more").wants(1, &[]);
    told.chapter("The settings change");
    list[0].domains = Domains::Fixed(vec![domain("a.test"), domain("d.test")]);
    list[1].domains = Domains::Fixed(vec![domain("e.test")]);
    told.certificates.set(list.clone());
    told.drive().until_due().drive();
    list[1].domains = Domains::FromBundle {
        agent: "it".parse().unwrap(),
        file: "domains".to_owned(),
    };
    told.certificates.set(list.clone());
    told.drive();
    told.chapter("One is gone, another comes");
    told.certificates.set(vec![settings("new")]);
    told.drive();
    told.tickets.clear();
    told.chapter("None is left");
    told.certificates.set(Vec::new());
    told.diary
        .line(&format!("are none: {}", told.certificates.are_none()));
    told.drive();
    told.diary
        .line(&format!("are none: {}", told.certificates.are_none()));
    told.renew(None);
    told.chapter("Files of the operator");
    told.is("followed", include_str!("followed.txt"));
    let mut files = Told::new(from_files(HOUR));
    files
        .chapter("Files that are not there yet")
        .found(StoredPairs::default());
    files
        .fails(Kind::Pair, None)
        .until_due()
        .drive()
        .fails(Kind::Disk, None);
    files.until_due().drive().live("05", 3, true);
    files
        .chapter("Looked at again, unchanged, changed, broken")
        .until_due()
        .drive();
    files
        .live("05", 3, false)
        .until_due()
        .drive()
        .live("06", 3, true);
    files.until_due().drive().fails(Kind::Pair, None);
    files.renew(None).live("06", 3, false);
    files.chapter("It expires").waits(4 * DAY).drive();
    files.is("files", include_str!("files.txt"));
}

impl Told {
    fn is_ordered(&mut self) {
        if !self.tickets.is_empty() {
            self.remembered();
        }
    }

    #[track_caller]
    fn is(&self, name: &str, wanted: &str) {
        self.diary.is(name, wanted);
    }
}

#[test]
fn attempts_of_an_earlier_life_count_until_their_window_is_over() {
    let times = |minutes: &[u64]| {
        let times = minutes.iter();
        times
            .map(|at| WallTime::from_unix_millis(EPOCH_MS + at * MINUTE))
            .collect()
    };
    let attempts = |begun: &[u64], not_before: Option<u64>, asked_to_wait: bool| Attempts {
        domains: vec![domain("a.test")],
        begun: times(begun),
        failures: 2,
        not_before: not_before.map(|at| WallTime::from_unix_millis(EPOCH_MS + at * MINUTE)),
        asked_to_wait,
        last_error: "refused before".to_owned(),
    };
    let mut text = Diary::default();
    for (title, known) in [
        ("Three were begun", attempts(&[0, 1, 2], None, false)),
        (
            "Four, one of them long ago",
            attempts(&[0, 40, 50, 60], None, false),
        ),
        (
            "Four, one of them just not long ago",
            attempts(&[5, 40, 50, 60], None, false),
        ),
        (
            "Four, one of them in the future",
            attempts(&[50, 40, 61, 60], None, false),
        ),
        ("Five", attempts(&[10, 20, 30, 40, 50], None, false)),
        ("A wait", attempts(&[30], Some(100), false)),
        ("One that is over", attempts(&[30], Some(60), false)),
        ("One as long as any", attempts(&[30], Some(60 + 450), false)),
        (
            "One that is too long",
            attempts(&[30], Some(60 + 451), false),
        ),
        (
            "One that was asked for",
            attempts(&[30], Some(60 + 1440), true),
        ),
        (
            "One that nobody can have asked for",
            attempts(&[30], Some(60 + 1441), true),
        ),
        ("Both", attempts(&[10, 20, 30, 40, 50], Some(100), true)),
    ] {
        let mut told = Told::new(machine(&["web"]));
        told.waits(60 * MINUTE);
        told.chapter(title).found(StoredPairs {
            attempts: vec![known],
            ..StoredPairs::default()
        });
        told.renew(None);
        text.line(told.diary.text());
    }
    text.is("attempts", include_str!("attempts.txt"));
}
