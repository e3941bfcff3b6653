//! Kernel events → log records, under the attribute names of OpenTelemetry where there is one.
//!
//! Promises: the record's time is the moment in the kernel; a number that is not known for sure is left out; names that
//! OpenTelemetry does not have begin with `adjutant.`.
//! Must never: ask the host anything — what it would say now may not be what was so then.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::dataplane::ebpf::Cgroup;
use crate::dataplane::ebpf::layout::{Detail, Event, Kind, Tcp};
use crate::dataplane::record::{LogRecord, Severity, Value, Wholeness};
use crate::sys::clock;
use crate::units::{Moment, WallTime};

type Attributes = Vec<(&'static str, Value)>;

/// The clocks as they stood when the ring was read.
pub(super) struct Clock {
    wall: WallTime,
    boot: Duration,
    /// The clock of deadlines.
    pub(super) monotonic: Moment,
}

impl Clock {
    /// Reads them.
    pub(super) fn now() -> Self {
        Self {
            wall: clock::wall(),
            boot: clock::boottime(),
            monotonic: clock::monotonic(),
        }
    }

    /// What the wall clock showed, going by what it shows now.
    fn at(&self, time_ns: u64) -> WallTime {
        let ago = self.boot.saturating_sub(Duration::from_nanos(time_ns));
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        WallTime::from_unix_millis(self.wall.unix_millis().saturating_sub(ago_ms))
    }

    /// Makes a record of an event.
    pub(super) fn record(&self, event: &Event, cgroup: Option<&Cgroup>) -> LogRecord {
        let mut attributes = Attributes::new();
        let body = describe(event, &mut attributes);
        origin(event, cgroup, &mut attributes);
        LogRecord {
            event: Some(name(event.kind)),
            attributes,
            body: body.into_bytes().into(),
            time: Some(self.at(event.time_ns)),
            observed: self.wall,
            severity: Some(severity(event)),
            wholeness: Wholeness::Whole,
        }
    }

    /// Says that events are missing here.
    pub(super) fn gap(&self, kind: Kind, count: u64, reason: &'static str) -> LogRecord {
        let name = name(kind);
        LogRecord {
            event: Some("adjutant.gap"),
            attributes: vec![
                ("adjutant.gap.event", name.into()),
                ("adjutant.gap.count", count.into()),
                ("adjutant.gap.reason", reason.into()),
            ],
            body: format!("{count} events {name} are missing: {reason}")
                .into_bytes()
                .into(),
            time: Some(self.wall),
            observed: self.wall,
            severity: Some(Severity::Warn),
            wholeness: Wholeness::Whole,
        }
    }
}

pub(super) const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Exec => "process.exec",
        Kind::Exit => "process.exit",
        Kind::Connect => "tcp.connect",
        Kind::ConnectFailed => "tcp.connect_failed",
        Kind::Accept => "tcp.accept",
        Kind::Close => "tcp.close",
        Kind::OomKill => "process.oom_kill",
        Kind::Cgroup => "cgroup.mkdir",
    }
}

fn severity(event: &Event) -> Severity {
    match event.kind {
        Kind::OomKill => Severity::Error,
        Kind::ConnectFailed => Severity::Warn,
        Kind::Exec | Kind::Exit | Kind::Connect | Kind::Accept | Kind::Close | Kind::Cgroup => {
            Severity::Info
        }
    }
}

/// Who it was: process, user, control group.
fn origin(event: &Event, cgroup: Option<&Cgroup>, attributes: &mut Attributes) {
    if let Some(pid) = event.pid {
        attributes.push(("process.pid", pid.into()));
    }
    if let Some(parent) = event.parent_pid {
        attributes.push(("process.parent_pid", parent.into()));
    }
    if !event.comm.is_empty() {
        attributes.push(("process.executable.name", event.comm.as_str().into()));
    }
    if event.pid.is_some() {
        attributes.push(("process.user.id", event.uid.into()));
    }
    if event.cgroup_id != 0 {
        attributes.push(("adjutant.cgroup.id", event.cgroup_id.into()));
    }
    let Some(cgroup) = cgroup else { return };
    let shared = |text: &std::sync::Arc<str>| Value::Text(std::sync::Arc::clone(text));
    attributes.push(("process.linux.cgroup", shared(&cgroup.path)));
    if let Some(container) = &cgroup.container {
        attributes.push(("container.id", shared(container)));
    }
    if let Some(pod) = &cgroup.pod {
        attributes.push(("k8s.pod.uid", shared(pod)));
    }
}

/// What it was: a sentence, and what only this kind has.
fn describe(event: &Event, attributes: &mut Attributes) -> String {
    let Event { comm, .. } = event;
    let pid = event.pid.unwrap_or(0);
    match &event.detail {
        Detail::Exec { path, args, cut } => {
            attributes.push(("process.executable.path", path.as_str().into()));
            if !args.is_empty() {
                let words = args.iter().map(|word| word.as_str().into()).collect();
                attributes.push(("process.command_args", Value::List(words)));
                if *cut {
                    attributes.push(("adjutant.process.command_args.cut", 1_u32.into()));
                }
            }
            format!("process {pid} runs {path}")
        }
        Detail::Exit {
            status,
            lifetime_ns,
        } => {
            seconds("adjutant.process.lifetime", *lifetime_ns, attributes);
            exit(*status, pid, comm, attributes)
        }
        Detail::Tcp(tcp) => describe_tcp(event.kind, tcp, comm, attributes),
        Detail::OomKill { score_adj } => {
            let score = Value::Int((*score_adj).into());
            attributes.push(("adjutant.oom.score_adj", score));
            format!("the kernel kills process {pid} ({comm}) because memory is used up")
        }
        Detail::Cgroup(path) => format!("control group {}", path.as_deref().unwrap_or("?")),
    }
}

fn exit(status: u32, pid: u32, comm: &str, attributes: &mut Attributes) -> String {
    const CORE: u32 = 0x80;
    let signal = status & 0x7f;
    if signal == 0 {
        let code = (status >> 8) & 0xff;
        attributes.push(("process.exit.code", code.into()));
        return format!("process {pid} ({comm}) ended with {code}");
    }
    let number = i32::try_from(signal).unwrap_or(0);
    let word = Signal::try_from(number).map_or_else(
        |_| format!("signal {signal}"),
        |signal| signal.as_str().to_owned(),
    );
    attributes.push(("adjutant.process.exit.signal", signal.into()));
    attributes.push(("adjutant.process.exit.signal_name", word.as_str().into()));
    let core = if status & CORE == 0 {
        ""
    } else {
        ", core dumped"
    };
    format!("process {pid} ({comm}) was ended by {word}{core}")
}

fn describe_tcp(kind: Kind, tcp: &Tcp, comm: &str, attributes: &mut Attributes) -> String {
    let family = if tcp.peer.is_ipv4() { "ipv4" } else { "ipv6" };
    attributes.push(("network.transport", "tcp".into()));
    attributes.push(("network.type", family.into()));
    if let Some(port) = tcp.local_port {
        attributes.push((
            "network.local.address",
            tcp.local.to_string().as_str().into(),
        ));
        attributes.push(("network.local.port", u32::from(port).into()));
    }
    attributes.push(("network.peer.address", tcp.peer.to_string().as_str().into()));
    attributes.push(("network.peer.port", u32::from(tcp.peer_port).into()));
    let side = if tcp.accepted { "server" } else { "client" };
    attributes.push(("adjutant.tcp.side", side.into()));
    attributes.push(("adjutant.netns.id", tcp.netns.into()));
    let error = (tcp.error != 0).then(|| {
        let number = i32::try_from(tcp.error).unwrap_or(0);
        format!("{:?}", Errno::from_raw(number))
    });
    let peer = std::net::SocketAddr::new(tcp.peer, tcp.peer_port);
    let local = std::net::SocketAddr::new(tcp.local, tcp.local_port.unwrap_or(0));
    match kind {
        Kind::ConnectFailed => {
            seconds("adjutant.tcp.duration", tcp.duration_ns, attributes);
            // Nobody refused: the one who asked went away first.
            let error = error.as_deref().unwrap_or("aborted");
            attributes.push(("error.type", error.into()));
            format!("{comm} could not connect to {peer}: {error}")
        }
        Kind::Accept => format!("{local} accepted a connection from {peer}"),
        Kind::Close => {
            seconds("adjutant.tcp.duration", tcp.duration_ns, attributes);
            attributes.push(("network.io.transmit", tcp.sent_bytes.into()));
            attributes.push(("network.io.receive", tcp.received_bytes.into()));
            if let Some(error) = &error {
                attributes.push(("error.type", error.as_str().into()));
            }
            let (sent, received) = (tcp.sent_bytes, tcp.received_bytes);
            format!(
                "the connection of {local} with {peer} is over: {sent} bytes sent, {received} received"
            )
        }
        Kind::Connect | Kind::Exec | Kind::Exit | Kind::OomKill | Kind::Cgroup => {
            seconds("adjutant.tcp.duration", tcp.duration_ns, attributes);
            format!("{comm} connected to {peer}")
        }
    }
}

fn seconds(name: &'static str, span_ns: u64, attributes: &mut Attributes) {
    let seconds = Duration::from_nanos(span_ns).as_secs_f64();
    attributes.push((name, Value::Float(seconds)));
}
