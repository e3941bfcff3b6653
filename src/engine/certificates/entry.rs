//! One certificate: which pair is live, what is to be done next, what came of it.
//!
//! Promises: one piece of work at a time; what was issued is not ordered again because the disk had a bad moment; a
//! pair that is stored and good is taken before an authority is asked.
//! Must never: order while another certificate of the host does.

use std::time::Duration;

use super::pace::Pace;
use super::{KnownCertificate, Outcome, later};
use crate::config::{Acme, Certificate, CertificateSource, Domains};
use crate::engine::message::{
    CertificateDone, CertificateFault, CertificateFaultKind, CertificateOrder, CertificateSnapshot,
    CertificateWork, Effect, Note, NoteLevel, Pair, PairId, PemPair, StoredPairs,
};
use crate::engine::random::Random;
use crate::units::{Domain, Moment, Now, Ticket, WallTime};

/// How long a disk that refused is left alone.
const DISK_RETRY: Duration = Duration::from_secs(30);
/// An order that is not answered this long after its own deadline is taken for lost.
const LOST_AFTER: Duration = Duration::from_mins(1);
/// A clock that stands further than this before the beginning of a pair is not believed.
const CLOCK_SLACK: Duration = Duration::from_hours(24);
/// Renewals of many hosts are spread over this share of a life.
const SPREAD_PERCENT: u64 = 5;

#[derive(Debug)]
pub(super) enum Doing {
    Nothing,
    Looking(Ticket),
    /// The order is being written down before it is made.
    Beginning(Ticket),
    Ordering {
        ticket: Ticket,
        lost_at: Moment,
    },
    /// A failure is being written down.
    Noting(Ticket),
    Installing(Ticket),
    Selecting(Ticket),
    Adopting(Ticket),
}

impl Doing {
    pub(super) fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Nothing => None,
            Self::Looking(ticket)
            | Self::Beginning(ticket)
            | Self::Ordering { ticket, .. }
            | Self::Noting(ticket)
            | Self::Installing(ticket)
            | Self::Selecting(ticket)
            | Self::Adopting(ticket) => Some(*ticket),
        }
    }
}

/// One certificate.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) settings: Certificate,
    pub(super) domains: Vec<Domain>,
    pub(super) doing: Doing,
    looked: bool,
    stored: Vec<Pair>,
    live: Option<PairId>,
    pace: Pace,
    /// Issued, not on disk yet, with what it was ordered for.
    issued: Option<(PemPair, Vec<Domain>)>,
    ordered_for: Vec<Domain>,
    pub(super) checked_at: Option<Moment>,
    retry_at: Option<Moment>,
    forced: bool,
    pub(super) error: String,
    renewals: u64,
    failures: u64,
    checks: u64,
}

/// What an entry wants done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    Select(PairId),
    Order,
}

impl Entry {
    pub(super) fn new(settings: Certificate) -> Self {
        let domains = match &settings.domains {
            Domains::Fixed(domains) => domains.clone(),
            Domains::FromBundle { .. } => Vec::new(),
        };
        Self {
            settings,
            domains,
            doing: Doing::Nothing,
            looked: false,
            stored: Vec::new(),
            live: None,
            pace: Pace::default(),
            issued: None,
            ordered_for: Vec::new(),
            checked_at: None,
            retry_at: None,
            forced: false,
            error: String::new(),
            renewals: 0,
            failures: 0,
            checks: 0,
        }
    }

    pub(super) fn is_ordering(&self) -> bool {
        matches!(self.doing, Doing::Beginning(_) | Doing::Ordering { .. })
    }

    fn live(&self) -> Option<&Pair> {
        let live = self.live.as_ref()?;
        self.stored.iter().find(|pair| &pair.id == live)
    }

    /// When a pair is to be renewed: a share of its life, spread a little so that a fleet does not come at once, always
    /// the same for the same pair.
    fn renew_at(&self, pair: &Pair) -> WallTime {
        let begin = pair.not_before.unix_millis();
        let life = pair.not_after.unix_millis().saturating_sub(begin);
        let percent = |share: u64| (life / 100).saturating_mul(share);
        let spread = percent(SPREAD_PERCENT);
        let place = pair.id.as_str().bytes().fold(0u64, |sum, byte| {
            sum.wrapping_mul(131).wrapping_add(u64::from(byte))
        });
        let early = place.checked_rem(spread).unwrap_or(0);
        let due = begin.saturating_add(percent(u64::from(self.settings.renew_percent)));
        WallTime::from_unix_millis(due.saturating_sub(early))
    }

    fn is_due(&self, pair: &Pair, now: Now) -> bool {
        now.wall >= self.renew_at(pair)
    }

    fn need(&self, now: Now) -> Need {
        let good = |pair: &&Pair| pair.covers(&self.domains) && !self.is_due(pair, now);
        if !self.forced {
            if self.live().as_ref().is_some_and(good) {
                return Need::Nothing;
            }
            let believed = |pair: &&Pair| pair.not_before <= later(now.wall, CLOCK_SLACK);
            let stored = self.stored.iter().filter(good).filter(believed);
            if let Some(pair) = stored.max_by_key(|pair| pair.not_after) {
                return Need::Select(pair.id.clone());
            }
        }
        Need::Order
    }

    pub(super) fn drive(&mut self, now: Now, busy: bool, tickets: &mut u64, out: &mut Outcome) {
        if let Doing::Ordering { ticket, lost_at } = self.doing
            && (self.ordered_for != self.domains || lost_at <= now.mono)
        {
            out.effects.push(Effect::CancelCertificate { ticket });
            self.doing = Doing::Nothing;
        }
        let waits = self.retry_at.is_some_and(|at| at > now.mono);
        if !matches!(self.doing, Doing::Nothing) || waits {
            return;
        }
        self.retry_at = None;
        if !self.looked {
            let ticket = self.issue(CertificateWork::Look, tickets, out);
            self.doing = Doing::Looking(ticket);
            return;
        }
        if let Some((pair, domains)) = self.issued.clone() {
            if domains == self.domains {
                let work = CertificateWork::Install { pair, domains };
                self.doing = Doing::Installing(self.issue(work, tickets, out));
                return;
            }
            self.issued = None;
        }
        let since = self.checked_at;
        let check = self.forced
            || since.is_none_or(|at| now.mono >= at.after(self.settings.check_interval));
        if check {
            self.checked_at = Some(now.mono);
            self.checks = self.checks.saturating_add(1);
        }
        match self.settings.source.clone() {
            CertificateSource::Files { certificate, key } => {
                if check {
                    self.forced = false;
                    let domains = self.domains.clone();
                    let work = CertificateWork::Adopt {
                        certificate,
                        key,
                        domains,
                    };
                    self.doing = Doing::Adopting(self.issue(work, tickets, out));
                }
            }
            CertificateSource::Acme(acme) => self.drive_acme(now, busy, &acme, tickets, out),
        }
    }

    fn drive_acme(
        &mut self,
        now: Now,
        busy: bool,
        acme: &Acme,
        tickets: &mut u64,
        out: &mut Outcome,
    ) {
        if self.domains.is_empty() {
            self.forced = false;
            return;
        }
        match self.need(now) {
            Need::Nothing => {}
            Need::Select(id) => {
                let work = CertificateWork::Select(id);
                self.doing = Doing::Selecting(self.issue(work, tickets, out));
            }
            Need::Order => {
                let hold = self.pace.hold(&self.domains, now.wall, self.retry());
                if busy || (hold.is_some() && !self.forced) {
                    return;
                }
                self.forced = false;
                self.pace.begin(&self.domains, now.wall);
                self.ordered_for.clone_from(&self.domains);
                let domains: Vec<&str> = self.domains.iter().map(Domain::as_str).collect();
                let fields = vec![
                    ("domains", domains.join(" ")),
                    ("endpoint", acme.directory.clone()),
                ];
                let note = self.note(NoteLevel::Info, "certificate is being ordered", fields);
                out.effects.push(Effect::Note(note));
                let work = CertificateWork::Remember(self.pace.kept());
                self.doing = Doing::Beginning(self.issue(work, tickets, out));
            }
        }
    }

    fn issue(&self, work: CertificateWork, tickets: &mut u64, out: &mut Outcome) -> Ticket {
        *tickets = tickets.saturating_add(1);
        let ticket = Ticket(*tickets);
        out.effects.push(Effect::Certificate {
            ticket,
            name: self.settings.name.clone(),
            work,
        });
        ticket
    }

    pub(super) fn done(
        &mut self,
        now: Now,
        doing: Doing,
        done: CertificateDone,
        tickets: &mut u64,
        out: &mut Outcome,
    ) {
        match (doing, done) {
            (Doing::Looking(_), CertificateDone::Found(found)) => self.found(found, out),
            (Doing::Beginning(_), CertificateDone::Remembered) => {
                if self.ordered_for != self.domains {
                    return;
                }
                if let CertificateSource::Acme(acme) = self.settings.source.clone() {
                    let lost_at = now.mono.after(acme.timeout).after(LOST_AFTER);
                    let domains = self.domains.clone();
                    let order = CertificateOrder { acme, domains };
                    let work = CertificateWork::Order(Box::new(order));
                    let ticket = self.issue(work, tickets, out);
                    self.doing = Doing::Ordering { ticket, lost_at };
                }
            }
            (Doing::Ordering { .. }, CertificateDone::Issued(pair)) => {
                self.issued = Some((pair, self.ordered_for.clone()));
            }
            (Doing::Installing(_), CertificateDone::Live { pair, changed }) => {
                self.issued = None;
                self.pace.succeeded(&self.ordered_for);
                self.now_live(pair, changed, out);
            }
            (Doing::Selecting(_) | Doing::Adopting(_), CertificateDone::Live { pair, changed }) => {
                self.now_live(pair, changed, out);
            }
            // What failed to be written down is tried again with the next failure.
            (_, _) => {}
        }
    }

    fn found(&mut self, found: StoredPairs, out: &mut Outcome) {
        self.looked = true;
        for repair in found.repairs {
            let note = self.note(NoteLevel::Warn, "state repaired", vec![("error", repair)]);
            out.effects.push(Effect::Note(note));
        }
        self.stored = found.pairs;
        self.live = found
            .current
            .filter(|id| self.stored.iter().any(|pair| &pair.id == id));
        self.pace = Pace::of(found.attempts);
        self.error = self.pace.last_error(&self.domains);
    }

    fn now_live(&mut self, pair: Pair, changed: bool, out: &mut Outcome) {
        self.error.clear();
        self.retry_at = None;
        let id = pair.id.clone();
        let (serial, until) = (pair.serial.clone(), pair.not_after.to_string());
        self.stored.retain(|stored| stored.id != id);
        self.stored.push(pair);
        let before = self.live.replace(id.clone());
        if changed || before.as_ref() != Some(&id) {
            self.renewals = self.renewals.saturating_add(1);
            let fields = vec![("serial", serial), ("not_after", until)];
            let note = self.note(NoteLevel::Info, "certificate is live", fields);
            out.effects.push(Effect::Note(note));
            out.renewed.push(self.settings.name.clone());
        }
    }

    pub(super) fn failed(
        &mut self,
        now: Now,
        doing: &Doing,
        fault: &CertificateFault,
        random: &mut Random,
        out: &mut Outcome,
    ) {
        if fault.kind == CertificateFaultKind::Cancelled {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let news = self.error != fault.reason;
        self.error.clone_from(&fault.reason);
        match doing {
            Doing::Ordering { .. } => {
                let domains = self.ordered_for.clone();
                self.pace
                    .failed(&domains, now.wall, fault, self.retry(), random);
            }
            Doing::Installing(_) if fault.kind == CertificateFaultKind::Pair => {
                // What the authority gave is no good: as bad as a refusal.
                self.issued = None;
                let domains = self.ordered_for.clone();
                self.pace
                    .failed(&domains, now.wall, fault, self.retry(), random);
            }
            Doing::Selecting(_) if fault.kind == CertificateFaultKind::Pair => {
                // It is not what it was: look again at what is stored.
                self.looked = false;
                self.retry_at = Some(now.mono.after(DISK_RETRY));
            }
            Doing::Adopting(_) if fault.kind == CertificateFaultKind::Pair => {
                // Files that are on their way are not waited for until the next check where there is no pair yet.
                if self.live().is_none() {
                    self.checked_at = None;
                    self.retry_at = Some(now.mono.after(DISK_RETRY));
                }
            }
            // The order was not made: nothing was asked.
            Doing::Beginning(_) => {
                self.pace.not_begun(&self.ordered_for);
                self.retry_at = Some(now.mono.after(DISK_RETRY));
            }
            _ => self.retry_at = Some(now.mono.after(DISK_RETRY)),
        }
        if news || matches!(doing, Doing::Ordering { .. }) {
            let mut fields = vec![("error", fault.reason.clone())];
            if let Some(at) = self.pace.hold(&self.domains, now.wall, self.retry()) {
                fields.push(("next_attempt", at.to_string()));
            }
            let note = self.note(NoteLevel::Warn, "certificate not renewed", fields);
            out.effects.push(Effect::Note(note));
        }
    }

    /// A failed order is kept on disk, so that the next life does not come too early.
    pub(super) fn write_down(
        &mut self,
        doing: &Doing,
        fault: &CertificateFault,
        tickets: &mut u64,
        out: &mut Outcome,
    ) {
        let tried = matches!(doing, Doing::Ordering { .. })
            || matches!(doing, Doing::Installing(_)) && fault.kind == CertificateFaultKind::Pair;
        if tried && fault.kind != CertificateFaultKind::Cancelled {
            let work = CertificateWork::Remember(self.pace.kept());
            self.doing = Doing::Noting(self.issue(work, tickets, out));
        }
    }

    pub(super) fn force(&mut self, now: Now) -> Result<(), String> {
        let is_acme = matches!(self.settings.source, CertificateSource::Acme(_));
        if is_acme && self.domains.is_empty() {
            return Err("no bundle names a domain for it, so there is nothing to order".to_owned());
        }
        if self.is_ordering() {
            return Err(
                "an order is under way already, see `adjutant certificates list`".to_owned(),
            );
        }
        if let Some(at) = self.pace.asked_to_wait(&self.domains, now.wall) {
            return Err(format!(
                "the authority asked not to be asked again before {at}"
            ));
        }
        self.forced = true;
        Ok(())
    }

    fn retry(&self) -> Duration {
        self.settings.retry_delay
    }

    pub(super) fn due(&self, now: Now, busy: bool) -> Option<Moment> {
        match self.doing {
            Doing::Nothing => {}
            Doing::Ordering { lost_at, .. } => return Some(lost_at),
            _ => return None,
        }
        if let Some(at) = self.retry_at {
            return Some(at);
        }
        let check = self
            .checked_at
            .map_or(now.mono, |at| at.after(self.settings.check_interval));
        let from_wall = |at: WallTime| {
            let wait = at.unix_millis().saturating_sub(now.wall.unix_millis());
            now.mono.after(Duration::from_millis(wait))
        };
        let is_acme = matches!(self.settings.source, CertificateSource::Acme(_));
        if !is_acme || self.domains.is_empty() {
            return Some(check);
        }
        let next = match self.need(now) {
            Need::Nothing => self.live().map(|live| from_wall(self.renew_at(live))),
            // Whoever orders now wakes us with its answer.
            Need::Order if busy => None,
            Need::Order => {
                let hold = self.pace.hold(&self.domains, now.wall, self.retry());
                Some(hold.map_or(now.mono, from_wall))
            }
            Need::Select(_) => Some(now.mono),
        };
        Some(next.map_or(check, |next| next.min(check)))
    }

    pub(super) fn known(&self) -> KnownCertificate {
        KnownCertificate {
            name: self.settings.name.clone(),
            settings: self.settings.clone(),
            live: self.live().cloned(),
            error: self.error.clone(),
        }
    }

    pub(super) fn snapshot(&self, now: Now) -> CertificateSnapshot {
        let live = self.live();
        let is_acme = matches!(self.settings.source, CertificateSource::Acme(_));
        let expired = live.is_some_and(|pair| pair.not_after <= now.wall);
        let covers = live.is_some_and(|pair| pair.covers(&self.domains));
        let state = match live {
            _ if self.is_ordering() => "ordering",
            _ if expired => "expired",
            None if is_acme && self.domains.is_empty() && self.looked => "idle",
            Some(_) if !self.error.is_empty() || !covers => "renewing",
            Some(_) => "live",
            None => "waiting",
        };
        let acting = is_acme && !self.domains.is_empty();
        CertificateSnapshot {
            name: self.settings.name.clone(),
            source: if is_acme { "acme" } else { "files" },
            state,
            domains: self.domains.clone(),
            pair: live.cloned(),
            renew_at: live.filter(|_| acting).map(|pair| self.renew_at(pair)),
            next_attempt: self
                .pace
                .hold(&self.domains, now.wall, self.retry())
                .filter(|_| acting && self.need(now) == Need::Order),
            last_error: self.error.clone(),
            renewals: self.renewals,
            failures: self.failures,
            checks: self.checks,
        }
    }

    pub(super) fn note(
        &self,
        level: NoteLevel,
        message: &'static str,
        mut fields: Vec<(&'static str, String)>,
    ) -> Note {
        fields.push(("certificate", self.settings.name.to_string()));
        Note {
            level,
            agent: None,
            message,
            fields,
        }
    }
}
