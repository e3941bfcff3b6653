//! Given the door of one agent, when a child dials it; then its reports arrive, and nobody else gets in.

use opamp_client::transport::{Connection, DialOptions, Target, dial};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn name() -> AgentName {
    "a".parse().unwrap()
}

fn door(kind: LocalLink, dir: &Path) -> LocalDoor {
    LocalDoor::bind(&name(), kind, 0, dir, None)
        .unwrap()
        .unwrap()
}

fn served(door: LocalDoor) -> (JoinSet<()>, mpsc::Receiver<(LocalKey, LocalReport)>) {
    let (tx, rx) = mpsc::channel(QUEUE_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(door.serve(tx));
    (tasks, rx)
}

async fn connect(link: &str) -> Connection {
    let url = match link.strip_prefix('/') {
        Some(path) => format!("unix:/{path}"),
        None => link.to_owned(),
    };
    let target: Target = url.parse().unwrap();
    dial(&target, DialOptions::default()).await.unwrap()
}

async fn next(rx: &mut mpsc::Receiver<(LocalKey, LocalReport)>) -> (u64, LocalReport) {
    let (key, report) = timeout(PATIENCE, rx.recv()).await.unwrap().unwrap();
    assert_eq!(key.agent, name());
    (key.connection, report)
}

#[tokio::test(flavor = "local")]
async fn a_child_talks_over_a_unix_socket_and_is_known_by_its_pid() {
    let dir = tempfile::tempdir().unwrap();
    let door = door(LocalLink::Unix, dir.path());
    let link = door.link().to_owned();
    assert_eq!(link, dir.path().join("link.sock").display().to_string());
    let mode = std::fs::metadata(&link).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let (mut tasks, mut rx) = served(door);

    let (pump, to_us, mut from_us) = Pump::new(connect(&link).await, PumpConfig::default());
    tasks.spawn_local(async move {
        drop(pump.run().await);
    });
    let (first, report) = next(&mut rx).await;
    let LocalReport::Opened { sender, peer_pid } = report else {
        panic!("{report:?}");
    };
    assert_eq!(peer_pid, Some(std::process::id()));
    to_us.send(vec![1]).await.unwrap();
    match next(&mut rx).await {
        (number, LocalReport::Frame(frame)) => assert_eq!((number, frame), (first, vec![1])),
        other => panic!("{other:?}"),
    }
    sender.try_send(vec![2]).unwrap();
    drop(sender);
    let heard = timeout(PATIENCE, from_us.recv()).await.unwrap();
    assert_eq!(heard, Some(vec![2]));
    assert!(matches!(next(&mut rx).await, (number, LocalReport::Closed) if number == first));

    let second = connect(&link).await;
    let (number, _) = next(&mut rx).await;
    assert_ne!(number, first);
    drop(second);
    tasks.shutdown().await;
    assert!(!Path::new(&link).exists(), "the socket goes with its door");
}

#[tokio::test(flavor = "local")]
async fn a_collector_talks_over_loopback_and_one_too_many_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let door = door(LocalLink::Loopback, dir.path());
    let link = door.link().to_owned();
    let port = door.port().unwrap();
    assert_eq!(link, format!("ws://127.0.0.1:{port}/v1/opamp"));
    let (_tasks, mut rx) = served(door);
    let mut open = Vec::new();
    let mut reports = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        open.push(connect(&link).await);
        let (_, report) = next(&mut rx).await;
        assert!(matches!(report, LocalReport::Opened { peer_pid: None, .. }));
        // Dropping the sender in it would close the connection.
        reports.push(report);
    }
    let target: Target = link.parse().unwrap();
    assert!(dial(&target, DialOptions::default()).await.is_err());
    drop(reports);
}

#[tokio::test(flavor = "local")]
async fn a_taken_port_is_said_with_its_number() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error =
        LocalDoor::bind(&name(), LocalLink::Loopback, port, Path::new("/"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("listen on 127.0.0.1:{port} for the local OpAMP of agent a")
    );
}

#[tokio::test(flavor = "local")]
async fn a_long_path_gets_a_short_socket_in_the_runtime_directory() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let runtime = dir.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let bind = || {
        LocalDoor::bind(&name(), LocalLink::Unix, 0, &deep, Some(&runtime))
            .unwrap()
            .unwrap()
    };
    let link = bind().link().to_owned();
    assert!(link.starts_with(&runtime.join("adjutant").display().to_string()));
    let again = bind();
    assert_eq!(again.link(), link, "the same at every start");
    assert!(Path::new(&link).exists());
}

#[test]
fn a_directory_that_others_can_enter_holds_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let uid = nix::unistd::geteuid().as_raw();
    let error = private_directory(&open, uid).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    private_directory(&dir.path().join("new"), uid).unwrap();
}

#[tokio::test(flavor = "local")]
async fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(door(LocalLink::Unix, dir.path()));
    assert!(!path.exists());

    std::fs::File::create(&path).unwrap();
    let error = LocalDoor::bind(&name(), LocalLink::Unix, 0, dir.path(), None).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    assert!(path.is_file());
}
