//! The disk as the world serves it: work of agents and of certificates, and what lies there afterwards.

use super::*;

/// What somebody writes over a file of a revision.
const SCRIBBLE: &str = "sources: {}\n";

impl World {
    /// The kernel watches; now and then it says that something happened although nothing did.
    pub(crate) fn watch_files(&mut self, ticket: Ticket, paths: &[PathBuf]) {
        if paths.is_empty() {
            self.watch = None;
            return;
        }
        self.watch = Some(ticket);
        let wait = self.latency(10);
        let by = WatchedBy::Events;
        self.agent_event(wait, AgentEvent::FilesWatched { ticket, by });
        if self.strikes(|faults| faults.child_deaths) {
            let wait = wait + 1 + self.random.below(30_000);
            self.agent_event(wait, AgentEvent::FilesTouched { ticket });
        }
    }

    /// Somebody edits a file of what runs.
    pub(crate) fn scribble(&mut self) {
        self.scribble_at("current");
    }

    /// Somebody edits a file of what a link points to.
    pub(crate) fn scribble_at(&mut self, link: &str) {
        let file = self.link_target(link).unwrap().join("collect.yaml");
        let text = SCRIBBLE.as_bytes();
        self.disk.write_file(&file, text, 0o600).unwrap();
        self.checked = false;
        self.say(format_args!("somebody writes {}", file.display()));
        if let Some(ticket) = self.watch {
            self.agent_event(5, AgentEvent::FilesTouched { ticket });
        }
    }

    /// Whether somebody's edit is all that is left: no link names a revision that is what it was.
    pub(super) fn nothing_proven(&self) -> bool {
        let edited = |link: &str| {
            let file = self.link_target(link)?.join("collect.yaml");
            Some(self.read(&file)? == SCRIBBLE)
        };
        edited("current") == Some(true) && edited("last-good") != Some(false)
    }

    pub(crate) fn disk_work(&mut self, ticket: Ticket, work: DiskWork) {
        if std::mem::take(&mut self.no_disk) || self.strikes(|faults| faults.disk) {
            let step = self.disk.steps() + 1 + self.random.below(12);
            let errors = [libc::ENOSPC, libc::EIO, libc::EROFS];
            let index = usize::try_from(self.random.below(3)).unwrap();
            let last = step + self.random.below(3);
            self.disk.fail(step..=last, errors[index]);
        }
        let dies = self.chance(self.faults.deaths * 4.0);
        if dies {
            self.disk
                .die_after(self.disk.steps() + self.random.below(14));
        }
        let promotes = matches!(work, DiskWork::Promote(_));
        let Some(store) = &mut self.store else { return };
        let result = store.perform(work);
        self.checked = false;
        self.seen_current |= promotes && result.is_ok();
        // A fault that did not strike now would strike the simulator's own look at the disk.
        self.disk.kill();
        if dies {
            // Whether or not the work came to its end before it: the process is gone.
            let death = if self.chance(0.5) {
                Death::Killed
            } else {
                Death::Power
            };
            return self.die(death);
        }
        if let Err(fault) = &result {
            self.say(format_args!("fault {}", fault.reason));
        }
        let wait = self.latency(5);
        if self.strikes(|faults| faults.duplicates) {
            let result = Ok(adjutant::engine::message::DiskDone::Durable);
            self.agent_event(wait + 40, AgentEvent::Disk { ticket, result });
        }
        self.agent_event(wait, AgentEvent::Disk { ticket, result });
    }

    pub(crate) fn certificate(
        &mut self,
        ticket: Ticket,
        name: CertificateName,
        work: CertificateWork,
    ) {
        let text = format!("{work:?}");
        let text: String = text.chars().take(120).collect();
        self.say(format_args!("effect certificate {ticket:?} {text}"));
        match work {
            CertificateWork::Order(order) => {
                let wait = self.latency(2_000);
                self.later(wait, What::Order { ticket, order });
            }
            work => {
                let wait = self.latency(15);
                let work = Box::new(work);
                self.later(wait, What::PairWork { ticket, name, work });
            }
        }
    }

    pub(crate) fn ordered(&mut self, ticket: Ticket, order: &CertificateOrder) {
        if self.cancelled.contains(&ticket) {
            return;
        }
        let result = self
            .authority
            .answer(EPOCH_MS + self.ahead + self.now, order);
        self.say(format_args!(
            "authority: {}",
            if result.is_ok() { "issued" } else { "no" }
        ));
        let wait = self.latency(2_000);
        if self.chance(self.faults.duplicates) {
            let result = result.clone();
            self.later(wait + 40, What::Host(Event::Certificate { ticket, result }));
        }
        self.later(wait, What::Host(Event::Certificate { ticket, result }));
    }

    pub(crate) fn pair_work(
        &mut self,
        ticket: Ticket,
        name: &CertificateName,
        work: CertificateWork,
    ) {
        if self.chance(self.faults.disk) {
            let step = self.disk.steps() + 1 + self.random.below(12);
            let last = step + self.random.below(3);
            self.disk.fail(step..=last, libc::EIO);
        }
        let dies = self.chance(self.faults.deaths * 4.0);
        if dies {
            self.disk
                .die_after(self.disk.steps() + self.random.below(20));
        }
        let now = self.clock().wall;
        let mut store = PairStore::new(self.disk.clone(), Path::new("/state"));
        let result = store.perform(name, work, now);
        let live = matches!(result, Ok(CertificateDone::Live { .. }));
        // As in `disk_work`.
        self.disk.kill();
        if dies {
            let death = if self.chance(0.5) {
                Death::Killed
            } else {
                Death::Power
            };
            return self.die(death);
        }
        self.seen_pair |= live;
        self.check_pair();
        if let Err(fault) = &result {
            self.say(format_args!("certificate fault {}", fault.reason));
        }
        let wait = self.latency(5);
        self.later(wait, What::Host(Event::Certificate { ticket, result }));
    }

    /// What readers find is a whole pair, at every moment from the first on.
    pub(crate) fn check_pair(&mut self) {
        let link = Path::new("/state/certificates/web/current");
        let there = self.disk.kind(link).unwrap_or(Kind::Absent) != Kind::Absent;
        if !there {
            if self.seen_pair {
                self.violated("the live pair is gone");
            }
            return;
        }
        let mut store = PairStore::new(self.disk.clone(), Path::new("/state"));
        let name = "web".parse().unwrap();
        match store.perform(&name, CertificateWork::Look, self.clock().wall) {
            Ok(CertificateDone::Found(found)) if found.current.is_some() => {}
            other => self.violated(&format!("the live pair is not whole: {other:?}")),
        }
    }

    /// The directory of the live pair.
    pub(crate) fn live_pair(&self) -> Option<PathBuf> {
        let link = Path::new("/state/certificates/web/current");
        self.disk.read_link(link).ok()
    }

    /// The pair that the living child has read.
    pub(crate) fn child_pair(&self) -> Option<PathBuf> {
        let mut living = self.children.values().filter(|child| child.alive);
        living.next().and_then(|child| child.pair.clone())
    }

    pub(crate) fn read(&self, path: &Path) -> Option<String> {
        let bytes = self.disk.read(path, 1024 * 1024).ok()?;
        String::from_utf8(bytes).ok()
    }

    pub(crate) fn link_target(&self, link: &str) -> Option<PathBuf> {
        let root = self.root();
        let target = self.disk.read_link(&root.join(link)).ok()?;
        Some(root.join(target))
    }

    pub(crate) fn text_at(&self, link: &str) -> Option<String> {
        self.read(&self.link_target(link)?.join("collect.yaml"))
    }
}
