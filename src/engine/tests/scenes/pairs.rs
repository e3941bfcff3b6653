//! What becomes of a child whose certificate is there, is not there yet, is renewed, fails or expires.

use std::time::Duration;

use crate::config::{Certificate, CertificateSource, Domains};
use crate::engine::certificates::{Certificates, CertificatesSetup, Known};
use crate::engine::message::{
    CertificateDone, CertificateFault, CertificateFaultKind, Effect, LocalEvent, Pair, PairId,
    StoredPairs,
};
use crate::engine::tests::rig::Bench;
use crate::units::{CertificateName, Ticket, WallTime};

const USES: &str = "receivers: {tls: {cert_file: /s/certificates/web/current/fullchain.pem}}\n";
const HUP: &str = "apply: {probation: 10s, reload: hup, proof_timeout: 6s}";

fn web() -> CertificateName {
    "web".parse().unwrap()
}

/// What a host knows of a certificate that ends so many seconds after the beginning, or of one that has no pair.
fn known(now: crate::units::Now, ends_s: Option<u64>, error: Option<&str>) -> Known {
    let settings = |name: &str| Certificate {
        name: name.parse().unwrap(),
        source: CertificateSource::Files {
            certificate: "/etc/web.pem".into(),
            key: "/etc/web.key".into(),
        },
        domains: Domains::Fixed(Vec::new()),
        agents: None,
        check_interval: Duration::from_mins(1),
        renew_percent: 66,
        retry_delay: Duration::from_mins(15),
    };
    let mut machine = Certificates::new(CertificatesSetup {
        list: vec![settings("web"), settings("unused")],
        directory: "/s/certificates".into(),
        seed: 7,
    });
    let answer = |machine: &mut Certificates, done: Result<CertificateDone, CertificateFault>| {
        let effects = machine.drive(now).effects;
        let ticket = effects.iter().find_map(|effect| match effect {
            Effect::Certificate { ticket, name, .. } if *name == web() => Some(*ticket),
            _ => None,
        });
        machine.answered(now, ticket.unwrap_or(Ticket(0)), done);
    };
    let pairs = ends_s.map(|ends_s| Pair {
        id: PairId::new("01", "0011223344"),
        serial: "01".to_owned(),
        names: vec!["a.test".to_owned()],
        not_before: WallTime::from_unix_millis(1_800_000_000_000),
        not_after: WallTime::from_unix_millis(1_800_000_000_000 + ends_s * 1000),
    });
    let found = StoredPairs {
        current: pairs.as_ref().map(|pair| pair.id.clone()),
        pairs: pairs.into_iter().collect(),
        ..StoredPairs::default()
    };
    answer(&mut machine, Ok(CertificateDone::Found(found)));
    if let Some(error) = error {
        let fault = CertificateFault {
            kind: CertificateFaultKind::Disk,
            reason: error.to_owned(),
            retry_after: None,
        };
        answer(&mut machine, Err(fault));
    }
    machine.known()
}

impl Bench {
    fn certificate(&mut self, ends_s: Option<u64>, error: Option<&str>, renewed: bool) {
        let known = known(self.clock(), ends_s, error);
        let renewed: Vec<_> = renewed.then(web).into_iter().collect();
        self.with(|engine, now| engine.set_certificates(now, &known, &renewed));
    }
}

#[test]
fn child_is_told_of_each_new_pair_once_and_restarted_where_it_shows_nothing() {
    let mut bench = Bench::told(&format!("profile: asked, {HUP}"), &[]);
    bench.prepare();
    let nothing = known(bench.clock(), None, None);
    bench.engine.know_certificates(&nothing);
    bench.chapter("It is not there yet");
    bench.start();
    bench.offer("o1", USES);
    bench.run_s(3);
    bench.chapter("It comes");
    bench.certificate(Some(900), None, true);
    bench.run_s(20);
    bench.chapter("Another comes, and the child shows that it has read it");
    bench.certificate(Some(1000), None, true);
    bench.run_s(4);
    bench.chapter("Another is no news");
    bench.certificate(Some(1000), Some("no space"), false);
    bench.run_s(4);
    bench.chapter("Two come, and the child shows nothing");
    bench.proves = 1;
    bench.certificate(Some(1000), None, true);
    bench.run_s(2);
    bench.certificate(Some(1000), None, true);
    bench.run_s(30);
    bench.chapter("One comes while a config is tried");
    bench.proves = 0;
    bench.offer("o2", &format!("{USES}exporters: {{more: {{}}}}\n"));
    bench.run(Duration::from_millis(30));
    bench.certificate(Some(1000), None, true);
    bench.run_s(40);
    bench.chapter("One comes while the child is down");
    bench.kill();
    bench.run(Duration::from_millis(10));
    bench.certificate(Some(1000), None, true);
    bench.run_s(20);
    bench.chapter("It fails to be renewed, and expires");
    bench.certificate(Some(300), Some("refused\u{7}"), false);
    bench.run_s(300);
    bench.certificate(Some(300), None, false);
    bench.run_s(2);
    bench.chapter("One comes at the moment of a stop");
    bench.certificate(Some(1000), None, true);
    bench.stops();
    bench.is("pairs", include_str!("pairs.txt"));
}

#[test]
fn child_that_is_asked_for_nothing_gets_one_hup() {
    let bench = told_twice(&format!("profile: linked, {HUP}"), true);
    bench.is("pairs_by_hup", include_str!("pairs_by_hup.txt"));
}

#[test]
fn child_that_reads_nothing_again_gets_one_restart() {
    let bench = told_twice("profile: layered, apply: {probation: 10s}", false);
    bench.is("pairs_by_restart", include_str!("pairs_by_restart.txt"));
}

/// New pairs while the child is not well yet, and when nothing moves.
fn told_twice(settings: &str, proves: bool) -> Bench {
    let mut bench = Bench::told(settings, &[]);
    bench.prepare();
    let there = known(bench.clock(), Some(900), None);
    bench.engine.know_certificates(&there);
    bench.start();
    bench.run_s(1);
    bench.offer("o1", USES);
    bench.run_s(1);
    bench.chapter("It is up, and not well yet");
    bench.certificate(Some(1000), None, true);
    bench.run_s(1);
    if proves {
        bench.child_opens(1);
        bench.child_proves(1);
    }
    bench.run_s(30);
    bench.chapter("One comes when nothing moves");
    bench.certificate(Some(1000), None, true);
    bench.run_s(30);
    bench
}

const TOLD: &str = "child told about a new certificate";

/// Its child uses the certificate, and nothing moves.
fn calm(settings: &str) -> Bench {
    let mut bench = Bench::new(settings, &[]);
    bench.prepare();
    let there = known(bench.clock(), Some(900), None);
    bench.engine.know_certificates(&there);
    bench.start();
    bench.offer("o1", USES);
    bench.run_s(1);
    bench
}

#[test]
fn child_that_could_get_a_hup_is_restarted_where_the_settings_reload_by_restart() {
    let mut bench = calm("profile: asked, apply: {probation: 10s, reload: restart}");
    bench.run_s(30);
    assert_eq!(bench.started.len(), 1);
    bench.certificate(Some(1000), None, true);
    bench.run_s(30);
    assert_eq!((bench.noted(TOLD), bench.started.len()), (1, 2));
}

#[test]
fn child_that_just_came_up_gets_its_hup_when_it_is_well_or_has_had_its_time() {
    for says in [true, false] {
        let mut bench = calm(&format!("profile: linked, {HUP}"));
        bench.child_opens(1);
        bench.child_proves(1);
        bench.child_is_well(1);
        bench.run_s(30);
        bench.kill();
        bench.child(1, LocalEvent::Closed);
        while bench.started.len() == 1 {
            bench.run(Duration::from_millis(1));
        }
        bench.run(Duration::from_millis(1));
        let up = bench.clock().mono;
        bench.certificate(Some(1000), None, true);
        bench.run_s(4);
        assert_eq!(bench.noted(TOLD), 0, "it may not have its handler yet");
        if says {
            bench.child_opens(2);
            bench.child_is_well(2);
        } else {
            let rest = Duration::from_secs(6).saturating_sub(bench.clock().mono.since(up));
            bench.run(rest.saturating_sub(Duration::from_millis(1)));
            assert_eq!(bench.noted(TOLD), 0);
            bench.run(Duration::from_millis(2));
        }
        assert_eq!(bench.noted(TOLD), 1, "{says}");
        assert_eq!(bench.started.len(), 2, "{says}");
    }
}

#[test]
fn pair_is_valid_until_the_moment_at_which_it_ends() {
    let bench = calm("profile: layered, apply: {probation: 10s}");
    let ends = WallTime::from_unix_millis(1_800_000_000_000 + 900_000);
    for (before, healthy, status) in [
        (1, true, format!("valid until {ends}")),
        (0, false, format!("expired {ends}")),
    ] {
        let now = crate::units::Now {
            wall: WallTime::from_unix_millis(ends.unix_millis() - before),
            ..bench.clock()
        };
        let told = bench.engine.certificate_health(now);
        let told: Vec<_> = told
            .iter()
            .map(|(_, it)| (it.healthy, &it.status))
            .collect();
        assert_eq!(told, [(healthy, &status)]);
    }
}
