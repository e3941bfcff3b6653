//! Given something as long as its bound, and something longer by one; then only the second is treated as too long.

use super::noted::Noted;
use super::*;

const COMPACT_ABOVE: usize = 262_144;

/// A record that takes so many bytes in the journal, its line end among them.
fn of_length(transaction: u64, bytes: usize) -> Record {
    let with = |reason: String| Record {
        reason,
        ..record(transaction, Step::Intent)
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = load(dir.path());
    perform(&mut store, [DiskWork::Journal(with("x".to_owned()))]);
    let least = fs::read(layout(dir.path()).journal()).unwrap().len() - "{\"format\":1}\n".len();
    with("x".repeat(1 + bytes - least))
}

/// A journal of so many bytes, with a hundred transactions in it.
fn journal_of(dir: &Path, bytes: usize) -> AgentStore<RealDisk> {
    let (mut store, _) = load(dir);
    let journal = layout(dir).journal();
    let header = "{\"format\":1}\n".len();
    let each = (bytes - header) / 100;
    let usual = of_length(100, each);
    perform(&mut store, [DiskWork::Journal(usual.clone())]);
    let text = fs::read_to_string(&journal).unwrap();
    let line = text.lines().nth(1).unwrap();
    let mut all = text.lines().next().unwrap().to_owned();
    all.push('\n');
    for transaction in 100..199 {
        let number = format!("\"transaction\":{transaction},");
        all += &line.replace("\"transaction\":100,", &number);
        all.push('\n');
    }
    put(&journal, &all);
    let last = of_length(199, bytes - all.len());
    let (mut store, _) = load(dir);
    perform(&mut store, [DiskWork::Journal(last)]);
    store
}

fn length(dir: &Path) -> u64 {
    fs::metadata(layout(dir).journal()).unwrap().len()
}

#[test]
fn journal_is_compacted_when_it_is_longer_than_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = journal_of(dir.path(), COMPACT_ABOVE);
    assert_eq!(length(dir.path()), COMPACT_ABOVE as u64, "as long as that");
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.journal.len(), 100, "not at a start either");
    perform(&mut store, [DiskWork::Journal(record(200, Step::Intent))]);
    let kept = |persisted: &Persisted| -> Vec<u64> {
        let records = persisted.journal.iter();
        records.map(|record| record.transaction).collect()
    };
    let wanted: Vec<u64> = (151..=200).collect();
    assert_eq!(kept(&load(dir.path()).1), wanted);
    assert!(length(dir.path()) < COMPACT_ABOVE as u64 * 6 / 10);

    // One byte more is too long for a start, too.
    let dir = tempfile::tempdir().unwrap();
    drop(journal_of(dir.path(), COMPACT_ABOVE));
    let path = layout(dir.path()).journal();
    let text = fs::read_to_string(&path).unwrap();
    put(
        &path,
        &text.replacen("\"reason\":\"x", "\"reason\":\"xx", 1),
    );
    let wanted: Vec<u64> = (150..=199).collect();
    assert_eq!(kept(&load(dir.path()).1), wanted);
}

#[test]
fn journal_that_cannot_be_made_shorter_goes_on_and_is_tried_at_twice_its_length() {
    let dir = tempfile::tempdir().unwrap();
    drop(journal_of(dir.path(), COMPACT_ABOVE));
    let disk = Noted::below(dir.path());
    let (mut store, _) = AgentStore::load(disk.clone(), layout(dir.path()), &[]).unwrap();
    disk.changes();
    disk.fails("write agents/collector/.journal.tmp", 0);
    let one = |number| DiskWork::Journal(record(number, Step::Intent));
    store.perform(one(200)).unwrap();
    store.perform(one(201)).unwrap();
    let tried = [
        "append agents/collector/journal",
        "remove agents/collector/.journal.tmp",
        "append agents/collector/journal",
    ];
    assert_eq!(disk.changes(), tried);
    assert_eq!(load(dir.path()).1.journal.len(), 50);
}

#[test]
fn reason_is_cut_at_its_bound_and_never_inside_a_character() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = load(dir.path());
    let texts = [
        "x".repeat(4096),
        "x".repeat(4097),
        format!("{}é", "x".repeat(4095)),
    ];
    for (number, reason) in (1..).zip(texts) {
        let record = Record {
            reason: reason.clone(),
            ..record(number, Step::Failed)
        };
        let rejection = Rejection {
            hash: simple(1).hash,
            reason,
            at: WallTime::from_unix_millis(7),
            offers: Vec::new(),
        };
        let work = [
            DiskWork::Journal(record),
            DiskWork::SaveRejected(vec![rejection]),
        ];
        perform(&mut store, work);
    }
    let (_, persisted) = load(dir.path());
    let lengths: Vec<_> = persisted.journal.iter().map(|it| it.reason.len()).collect();
    assert_eq!(lengths, [4096, 4096, 4095]);
    assert_eq!(persisted.rejected[0].reason.len(), 4095);
}

#[test]
fn file_larger_than_any_file_of_a_revision_is_drift_and_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let path = layout(dir.path())
        .revision(&simple(1).id)
        .join("config.yaml");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(64 * 1024 * 1024 + 1).unwrap();
    match store.perform(DiskWork::Verify(simple(1).id)).unwrap() {
        DiskDone::Verified { id, drift } => {
            assert_eq!(id, simple(1).id);
            let seen: Vec<_> = drift
                .iter()
                .map(|it| (it.path.as_str(), &it.found))
                .collect();
            assert_eq!(seen, [("config.yaml", &None)]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn salvage_takes_ten_thousand_files_and_no_more() {
    let id = simple(2).id;
    for (there, taken) in [(9_999, 9_999), (10_000, 10_000), (10_001, 10_000)] {
        let disk = Noted::below(Path::new("/state"));
        let layout = layout(Path::new("/state"));
        disk.crowd(&layout.revision(&id), there);
        let found = revision::salvage(&disk, &layout, &id).unwrap();
        assert_eq!(found.files.len(), taken);
    }
}

#[test]
fn own_telemetry_keeps_what_it_wrote_last_until_a_revision_names_it() {
    use crate::engine::message::Material;
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let files: Vec<_> = (0..4)
        .map(|number| Material::new(format!("value {number}").as_bytes()))
        .collect();
    perform(&mut store, [DiskWork::KeepMaterial(files.clone())]);
    // A generated layer names the first, what was offered happens to hold the name of the second.
    let mut naming = revision(
        3,
        &[
            (
                "own.yaml",
                format!("key: ${{file:{}}}", files[0].name).as_bytes(),
            ),
            ("theirs.yaml", files[1].name.as_bytes()),
        ],
    );
    naming.files[0].layer = LayerKind::Generated;
    let id = naming.id.clone();
    perform(&mut store, [DiskWork::Stage(Box::new(naming))]);
    drop(store);
    let (mut store, _) = load(dir.path());
    perform(&mut store, [DiskWork::KeepMaterial(files[3..].to_vec())]);
    let keep = vec![id];
    perform(&mut store, [DiskWork::Prune { keep }]);
    let mut left: Vec<_> = fs::read_dir(layout(dir.path()).material())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut wanted = [&files[0], &files[3]].map(|file| file.name.clone());
    wanted.sort();
    assert_eq!(left, wanted);
}
