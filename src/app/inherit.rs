//! Reads what the OpenTelemetry Collector's supervisor left in its state directory.
//!
//! Promises: its files stay as they are, byte for byte, so that the way back is open; one that cannot be understood is
//! a line in the log and nothing more.
//! Must never: look into a state directory that has a config of ours.

use std::path::Path;

#[cfg(feature = "telemetry")]
use opamp_client::messages::ConnectionSettingsOffers;
use opamp_client::messages::{AgentRemoteConfig, RemoteConfigStatuses};
use prost::Message as _;

use super::identity::{FOREIGN_BYTES_MAX, FOREIGN_STATE};
use crate::config::{Agent, Config, Form};
use crate::engine::message::{Inheritance, InheritedOffer, OfferedFile, Persisted};
use crate::port::child::ChildDirs;
use crate::sys::durable::{Disk as _, Kind, RealDisk, swap_link};
use crate::units::OfferHash;
use crate::yaml::{self, Limits, Node};

/// The last offer it received.
const RECEIVED: &str = "last_recv_remote_config.dat";
/// The last one that worked; written only where it goes back by itself.
const WORKING: &str = "last_working_remote_config.dat";
/// Where the Collector's own telemetry went: an offer of connection settings with these kinds alone, and no hash.
#[cfg(feature = "telemetry")]
const TELEMETRY: &str = "last_recv_own_telemetry_config.dat";
/// The output of its Collector, and the name that is kept under.
const LOG: &str = "agent.log";
const OLD_LOG: &str = "agent.log.opampsupervisor";
/// Bytes of one of them that are read: as much as one OpAMP message may have.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What it left for an agent, if this is the first start after it.
pub(super) fn inheritance(
    state: &Path,
    config: &Config,
    agent: &Agent,
    persisted: &Persisted,
) -> Option<Box<Inheritance>> {
    if !Form::is_theirs(Some(config.form)) || persisted.current.is_some() {
        return None;
    }
    let mut received = offer(&state.join(RECEIVED));
    let mut working = offer(&state.join(WORKING));
    if !agent.apply.accept_remote && (received.is_some() || working.is_some()) {
        tracing::warn!(
            "config of opampsupervisor not taken over, capabilities.accepts_remote_config is off"
        );
        (received, working) = (None, None);
    }
    let failed = received.as_ref().and_then(|it| failure(state, &it.hash));
    #[cfg(feature = "telemetry")]
    let destinations = destinations(state, agent, persisted).map(Box::new);
    #[cfg(feature = "telemetry")]
    let none = destinations.is_none();
    #[cfg(not(feature = "telemetry"))]
    let none = true;
    if received.is_none() && working.is_none() && none {
        return None;
    }
    Some(Box::new(Inheritance {
        #[cfg(feature = "telemetry")]
        destinations,
        received,
        failed,
        working,
    }))
}

/// Where the server wanted the agent's own telemetry, unless one has offered that to us already.
#[cfg(feature = "telemetry")]
fn destinations(
    state: &Path,
    agent: &Agent,
    persisted: &Persisted,
) -> Option<ConnectionSettingsOffers> {
    if agent.own_telemetry.kinds == 0 || persisted.connection.is_some() {
        return None;
    }
    let path = state.join(TELEMETRY);
    let read = match RealDisk.read(&path, BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
        Ok(bytes) => {
            ConnectionSettingsOffers::decode(bytes.as_slice()).map_err(|it| it.to_string())
        }
    };
    let kinds = |offers: &ConnectionSettingsOffers| {
        [&offers.own_metrics, &offers.own_traces, &offers.own_logs]
            .iter()
            .any(|kind| kind.is_some())
    };
    match read {
        // Nothing was directed anywhere.
        Ok(offers) => Some(offers).filter(kinds),
        Err(error) => {
            tracing::warn!(path = %path.display(), error, "destinations of own telemetry not taken over");
            None
        }
    }
}

/// Puts `agent.log` where that supervisor had it: a link to the log, which is rotated below it. `tail -F` follows both.
pub(super) fn show_log(state: &Path, agent: &Agent, dirs: &ChildDirs) {
    if !agent.shows_files {
        return;
    }
    let link = state.join(LOG);
    let shown = || {
        let kind = RealDisk.kind(&link)?;
        if agent.passthrough_logs {
            // It would show an old log as if it were the present one.
            return match kind {
                Kind::Link => RealDisk.remove_file(&link),
                Kind::Absent | Kind::File { .. } | Kind::Dir | Kind::Other => Ok(()),
            };
        }
        if matches!(kind, Kind::File { .. }) {
            // What it wrote itself is kept.
            RealDisk.rename(&link, &state.join(OLD_LOG))?;
        }
        let log = dirs.log_file(&agent.name);
        let log = log.strip_prefix(state).unwrap_or(&log).to_owned();
        swap_link(&RealDisk, &link, &log)
    };
    if let Err(error) = shown() {
        tracing::warn!(path = %link.display(), %error, "log of the agent not shown here");
    }
}

fn offer(path: &Path) -> Option<InheritedOffer> {
    let bytes = match RealDisk.read(path, BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "config not taken over");
            return None;
        }
    };
    let read = AgentRemoteConfig::decode(bytes.as_slice());
    let read = read.map_err(|error| error.to_string()).and_then(|read| {
        let files = read.config.ok_or("it holds no config")?;
        if read.config_hash.is_empty() {
            return Err("it holds no hash".to_owned());
        }
        Ok((read.config_hash, files.config_map))
    });
    match read {
        Ok((hash, files)) => Some(InheritedOffer {
            hash: OfferHash::new(hash),
            files: files
                .into_iter()
                .map(|(name, file)| OfferedFile {
                    name,
                    content_type: file.content_type,
                    body: file.body,
                })
                .collect(),
        }),
        Err(error) => {
            tracing::warn!(path = %path.display(), error, "config not taken over");
            None
        }
    }
}

/// Why the last offer did not hold, where that supervisor says so of this very one.
fn failure(state: &Path, received: &OfferHash) -> Option<String> {
    let bytes = RealDisk.read(&state.join(FOREIGN_STATE), FOREIGN_BYTES_MAX);
    let text = String::from_utf8(bytes.ok()?).ok()?;
    let node = yaml::parse(FOREIGN_STATE, &text, Limits::SETTINGS).ok()?;
    let key = |name: &str| {
        node.at(&["last_remote_config_status", name])
            .and_then(Node::text)
    };
    let is_failed = key("status") == Some(&(RemoteConfigStatuses::Failed as i32).to_string());
    let is_this = key("last_remote_config_hash") == Some(&received.to_hex());
    (is_failed && is_this).then(|| {
        let why = key("error_message").filter(|why| !why.is_empty());
        why.unwrap_or("it failed under opampsupervisor").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use opamp_client::messages::{AgentConfigFile, AgentConfigMap};

    use super::*;
    use crate::app::{Given, settings};

    const THEIRS: &str = "agent:\n  executable: /bin/sh\nserver:\n  endpoint: ws://127.0.0.1:1\ncapabilities: \
                          {accepts_remote_config: true}\n";

    fn put(path: &Path, bytes: &[u8]) {
        RealDisk.write_file(path, bytes, 0o600).unwrap();
    }

    fn config(dir: &Path, text: &str) -> Config {
        let path = dir.join("supervisor.yaml");
        put(&path, text.as_bytes());
        settings(&Given {
            settings: Some(path),
            state_dir: Some(dir.to_owned()),
            ..Given::default()
        })
        .unwrap()
    }

    fn found(dir: &Path, text: &str) -> Option<Box<Inheritance>> {
        let config = config(dir, text);
        inheritance(dir, &config, &config.agents[0], &Persisted::default())
    }

    fn message(hash: &[u8], files: &[(&str, &str)]) -> Vec<u8> {
        let config_map = files.iter().map(|(name, body)| {
            let file = AgentConfigFile {
                body: body.as_bytes().to_vec(),
                content_type: "text/yaml".to_owned(),
            };
            ((*name).to_owned(), file)
        });
        AgentRemoteConfig {
            config: Some(AgentConfigMap {
                config_map: config_map.collect(),
            }),
            config_hash: hash.to_vec(),
        }
        .encode_to_vec()
    }

    #[test]
    fn both_configs_and_the_failure_of_the_last_are_read_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let received = message(b"\xab\x01", &[("a.yaml", "a: 1\n"), ("", "b: 2\n")]);
        put(&dir.path().join(RECEIVED), &received);
        put(
            &dir.path().join(WORKING),
            &message(b"\x02", &[("a.yaml", "a: 0\n")]),
        );
        let state = "instance_id: 0190a6d0-0000-7000-8000-00000000002a\nlast_remote_config_status:\n    status: 3\n    \
                     last_remote_config_hash: ab01\n    error_message: no such receiver\n";
        put(&dir.path().join(FOREIGN_STATE), state.as_bytes());
        let found = found(dir.path(), THEIRS).unwrap();
        let received_offer = found.received.unwrap();
        assert_eq!(received_offer.hash, OfferHash::new(b"\xab\x01".to_vec()));
        let names: Vec<_> = received_offer
            .files
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(names, ["", "a.yaml"]);
        assert_eq!(received_offer.files[1].body, b"a: 1\n");
        assert_eq!(found.failed.as_deref(), Some("no such receiver"));
        assert_eq!(
            found.working.unwrap().hash,
            OfferHash::new(b"\x02".to_vec())
        );
        assert_eq!(
            RealDisk.read(&dir.path().join(RECEIVED), 9999).unwrap(),
            received
        );
    }

    #[test]
    fn what_is_broken_or_not_wanted_is_left_alone() {
        let good = message(b"\x01", &[("a.yaml", "a: 1\n")]);
        let cut = &good[..good.len() - 3];
        for broken in [
            cut,
            b"\xff\xff\xff",
            b"",
            message(b"", &[("a", "b")]).as_slice(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            put(&dir.path().join(RECEIVED), broken);
            assert_eq!(found(dir.path(), THEIRS), None, "{broken:?}");
            // The other one still counts.
            put(&dir.path().join(WORKING), &good);
            let found = found(dir.path(), THEIRS).unwrap();
            assert_eq!(found.received, None);
            assert_eq!(
                found.working.unwrap().hash,
                OfferHash::new(b"\x01".to_vec())
            );
            assert_eq!(
                RealDisk.read(&dir.path().join(RECEIVED), 9999).unwrap(),
                broken
            );
        }
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join(RECEIVED), &good);
        assert_eq!(found(dir.path(), &THEIRS.replace("true", "false")), None);
        assert_eq!(
            found(
                dir.path(),
                "agents: {a: {profile: generic, executable: /bin/sh}}\n"
            ),
            None
        );
    }

    #[cfg(feature = "telemetry")]
    #[test]
    fn destinations_are_read_where_the_settings_leave_them_to_a_server_and_we_know_of_none() {
        use opamp_client::messages::TelemetryConnectionSettings;
        use opamp_client::settings::SavedSettings;

        // As version 0.158.0 writes it: the kinds alone, without a hash.
        let offers = ConnectionSettingsOffers {
            own_metrics: Some(TelemetryConnectionSettings {
                destination_endpoint: "http://127.0.0.1:9/v1/metrics".to_owned(),
                ..TelemetryConnectionSettings::default()
            }),
            ..ConnectionSettingsOffers::default()
        };
        let bytes = offers.encode_to_vec();
        let on = THEIRS.replace("accepts_remote_config", "reports_own_metrics");
        let off = THEIRS.replace('{', "{reports_own_metrics: false, ");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TELEMETRY);
        put(&path, &bytes);
        let left = found(dir.path(), &on).unwrap();
        assert_eq!(left.destinations, Some(Box::new(offers)));
        assert_eq!((left.received, left.working), (None, None));
        assert_eq!(found(dir.path(), &off), None);
        let config = config(dir.path(), &on);
        let ours = Persisted {
            connection: Some(SavedSettings(Vec::new())),
            ..Persisted::default()
        };
        assert_eq!(
            inheritance(dir.path(), &config, &config.agents[0], &ours),
            None
        );
        for broken in [&bytes[..bytes.len() - 3], b"\xff\xff\xff", b""] {
            put(&path, broken);
            assert_eq!(found(dir.path(), &on), None, "{broken:?}");
            assert_eq!(RealDisk.read(&path, 9999).unwrap(), broken);
        }
    }

    #[test]
    fn failure_of_another_offer_says_nothing_about_this_one() {
        let dir = tempfile::tempdir().unwrap();
        put(
            &dir.path().join(RECEIVED),
            &message(b"\x07", &[("a.yaml", "a: 1\n")]),
        );
        for (status, hash) in [("3", "08"), ("1", "07"), ("2", "07")] {
            let state = format!(
                "last_remote_config_status: {{status: {status}, last_remote_config_hash: '{hash}'}}\n"
            );
            put(&dir.path().join(FOREIGN_STATE), state.as_bytes());
            assert_eq!(found(dir.path(), THEIRS).unwrap().failed, None, "{state}");
        }
    }
}
