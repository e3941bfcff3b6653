//! Given nginx as an agent under `generic`, its config offered before there is a pair, and a proof that compares the
//! served certificate with the live one; when the pair arrives and later changes; then the config is applied without
//! a new push, and the new pair is served after a HUP by the same process, with a download under way undisturbed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use super::super::proc;
use super::super::rig::{Rig, have, lacks, wait_for, wait_until};
use super::authority::{self, Authority, free_ports};
use super::until_live;

/// Larger than what sockets buffer on the way.
const BODY_BYTES: usize = 3 * 1024 * 1024;

fn settings(port: u16) -> String {
    format!(
        "agents:
  one:
    profile: generic
    executable: /usr/sbin/nginx
    main_file: nginx.conf
    args: [-c, '{{config_file}}', -e, stderr, -g, 'daemon off; user root;']
    apply: {{reload: hup, probation: 200ms, proof_timeout: 20s}}
    proof: {{kind: exec, command: ['{{dir}}/served-is-live', '{port}']}}
"
    )
}

const PROOF: &str = r#"#!/bin/sh
served=$(openssl s_client -connect 127.0.0.1:$1 -servername a.test </dev/null 2>/dev/null | openssl x509 -noout -serial)
live=$(openssl x509 -noout -serial -in "$ADJUTANT_CERTIFICATES_DIR/web/current/fullchain.pem")
[ -n "$live" ] && [ "$served" = "$live" ]
"#;

fn config(rig: &Rig, port: u16) -> String {
    let (state, dir) = (rig.state(), rig.path().to_owned());
    let (state, dir) = (state.display(), dir.display());
    format!(
        "pid {dir}/nginx.pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {state}/certificates/web/current/fullchain.pem;
    ssl_certificate_key {state}/certificates/web/current/key.pem;
    location / {{ root {dir}/www; }}
  }}
}}
"
    )
}

/// The serial that is served to a new connection.
fn served(port: u16) -> Option<String> {
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{port} -servername a.test </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let serial = text.trim().strip_prefix("serial=")?;
    Some(serial.trim_start_matches('0').to_ascii_lowercase())
}

fn serial(status: &serde_json::Value) -> String {
    let serial = status["serial"].as_str().unwrap();
    serial.trim_start_matches('0').to_owned()
}

#[test]
fn nginx_serves_the_new_pair_after_a_hup_and_drops_nobody() {
    if !authority::is_there() || !["nginx", "curl"].iter().all(|it| have(lacks(it))) {
        return;
    }
    let rig = Rig::generic();
    let mut authority = Authority::new(&rig);
    let [port] = free_ports();
    rig.program("served-is-live", PROOF);
    rig.write("www/large", &"x".repeat(BODY_BYTES));
    rig.set(&format!(
        "{}{}",
        settings(port),
        authority.settings("domains: [a.test]")
    ));
    let supervisor = rig.start();

    // Nobody to ask yet: the config waits, and its validator is not run on missing files.
    assert_eq!(rig.offer(&[("nginx.conf", &config(&rig, port))]).0, 202);
    let waiting = wait_for("the config to wait", || {
        rig.agent_status("one")
            .filter(|agent| agent["phase"] == "waiting for certificate")
    });
    assert!(
        waiting["phase_error"]
            .as_str()
            .unwrap()
            .starts_with("certificate web"),
        "{waiting}"
    );
    assert_eq!(waiting["history"][0]["step"], "awaiting");
    // It waits over a restart, too.
    supervisor.kill();
    let supervisor = rig.start();
    wait_until("the config to wait again", || {
        rig.agent_status("one")
            .is_some_and(|agent| agent["phase"] == "waiting for certificate")
    });
    authority.start();
    let first = until_live(&rig);
    wait_until("the config to be committed", || {
        rig.agent_status("one")
            .is_some_and(|agent| agent["phase"] == "committed")
    });
    assert_eq!(served(port), Some(serial(&first)));
    let nginx = rig.agent_status("one").unwrap()["child"]["pid"].clone();

    // A download that is under way when the pair changes.
    let mut download = Command::new("curl")
        .args([
            "--insecure",
            "--silent",
            "--limit-rate",
            "1M",
            "--output",
            "-",
        ])
        .arg(format!("https://127.0.0.1:{port}/large"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut body = BufReader::new(download.stdout.take().unwrap());
    let begun = body.fill_buf().unwrap().len();
    assert!(begun > 0);
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    let second = until_live(&rig);
    assert_ne!(second["serial"], first["serial"]);
    wait_until("the new pair to be served", || {
        served(port) == Some(serial(&second))
    });
    supervisor.logs("new certificate taken up");
    assert_eq!(
        rig.agent_status("one").unwrap()["child"]["pid"],
        nginx,
        "no restart"
    );
    let mut received = Vec::new();
    body.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), BODY_BYTES, "the download was cut");
    assert!(download.wait().unwrap().success());
    let log = supervisor.log();
    assert_eq!(
        log.matches("child told about a new certificate").count(),
        1,
        "{log}"
    );
    assert!(proc::is_alive(
        u32::try_from(nginx.as_u64().unwrap()).unwrap()
    ));
    std::io::stderr().flush().unwrap();
}

#[test]
fn nginx_that_does_not_take_up_the_pair_is_restarted() {
    if !authority::is_there() || !have(lacks("nginx")) {
        return;
    }
    let rig = Rig::generic();
    let mut authority = Authority::new(&rig);
    let [port] = free_ports();
    rig.program("served-is-live", PROOF);
    // The test breaks the running revision by hand, which nobody may put right.
    let quick = settings(port).replace("proof_timeout: 20s", "proof_timeout: 3s, drift: off");
    rig.set(&format!(
        "{quick}{}",
        authority.settings("domains: [a.test]")
    ));
    authority.start();
    let supervisor = rig.start();
    assert_eq!(rig.offer(&[("nginx.conf", &config(&rig, port))]).0, 202);
    wait_until("the config to be committed", || {
        rig.agent_status("one")
            .is_some_and(|agent| agent["phase"] == "committed")
    });
    // A file that nginx includes nowhere and cannot read makes its reload fail: the old workers serve on.
    let pid = rig.agent_status("one").unwrap()["child"]["pid"]
        .as_u64()
        .unwrap();
    let broken = format!("{}\nbroken;\n", config(&rig, port));
    let file = rig.agent("one").join("current/nginx.conf");
    let whole = std::fs::read_to_string(&file).unwrap();
    rig.write("broken.conf", &broken);
    std::fs::copy(rig.path().join("broken.conf"), &file).unwrap();
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(
        done.code,
        Some(0),
        "the renewal itself stands: {}",
        done.err
    );
    supervisor.logs("child told about a new certificate");
    rig.write("whole.conf", &whole);
    std::fs::copy(rig.path().join("whole.conf"), &file).unwrap();
    let live = until_live(&rig);
    wait_until("the new pair to be served", || {
        served(port) == Some(serial(&live))
    });
    let log = supervisor.log();
    assert!(
        log.matches("child told about a new certificate").count() >= 2,
        "{log}"
    );
    _ = pid;
}
