//! The store on real files. What a crash may do is explored in `tests/sim/store.rs`.

mod calls;
mod drift;
mod limits;
mod mending;
mod noted;
mod reading;
mod system;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use super::*;
use crate::engine::message::{LayerKind, Origin, Persisted, RevisionFile, Step};
use crate::sys::durable::RealDisk;
use crate::units::{AgentName, OfferHash, RevisionHash, Ticket, WallTime};

fn agent() -> AgentName {
    "collector".parse().unwrap()
}

fn layout(dir: &Path) -> AgentLayout {
    AgentLayout::new(dir, &agent())
}

fn load(dir: &Path) -> (AgentStore<RealDisk>, Persisted) {
    AgentStore::load(RealDisk, layout(dir), &[]).unwrap()
}

fn revision(number: u64, files: &[(&str, &[u8])]) -> Revision {
    let at = WallTime::from_unix_millis(1_700_000_000_000 + number);
    let hash = RevisionHash::of(files.iter().map(|(path, bytes)| (*path, "", *bytes)));
    let file = |(path, bytes): &(&str, &[u8])| RevisionFile {
        path: (*path).to_owned(),
        layer: LayerKind::Remote,
        source: (*path).to_owned(),
        content_type: String::new(),
        bytes: bytes.to_vec(),
    };
    Revision {
        id: RevisionId::new(at, hash),
        hash,
        offer: Some(OfferHash::new([0xab, 0xcd])),
        origin: Origin::Offer,
        at,
        files: files.iter().map(file).collect(),
    }
}

fn simple(number: u64) -> Revision {
    revision(
        number,
        &[("config.yaml", format!("n: {number}").as_bytes())],
    )
}

fn record(transaction: u64, step: Step) -> Record {
    Record {
        transaction,
        at: WallTime::from_unix_millis(1_700_000_000_000),
        step,
        revision: Some(simple(1).id),
        hash: Some(simple(1).hash),
        offer: None,
        origin: Origin::Manual,
        reason: String::new(),
    }
}

fn perform(store: &mut AgentStore<RealDisk>, work: impl IntoIterator<Item = DiskWork>) {
    for work in work {
        store.perform(work).unwrap();
    }
}

/// Revision 1 is current and good, revision 2 is staged.
fn settled(dir: &Path) -> AgentStore<RealDisk> {
    let (mut store, _) = load(dir);
    let work = [
        DiskWork::Journal(record(1, Step::Intent)),
        DiskWork::Stage(Box::new(simple(1))),
        DiskWork::Promote(simple(1).id),
        DiskWork::MarkGood(simple(1).id),
        DiskWork::SaveRejected(Vec::new()),
        DiskWork::Stage(Box::new(simple(2))),
        DiskWork::Journal(record(1, Step::Committed)),
    ];
    perform(&mut store, work);
    store
}

/// Every path below a directory with what it holds.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let path = entry.path();
            let content = if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if kind.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path, content);
        }
    }
    found
}

fn put(path: &Path, text: &str) {
    RealDisk
        .write_file(path, text.as_bytes(), FILE_MODE)
        .unwrap();
}

#[test]
fn a_reader_never_finds_current_missing_during_a_thousand_promotions() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let path = layout(dir.path()).current().join("config.yaml");
    let done = AtomicBool::new(false);
    let (reads, failed) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut failed) = (0u64, Vec::new());
            while !done.load(Ordering::Relaxed) {
                match fs::read(&path) {
                    Ok(bytes) if bytes == b"n: 1" || bytes == b"n: 2" => reads += 1,
                    other => failed.push(other),
                }
            }
            (reads, failed)
        });
        for round in 0..1000 {
            perform(&mut store, [DiskWork::Promote(simple(1 + round % 2).id)]);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(failed.is_empty(), "{:?}", failed.first());
    assert!(reads > 1000, "{reads} reads");
}

#[test]
fn everything_is_for_the_owner_only_and_links_are_relative() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("a/b")).unwrap();
    let _lock = state.lock().unwrap();
    settled(state.root());
    let mut kinds = [0, 0, 0];
    for path in tree(&dir.path().join("a")).into_keys() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() {
            kinds[0] += 1;
            assert!(
                fs::read_link(&path).unwrap().is_relative(),
                "{}",
                path.display()
            );
        } else if metadata.is_dir() {
            kinds[1] += 1;
            assert_eq!(mode, 0o700, "{}", path.display());
        } else {
            kinds[2] += 1;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
    }
    // Links; b, agents, collector, revisions, work, logs and two revisions; two files each, lock, journal,
    // rejected.json.
    assert_eq!(kinds, [2, 8, 7]);
}

#[test]
fn the_format_on_disk_is_the_documented_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = load(dir.path());
    let staged = revision(1, &[("tls/ca.pem", b"x")]);
    let rejection = Rejection {
        hash: staged.hash,
        reason: "exit code 1".to_owned(),
        at: WallTime::from_unix_millis(7),
        offers: vec![OfferHash::new([1])],
    };
    let work = [
        DiskWork::Stage(Box::new(staged.clone())),
        DiskWork::Journal(record(3, Step::RolledBack)),
        DiskWork::SaveRejected(vec![rejection.clone()]),
    ];
    perform(&mut store, work);
    let layout = layout(dir.path());
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let hash = staged.hash;
    let digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let id = &staged.id;
    let manifest = format!(
        "{{\"format\":1,\"id\":\"{id}\",\"hash\":\"{hash}\",\"offer\":\"abcd\",\"origin\":\"offer\",\
         \"staged_at_ms\":1700000000001,\"files\":[{{\"path\":\"tls/ca.pem\",\"layer\":\"remote\",\
         \"source\":\"tls/ca.pem\",\"size\":1,\"sha256\":\"{digest}\"}}]}}"
    );
    assert_eq!(text(&layout.revision(id).join(MANIFEST)), manifest);
    let (id, first) = (simple(1).id, simple(1).hash);
    assert_eq!(
        text(&layout.journal()),
        format!(
            "{{\"format\":1}}\n{{\"transaction\":3,\"at_ms\":1700000000000,\"step\":\"rolled_back\",\
             \"revision\":\"{id}\",\"hash\":\"{first}\",\"origin\":\"manual\"}}\n"
        )
    );
    assert_eq!(
        text(&layout.rejected()),
        format!(
            r#"{{"format":1,"rejected":[{{"hash":"{hash}","reason":"exit code 1","at_ms":7,"offers":["01"]}}]}}"#
        )
    );
    let (store, persisted) = load(dir.path());
    assert_eq!(persisted.rejected, [rejection]);
    assert_eq!(persisted.journal, [record(3, Step::RolledBack)]);
    assert_eq!(store.reader().read(&staged.id).unwrap(), staged);
}

#[test]
fn every_step_survives_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = load(dir.path());
    let steps = [
        Step::Intent,
        Step::Staged,
        Step::Validated,
        Step::Promoted,
        Step::Signalled,
        Step::Probation,
        Step::Committed,
        Step::RolledBack,
        Step::Failed,
        Step::Superseded,
        Step::Resumed,
        Step::Suspended,
    ];
    perform(
        &mut store,
        steps.map(|step| DiskWork::Journal(record(1, step))),
    );
    let found: Vec<Step> = load(dir.path())
        .1
        .journal
        .iter()
        .map(|one| one.step)
        .collect();
    assert_eq!(found, steps);
    let tail = store.reader().journal_tail(2).unwrap();
    assert_eq!(tail, [record(1, Step::Resumed), record(1, Step::Suspended)]);
}

#[test]
fn names_that_leave_the_revision_never_reach_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let before = tree(dir.path());
    for bad in [
        "../x",
        "/etc/x",
        "a/../../x",
        "",
        "manifest.json",
        "a//b",
        ".",
    ] {
        let work = DiskWork::Stage(Box::new(revision(3, &[(bad, b"x")])));
        let fault = store.perform(work).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Denied, "{bad:?}");
        assert!(
            fault.reason.contains(&format!("{bad:?}")),
            "{}",
            fault.reason
        );
    }
    let clashes: [&[(&str, &[u8])]; 2] =
        [&[("a", b"1"), ("a", b"2")], &[("a", b"1"), ("a/b", b"2")]];
    for files in clashes {
        store
            .perform(DiskWork::Stage(Box::new(revision(3, files))))
            .unwrap_err();
    }
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn staging_again_is_fine_with_the_same_content_and_refused_when_in_use_with_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    for number in [1, 2] {
        perform(&mut store, [DiskWork::Stage(Box::new(simple(number)))]);
        let mut other = simple(number);
        other.files[0].bytes = b"other".to_vec();
        let answer = store.perform(DiskWork::Stage(Box::new(other.clone())));
        match number {
            1 => assert!(
                answer
                    .unwrap_err()
                    .reason
                    .ends_with("in use with other content")
            ),
            _ => assert_eq!(store.reader().read(&other.id).unwrap(), other),
        }
    }
    assert_eq!(store.reader().read(&simple(1).id).unwrap(), simple(1));
}

#[test]
#[should_panic(expected = "is in use and must not be removed")]
fn removing_what_current_points_to_is_stopped_by_a_guard() {
    let dir = tempfile::tempdir().unwrap();
    let store = settled(dir.path());
    drop(store.discard(&simple(1).id));
}

#[test]
fn a_writer_answers_in_order_with_its_agent_and_ticket() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = load(dir.path());
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let writer = start_agent_writer(agent(), store, tx).unwrap();
    let many: Vec<(String, Vec<u8>)> = (0..300)
        .map(|number| (format!("dir{}/file{number}", number % 7), vec![b'x'; 3000]))
        .collect();
    let files: Vec<(&str, &[u8])> = many
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    let staged = revision(1, &files);
    let id = staged.id.clone();
    let work = [
        DiskWork::Promote(id.clone()),
        DiskWork::Stage(Box::new(staged.clone())),
        DiskWork::Promote(id.clone()),
        DiskWork::ReadRevision(id.clone()),
    ];
    for (ticket, work) in (0..).zip(work) {
        writer.submit(Ticket(ticket), work).unwrap();
    }
    let mut answers = (0..4).map(|_| rx.blocking_recv().unwrap());
    let (from, ticket, first) = answers.next().unwrap();
    assert_eq!((from, ticket), (agent(), Ticket(0)));
    assert_eq!(first.unwrap_err().kind, FaultKind::Missing);
    for wanted in [1, 2] {
        let (_, ticket, answer) = answers.next().unwrap();
        assert_eq!(ticket, Ticket(wanted));
        assert!(matches!(answer, Ok(DiskDone::Durable)), "{answer:?}");
    }
    let (_, _, answer) = answers.next().unwrap();
    let Ok(DiskDone::Revision(found)) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(*found, staged);
}
