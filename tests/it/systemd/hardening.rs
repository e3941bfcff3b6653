//! Given the package, installed in a Debian with systemd,
//! when other users, a second supervisor or the service itself reach for more than is theirs,
//! then they are refused with a sentence, and what a drop-in or the environment file brings is there after a restart.

use super::machine::{Machine, tell};
use super::package::Packages;
use super::{install, put};

/// What `systemd-analyze security` may find at most: 0 is shut off from everything, 10 from nothing.
const EXPOSURE_MAX: f64 = 1.5;
/// The bits of `CAP_NET_BIND_SERVICE`, `CAP_PERFMON` and `CAP_BPF`.
const GRANTED: u64 = 1 << 10 | 1 << 38 | 1 << 39;
/// What a machine needs from its host, so that its services can be granted as much.
const GRANTS: [&str; 2] = [
    "--capability=CAP_BPF,CAP_PERFMON,CAP_NET_BIND_SERVICE",
    "--system-call-filter=bpf perf_event_open",
];

#[test]
#[ignore = "boots Debian with systemd: needs root and what tests/setup.sh makes"]
fn nobody_gets_more_than_the_unit_grants() {
    let packages = Packages::new();
    let machine = Machine::boot(packages.path(), &GRANTS);
    install(&machine, packages.first());

    let said = machine.ok("systemd-analyze security --no-pager adjutant | tail -n 1");
    tell(&said);
    let score = said
        .split(": ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let score: f64 = score.unwrap().parse().unwrap();
    assert!(score <= EXPOSURE_MAX, "{said}");

    let nobody = "setpriv --reuid nobody --regid nogroup --clear-groups";
    let done = machine.run(&format!(
        "{nobody} adjutant status --state-dir /var/lib/adjutant"
    ));
    assert_eq!(done.code, Some(7), "{done:?}");
    assert!(done.err.contains("/var/lib/adjutant"), "{done:?}");
    let done = machine.run(&format!("{nobody} cat /etc/adjutant/supervisor.yaml"));
    assert_ne!(done.code, Some(0), "{done:?}");

    let ours = "setpriv --reuid adjutant --regid adjutant --clear-groups";
    let run = "adjutant run --config /etc/adjutant/supervisor.yaml";
    let holder = machine.property("MainPID");
    let done = machine.run(&format!("{ours} {run}"));
    assert_eq!(done.code, Some(4), "{done:?}");
    assert!(
        done.err.contains(&format!("held by process {holder};")),
        "{done:?}"
    );
    let done = machine.run(run);
    assert_eq!(
        done.code,
        Some(5),
        "root's own supervisor is refused, too: {done:?}"
    );

    assert_eq!(capabilities(&machine), 0);
    enable(&machine, "kernel-events");
    enable(&machine, "low-ports");
    // Root's own file reaches the settings, though the service's user cannot read it.
    machine.ok("umask 077 && echo STAGE=fresh > /etc/adjutant/environment");
    machine.ok(
        r#"sed -i 's/^    #env:/    env: {STAGE: "${env:STAGE}"}/' /etc/adjutant/supervisor.yaml"#,
    );
    machine.ok("systemctl daemon-reload && systemctl restart adjutant");
    assert_eq!(capabilities(&machine), GRANTED);
    let child = machine.child();
    let stage = machine.ok(&format!(
        "tr '\\0' '\\n' < /proc/{child}/environ | grep ^STAGE="
    ));
    assert_eq!(stage, "STAGE=fresh");
    let calls = machine.property("SystemCallFilter");
    for call in ["bpf", "perf_event_open", "capset"] {
        assert!(calls.split(' ').any(|word| word == call), "{call}: {calls}");
    }
    let said = machine.ok("systemd-analyze security --no-pager adjutant | tail -n 1");
    tell(&format!("with both drop-ins {said}"));
}

/// Kernel events, printed.
const EVENTS: &str = "sources: {kernel: {kind: kernel, events: [exec]}}
uploads: {eyes: {kind: console, from: [kernel], interval: 1s}}";

#[test]
#[ignore = "boots Debian with systemd: needs root and what tests/setup.sh makes"]
fn kernel_events_need_their_drop_in_and_are_there_with_it() {
    let packages = Packages::new();
    let machine = Machine::boot(packages.path(), &GRANTS);
    install(&machine, packages.first());
    machine.ok("mkdir /root/bundle");
    put(&machine, "/root/bundle/collect.yaml", EVENTS);
    machine.ok("adjutant apply /root/bundle");
    machine.until("the word of what is missing", || {
        let status = machine.run("adjutant status").out;
        status.contains("lacks CAP_BPF and CAP_PERFMON")
    });

    enable(&machine, "kernel-events");
    machine.ok("systemctl daemon-reload && systemctl restart adjutant");
    machine.ok("cp /usr/bin/true /usr/bin/beacon");
    machine.until("the start of a program to be told", || {
        machine.ok("beacon");
        let logs = machine.run("adjutant logs --lines 400").out;
        logs.contains("\"process.executable.path\":\"/usr/bin/beacon\"")
    });
    let child = machine.child();
    let line = machine.ok(&format!("grep CapEff /proc/{child}/status"));
    assert_eq!(
        line, "CapEff:\t0000000000000000",
        "given up once it is attached"
    );
}

/// Enables a drop-in as its first lines say.
#[test]
#[ignore = "boots Debian with systemd: needs root and what tests/setup.sh makes"]
fn with_its_drop_in_each_agent_has_a_control_group_of_its_own_and_nothing_is_left_in_it() {
    let packages = Packages::new();
    let machine = Machine::boot(packages.path(), &[]);
    install(&machine, packages.first());
    let group = |pid: i32| machine.ok(&format!("sed -n s/^0:://p /proc/{pid}/cgroup"));
    let unit = group(machine.child());
    assert!(unit.ends_with("/adjutant.service"), "{unit}");

    enable(&machine, "control-groups");
    put(
        &machine,
        "/etc/adjutant/supervisor.yaml",
        "agents: {collector: {profile: adjutant}, other: {profile: generic, executable: /etc/adjutant/leaves, \
         config_files: [/etc/adjutant/leaves], restart: {give_up_after: 1}, start_after: [collector]}}",
    );
    // It leaves its process group and outlives the process that started it.
    put(
        &machine,
        "/etc/adjutant/leaves",
        "#!/bin/sh\nsetsid sleep 4242 &\nexec sleep 4241",
    );
    machine.ok("chmod 755 /etc/adjutant/leaves");
    machine.ok("systemctl daemon-reload && systemctl restart adjutant");
    let pid = |command: &str| {
        let line = format!(
            "for it in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' < $it/cmdline)\" = '{command} ' ] && echo ${{it#/proc/}}; done 2>/dev/null"
        );
        machine.run(&line).out.trim().parse::<i32>().ok()
    };
    machine.until("both of the other's processes", || {
        pid("sleep 4241").is_some() && pid("sleep 4242").is_some()
    });
    let (leader, left) = (pid("sleep 4241").unwrap(), pid("sleep 4242").unwrap());
    let own = group(leader);
    assert!(
        own.starts_with(&format!("{unit}/adjutant-")) && own.ends_with("-other"),
        "{own}"
    );
    assert_eq!(group(left), own);
    machine.ok(&format!("kill -KILL {leader}"));
    machine.until("the end of what it left", || {
        pid("sleep 4242").is_none_or(|now| now != left)
    });
    assert!(
        machine.journal().contains("left-over processes killed"),
        "{}",
        machine.journal()
    );
    machine.ok("systemctl stop adjutant");
    assert_eq!((pid("sleep 4241"), pid("sleep 4242")), (None, None));
}

fn enable(machine: &Machine, name: &str) {
    let dropins = "/etc/systemd/system/adjutant.service.d";
    machine.ok(&format!(
        "mkdir -p {dropins} && ln -s /usr/share/adjutant/systemd/{name}.conf {dropins}/"
    ));
}

/// What the supervisor may do, and hands on to what it starts.
fn capabilities(machine: &Machine) -> u64 {
    let sets = machine.ok("cat /proc/$(systemctl show -P MainPID adjutant)/status");
    let set = |name: &str| {
        let digits = sets.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(digits.unwrap().trim(), 16).unwrap()
    };
    let bounding = set("CapBnd:");
    assert_eq!((set("CapEff:"), set("CapAmb:")), (bounding, bounding));
    bounding
}
