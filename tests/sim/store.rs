//! Given a scripted life of one agent's store; when the process is killed or the power goes at any syscall, or any syscall fails;
//! then the next life finds everything that was acknowledged, old or new for what was not, and goes on working.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adjutant::engine::message::{
    DiskDone, DiskWork, FaultKind, LayerKind, Origin, Persisted, Record, Rejection, Revision,
    RevisionFile, Step,
};
use adjutant::port::store::{AgentLayout, AgentStore};
use adjutant::sys::durable::{Disk as _, FILE_MODE};
use adjutant::units::{OfferHash, RevisionHash, RevisionId, WallTime};
use nix::libc;

use super::disk::ModelDisk;

/// Crash seeds tried at each point.
const SEEDS: u64 = 6;

fn layout() -> AgentLayout {
    AgentLayout::new(Path::new("/state"), &"collector".parse().unwrap())
}

fn fresh_disk() -> ModelDisk {
    let disk = ModelDisk::new(1);
    disk.put_dir(Path::new("/state"));
    disk
}

fn load(disk: &ModelDisk) -> (AgentStore<ModelDisk>, Persisted) {
    AgentStore::load(disk.clone(), layout(), &[]).unwrap()
}

/// A revision whose content follows from its number.
fn revision(number: u64) -> Revision {
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

fn record(transaction: u64, step: Step) -> DiskWork {
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

fn rejection(number: u64) -> Rejection {
    Rejection {
        hash: revision(number).hash,
        reason: "exit code 1".to_owned(),
        at: WallTime::from_unix_millis(5),
        offers: vec![OfferHash::new([9, 8, 7])],
    }
}

fn script() -> Vec<DiskWork> {
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
struct Register<T> {
    acknowledged: T,
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
struct Witness {
    current: Register<Option<RevisionId>>,
    last_good: Register<Option<RevisionId>>,
    rejected: Register<Vec<Rejection>>,
    records: Vec<(Record, bool)>,
    /// Revisions that must be there: acknowledged, and no prune has been tried that does not keep them.
    staged: BTreeMap<RevisionId, Revision>,
}

impl Witness {
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
            DiskWork::Stage(_) | DiskWork::ReadLocal(_) | DiskWork::ReadRevision(_) => {}
        }
    }

    fn check(&self, disk: &ModelDisk, persisted: &Persisted, at: &str) {
        let current = persisted.current.as_ref();
        let current_id = current.map(|revision| revision.id.clone());
        self.current.check(&current_id, "current", at);
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

/// Lets one life work through the script until it dies. Faults do not end it.
fn live(disk: &ModelDisk, script: &[DiskWork]) -> Witness {
    let mut witness = Witness::default();
    let Ok((mut store, _)) = AgentStore::load(disk.clone(), layout(), &[]) else {
        return witness;
    };
    for work in script {
        let answer = store.perform(work.clone());
        witness.see(work.clone(), answer.is_ok());
        if answer.is_err_and(|fault| fault.reason.contains("the process is dead")) {
            break;
        }
    }
    witness
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
fn next_life(disk: &ModelDisk, witness: &Witness, seed: u64, at: &str) {
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

#[test]
fn whatever_was_acknowledged_survives_a_death_at_every_syscall() {
    let whole = fresh_disk();
    let witness = live(&whole, &script());
    assert!(witness.records.iter().all(|(_, done)| *done));
    assert_eq!(witness.current.acknowledged, Some(revision(1).id));
    assert_eq!(witness.staged.len(), 2);
    let points = whole.mutations();
    assert!(points.len() > 100, "{} mutations", points.len());

    for last in points.iter().map(|point| point - 1).chain([whole.steps()]) {
        let disk = fresh_disk();
        disk.die_after(last);
        let witness = live(&disk, &script());
        let killed = disk.fork();
        killed.kill();
        next_life(
            &killed,
            &witness,
            last,
            &format!("killed after syscall {last}"),
        );
        for seed in 0..SEEDS {
            let crashed = disk.fork();
            crashed.crash(seed);
            let at = format!("crashed after syscall {last} with seed {seed}");
            next_life(&crashed, &witness, seed, &at);
        }
    }
}

#[test]
fn a_death_while_mending_is_mended() {
    let whole = fresh_disk();
    live(&whole, &script());
    let mut deaths = 0;
    for point in whole.mutations() {
        let disk = fresh_disk();
        disk.die_after(point - 1);
        let witness = live(&disk, &script());
        for seed in 0..3 {
            let crashed = disk.fork();
            crashed.crash(seed);
            let before = crashed.steps();
            let probe = crashed.fork();
            load(&probe);
            for death in probe.mutations().into_iter().filter(|step| *step > before) {
                let dying = crashed.fork();
                dying.die_after(death - 1);
                // May answer all the same: what cannot be mended is only said.
                drop(AgentStore::load(dying.clone(), layout(), &[]));
                dying.crash(seed + 50);
                let (_, persisted) = load(&dying);
                let at = format!("seed {seed}, dead at {point}, mending dead at {death}");
                witness.check(&dying, &persisted, &at);
                deaths += 1;
            }
        }
    }
    assert!(deaths > 1000, "{deaths} deaths");
}

#[test]
fn a_fault_at_any_syscall_costs_only_what_it_hit() {
    let whole = fresh_disk();
    live(&whole, &script());
    for step in 1..=whole.steps() {
        // One syscall, and a few in a row, so that the cleanup fails as well.
        for (count, errno) in [
            (1, libc::EIO),
            (1, libc::ENOSPC),
            (2, libc::EIO),
            (5, libc::EIO),
        ] {
            let disk = fresh_disk();
            disk.fail(step..=step + count - 1, errno);
            let witness = live(&disk, &script());
            let what = format!("errno {errno} at {step} for {count}");
            // When a sync and the cut behind it both failed, the kernel shows the next life bytes that it will never write and says that
            // they are synced. Nobody can know, so a kill, a load and a crash in that order are tried with single faults only.
            if count == 1 {
                let killed = disk.fork();
                killed.kill();
                next_life(&killed, &witness, step, &format!("{what}, killed"));
            }
            for seed in 0..2 {
                let crashed = disk.fork();
                crashed.crash(seed);
                let at = format!("{what}, crashed with seed {seed}");
                next_life(&crashed, &witness, seed, &at);
            }
        }
    }
}

#[test]
fn a_promotion_that_is_answered_with_a_fault_changed_nothing_for_readers() {
    let disk = fresh_disk();
    let (mut store, _) = load(&disk);
    for number in [1, 2] {
        let stage = DiskWork::Stage(Box::new(revision(number)));
        store.perform(stage).unwrap();
    }
    store.perform(DiskWork::Promote(revision(1).id)).unwrap();
    let before = disk.steps();
    let probe = disk.fork();
    let (mut other, _) = load(&probe);
    let loaded = probe.steps();
    other.perform(DiskWork::Promote(revision(2).id)).unwrap();
    let cost = probe.steps() - loaded;
    assert!(cost > 5, "{cost} syscalls");
    for step in before + 1..=before + cost {
        let step = disk.steps() + step - before;
        disk.fail(step..=step, libc::EIO);
        let fault = store
            .perform(DiskWork::Promote(revision(2).id))
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Device);
        let current = store.reader().current().unwrap();
        assert_eq!(
            current,
            Some(revision(1).id),
            "syscall {} of it",
            step - before
        );
    }
}

#[test]
fn a_disk_that_is_full_at_any_byte_loses_nothing_and_recovers() {
    let whole = fresh_disk();
    live(&whole, &script());
    let used = whole.used();
    for limit in (0..used + 400).step_by(37) {
        let disk = fresh_disk();
        disk.limit_space(Some(limit));
        let witness = live(&disk, &script());
        disk.crash(limit);
        next_life(&disk, &witness, limit, &format!("{limit} bytes of space"));
    }
}

#[test]
fn faults_name_their_class_and_leave_nothing_behind() {
    let disk = fresh_disk();
    let (mut store, _) = load(&disk);
    store.perform(record(1, Step::Intent)).unwrap();
    let stage = || DiskWork::Stage(Box::new(revision(1)));
    let used = disk.used();

    disk.limit_space(Some(used + 50));
    let fault = store.perform(stage()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Full);
    let wanted = format!(
        "stage revision {} in /state/agents/collector/revisions: ",
        revision(1).id
    );
    assert!(fault.reason.starts_with(&wanted), "{}", fault.reason);
    assert_eq!(disk.used(), used);
    let fault = store.perform(record(1, Step::Staged)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Full);
    assert_eq!(disk.used(), used, "half a line stayed in the journal");

    disk.limit_space(None);
    disk.read_only(true);
    assert_eq!(store.perform(stage()).unwrap_err().kind, FaultKind::Denied);
    disk.read_only(false);
    let promote = DiskWork::Promote(revision(1).id);
    assert_eq!(store.perform(promote).unwrap_err().kind, FaultKind::Missing);

    store.perform(stage()).unwrap();
    store.perform(record(1, Step::Staged)).unwrap();
    let steps: Vec<_> = load(&disk).1.journal.iter().map(|one| one.step).collect();
    assert_eq!(steps, [Step::Intent, Step::Staged]);
}

#[test]
fn the_journal_stays_bounded_and_a_death_while_compacting_loses_nothing() {
    let disk = fresh_disk();
    let (mut store, _) = load(&disk);
    let line = |transaction| Record {
        transaction,
        at: WallTime::from_unix_millis(transaction),
        step: Step::Failed,
        revision: None,
        hash: None,
        offer: None,
        origin: Origin::Local,
        reason: "é".repeat(1500),
    };
    let mut before = (disk.fork(), 0);
    let mut transaction = 0;
    while transaction < 400 {
        transaction += 1;
        let copy = disk.fork();
        let used = disk.used();
        store.perform(DiskWork::Journal(line(transaction))).unwrap();
        assert!(disk.used() < 600 * 1024, "{} bytes", disk.used());
        if disk.used() < used && before.1 == 0 {
            before = (copy, transaction);
        }
    }
    let (_, persisted) = load(&disk);
    let numbers: Vec<u64> = persisted
        .journal
        .iter()
        .map(|one| one.transaction)
        .collect();
    assert!(numbers.len() >= 50, "{} records", numbers.len());
    assert!(numbers.iter().copied().eq(401 - numbers.len() as u64..=400));

    // Again over the first compaction, with a death or a fault at each syscall of it.
    let (start, transaction) = before;
    let life = |prepare: &dyn Fn(&ModelDisk)| {
        let disk = start.fork();
        let (mut store, _) = load(&disk);
        prepare(&disk);
        let done: Vec<u64> = (transaction..transaction + 8)
            .filter(|number| store.perform(DiskWork::Journal(line(*number))).is_ok())
            .collect();
        (disk, done)
    };
    let check = |disk: &ModelDisk, done: &[u64], at: &str| {
        let records = load(disk).1.journal;
        let found: Vec<u64> = records.iter().map(|one| one.transaction).collect();
        let older = transaction - 40..transaction;
        for number in older.chain(done.iter().copied()) {
            assert!(found.contains(&number), "{at}: {number} lost of {found:?}");
        }
        assert!(found.is_sorted(), "{at}: {found:?}");
    };
    let loaded = std::cell::Cell::new(0);
    let (whole, done) = life(&|disk| loaded.set(disk.steps()));
    assert_eq!(done.len(), 8);
    let loaded = loaded.get();
    for step in loaded + 1..=whole.steps() {
        let lives = [
            ("dead", life(&|disk| disk.die_after(step - 1))),
            ("fault", life(&|disk| disk.fail(step..=step, libc::EIO))),
        ];
        for (what, (disk, done)) in lives {
            for seed in 0..3 {
                let crashed = disk.fork();
                crashed.crash(seed);
                check(&crashed, &done, &format!("{what} at {step}, seed {seed}"));
            }
        }
    }
}

#[test]
fn pruning_keeps_what_the_links_name_whatever_the_list_says() {
    let disk = fresh_disk();
    let (mut store, _) = load(&disk);
    for number in 1..=4 {
        let stage = DiskWork::Stage(Box::new(revision(number)));
        store.perform(stage).unwrap();
    }
    store.perform(DiskWork::MarkGood(revision(1).id)).unwrap();
    store.perform(DiskWork::Promote(revision(2).id)).unwrap();
    let keep = vec![revision(3).id];
    let done = store.perform(DiskWork::Prune { keep }).unwrap();
    let DiskDone::Pruned(left) = done else {
        panic!("{done:?}");
    };
    assert_eq!(left, [1, 2, 3].map(|number| revision(number).id));
    let listed = store.reader().revisions().unwrap();
    let ids: Vec<_> = listed.iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids, left);
    assert_eq!(store.reader().read(&left[1]).unwrap(), revision(2));
}

#[test]
fn local_layers_are_read_in_order_with_what_went_wrong() {
    let disk = fresh_disk();
    let paths = ["/etc/a.yaml", "/etc/none.yaml", "/etc"].map(PathBuf::from);
    disk.put(&paths[0], b"local: true");
    let (mut store, persisted) = AgentStore::load(disk.clone(), layout(), &paths).unwrap();
    assert_eq!(persisted.local[0].bytes, Ok(b"local: true".to_vec()));
    disk.write_file(&paths[0], b"local: false", FILE_MODE)
        .unwrap();
    let done = store.perform(DiskWork::ReadLocal(paths.to_vec())).unwrap();
    let DiskDone::Local(files) = done else {
        panic!("{done:?}");
    };
    assert_eq!(files[0].bytes, Ok(b"local: false".to_vec()));
    let reason = files[1].bytes.as_ref().unwrap_err();
    assert!(
        reason.starts_with("read /etc/none.yaml: No such file"),
        "{reason}"
    );
    assert!(files[2].bytes.is_err());
}
