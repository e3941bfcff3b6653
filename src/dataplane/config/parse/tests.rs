//! What a config may say, and the words for each mistake.

use super::*;
use crate::dataplane::config::{KernelConfig, KernelEvents, OtlpConfig};

fn errors(text: &str) -> Vec<String> {
    match parse("collect.yaml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_full_config_resolves() {
    let config = parse(
        "collect.yaml",
        r#"
resource: {deployment.environment: test}
sources:
  host:
    kind: host_metrics
    interval: 1m30s
    collectors: [cpu, memory]
    root: /host
  app:
    kind: unix_socket
    path: /run/app/log.sock
    mode: "0660"
    max_line: 128KiB
    max_connections: 8
    buffer: {records: 1000, size: 1MiB}
uploads:
  vm:
    kind: victoria_metrics
    endpoint: http://vm:8428/
    from: [host]
    interval: 2s
    batch: 100
    chunk: 50
    timeout: 3s
    bearer_token_file: /run/secrets/token
    queue: {records: 5000, size: 4MiB}
  otlp:
    kind: otlp_http
    endpoint: https://otlp.example/base
    ca_file: /etc/ca.pem
    from: [host, app]
    headers: {x-tenant: blue}
"#,
    )
    .unwrap();
    let [(_, host), (_, app)] = config.sources.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!(
        host.kind,
        SourceKind::HostMetrics(HostMetricsConfig {
            interval: Duration::from_secs(90),
            collectors: vec![CollectorKind::Cpu, CollectorKind::Memory],
            root: "/host".into(),
        })
    );
    assert_eq!(
        app.buffer,
        Bounds {
            records: 1000,
            bytes: MIB
        }
    );
    assert_eq!(
        app.kind,
        SourceKind::UnixSocket(UnixSocketConfig {
            path: "/run/app/log.sock".into(),
            mode: 0o660,
            line_bytes_max: 128 * KIB,
            connections_max: 8,
        })
    );
    let [(_, vm), (_, otlp)] = config.uploads.as_slice() else {
        panic!("{config:?}")
    };
    let UploadKind::VictoriaMetrics(http) = &vm.kind else {
        panic!("{vm:?}")
    };
    assert_eq!(http.endpoint.to_string(), "http://vm:8428/");
    assert_eq!(http.timeout, Duration::from_secs(3));
    assert_eq!((vm.batch, vm.chunk), (100, 50));
    assert_eq!(vm.interval, Duration::from_secs(2));
    let UploadKind::OtlpHttp(http) = &otlp.kind else {
        panic!("{otlp:?}")
    };
    assert_eq!(http.headers.len(), 1);
    assert_eq!(otlp.from, ["host", "app"]);
    assert_eq!(
        config.resource,
        [("deployment.environment".to_owned(), "test".to_owned())]
    );
}

#[test]
fn all_errors_come_together_with_their_places() {
    let text = "\
processors: {a: 1}
sources:
  host:
    kind: host_metrics
    intervall: 10s
    interval: 10
  app: {kind: unix_socket, path: rel/ative}
  jrn: {kind: journald}
uploads:
  vm: {kind: victoria_metrics, endpoint: 'http://x:8428', from: [app, hots]}
spool: {}
";
    assert_eq!(
        errors(text),
        [
            "collect.yaml:1:1: processors: not supported in this version: the section \"processors\"",
            "collect.yaml:5:5: sources.host.intervall: unknown key, did you mean \"interval\"?",
            "collect.yaml:6:15: sources.host.interval: duration \"10\" is not a number with a unit (ns, us, ms, s, m, h), such as 30s",
            "collect.yaml:7:34: sources.app.path: \"rel/ative\" is not an absolute path without ..",
            "collect.yaml:8:15: sources.jrn.kind: not supported in this version: sources of kind \"journald\" (supported: host_metrics, unix_socket, otlp, kernel)",
            "collect.yaml:10:71: uploads.vm.from: no source \"hots\", did you mean \"host\"?",
            "collect.yaml:11:1: spool: not supported in this version: the section \"spool\"",
        ]
    );
}

#[test]
fn an_upload_that_cannot_carry_a_source_is_refused() {
    let text = "\
sources: {app: {kind: unix_socket, path: /run/x.sock}}
uploads: {vm: {kind: victoria_metrics, endpoint: 'http://x:1', from: [app]}}
";
    assert_eq!(
        errors(text),
        [
            "collect.yaml:2:71: uploads.vm.from: victoria_metrics cannot carry logs, which the source \"app\" (unix_socket) emits"
        ]
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of mistakes")]
fn single_mistakes_have_one_clear_line_each() {
    let source = |rest: &str| format!("sources: {{h: {{kind: host_metrics, {rest}}}}}\n");
    let upload = |rest: &str| {
        format!(
            "sources: {{h: {{kind: host_metrics}}}}\nuploads: {{u: {{kind: otlp_http, from: [h], {rest}}}}}\n"
        )
    };
    let url = "endpoint: 'http://x:1'";
    let cases = [
        (source("interval: 0s"), "\"0s\" is not from 100ms to 24h"),
        (
            source("interval: 99ms"),
            "\"99ms\" is not from 100ms to 24h",
        ),
        (source("interval: 25h"), "\"25h\" is not from 100ms to 24h"),
        (source("interval: -1s"), "duration \"-1s\" is not a number"),
        (source("interval: abc"), "duration \"abc\" is not a number"),
        (source("interval: [1s]"), "a single value belongs here"),
        (
            source("collectors: [cpu, srt]"),
            "unknown collector, known: cpu",
        ),
        (
            source("collectors: [cpu, memroy]"),
            "did you mean \"memory\"?",
        ),
        (source("collectors: [cpu, cpu]"), "\"cpu\" occurs twice"),
        (source("collectors: []"), "at least one collector"),
        (source("collectors: cpu"), "a list belongs here"),
        (
            source("root: /host/../etc"),
            "is not an absolute path without ..",
        ),
        (
            source("buffer: {records: 0}"),
            "sources.h.buffer.records: \"0\" is not a whole number from 1 to 10000000",
        ),
        (
            source("buffer: {size: 64}"),
            "size \"64\" is not a whole number with a unit",
        ),
        (
            source("buffer: {size: 1KiB}"),
            "\"1KiB\" is not from 64KiB to 1024MiB",
        ),
        (upload(""), "uploads.u.endpoint: this key is missing"),
        (upload("endpoint: x"), "neither http nor https"),
        (upload("endpoint: 'ftp://x'"), "neither http nor https"),
        (
            upload("endpoint: 'http://me:hunter2@x'"),
            "credentials in a URL",
        ),
        (
            upload(&format!("{url}, headers: {{Host: x}}")),
            "uploads.u.headers.Host: this header is set by the upload itself",
        ),
        (
            upload(&format!("{url}, headers: {{'a b': x}}")),
            "this is not a header name",
        ),
        (
            upload(&format!(
                "{url}, headers: {{authorization: x}}, bearer_token_file: /t"
            )),
            "keep one of them",
        ),
        (
            upload(&format!("{url}, bearer_token_file: t")),
            "is not an absolute path",
        ),
        (
            upload(&format!("{url}, retry: 3")),
            "unknown key, known here",
        ),
        (
            "sources: {a: {kind: host}}\n".to_owned(),
            "not supported in this version",
        ),
        (
            "sources: {a: {interval: 1s}}\n".to_owned(),
            "sources.a.kind: this key is missing",
        ),
        ("sources: [a]\n".to_owned(), "a map of ids belongs here"),
        (
            "sources: {'a/b': {kind: host_metrics}}\n".to_owned(),
            "an id is 1 to 63",
        ),
        (
            "sources: {a: {kind: unix_socket}}\n".to_owned(),
            "sources.a.path: this key is missing",
        ),
        (
            format!(
                "sources: {{a: {{kind: unix_socket, path: /{}}}}}\n",
                "x".repeat(107)
            ),
            "at most 107 bytes",
        ),
        (
            "sources: {a: {kind: unix_socket, path: /x, mode: 660}}\n".to_owned(),
            "not an octal mode",
        ),
        (
            "sources: {a: {kind: unix_socket, path: /x, mode: '0777'}}\n".to_owned(),
            "not an octal mode",
        ),
        (
            "uploads: {u: {kind: console}}\n".to_owned(),
            "uploads.u.from: this key is missing",
        ),
        (
            "uploads: {u: {kind: console, from: [a]}}\n".to_owned(),
            "no source \"a\"",
        ),
        ("- a\n".to_owned(), "a map belongs here"),
        ("sources: {\n".to_owned(), "collect.yaml:"),
        ("sources: {a: 1, a: 2}\n".to_owned(), "twice"),
    ];
    for (text, wanted) in cases {
        let found = errors(&text);
        assert!(
            found.iter().any(|line| line.contains(wanted)),
            "{text}\n  wanted {wanted}\n  got {found:#?}"
        );
        assert!(!found.concat().contains("hunter2"), "{found:?}");
    }
}

#[test]
fn an_empty_file_is_an_empty_config() {
    assert_eq!(parse("collect.yaml", ""), Ok(Config::default()));
    assert_eq!(
        parse("collect.yaml", "sources:\nuploads:\n"),
        Ok(Config::default())
    );
}

/// The example of the document is read, and what it calls defaults are the defaults.
#[test]
fn the_documented_example_holds_and_its_defaults_are_true() {
    let document = include_str!("../../../../docs/collect.md");
    let example = document.split("```yaml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let full = parse("collect.yaml", example).unwrap();
    let bare = parse(
        "collect.yaml",
        r#"
resource: {deployment.environment: production}
sources:
  host: {kind: host_metrics}
  app: {kind: unix_socket, path: /run/app/log.sock}
  programs: {kind: otlp}
  kernel: {kind: kernel}
uploads:
  metrics: {kind: victoria_metrics, endpoint: "http://127.0.0.1:8428", from: [host, programs]}
  logs:
    kind: otlp_http
    endpoint: https://otlp.example:4318
    from: [app, host, programs, kernel]
    headers: {x-tenant: one}
    bearer_token_file: /etc/adjutant/token
    ca_file: /etc/adjutant/ca.pem
  eyes: {kind: console, from: [app]}
"#,
    );
    assert_eq!(full, bare.unwrap());
}

#[test]
fn a_receiver_listens_on_loopback_by_default_and_never_twice_on_one_address() {
    let text = "sources: {a: {kind: otlp}, b: {kind: otlp, listen: '[::1]:4319', max_body: 1MiB, max_connections: 2, timeout: 3s}}\n";
    let config = parse("collect.yaml", text).unwrap();
    let [(_, first), (_, second)] = config.sources.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!(
        first.kind,
        SourceKind::Otlp(OtlpConfig {
            listen: "127.0.0.1:4318".parse().unwrap(),
            body_bytes_max: 16 * MIB,
            connections_max: 128,
            timeout: Duration::from_secs(10),
        })
    );
    assert_eq!(first.buffer.bytes, 32 * MIB);
    assert_eq!(
        second.kind,
        SourceKind::Otlp(OtlpConfig {
            listen: "[::1]:4319".parse().unwrap(),
            body_bytes_max: MIB,
            connections_max: 2,
            timeout: Duration::from_secs(3),
        })
    );
    let text = "sources:
  a: {kind: otlp, listen: 'localhost:4318'}
  b: {kind: otlp, listen: 'example.test:1'}
  c: {kind: otlp, listen: '127.0.0.1:0'}
  d: {kind: otlp, listen: '0.0.0.0:4319', max_body: 65MiB}
  e: {kind: otlp, listen: '127.0.0.1:4319', endpoint: x}
";
    assert_eq!(
        errors(text),
        [
            "collect.yaml:3:27: sources.b.listen: \"example.test:1\" is no address with a port, such as 127.0.0.1:4318 or [::1]:4318",
            "collect.yaml:4:27: sources.c.listen: \"127.0.0.1:0\" is no address with a port, such as 127.0.0.1:4318 or [::1]:4318",
            "collect.yaml:5:53: sources.d.max_body: \"65MiB\" is not from 1KiB to 64MiB",
            "collect.yaml:6:6: sources.e.listen: 127.0.0.1:4319 is listened on by the source \"d\" already",
            "collect.yaml:6:45: sources.e.endpoint: unknown key, known here: kind, buffer, listen, max_body, max_connections, timeout",
        ]
    );
}

#[test]
fn an_upload_takes_of_a_receiver_what_it_can_carry() {
    let text = "sources: {in: {kind: otlp}, app: {kind: unix_socket, path: /s}}\nuploads: {vm: {kind: victoria_metrics, endpoint: 'http://x:1', from: [in]}}\n";
    assert_eq!(errors(text), [] as [&str; 0]);
    let text = text.replace("from: [in]", "from: [in, app]");
    assert_eq!(
        errors(&text),
        [
            "collect.yaml:2:75: uploads.vm.from: victoria_metrics cannot carry logs, which the source \"app\" (unix_socket) emits"
        ]
    );
}

#[test]
fn kernel_events_resolve_and_every_mistake_in_them_has_its_place() {
    let config = parse(
        "collect.yaml",
        "sources: {k: {kind: kernel, events: [oom, exec], command_args: true, exclude_ports: [22, 443], \
         ring: 1MiB, max_connections: 32}}\n",
    )
    .unwrap();
    let (id, _, kernel) = config.kernel().unwrap();
    assert_eq!(id, "k");
    assert_eq!(
        *kernel,
        KernelConfig {
            events: vec![KernelEvents::Oom, KernelEvents::Exec],
            command_args: true,
            exclude_ports: vec![22, 443],
            ring_bytes: MIB,
            connections_max: 32,
        }
    );
    let text = "\
sources:
  k:
    kind: kernel
    events: [exec, exec, ooms]
    command_args: 1
    exclude_ports: [0, 70000]
    ring: 3MiB
    max_connections: 0
  l: {kind: kernel}
uploads:
  vm: {kind: victoria_metrics, endpoint: 'http://x:8428', from: [k]}
";
    assert_eq!(
        errors(text),
        [
            "collect.yaml:4:20: sources.k.events: \"exec\" occurs twice",
            "collect.yaml:4:26: sources.k.events: unknown kind of events, did you mean \"oom\"?",
            "collect.yaml:5:19: sources.k.command_args: \"1\" is neither true nor false",
            "collect.yaml:6:21: sources.k.exclude_ports: \"0\" is not a port from 1 to 65535",
            "collect.yaml:6:24: sources.k.exclude_ports: \"70000\" is not a port from 1 to 65535",
            "collect.yaml:7:11: sources.k.ring: the kernel wants a power of two, such as 1MiB, 2MiB or 4MiB",
            "collect.yaml:8:22: sources.k.max_connections: \"0\" is not a whole number from 16 to 1048576",
            "collect.yaml:9:13: sources.l.kind: one source of kernel events is enough: name all kinds in its `events`",
            "collect.yaml:11:66: uploads.vm.from: victoria_metrics cannot carry logs, which the source \"k\" (kernel) emits",
        ]
    );
}
