//! Settings of a house, and the programs that they can name.

use std::path::{Path, PathBuf};

use crate::config::{self, Config, Environment, Overrides};

/// Programs that say as much about themselves as their names tell.
const PROFILES: [(&str, &str); 6] = [
    (
        // Nothing: it is proven when it has stayed up for three seconds.
        "mute",
        "args: []
validate: [validate]
composition: otel_layers
proof: {kind: fresh_process, alive_for: 3s}
health: {kind: process}
",
    ),
    (
        "mute_default",
        "args: []
composition: otel_layers
proof: {kind: fresh_process, alive_for: 3s}
health: {kind: process}
default_config: |
  receivers: {built_in: {}}
",
    ),
    (
        // How often it has reloaded.
        "counting",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: http, url: 'http://127.0.0.1:1/proof', counter: reloads.count}
hup: true
health: {kind: http, url: 'http://127.0.0.1:1/health', interval: 10s, timeout: 2s, failures: 2}
restart_sections: [fixed]
",
    ),
    (
        // Which config it runs.
        "naming",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: http, url: 'http://127.0.0.1:1/proof', expect_revision: true}
hup: true
health: {kind: process}
",
    ),
    (
        // In its log, that it has reloaded.
        "logging",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: output, reloaded: [has reloaded], failed: [bad config], alive_for: 3s}
hup: true
health: {kind: exec, command: [/bin/look, health], interval: 5s, failures: 2}
",
    ),
    (
        // To a program that asks it.
        "answering",
        "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
proof: {kind: exec, command: [/bin/look, proof]}
hup: true
health: {kind: exec, command: [/bin/look, health], interval: 5s, failures: 2}
",
    ),
];

struct Words;

impl Environment for Words {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        let name = path.strip_prefix("/profiles/");
        let name = name.and_then(|name| name.strip_suffix(".yaml"));
        let known = PROFILES.iter().find(|(known, _)| Some(*known) == name);
        match known {
            Some((_, text)) => Ok((*text).to_owned()),
            // Looked at when it is named; what is in it is read by the disk.
            None if path.starts_with("/etc/") => Ok(String::new()),
            None => Err(std::io::Error::other(path.to_owned())),
        }
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }

    fn directory(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(PROFILES
            .map(|(name, _)| format!("/profiles/{name}.yaml").into())
            .to_vec())
    }
}

/// Settings, with these programs.
pub(super) fn load(text: &str) -> Config {
    // The form of the Collector's supervisor knows one program.
    let profiles = if text.contains("agents:") {
        "profiles: /profiles\n"
    } else {
        ""
    };
    let text = format!("{profiles}{text}");
    let config = config::load("story", &text, &Words, &Overrides::default());
    let mut config = config.unwrap_or_else(|errors| panic!("{errors}"));
    // Stories of the clock are told elsewhere.
    config.clock = None;
    config
}
