//! Given a state directory that a stranger, a crash or a newer version left; when it is loaded; then it is mended,
//! or left alone, and said.

use super::*;

#[test]
fn whatever_stands_for_current_is_rebuilt_as_a_link_from_last_good() {
    type Spoil = fn(&AgentLayout);
    let gone = |layout: &AgentLayout| fs::remove_file(layout.current()).unwrap();
    let cases: [(&str, Spoil, &str); 6] = [
        ("absent", gone, "missing"),
        (
            "dangling",
            |layout| {
                let target = AgentLayout::target(&simple(7).id);
                swap_link(&RealDisk, &layout.current(), &target).unwrap();
            },
            "manifest.json is missing",
        ),
        (
            "outside",
            |layout| swap_link(&RealDisk, &layout.current(), Path::new("/etc")).unwrap(),
            "it points to /etc, not to a revision",
        ),
        (
            "directory",
            |layout| {
                fs::remove_file(layout.current()).unwrap();
                fs::create_dir(layout.current()).unwrap();
                put(&layout.current().join("kept"), "precious");
            },
            "it was not a link; moved aside",
        ),
        (
            "file",
            |layout| {
                fs::remove_file(layout.current()).unwrap();
                put(&layout.current(), "precious");
            },
            "it was not a link; moved aside",
        ),
        (
            "damaged",
            |layout| {
                let other = revision(2, &[("config.yaml", b"n: 2")]);
                put(&layout.revision(&other.id).join("config.yaml"), "n: 3");
                let target = AgentLayout::target(&other.id);
                swap_link(&RealDisk, &layout.current(), &target).unwrap();
            },
            "config.yaml is not what its manifest says",
        ),
    ];
    for (case, spoil, why) in cases {
        let dir = tempfile::tempdir().unwrap();
        drop(settled(dir.path()));
        let layout = layout(dir.path());
        spoil(&layout);
        let (mut store, persisted) = load(dir.path());
        assert_eq!(persisted.current, Some(simple(1)), "{case}");
        assert_eq!(persisted.last_good, Some(simple(1).id), "{case}");
        let target = fs::read_link(layout.current()).unwrap();
        assert_eq!(target, AgentLayout::target(&simple(1).id), "{case}");
        let note = format!("current rebuilt from last-good {}: ", simple(1).id);
        // Of a file that was changed it is said, too, what it is and what it was.
        let said = if case == "damaged" { 2 } else { 1 };
        assert_eq!(
            persisted.repairs.len(),
            said,
            "{case}: {:?}",
            persisted.repairs
        );
        let repair = persisted.repairs.last().unwrap();
        assert!(
            repair.starts_with(&note) && repair.ends_with(why),
            "{case}: {repair}"
        );
        let aside = layout.root().join("current.found-1");
        match case {
            "directory" => assert_eq!(fs::read(aside.join("kept")).unwrap(), b"precious"),
            "file" => assert_eq!(fs::read(aside).unwrap(), b"precious"),
            _ => assert!(!aside.exists(), "{case}"),
        }
        assert_eq!(load(dir.path()).1.repairs, Vec::<String>::new(), "{case}");
        perform(&mut store, [DiskWork::Promote(simple(1).id)]);
    }
}

#[test]
fn without_a_last_good_nothing_unproven_takes_the_place_of_current() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    perform(&mut store, [DiskWork::Promote(simple(2).id)]);
    let layout = layout(dir.path());
    for link in [layout.current(), layout.last_good()] {
        swap_link(&RealDisk, &link, Path::new("revisions/none")).unwrap();
    }
    let (mut store, persisted) = load(dir.path());
    assert_eq!((persisted.current, persisted.last_good), (None, None));
    assert_eq!(persisted.repairs.len(), 2, "{:?}", persisted.repairs);
    assert_eq!(persisted.revisions.len(), 2);
    assert!(fs::symlink_metadata(layout.current()).is_err());
    perform(&mut store, [DiskWork::Promote(simple(2).id)]);
    assert_eq!(load(dir.path()).1.current, Some(simple(2)));
}

#[test]
fn a_directory_that_takes_the_place_of_current_later_is_moved_aside_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let layout = layout(dir.path());
    fs::remove_file(layout.current()).unwrap();
    fs::create_dir(layout.current()).unwrap();
    let fault = store
        .perform(DiskWork::Prune { keep: Vec::new() })
        .unwrap_err();
    assert!(
        fault.reason.ends_with("current: not a link to a revision"),
        "{}",
        fault.reason
    );
    perform(&mut store, [DiskWork::Promote(simple(2).id)]);
    assert_eq!(store.reader().current().unwrap(), Some(simple(2).id));
    assert!(layout.root().join("current.found-1").is_dir());
}

#[test]
fn half_made_things_are_swept_and_said() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    let layout = layout(dir.path());
    let id = simple(9).id;
    for name in [layout.staging(&id), layout.trash(&id)] {
        fs::create_dir_all(name.join("sub")).unwrap();
        put(&name.join("sub/file"), "x");
    }
    put(&layout.root().join(".journal.tmp"), "x");
    symlink("x", layout.root().join(".current.tmp")).unwrap();
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.repairs.len(), 4, "{:?}", persisted.repairs);
    assert!(
        persisted
            .repairs
            .iter()
            .all(|note| note.starts_with("unfinished ."))
    );
    for path in tree(dir.path()).into_keys() {
        let inside = path.strip_prefix(dir.path()).unwrap().to_str().unwrap();
        assert!(!inside.contains("/."), "{inside}");
    }
}

#[test]
fn a_torn_journal_is_cut_and_goes_on() {
    for torn in ["{\"transaction\":2,\"at", "\0\0\0\0\n\0\0", "{}\n", "\n"] {
        let dir = tempfile::tempdir().unwrap();
        drop(settled(dir.path()));
        let path = layout(dir.path()).journal();
        let whole = fs::read(&path).unwrap();
        RealDisk.append(&path, torn.as_bytes()).unwrap();
        let (mut store, persisted) = load(dir.path());
        assert_eq!(persisted.journal.len(), 2, "{torn:?}");
        let note = format!(
            "journal: {} bytes of an unfinished line ignored",
            torn.len()
        );
        assert_eq!(persisted.repairs, [note]);
        assert_eq!(fs::read(&path).unwrap(), whole);
        perform(&mut store, [DiskWork::Journal(record(2, Step::Intent))]);
        assert_eq!(load(dir.path()).1.journal.len(), 3);
    }
}

#[test]
fn record_without_the_end_of_its_line_was_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    let path = layout(dir.path()).journal();
    let text = fs::read_to_string(&path).unwrap();
    put(&path, text.trim_end());
    let (mut store, persisted) = load(dir.path());
    assert_eq!(persisted.journal, [record(1, Step::Intent)]);
    perform(&mut store, [DiskWork::Journal(record(2, Step::Intent))]);
    let records = load(dir.path()).1.journal;
    assert_eq!(records, [record(1, Step::Intent), record(2, Step::Intent)]);
}

#[test]
fn journal_with_nothing_but_its_first_line_is_begun_anew() {
    for text in ["{\"format\":1}\n", "{\"format\":1}", ""] {
        let dir = tempfile::tempdir().unwrap();
        drop(settled(dir.path()));
        let path = layout(dir.path()).journal();
        put(&path, text);
        let (mut store, persisted) = load(dir.path());
        assert_eq!(persisted.journal, []);
        assert_eq!(persisted.repairs, [""; 0]);
        perform(&mut store, [DiskWork::Journal(record(2, Step::Intent))]);
        assert_eq!(load(dir.path()).1.journal, [record(2, Step::Intent)]);
    }
}

#[test]
fn damage_inside_the_journal_costs_the_damaged_lines_only() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    let path = layout(dir.path()).journal();
    let text = fs::read_to_string(&path).unwrap();
    put(&path, &text.replacen("\"intent\"", "\"int\0nt\"", 1));
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.journal, [record(1, Step::Committed)]);
    assert_eq!(persisted.repairs, ["journal: 1 unreadable lines skipped"]);
    assert_eq!(load(dir.path()).1.repairs, Vec::<String>::new());

    put(&path, "garbage\n");
    let (mut store, persisted) = load(dir.path());
    assert_eq!(persisted.journal, []);
    assert!(persisted.repairs[0].starts_with("damaged journal moved aside"));
    assert_eq!(
        fs::read(path.with_extension("found-1")).unwrap(),
        b"garbage\n"
    );
    perform(&mut store, [DiskWork::Journal(record(2, Step::Intent))]);
    assert_eq!(load(dir.path()).1.journal, [record(2, Step::Intent)]);
}

#[test]
fn a_long_journal_is_compacted_at_load_and_keeps_the_last_transactions() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    let path = layout(dir.path()).journal();
    let text = fs::read_to_string(&path).unwrap();
    let (header, lines) = text.split_once('\n').unwrap();
    let mut long = header.to_owned();
    for transaction in 1..=700u64 {
        let number = format!("\"transaction\":{transaction},");
        long.push('\n');
        long += lines.replace("\"transaction\":1,", &number).trim_end();
    }
    long.push('\n');
    assert!(long.len() > 256 * 1024);
    put(&path, &long);
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.repairs, Vec::<String>::new());
    let numbers: Vec<u64> = persisted
        .journal
        .iter()
        .map(|one| one.transaction)
        .collect();
    let wanted: Vec<u64> = (651..=700).flat_map(|number| [number, number]).collect();
    assert_eq!(numbers, wanted);
    assert!(fs::metadata(&path).unwrap().len() < 32 * 1024);
}

#[test]
fn state_of_a_newer_version_is_read_and_never_written() {
    let id = simple(1).id;
    let files = [
        "journal",
        "rejected.json",
        &format!("revisions/{id}/{MANIFEST}"),
    ]
    .map(PathBuf::from);
    for file in files {
        let dir = tempfile::tempdir().unwrap();
        drop(settled(dir.path()));
        let layout = layout(dir.path());
        let path = layout.root().join(&file);
        let text = fs::read_to_string(&path).unwrap();
        put(
            &path,
            &text.replacen("\"format\":1", "\"format\":2,\"new\":[]", 1),
        );
        fs::create_dir(layout.staging(&simple(9).id)).unwrap();
        let before = tree(dir.path());

        let (mut store, persisted) = load(dir.path());
        let frozen = persisted.frozen.unwrap();
        assert!(
            frozen.contains("newer version in format 2, this one reads 1"),
            "{frozen}"
        );
        assert_eq!(persisted.current, Some(simple(1)), "{}", file.display());
        assert_eq!(persisted.last_good, Some(id.clone()));
        let work = [
            DiskWork::Stage(Box::new(simple(3))),
            DiskWork::Journal(record(2, Step::Intent)),
            DiskWork::Promote(simple(2).id),
            DiskWork::MarkGood(simple(2).id),
            DiskWork::SaveRejected(Vec::new()),
            DiskWork::Prune { keep: Vec::new() },
        ];
        for work in work {
            let fault = store.perform(work).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Denied);
            assert!(fault.reason.contains(&frozen), "{}", fault.reason);
        }
        assert_eq!(tree(dir.path()), before);
    }
}

#[test]
fn a_manifest_nobody_here_understands_still_shows_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = load(dir.path());
    let staged = revision(1, &[("a/b", b"1"), ("c", b"2")]);
    let work = [
        DiskWork::Stage(Box::new(staged.clone())),
        DiskWork::Promote(staged.id.clone()),
    ];
    perform(&mut store, work);
    let manifest = layout(dir.path()).revision(&staged.id).join(MANIFEST);
    put(&manifest, "{\"format\":9,\"contents\":{}}");
    let (_, persisted) = load(dir.path());
    assert!(persisted.frozen.is_some());
    let current = persisted.current.unwrap();
    assert_eq!((current.id, current.hash), (staged.id, staged.hash));
    let files: Vec<_> = current
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.bytes.as_slice()))
        .collect();
    assert_eq!(files, [("a/b", b"1".as_slice()), ("c", b"2".as_slice())]);
}

#[test]
fn a_format_is_ours_newer_or_unknown() {
    use crate::port::store::wire::{Unreadable, check_format};
    let of = |format: u64| check_format(format!("{{\"format\":{format}}}").as_bytes());
    let ours = layout::FORMAT;
    assert!(of(ours).is_ok());
    assert!(matches!(of(ours + 1), Err(Unreadable::Newer(format)) if format == ours + 1));
    assert!(matches!(of(ours - 1), Err(Unreadable::Damaged(_))));
}

#[test]
fn salvage_goes_no_deeper_than_revisions_are_and_takes_no_links() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = load(dir.path());
    let staged = revision(1, &[("a/b", b"1")]);
    let work = [
        DiskWork::Stage(Box::new(staged.clone())),
        DiskWork::Promote(staged.id.clone()),
    ];
    perform(&mut store, work);
    let home = layout(dir.path()).revision(&staged.id);
    put(&home.join(MANIFEST), "{\"format\":9,\"contents\":{}}");
    let deep = home.join("d/".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    put(&deep.join("lost"), "x");
    symlink("/etc/passwd", home.join("link")).unwrap();
    let (_, persisted) = load(dir.path());
    let files = persisted.current.unwrap().files;
    let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["a/b"]);
}
