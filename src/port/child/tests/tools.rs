//! Validators and probes.

use super::*;
use crate::engine::message::{ToolEnd, ToolOutcome, ToolSpec};
use crate::units::Ticket;

fn tool(script: &str, timeout: Duration) -> ToolSpec {
    ToolSpec {
        program: "/bin/sh".into(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: [("GREETING".to_owned(), "hello".to_owned())].into(),
        inherit: Vec::new(),
        timeout,
        output_max: 64,
        process: crate::config::Process::default(),
    }
}

impl Bench {
    fn run(&mut self, ticket: u64, spec: &ToolSpec) {
        self.children
            .run_tool(&self.agent, &self.dirs, Ticket(ticket), spec);
    }

    async fn outcome(&mut self, wanted: u64) -> ToolOutcome {
        match self.event().await {
            ChildrenEvent::ToolDone {
                agent,
                ticket,
                outcome,
            } => {
                assert_eq!((agent, ticket), (self.agent.clone(), Ticket(wanted)));
                outcome
            }
            event @ ChildrenEvent::Exited { .. } => panic!("{event:?}"),
        }
    }
}

#[test]
fn a_tool_is_answered_with_its_end_and_its_words() {
    isolated(
        "tools::a_tool_is_answered_with_its_end_and_its_words",
        async || {
            let mut bench = Bench::new();
            bench.run(
                1,
                &tool("echo $GREETING; echo line 3: bad key >&2; exit 1", DEADLINE),
            );
            let outcome = bench.outcome(1).await;
            assert_eq!(outcome.end, ToolEnd::Exited(1));
            assert_eq!(outcome.output, "hello\nline 3: bad key\n");
            bench.run(2, &tool("kill -6 $$", DEADLINE));
            assert_eq!(bench.outcome(2).await.end, ToolEnd::Signalled(6));
            bench.run(
                3,
                &tool("yes | head -c 1000000; echo the end; pwd", DEADLINE),
            );
            let outcome = bench.outcome(3).await;
            assert_eq!(outcome.output.len(), 64);
            let work = bench.dirs.work.canonicalize().unwrap();
            let end = format!("the end\n{}\n", work.display());
            assert!(outcome.output.ends_with(&end), "{}", outcome.output);
            // One that closes its output early is still waited for.
            bench.run(
                4,
                &tool("echo early; exec >&- 2>&-; sleep 0.1; exit 9", DEADLINE),
            );
            let outcome = bench.outcome(4).await;
            assert_eq!(
                (outcome.end, outcome.output.as_str()),
                (ToolEnd::Exited(9), "early\n")
            );
        },
    );
}

#[test]
fn a_tool_that_takes_too_long_is_killed_with_everything_it_started() {
    isolated(
        "tools::a_tool_that_takes_too_long_is_killed_with_everything_it_started",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("helper");
            let script = format!(
                "trap '' TERM; echo checking; sleep 600 & echo $! > {}; wait; sleep 600",
                file.display()
            );
            bench.run(7, &tool(&script, Duration::from_millis(500)));
            let outcome = bench.outcome(7).await;
            assert_eq!(outcome.end, ToolEnd::TimedOut);
            assert_eq!(outcome.output, "checking\n");
            let helper = bench.line_in(&file).await;
            bench
                .until("its helper is dead", |_| !is_alive(&helper))
                .await;
        },
    );
}

#[test]
fn a_tool_that_cannot_be_started_is_answered_too() {
    isolated(
        "tools::a_tool_that_cannot_be_started_is_answered_too",
        async || {
            let mut bench = Bench::new();
            let mut spec = tool("", DEADLINE);
            spec.program = "/opt/no/such/validator".into();
            bench.run(8, &spec);
            let outcome = bench.outcome(8).await;
            let reason = "start /opt/no/such/validator: no such file".to_owned();
            assert_eq!(outcome.end, ToolEnd::NotStarted(reason));
        },
    );
}

#[test]
fn a_cancelled_tool_is_killed_and_not_answered() {
    isolated(
        "tools::a_cancelled_tool_is_killed_and_not_answered",
        async || {
            let mut bench = Bench::new();
            let file = bench.path("pid");
            let script = format!("echo $$ > {}; exec sleep 600", file.display());
            bench.run(9, &tool(&script, DEADLINE));
            let pid = bench.line_in(&file).await;
            let other: AgentName = "beta".parse().unwrap();
            bench.children.cancel_tool(&other, Ticket(9));
            assert!(is_alive(&pid), "tickets of different agents are different");
            bench.children.cancel_tool(&bench.agent.clone(), Ticket(9));
            bench
                .until("it is reaped", |_| {
                    Stat::read(pid.parse().unwrap()).is_none()
                })
                .await;
            bench.run(10, &tool("exit 0", DEADLINE));
            assert_eq!(bench.outcome(10).await.end, ToolEnd::Exited(0));
            assert_eq!(bench.children.orphans_reaped(), 0);
        },
    );
}

#[test]
fn tools_and_children_run_side_by_side() {
    isolated("tools::tools_and_children_run_side_by_side", async || {
        let mut bench = Bench::new();
        let child = bench.spawn_sh("echo child; exec sleep 600");
        for ticket in 0..30 {
            bench.run(ticket, &tool(&format!("echo {ticket}"), DEADLINE));
        }
        let mut seen = Vec::new();
        while seen.len() < 30 {
            match bench.event().await {
                ChildrenEvent::ToolDone {
                    ticket, outcome, ..
                } => {
                    assert_eq!(outcome.output, format!("{}\n", ticket.0));
                    seen.push(ticket.0);
                }
                event @ ChildrenEvent::Exited { .. } => panic!("{event:?}"),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..30).collect::<Vec<_>>());
        bench.children.signal(child.pid, 15, true, None).unwrap();
        assert_eq!(bench.exit_of(child.pid).await.tail, "child");
    });
}
