//! The command line against real doors, with a loop task that answers as the engine would.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::engine::message::{
    Command as Order, Origin, Refusal, RefusalKind, Reply, Snapshot, Step,
};
use crate::port::admin::testing::{record, revision, snapshot, stored};
use crate::port::admin::{Admin, Doors, QUEUE_MAX, Question};

/// A supervisor whose loop is a function of the test.
struct Supervisor {
    dir: tempfile::TempDir,
    address: String,
    _tasks: JoinSet<()>,
}

impl Supervisor {
    fn start(mut answer: impl FnMut(Order) -> Reply + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let admin = Admin::bind(&Doors {
            state_dir: dir.path().to_owned(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            token: None,
            healthcheck: None,
            health_door: crate::config::HealthDoor::default(),
        })
        .unwrap();
        let address = admin.addresses()[0].to_string();
        let (questions, mut queue) = mpsc::channel::<Question>(QUEUE_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            while let Some((order, reply)) = queue.recv().await {
                drop(reply.send(answer(order)));
            }
        });
        tasks.spawn_local(async move {
            admin.serve(questions).await.unwrap();
        });
        Self {
            dir,
            address,
            _tasks: tasks,
        }
    }

    /// A loop that only shows its state.
    fn showing(change: impl Fn(&mut Snapshot) + 'static) -> Self {
        Self::start(move |_| {
            let mut all = snapshot();
            change(&mut all);
            Reply::Status(Box::new(all))
        })
    }

    async fn asked(&self, line: &str) -> (u8, String, String) {
        let state = self.dir.path().display();
        run(&format!("{line} --state-dir {state}")).await
    }
}

/// Runs one line; gives exit code, standard output and standard error (as on a terminal).
async fn run(line: &str) -> (u8, String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let args = format!("adjutant {line}");
    let args = args.split_whitespace().map(OsString::from);
    let code = {
        let mut out = Out::new(&mut stdout, &mut stderr, true);
        match parse(args, &mut out) {
            // On the heap: with the whole supervisor in it this is a large future.
            Ok(command) => Box::pin(perform(command, &mut out)).await,
            Err(code) => code,
        }
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code.number(), text(stdout), text(stderr))
}

async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

fn accepted() -> Reply {
    Reply::Accepted {
        what: "will do".to_owned(),
    }
}

fn bundle(text: &str) -> tempfile::TempDir {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(dir.path().join("collect.yaml")).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    dir
}

#[tokio::test]
async fn help_version_and_mistakes_need_no_settings() {
    let (code, stdout, _) = run("--version").await;
    assert_eq!((code, stdout), (0, "adjutant 0.1.0\n".to_owned()));
    let (code, stdout, _) = run("--help").await;
    assert_eq!(code, 0);
    assert!(stdout.contains("rollback"), "{stdout}");
    let (code, stdout, stderr) = run("stauts").await;
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("'status'"), "{stderr}");
}

#[tokio::test]
async fn status_is_a_row_per_agent_and_a_line_per_trouble() {
    local(async {
        let house = Supervisor::showing(|all| {
            let agent = &mut all.agents[0];
            agent.healthy = false;
            agent.status = "backing off".to_owned();
            agent.last_error = "exit code 1".to_owned();
            agent.child = None;
            agent.history = vec![record(3, Step::RolledBack, "port 4318 is taken")];
            agent.link.state = "waiting";
            agent.link.last_error = "connection refused".to_owned();
        });
        let (code, stdout, stderr) = house.asked("status").await;
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(
            stdout,
            "AGENT      PROFILE   STATUS                   PID  REVISION                ROLLOUT  SERVER   RESTARTS\n\
             collector  adjutant  backing off (unhealthy)  -    1699999700000-REV       idle     waiting  3\n\
             \n\
             CERTIFICATE  SOURCE  STATE  DOMAINS        DAYS LEFT  ENDS                      SERIAL\n\
             web          acme    live   a.example.com  90         2024-02-12T22:13:20.000Z  04ab\n\
             collector: exit code 1\n\
             collector: last rollout rolled back at 2023-11-14T22:13:20.000Z: port 4318 is taken\n\
             collector: server ws://127.0.0.1:4320/v1/opamp: connection refused\n"
                .replace("REV     ", &stored(5, Origin::Offer).id.as_str()[14..])
        );
        let (code, stdout, _) = house.asked("status --json").await;
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(code, 0);
        assert_eq!(document["agents"][0]["history"][0]["step"], "rolled_back");
        assert_eq!(document["uptime_seconds"], 61.0);
    })
    .await;
}

#[tokio::test]
async fn nobody_and_a_refusal_have_codes_of_their_own() {
    local(async {
        let empty = tempfile::tempdir().unwrap();
        let line = format!("restart --state-dir {}", empty.path().display());
        let (code, stdout, stderr) = run(&line).await;
        assert_eq!((code, stdout.as_str()), (6, ""));
        assert_eq!(stderr.lines().count(), 1);
        assert!(stderr.starts_with("adjutant: no supervisor answers on "));
        assert!(stderr.contains("`adjutant run`"), "{stderr}");
        let house = Supervisor::start(|_| {
            Reply::Refused(Refusal {
                kind: RefusalKind::Conflict,
                reason: "stopping; start again first".to_owned(),
            })
        });
        let (code, _, stderr) = house.asked("reload").await;
        assert_eq!(code, 7);
        assert_eq!(stderr, "adjutant: refused: stopping; start again first\n");
    })
    .await;
}

#[tokio::test]
async fn orders_arrive_as_typed() {
    local(async {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let orders = Arc::clone(&seen);
        let house = Supervisor::start(move |order| {
            orders.lock().unwrap().push(format!("{order:?}"));
            accepted()
        });
        let files = bundle("interval: 5s\n");
        let apply = format!("apply {} --agent collector", files.path().display());
        for line in [
            apply.as_str(),
            "rollback --to 1700000000000-00c0ffee",
            "restart --agent collector",
            "reload",
        ] {
            let (code, stdout, _) = house.asked(line).await;
            assert_eq!((code, stdout.as_str()), (0, "will do\n"), "{line}");
        }
        let body = b"interval: 5s\n";
        assert_eq!(
            seen.lock().unwrap().join("\n"),
            format!(
                "Apply {{ agent: Some(AgentName(\"collector\")), files: [OfferedFile {{ \
                 name: \"collect.yaml\", content_type: \"\", body: {body:?} }}] }}\n\
                 Rollback {{ agent: None, to: Some(RevisionId(\"1700000000000-00c0ffee\")) }}\n\
                 Restart {{ agent: Some(AgentName(\"collector\")) }}\n\
                 Reload {{ agent: None }}"
            )
        );
    })
    .await;
}

/// A loop whose rollout goes on by one step with each look after the order.
fn rolling(steps: Vec<(&'static str, Step)>, reason: &'static str) -> Supervisor {
    let mut ordered = false;
    let mut looks = steps.into_iter();
    let mut taken = Vec::new();
    Supervisor::start(move |order| {
        if !matches!(order, Order::Status) {
            ordered = true;
            return accepted();
        }
        let mut all = snapshot();
        if ordered {
            taken.extend(looks.next());
        }
        // The history has every step, the newest first.
        for (phase, step) in &taken {
            all.agents[0].phase = phase;
            let (said, held_up) = if step.is_final() {
                (reason, "")
            } else {
                ("", reason)
            };
            all.agents[0].phase_error = held_up.to_owned();
            let mut record = record(3, *step, said);
            record.origin = Origin::Manual;
            all.agents[0].history.insert(0, record);
        }
        Reply::Status(Box::new(all))
    })
}

#[tokio::test(start_paused = true)]
async fn waiting_tells_how_the_rollout_ended() {
    local(async {
        let files = bundle("x");
        let line = format!("apply {} --wait", files.path().display());
        let id = stored(5, Origin::Offer).id;
        let house = rolling(
            vec![
                ("validating", Step::Staged),
                ("validating", Step::Staged),
                ("probation", Step::Probation),
                ("idle", Step::Committed),
            ],
            "",
        );
        let (code, stdout, stderr) = house.asked(&line).await;
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(stdout, format!("will do\ncommitted: {id}\n"));
        assert_eq!(
            stderr,
            "collector: validating\ncollector: probation\ncollector: idle\n"
        );
        let house = rolling(
            vec![("validating", Step::Staged), ("idle", Step::RolledBack)],
            "died in probation: exit code 3",
        );
        let (code, stdout, stderr) = house.asked(&line).await;
        assert_eq!((code, stdout.as_str()), (10, "will do\n"));
        assert!(
            stderr.ends_with(&format!(
                "adjutant: rolled back: {id}: died in probation: exit code 3\n"
            )),
            "{stderr}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_nothing_begins_or_nothing_ends() {
    local(async {
        let house = rolling(Vec::new(), "");
        let (code, _, stderr) = house.asked("rollback --wait").await;
        assert_eq!(code, 10);
        assert!(stderr.contains("no rollout of the agent began"), "{stderr}");
        let house = rolling(vec![("probation", Step::Probation)], "");
        let (code, _, stderr) = house.asked("rollback --wait --timeout 20s").await;
        assert_eq!(code, 10);
        assert!(
            stderr.contains("not over after 20s; it goes on"),
            "{stderr}"
        );
        let held_up = vec![("promoting", Step::Validated)];
        let house = rolling(held_up, "link /s/current: no space left on device");
        let (code, _, stderr) = house.asked("rollback --wait --timeout 20s").await;
        assert_eq!(code, 10);
        let wanted = "held up in promoting: link /s/current: no space left on device; it goes on";
        assert!(stderr.contains(wanted), "{stderr}");
    })
    .await;
}

#[tokio::test]
async fn a_bundle_that_cannot_be_read_orders_nothing() {
    local(async {
        let house = Supervisor::start(|order| panic!("nobody should ask {order:?}"));
        let empty = tempfile::tempdir().unwrap();
        let (code, _, stderr) = house
            .asked(&format!("apply {}", empty.path().display()))
            .await;
        assert_eq!(code, 78);
        assert!(stderr.ends_with("no files to apply\n"), "{stderr}");
    })
    .await;
}

#[tokio::test]
async fn revisions_are_listed_shown_and_compared() {
    local(async {
        let house = Supervisor::start(|order| match order {
            Order::Show {
                revision: Some(id), ..
            } if id == stored(60, Origin::Manual).id => {
                Reply::Revision(Box::new(revision(60, "a: 1\nb: 2\n")))
            }
            Order::Show { .. } => Reply::Revision(Box::new(revision(5, "a: 1\nb: 3\n"))),
            _ => {
                let mut all = snapshot();
                let bad = stored(60, Origin::Manual).hash;
                all.agents[0].rejected = vec![(bad, "the child died".to_owned())];
                Reply::Status(Box::new(all))
            }
        });
        let (new, old) = (stored(5, Origin::Offer).id, stored(60, Origin::Manual).id);
        let (code, stdout, _) = house.asked("config list").await;
        assert_eq!(code, 0);
        assert_eq!(
            stdout,
            format!(
                "REVISION                STAGED                    ORIGIN  FILES  BYTES\n\
                 {new}  2023-11-14T22:08:20.000Z  offer   1      120    current, last-good\n\
                 {old}  2023-11-14T21:13:20.000Z  manual  1      120    rejected\n"
            )
        );
        let (_, stdout, _) = house.asked("config show").await;
        assert_eq!(
            stdout,
            format!(
                "# revision {new} (offer), staged 2023-11-14T22:08:20.000Z\n\
                 # ---- collect.yaml (remote)\na: 1\nb: 3\n"
            )
        );
        let (code, stdout, stderr) = house.asked("config diff").await;
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(
            stdout,
            format!(
                "--- {old}/collect.yaml\n+++ {new}/collect.yaml\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n"
            )
        );
        let (_, stdout, _) = house.asked(&format!("config diff {new}")).await;
        assert_eq!(stdout, "", "the current one against itself");
    })
    .await;
}

#[tokio::test]
async fn healthcheck_follows_the_table() {
    type Change = fn(&mut Snapshot);
    let cases: [(&str, Change, u8, &str); 6] = [
        ("well", |_| {}, 0, "ok\n"),
        (
            "waiting",
            |all| all.agents[0].current = Some(stored(1, Origin::Default)),
            0,
            "ok\n",
        ),
        (
            "server unreachable",
            |all| all.agents[0].link.state = "waiting",
            0,
            "degraded: link.collector: waiting\n",
        ),
        (
            "default instead of remote",
            |all| all.agents[0].on_default = true,
            1,
            "adjutant: unhealthy: rollout.collector: the default config runs although a remote one was applied\n",
        ),
        (
            "dead child",
            |all| {
                all.agents[0].healthy = false;
                all.agents[0].child = None;
                all.agents[0].status = "given up".to_owned();
            },
            1,
            "adjutant: unhealthy: agent.collector: given up\n",
        ),
        (
            "one of two dead",
            |all| {
                all.agents.push(crate::port::admin::testing::agent("other"));
                all.agents[1].healthy = false;
                all.agents[1].status = "backing off".to_owned();
            },
            1,
            "adjutant: unhealthy: agent.other: backing off\n",
        ),
    ];
    local(async {
        for (name, change, code, said) in cases {
            let house = Supervisor::showing(change);
            let (found, stdout, stderr) = house.asked("healthcheck").await;
            assert_eq!((found, stdout + &stderr), (code, said.to_owned()), "{name}");
            let line = format!("healthcheck --url http://{}", house.address);
            let (found, stdout, stderr) = run(&line).await;
            assert_eq!((found, stdout + &stderr), (code, said.to_owned()), "{name}");
        }
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap();
        drop(closed);
        assert_eq!(
            run(&format!("healthcheck --url http://{address}/health"))
                .await
                .0,
            6
        );
        assert_eq!(run("healthcheck --url https://x/health").await.0, 2);
    })
    .await;
}

#[tokio::test]
async fn logs_need_no_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("agents/collector/logs");
    std::fs::create_dir_all(&logs).unwrap();
    let line = format!("logs -n 1 --state-dir {}", dir.path().display());
    let (code, _, stderr) = run(&line).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("output of the supervisor itself"),
        "{stderr}"
    );
    let mut file = std::fs::File::create(logs.join("collector.log")).unwrap();
    std::io::Write::write_all(&mut file, b"one\ntwo\n").unwrap();
    assert_eq!(run(&line).await, (0, "two\n".to_owned(), String::new()));
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_output_quietly() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    local(async {
        let house = Supervisor::showing(|_| {});
        let mut stderr = Vec::new();
        let mut out = Out::new(Gone, &mut stderr, false);
        let command = Command::Status {
            place: Place {
                config: None,
                state_dir: Some(PathBuf::from(house.dir.path())),
                feature_gates: Vec::new(),
            },
            json: false,
            watch: true,
        };
        assert_eq!(Box::pin(perform(command, &mut out)).await, ExitCode::Ok);
        assert!(out.closed());
        drop(out);
        assert_eq!(stderr, b"");
    })
    .await;
}

#[tokio::test]
async fn settings_are_checked_and_the_socket_is_found_through_them() {
    use std::io::Write as _;
    local(async {
        let house = Supervisor::showing(|_| {});
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let state = house.dir.path().display();
        write!(file, "storage:\n  directory: {state}\n").unwrap();
        let path = file.path().display().to_string();
        let (code, stdout, stderr) = run(&format!("validate --config {path}")).await;
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(
            stdout,
            format!(
                "{path}: valid; `agents:` form, state in {state}, agents: collector (adjutant)\n"
            )
        );
        let (code, stdout, _) = run(&format!("status --config {path}")).await;
        assert_eq!(code, 0);
        assert!(stdout.contains("collector"), "{stdout}");
        writeln!(file, "nonsense: 1").unwrap();
        let (code, stdout, stderr) = run(&format!("validate --config {path}")).await;
        assert_eq!((code, stdout.as_str()), (78, ""));
        assert!(
            stderr.starts_with(&format!("adjutant: {path}:3:1")),
            "{stderr}"
        );
    })
    .await;
}

#[tokio::test]
async fn profiles_are_listed_and_shown() {
    let (code, stdout, _) = run("profile list --state-dir /x").await;
    assert_eq!(code, 0);
    let names: Vec<_> = stdout
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        names,
        [
            "adjutant",
            "fluent-bit",
            "generic",
            "otelcol",
            "telegraf",
            "vector"
        ]
    );
    let (code, stdout, _) = run("profile show otelcol --state-dir /x").await;
    assert_eq!(code, 0);
    assert!(stdout.contains("description on the local link"), "{stdout}");
    let (code, _, stderr) = run("profile show nothing --state-dir /x").await;
    assert_eq!(code, 1);
    assert_eq!(
        stderr,
        "adjutant: no profile \"nothing\"; there are: adjutant, fluent-bit, generic, otelcol, \
         telegraf, vector\n"
    );
}
