//! The Debian package under test, as `packaging/deb/build.sh` makes it, and newer ones made from it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// An executable that is built already and to be packaged in place of the released one, to spare a developer the wait.
const EXECUTABLE: &str = "ADJUTANT_PACKAGE_EXECUTABLE";

/// Built once for all tests; nothing depends on where.
static FIRST: OnceLock<PathBuf> = OnceLock::new();

/// A directory of packages.
pub(super) struct Packages {
    directory: TempDir,
    first: PathBuf,
}

impl Packages {
    /// A directory with the package as it is built.
    pub(super) fn new() -> Self {
        let built = FIRST.get_or_init(|| build(Path::new(env!("CARGO_TARGET_TMPDIR"))));
        let directory = tempfile::tempdir().unwrap();
        let first = directory.path().join(built.file_name().unwrap());
        fs::copy(built, &first).unwrap();
        Self { directory, first }
    }

    /// Where they all are.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The package as it is built.
    pub(super) fn first(&self) -> &Path {
        &self.first
    }

    /// The same package as another version whose settings file has one more line.
    pub(super) fn newer(&self, version: &str, line: &str) -> PathBuf {
        let tree = self.path().join("tree");
        printed(
            Command::new("dpkg-deb")
                .arg("-R")
                .arg(&self.first)
                .arg(&tree),
        );
        let control = tree.join("DEBIAN/control");
        let text = fs::read_to_string(&control).unwrap();
        let fields = text
            .lines()
            .map(|field| match field.strip_prefix("Version: ") {
                Some(_) => format!("Version: {version}\n"),
                None => format!("{field}\n"),
            });
        put(&control, fields.collect::<String>().as_bytes());
        let mut settings = File::options()
            .append(true)
            .open(tree.join("etc/adjutant/supervisor.yaml"))
            .unwrap();
        writeln!(settings, "{line}").unwrap();
        let package = self.path().join(format!("adjutant_{version}.deb"));
        printed(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "-Znone", "-b"])
                .arg(&tree)
                .arg(&package),
        );
        fs::remove_dir_all(&tree).unwrap();
        package
    }
}

/// Builds the package into a directory, and answers its path. An executable that is built already is not built again.
pub(super) fn build(directory: &Path) -> PathBuf {
    let mut command = Command::new("packaging/deb/build.sh");
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("--output")
        .arg(directory);
    if let Some(executable) = std::env::var_os(EXECUTABLE) {
        command.arg("--executable").arg(executable);
    }
    PathBuf::from(printed(&mut command))
}

fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// What a command that must succeed prints, without the line's end.
pub(super) fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
