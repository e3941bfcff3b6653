//! Entries for fuzzers: functions over bytes that check what must hold whatever the bytes are.
//!
//! Promises: each returns for every input, in time bounded by its length, and panics only when a promise of this crate
//! is broken. `corpus/` has inputs worth starting from; a test feeds them, and mutations of them, to these.
//! Must never: be part of the interface. What is here may change in any release.

use std::time::Duration;

use crate::frame::{self, FrameRules, HeaderRule, Wire};
use crate::messages::{
    AGENT_CAPABILITIES_ALL, AgentToServer, CustomCapabilities, PackagesAvailable, ServerToAgent,
};
use crate::packages::{
    PackageEffect, PackageFailure, PackageResult, Packages, PackagesConfig, PackagesState,
    Verification,
};
use crate::session::{Session, SessionConfig, SessionEvent};

/// More than one input can make any of these say.
const TURNS_MAX: usize = 10_000;

/// Bytes as a message of either side: what decodes, encodes to something that decodes to the same.
pub fn frame(bytes: &[u8]) {
    for header in [HeaderRule::Tolerant, HeaderRule::Required] {
        let rules = FrameRules {
            max_message: 1024 * 1024,
            header,
        };
        same::<ServerToAgent>(bytes, rules);
        same::<AgentToServer>(bytes, rules);
        if let Ok(message) = frame::decode::<ServerToAgent>(bytes, rules) {
            let cut = message.instance_uid.iter().copied().take(16);
            let address = frame::addressee(bytes, rules);
            assert_eq!(
                address,
                Ok(cut.collect()),
                "address differs from the message"
            );
        }
    }
}

fn same<M: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8], rules: FrameRules) {
    if let Ok(message) = frame::decode::<M>(bytes, rules) {
        let again = frame::encode(&message, usize::MAX).and_then(|frame| {
            let rules = FrameRules {
                max_message: usize::MAX,
                header: HeaderRule::Required,
            };
            frame::decode::<M>(&frame, rules)
        });
        // NaN is equal to nothing; its bytes are.
        let same = again.map(|again| again.to_wire() == message.to_wire());
        assert_eq!(same, Ok(true), "encoding is not the inverse of decoding");
    }
}

/// Bytes as the script of a whole session: a byte says what happens, one more how long a frame is that follows it.
pub fn session(bytes: &[u8]) {
    let config = SessionConfig {
        max_message: 64 * 1024,
        ..SessionConfig::new([7; 16], AGENT_CAPABILITIES_ALL)
    };
    let Ok(mut session) = Session::new(config) else {
        return;
    };
    session.set_custom_capabilities(CustomCapabilities {
        capabilities: vec!["org.example.echo".to_owned()],
    });
    let mut now = Duration::ZERO;
    let mut numbers = Numbers::default();
    let mut rest = bytes;
    while let Some((op, after)) = rest.split_first() {
        rest = after;
        match op {
            0 => {
                numbers.connect(false);
                session.handle_connected(now);
            }
            1 => {
                numbers.give_back();
                session.handle_disconnected(now);
            }
            2 => {
                numbers.connect(true);
                session.handle_polling(now);
            }
            3 => session.handle_too_large(now),
            4 => session.disconnect(now),
            5 => session.set_capabilities(AGENT_CAPABILITIES_ALL & !0x800),
            6 => session.set_health(crate::messages::ComponentHealth {
                start_time_unix_nano: u64::try_from(rest.len()).unwrap_or_default(),
                ..crate::messages::ComponentHealth::default()
            }),
            7..=31 => {
                now += Duration::from_millis(100) * u32::from(*op);
                session.handle_timeout(now);
            }
            _ => {
                let (len, after) = rest.split_first().unwrap_or((&0, &[]));
                let (frame, after) = after
                    .split_at_checked(usize::from(*len))
                    .unwrap_or((after, &[]));
                rest = after;
                // That an error has no effect is checked by what follows.
                let answer = session.handle_frame(now, frame);
                if answer.is_ok() {
                    numbers.unanswered = None;
                } else {
                    numbers.give_back();
                }
            }
        }
        settle(&mut session, now, &mut numbers);
    }
}

/// What numbers may come next.
#[derive(Default)]
struct Numbers {
    next: u64,
    polling: bool,
    /// Of requests that were not answered: the first, and the last if the first was found too large or is followed by
    /// the goodbye, which waits for nobody.
    unanswered: Option<(u64, u64)>,
    /// Those that may come once more, because the server did not take them.
    given_back: Option<(u64, u64)>,
}

impl Numbers {
    fn connect(&mut self, polling: bool) {
        self.polling = polling;
        self.unanswered = None;
    }

    fn give_back(&mut self) {
        self.given_back = self.unanswered.take().or(self.given_back);
    }

    fn take(&mut self, number: u64) {
        let repeats = |(first, last): (u64, u64)| number == first || number == last;
        assert!(
            number == self.next || self.given_back.take().is_some_and(repeats),
            "{number} comes where {} is next",
            self.next
        );
        self.next = number.saturating_add(1);
        self.given_back = None;
        let first = self.unanswered.map_or(number, |(first, _)| first);
        self.unanswered = self.polling.then_some((first, number));
    }
}

/// Everything the session says now is a report of the right number, and what it keeps is bounded.
fn settle(session: &mut Session, now: Duration, numbers: &mut Numbers) {
    for turn in 0..=TURNS_MAX {
        assert!(turn < TURNS_MAX, "session never stops talking");
        let Some(bytes) = session.poll_transmit(now) else {
            break;
        };
        let sent = frame::decode::<AgentToServer>(&bytes, FrameRules::default());
        let sent = sent.unwrap_or_default();
        assert_eq!(sent.instance_uid.len(), 16, "a report without identity");
        assert_ne!(sent.capabilities & 1, 0, "a report without capabilities");
        numbers.take(sent.sequence_num);
    }
    assert!(
        session.queued_bytes() <= 2 * 64 * 1024,
        "unread events without bound"
    );
    while let Some(event) = session.poll_event() {
        if let SessionEvent::NewInstanceUid(uid) = event {
            session.set_instance_uid(uid);
        }
    }
    assert_eq!(
        session.queued_bytes(),
        0,
        "events are gone and their bytes are not"
    );
}

/// Bytes as an offer of packages, carried out by a caller that fails now and then.
pub fn packages(bytes: &[u8]) {
    if let Ok(state) = PackagesState::from_bytes(bytes) {
        let again = PackagesState::from_bytes(&state.to_bytes());
        assert_eq!(
            again.as_ref(),
            Ok(&state),
            "stored state is not what was stored"
        );
        carry_out(Packages::restored(PackagesConfig::new(7), state), bytes);
    }
    if let Ok(offer) = PackagesAvailable::from_wire(bytes) {
        let mut config = PackagesConfig::new(7);
        config.verification = Verification::WhereSigned;
        config.without_digest = true;
        let mut packages = Packages::new(config);
        packages.handle_offer(Duration::ZERO, offer.clone());
        packages.handle_offer(Duration::ZERO, offer);
        carry_out(packages, bytes);
    }
}

fn carry_out(mut packages: Packages, bytes: &[u8]) {
    let mut now = Duration::ZERO;
    packages.handle_timeout(now);
    for turn in 0..=TURNS_MAX {
        assert!(turn < TURNS_MAX, "packages never come to rest");
        let Some(effect) = packages.poll_effect() else {
            match packages.poll_timeout() {
                _ if packages.poll_statuses(now).is_some() => continue,
                Some(due) if due > now => {
                    now = due;
                    packages.handle_timeout(now);
                    continue;
                }
                _ => break,
            }
        };
        let odd = bytes
            .get(turn % bytes.len().max(1))
            .is_some_and(|byte| byte & 1 == 1);
        let result = match &effect {
            PackageEffect::Cancel { .. } => continue,
            _ if odd => PackageResult::Failed(PackageFailure::transient("odd")),
            PackageEffect::Download { .. } => PackageResult::Downloaded { sha256: [0; 32] },
            PackageEffect::Verify { .. } => PackageResult::Verified,
            PackageEffect::Install { .. } => PackageResult::Installed,
            PackageEffect::Remove { .. } => PackageResult::Removed,
        };
        assert!(
            packages.handle_result(now, effect.ticket(), result),
            "an answer is refused"
        );
    }
    for (name, status) in packages.statuses().packages {
        assert_eq!(name, status.name, "a status under another name");
        assert!(!name.contains(['/', '\\']), "a path for a name");
    }
}

/// Bytes as an offer of connection settings and as what was stored of one: whatever they ask for, verification stays.
#[cfg(feature = "tokio")]
pub fn settings(bytes: &[u8]) {
    use crate::messages::ConnectionSettingsOffers;
    use crate::settings::{Clock, SavedSettings, Settings, SettingsConfig};
    use crate::transport::TlsVersion;

    let clock = Clock {
        now: Duration::ZERO,
        unix: Duration::from_secs(1_700_000_000),
    };
    let Ok(base) = "wss://fleet.example/v1/opamp".parse() else {
        return;
    };
    let mut config = SettingsConfig::new(base, Duration::from_secs(30));
    config.base.tls.min_version = Some(TlsVersion::V1_3);
    config.destination.tls.min_version = Some(TlsVersion::V1_3);
    let saved = SavedSettings(bytes.to_vec());
    if let Ok(settings) = Settings::new(config.clone(), Some(&saved), clock) {
        try_out(settings, clock, bytes);
    }
    if let (Ok(offer), Ok(mut settings)) = (
        ConnectionSettingsOffers::from_wire(bytes),
        Settings::new(config, None, clock),
    ) {
        settings.handle_offer(clock, offer.clone());
        settings.handle_offer(clock, offer);
        try_out(settings, clock, bytes);
    }
}

/// What no offer may take away.
#[cfg(feature = "tokio")]
fn check_trust(tls: &crate::transport::TlsOptions) {
    use crate::transport::TlsVersion;

    assert!(!tls.insecure_skip_verify, "an offer took verification away");
    assert_eq!(
        tls.min_version,
        Some(TlsVersion::V1_3),
        "an offer lowered the floor"
    );
    assert_ne!(
        tls.max_version,
        Some(TlsVersion::V1_2),
        "an offer lowered the ceiling"
    );
}

/// Carries out what settings want, with connections that come and go as the bytes say.
#[cfg(feature = "tokio")]
fn try_out(
    mut settings: crate::settings::Settings,
    mut clock: crate::settings::Clock,
    bytes: &[u8],
) {
    use crate::settings::{Loss, LossKind, SettingsEffect};

    for turn in 0..=TURNS_MAX {
        assert!(turn < TURNS_MAX, "settings never come to rest");
        assert!(settings.target().is_tls(), "an offer took TLS away");
        check_trust(&settings.target().tls);
        let byte = bytes
            .get(turn % bytes.len().max(1))
            .copied()
            .unwrap_or_default();
        match settings.poll_effect() {
            Some(SettingsEffect::Save { id, .. }) if byte & 0xF0 == 0xF0 => {
                settings.handle_saved(clock, id, Err("disk full".to_owned()));
            }
            Some(SettingsEffect::Save { id, .. }) => settings.handle_saved(clock, id, Ok(())),
            Some(SettingsEffect::Leave) => settings.handle_left(clock),
            Some(SettingsEffect::Destination {
                ticket,
                settings: to,
                ..
            }) => {
                if let Some(to) = to {
                    check_trust(&to.tls);
                }
                settings.handle_outcome(clock, ticket, Ok(()));
            }
            Some(_) => {}
            None if settings.is_on_trial() => match byte & 3 {
                0 => {
                    settings.handle_connected(clock);
                    settings.handle_answered(clock);
                }
                1 => settings.handle_connected(clock),
                _ => {
                    let retry_in = Duration::from_secs(u64::from(byte));
                    let loss = Loss {
                        kind: if byte & 4 == 0 {
                            LossKind::Lost
                        } else {
                            LossKind::Throttled { retry_in }
                        },
                        reason: "gone".to_owned(),
                    };
                    settings.handle_lost(clock, &loss);
                    clock.now += match loss.kind {
                        LossKind::Throttled { retry_in } => retry_in,
                        _ => Duration::from_secs(1),
                    };
                    settings.handle_timeout(clock);
                }
            },
            None => break,
        }
        if settings.is_on_trial() && byte & 3 == 1 {
            let due = settings.poll_timeout().unwrap_or(clock.now);
            clock.now = clock.now.max(due);
            settings.handle_timeout(clock);
        }
    }
}

/// Bytes as addresses and header values that come from outside.
#[cfg(feature = "tokio")]
pub fn address(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(target) = text.parse::<crate::transport::Target>() {
        let shown = target.to_string();
        if !target.is_unix() {
            let again = shown
                .parse::<crate::transport::Target>()
                .map(|t| t.to_string());
            assert_eq!(
                again.as_ref(),
                Ok(&shown),
                "an address does not read as itself"
            );
        }
    }
    _ = crate::transport::Target::host(&text).map(|target| target.to_string());
    if let Ok(value) = http::HeaderValue::from_bytes(bytes) {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::RETRY_AFTER, value);
        headers.insert(
            http::header::DATE,
            http::HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        _ = crate::transport::retry_after(&headers);
    }
}

#[cfg(test)]
mod tests;
