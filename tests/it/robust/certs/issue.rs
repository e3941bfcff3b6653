//! Given pebble as the authority; when it issues, is away, rejects nonces, cannot validate, or its challenges' port is
//! taken; then pairs become live and renew by themselves, and each failure is one sentence that costs nothing.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use super::super::rig::{Rig, agent, wait_for, wait_until};
use super::authority::{self, Authority};
use super::{live, read_pair, until_live, web};

/// A rig with one child that uses no certificate, and `web` for `a.test`.
fn rig(prepare: impl FnOnce(&mut Authority), more: &str) -> (Rig, Authority) {
    let rig = Rig::generic();
    let mut authority = Authority::new(&rig);
    prepare(&mut authority);
    let more = if more.is_empty() {
        "domains: [a.test]"
    } else {
        more
    };
    rig.set(&format!("{}{}", agent("one", ""), authority.settings(more)));
    (rig, authority)
}

#[test]
fn a_pair_is_issued_and_kept_for_its_owner_alone() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|_| {}, "");
    authority.start();
    let supervisor = rig.start();
    rig.commit("one");
    let child = rig.child();
    let status = until_live(&rig);
    assert_eq!(status["names"], serde_json::json!(["a.test"]));
    assert_eq!(status["days_left"], 89);
    read_pair(&rig).unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(live(&rig).join("key.pem")), 0o600);
    assert_eq!(mode(rig.state().join("certificates")), 0o700);
    let account = std::fs::read_dir(rig.state().join("certificates"))
        .unwrap()
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("account-"))
        .unwrap();
    assert_eq!(mode(account.path()), 0o600);

    // By hand a new one, at once, with the same account; the child that does not use it is not told.
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.out.contains("live: web serial"), "{}", done.out);
    let renewed = until_live(&rig);
    assert_ne!(renewed["serial"], status["serial"]);
    assert_eq!(rig.child(), child);
    let list = rig.cli(&["certificates", "list"]);
    assert_eq!(list.code, Some(0));
    assert!(
        list.out.contains(renewed["serial"].as_str().unwrap()),
        "{}",
        list.out
    );

    // A restart asks nobody.
    let issued = authority.issued();
    assert_eq!(supervisor.stop().code(), Some(0));
    let _supervisor = rig.start();
    assert_eq!(until_live(&rig)["serial"], renewed["serial"]);
    assert_eq!(authority.issued(), issued);
}

#[test]
fn short_lived_pairs_renew_by_themselves() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|it| it.validity_seconds = 20, "");
    authority.start();
    let _supervisor = rig.start();
    let mut seen = Vec::new();
    wait_until("three pairs one after another", || {
        let pair = read_pair(&rig);
        if let Some(pair) = pair
            && !seen.contains(&pair)
        {
            seen.push(pair);
        }
        seen.len() >= 3
    });
    // At two thirds of twenty seconds each, not as fast as the authority can.
    let issued = authority.issued();
    assert!((3..=4).contains(&issued), "{issued} issued");
    assert_eq!(web(&rig).unwrap()["failures"], 0);
}

#[test]
fn an_authority_that_is_away_is_asked_again_until_it_is_back() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|_| {}, "");
    let _supervisor = rig.start();
    rig.commit("one");
    let child = rig.child();
    let failed = wait_for("a failure", || web(&rig).filter(|web| web["failures"] != 0));
    let words = failed["last_error"].as_str().unwrap();
    assert!(
        words.starts_with("open the account at https://localhost:"),
        "{words}"
    );
    assert!(words.contains("Connection refused"), "{words}");
    assert_eq!(failed["state"], "waiting");
    let done = rig.cli(&["certificates", "renew", "web", "--wait"]);
    assert_eq!(done.code, Some(10), "{}", done.err);
    assert!(done.err.contains("Connection refused"), "{}", done.err);
    authority.start();
    until_live(&rig);
    assert_eq!(rig.child(), child, "telemetry goes on");
    // It comes back without its memory: a new account, a new pair.
    authority.stop();
    authority.start();
    let done = rig.cli(&["certificates", "renew", "--wait"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
}

#[test]
fn rejected_nonces_are_lived_with() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|it| it.rejected_nonces = 30, "");
    authority.start();
    let _supervisor = rig.start();
    until_live(&rig);
    read_pair(&rig).unwrap();
}

#[test]
fn a_failed_validation_is_told_in_the_authoritys_words() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|it| it.found_at = "127.0.0.99", "");
    authority.start();
    let _supervisor = rig.start();
    let failed = wait_for("a failure", || web(&rig).filter(|web| web["failures"] != 0));
    let words = failed["last_error"].as_str().unwrap();
    assert!(
        words.starts_with("prove control of the domain at https://localhost:")
            && words.contains("a.test: ")
            && words.contains("127.0.0.99"),
        "{words}"
    );
    let health = rig.ask("GET", "/health", None).unwrap().1;
    assert_eq!(health["components"]["certificate.web"]["status"], "error");
    authority.place("a.test", "127.0.0.1");
    until_live(&rig);
    let health = rig.ask("GET", "/health", None).unwrap().1;
    assert_eq!(health["components"]["certificate.web"]["status"], "ok");
}

#[test]
fn a_taken_port_is_told_with_its_holder() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|_| {}, "");
    authority.start();
    let taken = TcpListener::bind(("127.0.0.1", authority.challenges)).unwrap();
    let _supervisor = rig.start();
    let failed = wait_for("a failure", || web(&rig).filter(|web| web["failures"] != 0));
    let words = failed["last_error"].as_str().unwrap();
    let us = format!("(pid {})", std::process::id());
    assert!(
        words.starts_with("listen for challenges on 127.0.0.1:"),
        "{words}"
    );
    assert!(words.contains("Address already in use"), "{words}");
    assert!(words.contains(&us), "{words}");
    drop(taken);
    until_live(&rig);
    // Free again as soon as the order is over.
    TcpListener::bind(("127.0.0.1", authority.challenges)).unwrap();
}

#[test]
fn an_authority_with_an_unknown_root_is_not_trusted() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|_| {}, "");
    authority.start();
    let settings = std::fs::read_to_string(rig.settings()).unwrap();
    let without: Vec<&str> = settings
        .lines()
        .filter(|line| !line.contains("ca_file"))
        .collect();
    rig.write("supervisor.yaml", &(without.join("\n") + "\n"));
    let _supervisor = rig.start();
    let failed = wait_for("a failure", || web(&rig).filter(|web| web["failures"] != 0));
    let words = failed["last_error"].as_str().unwrap();
    assert!(words.contains("UnknownIssuer"), "{words}");
    assert_eq!(authority.issued(), 0);
}

#[test]
fn domain_follows_the_bundle() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|_| {}, "domains_from: {agent: one}");
    authority.start();
    let _supervisor = rig.start();
    rig.commit("no domain");
    assert_eq!(web(&rig).unwrap()["state"], "idle");
    let offer = |line: &str, domain: &str| {
        let files = [("config.yaml", line), ("ssl_certificate_host.txt", domain)];
        assert_eq!(rig.offer(&files).0, 202);
        wait_until("the new config", || {
            rig.running("one").as_deref() == Some(line.trim())
        });
    };
    offer("first\n", "a.test\n");
    let first = until_live(&rig);
    assert_eq!(first["names"], serde_json::json!(["a.test"]));
    offer("second\n", "B.test\nc.test\n");
    let second = until_live(&rig);
    let mut names: Vec<&str> = second["names"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["b.test", "c.test"]);
    // Back again: the stored pair is taken up, nobody is asked.
    let issued = authority.issued();
    offer("third\n", "a.test\n");
    assert_eq!(until_live(&rig)["serial"], first["serial"]);
    assert_eq!(authority.issued(), issued);
    // Without a domain the pair stays and renewals stop.
    rig.commit("fourth");
    let last = wait_for("no domain", || {
        web(&rig).filter(|web| web["domains"] == serde_json::json!([]))
    });
    assert_eq!(last["serial"], first["serial"]);
    let done = rig.cli(&["certificates", "renew", "web"]);
    assert_eq!(done.code, Some(7), "{}", done.err);
    assert!(
        done.err.contains("no bundle names a domain"),
        "{}",
        done.err
    );
}

#[test]
fn doctor_asks_the_authority_for_its_directory_and_orders_nothing() {
    if !authority::is_there() {
        return;
    }
    let (rig, mut authority) = rig(|_| {}, "");
    let away = rig.cli(&["doctor"]);
    assert_eq!(away.code, Some(1));
    assert!(
        away.out.contains("certificate authority") && away.out.contains("cannot be reached"),
        "{}",
        away.out
    );
    authority.start();
    let there = rig.cli(&["doctor"]);
    assert!(
        there.out.contains("/dir shows its directory"),
        "{}",
        there.out
    );
    assert_eq!(there.code, Some(0), "{}", there.out);
    let settings = std::fs::read_to_string(rig.settings()).unwrap();
    rig.write("supervisor.yaml", &settings.replace("/dir\n", "/nowhere\n"));
    let wrong = rig.cli(&["doctor"]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.out.contains("shows no directory of an authority"),
        "{}",
        wrong.out
    );
    // The root is not that of the system.
    let without: Vec<&str> = settings
        .lines()
        .filter(|line| !line.contains("ca_file"))
        .collect();
    rig.write("supervisor.yaml", &(without.join("\n") + "\n"));
    let unknown = rig.cli(&["doctor"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.out.contains("UnknownIssuer"), "{}", unknown.out);
    assert_eq!(authority.issued(), 0);
    assert!(!rig.state().exists(), "no account was made");
}
