//! The profiles of these tests, and the world in which their settings are read.

use std::path::{Path, PathBuf};

use crate::config::Environment;

/// A program with layers that says nothing about itself: it is proven when it has stayed up for three seconds.
const PROFILE: &str = "args: []
validate: [validate]
composition: otel_layers
proof: {kind: fresh_process, alive_for: 3s}
health: {kind: process}
";

/// One that is asked whether it has read its config.
const ASKED: &str = "args: []
validate: [validate]
composition: otel_layers
hup: true
proof: {kind: exec, command: [prove, '{pid}']}
health: {kind: process}
environment: [LANGUAGE]
";

/// One that says itself how it is, and reads its config again at a HUP.
const LINKED: &str = "args: []
validate: [validate]
composition: otel_layers
hup: true
local_link: loopback
proof: {kind: local_description}
health: {kind: local_link}
";

/// One of whose config we are not the author, and that says things about itself all the same.
const PLAIN: &str = "args: [--config, '{config_file}']
composition: directory
main_file: a.yaml
local_link: loopback
proof: {kind: fresh_process, alive_for: 3s}
health: {kind: process}
";

pub(super) struct Words;

impl Environment for Words {
    fn var(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/root".to_owned())
    }

    fn file(&self, path: &str) -> std::io::Result<String> {
        match path {
            "/profiles/layered.yaml" => Ok(PROFILE.to_owned()),
            "/profiles/asked.yaml" => Ok(ASKED.to_owned()),
            "/profiles/linked.yaml" => Ok(LINKED.to_owned()),
            "/profiles/plain.yaml" => Ok(PLAIN.to_owned()),
            "/profiles/defaulted.yaml" => Ok(format!(
                "{PROFILE}default_config: |\n  receivers: {{built_in: {{}}}}\n"
            )),
            // Looked at when it is named; what is in it is read by the disk.
            _ if path.starts_with("/etc/") => Ok(String::new()),
            _ => Err(std::io::Error::other(path.to_owned())),
        }
    }

    fn own_executable(&self) -> PathBuf {
        "/bin/sh".into()
    }

    fn is_root(&self) -> bool {
        false
    }

    fn directory(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(["layered", "asked", "linked", "plain", "defaulted"]
            .map(|name| format!("/profiles/{name}.yaml").into())
            .to_vec())
    }
}
