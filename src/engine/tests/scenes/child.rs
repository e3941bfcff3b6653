//! What becomes of what a child says about itself over its own link, and of a child that is told about a new pair.

use opamp_client::frame;
use opamp_client::messages::{
    AgentConfigFile, AgentConfigMap, AgentDescription, AgentToServer, AvailableComponents,
    ComponentDetails, ComponentHealth, EffectiveConfig, RemoteConfigStatus,
};

use super::OFFER;
use crate::engine::message::{AgentEvent, LayerKind, LocalEvent};
use crate::engine::report::attribute;
use crate::engine::tests::rig::Bench;

const LINKED: &str = "profile: linked, apply: {probation: 10s, reload: hup}";

impl Bench {
    pub(super) fn child(&mut self, connection: u64, event: LocalEvent) {
        self.happens(AgentEvent::Local { connection, event });
    }

    pub(super) fn child_opens(&mut self, connection: u64) {
        self.child(connection, LocalEvent::Opened { peer_pid: None });
    }

    #[expect(clippy::needless_pass_by_value, reason = "each is made for one call")]
    fn child_says(&mut self, connection: u64, message: AgentToServer) {
        let frame = frame::encode(&message, frame::MAX_MESSAGE_DEFAULT).unwrap();
        self.child(connection, LocalEvent::Frame(frame));
    }

    /// It says which config it has.
    pub(super) fn child_proves(&mut self, connection: u64) {
        let current = self.disk.current.as_ref().unwrap();
        let files = &self.disk.revisions[current].files;
        let marker = files.iter().find(|file| file.layer == LayerKind::Marker);
        let marker = String::from_utf8(marker.unwrap().bytes.clone()).unwrap();
        let hash = marker.split('"').nth(1).unwrap().to_owned();
        self.child_says(connection, described(&hash));
    }
}

impl Bench {
    /// What the server read last as the config that runs.
    fn runs_in_words(&self) -> String {
        let shown = self.shown.as_ref().and_then(|it| it.config_map.as_ref());
        let files = shown.into_iter().flat_map(|it| it.config_map.values());
        files
            .map(|file| String::from_utf8_lossy(&file.body))
            .collect()
    }

    /// It says that it is well.
    pub(super) fn child_is_well(&mut self, connection: u64) {
        self.child_says(connection, with_health(well(true, "")));
    }
}

fn described(hash: &str) -> AgentToServer {
    AgentToServer {
        instance_uid: vec![3; 16],
        agent_description: Some(AgentDescription {
            identifying_attributes: vec![
                attribute("service.name", "otelcol"),
                attribute("service.version", "1.2"),
            ],
            non_identifying_attributes: vec![
                attribute("os.type", "linux"),
                attribute("adjutant.revision", hash),
            ],
        }),
        ..AgentToServer::default()
    }
}

fn well(healthy: bool, error: &str) -> ComponentHealth {
    ComponentHealth {
        healthy,
        last_error: error.to_owned(),
        status: "StatusOK".to_owned(),
        ..ComponentHealth::default()
    }
}

fn with_health(health: ComponentHealth) -> AgentToServer {
    AgentToServer {
        health: Some(health),
        ..AgentToServer::default()
    }
}

fn with_components(hash: &str, names: &[&str]) -> AgentToServer {
    let components = names
        .iter()
        .map(|name| ((*name).to_owned(), ComponentDetails::default()));
    AgentToServer {
        available_components: Some(AvailableComponents {
            hash: hash.as_bytes().to_vec(),
            components: components.collect(),
        }),
        ..AgentToServer::default()
    }
}

#[test]
fn what_a_child_says_of_itself_is_told_on_and_shown_and_forgotten_with_its_link() {
    let mut bench = Bench::told(LINKED, &[]);
    bench.boot();
    bench.offer("o1", OFFER);
    bench.run_s(1);
    bench.chapter("It connects, and says things before who it is");
    bench.child_opens(1);
    bench.child_says(1, with_health(well(false, "")));
    bench.child_says(1, described("another"));
    bench.chapter("It proves its config");
    bench.child_proves(1);
    let mut health = well(true, "");
    for (name, healthy, error) in [("pipeline", true, ""), ("exporter", false, "no route")] {
        health
            .component_health_map
            .insert(name.to_owned(), well(healthy, error));
    }
    bench.child_says(1, with_health(health));
    bench.run_s(20);
    bench.chapter("What it is made of");
    bench.child_says(1, with_components("h1", &[]));
    bench.child_says(1, with_components("h1", &["receivers", "exporters"]));
    bench.child_says(1, with_components("h1", &[]));
    bench.chapter("What it runs with");
    let file = AgentConfigFile {
        body: b"exporters: {offered: {api_key: hush}}\n".to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    bench.child_says(
        1,
        AgentToServer {
            effective_config: Some(EffectiveConfig {
                config_map: Some(AgentConfigMap {
                    config_map: [(String::new(), file)].into(),
                }),
            }),
            ..AgentToServer::default()
        },
    );
    bench.chapter("What became of a config, in its own words");
    for (status, message) in [(2, ""), (3, "bad"), (1, "")] {
        bench.child_says(
            1,
            AgentToServer {
                remote_config_status: Some(RemoteConfigStatus {
                    last_remote_config_hash: b"x".to_vec(),
                    status,
                    error_message: message.to_owned(),
                }),
                ..AgentToServer::default()
            },
        );
    }
    bench.chapter("It is not well");
    bench.child_says(1, with_health(well(false, "out of memory")));
    bench.chapter("Garbage, and a connection that is not its own");
    bench.child(1, LocalEvent::Frame(vec![1, 2, 3]));
    bench.child_says(2, with_health(well(true, "")));
    bench.child(2, LocalEvent::Closed);
    bench.chapter("A second connection takes the place of the first");
    bench.child_opens(3);
    bench.child_says(1, with_health(well(true, "")));
    bench.child_says(3, with_health(well(true, "")));
    bench.chapter("A new config comes by HUP");
    bench.offer("o2", "exporters: {other: {}}\n");
    bench.run_s(1);
    bench.child_opens(4);
    bench.child_proves(4);
    bench.child_says(4, with_health(well(true, "")));
    bench.run_s(20);
    bench.chapter("The link is closed");
    bench.child(4, LocalEvent::Closed);
    bench.run_s(5);
    bench.chapter("It dies");
    bench.kill();
    bench.run_s(5);
    bench.stops();
    bench.is("child", include_str!("child.txt"));
}

fn with_effective(text: &str) -> AgentToServer {
    let file = AgentConfigFile {
        body: text.as_bytes().to_vec(),
        content_type: "text/yaml".to_owned(),
    };
    AgentToServer {
        effective_config: Some(EffectiveConfig {
            config_map: Some(AgentConfigMap {
                config_map: [(String::new(), file)].into(),
            }),
        }),
        ..AgentToServer::default()
    }
}

#[test]
fn what_runs_is_told_in_the_words_of_a_child_with_layers_as_long_as_it_runs() {
    let stops = "profile: linked, apply: {probation: 10s, reload: hup, empty_config: stop}";
    let mut bench = Bench::new(stops, &[]);
    bench.boot();
    bench.offer("o1", OFFER);
    bench.run_s(1);
    bench.child_opens(1);
    bench.child_proves(1);
    bench.child_is_well(1);
    bench.run_s(20);
    assert!(bench.runs_in_words().contains("offered"));
    bench.child_says(1, with_effective("by_the_child: 1\n"));
    bench.run_s(1);
    assert_eq!(bench.runs_in_words(), "by_the_child: 1\n");
    bench.offer_nothing("o2");
    bench.run_s(20);
    assert!(!bench.is_up());
    assert_eq!(bench.runs_in_words(), "");
}

#[test]
fn what_runs_is_told_in_our_words_where_the_program_has_no_layers() {
    let mut bench = Bench::new("profile: plain, apply: {probation: 10s}", &[]);
    bench.boot();
    bench.run_s(1);
    bench.offers_named("o1", "a.yaml", "by_us: 1\n");
    bench.run_s(20);
    bench.child_opens(1);
    bench.child_says(1, described("another"));
    bench.child_says(1, with_effective("by_the_child: 1\n"));
    bench.run_s(1);
    assert_eq!(bench.runs_in_words(), "by_us: 1\n");
}
