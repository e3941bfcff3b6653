//! Reaps everything that ends and routes it by process id; deadlines of tools; last words of what ended.
//!
//! Promises: the only waiter of the process. Each ended process is looked at first and reaped in the same turn, so that
//! none stands in the way of another; a child's or tool's group is killed between the two. A tool is answered once.
//! Must never: block, or keep a zombie for later.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::raw::{self, Reaped};
use super::{Children, ChildrenEvent, Managed, facts, kill_group, leftover};
use crate::engine::message::{Exit, ExitStatus, ToolEnd, ToolOutcome};
use crate::units::{AgentName, Ticket};

/// Processes reaped in one turn; after that the loop gets its turn first.
const BATCH: usize = 64;
/// How long an exit waits for the last words.
const WORDS_WAIT: Duration = Duration::from_secs(1);
/// How long a killed tool may take to be gone before it is answered without.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// `SIGKILL`, as the status of an exit has it.
const KILL: i32 = 9;

/// A tool that was started and not reaped.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) agent: AgentName,
    pub(super) ticket: Ticket,
    output: u64,
    phase: ToolPhase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToolPhase {
    Running {
        kill_at: Instant,
    },
    /// Its time was up.
    Killed {
        answer_at: Instant,
    },
    /// Answered, or not wanted; it is only waited for.
    Dismissed,
}

impl Tool {
    pub(super) fn new(agent: AgentName, ticket: Ticket, output: u64, kill_at: Instant) -> Self {
        Self {
            agent,
            ticket,
            output,
            phase: ToolPhase::Running { kill_at },
        }
    }

    pub(super) fn cancel(&mut self) {
        self.phase = ToolPhase::Dismissed;
    }

    fn due(&self) -> Option<Instant> {
        match self.phase {
            ToolPhase::Running { kill_at } => Some(kill_at),
            ToolPhase::Killed { answer_at } => Some(answer_at),
            ToolPhase::Dismissed => None,
        }
    }
}

/// Something that ended and waits for its last words.
#[derive(Debug)]
pub(super) struct Ending {
    agent: AgentName,
    what: Ended,
    words: oneshot::Receiver<String>,
    until: Instant,
}

#[derive(Debug)]
enum Ended {
    Child { pid: u32, exit: Exit },
    Tool { ticket: Ticket, end: ToolEnd },
}

impl Ending {
    pub(super) fn child(
        agent: AgentName,
        pid: u32,
        exit: Exit,
        words: oneshot::Receiver<String>,
    ) -> Self {
        Self::new(agent, Ended::Child { pid, exit }, words)
    }

    fn new(agent: AgentName, what: Ended, words: oneshot::Receiver<String>) -> Self {
        Self {
            agent,
            what,
            words,
            until: Instant::now() + WORDS_WAIT,
        }
    }

    pub(super) fn is_tool(&self, agent: &AgentName, ticket: Ticket) -> bool {
        self.agent == *agent
            && matches!(&self.what, Ended::Tool { ticket: its, .. } if *its == ticket)
    }

    fn told(self, words: String) -> ChildrenEvent {
        let agent = self.agent;
        match self.what {
            Ended::Child { pid, mut exit } => {
                exit.tail = words;
                ChildrenEvent::Exited { agent, pid, exit }
            }
            Ended::Tool { ticket, end } => ChildrenEvent::ToolDone {
                agent,
                ticket,
                outcome: ToolOutcome { end, output: words },
            },
        }
    }
}

impl Children {
    /// Reaps what has ended; `true` when there may be more.
    pub(super) fn reap(&mut self) -> bool {
        for _ in 0..BATCH {
            let Some(pid) = raw::peek() else {
                return false;
            };
            let known = self.managed.contains_key(&pid)
                || self.tools.contains_key(&pid)
                || self.leftovers.contains_key(&pid);
            if known {
                kill_group(pid);
            }
            let Some(reaped) = raw::reap(pid) else {
                return false;
            };
            self.route(pid, reaped);
        }
        true
    }

    pub(super) fn route(&mut self, pid: u32, reaped: Reaped) {
        if let Some(child) = self.managed.remove(&pid) {
            self.child_ended(pid, child, reaped);
        } else if let Some(tool) = self.tools.remove(&pid) {
            self.tool_ended(tool, reaped.status);
        } else if let Some(left) = self.leftovers.remove(&pid) {
            // We were replaced in place (same process, new program), so it is our child after all.
            let child = Managed {
                agent: left.agent,
                record: left.record,
                certificates: left.certificates,
                marker: left.marker,
                memory: left.memory,
                killed: left.killed,
            };
            self.child_ended(pid, child, reaped);
        } else {
            self.orphans = self.orphans.saturating_add(1);
            // It may have been the last of a group.
            #[cfg(feature = "isolation")]
            self.groups.sweep();
        }
    }

    fn child_ended(&mut self, pid: u32, child: Managed, reaped: Reaped) {
        // When this fails the record names a process that is gone, and its start time tells.
        leftover::record_ended(&child.record);
        let memory_ran_out = child
            .memory
            .as_ref()
            .is_some_and(facts::OomCounter::has_risen);
        let exit = Exit {
            status: reaped.status,
            tail: String::new(),
            oom_killed: reaped.status == ExitStatus::Signal(KILL)
                && !child.killed
                && memory_ran_out,
            cpu: reaped.cpu,
            max_resident: reaped.max_resident,
        };
        #[cfg(feature = "isolation")]
        self.groups.ended(&child.agent, &child.marker);
        let words = self.output.finish_child(&child.agent);
        self.endings
            .push(Ending::child(child.agent, pid, exit, words));
    }

    fn tool_ended(&mut self, tool: Tool, status: ExitStatus) {
        let words = self.output.finish_tool(tool.output);
        let end = match (tool.phase, status) {
            (ToolPhase::Dismissed, _) => return,
            (ToolPhase::Killed { .. }, _) => ToolEnd::TimedOut,
            (ToolPhase::Running { .. }, ExitStatus::Code(code)) => ToolEnd::Exited(code),
            (ToolPhase::Running { .. }, ExitStatus::Signal(signal)) => ToolEnd::Signalled(signal),
            // wait4 without WUNTRACED knows exits and signals only.
            (ToolPhase::Running { .. }, ExitStatus::Unknown) => ToolEnd::Exited(-1),
        };
        let ticket = tool.ticket;
        let what = Ended::Tool { ticket, end };
        self.endings.push(Ending::new(tool.agent, what, words));
    }

    /// Kills tools whose time is up, and answers for those that do not die.
    pub(super) fn expire_tools(&mut self) {
        let now = Instant::now();
        for (pid, tool) in &mut self.tools {
            match tool.phase {
                ToolPhase::Running { kill_at } if kill_at <= now => {
                    let answer_at = now + KILL_WAIT;
                    tool.phase = ToolPhase::Killed { answer_at };
                    kill_group(*pid);
                }
                ToolPhase::Killed { answer_at } if answer_at <= now => {
                    // It hangs in the kernel. It stays on the list, so that its end is not taken for an orphan's.
                    tool.phase = ToolPhase::Dismissed;
                    let ticket = tool.ticket;
                    let end = ToolEnd::TimedOut;
                    let words = self.output.finish_tool(tool.output);
                    let what = Ended::Tool { ticket, end };
                    self.endings
                        .push(Ending::new(tool.agent.clone(), what, words));
                }
                ToolPhase::Running { .. } | ToolPhase::Killed { .. } | ToolPhase::Dismissed => {}
            }
        }
    }

    /// Tells what has its last words, or has waited long enough for them.
    pub(super) fn poll_endings(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        for mut ending in std::mem::take(&mut self.endings) {
            match Pin::new(&mut ending.words).poll(cx) {
                Poll::Ready(words) => {
                    let event = ending.told(words.unwrap_or_default());
                    self.ready.push_back(event);
                }
                Poll::Pending if ending.until <= now => {
                    self.ready.push_back(ending.told(String::new()));
                }
                Poll::Pending => self.endings.push(ending),
            }
        }
    }

    /// When something here is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let tools = self.tools.values().filter_map(Tool::due);
        let endings = self.endings.iter().map(|ending| ending.until);
        tools.chain(endings).min()
    }
}
