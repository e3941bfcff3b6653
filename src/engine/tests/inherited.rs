//! Given what another supervisor left; when it is taken over and the host dies; then it is tried until it was tried.

use std::time::Duration;

use super::rig::{APPLIED, Bench};
use crate::engine::message::{Inheritance, InheritedOffer, OfferedFile, Step};
use crate::units::OfferHash;

const SETTINGS: &str = "profile: layered, own_telemetry: [metrics], apply: {probation: 10s}";
const OFFER: &str = "exporters: {offered: {}}\n";

fn left() -> Box<Inheritance> {
    let file = OfferedFile {
        name: "config.yaml".to_owned(),
        content_type: "text/yaml".to_owned(),
        body: OFFER.as_bytes().to_vec(),
    };
    Box::new(Inheritance {
        received: Some(InheritedOffer {
            hash: OfferHash::new(*b"o1"),
            files: vec![file],
        }),
        failed: None,
        working: None,
    })
}

#[test]
fn offer_that_a_death_kept_from_the_disk_is_tried_after_the_next_start() {
    let mut bench = Bench::new(SETTINGS, &[]);
    bench.inheritance = Some(left());
    bench.boot();
    while bench.disk.journal.last().map(|record| record.step) != Some(Step::Intent) {
        bench.run(Duration::from_millis(1));
    }
    bench.inheritance = Some(left());
    bench.boot();
    bench.run_s(60);
    assert_eq!(bench.disk.journal[1].step, Step::Superseded);
    assert_eq!(bench.status(), ("o1".to_owned(), APPLIED));
    assert!(bench.current().contains(OFFER) && bench.is_good());
}
