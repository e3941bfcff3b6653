//! Given `healthcheck.endpoint` in the settings,
//! when it is asked, with a server and without one,
//! then `/health` answers 2xx: it is about the supervisor, not about those it speaks to.

use std::net::{Ipv4Addr, SocketAddr};

use super::bench::{AgentForm, Bench, Reload};
use super::on_both_servers;
use crate::fleet::Kind;
use crate::peers::{Door, eventually, free_port};

on_both_servers!(health_endpoint_answers);
on_both_servers!(health_endpoint_answers_without_a_server);

fn settings(port: u16) -> AgentForm {
    AgentForm {
        more: format!("healthcheck: {{endpoint: '127.0.0.1:{port}'}}\n"),
        ..AgentForm::with_remote(Reload::Restart)
    }
}

fn answers(port: u16) {
    let door = Door::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    eventually("the health endpoint answers", || {
        let answer = door.get("/health")?;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
    assert_eq!(
        door.get("/status").unwrap().status,
        404,
        "health and nothing else"
    );
}

// E33
fn health_endpoint_answers(kind: Kind) {
    let mut bench = Bench::new(kind);
    let port = free_port();
    let supervisor = bench.run(&settings(port));
    bench.connected(&supervisor);
    answers(port);
}

// E34
fn health_endpoint_answers_without_a_server(kind: Kind) {
    let mut bench = Bench::without_server(kind);
    let port = free_port();
    let supervisor = bench.run_alone(&settings(port), free_port());
    supervisor.until("no link", |status| {
        status["link"]["attempt"].as_u64() > Some(0)
    });
    answers(port);
}
