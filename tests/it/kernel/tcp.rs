//! Connections that are made, refused, never answered, reset and closed, over both families.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::rig::{Plane, is, python};

const FAMILIES: [(IpAddr, &str); 2] = [
    (IpAddr::V4(Ipv4Addr::LOCALHOST), "ipv4"),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), "ipv6"),
];

fn check_peer(attributes: &Value, peer: SocketAddr, family: &str) {
    assert_eq!(attributes["network.transport"], "tcp", "{attributes}");
    assert_eq!(attributes["network.type"], family, "{attributes}");
    assert_eq!(
        attributes["network.peer.address"],
        peer.ip().to_string(),
        "{attributes}"
    );
    assert_eq!(attributes["network.peer.port"], peer.port(), "{attributes}");
}

fn check_local(attributes: &Value, local: SocketAddr) {
    assert_eq!(
        attributes["network.local.address"],
        local.ip().to_string(),
        "{attributes}"
    );
    assert_eq!(
        attributes["network.local.port"],
        local.port(),
        "{attributes}"
    );
}

fn check_process(attributes: &Value) {
    assert_eq!(
        attributes["process.pid"],
        std::process::id(),
        "{attributes}"
    );
    assert!(
        attributes["process.executable.name"].is_string(),
        "{attributes}"
    );
}

#[test]
fn a_connection_is_told_from_both_ends_with_its_bytes_and_its_time() {
    let plane = Plane::start("events: [tcp]");
    for (address, family) in FAMILIES {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let door = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(door).unwrap();
        let own = client.local_addr().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[b'x'; 1000]).unwrap();
        server.write_all(&vec![b'y'; 70_000]).unwrap();
        let mut buffer = vec![0; 70_000];
        server.read_exact(&mut buffer[..1000]).unwrap();
        client.read_exact(&mut buffer).unwrap();
        // The client is known to have stood for as long as it takes the server's bytes to be waited for.
        client
            .set_read_timeout(Some(Duration::from_millis(150)))
            .unwrap();
        assert!(client.read(&mut buffer).is_err());
        // The client ends first, the server when it has seen that.
        drop(client);
        assert_eq!(server.read(&mut buffer).unwrap(), 0);
        drop(server);

        let connect = plane.event("tcp.connect", |event| {
            is(event, "network.peer.port", door.port())
        });
        check_peer(&connect, door, family);
        check_local(&connect, own);
        check_process(&connect);
        assert_eq!(connect["adjutant.tcp.side"], "client");
        let handshake = connect["adjutant.tcp.duration"].as_f64().unwrap();
        assert!(handshake > 0.0 && handshake < 10.0, "{connect}");

        let accept = plane.event("tcp.accept", |event| {
            is(event, "network.local.port", door.port())
        });
        check_peer(&accept, own, family);
        check_local(&accept, door);
        assert_eq!(accept["adjutant.tcp.side"], "server");
        assert!(
            accept["process.pid"].is_null(),
            "nobody can be blamed for sure: {accept}"
        );

        let close = plane.event("tcp.close", |event| {
            is(event, "network.peer.port", door.port())
        });
        check_peer(&close, door, family);
        check_local(&close, own);
        check_process(&close);
        assert_eq!(close["network.io.transmit"], 1000, "{close}");
        assert_eq!(close["network.io.receive"], 70_000, "{close}");
        assert!(close["error.type"].is_null(), "{close}");
        let stood = close["adjutant.tcp.duration"].as_f64().unwrap();
        assert!((0.15..30.0).contains(&stood), "{close}");

        let close = plane.event("tcp.close", |event| {
            is(event, "network.local.port", door.port())
        });
        check_peer(&close, own, family);
        assert_eq!(close["network.io.transmit"], 70_000, "{close}");
        assert_eq!(close["network.io.receive"], 1000, "{close}");
        assert_eq!(close["adjutant.tcp.side"], "server");
    }
}

#[test]
fn a_refused_connection_is_told_with_who_and_why() {
    let plane = Plane::start("events: [tcp]");
    for (address, family) in FAMILIES {
        // Bound and not listening: nobody else can be given this port meanwhile.
        let holder = TcpListener::bind((address, 0)).unwrap();
        let door = holder.local_addr().unwrap();
        drop(holder);
        TcpStream::connect(door).unwrap_err();
        let failed = plane.record("tcp.connect_failed", |event| {
            is(event, "network.peer.port", door.port())
                && is(event, "process.pid", std::process::id())
        });
        assert_eq!(failed["severity"], "WARN");
        let attributes = &failed["attributes"];
        check_peer(attributes, door, family);
        check_process(attributes);
        assert_eq!(attributes["error.type"], "ECONNREFUSED");
        let took = attributes["adjutant.tcp.duration"].as_f64().unwrap();
        assert!(took < 10.0, "{failed}");
        let close = plane.events("tcp.close", |event| {
            is(event, "network.peer.port", door.port())
        });
        assert_eq!(close, Vec::<Value>::new(), "what never stood is not closed");
    }
}

/// Given a listener whose queue is full, so that it answers nobody,
/// when somebody who asks only twice connects,
/// then that one's giving up is told, with the time it took.
#[test]
fn a_connection_that_nobody_answers_is_told_when_it_is_given_up() {
    const ASK: &str = "
import socket, sys
for name, family in (('127.0.0.1', socket.AF_INET), ('::1', socket.AF_INET6)):
    door = socket.socket(family)
    door.bind((name, 0))
    door.listen(0)
    full = socket.create_connection(door.getsockname()[:2])
    asking = socket.socket(family)
    asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    print(door.getsockname()[1], flush=True)
    try:
        asking.connect(door.getsockname())
        print('connected', flush=True)
    except OSError as error:
        print(error.errno, flush=True)
";
    let plane = Plane::start("events: [tcp]");
    let mut asker = python(ASK).spawn().unwrap();
    let pid = asker.id();
    let mut lines = BufReader::new(asker.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    for (address, family) in FAMILIES {
        let port: u16 = lines.next().unwrap().parse().unwrap();
        assert_eq!(
            lines.next().unwrap(),
            "110",
            "ETIMEDOUT, as the one who asked saw it"
        );
        let failed = plane.event("tcp.connect_failed", |event| {
            is(event, "network.peer.port", port) && is(event, "process.pid", pid)
        });
        check_peer(&failed, (address, port).into(), family);
        assert_eq!(failed["error.type"], "ETIMEDOUT");
        assert_eq!(failed["process.executable.name"], "python3");
        let took = failed["adjutant.tcp.duration"].as_f64().unwrap();
        assert!((1.0..30.0).contains(&took), "{failed}");
    }
    assert!(asker.wait().unwrap().success());
}

#[test]
fn a_connection_that_is_reset_says_so() {
    const RESET: &str = "
import socket, struct, sys
peer = socket.create_connection(('127.0.0.1', int(sys.stdin.readline())))
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
peer.close()
";
    let plane = Plane::start("events: [tcp]");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut peer = python(RESET).spawn().unwrap();
    writeln!(peer.stdin.take().unwrap(), "{port}").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    assert!(peer.wait().unwrap().success());
    stream.read(&mut [0]).unwrap_err();
    let close = plane.event("tcp.close", |event| is(event, "network.local.port", port));
    assert_eq!(close["error.type"], "ECONNRESET", "{close}");
    assert_eq!(
        (&close["network.io.transmit"], &close["network.io.receive"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn ports_that_are_excluded_are_not_told_of() {
    let quiet = TcpListener::bind("127.0.0.1:0").unwrap();
    let loud = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let plane = Plane::start(&format!("events: [tcp], exclude_ports: [{}]", port(&quiet)));
    for listener in [&quiet, &loud] {
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        drop(listener.accept().unwrap());
    }
    plane.event("tcp.close", |event| {
        is(event, "network.local.port", port(&loud))
    });
    plane.event("tcp.close", |event| {
        is(event, "network.peer.port", port(&loud))
    });
    let found = plane.records().into_iter().filter(|record| {
        let attributes = &record["attributes"];
        is(attributes, "network.local.port", port(&quiet))
            || is(attributes, "network.peer.port", port(&quiet))
    });
    assert_eq!(found.collect::<Vec<_>>(), Vec::<Value>::new());
}
