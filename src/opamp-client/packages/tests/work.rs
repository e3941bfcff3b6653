//! How a piece of work goes: what is fetched, verified, tried again, given up.

use super::*;

fn lasting(message: &str) -> PackageFailure {
    PackageFailure::lasting(message)
}

fn transient(message: &str) -> PackageFailure {
    PackageFailure::transient(message)
}

//
#[test]
fn a_file_of_another_digest_is_never_installed() {
    let mut bench = Bench::new();
    bench.offer(available(b"h", [("a", addon(1))]));
    let ticket = bench.download();
    let mut flipped = digest(1);
    flipped[31] ^= 1;
    bench.answer(ticket, PackageResult::Downloaded { sha256: flipped });
    assert_eq!(bench.effects(), [PackageEffect::Cancel { ticket }]);
    assert_eq!(bench.word("a"), PackageStatusEnum::InstallFailed);
    assert_eq!(
        bench.status("a").error_message,
        "downloaded file differs from the offered digest"
    );
}

// what is no SHA-256 is compared with what is held and else taken as it is.
#[test]
fn a_digest_of_another_length_is_compared_only() {
    let mut short = addon(1);
    short.file.as_mut().unwrap().content_hash = vec![1, 2];
    let mut bench = Bench::new();
    bench.offer(available(b"h", [("a", short.clone())]));
    assert_eq!(bench.obey(), ["download a", "verify a", "install a 1"]);
    short.hash = b"other".to_vec();
    bench.offer(available(b"i", [("a", short)]));
    assert_eq!(bench.obey(), [""; 0]);
}

// two bytes of the server's choice are no proof of anything.
#[test]
fn a_digest_that_is_no_sha_256_counts_only_beside_a_verified_signature() {
    let mut short = addon(1);
    let file = short.file.as_mut().unwrap();
    file.content_hash = vec![1, 2];
    file.signature.clear();
    for verification in [Verification::WhereSigned, Verification::Never] {
        for without_digest in [false, true] {
            let mut bench = Bench::new();
            let mut config = PackagesConfig::new(7);
            config.verification = verification;
            config.without_digest = without_digest;
            bench.packages = Packages::new(config);
            bench.offer(available(b"h", [("a", short.clone())]));
            assert_eq!(bench.obey().is_empty(), !without_digest, "{verification:?}");
            if !without_digest {
                assert_eq!(bench.word("a"), PackageStatusEnum::InstallFailed);
                let reason = bench.status("a").error_message;
                assert!(reason.contains("no SHA-256"), "{reason}");
            }
        }
    }
}

//
#[test]
fn what_could_never_be_installed_is_not_even_fetched() {
    type Change = fn(&mut crate::messages::DownloadableFile);
    let cases: [(Change, &str); 6] = [
        (|file| file.signature.clear(), "offered file is not signed"),
        (
            |file| file.content_hash.clear(),
            "offered file has no digest",
        ),
        (
            |file| file.download_url.clear(),
            "offered file has no http or https URL",
        ),
        (
            |file| file.download_url = "file:///etc/shadow".to_owned(),
            "offered file has no http or https URL",
        ),
        (
            |file| file.download_url = "https://".to_owned(),
            "offered file has no http or https URL",
        ),
        (
            |file| file.download_url = "https://a/b\r\nHost: c".to_owned(),
            "URL of the offered file is malformed",
        ),
    ];
    for (change, reason) in cases {
        let mut bad = addon(1);
        change(bad.file.as_mut().unwrap());
        let mut bench = Bench::new();
        bench.offer(available(b"h", [("a", bad), ("b", addon(1))]));
        assert_eq!(bench.obey(), ["download b", "verify b", "install b 1"]);
        let status = bench.status("a");
        assert_eq!(bench.word("a"), PackageStatusEnum::InstallFailed);
        assert_eq!(status.error_message, reason);
        assert_eq!(status.server_offered_hash, addon(1).hash);
    }
    let mut bench = Bench::new();
    bench.offer(available(
        b"h",
        [(
            "a",
            PackageAvailable {
                file: None,
                ..addon(1)
            },
        )],
    ));
    assert_eq!(bench.obey(), [""; 0]);
    assert_eq!(bench.word("a"), PackageStatusEnum::InstallFailed);
}

//
#[test]
fn nothing_is_installed_before_the_caller_verified_it() {
    let mut bench = Bench::new();
    bench.offer(available(b"h", [("a", addon(1))]));
    let ticket = bench.download();
    // Not even if the caller thinks so.
    assert!(
        !bench
            .packages
            .handle_result(bench.now, ticket, PackageResult::Installed)
    );
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(1) });
    let PackageEffect::Verify { signature, .. } = bench.one() else {
        panic!("verification")
    };
    assert_eq!(signature, [0x51, 1]);
    assert!(
        !bench
            .packages
            .handle_result(bench.now, ticket, PackageResult::Installed)
    );
    bench.fail(ticket, lasting("signed by nobody we know"));
    assert_eq!(bench.effects(), [PackageEffect::Cancel { ticket }]);
    let status = bench.status("a");
    assert_eq!(status.status, PackageStatusEnum::InstallFailed as i32);
    assert_eq!(status.error_message, "signed by nobody we know");
    assert_eq!(status.agent_has_hash, b"");
}

//
#[test]
fn verification_is_asked_for_as_the_settings_say() {
    let unsigned = || {
        let mut package = addon(1);
        package.file.as_mut().unwrap().signature.clear();
        package
    };
    let done = |verification, package| {
        let mut config = PackagesConfig::new(7);
        config.verification = verification;
        let mut bench = Bench::with(config);
        bench.offer(available(b"h", [("a", package)]));
        bench.obey()
    };
    assert_eq!(
        done(Verification::WhereSigned, unsigned()),
        ["download a", "install a 1"]
    );
    assert_eq!(
        done(Verification::WhereSigned, addon(1)),
        ["download a", "verify a", "install a 1"]
    );
    assert_eq!(
        done(Verification::Never, addon(1)),
        ["download a", "install a 1"]
    );
}

//
#[test]
fn what_failed_for_good_is_not_tried_again_until_its_offer_changes() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.fail(ticket, lasting("404 Not Found"));
    bench.effects();
    for n in 0..20 {
        bench.pass(secs(600));
        bench.offer(available(&[n], [("a", addon(1))]));
        assert_eq!(bench.effects(), []);
        assert_eq!(bench.word("a"), PackageStatusEnum::InstallFailed);
    }
    bench.packages.retry_failed(bench.now);
    let ticket = bench.download();
    bench.fail(ticket, lasting("404 Not Found"));
    bench.effects();
    let mut moved = addon(1);
    moved.file.as_mut().unwrap().download_url = "https://files.example/elsewhere/1".to_owned();
    bench.offer(available(b"2", [("a", moved)]));
    assert_eq!(bench.obey(), ["download a", "verify a", "install a 1"]);
}

//
#[test]
fn interrupted_downloads_are_continued_with_growing_delays_and_end() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let mut last = bench.download();
    let mut delays = Vec::new();
    for _ in 1..5 {
        bench.fail(last, transient("connection reset"));
        assert_eq!(bench.word("a"), PackageStatusEnum::InstallPending);
        assert_eq!(bench.effects(), []);
        bench.statuses();
        let due = bench.packages.poll_timeout().unwrap();
        let delay = due.saturating_sub(bench.now);
        delays.push(delay);
        bench.pass(delay);
        let PackageEffect::Download {
            ticket, continues, ..
        } = bench.one()
        else {
            panic!("a download")
        };
        assert_eq!(continues, Some(last));
        last = ticket;
    }
    assert!(delays.iter().all(|delay| !delay.is_zero()), "{delays:?}");
    assert!(delays[3] > delays[0], "{delays:?}");
    bench.fail(last, transient("connection reset"));
    assert_eq!(bench.word("a"), PackageStatusEnum::InstallFailed);
    assert_eq!(bench.effects(), [PackageEffect::Cancel { ticket: last }]);
    // The same offer tries again, but not before the pause is over.
    bench.offer(available(b"1", [("a", addon(1))]));
    assert_eq!(bench.effects(), []);
    bench.pass(secs(301));
    assert_eq!(bench.effects(), [], "not without an offer");
    bench.offer(available(b"1", [("a", addon(1))]));
    assert_eq!(bench.obey(), ["download a", "verify a", "install a 1"]);
}

//
#[test]
fn a_file_server_that_names_a_time_is_given_it() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    let failure = PackageFailure {
        retry_after: Some(secs(77)),
        ..transient("503")
    };
    bench.fail(ticket, failure);
    bench.statuses();
    assert!(bench.packages.poll_timeout().unwrap() >= bench.now + secs(77));
}

//
#[test]
fn one_package_at_a_time_and_another_while_one_waits() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1)), ("b", addon(2))]));
    let a = bench.download();
    assert_eq!(bench.word("b"), PackageStatusEnum::InstallPending);
    bench.fail(a, transient("connection reset"));
    assert_eq!(bench.obey(), ["download b", "verify b", "install b 2"]);
    assert_eq!(bench.word("a"), PackageStatusEnum::InstallPending);
    bench.pass(secs(60));
    assert_eq!(bench.obey(), ["download a", "verify a", "install a 1"]);
}

#[test]
fn a_withdrawn_offer_is_given_up_at_every_step_but_the_last() {
    // Waiting for its next attempt: the partial file goes.
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let ticket = bench.download();
    bench.fail(ticket, transient("reset"));
    bench.offer(available(b"2", []));
    assert_eq!(bench.effects(), [PackageEffect::Cancel { ticket }]);
    assert_eq!(bench.names(), [""; 0]);
    // Being verified: so does the whole one.
    bench.offer(available(b"3", [("a", addon(1))]));
    let ticket = bench.download();
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(1) });
    bench.offer(available(b"4", []));
    assert_eq!(bench.effects(), [PackageEffect::Cancel { ticket }]);
    // Being installed: it ends, and is removed then.
    bench.offer(available(b"5", [("a", addon(1))]));
    let ticket = bench.download();
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(1) });
    bench.effects();
    bench.answer(ticket, PackageResult::Verified);
    bench.effects();
    bench.offer(available(b"6", []));
    assert_eq!(bench.effects(), []);
    assert_eq!(bench.word("a"), PackageStatusEnum::Installing);
    bench.answer(ticket, PackageResult::Installed);
    assert_eq!(bench.obey(), ["remove a"]);
    assert_eq!(bench.names(), [""; 0]);
}

#[test]
fn a_removal_that_fails_is_told_and_tried_by_a_later_offer() {
    let mut bench = Bench::holding([("a", addon(1))]);
    bench.offer(available(b"none", []));
    let ticket = bench.one().ticket();
    bench.fail(ticket, transient("device busy"));
    assert_eq!(bench.effects(), [], "there is no file to be deleted");
    let status = bench.status("a");
    assert_eq!(status.status, PackageStatusEnum::InstallFailed as i32);
    assert_eq!(status.error_message, "device busy");
    assert_eq!(status.agent_has_hash, addon(1).hash);
    bench.pass(secs(301));
    bench.offer(available(b"none", []));
    assert_eq!(bench.obey(), ["remove a"]);
}

//
#[test]
fn effects_and_states_print_no_secret() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let printed = format!("{:?} {:?}", bench.packages, bench.packages.state());
    let effect = format!("{:?}", bench.one());
    assert!(
        effect.contains("Download") && effect.contains("\"a\""),
        "{effect}"
    );
    for text in [printed, effect] {
        assert!(!text.contains("hidden-token"), "{text}");
    }
}
