//! Real files under a real kernel: each way in which editors, tools and kubelets change a file is seen, and what
//! happens beside it is not.

use std::os::unix::fs::symlink;

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn put(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Whether a watch over `path` ends when `change` is done.
async fn seen(path: &Path, change: impl FnOnce()) -> bool {
    let watch = FileWatch::begin(vec![path.to_owned()], LOOK_EVERY);
    assert_eq!(watch.by(), WatchedBy::Events);
    change();
    tokio::time::timeout(LONG, watch.changed()).await.is_ok()
}

#[tokio::test]
async fn every_way_to_change_a_file_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    put(&file, "one");
    assert!(seen(&file, || put(&file, "two")).await, "written in place");
    let other = dir.path().join(".a.yaml.swp");
    put(&other, "three");
    let rename = || fs::rename(&other, &file).unwrap();
    assert!(seen(&file, rename).await, "another file in its place");
    assert!(
        seen(&file, || fs::remove_file(&file).unwrap()).await,
        "gone"
    );
    assert!(seen(&file, || put(&file, "four")).await, "come back");
    let below = dir.path().join("later/b.yaml");
    let made = || fs::create_dir(dir.path().join("later")).unwrap();
    assert!(seen(&below, made).await, "its directory came");
}

#[tokio::test]
async fn swapped_data_link_of_a_config_map_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (number, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(root.join(number)).unwrap();
        put(&root.join(number).join("a.yaml"), text);
    }
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    let swap = || {
        symlink("..2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    assert!(seen(&root.join("a.yaml"), swap).await);
    assert_eq!(fs::read_to_string(root.join("a.yaml")).unwrap(), "two");
}

#[tokio::test]
async fn what_happens_beside_a_file_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    put(&file, "one");
    let watch = FileWatch::begin(vec![file.clone()], LOOK_EVERY);
    let mut changed = Box::pin(watch.changed());
    for number in 0..50 {
        put(&dir.path().join(format!("{number}")), "x");
    }
    let early = tokio::time::timeout(Duration::from_millis(300), &mut changed).await;
    assert!(early.is_err(), "other names are not its business");
    put(&file, "two");
    assert!(tokio::time::timeout(LONG, changed).await.is_ok());
}

#[tokio::test]
async fn where_the_kernel_does_not_say_files_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    put(&file, "one");
    // A link to itself leads nowhere, so there is no directory to watch.
    let looped = dir.path().join("loop");
    symlink("loop", &looped).unwrap();
    let watch = FileWatch::begin(vec![file.clone(), looped], Duration::from_millis(20));
    let WatchedBy::Looks { reason, .. } = watch.by() else {
        panic!("{:?}", watch.by());
    };
    assert!(reason.contains("too many links"), "{reason}");
    let mut changed = Box::pin(watch.changed());
    let early = tokio::time::timeout(Duration::from_millis(200), &mut changed).await;
    assert!(early.is_err(), "nothing has changed");
    put(&file, "longer");
    assert!(tokio::time::timeout(LONG, changed).await.is_ok());
}
