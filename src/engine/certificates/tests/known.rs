//! Given what an engine knows of certificates; when a config names one in any way; then it is known which is used,
//! which is waited for, and which no waiting will bring.

use std::path::PathBuf;

use super::{DAY, EPOCH_MS, domain, machine, pair, settings};
use crate::config::{self, Agent, Certificate, Domains, Environment, Overrides};
use crate::engine::certificates::{Certificates, CertificatesSetup, Known, KnownCertificate};
use crate::engine::message::{
    CertificateOrder, CertificateWork, LayerKind, Pair, PairId, RevisionFile,
};
use crate::units::WallTime;

struct Nothing;

impl Environment for Nothing {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        Err(std::io::Error::other(path.to_owned()))
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }
}

fn agent(more: &str) -> Agent {
    let text = format!("agents: {{it: {{profile: generic, executable: /bin/sh{more}}}}}\n");
    let config = config::load("test", &text, &Nothing, &Overrides::default());
    config
        .unwrap_or_else(|errors| panic!("{errors}"))
        .agents
        .remove(0)
}

fn file(layer: LayerKind, source: &str, text: &[u8]) -> RevisionFile {
    RevisionFile {
        path: source.to_owned(),
        layer,
        source: source.to_owned(),
        content_type: String::new(),
        bytes: text.to_vec(),
    }
}

fn offered(text: &str) -> Vec<RevisionFile> {
    vec![file(LayerKind::Remote, "a", text.as_bytes())]
}

fn entry(settings: Certificate, live: Option<Pair>) -> KnownCertificate {
    KnownCertificate {
        name: settings.name.clone(),
        settings,
        live,
        error: String::new(),
    }
}

fn known_of(entries: Vec<KnownCertificate>) -> Known {
    Known::new("/s/certificates".as_ref(), entries)
}

/// `web` is live until a day after the beginning, `api` has no pair, `bundle` follows an entry of the agent.
fn three() -> Known {
    let mut bundle = settings("bundle");
    bundle.domains = Domains::FromBundle {
        agent: "it".parse().unwrap(),
        file: "domains".to_owned(),
    };
    known_of(vec![
        entry(settings("web"), Some(pair("01", 0, DAY))),
        entry(settings("api"), None),
        entry(bundle, Some(pair("02", 0, 2 * DAY))),
    ])
}

fn at(millis: u64) -> WallTime {
    WallTime::from_unix_millis(EPOCH_MS + millis)
}

fn missing(known: &Known, agent: &Agent, files: &[RevisionFile], millis: u64) -> String {
    match known.missing(agent, files, at(millis)) {
        Ok(missing) => {
            let names = missing.iter().map(|entry| entry.name.as_str());
            names.collect::<Vec<_>>().join(" ")
        }
        Err(reason) => format!("! {reason}"),
    }
}

fn used(known: &Known, agent: &Agent, files: &[RevisionFile]) -> String {
    let names = known.used_by(agent, files).map(|entry| entry.name.as_str());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn config_uses_the_certificates_that_it_names_in_any_of_the_ways() {
    let (known, it) = (three(), agent(""));
    for (text, wanted) in [
        ("nothing", ""),
        ("/s/certificates/web/current/key.pem", "web"),
        ("${ADJUTANT_CERTIFICATES_DIR}/api/current/x", "api"),
        ("${env:ADJUTANT_CERTIFICATES_DIR}/api/current/x", "api"),
        ("$ADJUTANT_CERTIFICATES_DIR/web/current/x", "web"),
        (
            "/s/certificates/web/current/a /s/certificates/api/current/b",
            "api web",
        ),
        (
            "/s/certificates/web/current/a, /s/certificates/web/current/b",
            "web",
        ),
        ("/s/certificates/web/other/a", ""),
        ("/s/certificates/../web/current/a", ""),
        ("/s/certificates/web", ""),
        ("/else/certificates/web/current/a", ""),
    ] {
        assert_eq!(used(&known, &it, &offered(text)), wanted, "{text}");
    }
    let path = b"/s/certificates/web/current/x";
    for (layer, wanted) in [
        (LayerKind::Local, "web"),
        (LayerKind::Remote, "web"),
        (LayerKind::Generated, ""),
        (LayerKind::Marker, ""),
    ] {
        assert_eq!(
            used(&known, &it, &[file(layer, "a", path)]),
            wanted,
            "{layer:?}"
        );
    }
    let by_argument = agent(", args: [--cert=/s/certificates/api/current/x]");
    assert_eq!(used(&known, &by_argument, &[]), "api");
    let by_variable = agent(", env: {CERT: /s/certificates/web/current/x}");
    assert_eq!(used(&known, &by_variable, &[]), "web");
    let mut others = settings("web");
    others.agents = Some(vec!["another".parse().unwrap()]);
    let mut ours = settings("api");
    ours.agents = Some(vec!["it".parse().unwrap()]);
    let told = known_of(vec![entry(others, None), entry(ours, None)]);
    let both = "/s/certificates/web/current/a /s/certificates/api/current/b";
    assert_eq!(used(&told, &it, &offered(both)), "api");
    assert_eq!(used(&told, &it, &[]), "api");
}

#[test]
fn config_waits_for_what_is_not_there_or_is_for_other_domains() {
    let (known, it) = (three(), agent(""));
    let web = offered("/s/certificates/web/current/x");
    assert_eq!(missing(&known, &it, &web, DAY - 1), "");
    assert_eq!(missing(&known, &it, &web, DAY), "web");
    assert_eq!(
        missing(&known, &it, &offered("/s/certificates/api/current/x"), 0),
        "api"
    );
    assert_eq!(missing(&known, &it, &[], 9 * DAY), "");
    let unknown = offered("/s/certificates/nobodys/current/x");
    let wanted = "! the config names the certificate \"nobodys\", and `certificates:` of the settings has none of \
                  that name; there are: api, bundle, web";
    assert_eq!(missing(&known, &it, &unknown, 0), wanted);
    let none = known_of(Vec::new());
    assert_eq!(missing(&none, &it, &unknown, 0), "");
    assert_eq!(used(&none, &it, &unknown), "");
    // The entry of a bundle that names domains.
    let bundle = |layer, source: &str, text: &[u8]| vec![file(layer, source, text)];
    for (layer, source, text, wanted, brings) in [
        (LayerKind::Remote, "domains", &b"a.test\n"[..], "", "bundle"),
        (
            LayerKind::Remote,
            "domains",
            b"a.test\nb.test\n",
            "bundle",
            "bundle",
        ),
        (LayerKind::Remote, "domains", b" \n", "", ""),
        (LayerKind::Remote, "else", b"b.test\n", "", ""),
        (LayerKind::Local, "domains", b"b.test\n", "", ""),
    ] {
        let files = bundle(layer, source, text);
        assert_eq!(
            missing(&known, &it, &files, 0),
            wanted,
            "{layer:?} {source}"
        );
        assert_eq!(used(&known, &it, &files), brings, "{layer:?} {source}");
    }
    let broken = bundle(LayerKind::Remote, "domains", &[0xff]);
    assert_eq!(
        missing(&known, &it, &broken, 0),
        "! file \"domains\": it is not text"
    );
    let named = bundle(LayerKind::Remote, "domains", b"a.test\n");
    assert_eq!(missing(&known, &it, &named, 2 * DAY), "bundle");
}

#[test]
fn nothing_known_is_told_from_nothing_there() {
    assert!(!Known::default().says_none());
    assert!(known_of(Vec::new()).says_none());
    assert!(!three().says_none());
    assert!(!machine(&["web"]).are_none());
    assert!(machine(&[]).are_none());
    let mut leaves = Certificates::new(CertificatesSetup::default());
    assert!(leaves.are_none());
    leaves.set(vec![settings("web")]);
    assert!(!leaves.are_none());
}

#[test]
fn pairs_are_named_by_serial_and_eight_digits() {
    for (text, good) in [
        ("01-00112233", true),
        ("0aF-0011aaBB", true),
        ("01-0011223", false),
        ("01-001122334", false),
        ("01-0011223x", false),
        ("0x-00112233", false),
        ("-00112233", false),
        ("01-", false),
        ("0100112233", false),
    ] {
        let read = text.parse::<PairId>().ok();
        assert_eq!(
            read.as_ref().map(ToString::to_string).as_deref(),
            good.then_some(text),
            "{text}"
        );
    }
    let (long, longer) = ("0".repeat(64), "0".repeat(65));
    assert!(format!("{long}-00112233").parse::<PairId>().is_ok());
    assert!(format!("{longer}-00112233").parse::<PairId>().is_err());
    assert_eq!(PairId::new("0a", "00112233445566").as_str(), "0a-00112233");
}

#[test]
fn pair_is_for_all_of_the_domains_or_for_none() {
    let mut wide = pair("01", 0, DAY);
    wide.names = vec!["a.test".to_owned(), "*.b.test".to_owned()];
    for (domains, covers) in [
        (vec![], true),
        (vec!["a.test"], true),
        (vec!["x.b.test", "a.test"], true),
        (vec!["a.test", "c.test"], false),
        (vec!["b.test"], false),
    ] {
        let wanted: Vec<_> = domains.iter().map(|name| domain(name)).collect();
        assert_eq!(wide.covers(&wanted), covers, "{domains:?}");
    }
    assert!(CertificateWork::Look.is_disk());
    let config::CertificateSource::Acme(acme) = settings("web").source else {
        panic!("these are of an authority")
    };
    let order = CertificateOrder {
        acme,
        domains: Vec::new(),
    };
    assert!(!CertificateWork::Order(Box::new(order)).is_disk());
}
