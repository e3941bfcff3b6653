//! Given the image as the build script makes it,
//! when it is looked into and built again,
//! then it is small, holds what it says and no helper, and is the same the second time.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use super::engine::{Engine, executable};

/// What an image may weigh.
const IMAGE_BYTES_MAX: u64 = 25 * 1000 * 1000;

#[test]
fn the_image_is_small_and_says_what_it_is() {
    let engine = Engine::shared();
    let inspected = engine.must(&["image", "inspect", &engine.image]);
    let image: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let image = &image[0];
    let size = image["Size"].as_u64().unwrap();
    writeln!(
        std::io::stderr(),
        "image {}: {:.1} MB, executable {:.1} MB",
        engine.image,
        megabytes(size),
        megabytes(executable().metadata().unwrap().len())
    )
    .ok();
    assert!(size <= IMAGE_BYTES_MAX, "{size}");

    let config = &image["Config"];
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/adjutant"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Volumes"], json!({"/var/lib/adjutant": {}}));
    let check = &config["Healthcheck"];
    assert_eq!(
        check["Test"],
        json!(["CMD", "/usr/bin/adjutant", "healthcheck"])
    );
    assert_eq!(check["Interval"].as_u64(), Some(30_000_000_000));
    assert_eq!(check["Timeout"].as_u64(), Some(5_000_000_000));
    assert_eq!(check["StartPeriod"].as_u64(), Some(15_000_000_000));
    assert_eq!(check["Retries"], 3);
    let labels = &config["Labels"];
    assert_eq!(labels["org.opencontainers.image.title"], "adjutant");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(labels["org.opencontainers.image.version"], version);
    let said = engine.once(&["--network=none", &engine.image, "--version"]);
    assert_eq!(said.printed(), format!("adjutant {version}"));
    assert_eq!(
        engine.image,
        format!("adjutant:{version}"),
        "one version in the name, the label and the program"
    );
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[test]
fn the_image_holds_one_program_and_no_helper() {
    let engine = Engine::shared();
    let name = Engine::name("files");
    engine.must(&["create", "--name", &name, &engine.image]);
    let mut export = Command::new("sh");
    export.args(["-c", "docker export \"$0\" | tar t", &name]);
    let listed = super::engine::done(engine.aims(&mut export));
    engine.must(&["rm", "--volumes", &name]);
    let files: BTreeSet<String> = listed
        .printed()
        .lines()
        // The engine puts a few of its own into every container.
        .filter(|path| !path.ends_with('/') && !path.starts_with("dev/"))
        .filter(|path| {
            ![
                "etc/hostname",
                "etc/hosts",
                "etc/mtab",
                "etc/resolv.conf",
                ".dockerenv",
            ]
            .contains(path)
        })
        .map(str::to_owned)
        .collect();
    let wanted = [
        "etc/group",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/bin/adjutant",
        "usr/share/doc/adjutant/LICENSE",
    ];
    assert_eq!(files, wanted.map(str::to_owned).into());
}

#[test]
fn the_image_built_again_is_the_same() {
    let engine = Engine::shared();
    let layers = |image: &str| {
        let format = "{{json .RootFS.Layers}}";
        engine.must(&["image", "inspect", "--format", format, image])
    };
    let first = layers(&engine.image);
    // Under another name and from another directory; nothing of the first is at hand.
    let other = Engine::name("again");
    let again = engine.build(&["--name", &other]);
    assert_eq!(layers(&again[0]), first);
    engine.must(&["rmi", &again[0]]);
}
