//! Given real programs that know nothing of OpAMP: Telegraf under its own profile, nginx under one from a directory,
//! and rotel, which knows no HUP either, under `generic`,
//! when good configs, a bad one and one that breaks only when it runs are applied,
//! then the good ones run, the bad one is refused before the program hears of it, and the other is rolled back.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::super::proc;
use super::super::rig::{Done, Rig, wait_until};
use crate::peers;

pub(super) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The answer of `GET /` on a port, if somebody answers.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn is_open(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn apply(rig: &Rig, file: &str, text: &str) -> Done {
    let path = rig.write(&format!("bundle/{file}"), text);
    rig.cli(&["apply", path.parent().unwrap().to_str().unwrap(), "--wait"])
}

fn commit(rig: &Rig, file: &str, text: &str) {
    let done = apply(rig, file, text);
    assert_eq!(done.code, Some(0), "{text}: {}", done.err);
}

fn refuse(rig: &Rig, file: &str, text: &str) -> String {
    let done = apply(rig, file, text);
    // 7: the door itself refuses what the policy does.
    assert!(
        matches!(done.code, Some(7 | 10)),
        "{text}: {}{}",
        done.out,
        done.err
    );
    done.err
}

/// The process of the agent `one`, as the supervisor knows it.
fn pid(rig: &Rig) -> u64 {
    let status = rig.agent_status("one").unwrap();
    status["child"]["pid"]
        .as_u64()
        .unwrap_or_else(|| panic!("{status}"))
}

fn is_there(path: &Path) {
    assert!(
        path.is_file(),
        "{} is missing: run tests/setup.sh",
        path.display()
    );
}

#[test]
fn telegraf_reloads_by_hup_and_is_rolled_back() {
    let telegraf = peers::telegraf();
    let rig = Rig::new(&format!(
        "agents:
  one:
    profile: telegraf
    executable: '{}'
    apply: {{probation: 1s, proof_timeout: 40s}}
",
        telegraf.display()
    ));
    let _supervisor = rig.start();
    let out = |name: &str| rig.path().join(name);
    let config = |name: &str, more: &str| {
        format!(
            "[agent]\n  interval = \"200ms\"\n  flush_interval = \"200ms\"\n  omit_hostname = true\n\
             [[inputs.mem]]\n[[outputs.file]]\n  files = [\"{}\"]\n{more}",
            out(name).display()
        )
    };
    let writes = |name: &str| {
        wait_until("metrics in its file", || {
            std::fs::read_to_string(out(name)).is_ok_and(|text| text.starts_with("mem "))
        });
    };
    commit(&rig, "telegraf.conf", &config("a", ""));
    writes("a");
    let first = pid(&rig);
    commit(&rig, "telegraf.conf", &config("b", ""));
    writes("b");
    assert_eq!(pid(&rig), first, "by HUP");

    let why = refuse(
        &rig,
        "telegraf.conf",
        &config("c", "[[inputs.exec]]\n  commands = [\"id\"]\n"),
    );
    assert!(
        why.contains("telegraf.conf:8:10: \"exec\" is denied"),
        "{why}"
    );
    let why = refuse(&rig, "telegraf.conf", &config("c", "[[inputs.nope]]\n"));
    assert!(why.contains("undefined but requested input: nope"), "{why}");
    assert_eq!(pid(&rig), first, "it heard of neither");

    // Its check passes, and the line that says it has reloaded comes, before it finds that somebody has the port.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listener = format!(
        "[[inputs.socket_listener]]\n  service_address = \"tcp://{}\"\n",
        taken.local_addr().unwrap()
    );
    let why = refuse(&rig, "telegraf.conf", &config("c", &listener));
    assert!(why.contains("address already in use"), "{why}");
    let size = || std::fs::metadata(out("b")).map_or(0, |found| found.len());
    let before = size();
    wait_until("more metrics in it", || size() > before);
    assert_ne!(
        pid(&rig),
        first,
        "it died of the HUP, and a new process runs what was good"
    );
}

#[test]
fn nginx_reloads_by_hup_under_a_profile_from_a_directory() {
    let nginx = Path::new("/usr/sbin/nginx");
    is_there(nginx);
    let rig = Rig::new(
        "profiles: '{dir}/profiles'
agents:
  one:
    profile: nginx
    apply: {probation: 500ms, proof_timeout: 20s}
",
    );
    rig.write(
        "profiles/nginx.yaml",
        "executable: /usr/sbin/nginx
args: [-p, '{state_dir}/work', -e, stderr, -c, '{config_file}', -g, 'daemon off; error_log stderr notice;']
validate: [-p, '{state_dir}/work', -e, stderr, -c, '{config_file}', -t]
main_file: nginx.conf
hup: true
# It goes on with the old config when the new one cannot be used, and says so.
proof: {kind: output, reloaded: [start worker processes], failed: ['[emerg]'], alive_for: 1s}
stop_signal: 15
",
    );
    let _supervisor = rig.start();
    let (port, taken) = (
        free_port(),
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
    );
    let taken_port = taken.local_addr().unwrap().port();
    let config = |word: &str, port: u16| {
        format!(
            "pid nginx.pid;\nevents {{}}\nhttp {{\n  access_log off;\n  client_body_temp_path t1; proxy_temp_path t2; \
             fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n  \
             server {{ listen 127.0.0.1:{port}; return 200 \"{word}\\n\"; }}\n}}\n"
        )
    };
    let says = |word: &str| {
        wait_until("nginx to say its word", || {
            get(port).is_some_and(|answer| answer.ends_with(&format!("{word}\n")))
        });
    };
    commit(&rig, "nginx.conf", &config("first", port));
    says("first");
    let first = pid(&rig);
    commit(&rig, "nginx.conf", &config("second", port));
    says("second");
    assert_eq!(pid(&rig), first, "by HUP");

    let why = refuse(
        &rig,
        "nginx.conf",
        "events {}\nhttp { server { listn 1; } }\n",
    );
    assert!(why.contains("unknown directive \"listn\""), "{why}");
    // The check passes, because in a check nginx does not mind who has the port.
    let why = refuse(&rig, "nginx.conf", &config("third", taken_port));
    assert!(
        why.contains("the child refused the config: ") && why.contains("bind()"),
        "{why}"
    );
    says("second");
    assert_eq!(pid(&rig), first, "it never stopped serving");
}

#[test]
fn rotel_without_opamp_and_hup_runs_under_generic() {
    let rotel = peers::rotel();
    // Its settings are arguments: a file of them is given to it by xargs, which runs no shell.
    let rig = Rig::new(&format!(
        "agents:
  one:
    profile: generic
    executable: /usr/bin/xargs
    args: [-x, -a, '{{config_file}}', '{}', start]
    main_file: rotel.args
    proof: {{kind: fresh_process, alive_for: 1s}}
    apply: {{probation: 500ms, proof_timeout: 20s}}
",
        rotel.display()
    ));
    let _supervisor = rig.start();
    let (first, second) = (free_port(), free_port());
    let config = |port: u16, exporter: &str| {
        format!(
            "--otlp-grpc-endpoint 127.0.0.1:{} --otlp-http-endpoint 127.0.0.1:{port} --exporter {exporter}\n",
            free_port()
        )
    };
    commit(&rig, "rotel.args", &config(first, "blackhole"));
    wait_until("the port of the first config", || is_open(first));
    let old = pid(&rig);
    commit(&rig, "rotel.args", &config(second, "blackhole"));
    wait_until("the port of the second config", || is_open(second));
    assert!(!is_open(first), "one rotel alone");
    let now = pid(&rig);
    assert_ne!(now, old, "a restart is its reload");
    assert!(!proc::is_alive(u32::try_from(old).unwrap()));

    let why = refuse(&rig, "rotel.args", &config(second, "nowhere"));
    assert!(
        why.contains("invalid value 'nowhere'"),
        "its own words: {why}"
    );
    wait_until("the second config runs again", || {
        is_open(second) && pid(&rig) != now
    });
    let status = rig.agent_status("one").unwrap();
    assert_eq!(status["rejected"], 1, "{status}");
}

/// rsyslog opens its files anew on HUP and reads no config: what it does is no proof of what was wanted.
#[test]
fn rsyslog_whose_hup_reads_no_config_is_not_believed_and_runs_the_config_in_a_new_process() {
    let daemon = Path::new("/usr/sbin/rsyslogd");
    is_there(daemon);
    let port = free_port();
    let rig = Rig::new(&format!(
        "agents:
  one:
    profile: generic
    executable: {}
    args: [-n, -iNONE, -f, '{{config_file}}']
    validate: [-N1]
    main_file: rsyslog.conf
    proof: {{kind: exec, command: ['{{dir}}/probe.sh', '{{config_file}}', '{port}']}}
    apply: {{reload: hup, probation: 500ms, proof_timeout: 4s}}
",
        daemon.display()
    ));
    // A line sent to its port arrives in the file that the config names.
    rig.program(
        "probe.sh",
        "#!/bin/sh\nout=$(sed -n 's/^# out //p' \"$1\")\n\
         logger --udp --server 127.0.0.1 --port \"$2\" -t probe here\ngrep -q 'probe.* here' \"$out\"\n",
    );
    let _supervisor = rig.start();
    let out = |name: &str| rig.path().join(name);
    let config = |name: &str| {
        let file = out(name).display().to_string();
        format!(
            "# out {file}\nmodule(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\")\n\
             *.* action(type=\"omfile\" file=\"{file}\")\n"
        )
    };
    commit(&rig, "rsyslog.conf", &config("a.log"));
    let mut last = pid(&rig);
    for name in ["b.log", "c.log"] {
        commit(&rig, "rsyslog.conf", &config(name));
        assert!(out(name).is_file());
        assert_ne!(
            pid(&rig),
            last,
            "a new process, because the HUP was not enough"
        );
        last = pid(&rig);
    }
    let told = rig.agent_status("one").unwrap()["history"].to_string();
    assert!(told.contains("\"hup\""), "{told}");
    commit(&rig, "rsyslog.conf", &config("d.log"));
    let told = rig.agent_status("one").unwrap()["history"].to_string();
    assert!(
        told.contains("restart: HUP came to nothing before"),
        "{told}"
    );

    let before = pid(&rig);
    let why = refuse(
        &rig,
        "rsyslog.conf",
        "# out /x\nmodule(load=\"imnothing\")\n",
    );
    assert!(why.contains("imnothing"), "its own words: {why}");
    assert_eq!(pid(&rig), before, "it never heard of it");
}
