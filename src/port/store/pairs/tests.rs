//! The pairs of certificates on real files. What a crash may do to them is explored in `tests/sim/certs.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::sys::durable::RealDisk;

fn put(path: &Path, text: &str) {
    RealDisk
        .write_file(path, text.as_bytes(), FILE_MODE)
        .unwrap();
}

struct Bench {
    dir: TempDir,
    store: PairStore<RealDisk>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::new(RealDisk, dir.path());
        Self { dir, store }
    }

    fn perform(&mut self, work: CertificateWork) -> Done<CertificateDone> {
        let now = WallTime::from_unix_millis(1_700_000_000_000);
        self.store.perform(&name(), work, now)
    }

    fn look(&mut self) -> StoredPairs {
        match self.perform(CertificateWork::Look).unwrap() {
            CertificateDone::Found(found) => found,
            other => panic!("{other:?}"),
        }
    }

    fn install(&mut self, until_year: i32) -> Pair {
        let (pair, domains) = (issued(until_year), Vec::new());
        let done = self.perform(CertificateWork::Install { pair, domains });
        match done.unwrap() {
            CertificateDone::Live { pair, changed } => {
                assert!(changed);
                pair
            }
            other => panic!("{other:?}"),
        }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("certificates/web")
    }
}

fn name() -> CertificateName {
    "web".parse().unwrap()
}

fn issued(until_year: i32) -> PemPair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
    PemPair {
        chain: params.self_signed(&key).unwrap().pem(),
        key: Secret::new(key.serialize_pem()),
    }
}

#[test]
fn what_was_tried_is_read_back_whole() {
    let mut bench = Bench::new();
    let at = WallTime::from_unix_millis;
    let attempts = vec![Attempts {
        domains: vec!["a.test".parse().unwrap(), "b.test".parse().unwrap()],
        begun: vec![at(5), at(7)],
        failures: 3,
        not_before: Some(at(9)),
        asked_to_wait: true,
        last_error: "no".to_owned(),
    }];
    bench
        .perform(CertificateWork::Remember(attempts.clone()))
        .unwrap();
    assert_eq!(bench.look().attempts, attempts);
}

#[test]
fn what_an_earlier_life_left_half_made_is_swept_and_nothing_else() {
    let mut bench = Bench::new();
    let live = bench.install(2050);
    let home = bench.home();
    for litter in [".staging-x", ".trash-x"] {
        fs::create_dir(home.join(litter)).unwrap();
        put(&home.join(litter).join("key.pem"), "x");
    }
    for link in [CURRENT, ATTEMPTS] {
        symlink("nowhere", home.join(temporary_name(link))).unwrap();
    }
    put(&home.join("notes"), "by hand");
    let found = bench.look();
    assert_eq!(found.current.as_ref(), Some(&live.id));
    let mut left: Vec<_> = fs::read_dir(&home)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut wanted = vec![CURRENT.to_owned(), "notes".to_owned()];
    wanted.push(live.id.as_str().to_owned());
    wanted.sort();
    assert_eq!(left, wanted);
}

#[test]
fn the_live_pair_and_the_three_that_end_last_are_kept() {
    let mut bench = Bench::new();
    let years = [2044, 2041, 2045, 2042, 2046, 2043, 2040];
    let pairs = years.map(|year| bench.install(year));
    let found = bench.look();
    assert_eq!(found.repairs, Vec::<String>::new());
    assert_eq!(found.current.as_ref(), Some(&pairs[6].id));
    let mut ends: Vec<_> = found.pairs.iter().map(|pair| pair.not_after).collect();
    ends.sort();
    let wanted = [6, 0, 2, 4].map(|at| pairs[at].not_after);
    assert_eq!(ends, wanted, "the live one, then 2044 to 2046");
}

#[test]
fn a_live_pair_that_is_not_whole_is_said_and_not_named() {
    let mut bench = Bench::new();
    let live = bench.install(2050);
    fs::remove_file(bench.home().join(live.id.as_str()).join(KEY_FILE)).unwrap();
    let found = bench.look();
    assert_eq!((found.current, found.pairs), (None, Vec::new()));
    assert!(
        found
            .repairs
            .iter()
            .any(|repair| repair.ends_with(&format!("names {}, which is not whole", live.id))),
        "{:?}",
        found.repairs
    );
}

#[test]
fn the_same_pair_again_changes_nothing_and_a_damaged_one_gets_another_name() {
    let mut bench = Bench::new();
    let pem = issued(2050);
    let install = |bench: &mut Bench| {
        let (pair, domains) = (pem.clone(), Vec::new());
        match bench.perform(CertificateWork::Install { pair, domains }) {
            Ok(CertificateDone::Live { pair, changed }) => (pair.id, changed),
            other => panic!("{other:?}"),
        }
    };
    let (first, changed) = install(&mut bench);
    assert!(changed);
    assert_eq!(install(&mut bench), (first.clone(), false));
    for file in [CHAIN_FILE, KEY_FILE] {
        let damaged = bench.look().current.unwrap();
        put(&bench.home().join(damaged.as_str()).join(file), "x");
        let (again, changed) = install(&mut bench);
        assert!(changed && again != damaged, "{file}");
        assert_eq!(bench.look().current, Some(again));
    }
}

#[test]
fn a_key_of_the_operator_that_everybody_may_read_is_refused() {
    let mut bench = Bench::new();
    let pem = issued(2050);
    let (certificate, key) = (bench.dir.path().join("c"), bench.dir.path().join("k"));
    put(&certificate, &pem.chain);
    put(&key, pem.key.expose());
    for (mode, good) in [(0o604, false), (0o601, false), (0o640, true), (0o600, true)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let work = CertificateWork::Adopt {
            certificate: certificate.clone(),
            key: key.clone(),
            domains: Vec::new(),
        };
        assert_eq!(bench.perform(work).is_ok(), good, "{mode:o}");
    }
}
