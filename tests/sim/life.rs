//! A scripted life of one agent's store, what its witness was told, and what the next life must therefore find.

use std::collections::BTreeMap;
use std::path::Path;

use adjutant::engine::message::{
    DiskWork, LayerKind, Origin, Persisted, Record, Rejection, Revision, RevisionFile, Step,
};
use adjutant::port::store::{AgentLayout, AgentStore};
use adjutant::sys::durable::Disk as _;
use adjutant::units::{OfferHash, RevisionHash, RevisionId, WallTime};

use super::disk::ModelDisk;

pub(super) fn layout() -> AgentLayout {
    AgentLayout::new(Path::new("/state"), &"collector".parse().unwrap())
}

pub(super) fn fresh_disk() -> ModelDisk {
    let disk = ModelDisk::new(1);
    disk.put_dir(Path::new("/state"));
    disk
}

pub(super) fn load(disk: &ModelDisk) -> (AgentStore<ModelDisk>, Persisted) {
    AgentStore::load(disk.clone(), layout(), &[]).unwrap()
}

/// A revision whose content follows from its number.
pub(super) fn revision(number: u64) -> Revision {
    let file = |path: &str, layer, bytes: Vec<u8>| RevisionFile {
        path: path.to_owned(),
        layer,
        source: path.to_owned(),
        content_type: "text/yaml".to_owned(),
        bytes,
    };
    let main = format!("revision: {number}\n{}", "x".repeat(100)).into_bytes();
    let mut files = vec![
        file("config.yaml", LayerKind::Remote, main),
        file("empty", LayerKind::Local, Vec::new()),
    ];
    if number.is_multiple_of(2) {
        files.push(file("tls/keys/ca.pem", LayerKind::Remote, vec![0, 255, 10]));
        files.push(file("overlay.yaml", LayerKind::Marker, b"marker".to_vec()));
    }
    let parts = files
        .iter()
        .map(|file| (file.path.as_str(), "", file.bytes.as_slice()));
    let hash = RevisionHash::of(parts);
    let at = WallTime::from_unix_millis(1_700_000_000_000 + number);
    Revision {
        id: RevisionId::new(at, hash),
        hash,
        offer: Some(OfferHash::new([9, 8, 7])),
        origin: Origin::Offer,
        at,
        files,
    }
}

pub(super) fn record(transaction: u64, step: Step) -> DiskWork {
    let about = revision(transaction);
    DiskWork::Journal(Record {
        transaction,
        at: about.at,
        step,
        revision: Some(about.id),
        hash: Some(about.hash),
        offer: about.offer,
        origin: Origin::Offer,
        reason: "because of \"x\"\n".to_owned(),
    })
}

pub(super) fn rejection(number: u64) -> Rejection {
    Rejection {
        hash: revision(number).hash,
        reason: "exit code 1".to_owned(),
        at: WallTime::from_unix_millis(5),
        offers: vec![OfferHash::new([9, 8, 7])],
    }
}

pub(super) fn script() -> Vec<DiskWork> {
    let stage = |number| DiskWork::Stage(Box::new(revision(number)));
    let id = |number| revision(number).id;
    vec![
        record(1, Step::Intent),
        stage(1),
        record(1, Step::Staged),
        DiskWork::Promote(id(1)),
        record(1, Step::Promoted),
        DiskWork::MarkGood(id(1)),
        record(1, Step::Committed),
        record(2, Step::Intent),
        stage(2),
        DiskWork::Promote(id(2)),
        record(2, Step::Promoted),
        DiskWork::SaveRejected(vec![rejection(2)]),
        DiskWork::Promote(id(1)),
        record(2, Step::RolledBack),
        stage(3),
        DiskWork::Promote(id(3)),
        DiskWork::MarkGood(id(3)),
        DiskWork::SaveRejected(vec![rejection(2), rejection(1)]),
        DiskWork::Prune { keep: vec![id(3)] },
        stage(1),
        stage(3),
        DiskWork::Promote(id(1)),
        record(4, Step::Promoted),
    ]
}

/// One value on disk: the last one acknowledged, and those tried since.
#[derive(Debug, Clone, Default)]
pub(super) struct Register<T> {
    pub(super) acknowledged: T,
    tried: Vec<T>,
}

impl<T: PartialEq + Clone + std::fmt::Debug> Register<T> {
    fn set(&mut self, value: T, acknowledged: bool) {
        if acknowledged {
            self.acknowledged = value;
            self.tried.clear();
        } else {
            self.tried.push(value);
        }
    }

    fn check(&self, found: &T, what: &str, at: &str) {
        assert!(
            *found == self.acknowledged || self.tried.contains(found),
            "{at}: {what} is {found:?}, acknowledged was {:?}, tried {:?}",
            self.acknowledged,
            self.tried
        );
    }
}

/// What a life was told, from which follows what the next one may find.
#[derive(Debug, Clone, Default)]
pub(super) struct Witness {
    pub(super) current: Register<Option<RevisionId>>,
    pub(super) last_good: Register<Option<RevisionId>>,
    pub(super) rejected: Register<Vec<Rejection>>,
    pub(super) records: Vec<(Record, bool)>,
    /// Revisions that must be there: acknowledged, and no prune has been tried that does not keep them.
    pub(super) staged: BTreeMap<RevisionId, Revision>,
}

impl Witness {
    /// What a life may rely on that has loaded this without a fault.
    pub(super) fn of(store: &AgentStore<ModelDisk>, persisted: Persisted) -> Self {
        let mut witness = Self::default();
        witness.current.acknowledged = persisted.current.map(|revision| revision.id);
        witness.last_good.acknowledged = persisted.last_good;
        witness.rejected.acknowledged = persisted.rejected;
        let records = persisted.journal.into_iter();
        witness.records = records.map(|record| (record, true)).collect();
        for one in persisted.revisions {
            let revision = store.reader().read(&one.id).unwrap();
            witness.staged.insert(one.id, revision);
        }
        witness
    }

    fn see(&mut self, work: DiskWork, done: bool) {
        match work {
            DiskWork::Promote(id) => self.current.set(Some(id), done),
            DiskWork::MarkGood(id) => self.last_good.set(Some(id), done),
            DiskWork::SaveRejected(list) => self.rejected.set(list, done),
            DiskWork::Journal(record) => self.records.push((record, done)),
            DiskWork::Stage(revision) if done => {
                self.staged.insert(revision.id.clone(), *revision);
            }
            DiskWork::Prune { keep } => self.staged.retain(|id, _| keep.contains(id)),
            DiskWork::Stage(_)
            | DiskWork::SaveConnection(_)
            | DiskWork::ReadLocal(_)
            | DiskWork::ReadRevision(_)
            | DiskWork::StageTrial(_)
            | DiskWork::DropTrial
            | DiskWork::Verify(_)
            | DiskWork::Restore(_)
            | DiskWork::ShowEffective(_)
            | DiskWork::KeepMaterial(_) => {}
        }
    }

    pub(super) fn check(&self, disk: &ModelDisk, persisted: &Persisted, at: &str) {
        let current = persisted.current.as_ref();
        let current_id = current.map(|revision| revision.id.clone());
        // A missing link is rebuilt from last good, which random histories mark without promoting it.
        let rebuilt = self.current.acknowledged.is_none();
        if !rebuilt || current_id != persisted.last_good {
            self.current.check(&current_id, "current", at);
        }
        self.last_good.check(&persisted.last_good, "last good", at);
        self.rejected.check(&persisted.rejected, "rejected", at);
        assert_eq!(persisted.frozen, None, "{at}");
        if let Some(revision) = current {
            let whole = (1..=9).map(self::revision).any(|made| made == *revision);
            assert!(whole, "{at}: current is not whole: {revision:?}");
        }

        // Acknowledged records are all there, in order; others only if they were tried.
        let mut left = persisted.journal.iter().peekable();
        for (record, acknowledged) in &self.records {
            if left.peek() == Some(&record) {
                left.next();
            } else {
                assert!(!acknowledged, "{at}: the journal lacks {record:?}");
            }
        }
        assert_eq!(left.next(), None, "{at}: the journal has too much");

        // Readers go through the link itself.
        for (link, wanted) in [
            (layout().current(), current_id.as_ref()),
            (layout().last_good(), persisted.last_good.as_ref()),
        ] {
            let there = disk.read(&link.join("config.yaml"), 1 << 20).is_ok();
            assert_eq!(there, wanted.is_some(), "{at}: {}", link.display());
        }
        let listed: Vec<_> = persisted.revisions.iter().map(|one| &one.id).collect();
        for id in self.staged.keys() {
            assert!(listed.contains(&id), "{at}: revision {id} is lost");
        }
        for name in disk.list(&layout().revisions()).unwrap() {
            let plain = name.to_str().unwrap().parse::<RevisionId>().is_ok();
            assert!(plain, "{at}: left over in revisions: {}", name.display());
        }
    }
}

/// Lets the first life on a disk work through the script until it dies. Faults do not end it.
pub(super) fn live(disk: &ModelDisk, script: &[DiskWork]) -> Witness {
    let mut witness = Witness::default();
    live_on(disk, script, &mut witness);
    witness
}

/// Lets a later life do the same.
pub(super) fn live_on(disk: &ModelDisk, script: &[DiskWork], witness: &mut Witness) {
    let Ok((mut store, persisted)) = AgentStore::load(disk.clone(), layout(), &[]) else {
        return;
    };
    let mut repairs = persisted.repairs.iter();
    if repairs.any(|note| note.starts_with("current rebuilt from last-good")) {
        witness.current.tried.push(persisted.last_good);
    }
    for work in script {
        let answer = store.perform(work.clone());
        witness.see(work.clone(), answer.is_ok());
        if answer.is_err_and(|fault| fault.reason.contains("the process is dead")) {
            return;
        }
    }
}

/// What two lives must agree on.
fn essence(persisted: &Persisted) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        persisted.current.clone(),
        persisted.last_good.clone(),
        persisted.journal.clone(),
        persisted.rejected.clone(),
        persisted.revisions.clone(),
    )
}

/// The next life: loads, agrees with the witness, survives another crash unchanged, and works.
pub(super) fn next_life(disk: &ModelDisk, witness: &Witness, seed: u64, at: &str) {
    let (_, first) = load(disk);
    witness.check(disk, &first, at);
    // What a life decides on, a crash must not take back: otherwise it would be decided twice.
    disk.crash(seed.wrapping_add(1000));
    let (mut store, second) = load(disk);
    assert_eq!(
        essence(&second),
        essence(&first),
        "{at}: a second load differs"
    );
    assert_eq!(second.repairs, Vec::<String>::new(), "{at}: repaired twice");

    let next = revision(9);
    for work in [
        DiskWork::Stage(Box::new(next.clone())),
        record(9, Step::Staged),
        DiskWork::Promote(next.id.clone()),
        DiskWork::MarkGood(next.id.clone()),
    ] {
        store.perform(work).unwrap();
    }
    disk.crash(seed.wrapping_add(2000));
    let (_, third) = load(disk);
    assert_eq!(third.current, Some(next.clone()), "{at}");
    assert_eq!(third.last_good, Some(next.id), "{at}");
    assert_eq!(third.journal.last().unwrap().transaction, 9, "{at}");
    assert_eq!(third.journal.len(), first.journal.len() + 1, "{at}");
}
