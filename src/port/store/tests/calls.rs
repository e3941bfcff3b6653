//! Given a disk that notes every call; then what the store asks of it is as little as is safe, in the order that is
//! safe, and a call that fails leaves what was there.

use super::noted::Noted;
use super::*;
use crate::engine::message::{CertificateWork, PemPair};
use crate::port::store::identity::IdentityStore;

const HOME: &str = "agents/collector";
const MIB: u64 = 1_048_576;

fn load_on(disk: &Noted, dir: &Path) -> (AgentStore<Noted>, Persisted) {
    AgentStore::load(disk.clone(), layout(dir), &[dir.join("local.yaml")]).unwrap()
}

/// Revision 1 is current and good, revision 2 is staged.
fn begun(dir: &Path) -> (Noted, AgentStore<Noted>) {
    drop(settled(dir));
    let disk = Noted::below(dir);
    let (store, _) = load_on(&disk, dir);
    disk.changes();
    (disk, store)
}

#[test]
fn whatever_is_read_has_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let saved = opamp_client::settings::SavedSettings(b"saved".to_vec());
    perform(&mut store, [DiskWork::SaveConnection(saved)]);
    put(&dir.path().join("local.yaml"), "n: 0");
    let disk = Noted::below(dir.path());
    load_on(&disk, dir.path());
    put(&dir.path().join("identity.json"), "{}");
    IdentityStore::load(disk.clone(), dir.path()).unwrap();
    fs::create_dir(dir.path().join("credentials")).unwrap();
    put(&dir.path().join("credentials/opamp.json"), "{}");
    CredentialStore::load(disk.clone(), dir.path()).unwrap();
    let mut pairs = PairStore::new(disk.clone(), dir.path());
    let pair = issued();
    let work = [
        CertificateWork::Install {
            pair,
            domains: Vec::new(),
        },
        CertificateWork::Remember(Vec::new()),
        CertificateWork::Look,
    ];
    for work in work {
        let now = WallTime::from_unix_millis(1_700_000_000_000);
        pairs.perform(&"web".parse().unwrap(), work, now).unwrap();
    }
    let wanted = [
        ("attempts.json", 16 * MIB),
        ("config.yaml", 64 * MIB),
        ("connection-settings", 128 * MIB),
        ("fullchain.pem", 262_144),
        ("identity.json", 16 * MIB),
        ("journal", 64 * MIB),
        ("key.pem", 262_144),
        ("local.yaml", 64 * MIB),
        ("manifest.json", 16 * MIB),
        ("opamp.json", 65_536),
        ("rejected.json", 16 * MIB),
    ];
    let wanted = wanted.map(|(name, max)| (name.to_owned(), max));
    assert_eq!(disk.reads(), BTreeMap::from(wanted));
}

fn issued() -> PemPair {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    PemPair {
        chain: params.self_signed(&key).unwrap().pem(),
        key: crate::units::Secret::new(key.serialize_pem()),
    }
}

#[test]
fn pair_whose_link_was_not_durable_is_not_live_for_readers_either() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Noted::below(dir.path());
    let mut pairs = PairStore::new(disk.clone(), dir.path());
    let name = "web".parse().unwrap();
    let link = pairs.current(&name);
    let mut install = || {
        let work = CertificateWork::Install {
            pair: issued(),
            domains: Vec::new(),
        };
        pairs.perform(&name, work, WallTime::from_unix_millis(1_700_000_000_000))
    };
    // Once for the pair's own name, then for the link.
    let sync = "sync certificates/web";
    disk.fails(sync, 1);
    let fault = install().unwrap_err();
    assert!(fault.reason.contains("live in "), "{}", fault.reason);
    assert!(fs::symlink_metadata(&link).is_err());
    disk.mends();
    install().unwrap();
    let live = fs::read_link(&link).unwrap();
    disk.fails(sync, 1);
    install().unwrap_err();
    assert_eq!(fs::read_link(&link).unwrap(), live);
    disk.mends();
    install().unwrap();
    assert_ne!(fs::read_link(&link).unwrap(), live);
}

#[test]
fn start_syncs_what_it_decides_on_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Noted::below(dir.path());
    let (store, persisted) = load_on(&disk, dir.path());
    assert_eq!(persisted.repairs, [""; 0]);
    assert_eq!(store.revisions_dir(), layout(dir.path()).revisions());
    let first = [
        "mkdir agents",
        "mkdir agents/collector",
        "mkdir agents/collector/revisions",
        "mkdir agents/collector/work",
        "mkdir agents/collector/logs",
        // A life that dies before the first record must not take the directories with it.
        "sync ",
        "sync agents",
        "sync agents/collector",
        "sync agents/collector/revisions",
        "sync agents/collector",
    ];
    assert_eq!(disk.changes(), first);
    drop(settled(dir.path()));
    load_on(&disk, dir.path());
    let later = [
        "sync agents/collector/revisions",
        "sync agents/collector",
        // As long as it was: what an earlier life wrote and did not sync.
        "cut agents/collector/journal",
    ];
    assert_eq!(disk.changes(), later);
}

#[test]
fn promotion_is_one_rename_over_a_revision_that_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut store) = begun(dir.path());
    store.perform(DiskWork::Promote(simple(2).id)).unwrap();
    let wanted = [
        "sync agents/collector/revisions",
        "link agents/collector/.current.tmp",
        "rename to agents/collector/current",
        "sync agents/collector",
    ];
    assert_eq!(disk.changes(), wanted);
    // The same again is no shorter: nobody knows what became of the last sync.
    store.perform(DiskWork::Promote(simple(2).id)).unwrap();
    assert_eq!(disk.changes(), wanted);
}

#[test]
fn promotion_that_was_not_durable_is_taken_back_for_readers_too() {
    type Before = fn(&AgentLayout);
    let cases: [(&str, Before, Option<&str>); 3] = [
        ("a revision", |_| {}, None),
        (
            "elsewhere",
            |layout| swap_link(&RealDisk, &layout.current(), Path::new("/etc")).unwrap(),
            Some("/etc"),
        ),
        (
            "nothing",
            |layout| fs::remove_file(layout.current()).unwrap(),
            Some(""),
        ),
    ];
    for (case, before, left) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (disk, mut store) = begun(dir.path());
        let layout = layout(dir.path());
        before(&layout);
        disk.fails(&format!("sync {HOME}"), 0);
        let fault = store.perform(DiskWork::Promote(simple(2).id)).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Device, "{case}");
        let wanted = format!(
            "promote revision {} in {}: ",
            simple(2).id,
            layout.current().display()
        );
        assert!(fault.reason.starts_with(&wanted), "{}", fault.reason);
        let found = fs::read_link(layout.current()).map_or_else(
            |_| String::new(),
            |target| target.to_str().unwrap().to_owned(),
        );
        let first = format!("revisions/{}", simple(1).id);
        assert_eq!(found, left.unwrap_or(&first), "{case}");
        disk.mends();
        store.perform(DiskWork::Promote(simple(2).id)).unwrap();
        assert_eq!(store.reader().current().unwrap(), Some(simple(2).id));
    }
}

#[test]
fn promotion_that_did_not_come_to_the_link_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut store) = begun(dir.path());
    disk.fails(&format!("rename to {HOME}/current"), 0);
    store.perform(DiskWork::Promote(simple(2).id)).unwrap_err();
    let wanted = [
        "sync agents/collector/revisions",
        "link agents/collector/.current.tmp",
        "remove agents/collector/.current.tmp",
    ];
    assert_eq!(disk.changes(), wanted);
    assert_eq!(store.reader().current().unwrap(), Some(simple(1).id));
}

#[test]
fn revision_gets_its_name_when_all_of_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut store) = begun(dir.path());
    let deep = Revision {
        id: simple(3).id,
        ..revision(3, &[("a/b/c", b"1"), ("d", b"2")])
    };
    store
        .perform(DiskWork::Stage(Box::new(deep.clone())))
        .unwrap();
    let staging = format!("{HOME}/revisions/.staging-r3");
    let wanted = [
        format!("mkdir {staging}"),
        format!("mkdir {staging}/a"),
        format!("mkdir {staging}/a/b"),
        format!("write {staging}/a/b/c"),
        format!("write {staging}/d"),
        format!("write {staging}/manifest.json"),
        format!("sync {staging}/a/b"),
        format!("sync {staging}/a"),
        format!("sync {staging}"),
        format!("rename to {HOME}/revisions/r3"),
        format!("sync {HOME}/revisions"),
    ];
    assert_eq!(disk.changes(), wanted);
    // In an attempt before this one only the last call may have failed.
    store.perform(DiskWork::Stage(Box::new(deep))).unwrap();
    assert_eq!(disk.changes(), [format!("sync {HOME}/revisions")]);
}

#[test]
fn revision_that_is_not_complete_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut store) = begun(dir.path());
    let before = tree(dir.path());
    for call in [
        "write agents/collector/revisions/.staging-r3/manifest.json",
        "rename to agents/collector/revisions/r3",
    ] {
        disk.fails(call, 0);
        let work = DiskWork::Stage(Box::new(simple(3)));
        store.perform(work).unwrap_err();
        assert_eq!(tree(dir.path()), before, "{call}");
    }
}

#[test]
fn pruning_leaves_what_is_kept_and_what_links_name() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut store) = begun(dir.path());
    let more = [3, 4, 5].map(|number| DiskWork::Stage(Box::new(simple(number))));
    for work in more.into_iter().chain([DiskWork::Promote(simple(2).id)]) {
        store.perform(work).unwrap();
    }
    fs::create_dir(layout(dir.path()).staging(&simple(9).id)).unwrap();
    disk.changes();
    let keep = vec![simple(4).id];
    let done = store.perform(DiskWork::Prune { keep }).unwrap();
    let DiskDone::Pruned(left) = done else {
        panic!("{done:?}");
    };
    assert_eq!(left, [1, 2, 4].map(|number| simple(number).id));
    let there = store.reader().revisions().unwrap();
    let there: Vec<_> = there.into_iter().map(|it| it.id).collect();
    assert_eq!(there, left);
    // Out of sight first, so that half of one never has a name.
    let of_three = [
        "rename to agents/collector/revisions/.trash-r3",
        "sync agents/collector/revisions",
        "remove agents/collector/revisions/.trash-r3/config.yaml",
        "remove agents/collector/revisions/.trash-r3/manifest.json",
        "rmdir agents/collector/revisions/.trash-r3",
    ];
    let changes = disk.changes();
    assert_eq!(changes[..5], of_three);
    assert_eq!(changes.len(), 11, "{changes:?}");
    assert!(!layout(dir.path()).staging(&simple(9).id).exists());
}

#[test]
fn record_is_appended_behind_whole_lines_only() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut store) = begun(dir.path());
    let path = layout(dir.path()).journal();
    let before = fs::read(&path).unwrap();
    disk.fails(&format!("append {HOME}/journal"), 0);
    let fault = store
        .perform(DiskWork::Journal(record(2, Step::Intent)))
        .unwrap_err();
    let wanted = format!("append Intent to {}: ", path.display());
    assert!(fault.reason.starts_with(&wanted), "{}", fault.reason);
    // Part of the line may be there.
    assert_eq!(disk.changes(), [format!("cut {HOME}/journal")]);
    assert_eq!(fs::read(&path).unwrap(), before);
    disk.mends();
    let work = DiskWork::Journal(record(2, Step::Intent));
    store.perform(work).unwrap();
    assert_eq!(disk.changes(), [format!("append {HOME}/journal")]);
    assert_eq!(load(dir.path()).1.journal.len(), 3);
}

#[test]
fn torn_line_that_could_not_be_cut_off_is_cut_off_before_the_next() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    let path = layout(dir.path()).journal();
    let whole = fs::read(&path).unwrap();
    RealDisk.append(&path, b"{\"transaction\":2,").unwrap();
    let disk = Noted::below(dir.path());
    let cut = format!("cut {HOME}/journal");
    disk.fails(&cut, 0);
    let (mut store, persisted) = load_on(&disk, dir.path());
    let wanted = [
        "journal: 17 bytes of an unfinished line ignored",
        "journal: not tidied up yet: Input/output error (os error 5)",
    ];
    assert_eq!(persisted.repairs, wanted);
    let resumed = || DiskWork::Journal(record(2, Step::Resumed));
    store.perform(resumed()).unwrap_err();
    disk.mends();
    disk.changes();
    store.perform(resumed()).unwrap();
    let wanted = [cut, format!("append {HOME}/journal")];
    assert_eq!(disk.changes(), wanted);
    let now = fs::read(&path).unwrap();
    assert!(now.starts_with(&whole));
    assert_eq!(load(dir.path()).1.journal.len(), 3);
}

#[test]
fn journal_that_may_not_have_been_replaced_is_replaced_again_with_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Noted::below(dir.path());
    let (mut store, _) = load_on(&disk, dir.path());
    disk.changes();
    disk.fails(&format!("sync {HOME}"), 0);
    let intent = || DiskWork::Journal(record(1, Step::Intent));
    store.perform(intent()).unwrap_err();
    disk.mends();
    disk.changes();
    let replaced = [
        format!("write {HOME}/.journal.tmp"),
        format!("rename to {HOME}/journal"),
        format!("sync {HOME}"),
    ];
    store
        .perform(DiskWork::Journal(record(2, Step::Intent)))
        .unwrap();
    assert_eq!(disk.changes(), replaced);
    store
        .perform(DiskWork::Journal(record(2, Step::Staged)))
        .unwrap();
    assert_eq!(disk.changes(), [format!("append {HOME}/journal")]);
    let records = store.reader().journal_tail(9).unwrap();
    assert_eq!(records, [record(2, Step::Intent), record(2, Step::Staged)]);
}
