//! Given the package, installed in a Debian with systemd,
//! when its loop freezes, it is killed, told to read its settings again, or given settings that are wrong,
//! then systemd and the supervisor together come to what an operator expects, with never more than one child.

use super::machine::{Machine, PACKAGES};
use super::package::Packages;
use super::{install, put};

const SETTINGS: &str = "/etc/adjutant/supervisor.yaml";
const DROPIN: &str = "/etc/systemd/system/adjutant.service.d";

fn main_pid(machine: &Machine) -> i32 {
    machine.property("MainPID").parse().unwrap()
}

fn restarts(machine: &Machine) -> u32 {
    machine.property("NRestarts").parse().unwrap()
}

/// Waits for a supervisor other than that of the given process id to be up.
fn another(machine: &Machine, pid: i32) {
    machine.until("another supervisor to be up", || {
        machine.is_active() && ![0, pid].contains(&main_pid(machine))
    });
}

#[test]
#[ignore = "boots Debian with systemd: needs root and what tests/setup.sh makes"]
fn a_frozen_loop_and_a_killed_one_come_back_with_one_child() {
    let packages = Packages::new();
    let machine = Machine::boot(packages.path(), &[]);
    install(&machine, packages.first());
    // The shipped minute is right, and too long for a test.
    machine.ok(&format!("mkdir -p {DROPIN}"));
    put(
        &machine,
        &format!("{DROPIN}/times.conf"),
        "[Service]\nWatchdogSec=2\nRestartSec=3",
    );
    machine.ok("systemctl daemon-reload && systemctl restart adjutant");
    let child = machine.child();

    let frozen = main_pid(&machine);
    machine.ok(&format!("kill -STOP {frozen}"));
    machine.until("the restart after the watchdog", || restarts(&machine) == 1);
    another(&machine, frozen);
    assert!(
        machine.journal().contains("Watchdog timeout"),
        "{}",
        machine.journal()
    );
    assert_eq!(machine.child(), child, "the agent did not notice");

    // A healthy loop is not taken for a frozen one: several times the limit pass before the next line is awaited.
    machine.until("six seconds of life", || {
        let line = "echo $(($(cut -d. -f1 /proc/uptime) * 1000000 - $(systemctl show -P ActiveEnterTimestampMonotonic adjutant)))";
        machine.ok(line).parse::<i64>().unwrap() > 6_000_000
    });
    assert_eq!(restarts(&machine), 1, "{}", machine.journal());

    let (killed, child) = (main_pid(&machine), machine.child());
    machine.ok(&format!("kill -KILL {killed}"));
    machine.until("the end of the supervisor to be noticed", || {
        machine.property("SubState") == "auto-restart"
    });
    let alone = machine.processes();
    assert_eq!(alone.len(), 1, "{alone:?}");
    assert_eq!(
        alone[0].0, child,
        "the child goes on while nobody supervises it"
    );
    another(&machine, killed);
    assert_eq!(machine.child(), child, "it was taken over");
    let listed = machine.ok("adjutant status");
    assert!(listed.contains(&format!("{child} adopted")), "{listed}");
    // A stop is a stop, whoever started the child.
    machine.ok("systemctl stop adjutant");
    assert_eq!(machine.processes(), []);
}

/// Host metrics, with a source that is told by its name.
const LAYER: &str = "sources:
  beacon:
    kind: host_metrics
    interval: 1s
uploads:
  eyes:
    kind: console
    from: [beacon]
    interval: 1s";

#[test]
#[ignore = "boots Debian with systemd: needs root and what tests/setup.sh makes"]
fn settings_are_read_again_by_reload_and_wrong_ones_stop_only_a_start() {
    let packages = Packages::new();
    let newer = packages.newer("9.1-1", "# news");
    let machine = Machine::boot(packages.path(), &[]);
    install(&machine, packages.first());
    let (supervisor, child) = (main_pid(&machine), machine.child());

    put(&machine, "/etc/adjutant/collect.yaml", LAYER);
    machine.ok(
        "chown root:adjutant /etc/adjutant/collect.yaml && chmod 640 /etc/adjutant/collect.yaml",
    );
    let layers = "config_files: [/etc/adjutant/collect.yaml, $REMOTE_CONFIG]";
    machine.ok(&format!(
        "sed -i 's|^    #config_files:.*|    {layers}|' {SETTINGS}"
    ));
    machine.ok("systemctl reload adjutant");
    machine.until("the new source to run", || {
        let logs = machine.run("adjutant logs --lines 400").out;
        logs.contains("\"source\":\"beacon\"")
    });
    assert_eq!(
        (main_pid(&machine), machine.child()),
        (supervisor, child),
        "by HUP alone"
    );

    machine.ok(&format!(
        "cp {SETTINGS} /root/good && echo 'agentz: 1' >> {SETTINGS}"
    ));
    machine.ok("systemctl reload adjutant");
    machine.until("the refusal of the settings", || {
        let journal = machine.journal();
        journal.contains("settings not taken over, the old ones stay") && journal.contains("agentz")
    });
    machine.until("the reload to be over", || machine.is_active());
    assert_eq!((main_pid(&machine), machine.child()), (supervisor, child));

    // A start with them is another matter: it is not tried again, and an upgrade goes through all the same.
    assert_ne!(machine.run("systemctl restart adjutant").code, Some(0));
    assert_eq!(machine.property("Result"), "exit-code");
    assert_eq!(machine.property("ExecMainStatus"), "78");
    assert_eq!(machine.property("SubState"), "failed");
    assert_eq!(restarts(&machine), 0);
    let said = install(&machine, &newer);
    assert!(said.contains("journalctl -u adjutant"), "{said}");
    machine.ok(&format!(
        "cp /root/good {SETTINGS} && systemctl start adjutant"
    ));
    machine.child();

    // What an administrator turned off stays off.
    machine.ok("systemctl disable --now adjutant");
    let name = packages.first().file_name().unwrap().to_str().unwrap();
    machine.ok(&format!("dpkg --force-confold -i {PACKAGES}/{name}"));
    assert_eq!(
        machine.run("systemctl is-enabled adjutant").out.trim(),
        "disabled"
    );
    assert!(!machine.is_active());
    assert_eq!(machine.processes(), []);
}
