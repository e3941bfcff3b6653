//! What an offer asks for, against what is there.

use super::*;

//
#[test]
fn an_aggregate_hash_that_is_known_means_nothing_to_do() {
    let mut bench = Bench::holding([("a", addon(1))]);
    // The same hash over other content: the server's word counts.
    bench.offer(available(b"before", [("a", addon(2))]));
    assert_eq!(bench.obey(), [""; 0]);
    assert_eq!(bench.statuses(), None);
    // No hash never equals.
    bench.offer(available(b"", [("a", addon(2))]));
    assert_eq!(bench.obey(), ["download a", "verify a", "install a 2"]);
}

//
#[test]
fn a_package_that_is_not_there_is_downloaded_with_its_headers() {
    let mut bench = Bench::new();
    bench.offer(available(b"h", [("a", addon(1))]));
    let PackageEffect::Download {
        name,
        url,
        headers,
        continues,
        ..
    } = bench.one()
    else {
        panic!("a download")
    };
    assert_eq!(
        (name.as_str(), url.as_str(), continues),
        ("a", "https://files.example/1", None)
    );
    assert_eq!(headers, addon(1).file.unwrap().headers.unwrap().headers);
}

//
#[test]
fn a_package_with_the_offered_hash_is_done() {
    let mut bench = Bench::holding([("a", addon(1)), ("b", addon(1))]);
    bench.offer(available(b"next", [("a", addon(1)), ("b", addon(2))]));
    assert_eq!(bench.obey(), ["download b", "verify b", "install b 2"]);
}

//
#[test]
fn another_hash_over_the_same_file_is_taken_over_without_a_download() {
    let mut bench = Bench::holding([("a", addon(1))]);
    let mut renamed = addon(1);
    renamed.hash = b"other".to_vec();
    renamed.version = "1.0".to_owned();
    bench.offer(available(b"next", [("a", renamed)]));
    assert_eq!(bench.obey(), [""; 0]);
    let status = bench.status("a");
    assert_eq!(status.agent_has_hash, b"other");
    assert_eq!(status.agent_has_version, "1.0");
    bench.offer(available(b"third", [("a", addon(2))]));
    assert_eq!(bench.obey().len(), 3, "another file is fetched");
}

//
#[test]
fn what_is_not_offered_goes_unless_it_was_there_before() {
    let mut bench = Bench::holding([("a", addon(1)), ("b", addon(1))]);
    bench.packages.set_found(bench.now, "own", Some(local(3)));
    bench.offer(available(b"next", [("a", addon(1))]));
    assert_eq!(bench.obey(), ["remove b"]);
    assert_eq!(bench.names(), ["a", "own"]);
    let own = bench.status("own");
    assert_eq!((own.agent_has_version.as_str(), own.status), ("3", 0));
    assert_eq!(
        (own.server_offered_version.as_str(), own.server_offered_hash),
        ("", vec![])
    );

    let mut config = PackagesConfig::new(7);
    config.removal = Removal::All;
    let mut strict = Bench::with(config);
    strict.packages.set_found(strict.now, "own", Some(local(3)));
    strict.offer(available(b"next", [("a", addon(1))]));
    assert_eq!(
        strict.obey(),
        ["download a", "verify a", "install a 1", "remove own"]
    );
    assert_eq!(strict.names(), ["a"]);
}

//
#[test]
fn a_local_package_that_was_offered_for_a_while_stays() {
    let mut bench = Bench::new();
    bench.packages.set_found(bench.now, "own", Some(local(3)));
    bench.offer(available(b"1", [("own", addon(3))]));
    assert_eq!(bench.obey(), [""; 0], "the same file");
    assert_eq!(bench.status("own").server_offered_hash, addon(3).hash);
    bench.offer(available(b"2", []));
    assert_eq!(bench.obey(), [""; 0]);
    assert_eq!(bench.status("own").server_offered_hash, b"");
}

//
#[test]
fn an_empty_offer_removes_what_was_offered_and_asks_for_the_top_level() {
    let mut bench = Bench::holding([("a", addon(1)), ("", top(1))]);
    bench.offer(PackagesAvailable::default());
    assert_eq!(bench.obey(), [""; 0], "nothing is said by it");
    bench.offer(available(b"none", []));
    assert_eq!(bench.obey(), ["remove a"]);
    let statuses = bench.statuses().unwrap();
    assert_eq!(statuses.server_provided_all_packages_hash, b"none");
    assert_eq!(
        statuses.error_message,
        "package \"\" is not offered any more and stays"
    );
    assert_eq!(bench.names(), [""]);
    // Said again, it is no news.
    bench.offer(available(b"none", []));
    assert_eq!((bench.obey(), bench.statuses()), (vec![], None));

    let mut config = PackagesConfig::new(7);
    config.remove_top_level = true;
    let mut bench = Bench::with(config);
    bench.offer(available(b"1", [("", top(1))]));
    bench.obey();
    bench.offer(available(b"none", []));
    assert_eq!(bench.obey(), ["remove "]);
    let statuses = bench.statuses().unwrap();
    assert!(statuses.packages.is_empty() && statuses.error_message.is_empty());
    assert_eq!(statuses.server_provided_all_packages_hash, b"none");
}

//
#[test]
fn another_type_under_the_same_name_is_installed_anew() {
    let mut bench = Bench::holding([("a", addon(1))]);
    bench.offer(available(b"next", [("a", top(1))]));
    let done = bench.obey();
    assert_eq!(done, ["download a", "verify a", "install a 1"]);
}

// addons need what they are added to.
#[test]
fn the_top_level_goes_first() {
    let mut bench = Bench::new();
    bench.offer(available(b"h", [("a", addon(1)), ("z", top(2))]));
    let order = bench.obey();
    assert_eq!(order[2], "install z 2");
    assert_eq!(order[5], "install a 1");
}

//
#[test]
fn what_cannot_be_listed_is_refused_by_itself() {
    let unknown = PackageAvailable {
        r#type: 9,
        ..addon(1)
    };
    let nameless = addon(1);
    let without_hash = PackageAvailable {
        hash: vec![],
        ..addon(1)
    };
    let cases = [
        ("../../x", addon(1), "its name cannot be used"),
        ("", nameless, "its name cannot be used"),
        ("odd", unknown, "its type is not known"),
        ("plain", without_hash, "it has no hash"),
    ];
    for (name, package, reason) in cases {
        let mut bench = Bench::new();
        bench.offer(available(b"h", [(name, package), ("good", addon(1))]));
        assert_eq!(
            bench.obey(),
            ["download good", "verify good", "install good 1"]
        );
        let statuses = bench.statuses().unwrap();
        assert_eq!(
            statuses.error_message,
            format!("package {name:?} is refused: {reason}")
        );
        assert_eq!(bench.names(), ["good"]);
        assert_eq!(statuses.server_provided_all_packages_hash, b"h");
        // A better offer takes the words back.
        bench.offer(available(b"i", [("good", addon(1))]));
        assert_eq!(bench.statuses().unwrap().error_message, "");
    }
}

// what is installed under a name that is now offered badly stays.
#[test]
fn a_bad_offer_of_a_package_does_not_remove_it() {
    let mut bench = Bench::holding([("a", addon(1))]);
    let bad = PackageAvailable {
        hash: vec![],
        ..addon(2)
    };
    bench.offer(available(b"next", [("a", bad)]));
    assert_eq!(bench.obey(), [""; 0]);
    assert_eq!(bench.word("a"), PackageStatusEnum::Installed);
}

//
#[test]
fn an_offer_of_too_many_packages_changes_nothing_and_says_so() {
    let mut bench = Bench::holding([("a", addon(1))]);
    let packages = (0..257).map(|n| (format!("p{n}"), addon(1))).collect();
    bench.offer(PackagesAvailable {
        packages,
        all_packages_hash: b"many".to_vec(),
    });
    assert_eq!(bench.obey(), [""; 0]);
    let statuses = bench.statuses().unwrap();
    assert_eq!(
        statuses.error_message,
        "257 packages are offered, over the limit of 256"
    );
    assert_eq!(bench.names(), ["a"]);
}

//
#[test]
fn hashes_are_compared_and_never_computed() {
    for hash in [&b"\x00"[..], &[0xFF; 64], b"not a hash"] {
        let mut bench = Bench::new();
        let package = PackageAvailable {
            hash: hash.to_vec(),
            ..addon(1)
        };
        bench.offer(available(hash, [("a", package)]));
        bench.obey();
        let statuses = bench.statuses().unwrap();
        assert_eq!(statuses.server_provided_all_packages_hash, hash);
        assert_eq!(statuses.packages["a"].agent_has_hash, hash);
    }
}

//
#[test]
fn a_newer_offer_takes_over_and_none_is_lost() {
    let mut bench = Bench::new();
    bench.offer(available(b"1", [("a", addon(1))]));
    let first = bench.download();
    bench.offer(available(b"2", [("a", addon(2))]));
    let effects = bench.effects();
    assert_eq!(effects[0], PackageEffect::Cancel { ticket: first });
    assert_eq!(effects.len(), 2, "{effects:?}");
    // The answer that was under way is nobody's any more.
    let late = PackageResult::Downloaded { sha256: digest(1) };
    assert!(!bench.packages.handle_result(bench.now, first, late));
    let second = effects[1].ticket();
    bench.answer(second, PackageResult::Downloaded { sha256: digest(2) });
    let verify = bench.one().ticket();
    bench.answer(verify, PackageResult::Verified);
    // During the installation the next one waits its turn.
    let install = bench.one().ticket();
    bench.offer(available(b"3", [("a", addon(3)), ("b", addon(3))]));
    assert_eq!(bench.effects(), []);
    assert_eq!(bench.status("a").server_offered_hash, addon(2).hash);
    bench.answer(install, PackageResult::Installed);
    assert_eq!(bench.status("a").agent_has_hash, addon(2).hash);
    assert_eq!(bench.obey().len(), 6);
    assert_eq!(bench.status("a").agent_has_hash, addon(3).hash);
    assert_eq!(bench.status("b").agent_has_hash, addon(3).hash);
}

// the same offer again does not begin anew.
#[test]
fn an_offer_under_way_goes_on_when_it_is_repeated() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.offer(available(b"1", [("a", addon(1))]));
    }
    let ticket = bench.download();
    let mut moved = addon(1);
    moved.file.as_mut().unwrap().download_url = "https://mirror.example/1".to_owned();
    bench.offer(available(b"1", [("a", moved)]));
    assert_eq!(bench.effects(), [], "the same file from elsewhere");
    bench.answer(ticket, PackageResult::Downloaded { sha256: digest(1) });
    assert_eq!(bench.obey(), ["verify a", "install a 1"]);
}

#[test]
fn offers_that_nobody_works_on_do_not_pile_up() {
    let mut bench = Bench::new();
    for version in 0..=255 {
        bench.offer(available(&[version], [("a", addon(version))]));
    }
    assert_eq!(bench.effects().len(), 1);
}
