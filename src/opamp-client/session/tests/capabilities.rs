//! Capability bits of both sides.

use super::*;

//
#[test]
fn masks_are_cleaned_and_in_every_message() {
    let mut bench = Bench::with(u64::MAX);
    bench.connect();
    assert_eq!(bench.one().capabilities, 0xFFFF);
    bench.session.set_capabilities(0);
    assert_eq!(bench.one().capabilities, 1);
    bench.session.disconnect(bench.now);
    assert_eq!(bench.one().capabilities, 1);
}

//
#[test]
fn fields_without_their_bit_are_never_sent() {
    let cases = [
        (AgentCapabilities::ReportsHealth, "health"),
        (AgentCapabilities::ReportsEffectiveConfig, "effective"),
        (AgentCapabilities::ReportsRemoteConfig, "remote"),
        (AgentCapabilities::ReportsPackageStatuses, "packages"),
        (AgentCapabilities::ReportsAvailableComponents, "components"),
        (
            AgentCapabilities::ReportsConnectionSettingsStatus,
            "settings",
        ),
    ];
    for (bit, field) in cases {
        let mut bench = Bench::full();
        bench.session.set_capabilities(ALL & !bit.bit());
        bench.connect();
        let sent = bench.one();
        assert!(!fields_of(&sent).contains(&field), "{field}");
        assert_eq!(fields_of(&sent).len(), 7, "{field}");
        bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
        assert!(!fields_of(&bench.one()).contains(&field), "{field}");
    }
}

//
#[test]
fn a_new_mask_goes_out_at_once_with_the_fields_it_enables() {
    let mut bench = Bench::full();
    bench
        .session
        .set_capabilities(ALL & !AgentCapabilities::ReportsHealth.bit());
    bench.connect();
    bench.one();
    bench.session.set_capabilities(ALL);
    let sent = bench.one();
    assert_eq!((sent.capabilities, fields_of(&sent)), (ALL, vec!["health"]));
}

//
#[test]
fn offers_without_their_bit_are_refused_and_told_once() {
    let mut bench = Bench::with(0);
    bench.connect();
    bench.one();
    let everything = ServerToAgent {
        remote_config: Some(offer(b"x")),
        connection_settings: Some(ConnectionSettingsOffers {
            opamp: Some(OpAmpConnectionSettings::default()),
            other_connections: [("x".to_owned(), OtherConnectionSettings::default())].into(),
            ..ConnectionSettingsOffers::default()
        }),
        packages_available: Some(PackagesAvailable::default()),
        custom_message: Some(echo("hi")),
        ..ack()
    };
    bench.hear(&everything);
    let refused = [
        Refusal::RemoteConfig,
        Refusal::ConnectionSettings,
        Refusal::Packages,
        Refusal::CustomMessage,
    ];
    assert_eq!(bench.events(), refused.map(SessionEvent::Refused));
    bench.hear(&everything);
    bench.hear(&command(0));
    assert_eq!(bench.events(), [SessionEvent::Refused(Refusal::Command)]);
    assert_eq!(bench.session.stats().refused, 9);
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn connection_settings_are_filtered_kind_by_kind() {
    let mut bench = Bench::with(AgentCapabilities::ReportsOwnMetrics.bit());
    bench.connect();
    let metrics = TelemetryConnectionSettings {
        destination_endpoint: "https://m/v1/metrics".to_owned(),
        ..TelemetryConnectionSettings::default()
    };
    let all = ConnectionSettingsOffers {
        hash: b"s".to_vec(),
        opamp: Some(OpAmpConnectionSettings::default()),
        own_metrics: Some(metrics.clone()),
        own_traces: Some(TelemetryConnectionSettings::default()),
        own_logs: Some(TelemetryConnectionSettings::default()),
        other_connections: [("x".to_owned(), OtherConnectionSettings::default())].into(),
    };
    bench.hear(&ServerToAgent {
        connection_settings: Some(all),
        ..ack()
    });
    let passed = ConnectionSettingsOffers {
        hash: b"s".to_vec(),
        own_metrics: Some(metrics),
        ..ConnectionSettingsOffers::default()
    };
    assert_eq!(
        bench.events(),
        [
            SessionEvent::Refused(Refusal::ConnectionSettings),
            SessionEvent::ConnectionSettings(passed),
        ]
    );
}

//
#[test]
fn settings_that_no_bit_accepts_are_answered_if_the_status_is_reported() {
    let mut bench = Bench::with(AgentCapabilities::ReportsConnectionSettingsStatus.bit());
    bench.connect();
    bench.one();
    let offers = ConnectionSettingsOffers {
        hash: b"s".to_vec(),
        own_logs: Some(TelemetryConnectionSettings::default()),
        ..ConnectionSettingsOffers::default()
    };
    let message = ServerToAgent {
        connection_settings: Some(offers),
        ..ack()
    };
    bench.hear(&message);
    let status = bench.one().connection_settings_status.unwrap();
    assert_eq!(
        (
            status.last_connection_settings_hash.as_slice(),
            status.status
        ),
        (b"s".as_slice(), ConnectionSettingsStatuses::Failed as i32)
    );
    assert!(status.error_message.contains("not supported"));
    bench.hear(&message);
    assert_eq!(bench.drain(), [], "the same answer is not given twice");
}

//
#[test]
fn a_request_waits_for_a_server_that_takes_it_and_leaves_once() {
    let mut bench = Bench::greeted();
    let request = ConnectionSettingsRequest {
        opamp: Some(OpAmpConnectionSettingsRequest {
            certificate_request: Some(CertificateRequest {
                csr: b"csr".to_vec(),
            }),
        }),
    };
    bench.session.request_connection_settings(request.clone());
    assert_eq!(
        bench.drain(),
        [],
        "nobody knows whether the server takes it"
    );
    bench.hear(&ServerToAgent {
        capabilities: ServerCapabilities::AcceptsStatus.bit(),
        ..ack()
    });
    assert_eq!(bench.drain(), []);
    bench.hear(&ServerToAgent {
        capabilities: 0x7F,
        ..ack()
    });
    let sent = bench.one().connection_settings_request;
    assert_eq!(sent, Some(request));
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn the_servers_mask_stays_until_it_sends_another() {
    let mut bench = Bench::greeted();
    assert_eq!(bench.session.server_capabilities(), None);
    bench.hear(&ServerToAgent {
        capabilities: 0xFFFF_FFFF,
        ..ack()
    });
    bench.hear(&ack());
    assert_eq!(bench.session.server_capabilities(), Some(0xFFFF_FFFF));
    assert_eq!(
        bench.events(),
        [SessionEvent::ServerCapabilities(0xFFFF_FFFF)]
    );
    assert_eq!(bench.drain(), []);
}

//
#[test]
fn a_server_without_mask_is_assumed_able() {
    let mut bench = Bench::greeted();
    bench.session.set_effective_config(effective("b: 1"));
    assert_eq!(fields_of(&bench.one()), ["effective"]);
}

//
#[test]
fn what_the_server_lacks_is_kept_back_until_it_can() {
    let mut bench = Bench::greeted();
    bench.hear(&ServerToAgent {
        capabilities: ServerCapabilities::AcceptsStatus.bit(),
        ..ack()
    });
    bench.session.set_effective_config(effective("b: 1"));
    bench.session.set_package_statuses(PackageStatuses {
        error_message: "x".to_owned(),
        ..PackageStatuses::default()
    });
    assert_eq!(bench.drain(), []);
    assert!(bench.session.poll_event().is_some());
    assert!(bench.session.is_drained());
    bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
    let sent = fields_of(&bench.one());
    assert_eq!(
        sent,
        [
            "description",
            "health",
            "remote",
            "settings",
            "components",
            "custom"
        ]
    );
    bench.hear(&ServerToAgent {
        capabilities: 0x7F,
        ..ack()
    });
    assert_eq!(fields_of(&bench.one()), ["effective", "packages"]);
}

// also where the server was told before the bit was taken away.
#[test]
fn a_bit_that_comes_back_brings_its_field_once_more() {
    let cases = [
        (AgentCapabilities::ReportsHealth, "health"),
        (AgentCapabilities::ReportsEffectiveConfig, "effective"),
        (AgentCapabilities::ReportsRemoteConfig, "remote"),
        (AgentCapabilities::ReportsPackageStatuses, "packages"),
        (AgentCapabilities::ReportsAvailableComponents, "components"),
        (
            AgentCapabilities::ReportsConnectionSettingsStatus,
            "settings",
        ),
    ];
    for (bit, field) in cases {
        let mut bench = Bench::greeted();
        bench.session.set_capabilities(ALL & !bit.bit());
        assert_eq!(fields_of(&bench.one()), [""; 0], "{field}");
        bench.session.set_capabilities(ALL);
        assert_eq!(fields_of(&bench.one()), [field]);
    }
}

#[test]
fn a_new_bit_whose_field_was_never_set_costs_one_message() {
    let mut bench = Bench::with(0);
    bench.connect();
    bench.one();
    bench.hear(&ack());
    bench.session.set_capabilities(ALL);
    assert_eq!(fields_of(&bench.one()), [""; 0]);
}

//
#[test]
fn the_list_of_the_servers_custom_capabilities_is_shown_as_it_was_told() {
    let mut bench = Bench::greeted();
    assert_eq!(bench.session.server_custom_capabilities(), None);
    bench.hear(&ServerToAgent {
        custom_capabilities: Some(super::custom(&["org.example.a", "org.example.b"])),
        ..ack()
    });
    let told = ["org.example.a".to_owned(), "org.example.b".to_owned()];
    assert_eq!(bench.session.server_custom_capabilities(), Some(&told[..]));
}

#[test]
fn what_is_refused_is_told_anew_on_the_next_connection() {
    let mut bench = Bench::with(0);
    for _ in 0..2 {
        bench.connect();
        bench.one();
        bench.hear(&command(0));
        bench.hear(&command(0));
        assert_eq!(bench.events(), [SessionEvent::Refused(Refusal::Command)]);
        bench.session.handle_disconnected(bench.now);
    }
}

// only what is in force is called applied.
#[test]
fn an_offer_to_an_agent_that_takes_none_is_applied_only_if_it_is_an_interval_alone() {
    let beat = AgentCapabilities::ReportsHeartbeat.bit();
    let status = AgentCapabilities::ReportsConnectionSettingsStatus.bit();
    let interval = OpAmpConnectionSettings {
        heartbeat_interval_seconds: 7,
        ..OpAmpConnectionSettings::default()
    };
    let elsewhere = OpAmpConnectionSettings {
        destination_endpoint: "wss://elsewhere".to_owned(),
        ..interval.clone()
    };
    let metrics = Some(TelemetryConnectionSettings::default());
    let cases = [
        (
            beat,
            interval.clone(),
            None,
            ConnectionSettingsStatuses::Applied,
        ),
        (
            0,
            interval.clone(),
            None,
            ConnectionSettingsStatuses::Failed,
        ),
        (beat, elsewhere, None, ConnectionSettingsStatuses::Failed),
        (beat, interval, metrics, ConnectionSettingsStatuses::Failed),
    ];
    for (case, (bits, opamp, own_metrics, wanted)) in cases.into_iter().enumerate() {
        let mut bench = Bench::with(status | bits);
        bench.connect();
        bench.one();
        bench.hear(&ServerToAgent {
            connection_settings: Some(ConnectionSettingsOffers {
                hash: b"h".to_vec(),
                opamp: Some(opamp),
                own_metrics,
                ..ConnectionSettingsOffers::default()
            }),
            ..ack()
        });
        let told = bench.one().connection_settings_status.unwrap();
        assert_eq!(told.last_connection_settings_hash, b"h", "{case}");
        assert_eq!(told.status, wanted as i32, "{case}");
    }
}
