//! Who this host's agents are to a server: read, made up once, and saved before anybody hears of it.
//!
//! Promises: an instance uid is on disk before it is used, and stays the same until a server changes it or the
//! directory wakes up on another machine; the first start on a state directory of the OpenTelemetry Collector's
//! supervisor takes over its identity.
//! Must never: overwrite what a newer version wrote, or keep two machines under one identity.

use std::path::Path;

use super::start::unusable;
use super::{AppError, AppErrorKind};
use crate::config::{Config, Form};
use crate::engine::message::Identity;
use crate::port::host::HostFacts;
use crate::port::store::IdentityStore;
use crate::sys::durable::{Disk as _, RealDisk};
use crate::units::WallTime;
use crate::yaml::{self, Limits};

/// The name under which the identity file has the supervisor's own uid. No agent can have it.
const SUPERVISOR: &str = "(supervisor)";
/// The state file of the OpenTelemetry Collector's supervisor.
pub(super) const FOREIGN_STATE: &str = "persistent_state.yaml";
/// Bytes of it that are read; it has three short keys.
pub(super) const FOREIGN_BYTES_MAX: u64 = 64 * 1024;

/// Reads the identity and completes it for the agents of the settings.
pub(super) fn establish(
    state: &Path,
    config: &Config,
    facts: &HostFacts,
    wall: WallTime,
) -> Result<(IdentityStore<RealDisk>, Identity), AppError> {
    let (store, loaded) = IdentityStore::load(RealDisk, state)
        .map_err(|fault| unusable(anyhow::Error::msg(fault.reason)))?;
    if let Some(repair) = &loaded.repair {
        tracing::warn!(repair, "state repaired");
    }
    let is_first = loaded.identity.is_none() && loaded.repair.is_none();
    let before = loaded.identity.unwrap_or_default();
    let mut identity = before.clone();
    if is_cloned(&before, facts) {
        tracing::warn!(
            from = before.machine_id,
            to = facts.machine_id,
            "state directory comes from another machine, agents get new instance uids"
        );
        identity.instance_uids.clear();
    }
    if !facts.machine_id.is_empty() {
        identity.machine_id.clone_from(&facts.machine_id);
    }
    for (index, agent) in config.agents.iter().enumerate() {
        if identity.instance_uids.contains_key(agent.name.as_str()) {
            continue;
        }
        let imported = (is_first && index == 0 && Form::is_theirs(Some(config.form)))
            .then(|| foreign_uid(state))
            .flatten();
        let uid = match imported.or(agent.instance_uid) {
            Some(uid) => uid,
            None => new_uid(wall)?,
        };
        identity.instance_uids.insert(agent.name.to_string(), uid);
    }
    if !identity.instance_uids.contains_key(SUPERVISOR) {
        identity
            .instance_uids
            .insert(SUPERVISOR.to_owned(), new_uid(wall)?);
    }
    if identity == before {
        return Ok((store, identity));
    }
    if let Some(reason) = &loaded.frozen {
        tracing::warn!(reason, "identity not saved");
        return Ok((store, identity));
    }
    store.save(&identity).map_err(|fault| {
        unusable(anyhow::Error::msg(fault.reason).context("save the agents' identities"))
    })?;
    Ok((store, identity))
}

/// The supervisor's own instance id, as telemetry names it.
pub(super) fn supervisor(identity: &Identity) -> String {
    let uid = identity.instance_uids.get(SUPERVISOR);
    let uid = uid.copied().unwrap_or_default();
    uuid::Uuid::from_bytes(uid).hyphenated().to_string()
}

fn is_cloned(before: &Identity, facts: &HostFacts) -> bool {
    let known = !before.machine_id.is_empty() && !facts.machine_id.is_empty();
    known && before.machine_id != facts.machine_id
}

/// A UUID of version 7: sorted by when it was made, random otherwise.
pub(super) fn new_uid(wall: WallTime) -> Result<[u8; 16], AppError> {
    let mut random = [0; 10];
    fill(&mut random)?;
    let uid = uuid::Builder::from_unix_timestamp_millis(wall.unix_millis(), &random);
    Ok(uid.into_uuid().into_bytes())
}

/// A number that nobody can guess, for seeds.
pub(super) fn random_u64() -> Result<u64, AppError> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn fill(bytes: &mut [u8]) -> Result<(), AppError> {
    getrandom::fill(bytes).map_err(|error| AppError {
        kind: AppErrorKind::System,
        cause: anyhow::Error::msg(error.to_string()).context("get random bytes from the system"),
    })
}

/// The uid that the OpenTelemetry Collector's supervisor gave its agent in this directory.
fn foreign_uid(state: &Path) -> Option<[u8; 16]> {
    let path = state.join(FOREIGN_STATE);
    let bytes = RealDisk.read(&path, FOREIGN_BYTES_MAX).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let uid = yaml::parse(FOREIGN_STATE, &text, Limits::SETTINGS)
        .ok()
        .and_then(|node| {
            node.at(&["instance_id"])?
                .text()?
                .parse::<uuid::Uuid>()
                .ok()
        });
    if let Some(uid) = uid {
        tracing::info!(path = %path.display(), service.instance.id = %uid, "identity taken over");
    } else {
        tracing::warn!(path = %path.display(), "identity not taken over, there is no instance_id in it");
    }
    uid.map(uuid::Uuid::into_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Given, settings};

    fn config(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("supervisor.yaml");
        RealDisk.write_file(&path, text.as_bytes(), 0o600).unwrap();
        settings(&Given {
            settings: Some(path),
            state_dir: Some("/state".into()),
            feature_gates: Vec::new(),
        })
        .unwrap()
    }

    fn machine(id: &str) -> HostFacts {
        HostFacts {
            machine_id: id.to_owned(),
            ..HostFacts::default()
        }
    }

    fn establish_at(state: &Path, config: &Config, machine_id: &str) -> Identity {
        let wall = WallTime::from_unix_millis(1_700_000_000_000);
        establish(state, config, &machine(machine_id), wall)
            .unwrap()
            .1
    }

    const TWO: &str = "agents:
  a: {profile: generic, executable: /bin/sh}
  b: {profile: generic, executable: /bin/sh}
";

    #[test]
    fn uids_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(TWO);
        let first = establish_at(dir.path(), &config, "m1");
        // The supervisor has one of its own.
        assert_eq!(first.instance_uids.len(), 3);
        assert_eq!(supervisor(&first).len(), 36);
        assert_ne!(first.instance_uids["a"], first.instance_uids["b"]);
        for uid in first.instance_uids.values() {
            assert_eq!(uuid::Uuid::from_bytes(*uid).get_version_num(), 7);
        }
        assert_eq!(establish_at(dir.path(), &config, "m1"), first);
        // A machine id that cannot be read is no other machine.
        assert_eq!(establish_at(dir.path(), &config, ""), first);
    }

    #[test]
    fn a_cloned_directory_gets_new_uids() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(TWO);
        let first = establish_at(dir.path(), &config, "m1");
        let second = establish_at(dir.path(), &config, "m2");
        assert_eq!(second.machine_id, "m2");
        assert_ne!(first.instance_uids["a"], second.instance_uids["a"]);
        assert_eq!(establish_at(dir.path(), &config, "m2"), second);
    }

    #[test]
    fn the_identity_of_the_collectors_supervisor_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let uid = "0190a6d0-0000-7000-8000-00000000002a";
        let text = format!("instance_id: {uid}\n");
        RealDisk
            .write_file(&dir.path().join(FOREIGN_STATE), text.as_bytes(), 0o600)
            .unwrap();
        let config =
            config("agent:\n  executable: /bin/sh\nserver:\n  endpoint: ws://127.0.0.1:1\n");
        let identity = establish_at(dir.path(), &config, "m1");
        let agents = identity
            .instance_uids
            .iter()
            .filter(|(name, _)| *name != SUPERVISOR);
        let uids: Vec<_> = agents.map(|(_, uid)| *uid).collect();
        assert_eq!(uids, [uid.parse::<uuid::Uuid>().unwrap().into_bytes()]);
    }

    #[cfg(feature = "opampsupervisor")]
    #[test]
    fn the_uid_of_the_settings_is_that_of_the_first_start_alone() {
        let dir = tempfile::tempdir().unwrap();
        let with = |uid: &str| {
            config(&format!(
                "agent:\n  executable: /bin/sh\n  instance_id: {uid}\nserver:\n  endpoint: ws://127.0.0.1:1\n"
            ))
        };
        let (first, later) = (
            "0190a6d0-0000-7000-8000-00000000002a",
            "0190a6d0-0000-7000-8000-00000000002b",
        );
        for settings in [first, later] {
            let identity = establish_at(dir.path(), &with(settings), "m1");
            let uid = identity.instance_uids["collector"];
            assert_eq!(uid, first.parse::<uuid::Uuid>().unwrap().into_bytes());
        }
    }
}
