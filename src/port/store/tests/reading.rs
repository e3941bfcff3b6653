//! Given a state directory that nobody made, that is damaged, or that a newer version wrote; when it is read; then all
//! that is there is handed out, and nothing else.

use super::*;

#[test]
fn everything_lies_where_the_manual_says() {
    let layout = layout(Path::new("/state"));
    let id = simple(1).id;
    let found = [
        layout.root(),
        layout.effective(),
        layout.revision(&id),
        layout.current(),
        layout.last_good(),
        layout.journal(),
        layout.rejected(),
        layout.connection(),
        layout.material(),
        layout.work(),
        layout.trial(),
        layout.drifted(),
        layout.logs(),
        layout.staging(&id),
        layout.trash(&id),
        AgentLayout::target(&id),
    ];
    let home = "/state/agents/collector";
    let wanted = [
        home.to_owned(),
        "/state/effective.yaml".to_owned(),
        format!("{home}/revisions/{id}"),
        format!("{home}/current"),
        format!("{home}/last-good"),
        format!("{home}/journal"),
        format!("{home}/rejected.json"),
        format!("{home}/connection-settings"),
        format!("{home}/telemetry"),
        format!("{home}/work"),
        format!("{home}/trial"),
        format!("{home}/drifted"),
        format!("{home}/logs"),
        format!("{home}/revisions/.staging-{id}"),
        format!("{home}/revisions/.trash-{id}"),
        format!("revisions/{id}"),
    ];
    assert_eq!(found.map(|path| path.to_str().unwrap().to_owned()), wanted);
    assert_eq!(
        (layout.agent(), layout.state()),
        (&agent(), Path::new("/state"))
    );
    let names: Vec<_> = layout
        .temporaries()
        .map(|path| path.strip_prefix(home).unwrap().to_owned())
        .into();
    let left = [
        ".current.tmp",
        ".last-good.tmp",
        ".journal.tmp",
        ".rejected.json.tmp",
        ".connection-settings.tmp",
        "trial",
    ];
    assert_eq!(names, left.map(PathBuf::from));
}

#[test]
fn reader_of_a_directory_that_nobody_made_finds_nothing_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let reader = AgentReader::new(RealDisk, layout(dir.path()));
    assert_eq!(reader.revisions().unwrap(), []);
    assert_eq!(reader.current().unwrap(), None);
    assert_eq!(reader.last_good().unwrap(), None);
    assert_eq!(reader.journal_tail(10).unwrap(), []);
    let fault = reader.read(&simple(1).id).unwrap_err();
    let wanted = format!(
        "read revision {} in {}: manifest.json is missing",
        simple(1).id,
        reader.layout().revisions().display()
    );
    assert_eq!((fault.kind, fault.reason), (FaultKind::Missing, wanted));
    assert_eq!(tree(dir.path()), BTreeMap::new());
}

#[test]
fn reader_of_something_else_says_what_it_tried() {
    let dir = tempfile::tempdir().unwrap();
    let reader = AgentReader::new(RealDisk, layout(dir.path()));
    let home = reader.layout().root();
    fs::create_dir_all(&home).unwrap();
    put(&reader.layout().revisions(), "x");
    put(&reader.layout().current(), "x");
    put(&reader.layout().journal(), "garbage\n");
    let refused = reader.revisions().unwrap_err();
    let wanted = format!("list {}: Not a directory", home.join("revisions").display());
    assert!(refused.reason.starts_with(&wanted), "{}", refused.reason);
    assert_eq!(reader.current().unwrap(), None);
    let refused = reader.journal_tail(1).unwrap_err();
    let wanted = format!("read {}: expected value", home.join("journal").display());
    assert!(refused.reason.starts_with(&wanted), "{}", refused.reason);
    symlink("/etc", reader.layout().last_good()).unwrap();
    assert_eq!(reader.last_good().unwrap(), None);
}

#[test]
fn revision_is_what_its_own_manifest_says_in_every_point() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str, bool); 6] = [
        (
            "other bytes",
            |at| put(&at.join("config.yaml"), "n: 9"),
            "config.yaml is not what its manifest says",
            // A glance looks at lengths.
            true,
        ),
        (
            "another length",
            |at| put(&at.join("config.yaml"), "n: 10"),
            "config.yaml is not what its manifest says",
            false,
        ),
        (
            "no file",
            |at| fs::remove_file(at.join("config.yaml")).unwrap(),
            "config.yaml is missing",
            false,
        ),
        (
            "another's manifest",
            |at| {
                let theirs = at.with_file_name(simple(2).id.as_str()).join(MANIFEST);
                fs::copy(theirs, at.join(MANIFEST)).unwrap();
            },
            "manifest.json belongs to revision ",
            false,
        ),
        (
            "a name that leaves it",
            |at| {
                let text = fs::read_to_string(at.join(MANIFEST)).unwrap();
                let text = text.replace("\"path\":\"config.yaml\"", "\"path\":\"../config.yaml\"");
                put(&at.join(MANIFEST), &text);
            },
            "manifest.json names \"../config.yaml\"",
            false,
        ),
        (
            "no manifest",
            |at| fs::remove_file(at.join(MANIFEST)).unwrap(),
            "manifest.json is missing",
            false,
        ),
    ];
    for (case, spoil, why, at_a_glance) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = settled(dir.path());
        let id = simple(1).id;
        spoil(&layout(dir.path()).revision(&id));
        let fault = store.reader().read(&id).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Missing, "{case}");
        let wanted = format!(
            "read revision {id} in {}: {why}",
            layout(dir.path()).revisions().display()
        );
        assert!(
            fault.reason.starts_with(&wanted),
            "{case}: {}",
            fault.reason
        );
        let seen = store.reader().revisions().unwrap();
        assert_eq!(seen.iter().any(|it| it.id == id), at_a_glance, "{case}");
        assert!(seen.iter().any(|it| it.id == simple(2).id), "{case}");
    }
}

#[test]
fn frozen_state_is_handed_out_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let saved = opamp_client::settings::SavedSettings(b"saved".to_vec());
    let rejection = Rejection {
        hash: simple(2).hash,
        reason: "exit code 1".to_owned(),
        at: WallTime::from_unix_millis(7),
        offers: vec![OfferHash::new([1])],
    };
    let work = [
        DiskWork::SaveConnection(saved.clone()),
        DiskWork::SaveRejected(vec![rejection.clone()]),
        DiskWork::Stage(Box::new(simple(3))),
    ];
    perform(&mut store, work);
    let revisions = store.reader().revisions().unwrap();
    assert_eq!(store.reader().current().unwrap(), Some(simple(1).id));
    assert_eq!(store.reader().last_good().unwrap(), Some(simple(1).id));
    let manifest = layout(dir.path()).revision(&simple(3).id).join(MANIFEST);
    put(&manifest, "{\"format\":2}");
    let local = dir.path().join("local.yaml");
    put(&local, "n: 0");
    let (_, found) =
        AgentStore::load(RealDisk, layout(dir.path()), std::slice::from_ref(&local)).unwrap();
    let wanted = Persisted {
        journal: vec![record(1, Step::Intent), record(1, Step::Committed)],
        current: Some(simple(1)),
        last_good: Some(simple(1).id),
        revisions: revisions[..2].to_vec(),
        rejected: vec![rejection],
        local: vec![crate::engine::message::LocalFile {
            path: local,
            bytes: Ok(b"n: 0".to_vec()),
        }],
        connection: Some(saved),
        frozen: Some(format!(
            "revision {} was written by a newer version in format 2, this one reads 1; applies are frozen until \
             this version is upgraded",
            simple(3).id
        )),
        ..Persisted::default()
    };
    assert_eq!(format!("{found:#?}"), format!("{wanted:#?}"));
}

#[test]
fn state_that_the_disk_does_not_show_is_frozen_and_connection_settings_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    // A directory cannot be read as a file, whoever asks.
    fs::create_dir(layout(dir.path()).connection()).unwrap();
    let (_, persisted) = load(dir.path());
    assert_eq!(persisted.connection, None);
    let [repair] = persisted.repairs.as_slice() else {
        panic!("{:?}", persisted.repairs);
    };
    let wanted = format!(
        "{}: cannot be read, the local connection settings are used: is a directory",
        layout(dir.path()).connection().display()
    );
    assert_eq!(repair, &wanted);
    for (path, what) in [
        (layout(dir.path()).rejected(), "rejected.json"),
        (layout(dir.path()).journal(), "the journal"),
    ] {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let (_, persisted) = load(dir.path());
        let wanted = format!("{what} cannot be read: is a directory");
        assert_eq!(persisted.frozen, Some(wanted));
        assert_eq!(
            persisted.current,
            Some(simple(1)),
            "it is started all the same"
        );
    }
}

#[test]
fn damaged_memory_of_rejections_is_kept_for_people_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    drop(settled(dir.path()));
    let path = layout(dir.path()).rejected();
    let entry = |hash: &str, offer: &str| {
        format!(
            r#"{{"format":1,"rejected":[{{"hash":"{hash}","reason":"r","at_ms":7,"offers":["{offer}"]}}]}}"#
        )
    };
    let hash = simple(1).hash.to_hex();
    for (number, text) in (1..).zip(["garbage".to_owned(), entry("1", "01"), entry(&hash, "x")]) {
        put(&path, &text);
        let (_, persisted) = load(dir.path());
        assert_eq!(persisted.rejected, [], "{text}");
        let [repair] = persisted.repairs.as_slice() else {
            panic!("{:?}", persisted.repairs);
        };
        assert!(
            repair.starts_with("damaged rejected.json moved aside ("),
            "{repair}"
        );
        let aside = path.with_file_name(format!("rejected.json.found-{number}"));
        assert_eq!(fs::read_to_string(aside).unwrap(), text);
    }
}

#[test]
fn merged_config_and_connection_settings_are_shown_and_kept_where_they_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = settled(dir.path());
    let saved = opamp_client::settings::SavedSettings(b"saved".to_vec());
    let work = [
        DiskWork::ShowEffective(b"a: 1\n".to_vec()),
        DiskWork::SaveConnection(saved.clone()),
    ];
    perform(&mut store, work);
    let shown = fs::read(dir.path().join("effective.yaml")).unwrap();
    assert_eq!(shown, b"a: 1\n");
    assert_eq!(load(dir.path()).1.connection, Some(saved));
}
