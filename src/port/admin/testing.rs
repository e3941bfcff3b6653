//! Snapshots for the tests of this floor and of the command line: one healthy agent with two revisions.
//!
//! Must never: be compiled into the product.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::message::{
    AgentSnapshot, CertificateSnapshot, ChildIdentity, ClockSnapshot, Credential, CredentialSource,
    LayerKind, LayersSnapshot, LinkSnapshot, Origin, Pair, PairId, Record, RegistrationSnapshot,
    Revision, RevisionFile, Snapshot, Step, StoredRevision,
};
use crate::units::{OfferHash, RevisionHash, RevisionId, WallTime};

/// The moment every test snapshot is taken at.
pub(crate) const AT: WallTime = WallTime::from_unix_millis(1_700_000_000_000);

/// A clock that is well.
pub(crate) fn clock() -> ClockSnapshot {
    ClockSnapshot {
        well: true,
        words: "within 5s of the other clock".to_owned(),
        skew_ms: Some(-250),
        compared_at: Some(AT),
        compared_with: Some("https://fleet.example/".to_owned()),
        last_error: String::new(),
        synchronised: Some(true),
        jumps: 2,
        last_jump: Some((AT, 3_600_000)),
    }
}

/// A registration that is well.
pub(crate) fn registration() -> RegistrationSnapshot {
    RegistrationSnapshot {
        state: "registered",
        phase: "idle",
        reason: String::new(),
        url: "https://fleet.example".to_owned(),
        credential: Some(Credential {
            source: CredentialSource::Registered,
            at: WallTime::from_unix_millis(1_700_000_000_000),
            expires: Some(WallTime::from_unix_millis(1_731_536_000_000)),
            gateway: Some("17".to_owned()),
            org: None,
            endpoint: None,
            management_mode: None,
            unsaved: None,
        }),
        expires_in: Some(Duration::from_hours(365 * 24)),
        retry_in: None,
        calls: 2,
        failures: 1,
        order: None,
    }
}

/// A stored revision, `minutes` before [`AT`].
pub(crate) fn stored(minutes: u64, origin: Origin) -> StoredRevision {
    let at = WallTime::from_unix_millis(AT.unix_millis() - minutes * 60_000);
    let hash = RevisionHash::of([("collect.yaml", "", minutes.to_string().as_bytes())]);
    StoredRevision {
        id: RevisionId::new(at, hash),
        hash,
        offer: (origin == Origin::Offer).then(|| OfferHash::new(vec![0xab, 0xcd])),
        origin,
        at,
        files: 1,
        bytes: 120,
    }
}

/// A revision with one text file.
pub(crate) fn revision(minutes: u64, body: &str) -> Revision {
    let stored = stored(minutes, Origin::Offer);
    Revision {
        id: stored.id,
        hash: stored.hash,
        offer: stored.offer,
        origin: stored.origin,
        at: stored.at,
        files: vec![RevisionFile {
            path: "collect.yaml".to_owned(),
            layer: LayerKind::Remote,
            source: "collect.yaml".to_owned(),
            content_type: "text/yaml".to_owned(),
            bytes: body.as_bytes().to_vec(),
        }],
    }
}

/// One step of one transaction.
pub(crate) fn record(transaction: u64, step: Step, reason: &str) -> Record {
    let stored = stored(5, Origin::Offer);
    Record {
        transaction,
        at: AT,
        step,
        revision: Some(stored.id),
        hash: Some(stored.hash),
        offer: stored.offer,
        origin: stored.origin,
        reason: reason.to_owned(),
    }
}

/// A healthy agent.
pub(crate) fn agent(name: &str) -> AgentSnapshot {
    let (current, older) = (stored(5, Origin::Offer), stored(60, Origin::Manual));
    AgentSnapshot {
        name: name.parse().expect("a name of the test"),
        profile: "adjutant".to_owned(),
        instance_uid: [7; 16],
        healthy: true,
        status: "running".to_owned(),
        last_error: String::new(),
        child: Some(ChildIdentity {
            pid: 4242,
            start_ticks: 1,
            started: stored(5, Origin::Offer).at,
        }),
        adopted: false,
        restarts: 3,
        crashes: 1,
        last_exit: Some("exit code 1".to_owned()),
        crash_loop: None,
        phase: "idle",
        phase_error: String::new(),
        flow: None,
        flow_baseline: Duration::ZERO,
        last_good: Some(current.id.clone()),
        revisions: vec![current.clone(), older],
        current: Some(current),
        history: vec![record(2, Step::Committed, "")],
        remote: None,
        link: LinkSnapshot {
            state: "connected",
            endpoint: "ws://127.0.0.1:4320/v1/opamp".to_owned(),
            ..LinkSnapshot::default()
        },
        components: BTreeMap::new(),
        on_default: false,
        layers: LayersSnapshot::default(),
        rejected: Vec::new(),
        frozen: None,
        counters: BTreeMap::from([("stale_answers", 2)]),
    }
}

/// A certificate with a live pair.
pub(crate) fn certificate(name: &str) -> CertificateSnapshot {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let after = |days: u64| WallTime::from_unix_millis(AT.unix_millis() + days * DAY_MS);
    CertificateSnapshot {
        name: name.parse().expect("a name of the test"),
        source: "acme",
        state: "live",
        domains: vec!["a.example.com".parse().expect("a domain of the test")],
        pair: Some(Pair {
            id: PairId::new("04ab", "0123456789abcdef"),
            serial: "04ab".to_owned(),
            names: vec!["a.example.com".to_owned()],
            not_before: AT,
            not_after: after(90),
        }),
        renew_at: Some(after(60)),
        next_attempt: None,
        last_error: String::new(),
        renewals: 1,
        failures: 0,
        checks: 4,
    }
}

/// A host with one healthy agent, `collector`.
pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        clock: Some(clock()),
        uptime: Duration::from_secs(61),
        at: AT,
        stopping: false,
        previous_end: None,
        registration: None,
        agents: vec![agent("collector")],
        certificates: vec![certificate("web")],
    }
}
