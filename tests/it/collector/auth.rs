//! Given a real Collector in opampsupervisor's form and servers made with opamp-go;
//! when the settings name an authenticator (E40, E41);
//! then the gate of that program is asked for, each kind says who we are with what is true at the moment of the
//! connection, and no secret is seen anywhere else.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::bench::Bench;
use crate::fleet::{Kind, Server};
use crate::peers::{eventually, otelcol};

const GATE: &str = "--feature-gates=opampsupervisor.Extensions";

/// opampsupervisor's settings with an authenticator; nothing to run, which is enough to connect.
fn settings(auth: &str, extensions: &str) -> String {
    format!(
        "server: {{endpoint: SERVER, auth: {auth}, headers: {{X-Base: base}}}}
extensions: {extensions}
capabilities: {{accepts_opamp_connection_settings: true, accepts_remote_config: true}}
storage: {{directory: STATE}}
agent: {{executable: {otelcol}}}
",
        otelcol = otelcol().display(),
    )
}

/// What the newest connection of a server showed.
fn shown(server: &Server) -> Value {
    server.all_connections().last().unwrap()["headers"].clone()
}

fn connections(server: &Server, count: usize) -> Vec<Value> {
    eventually(&format!("{count} connections"), || {
        let connections = server.all_connections();
        if connections.len() >= count {
            Ok(connections)
        } else {
            Err(format!("{connections:#?}"))
        }
    })
}

// E40
#[test]
fn extensions_need_the_gate_of_opampsupervisor() {
    let mut bench = Bench::new(Kind::OpampGo);
    let text = settings("nop", "{nop: {}}").replace("auth: nop, ", "");
    let file = bench.file("gated.yaml", &text.replace("SERVER", "ws://127.0.0.1:1"));
    let output = Command::new(env!("CARGO_BIN_EXE_adjutant"))
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("opampsupervisor.Extensions"), "{said}");
    assert!(said.contains("--feature-gates"), "{said}");

    let supervisor = bench.run_with(&text, &[GATE]);
    bench.connected(&supervisor);
    supervisor.stop();

    let output = Command::new(env!("CARGO_BIN_EXE_adjutant"))
        .args(["run", "--feature-gates=opampsupervisor.Unheard", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no such feature gate"), "{said}");
}

// E41, first and last case; R-278
#[test]
fn bearer_token_of_a_file_is_read_at_every_connection() {
    let mut bench = Bench::new(Kind::OpampGo);
    let token = bench.file("token", "first-secret\n");
    let extensions = format!("{{bearertokenauth: {{filename: '{}'}}}}", token.display());
    let supervisor = bench.run_with(&settings("bearertokenauth", &extensions), &[GATE]);
    let uid = bench.connected(&supervisor);
    assert_eq!(
        shown(bench.server())["Authorization"],
        "Bearer first-secret"
    );
    assert_eq!(shown(bench.server())["X-Base"], "base");

    bench.file("token", "second-secret\n");
    bench.server().drop_agent(&uid);
    let seen = connections(bench.server(), 2);
    assert_eq!(seen[1]["headers"]["Authorization"], "Bearer second-secret");
    bench.connected(&supervisor);
    let log = supervisor.log().join("\n");
    assert!(!log.contains("-secret"), "{log}");
    supervisor.stop();
}

// E41, second case
#[test]
fn basic_auth_shows_user_and_password() {
    let mut bench = Bench::new(Kind::OpampGo);
    let password = bench.file("password", "open sesame\n");
    let extensions = format!(
        "{{basicauth/server: {{client_auth: {{username: Aladdin, password_file: '{}'}}}}}}",
        password.display()
    );
    let supervisor = bench.run_with(&settings("basicauth/server", &extensions), &[GATE]);
    bench.connected(&supervisor);
    assert_eq!(
        shown(bench.server())["Authorization"],
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    );
    supervisor.stop();
}

/// An authorization server: gives `token-1`, `token-2` … for the right secret, each for a while.
struct Authorization {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Authorization {
    fn start(life: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        // Ends with the test's process; nobody waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                answer(stream, &told, life);
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, asked: &Mutex<Vec<String>>, life: u64) {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    // The body is the last thing and has no line of its own.
    while !request.contains("grant_type=") {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => request.push_str(&String::from_utf8_lossy(&buffer[..count])),
            _ => return,
        }
    }
    let mut asked = asked.lock().unwrap();
    // Basic of `agent:s3cret`.
    let right = request
        .to_lowercase()
        .contains("authorization: basic ywdlbnq6czncmv0");
    let right = right || request.contains("Basic YWdlbnQ6czNjcmV0");
    asked.push(request);
    let number = asked.len();
    let (status, body) = if right {
        let body = json!({"access_token": format!("token-{number}"), "token_type": "bearer", "expires_in": life});
        ("200 OK", body)
    } else {
        ("401 Unauthorized", json!({"error": "invalid_client"}))
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).ok();
}

fn oauth2(port: u16, secret: &str) -> String {
    format!(
        "{{oauth2client: {{client_id: agent, client_secret: {secret}, scopes: [a, b], \
         endpoint_params: {{audience: fleet}}, token_url: 'http://127.0.0.1:{port}/token', expiry_buffer: 1m}}}}"
    )
}

// E41, third case
#[test]
fn oauth2_token_is_asked_for_once_and_again_when_it_ends() {
    let mut bench = Bench::new(Kind::OpampGo);
    let lasting = Authorization::start(3600);
    let text = settings("oauth2client", &oauth2(lasting.port, "s3cret"));
    let supervisor = bench.run_with(&text, &[GATE]);
    let uid = bench.connected(&supervisor);
    assert_eq!(shown(bench.server())["Authorization"], "Bearer token-1");
    let request = lasting.asked()[0].clone();
    assert!(
        request.contains("grant_type=client_credentials"),
        "{request}"
    );
    assert!(
        request.contains("scope=a%20b") && request.contains("audience=fleet"),
        "{request}"
    );
    bench.server().drop_agent(&uid);
    let seen = connections(bench.server(), 2);
    assert_eq!(seen[1]["headers"]["Authorization"], "Bearer token-1");
    assert_eq!(lasting.asked().len(), 1, "it is kept while it lasts");
    bench.connected(&supervisor);
    // The server refuses it: the next one is a new one.
    bench.server().refuse_with(401);
    bench.server().drop_agent(&uid);
    supervisor.until("rejected", |status| status["link"]["state"] == "rejected");
    bench.server().accept();
    supervisor.stop();

    // One that ends inside the buffer is never used twice.
    let mut bench = Bench::new(Kind::OpampGo);
    let brief = Authorization::start(30);
    let text = settings("oauth2client", &oauth2(brief.port, "s3cret"));
    let supervisor = bench.run_with(&text, &[GATE]);
    let uid = bench.connected(&supervisor);
    bench.server().drop_agent(&uid);
    let seen = connections(bench.server(), 2);
    assert_eq!(seen[1]["headers"]["Authorization"], "Bearer token-2");
    bench.connected(&supervisor);
    supervisor.stop();

    // A wrong secret: the reason is seen, the secret is not.
    let mut bench = Bench::new(Kind::OpampGo);
    let text = settings("oauth2client", &oauth2(brief.port, "wrong-secret"));
    let supervisor = bench.run_with(&text, &[GATE]);
    let status = supervisor.until("rejected", |status| status["link"]["state"] == "rejected");
    let reason = status["link"]["last_error"].as_str().unwrap();
    assert!(
        reason.ends_with("answered 401 (invalid_client)"),
        "{reason}"
    );
    let log = supervisor.log().join("\n");
    assert!(!log.contains("wrong-secret"), "{log}");
    assert!(bench.server().all_connections().is_empty());
    supervisor.stop();
}

// E41, fourth case: what says who we are goes along to where an offer leads.
#[test]
fn authenticator_is_kept_across_an_offer() {
    let mut bench = Bench::new(Kind::OpampGo);
    let second = Server::start(Kind::OpampGo, 0);
    let extensions = "{bearertokenauth: {token: kept-secret}}";
    let supervisor = bench.run_with(&settings("bearertokenauth", extensions), &[GATE]);
    let uid = bench.connected(&supervisor);
    bench.server().offer(json!({
        "uid": uid,
        "hash": "01",
        "destination_endpoint": second.endpoint(),
        "headers": {"X-Offered": "1"},
    }));
    connections(&second, 1);
    assert_eq!(shown(&second)["Authorization"], "Bearer kept-secret");
    assert_eq!(shown(&second)["X-Offered"], "1");

    // A server that names another credential is taken at its word.
    eventually(
        "it is connected there",
        || match second.known(&uid)?["connected"].as_bool() {
            Some(true) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    second.offer(json!({"uid": uid, "hash": "02", "headers": {"Authorization": "Bearer newer"}}));
    let seen = connections(&second, 2);
    assert_eq!(seen[1]["headers"]["Authorization"], "Bearer newer");
    supervisor.stop();
}
