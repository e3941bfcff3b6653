//! Given stored tokens, the environment's, and files of every kind; when a life begins or a call is prepared, then the
//! right token is used and nothing of it is told.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use super::calls::{path, token_of_file};
use super::*;
use crate::config::{OnRejected, Tls, TokenSource};
use crate::engine::message::RegistrationCall;
use crate::sys::durable::Disk as _;
use crate::units::WallTime;

fn settings(token: TokenSource) -> Registration {
    Registration {
        url: Some("http://127.0.0.1:1".to_owned()),
        token,
        seed: false,
        instance_id: None,
        name: None,
        ip_address: None,
        metadata: BTreeMap::new(),
        on_rejected: OnRejected::Hold,
        tls: Tls::default(),
    }
}

fn facts(machine_id: &str) -> HostFacts {
    HostFacts {
        machine_id: machine_id.to_owned(),
        attributes: [("host.name".to_owned(), "h \"1\"".to_owned())].into(),
        is_pid1: false,
    }
}

fn known(state: &Path, machine_id: &str, seed: Option<&str>) -> Known {
    Registrar::establish(
        state,
        Some(&settings(TokenSource::None)),
        &facts(machine_id),
        0x7,
        ProxyRules::default(),
        |name| seed.filter(|_| name == OPAMP_TOKEN).map(str::to_owned),
    )
}

fn credential() -> Credential {
    Credential {
        source: CredentialSource::Registered,
        at: WallTime::from_unix_millis(1),
        expires: None,
        gateway: Some("1".to_owned()),
        org: None,
        endpoint: None,
        management_mode: None,
        unsaved: None,
    }
}

#[tokio::test]
async fn an_issued_token_wins_over_the_environment_and_over_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let none = known(dir.path(), "m1", None);
    assert_eq!(none.credential, None);
    assert_eq!(none.registrar.vault().token(), None);
    let seeded = known(dir.path(), "m1", Some(" seed\n"));
    assert_eq!(seeded.registrar.vault().token(), Some(Secret::new("seed")));
    let source = seeded.credential.unwrap().source;
    assert_eq!(source, CredentialSource::Environment);

    let vault = seeded.registrar.vault();
    let kept = seeded.registrar.keep(Secret::new("issued"), credential());
    assert_eq!(kept.await, Ok(()));
    assert_eq!(vault.token(), Some(Secret::new("issued")));
    let next = known(dir.path(), "m1", Some("seed"));
    assert_eq!(next.registrar.vault().token(), Some(Secret::new("issued")));
    assert_eq!(next.credential, Some(credential()));
    assert!(!format!("{next:?}").contains("issued\""), "{next:?}");
}

#[tokio::test]
async fn a_token_of_another_machine_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let first = known(dir.path(), "m1", None);
    first
        .registrar
        .keep(Secret::new("t"), credential())
        .await
        .unwrap();
    assert_eq!(known(dir.path(), "m2", None).credential, None);
    // A machine id that cannot be read is no other machine.
    assert_eq!(known(dir.path(), "", None).credential, Some(credential()));
}

#[tokio::test]
async fn a_disk_that_refuses_does_not_keep_a_new_token_from_being_used() {
    let dir = tempfile::tempdir().unwrap();
    let known = known(dir.path(), "m1", None);
    // A file where the directory belongs.
    let blocked = dir.path().join("credentials");
    RealDisk.write_file(&blocked, b"", 0o600).unwrap();
    let kept = known
        .registrar
        .keep(Secret::new("issued"), credential())
        .await;
    let reason = kept.unwrap_err();
    assert!(reason.contains("credentials/opamp.json"), "{reason}");
    assert_eq!(known.registrar.vault().token(), Some(Secret::new("issued")));
    std::fs::remove_file(&blocked).unwrap();
    assert_eq!(known.registrar.save_again().await, Ok(credential()));
}

#[test]
fn without_a_registration_nothing_is_taken_from_disk_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    let facts = facts("m1");
    let variable = |_: &str| Some("seed".to_owned());
    let proxies = ProxyRules::default();
    let known = Registrar::establish(dir.path(), None, &facts, 0, proxies, variable);
    assert_eq!((known.credential, known.unreadable), (None, None));
    assert_eq!(known.registrar.vault().token(), None);
}

#[test]
fn a_seed_that_is_no_token_is_not_used_and_a_good_one_says_whose_it_is() {
    assert_eq!(seeded(""), None);
    assert_eq!(seeded("two words"), None);
    assert_eq!(seeded("line\nbreak"), None);
    assert_eq!(seeded("opaque").unwrap().credential.gateway, None);
}

#[test]
fn token_files_are_judged_by_content_and_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let cases: [(&[u8], u32, Result<&str, &str>); 7] = [
        (b" good\n", 0o600, Ok("good")),
        (b"good", 0o644, Ok("good")),
        (b"good", 0o620, Err("can be written by others (mode 0620)")),
        (b"", 0o600, Err("is empty")),
        (b" \n\t", 0o600, Err("is empty")),
        (b"two words", 0o600, Err("more than one word")),
        (b"\xff\xfe", 0o600, Err("holds no text")),
    ];
    for (bytes, mode, wanted) in cases {
        RealDisk.write_file(&path, bytes, 0o600).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        match (token_of_file(&path), wanted) {
            (Ok(token), Ok(wanted)) => assert_eq!(token.expose(), wanted),
            (Err(reason), Err(wanted)) => {
                assert!(reason.contains(wanted), "{reason}");
                assert!(reason.contains("/token"), "{reason}");
            }
            (found, wanted) => panic!("{found:?} instead of {wanted:?}"),
        }
    }
    let missing = token_of_file(&dir.path().join("missing")).unwrap_err();
    assert!(missing.contains("No such file"), "{missing}");
}

#[test]
fn the_body_survives_every_name_and_says_what_this_version_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let registrar = known(dir.path(), "m1", None).registrar;
    let mut settings = settings(TokenSource::None);
    settings.metadata = [("team".to_owned(), "a\n\"b\"".to_owned())].into();
    let body = registrar.body(&settings, &RegistrationCall::Register);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let wanted = json!({
        "name": "h \"1\"",
        "instance_id": "h \"1\"",
        "hostname": "h \"1\"",
        "ip_address": null,
        "metadata": {
            "version": env!("CARGO_PKG_VERSION"),
            "otel_version": "unknown",
            "capabilities": ["reports_status", "accepts_remote_config", "reports_effective_config"],
            "team": "a\n\"b\"",
        },
    });
    assert_eq!(body, wanted);
    let restart = RegistrationCall::Restart {
        gateway: "a/b ?#".to_owned(),
        org: Some("ü".to_owned()),
    };
    assert_eq!(
        path(&restart),
        "/api/v1/gateways/a%2Fb%20%3F%23/restart-registration?org_id=%C3%BC"
    );
    assert!(registrar.body(&settings, &restart).is_empty());
}

#[tokio::test]
async fn without_a_token_nobody_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let registrar = known(dir.path(), "m1", None).registrar;
    let token = TokenSource::File(dir.path().join("missing"));
    let failure = registrar
        .call(&settings(token), &RegistrationCall::Register)
        .await
        .unwrap_err();
    assert_eq!(failure.class, FailureClass::Settings);
    assert!(failure.reason.contains("missing"), "{}", failure.reason);
}
