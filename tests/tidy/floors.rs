//! Arrows point down: which module may name which, and what the pure middle may not name at all.

use super::nothing;
use super::source::{blank, files, is_test, paths, product, read};

/// What a unit of the tree may name besides itself. The first line that fits a file counts.
const MAY: &[(&str, &[&str])] = &[
    // 2 words
    ("units", &[]),
    ("yaml", &["units"]),
    ("config", &["yaml", "units"]),
    // what ports and data plane both need from the system
    ("sys", &["units"]),
    // 3 engine: events, effects and randomness are plain words, the rest of the engine is above them
    ("engine::message", &["config", "units"]),
    ("engine::random", &["units"]),
    ("engine", &["config", "yaml", "units"]),
    // 4 ports: one thing outside each; of the engine they know events and effects alone
    // orders certificates through the one HTTP client for outside services
    (
        "port::cert",
        &["port::fetch", "engine::message", "config", "units", "sys"],
    ),
    (
        "port::*",
        &["engine::message", "config", "yaml", "units", "sys"],
    ),
    // the tower beside the floors: the data plane knows no supervisor
    ("dataplane", &["yaml", "units", "sys"]),
    // the server for trying knows none either
    ("dev_server", &["config", "yaml", "units", "sys"]),
    // 5 shell
    (
        "registrar",
        &["port", "engine::message", "config", "units", "sys"],
    ),
    (
        "authenticator",
        &["port", "engine::message", "config", "units", "sys"],
    ),
    (
        "telemetry",
        &["port", "engine::message", "config", "units", "sys"],
    ),
    (
        "perform",
        &[
            "authenticator",
            "registrar",
            "telemetry",
            "port",
            "engine::message",
            "config",
            "units",
            "sys",
        ],
    ),
    (
        "run",
        &[
            "perform",
            "port",
            "engine::host",
            "engine::message",
            "config",
            "units",
            "sys",
        ],
    ),
    (
        "app",
        &[
            "run",
            "perform",
            "registrar",
            "telemetry",
            "port",
            "engine",
            "config",
            "yaml",
            "units",
            "sys",
            "dataplane",
            "dev_server",
        ],
    ),
    // 6 doors
    (
        "cli",
        &["app", "port", "engine::message", "config", "units"],
    ),
    ("main", &["cli", "sys"]),
];

/// What must stay outside the engine: time, disk, network, processes, threads, the environment.
const IMPURE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "getrandom",
    "fastrand",
    "nix",
    "rustix",
];

/// The module that a file is, as a path below the crate.
fn module(file: &str) -> Vec<String> {
    let path = file
        .strip_prefix("src/")
        .unwrap()
        .strip_suffix(".rs")
        .unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

fn fits(path: &[String], rule: &str) -> bool {
    let rule: Vec<&str> = rule.split("::").collect();
    path.len() >= rule.len()
        && rule
            .iter()
            .zip(path)
            .all(|(rule, part)| *rule == "*" || rule == part)
}

/// The sources of our crate that are not tests: file, module, blanked text.
fn sources() -> Vec<(String, Vec<String>, String)> {
    let ours = |file: &String| !file.starts_with("src/opamp-client/") && !is_test(file);
    files("src", &[".rs"])
        .into_iter()
        .filter(ours)
        .map(|file| {
            let text = blank(product(&read(&file)));
            let module = module(&file);
            (file, module, text)
        })
        .collect()
}

/// Paths into our own crate, `crate::`, `adjutant::` and `super::` alike, without the head.
fn inward(module: &[String], text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for head in ["crate", "adjutant"] {
        found.extend(
            paths(text, head)
                .into_iter()
                .map(|named| (named.line, named.path[1..].to_vec())),
        );
    }
    for named in paths(text, "super") {
        let ups = named
            .path
            .iter()
            .take_while(|part| *part == "super")
            .count();
        let Some(kept) = module.len().checked_sub(ups) else {
            continue;
        };
        let path = module[..kept]
            .iter()
            .chain(&named.path[ups..])
            .cloned()
            .collect();
        found.push((named.line, path));
    }
    found
}

#[test]
fn arrows_point_down() {
    let mut findings = Vec::new();
    for (file, module, text) in sources() {
        if file == "src/lib.rs" || file == "src/port/mod.rs" || file == "src/sys/mod.rs" {
            if !inward(&module, &text).is_empty() {
                findings.push(format!("{file}: only declares"));
            }
            continue;
        }
        let Some((unit, may)) = MAY.iter().find(|(unit, _)| fits(&module, unit)) else {
            findings.push(format!(
                "{file}: stands on no floor; add it to MAY and to docs/architecture.md"
            ));
            continue;
        };
        let depth = unit.split("::").count();
        for (line, path) in inward(&module, &text) {
            let own = path.len() >= depth && path[..depth] == module[..depth];
            // A parent of the unit, named for what it declares itself (`super::…`), is no other unit.
            if !own && !path.is_empty() && !may.iter().any(|may| fits(&path, may)) {
                findings.push(format!(
                    "{file}:{line}: {unit} may not name {}",
                    path.join("::")
                ));
            }
        }
    }
    nothing(&findings);
}

#[test]
fn engine_is_pure() {
    let mut findings = Vec::new();
    for (file, module, text) in sources() {
        if module[0] != "engine" {
            continue;
        }
        for impure in IMPURE {
            let head = impure.split("::").next().unwrap();
            for named in paths(&text, head)
                .iter()
                .filter(|named| fits(&named.path, impure))
            {
                findings.push(format!("{file}:{}: {impure} in the engine", named.line));
            }
        }
    }
    nothing(&findings);
}

/// A crate that only some files may name, so that it can be replaced: crate, files.
const DOORS: &[(&str, &[&str])] = &[
    ("serde_yaml", &["src/yaml.rs", "src/yaml/"]),
    ("granit_parser", &["src/yaml.rs", "src/yaml/"]),
    ("clap", &["src/cli/"]),
    ("similar", &["src/cli/"]),
    ("prometheus_client", &["src/port/admin/"]),
];

#[test]
fn foreign_crates_have_one_door() {
    let mut findings = Vec::new();
    for (file, _, text) in sources() {
        for (krate, doors) in DOORS {
            if doors.iter().any(|door| file.starts_with(door)) {
                continue;
            }
            for named in paths(&text, krate) {
                findings.push(format!(
                    "{file}:{}: only {} may name {krate}",
                    named.line,
                    doors.join(" and ")
                ));
            }
        }
        if !file.starts_with("src/port/child/") {
            for named in paths(&text, "std") {
                if fits(&named.path, "std::process::Command") {
                    findings.push(format!("{file}:{}: only src/port/child spawns", named.line));
                }
            }
        }
    }
    nothing(&findings);
}

/// The sort of the standard library is compiled anew for every type; what every build has uses one copy of it.
#[test]
fn sorting_has_one_door() {
    const DOOR: &str = "src/units/order.rs";
    const NOT_IN_EVERY_BUILD: [&str; 2] = ["src/dataplane/", "src/dev_server/"];
    let mut findings = Vec::new();
    let mut seen = false;
    for (file, _, text) in sources() {
        if NOT_IN_EVERY_BUILD.iter().any(|part| file.starts_with(part)) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            if [".sort()", ".sort_"].iter().any(|sort| line.contains(sort)) {
                if file == DOOR {
                    seen = true;
                } else {
                    findings.push(format!("{file}:{}: only {DOOR} sorts", index + 1));
                }
            }
        }
    }
    assert!(seen, "{DOOR} does not sort");
    nothing(&findings);
}
