//! Given a scripted life of one agent's store; when the process is killed or the power goes at any syscall, or any
//! syscall fails; then the next life finds everything that was acknowledged, old or new for what was not, and goes
//! on working.

use std::path::PathBuf;

use adjutant::engine::message::{DiskDone, DiskWork, FaultKind, Origin, Record, Step};
use adjutant::port::store::AgentStore;
use adjutant::sys::durable::{Disk as _, FILE_MODE};
use adjutant::units::WallTime;
use nix::libc;

use super::disk::ModelDisk;
use super::life::{
    Witness, fresh_disk, layout, live, live_on, load, next_life, record, rejection, revision,
    script,
};

/// Crash seeds tried at each point.
const SEEDS: u64 = 6;
/// Random histories on each commit; `ADJUTANT_SIM_SEEDS=from..to` runs others, one or a night long.
const HISTORIES: std::ops::Range<u64> = 0..200;

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
            // When a sync and the cut behind it both failed, the kernel shows the next life bytes that it will
            // never write and says that they are synced. Nobody can know, so a kill, a load and a crash in that
            // order are tried with single faults only.
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
fn what_a_first_start_created_before_it_was_killed_is_made_durable_by_the_next() {
    let whole = fresh_disk();
    load(&whole);
    for point in whole.mutations() {
        let disk = fresh_disk();
        disk.die_after(point);
        drop(AgentStore::load(disk.clone(), layout(), &[]));
        disk.kill();
        let witness = live(&disk, &script());
        assert_eq!(witness.current.acknowledged, Some(revision(1).id));
        for seed in 0..20 {
            let crashed = disk.fork();
            crashed.crash(seed);
            let at = format!("first start killed after {point}, seed {seed}");
            next_life(&crashed, &witness, seed, &at);
        }
    }
}

fn random_work(random: &mut fastrand::Rng) -> DiskWork {
    let number = random.u64(1..=5);
    let id = revision(number).id;
    match random.u8(0..12) {
        0..=3 => DiskWork::Stage(Box::new(revision(number))),
        // Numbers that do not come twice tell an acknowledged record from one that was only tried.
        4..=5 => record(random.u64(10..1 << 40), Step::Staged),
        6..=8 => DiskWork::Promote(id),
        9 => DiskWork::MarkGood(id),
        10 => DiskWork::SaveRejected((1..=number).map(rejection).collect()),
        _ => DiskWork::Prune { keep: vec![id] },
    }
}

/// Several lives on one disk, each with a random script and a random misfortune.
fn random_history(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = fresh_disk();
    let mut witness = Witness::default();
    for life in 0..6 {
        let script: Vec<_> = (0..random.usize(0..14))
            .map(|_| random_work(&mut random))
            .collect();
        let step = disk.steps() + random.u64(0..200);
        match random.u8(0..5) {
            0 | 1 => disk.die_after(step),
            2 => disk.fail(step..=step, libc::EIO),
            3 => disk.limit_space(Some(disk.used() + random.u64(0..2000))),
            _ => {}
        }
        live_on(&disk, &script, &mut witness);
        if random.bool() {
            disk.kill();
        } else {
            disk.crash(random.u64(..));
        }
        let (store, persisted) = load(&disk);
        witness.check(&disk, &persisted, &format!("seed {seed}, life {life}"));
        witness = Witness::of(&store, persisted);
    }
}

#[test]
fn random_histories_lose_nothing_that_was_acknowledged() {
    let range = match std::env::var("ADJUTANT_SIM_SEEDS") {
        Ok(text) => {
            let (from, to) = text.split_once("..").unwrap();
            from.parse().unwrap()..to.parse().unwrap()
        }
        Err(_) => HISTORIES,
    };
    for seed in range {
        random_history(seed);
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
    let replay = |prepare: &dyn Fn(&ModelDisk)| {
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
    let (whole, done) = replay(&|disk| loaded.set(disk.steps()));
    assert_eq!(done.len(), 8);
    let loaded = loaded.get();
    for step in loaded + 1..=whole.steps() {
        let lives = [
            ("dead", replay(&|disk| disk.die_after(step - 1))),
            ("fault", replay(&|disk| disk.fail(step..=step, libc::EIO))),
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
