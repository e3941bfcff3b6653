//! Given a Debian with systemd,
//! when the package is installed, upgraded, removed, installed again and purged,
//! then the service is ready after the installation, keeps its identity and its running revision over each upgrade,
//! a settings file that was edited stays as it is, and in the end nothing is left.

use std::time::Duration;

use super::machine::{Machine, tell};
use super::package::{Packages, printed};
use super::{install, package, put};

/// What nobody edited is replaced; what somebody edited is not.
const FIRST_NEWS: &str = "# news of the first upgrade";
const SECOND_NEWS: &str = "# news of the second upgrade";

/// Host metrics every second, printed.
const METRICS: &str = "sources:
  host:
    kind: host_metrics
    interval: 1s
uploads:
  eyes:
    kind: console
    from: [host]
    interval: 1s";

fn identity(machine: &Machine) -> String {
    machine.ok("cat /var/lib/adjutant/identity.json")
}

fn current(machine: &Machine) -> String {
    machine.ok("readlink /var/lib/adjutant/agents/collector/current")
}

/// How often the manager brought the service up since the boot.
fn starts(machine: &Machine) -> usize {
    machine
        .journal()
        .matches("Started adjutant.service")
        .count()
}

#[test]
#[ignore = "boots Debian with systemd: needs root and what tests/setup.sh makes"]
fn install_upgrade_remove_and_purge() {
    let packages = Packages::new();
    let first = packages.newer("9.1-1", FIRST_NEWS);
    let second = packages.newer("9.2-1", SECOND_NEWS);
    let machine = Machine::boot(packages.path(), &[]);

    install(&machine, packages.first());
    assert!(machine.is_active(), "{}", machine.journal());
    assert_eq!(machine.ok("systemctl is-enabled adjutant"), "enabled");
    assert_eq!(machine.property("Type"), "notify");
    assert_eq!(machine.property("WatchdogUSec"), "1min");
    assert_eq!(machine.property("KillMode"), "process");
    assert_eq!(
        machine.property("StatusText"),
        "collector: waiting for config"
    );
    let ready = start_to_ready(&machine);
    tell(&format!("start to READY {} ms", ready.as_millis()));
    assert!(ready < Duration::from_secs(10), "{ready:?}");
    modes(&machine);
    user(&machine);

    let uids = identity(&machine);
    let default = current(&machine);
    let child = machine.child();
    install(&machine, &first);
    assert!(machine.is_active(), "{}", machine.journal());
    assert_eq!(machine.child(), child, "the agents notice nothing");
    assert_eq!(starts(&machine), 1, "{}", machine.journal());
    let program = machine.ok("readlink /proc/$(systemctl show -P MainPID adjutant)/exe");
    assert_eq!(program, "/usr/bin/adjutant", "the new one runs");
    machine.ok("adjutant restart");
    machine.until("the agent's new program", || machine.child() != child);
    assert_eq!(
        (identity(&machine), current(&machine)),
        (uids.clone(), default)
    );
    assert_eq!(
        machine.ok("tail -n 1 /etc/adjutant/supervisor.yaml"),
        FIRST_NEWS
    );
    modes(&machine);

    let pushed = push_metrics(&machine);
    install(&machine, &second);
    assert_eq!(
        machine.ok("tail -n 1 /etc/adjutant/supervisor.yaml"),
        "# ours"
    );
    machine.ok("test -e /etc/adjutant/supervisor.yaml.dpkg-dist");
    assert_eq!(starts(&machine), 1, "{}", machine.journal());
    assert_eq!(
        (identity(&machine), current(&machine)),
        (uids.clone(), pushed.clone())
    );
    let old = now(&machine);
    flowing(&machine, &old);

    machine.ok("dpkg -r adjutant");
    assert!(!machine.is_active());
    assert_eq!(machine.processes(), []);
    assert_eq!(
        (identity(&machine), current(&machine)),
        (uids.clone(), pushed.clone())
    );
    machine.ok("test -e /etc/adjutant/supervisor.yaml && id adjutant");
    install(&machine, &second);
    assert!(machine.is_active(), "{}", machine.journal());
    assert_eq!((identity(&machine), current(&machine)), (uids, pushed));
    machine.child();

    machine.ok("mkdir -p /etc/systemd/system/adjutant.service.d");
    machine.ok(
        "ln -s /usr/share/adjutant/systemd/low-ports.conf /etc/systemd/system/adjutant.service.d/",
    );
    let ids = machine.ok("echo \"-user $(id -u adjutant) -o -group $(id -g adjutant)\"");
    // Killed right before, its child is nobody's; it must not outlive its user.
    machine.ok("kill -KILL $(systemctl show -P MainPID adjutant)");
    machine.ok("dpkg -P adjutant");
    assert_eq!(machine.processes(), []);
    let left = machine.ok(&format!(
        "find / /run \\( -path /proc -o -path /sys -o -path /packages \\) -prune -o \\( -name '*adjutant*' -o {ids} \\) -print"
    ));
    assert_eq!(left, "", "nothing is left");
    let left = machine
        .run("getent passwd adjutant; getent group adjutant; dpkg -s adjutant")
        .out;
    assert_eq!(left, "", "nothing is left");
}

/// From the start of the process to what the service said, by the manager's own clock.
fn start_to_ready(machine: &Machine) -> Duration {
    let at = |name| machine.property(name).parse::<u64>().unwrap();
    let started = at("ExecMainStartTimestampMonotonic");
    Duration::from_micros(at("ActiveEnterTimestampMonotonic") - started)
}

fn modes(machine: &Machine) {
    let said = machine.ok(
        "stat -c '%a %U:%G %n' /usr/bin/adjutant /lib/systemd/system/adjutant.service /etc/adjutant \
         /etc/adjutant/supervisor.yaml /var/lib/adjutant /var/lib/adjutant/control.sock \
         /var/lib/adjutant/identity.json /run/adjutant",
    );
    let wanted = "755 root:root /usr/bin/adjutant
644 root:root /lib/systemd/system/adjutant.service
750 root:adjutant /etc/adjutant
640 root:adjutant /etc/adjutant/supervisor.yaml
700 adjutant:adjutant /var/lib/adjutant
600 adjutant:adjutant /var/lib/adjutant/control.sock
600 adjutant:adjutant /var/lib/adjutant/identity.json
755 adjutant:adjutant /run/adjutant";
    assert_eq!(said, wanted);
}

fn user(machine: &Machine) {
    let entry = machine.ok("getent passwd adjutant");
    let fields: Vec<_> = entry.split(':').collect();
    assert!(
        fields[2].parse::<u32>().unwrap() < 1000,
        "a system user: {entry}"
    );
    assert_eq!(
        fields[5..],
        ["/var/lib/adjutant", "/usr/sbin/nologin"],
        "{entry}"
    );
    assert_eq!(machine.ok("id -nG adjutant"), "adjutant");
}

/// Edits the settings, has them read again, and applies a config by hand; answers the revision.
fn push_metrics(machine: &Machine) -> String {
    let settings = "/etc/adjutant/supervisor.yaml";
    let probation = "s/^    #apply:/    apply: {probation: 1s}/";
    machine.ok(&format!(
        "sed -i '{probation}' {settings} && echo '# ours' >> {settings}"
    ));
    machine.ok("systemctl reload adjutant");
    machine.until("the settings to be read again", || {
        machine.journal().contains("settings read again")
    });
    machine.ok("mkdir /root/bundle");
    put(machine, "/root/bundle/collect.yaml", METRICS);
    let old = now(machine);
    machine.ok("adjutant apply /root/bundle --wait");
    flowing(machine, &old);
    current(machine)
}

/// The machine's time, in the form of records.
fn now(machine: &Machine) -> String {
    machine.ok("date -u +%Y-%m-%dT%H:%M:%S.000Z")
}

/// Waits for metrics that were read after a time. There is no network interface but loopback, which is not counted.
fn flowing(machine: &Machine, after: &str) {
    for name in ["cpu.time", "memory.usage", "disk.io"] {
        machine.until(&format!("new records of {name}"), || {
            let logs = machine.run("adjutant logs --lines 400").out;
            let field = format!("\"metric\":\"system.{name}\"");
            let mut records = logs.lines().filter(|line| line.contains(&field));
            records.any(|line| time(line).is_some_and(|time| time > after))
        });
    }
}

fn time(record: &str) -> Option<&str> {
    record.split("\"@timestamp\":\"").nth(1)?.split('"').next()
}

#[test]
#[ignore = "builds the package: needs what tests/setup.sh installs, and a built executable or some minutes"]
fn the_package_is_reproducible_and_lintian_finds_no_more_than_the_missing_manual() {
    let packages = Packages::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(packages.first()).unwrap();
    let again = std::fs::read(package::build(elsewhere.path())).unwrap();
    assert!(bytes == again, "two builds differ");
    tell(&format!("the package has {} bytes", bytes.len()));
    let mut lintian = std::process::Command::new("lintian");
    lintian
        .args(["--allow-root", "--fail-on", "none"])
        .arg(packages.first());
    let said = printed(&mut lintian);
    assert_eq!(said, "W: adjutant: no-manual-page [usr/bin/adjutant]");
}
