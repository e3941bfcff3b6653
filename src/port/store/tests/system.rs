//! Given another process, another user, a full or a read-only disk; then the answer is clear and nothing is lost.

use super::*;

#[test]
fn one_process_at_a_time_however_the_path_is_spelt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let state = StateDir::open(&path).unwrap();
    let lock = state.lock().unwrap();
    let file = state.root().join("adjutant.lock");
    let inode = fs::metadata(&file).unwrap().ino();
    let us = std::process::id();
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{us}\n"));

    symlink(&path, dir.path().join("other")).unwrap();
    for spelling in ["state", "state/", "state/../state", "./state", "other"] {
        let error = StateDir::open(&dir.path().join(spelling))
            .unwrap()
            .lock()
            .unwrap_err();
        let text = error.to_string();
        let wanted = format!("lock {}: held by process {us}; ", file.display());
        assert!(text.starts_with(&wanted), "{spelling}: {text}");
    }
    drop(lock);
    put(&file, "999999999 and more text than a pid has\n");
    let lock = state.lock().unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{us}\n"));
    drop(lock);
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
}

#[test]
fn a_directory_of_another_user_or_no_directory_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let us = nix::unistd::Uid::effective();
    let (path, owner) = if us.is_root() {
        let path = dir.path().join("foreign");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(54321), None).unwrap();
        (path, "uid 54321".to_owned())
    } else {
        (PathBuf::from("/"), "user root (uid 0)".to_owned())
    };
    let text = StateDir::open(&path).unwrap_err().to_string();
    let wanted = format!(
        "open state directory {}: it belongs to {owner} and",
        path.display()
    );
    assert!(text.starts_with(&wanted), "{text}");
    assert!(
        text.contains(&format!("run as {owner}, change the owner")),
        "{text}"
    );

    let file = dir.path().join("file");
    put(&file, "x");
    let text = StateDir::open(&file).unwrap_err().to_string();
    assert!(text.ends_with("it is not a directory"), "{text}");
    let missing = StateDir::open_existing(&dir.path().join("none")).unwrap_err();
    assert!(matches!(missing, OpenError::Io { .. }), "{missing:?}");
}

/// Runs a test on a file system of its own, which goes away with the thread's mount namespace.
fn on_tmpfs(options: &str, test: impl FnOnce(&Path) + Send) {
    let dir = TempDir::new().unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            mount(
                Some("tmpfs"),
                dir.path(),
                Some("tmpfs"),
                MsFlags::empty(),
                Some(options),
            )
            .unwrap();
            test(dir.path());
        });
        thread.join().unwrap();
    });
}

#[test]
#[ignore = "needs root: mounts a small file system"]
fn a_full_disk_is_said_and_nothing_is_lost() {
    on_tmpfs("size=1m,mode=0700", |dir| {
        let mut store = settled(dir);
        let before = tree(dir);
        let big = revision(3, &[("small", b"x"), ("big", &vec![b'x'; 2 << 20])]);
        let fault = store.perform(DiskWork::Stage(Box::new(big))).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Full);
        let wanted = format!(
            "in {}: No space left on device",
            layout(dir).revisions().display()
        );
        assert!(fault.reason.contains(&wanted), "{}", fault.reason);
        assert_eq!(
            tree(dir),
            before,
            "a refused revision left something behind"
        );

        // Full to the last byte, and from then on.
        let filler = dir.join("filler");
        drop(RealDisk.write_file(&filler, &vec![0; 2 << 20], FILE_MODE));
        let mut written = 0;
        let fault = loop {
            match store.perform(DiskWork::Journal(record(2, Step::Resumed))) {
                Ok(_) => written += 1,
                Err(fault) => break fault,
            }
            assert!(written < 10_000, "the disk does not fill");
        };
        assert_eq!(fault.kind, FaultKind::Full);
        // What needs no room goes on, and so does a new life on the full disk.
        let (mut store, persisted) = load(dir);
        assert_eq!(persisted.journal.len(), 2 + written);
        assert_eq!(persisted.current, Some(simple(1)));
        perform(&mut store, [DiskWork::Promote(simple(2).id)]);
        fs::remove_file(filler).unwrap();
        perform(&mut store, [DiskWork::Journal(record(3, Step::Intent))]);
        assert_eq!(load(dir).1.journal.len(), 3 + written);
    });
}

#[test]
#[ignore = "needs root: mounts a file system and makes it read-only"]
fn a_read_only_disk_is_said_and_what_is_there_is_read() {
    on_tmpfs("size=1m,mode=0700", |dir| {
        let mut store = settled(dir);
        fs::remove_file(layout(dir).current()).unwrap();
        let state = StateDir::open(dir).unwrap();
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, dir, None::<&str>, flags, None::<&str>).unwrap();
        let fault = store
            .perform(DiskWork::Stage(Box::new(simple(3))))
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::Denied);
        assert!(
            fault.reason.contains("Read-only file system"),
            "{}",
            fault.reason
        );

        let error = state.lock().unwrap_err();
        let wanted = format!(
            "lock {}; the state directory has to be writable",
            state.root().join("adjutant.lock").display()
        );
        assert_eq!(error.to_string(), wanted);
        let text = StateDir::open(&dir.join("new")).unwrap_err().to_string();
        assert!(text.contains("it has to be writable"), "{text}");

        // A life that gets this far reads what is there and says what it could not mend.
        let (_, persisted) = load(dir);
        assert_eq!(persisted.last_good, Some(simple(1).id));
        assert_eq!(persisted.journal.len(), 2);
        let said = persisted.repairs.iter().any(|note| {
            note.starts_with("current rebuilt") && note.contains("not done: Read-only file system")
        });
        assert!(said, "{:?}", persisted.repairs);
        assert_eq!(state.reader(&agent()).revisions().unwrap().len(), 2);
    });
}
