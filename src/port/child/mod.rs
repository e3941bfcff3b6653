//! Child processes: spawn, signal, output, exit. One place spawns and one place reaps.
//!
//! Promises: every child and tool leads its own process group; whatever is left of the group is killed before the
//! leader is reaped, so a process id never means another process; what a child wrote last comes with its exit; orphans
//! that the kernel gives us are reaped and counted. When the program ends, children are left alone.
//! Must never: restart anything, know what a config is, or block the loop on a child.
//!
//! [`Children`] is the only one in the process that may wait for processes (`tokio::process`, `Command::output` and
//! `Child::wait` would lose their statuses to it), and it must be driven on the main thread.

#[cfg(feature = "isolation")]
mod access;
#[cfg(feature = "isolation")]
mod cgroup;
#[cfg(feature = "isolation")]
mod confine;
mod facts;
mod fifo;
mod leftover;
mod lines;
mod marker;
#[cfg_attr(not(feature = "adopt"), path = "note/none.rs")]
mod note;
mod output;
mod peek;
#[expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; the file says which and why"
)]
mod raw;
mod reader;
mod reap;
#[cfg(feature = "isolation")]
mod room;
mod spawn;
#[cfg(feature = "opampsupervisor")]
mod tagged;
mod tail;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future as _, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, Sleep, sleep};

use self::facts::{OomCounter, Stat};
use self::note::RawNote;
use self::output::{Destination, Output};
use self::reap::{Ending, Tool};
use self::spawn::Plan;
use self::watch::Foreign;
use crate::config::{CgroupRoot, Rotation};
use crate::engine::message::{
    ChildIdentity, ChildNote, Exit, SpawnSpec, ToolEnd, ToolOutcome, ToolSpec,
};
use crate::units::{AgentName, Ticket};

pub use self::leftover::{Found, find as find_leftover};
pub use self::output::{OutputLosses, OutputWatch};
pub use self::spawn::{BASE_ENVIRONMENT, SpawnFailure};

/// The variable by which a child of ours is recognised after we were killed: `<agent directory>`, canonical.
pub const MARKER: &str = "ADJUTANT_CHILD";

/// How the machinery is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether we are process 1, which gets every orphan anyway; otherwise we ask the kernel to give us those of our
    /// children.
    pub pid1: bool,
    /// Below which control group each child gets its own.
    pub cgroup_root: CgroupRoot,
}

/// Where one agent's child lives on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildDirs {
    /// Its working directory; made with mode 0700.
    pub work: PathBuf,
    /// Pipes and log files; made with mode 0700.
    pub logs: PathBuf,
    /// The record by which it is found after we were killed.
    pub record: PathBuf,
    /// The value of [`MARKER`].
    pub marker: String,
    /// Where the host's certificates are.
    pub certificates: PathBuf,
    /// Rotation of its log file.
    pub rotation: Rotation,
    /// Whether output that is passed on becomes lines of our own log, each with the agent's name.
    #[cfg(feature = "opampsupervisor")]
    pub to_own_log: bool,
}

impl ChildDirs {
    /// Names everything below an agent's directory, which must exist for its canonical name.
    pub fn below(agent_directory: &Path, rotation: Rotation) -> Self {
        let canonical = agent_directory
            .canonicalize()
            .unwrap_or_else(|_| agent_directory.to_owned());
        Self {
            work: agent_directory.join("work"),
            logs: agent_directory.join("logs"),
            record: agent_directory.join("child.json"),
            marker: canonical.to_string_lossy().into_owned(),
            certificates: canonical.join("../../certificates"),
            rotation,
            #[cfg(feature = "opampsupervisor")]
            to_own_log: false,
        }
    }

    /// The current log file of an agent.
    pub fn log_file(&self, agent: &AgentName) -> PathBuf {
        output::log_path(&self.logs, agent)
    }
}

/// What happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildrenEvent {
    /// A child or a watched left-over is gone and reaped.
    Exited {
        /// Whose child it was.
        agent: AgentName,
        /// Its process id; it may belong to somebody else by now.
        pid: u32,
        /// How it ended.
        exit: Exit,
    },
    /// A tool ended or was ended.
    ToolDone {
        /// For whom it ran.
        agent: AgentName,
        /// Of the order.
        ticket: Ticket,
        /// What came of it.
        outcome: ToolOutcome,
    },
}

/// Why a signal was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("send signal {signal} to process {pid}: {reason}")]
pub struct SignalFailure {
    /// The process.
    pub pid: u32,
    /// The signal's number.
    pub signal: i32,
    /// What stood in the way.
    pub reason: String,
}

/// A child that was started and not reaped.
#[derive(Debug)]
struct Managed {
    agent: AgentName,
    record: PathBuf,
    certificates: PathBuf,
    #[cfg_attr(
        not(feature = "isolation"),
        expect(dead_code, reason = "names the control group")
    )]
    marker: String,
    memory: Option<OomCounter>,
    /// We sent KILL: then a death by KILL says nothing about memory.
    killed: bool,
}

/// All processes of ours.
#[derive(Debug)]
pub struct Children {
    sigchld: tokio::signal::unix::Signal,
    /// There may be something to reap.
    reap_due: bool,
    managed: BTreeMap<u32, Managed>,
    leftovers: BTreeMap<u32, Foreign>,
    tools: BTreeMap<u32, Tool>,
    /// Reaped; the last words are on their way.
    endings: Vec<Ending>,
    ready: VecDeque<ChildrenEvent>,
    timer: Pin<Box<Sleep>>,
    output: Output,
    orphans: u64,
    next_tool: u64,
    #[cfg(feature = "isolation")]
    groups: cgroup::Groups,
}

impl Children {
    /// Prepares the process for having children and starts the thread that reads their output. Needs a running runtime.
    ///
    /// # Errors
    /// When the system refuses a handler, a thread, or the role of a reaper.
    pub fn new(options: &Options) -> io::Result<Self> {
        // Before anything is spawned: a parent that ignores SIGCHLD would have made us lose every exit.
        let sigchld = signal(SignalKind::child())?;
        spawn::prepare_host()?;
        if !options.pid1 {
            nix::sys::prctl::set_child_subreaper(true)?;
        }
        Ok(Self {
            sigchld,
            reap_due: true,
            managed: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            tools: BTreeMap::new(),
            endings: Vec::new(),
            ready: VecDeque::new(),
            timer: Box::pin(sleep(Duration::ZERO)),
            output: Output::start()?,
            orphans: 0,
            next_tool: 0,
            #[cfg(feature = "isolation")]
            groups: cgroup::Groups::find(&options.cgroup_root),
        })
    }

    /// Starts an agent's child.
    ///
    /// # Errors
    /// What was tried and why it failed; nothing runs then.
    pub fn spawn(
        &mut self,
        agent: &AgentName,
        dirs: &ChildDirs,
        spec: &SpawnSpec,
    ) -> Result<ChildIdentity, SpawnFailure> {
        if let Some(pid) = self.process_of(agent) {
            return Err(SpawnFailure {
                reason: format!("start a child of {agent}: process {pid} is still there"),
                transient: true,
            });
        }
        spawn::private_directory(&dirs.work)?;
        let [stdout, stderr] = self.open_output(agent, dirs, spec.passthrough)?;
        #[cfg(feature = "isolation")]
        access::settle(dirs, spec.process.account.as_ref())?;
        if let Some(leader) = leftover::orphaned_group(dirs) {
            kill_group(leader);
        }
        // A record that cannot be written (full disk) is removed, and the marker takes its place: telemetry comes
        // first.
        let note = RawNote::of(dirs, spec);
        leftover::record_starting(dirs, &note);
        let plan = Plan {
            program: &spec.program,
            args: &spec.args,
            env: &spec.env,
            inherit: &spec.inherit,
            marker: Some((MARKER, &dirs.marker)),
            directory: &dirs.work,
            death_signal: spec.death_signal,
            process: &spec.process,
            #[cfg(feature = "isolation")]
            group: self
                .groups
                .prepare(agent, &dirs.marker, &spec.process.cgroup),
        };
        let pid = match spawn::start(plan, stdout, stderr) {
            Ok(pid) => pid,
            Err(failure) => {
                #[cfg(feature = "isolation")]
                self.groups.ended(agent, &dirs.marker);
                leftover::record_ended(&dirs.record);
                return Err(failure);
            }
        };
        let managed = Managed {
            agent: agent.clone(),
            record: dirs.record.clone(),
            certificates: dirs.certificates.clone(),
            marker: dirs.marker.clone(),
            memory: OomCounter::of(pid),
            killed: false,
        };
        self.managed.insert(pid, managed);
        let identity = ChildIdentity {
            pid,
            // Nobody but us reaps it, so it is there, as a zombie if need be.
            start_ticks: Stat::read(pid).map_or(0, |stat| stat.start_ticks),
            started: crate::sys::clock::wall(),
        };
        leftover::record_running(dirs, &identity, &spec.program, note);
        Ok(identity)
    }

    /// Sends a signal to a child or a watched left-over, or to its whole process group, which is told to end then.
    /// `note` is written down afterwards.
    ///
    /// # Errors
    /// When the process is not ours or was reaped, or the system refuses.
    pub fn signal(
        &mut self,
        pid: u32,
        signal: i32,
        group: bool,
        note: Option<&ChildNote>,
    ) -> Result<(), SignalFailure> {
        let failed = |reason: String| SignalFailure {
            pid,
            signal,
            reason,
        };
        let named = Signal::try_from(signal).map_err(|_| failed("no such signal".to_owned()))?;
        if let Some(managed) = self.managed.get_mut(&pid) {
            managed.killed |= named == Signal::SIGKILL;
        } else if let Some(leftover) = self.leftovers.get_mut(&pid) {
            // It is reaped by somebody else, at any time; right before the call is as close as one can get for a group.
            if !facts::is_same_and_alive(pid, leftover.identity.start_ticks) {
                return Err(failed("it is gone".to_owned()));
            }
            leftover.killed |= named == Signal::SIGKILL;
        } else {
            return Err(failed("not a child of ours, or reaped already".to_owned()));
        }
        let target = process(pid).ok_or_else(|| failed("no such process id".to_owned()))?;
        if group && let Some((record, _)) = self.papers_of(pid) {
            leftover::record_ending(record);
        }
        let sent = if group {
            killpg(target, named)
        } else {
            kill(target, named)
        };
        #[cfg(feature = "isolation")]
        if group && named == Signal::SIGKILL {
            let managed = self.managed.get(&pid).map(|it| (&it.agent, &it.marker));
            let left = self.leftovers.get(&pid).map(|it| (&it.agent, &it.marker));
            if let Some((agent, marker)) = managed.or(left) {
                self.groups.kill(agent, marker);
            }
        }
        sent.map_err(|errno| failed(errno.desc().to_owned()))?;
        if let Some(note) = note
            && let Some((record, certificates)) = self.papers_of(pid)
        {
            leftover::record_told(record, note, certificates);
        }
        Ok(())
    }

    /// The record of a child, and where the pairs are that it reads.
    fn papers_of(&self, pid: u32) -> Option<(&Path, &Path)> {
        let managed = self.managed.get(&pid);
        let managed = managed.map(|child| (child.record.as_path(), child.certificates.as_path()));
        let leftover = self.leftovers.get(&pid);
        managed.or_else(|| leftover.map(|it| (it.record.as_path(), it.certificates.as_path())))
    }

    /// Runs a short-lived tool in the child's working directory. Its end, also a failed start, is an event.
    pub fn run_tool(
        &mut self,
        agent: &AgentName,
        dirs: &ChildDirs,
        ticket: Ticket,
        spec: &ToolSpec,
    ) {
        if let Err(failure) = self.start_tool(agent, dirs, ticket, spec) {
            self.ready.push_back(ChildrenEvent::ToolDone {
                agent: agent.clone(),
                ticket,
                outcome: ToolOutcome {
                    end: ToolEnd::NotStarted(failure.reason),
                    output: String::new(),
                },
            });
        }
    }

    fn start_tool(
        &mut self,
        agent: &AgentName,
        dirs: &ChildDirs,
        ticket: Ticket,
        spec: &ToolSpec,
    ) -> Result<(), SpawnFailure> {
        let failed = |reason: String| SpawnFailure {
            reason,
            transient: true,
        };
        spawn::private_directory(&dirs.work)?;
        #[cfg(feature = "isolation")]
        access::settle(dirs, spec.process.account.as_ref())?;
        let (reader, writer) =
            output::tool_pipe().map_err(|error| failed(format!("make a pipe: {error}")))?;
        let second = writer
            .try_clone()
            .map_err(|error| failed(format!("make a pipe: {error}")))?;
        self.next_tool = self.next_tool.saturating_add(1);
        let id = self.next_tool;
        self.output
            .capture(id, reader, spec.output_max)
            .map_err(|stalled| failed(stalled.to_string()))?;
        let plan = Plan {
            program: &spec.program,
            args: &spec.args,
            env: &spec.env,
            inherit: &spec.inherit,
            marker: None,
            directory: &dirs.work,
            death_signal: None,
            process: &spec.process,
            #[cfg(feature = "isolation")]
            group: None,
        };
        match spawn::start(plan, Stdio::from(writer), Stdio::from(second)) {
            Ok(pid) => {
                let kill_at = Instant::now() + spec.timeout;
                let tool = Tool::new(agent.clone(), ticket, id, kill_at);
                self.tools.insert(pid, tool);
                Ok(())
            }
            Err(failure) => {
                drop(self.output.finish_tool(id));
                Err(failure)
            }
        }
    }

    /// Kills a tool whose answer is no longer wanted; there will be none. Unknown tickets are tools that ended
    /// meanwhile.
    pub fn cancel_tool(&mut self, agent: &AgentName, ticket: Ticket) {
        let same = |of: &AgentName, its: Ticket| of == agent && its == ticket;
        for (pid, tool) in &mut self.tools {
            if same(&tool.agent, tool.ticket) {
                tool.cancel();
                kill_group(*pid);
            }
        }
        self.endings.retain(|ending| !ending.is_tool(agent, ticket));
        self.ready.retain(|event| {
            !matches!(event, ChildrenEvent::ToolDone { agent: of, ticket: its, .. } if same(of, *its))
        });
    }

    /// Looks for texts in what an agent's child writes from now on.
    ///
    /// # Errors
    /// When the output is stalled.
    pub fn watch_output(
        &self,
        agent: &AgentName,
        reloaded: Vec<String>,
        failed: Vec<String>,
    ) -> Result<OutputWatch, String> {
        let watch = self.output.watch(agent, reloaded, failed);
        watch.map_err(|stalled| stalled.to_string())
    }

    /// Whether a child of ours has room for a reload; else what it is short of.
    ///
    /// # Errors
    /// The shortage, for people.
    #[cfg(feature = "isolation")]
    pub fn room(&self, pid: u32) -> Result<(), String> {
        room::look(pid, Path::new("/proc"))
    }

    /// Without the feature nobody looks.
    ///
    /// # Errors
    /// None.
    #[cfg(not(feature = "isolation"))]
    pub fn room(&self, _: u32) -> Result<(), String> {
        Ok(())
    }

    /// Orphans reaped since the start: processes that we did not start.
    pub fn orphans_reaped(&self) -> u64 {
        self.orphans
    }

    /// What of the children's output was not written as it came.
    pub fn output_losses(&self) -> OutputLosses {
        self.output.losses()
    }

    /// Waits for the next exit.
    ///
    /// # Cancel safety
    /// Everything is kept in `self`; dropping the future loses nothing.
    pub async fn next(&mut self) -> ChildrenEvent {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<ChildrenEvent> {
        // Until it is pending, so that the next signal wakes us; the stream has no end.
        while let Poll::Ready(Some(())) = self.sigchld.poll_recv(cx) {
            self.reap_due = true;
        }
        if self.reap_due {
            self.reap_due = self.reap();
            if self.reap_due {
                cx.waker().wake_by_ref();
            }
        }
        self.poll_leftovers(cx);
        self.expire_tools();
        self.poll_endings(cx);
        if let Some(event) = self.ready.pop_front() {
            return Poll::Ready(event);
        }
        if let Some(due) = self.next_deadline() {
            self.timer.as_mut().reset(due);
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// The process of an agent that is not reaped.
    fn process_of(&self, agent: &AgentName) -> Option<u32> {
        let managed = self.managed.iter().map(|(pid, child)| (pid, &child.agent));
        let leftovers = self.leftovers.iter().map(|(pid, left)| (pid, &left.agent));
        managed
            .chain(leftovers)
            .find(|(_, of)| *of == agent)
            .map(|(pid, _)| *pid)
    }

    /// Opens the agent's pipes, has them read, and answers the child's ends.
    fn open_output(
        &self,
        agent: &AgentName,
        dirs: &ChildDirs,
        passthrough: bool,
    ) -> Result<[Stdio; 2], SpawnFailure> {
        spawn::private_directory(&dirs.logs)?;
        let open = |name: &str| {
            let path = dirs.logs.join(name);
            fifo::open_writer(&path)
                .and_then(|writer| Ok((writer, fifo::open_reader(&path)?)))
                .map_err(|error| SpawnFailure::of("open output pipe", &path, &error))
        };
        let (stdout, stdout_reader) = open("stdout.fifo")?;
        let (stderr, stderr_reader) = open("stderr.fifo")?;
        let to = match passthrough {
            #[cfg(feature = "opampsupervisor")]
            true if dirs.to_own_log => Destination::OwnLog,
            true => Destination::Passthrough,
            false => Destination::File {
                path: dirs.log_file(agent),
                rotation: dirs.rotation,
            },
        };
        self.output
            .follow(agent, [stdout_reader, stderr_reader], to)
            .map_err(|stalled| SpawnFailure {
                reason: format!("start a child of {agent}: {stalled}"),
                transient: true,
            })?;
        Ok([Stdio::from(stdout), Stdio::from(stderr)])
    }
}

/// Whether we may run children as somebody else; what stands in the way otherwise.
///
/// # Errors
/// What an operator can do about it.
#[cfg(feature = "isolation")]
pub fn check(process: &crate::config::Process) -> Result<(), String> {
    match &process.account {
        Some(account) if !confine::may_become(account) => Err(format!(
            "run its child as {}: only root may, or a process with the capabilities SETUID and SETGID",
            account.name
        )),
        _ => Ok(()),
    }
}

fn process(pid: u32) -> Option<Pid> {
    i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 1)
        .map(Pid::from_raw)
}

/// Kills what is left of a process group. Only for a leader that is not reaped, or a group that was checked.
fn kill_group(leader: u32) {
    if let Some(group) = process(leader) {
        match killpg(group, Signal::SIGKILL) {
            // Nobody left, or only processes that changed their user: both are as far as one can go.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
            Err(errno) => tracing::debug!(process.pid = leader, %errno, "group not killed"),
        }
    }
}
