//! Bounds, field by field: what is too large is left out by its own name, and what waits is counted as what it is.

use super::*;

/// How a field is made so large that no other is larger; with its name in `AgentToServer` and in [`fields_of`].
type Large = (&'static str, &'static str, fn(&mut Session, usize));

const LARGE: [Large; 10] = [
    ("agent_description", "description", |session, bytes| {
        session.set_description(description(&"x".repeat(bytes)));
    }),
    ("health", "health", |session, bytes| {
        session.set_health(health(&"x".repeat(bytes)));
    }),
    ("effective_config", "effective", |session, bytes| {
        session.set_effective_config(effective(&"x".repeat(bytes)));
    }),
    ("remote_config_status", "remote", |session, bytes| {
        session.set_remote_config_status(status(&vec![1; bytes], RemoteConfigStatuses::Applied));
    }),
    ("package_statuses", "packages", |session, bytes| {
        session.set_package_statuses(PackageStatuses {
            error_message: "x".repeat(bytes),
            ..PackageStatuses::default()
        });
    }),
    ("available_components", "components", |session, bytes| {
        session.set_available_components(components(&vec![1; bytes]));
    }),
    (
        "connection_settings_status",
        "settings",
        |session, bytes| {
            session.set_connection_settings_status(ConnectionSettingsStatus {
                last_connection_settings_hash: vec![1; bytes],
                ..ConnectionSettingsStatus::default()
            });
        },
    ),
    ("custom_capabilities", "custom", |session, bytes| {
        session.set_custom_capabilities(super::custom(&["org.example.echo", &"x".repeat(bytes)]));
    }),
    ("custom_message", "message", |session, bytes| {
        session
            .send_custom_message(echo(&"x".repeat(bytes)))
            .expect("announced");
    }),
    (
        "connection_settings_request",
        "request",
        |session, bytes| {
            session.request_connection_settings(ConnectionSettingsRequest {
                opamp: Some(OpAmpConnectionSettingsRequest {
                    certificate_request: Some(CertificateRequest {
                        csr: vec![1; bytes],
                    }),
                }),
            });
        },
    ),
];

/// All fields set, answered by a server that takes all there is.
fn greeted(max_message: usize) -> Bench {
    let mut bench = Bench::full();
    bench.session.max_message = max_message;
    bench.connect();
    bench.one();
    bench.hear(&ServerToAgent {
        capabilities: u64::MAX,
        ..ack()
    });
    bench.events();
    bench
}

fn is_oversize(event: &SessionEvent, name: &str, least: usize) -> bool {
    matches!(event, SessionEvent::Oversize { field, bytes } if *field == name && *bytes >= least)
}

//
#[test]
fn each_field_that_does_not_fit_is_left_out_alone_and_told_by_its_name() {
    for (name, short, enlarge) in LARGE {
        let mut bench = greeted(2048);
        enlarge(&mut bench.session, 3000);
        bench.hear(&flagged(ServerToAgentFlags::ReportFullState));
        let sent = bench.one();
        let told = bench.events();
        assert!(is_oversize(&told[0], name, 3000), "{name}: {told:?}");
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert_eq!(bench.session.stats().dropped_oversize, 1, "{name}");
        let rest: Vec<_> = EVERY_FIELD
            .into_iter()
            .filter(|field| *field != short)
            .collect();
        assert_eq!(fields_of(&sent), rest, "{name}");
    }
}

//
#[test]
fn each_field_that_a_server_finds_too_large_is_kept_back_until_it_changes() {
    for (name, short, enlarge) in LARGE {
        let mut bench = greeted(1024 * 1024);
        enlarge(&mut bench.session, 3000);
        assert_eq!(fields_of(&bench.one()), [short], "{name}");
        bench.session.handle_too_large(bench.now);
        let told = bench.events();
        assert!(is_oversize(&told[0], name, 3000), "{name}: {told:?}");
        bench.session.handle_disconnected(bench.now);
        bench.connect();
        let again = bench.one();
        let rest: Vec<_> = EVERY_FIELD
            .into_iter()
            .filter(|field| *field != short)
            .collect();
        assert_eq!(fields_of(&again), rest, "{name}");
        bench.hear(&ack());
        enlarge(&mut bench.session, 10);
        assert_eq!(fields_of(&bench.one()), [short], "{name}");
    }
}

// over HTTP too, where what was not taken is otherwise given back.
#[test]
fn each_field_of_a_request_that_is_too_large_is_not_in_the_next_one() {
    for (name, short, enlarge) in LARGE {
        let mut bench = greeted(1024 * 1024);
        bench.session.handle_disconnected(bench.now);
        bench.session.handle_polling(bench.now);
        bench.one();
        bench.hear(&ack());
        enlarge(&mut bench.session, 3000);
        assert_eq!(fields_of(&bench.one()), [short], "{name}");
        bench.session.handle_too_large(bench.now);
        bench.session.handle_disconnected(bench.now);
        bench.session.handle_polling(bench.now);
        for sent in bench.drain() {
            assert!(!fields_of(&sent).contains(&short), "{name}");
        }
    }
}

//
#[test]
fn what_waits_is_counted_with_all_it_holds() {
    let large = "x".repeat(5000);
    let settings = ConnectionSettingsOffers {
        opamp: Some(OpAmpConnectionSettings {
            destination_endpoint: large.clone(),
            ..OpAmpConnectionSettings::default()
        }),
        ..ConnectionSettingsOffers::default()
    };
    let packages = PackagesAvailable {
        all_packages_hash: vec![1; 5000],
        ..PackagesAvailable::default()
    };
    let mut complaint = error(0, None);
    if let Some(response) = &mut complaint.error_response {
        response.error_message = "x".repeat(1000);
    }
    let cases = [
        (
            ServerToAgent {
                remote_config: Some(offer(&[1; 5000])),
                ..ack()
            },
            5000,
        ),
        (
            ServerToAgent {
                connection_settings: Some(settings),
                ..ack()
            },
            5000,
        ),
        (
            ServerToAgent {
                packages_available: Some(packages),
                ..ack()
            },
            5000,
        ),
        (
            ServerToAgent {
                custom_capabilities: Some(super::custom(&[&large])),
                ..ack()
            },
            5000,
        ),
        (complaint, 1000),
    ];
    let empty = {
        let mut bench = Bench::greeted();
        bench.hear(&command(0));
        bench.session.queued_bytes()
    };
    for (message, least) in cases {
        let mut bench = Bench::greeted();
        bench.events();
        bench.hear(&message);
        let held = bench.session.queued_bytes();
        assert!(held >= empty + least, "{held} of {message:?}");
        assert_eq!(bench.events().len(), 1);
        assert_eq!(bench.session.queued_bytes(), 0);
    }
    let mut bench = Bench::greeted();
    bench.hear(&ServerToAgent {
        instance_uid: vec![1; 100],
        ..ServerToAgent::default()
    });
    assert_eq!(bench.session.queued_bytes(), empty + 32);
}

#[test]
fn events_may_fill_the_bound_to_the_byte() {
    let say = ServerToAgent {
        custom_message: Some(echo(&"x".repeat(2000))),
        ..ack()
    };
    let one = {
        let mut bench = greeted(1024 * 1024);
        bench.hear(&say);
        bench.session.queued_bytes()
    };
    for (limit, kept) in [(2 * one, 2), (2 * one - 1, 1)] {
        let mut bench = Bench::of(SessionConfig {
            max_message: limit,
            ..SessionConfig::new(UID, ALL)
        });
        let known = super::custom(&["org.example.echo"]);
        bench.session.set_custom_capabilities(known);
        bench.connect();
        bench.drain();
        bench.hear(&say);
        bench.hear(&say);
        assert_eq!(bench.events().len(), kept, "{limit}");
    }
}

//
#[test]
fn a_complaint_of_the_longest_size_is_kept_whole() {
    for (length, kept) in [(1023, 1023), (1024, 1024), (1025, 1024)] {
        let mut bench = Bench::greeted();
        let mut complaint = error(0, None);
        if let Some(response) = &mut complaint.error_response {
            response.error_message = "x".repeat(length);
        }
        bench.hear(&complaint);
        let told = bench.events();
        assert!(
            matches!(&told[0], SessionEvent::ServerError { message, .. } if message.len() == kept),
            "{length}: {told:?}"
        );
    }
}

// the list itself is a level, so that the tree ends below the limit of decoders.
#[test]
fn components_below_the_thirty_second_level_are_cut() {
    let mut chain = ComponentDetails::default();
    for _ in 0..40 {
        chain = ComponentDetails {
            sub_component_map: [("x".to_owned(), chain)].into(),
            ..ComponentDetails::default()
        };
    }
    let mut bench = Bench::greeted();
    bench.session.set_available_components(AvailableComponents {
        components: [("x".to_owned(), chain)].into(),
        hash: b"deep".to_vec(),
    });
    bench.one();
    bench.hear(&flagged(ServerToAgentFlags::ReportAvailableComponents));
    let mut list = bench.one().available_components.unwrap().components;
    let mut levels = 0;
    while let Some(component) = list.remove("x") {
        levels += 1;
        list = component.sub_component_map;
    }
    assert_eq!(levels, 31);
}
