//! What is reported at each step, and how often.

use super::*;

//
#[test]
fn every_step_is_reported_and_the_last_report_lists_all() {
    let mut bench = Bench::holding([("a", addon(1)), ("b", addon(1))]);
    bench.offer(available(b"next", [("a", addon(1)), ("b", addon(2))]));
    let mut seen = Vec::new();
    loop {
        if let Some(statuses) = bench.statuses() {
            assert_eq!(statuses.server_provided_all_packages_hash, b"next");
            assert_eq!(statuses.packages.len(), 2, "all of them, always");
            for (name, status) in &statuses.packages {
                assert_eq!(*name, status.name);
            }
            let b = &statuses.packages["b"];
            assert_eq!(b.server_offered_hash, addon(2).hash);
            assert_eq!(b.error_message, "");
            seen.push(PackageStatusEnum::try_from(b.status).unwrap());
        }
        let Some(effect) = bench.packages.poll_effect() else {
            break;
        };
        let result = match effect {
            PackageEffect::Download { .. } => PackageResult::Downloaded { sha256: digest(2) },
            PackageEffect::Verify { .. } => PackageResult::Verified,
            _ => PackageResult::Installed,
        };
        bench.answer(effect.ticket(), result);
    }
    assert_eq!(
        seen,
        [
            PackageStatusEnum::Downloading,
            PackageStatusEnum::Installing,
            PackageStatusEnum::Installed
        ]
    );
    assert!(bench.packages.is_done());
}

//
#[test]
fn a_failed_upgrade_keeps_what_is_there_and_a_failed_first_has_nothing() {
    let mut bench = Bench::holding([("a", addon(1))]);
    bench.offer(available(b"next", [("a", addon(2)), ("b", addon(2))]));
    for _ in 0..2 {
        let ticket = bench.download();
        bench.fail(ticket, PackageFailure::lasting("404 Not Found"));
        assert!(matches!(
            bench.packages.poll_effect(),
            Some(PackageEffect::Cancel { .. })
        ));
    }
    let a = bench.status("a");
    assert_eq!(
        (
            a.agent_has_version.as_str(),
            a.server_offered_version.as_str()
        ),
        ("1", "2")
    );
    assert_eq!(a.agent_has_hash, addon(1).hash);
    let b = bench.status("b");
    assert_eq!(
        (b.agent_has_version.as_str(), b.agent_has_hash.len()),
        ("", 0)
    );
    for status in [a, b] {
        assert_eq!(status.status, PackageStatusEnum::InstallFailed as i32);
        assert_eq!(status.server_offered_hash, addon(2).hash);
        assert_eq!(status.error_message, "404 Not Found");
    }
}

//
#[test]
fn success_after_a_failure_takes_its_text_back() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.fail(ticket, PackageFailure::lasting("404"));
    bench.effects();
    bench.offer(available(b"2", [("a", addon(2))]));
    bench.obey();
    let status = bench.status("a");
    assert_eq!((status.status, status.error_message.as_str()), (0, ""));
}

#[test]
fn error_texts_are_bounded_and_printable() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.fail(
        ticket,
        PackageFailure::lasting("x\n\u{1b}[31m".repeat(100_000)),
    );
    let text = bench.status("a").error_message;
    assert!(text.len() <= 1024 && text.len() > 1000, "{}", text.len());
    assert!(!text.chars().any(char::is_control));
}

//
#[test]
fn progress_is_told_at_its_pace_and_gone_with_the_download() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    let first = bench.statuses().unwrap();
    let details = first.packages["a"].download_details.unwrap();
    assert_eq!(
        (details.download_percent, details.download_bytes_per_second),
        (0.0, 0.0)
    );
    let mut told = Vec::new();
    for step in 1..=300 {
        bench.pass(Duration::from_millis(100));
        let received = step * 1000;
        assert!(
            bench
                .packages
                .handle_progress(bench.now, ticket, received, Some(400_000))
        );
        if let Some(statuses) = bench.statuses() {
            told.push((bench.now, statuses.packages["a"].download_details.unwrap()));
        }
    }
    let times: Vec<_> = told.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times, [10, 20, 30]);
    let (_, last) = told[2];
    let wanted = crate::messages::PackageDownloadDetails {
        download_percent: 75.0,
        download_bytes_per_second: 10_000.0,
    };
    assert_eq!(last, wanted);
    // The next state is told at once and has no numbers.
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(1) });
    let statuses = bench.statuses().unwrap();
    assert_eq!(statuses.packages["a"].download_details, None);
    assert!(!bench.packages.handle_progress(bench.now, ticket, 1, None));
}

//
#[test]
fn progress_is_never_told_more_than_once_a_second() {
    let mut config = PackagesConfig::new(7);
    config.progress_interval = Duration::ZERO;
    let mut bench = Bench::with(config);
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.statuses();
    let mut told = 0;
    for step in 1..=50 {
        bench.pass(Duration::from_millis(100));
        bench
            .packages
            .handle_progress(bench.now, ticket, step, Some(100));
        if let Some(due) = bench.packages.poll_timeout() {
            assert_eq!(due <= bench.now, bench.statuses().is_some());
        } else {
            panic!("news that is never due");
        }
        told = bench.now.as_secs();
    }
    assert_eq!(told, 5);
}

// the session keeps statuses back without its bit and refuses offers without theirs.
#[test]
fn a_session_carries_statuses_only_with_their_bit() {
    use crate::frame::Wire as _;
    use crate::messages::{AgentCapabilities, AgentToServer};
    use crate::session::{Session, SessionConfig};

    let mut bench = Bench::holding([("a", addon(1))]);
    bench.packages.set_found(bench.now, "b", Some(local(1)));
    let statuses = bench.statuses().unwrap();
    for (bits, wanted) in [
        (0, None),
        (
            AgentCapabilities::ReportsPackageStatuses.bit(),
            Some(statuses.clone()),
        ),
    ] {
        let mut session = Session::new(SessionConfig::new([7; 16], bits)).unwrap();
        session.set_package_statuses(statuses.clone());
        session.handle_connected(Duration::ZERO);
        let frame = session.poll_transmit(Duration::ZERO).unwrap();
        let sent = AgentToServer::from_wire(&frame[1..]).unwrap();
        assert_eq!(sent.package_statuses, wanted);
    }
}
