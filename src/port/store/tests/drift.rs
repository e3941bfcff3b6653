//! A revision that somebody edits: seen with both hashes, put back by what is known, and never trusted.

use super::*;

fn verified(store: &mut AgentStore<RealDisk>, id: &RevisionId) -> Vec<String> {
    match store.perform(DiskWork::Verify(id.clone())).unwrap() {
        DiskDone::Verified { drift, .. } => drift.into_iter().map(|file| file.path).collect(),
        other => panic!("{other:?}"),
    }
}

/// Two revisions that share a file; the second is current and good, both were committed.
fn two(dir: &Path) -> (AgentStore<RealDisk>, Revision, Revision) {
    let (mut store, _) = load(dir);
    let old = revision(1, &[("config.yaml", b"n: 1"), ("shared/ca.pem", b"ca")]);
    let new = revision(2, &[("config.yaml", b"n: 2"), ("shared/ca.pem", b"ca")]);
    let committed = |number, revision: &Revision| {
        DiskWork::Journal(Record {
            revision: Some(revision.id.clone()),
            hash: Some(revision.hash),
            ..record(number, Step::Committed)
        })
    };
    let work = [
        DiskWork::Stage(Box::new(old.clone())),
        committed(1, &old),
        DiskWork::Stage(Box::new(new.clone())),
        DiskWork::Promote(new.id.clone()),
        DiskWork::MarkGood(new.id.clone()),
        committed(2, &new),
    ];
    perform(&mut store, work);
    (store, old, new)
}

/// Its name, the files that are seen, and what somebody does.
type Case<'a> = (&'a str, &'a [&'a str], fn(&Path));

#[test]
fn every_kind_of_edit_is_seen_and_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _, new) = two(dir.path());
    let at = layout(dir.path()).revision(&new.id);
    assert_eq!(verified(&mut store, &new.id), Vec::<String>::new());
    let cases: [Case<'_>; 6] = [
        ("edited", &["config.yaml"], |at| {
            put(&at.join("config.yaml"), "n: 3");
        }),
        ("removed", &["config.yaml"], |at| {
            fs::remove_file(at.join("config.yaml")).unwrap();
        }),
        ("a link", &["config.yaml"], |at| {
            fs::rename(at.join("config.yaml"), at.join("moved")).unwrap();
            symlink("moved", at.join("config.yaml")).unwrap();
        }),
        ("a directory", &["shared/ca.pem"], |at| {
            fs::remove_file(at.join("shared/ca.pem")).unwrap();
            fs::create_dir_all(at.join("shared/ca.pem/deep")).unwrap();
        }),
        ("the manifest", &[MANIFEST], |at| {
            put(&at.join(MANIFEST), "{}");
        }),
        ("everything", &[MANIFEST], |at| {
            fs::remove_dir_all(at).unwrap();
        }),
    ];
    for (case, seen, spoil) in cases {
        spoil(&at);
        assert_eq!(verified(&mut store, &new.id), seen, "{case}");
        perform(&mut store, [DiskWork::Restore(Box::new(new.clone()))]);
        assert_eq!(
            verified(&mut store, &new.id),
            Vec::<String>::new(),
            "{case}"
        );
        assert_eq!(store.reader().read(&new.id).unwrap(), new, "{case}");
    }
    // What a stranger wrote is kept, the last of each name.
    let kept = layout(dir.path()).root().join("drifted");
    assert_eq!(fs::read(kept.join("config.yaml")).unwrap(), b"n: 3");
    assert_eq!(load(dir.path()).1.current, Some(new));
}

#[test]
fn start_puts_back_what_another_revision_still_has() {
    let dir = tempfile::tempdir().unwrap();
    let (store, old, new) = two(dir.path());
    drop(store);
    put(
        &layout(dir.path()).revision(&new.id).join("shared/ca.pem"),
        "theirs",
    );
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.current, Some(new.clone()));
    assert_eq!(persisted.last_good, Some(new.id.clone()));
    let whole: Vec<_> = persisted.revisions.iter().map(|it| &it.id).collect();
    assert_eq!(whole, [&old.id, &new.id]);
    let [drift] = persisted.drift.as_slice() else {
        panic!("{:?}", persisted.drift);
    };
    assert_eq!(drift.path, "shared/ca.pem");
    assert_ne!(drift.found.as_ref(), Some(&drift.expected));
    let [repair] = persisted.repairs.as_slice() else {
        panic!("{:?}", persisted.repairs);
    };
    assert!(
        repair.ends_with("put back from other revisions"),
        "{repair}"
    );
    assert_eq!(load(dir.path()).1.drift, Vec::new());
}

#[test]
fn start_goes_to_what_was_committed_before_where_the_bytes_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (store, old, new) = two(dir.path());
    drop(store);
    put(
        &layout(dir.path()).revision(&new.id).join("config.yaml"),
        "theirs",
    );
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.current, Some(old.clone()));
    assert_eq!(persisted.last_good, None, "what drifted is not trusted");
    let said = persisted.repairs.join("\n");
    assert!(
        said.contains("no other revision has what belongs there"),
        "{said}"
    );
    let rebuilt = format!("current rebuilt from committed before {}", old.id);
    assert!(said.contains(&rebuilt), "{said}");
    assert_eq!(load(dir.path()).1.current, Some(old));
}

#[test]
fn trial_lies_beside_the_revisions_and_is_swept_by_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, old, new) = two(dir.path());
    perform(&mut store, [DiskWork::StageTrial(old.files.clone())]);
    let trial = layout(dir.path()).root().join("trial");
    assert_eq!(fs::read(trial.join("config.yaml")).unwrap(), b"n: 1");
    // The next one takes its place whole.
    let alone = revision(9, &[("other.yaml", b"x")]);
    perform(&mut store, [DiskWork::StageTrial(alone.files)]);
    assert!(!trial.join("config.yaml").exists());
    drop(store);
    let (mut store, persisted) = load(dir.path());
    assert!(!trial.exists());
    assert_eq!(persisted.repairs, ["unfinished trial removed"]);
    assert_eq!(persisted.current, Some(new));
    perform(&mut store, [DiskWork::DropTrial]);
}
