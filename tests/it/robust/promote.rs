//! Given a reader that opens `current` again and again,
//! when configs are promoted one after the other,
//! then it never finds the name missing or a file half written.
//!
//! The store's own test does the same with a thousand promotions and no supervisor around it.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::rig::{Rig, wait_until};

const PROMOTIONS: usize = 30;

#[test]
fn a_reader_of_current_never_finds_it_missing() {
    let rig = Rig::generic();
    let supervisor = rig.start();
    rig.commit("mode: 0");
    let path = rig.agent("one").join("current/config.yaml");
    let (done, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Acquire) {
                match fs::read_to_string(&path) {
                    Ok(text) => {
                        let text = text.trim().to_owned();
                        assert!(text.starts_with("mode: "), "half a file: {text:?}");
                        if seen.last() != Some(&text) {
                            seen.push(text);
                        }
                    }
                    Err(error) => {
                        assert_ne!(error.kind(), ErrorKind::NotFound, "after {seen:?}");
                        panic!("{error}");
                    }
                }
                reads.fetch_add(1, Ordering::Relaxed);
            }
            seen
        });
        for number in 1..=PROMOTIONS {
            rig.commit(&format!("mode: {number}"));
        }
        done.store(true, Ordering::Release);
        let seen = reader.join().unwrap();
        assert!(seen.len() > PROMOTIONS / 2, "it saw only {seen:?}");
    });
    assert!(reads.load(Ordering::Relaxed) > 1000);
    wait_until("the last config", || {
        rig.running("one") == Some(format!("mode: {PROMOTIONS}"))
    });
    assert_eq!(supervisor.stop().code(), Some(0));
}
