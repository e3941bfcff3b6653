//! The life of one child as tables of what happens and what is ordered.

use super::*;
use crate::units::WallTime;

fn policy() -> Restart {
    Restart {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(30),
        stable_after: Duration::from_secs(10),
        give_up_after: 4,
    }
}

fn lifecycle() -> (Lifecycle, Tickets, Random) {
    let lifecycle = Lifecycle::new(policy(), Duration::from_secs(7), 15);
    (lifecycle, Tickets::default(), Random::seeded(1))
}

fn child(pid: u32) -> ChildIdentity {
    ChildIdentity {
        pid,
        start_ticks: 1,
        started: WallTime::default(),
    }
}

fn exit(status: ExitStatus) -> Exit {
    Exit {
        status,
        tail: String::new(),
        oom_killed: false,
        cpu: Duration::ZERO,
        max_resident: 0,
    }
}

fn at(millis: u64) -> Moment {
    Moment::from_millis(millis)
}

fn start(life: &mut Lifecycle, tickets: &mut Tickets, now: Moment, pid: u32) {
    let orders = life.want_up(now, tickets);
    let ticket = match orders.as_slice() {
        [Order::Spawn(ticket)] => *ticket,
        other => panic!("expected a spawn, got {other:?}"),
    };
    assert_eq!(life.spawned(now, ticket, child(pid)).0, Some(Fact::Started));
}

#[test]
fn a_stop_that_took_a_kill_is_known_until_the_next_stop() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    life.want_down(at(100));
    let kill = life.handle_timeout(at(7_100), &mut tickets);
    let wanted = Order::Signal {
        pid: 10,
        signal: SIGKILL,
    };
    assert_eq!(kill, [wanted]);
    let gone = exit(ExitStatus::Signal(SIGKILL));
    life.exited(at(7_200), 10, gone, &mut tickets, &mut random);
    assert!(life.was_killed());
    start(&mut life, &mut tickets, at(8_000), 11);
    life.want_down(at(8_100));
    let gone = exit(ExitStatus::Signal(15));
    life.exited(at(8_200), 11, gone, &mut tickets, &mut random);
    assert!(!life.was_killed());
}

#[test]
fn first_crash_restarts_at_once_and_later_ones_ever_more_slowly() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    let (facts, orders) = life.exited(
        at(100),
        10,
        exit(ExitStatus::Code(1)),
        &mut tickets,
        &mut random,
    );
    assert!(matches!(facts.as_slice(), [Fact::Crashed(_)]));
    let [Order::Spawn(ticket)] = orders.as_slice() else {
        panic!("{orders:?}")
    };
    life.spawned(at(100), *ticket, child(11));
    let (_, orders) = life.exited(
        at(200),
        11,
        exit(ExitStatus::Code(1)),
        &mut tickets,
        &mut random,
    );
    assert_eq!(orders, vec![]);
    let first = life.due().unwrap().since(at(200));
    assert!(
        (750..=1250).contains(&u64::try_from(first.as_millis()).unwrap()),
        "{first:?}"
    );
    let orders = life.handle_timeout(life.due().unwrap(), &mut tickets);
    let [Order::Spawn(ticket)] = orders.as_slice() else {
        panic!("{orders:?}")
    };
    life.spawned(at(2000), *ticket, child(12));
    life.exited(
        at(2100),
        12,
        exit(ExitStatus::Code(1)),
        &mut tickets,
        &mut random,
    );
    let second = life.due().unwrap().since(at(2100));
    assert!(
        (1500..=2500).contains(&u64::try_from(second.as_millis()).unwrap()),
        "{second:?}"
    );
}

#[test]
fn give_up_after_the_limit_and_try_again_when_told() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    let mut now = at(1);
    let mut pid = 10;
    loop {
        let (facts, orders) = life.exited(
            now,
            pid,
            exit(ExitStatus::Signal(11)),
            &mut tickets,
            &mut random,
        );
        if let Some(Fact::GaveUp(reason)) = facts.last() {
            assert_eq!(
                reason,
                "4 failed starts in a row: the child died with signal 11"
            );
            break;
        }
        let orders = if orders.is_empty() {
            now = life.due().unwrap();
            life.handle_timeout(now, &mut tickets)
        } else {
            orders
        };
        let [Order::Spawn(ticket)] = orders.as_slice() else {
            panic!("{orders:?}")
        };
        pid += 1;
        life.spawned(now, *ticket, child(pid));
    }
    assert_eq!(pid, 13, "four starts in all");
    assert_eq!(life.due(), None, "a child given up costs no wake-up");
    assert_eq!(life.word(), "given up");
    assert!(matches!(
        life.want_up(now, &mut tickets).as_slice(),
        [Order::Spawn(_)]
    ));
}

#[test]
fn stable_time_resets_the_count_and_exit_zero_is_a_crash_too() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    for round in 1..20u64 {
        let now = at(round * 60_000);
        let pid = 9 + u32::try_from(round).unwrap();
        let (facts, orders) = life.exited(
            now,
            pid,
            exit(ExitStatus::Code(0)),
            &mut tickets,
            &mut random,
        );
        assert!(
            matches!(facts.as_slice(), [Fact::Crashed(_)]),
            "round {round}"
        );
        let [Order::Spawn(ticket)] = orders.as_slice() else {
            panic!("{orders:?}")
        };
        life.spawned(now, *ticket, child(pid + 1));
    }
    assert_eq!(life.crashes, 19);
}

#[test]
fn stop_ladder_is_signal_then_kill_then_kill_again() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    assert_eq!(
        life.want_down(at(1000)),
        vec![Order::Signal {
            pid: 10,
            signal: 15
        }]
    );
    assert_eq!(life.handle_timeout(at(7999), &mut tickets), vec![]);
    let kill = vec![Order::Signal { pid: 10, signal: 9 }];
    assert_eq!(life.handle_timeout(at(8000), &mut tickets), kill);
    assert!(life.unkillable());
    assert_eq!(life.handle_timeout(at(10_000), &mut tickets), kill);
    let (facts, orders) = life.exited(
        at(10_001),
        10,
        exit(ExitStatus::Signal(9)),
        &mut tickets,
        &mut random,
    );
    assert_eq!((facts, orders), (vec![Fact::Stopped], vec![]));
    assert!(life.is_down());
}

#[test]
fn restart_orders_while_stopping_are_one_restart() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    assert_eq!(
        life.restart(at(10), &mut tickets),
        vec![Order::Signal {
            pid: 10,
            signal: 15
        }]
    );
    for _ in 0..50 {
        assert_eq!(life.restart(at(11), &mut tickets), vec![]);
    }
    let (_, orders) = life.exited(
        at(20),
        10,
        exit(ExitStatus::Code(0)),
        &mut tickets,
        &mut random,
    );
    let [Order::Spawn(ticket)] = orders.as_slice() else {
        panic!("{orders:?}")
    };
    life.spawned(at(21), *ticket, child(11));
    assert_eq!((life.restarts, life.crashes), (1, 0));
}

#[test]
fn leftover_is_stopped_before_a_new_child_starts() {
    let (mut life, mut tickets, mut random) = lifecycle();
    assert_eq!(
        life.stop_leftover(at(0), child(77)),
        vec![Order::Signal {
            pid: 77,
            signal: 15
        }]
    );
    assert_eq!(
        life.want_up(at(0), &mut tickets),
        vec![],
        "never two children of one agent"
    );
    let (_, orders) = life.exited(
        at(5),
        77,
        exit(ExitStatus::Unknown),
        &mut tickets,
        &mut random,
    );
    assert!(matches!(orders.as_slice(), [Order::Spawn(_)]));
}

#[test]
fn a_child_no_longer_wanted_when_it_appears_is_stopped() {
    let (mut life, mut tickets, _) = lifecycle();
    let orders = life.want_up(at(0), &mut tickets);
    let [Order::Spawn(ticket)] = orders.as_slice() else {
        panic!("{orders:?}")
    };
    assert_eq!(life.want_down(at(1)), vec![]);
    let (fact, orders) = life.spawned(at(2), *ticket, child(10));
    assert_eq!(fact, None);
    assert_eq!(
        orders,
        vec![Order::Signal {
            pid: 10,
            signal: 15
        }]
    );
}

#[test]
fn a_loop_of_deaths_is_one_until_the_child_was_up_for_the_stable_time() {
    let (mut life, mut tickets, mut random) = lifecycle();
    start(&mut life, &mut tickets, at(0), 10);
    let mut now = at(0);
    for pid in 10..10 + LOOP_AFTER {
        assert_eq!(life.crash_loop(now), None, "{pid}");
        let died = exit(ExitStatus::Code(1));
        let (_, mut orders) = life.exited(now, pid, died, &mut tickets, &mut random);
        if orders.is_empty() {
            now = life.due().unwrap();
            orders = life.handle_timeout(now, &mut tickets);
        }
        let [Order::Spawn(ticket)] = orders.as_slice() else {
            panic!("{orders:?}")
        };
        life.spawned(now, *ticket, child(pid + 1));
    }
    let stable = policy().stable_after;
    let nearly = stable.saturating_sub(Duration::from_millis(1));
    assert_eq!(life.crash_loop(now), Some(LOOP_AFTER));
    assert_eq!(life.crash_loop(now.after(nearly)), Some(LOOP_AFTER));
    assert_eq!(life.crash_loop(now.after(stable)), None);
}

#[test]
fn a_death_for_lack_of_memory_is_told_as_one() {
    let mut died = exit(ExitStatus::Signal(SIGKILL));
    let plain = describe(&died);
    assert!(!plain.is_empty() && !plain.contains("memory"), "{plain}");
    died.oom_killed = true;
    assert_eq!(
        describe(&died),
        format!("{plain} (killed by the kernel for lack of memory)")
    );
}

/// A lifecycle in the state of that name, at the moment 100 s, and what hands out its tickets.
fn in_state(state: &str) -> (Lifecycle, Tickets, Random) {
    let (mut life, mut tickets, mut random) = lifecycle();
    let code = || exit(ExitStatus::Code(1));
    let now = at(100_000);
    match state {
        "down" => {}
        "starting" => {
            life.want_up(now, &mut tickets);
        }
        "starting, not wanted" => {
            life.want_up(now, &mut tickets);
            life.want_down(now);
        }
        "barred" => life.bar(),
        "up" => start(&mut life, &mut tickets, now, 7),
        "stopping" => {
            start(&mut life, &mut tickets, now, 7);
            life.want_down(now);
        }
        "restarting" => {
            start(&mut life, &mut tickets, now, 7);
            life.restart(now, &mut tickets);
        }
        "killed" => {
            start(&mut life, &mut tickets, now, 7);
            life.force(now);
        }
        // The first restart is at once; this is the second.
        "waiting" => {
            start(&mut life, &mut tickets, now, 6);
            let (_, orders) = life.exited(now, 6, code(), &mut tickets, &mut random);
            let [Order::Spawn(ticket)] = orders[..] else {
                panic!("{orders:?}")
            };
            life.spawned(now, ticket, child(7));
            life.exited(now, 7, code(), &mut tickets, &mut random);
        }
        "given up" => {
            life.want_up(now, &mut tickets);
            for _ in 0..4 {
                life.spawn_failed(now, "no such file".to_owned(), &mut random);
            }
        }
        other => panic!("{other}"),
    }
    (life, tickets, random)
}

/// What is done to it, and what it wants done and says.
fn after(state: &str, what: &str) -> (Lifecycle, String) {
    let (mut life, mut tickets, mut random) = in_state(state);
    let tickets = &mut tickets;
    let now = at(102_000);
    let code = exit(ExitStatus::Code(1));
    let exited = |life: &mut Lifecycle, pid, tickets: &mut Tickets, random: &mut Random| {
        let (facts, orders) = life.exited(now, pid, code.clone(), tickets, random);
        let facts: Vec<_> = facts
            .iter()
            .map(|fact| match fact {
                Fact::Crashed(_) => "crashed".to_owned(),
                fact => format!("{fact:?}"),
            })
            .collect();
        (facts.join(" "), orders)
    };
    let (facts, orders) = match what {
        "nothing" => (String::new(), Vec::new()),
        "want up" => (String::new(), life.want_up(now, tickets)),
        "want down" => (String::new(), life.want_down(now)),
        "restart" => (String::new(), life.restart(now, tickets)),
        "force" => (String::new(), life.force(now)),
        "time" => (String::new(), life.handle_timeout(now, tickets)),
        "much time" => (String::new(), life.handle_timeout(at(200_000), tickets)),
        "its end" => exited(&mut life, 7, tickets, &mut random),
        "another's end" => exited(&mut life, 8, tickets, &mut random),
        "it runs" => {
            let (fact, orders) = life.spawned(now, Ticket(1), child(9));
            (format!("{fact:?}"), orders)
        }
        "not started" => {
            let facts = life.spawn_failed(now, "no such file".to_owned(), &mut random);
            (format!("{facts:?}"), Vec::new())
        }
        other => panic!("{other}"),
    };
    let mut said = vec![facts];
    said.extend(orders.into_iter().map(|order| match order {
        Order::Spawn(Ticket(number)) => format!("spawn {number}"),
        Order::Signal { pid, signal } => format!("signal {signal} to {pid}"),
    }));
    (life, said.join(" ").trim().to_owned())
}

/// How it looks from outside.
fn looks(life: &Lifecycle) -> String {
    let seconds = |moment: Option<Moment>| moment.map(|it| it.as_millis() / 1000);
    let pid = |child: Option<&ChildIdentity>| child.map(|child| child.pid);
    let flags = [
        (life.is_down(), "nothing left"),
        (life.was_killed(), "took a kill"),
        (life.is_restarting(), "is replaced"),
        (life.unkillable(), "does not go"),
        (life.given_up().is_some(), "gave up"),
    ];
    let flags = flags.iter().filter(|(is, _)| *is).map(|(_, word)| *word);
    format!(
        "{}/{} due {:?} runs {:?} since {:?} there {:?} loop {:?} restarts {} crashes {} {:?} {}",
        life.state_name(),
        life.word(),
        seconds(life.due()),
        pid(life.running()),
        seconds(life.up_since()),
        pid(life.process()),
        life.crash_loop(at(102_000)),
        life.restarts,
        life.crashes,
        life.last_exit.as_deref().unwrap_or(""),
        flags.collect::<Vec<_>>().join(", ")
    )
}

/// Every state with everything that can happen in it. A row that says nothing after the arrow: nothing is wanted, said
/// or changed.
#[test]
fn whatever_happens_in_any_state_is_answered_as_the_table_says() {
    let states = [
        "down",
        "barred",
        "starting",
        "starting, not wanted",
        "up",
        "stopping",
        "restarting",
        "killed",
        "waiting",
        "given up",
    ];
    let mut rows = Vec::new();
    for state in states {
        let before = looks(&in_state(state).0);
        rows.push(format!("{state}: {before}"));
        let starting = state.starts_with("starting");
        let all = [
            "want up",
            "want down",
            "restart",
            "force",
            "time",
            "much time",
            "its end",
            "another's end",
        ];
        let more = ["it runs", "not started"];
        for what in all.iter().chain(more.iter().filter(|_| starting)) {
            let (life, said) = after(state, what);
            let now = looks(&life);
            let change = if now == before { "" } else { now.as_str() };
            rows.push(format!(
                "  {what} -> {said}{}{change}",
                if change.is_empty() { "" } else { " | " }
            ));
        }
    }
    let rows: Vec<_> = rows.iter().map(|row| row.trim_end()).collect();
    assert_eq!(rows.join("\n") + "\n", include_str!("table.txt"));
}

#[test]
fn taken_over_child_is_up_and_its_next_start_is_a_restart() {
    let (mut life, mut tickets, mut random) = lifecycle();
    life.adopt(at(5_000), child(7));
    assert_eq!(life.word(), "running");
    assert_eq!((life.up_since(), life.restarts), (Some(at(5_000)), 0));
    let code = exit(ExitStatus::Code(1));
    let (_, orders) = life.exited(at(6_000), 7, code, &mut tickets, &mut random);
    let [Order::Spawn(ticket)] = orders[..] else {
        panic!("{orders:?}")
    };
    life.spawned(at(6_000), ticket, child(8));
    assert_eq!((life.restarts, life.crashes), (1, 1));
}

#[test]
fn left_over_child_goes_by_the_ladder_before_a_new_one_starts() {
    let (mut life, mut tickets, mut random) = lifecycle();
    let told = life.stop_leftover(at(0), child(7));
    assert_eq!(told, [Order::Signal { pid: 7, signal: 15 }]);
    assert_eq!(life.want_up(at(10), &mut tickets), []);
    let gone = exit(ExitStatus::Unknown);
    let (facts, orders) = life.exited(at(20), 7, gone, &mut tickets, &mut random);
    assert_eq!(
        (facts, orders),
        (vec![Fact::Stopped], vec![Order::Spawn(Ticket(1))])
    );
    assert_eq!(life.last_exit.as_deref(), Some("unknown exit status"));
}

#[test]
fn delays_double_up_to_their_limit_and_stay_within_a_quarter() {
    let (mut life, _, mut random) = lifecycle();
    for (failures, low, high) in [
        (0, 0, 0),
        (1, 0, 0),
        (2, 750, 1_250),
        (3, 1_500, 2_500),
        (6, 12_000, 20_000),
        (7, 22_500, 30_000),
        (40, 22_500, 30_000),
        (u32::MAX, 22_500, 30_000),
    ] {
        life.failures = failures;
        let delays: Vec<_> = (0..200)
            .map(|_| life.delay(&mut random).as_millis())
            .collect();
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(
            *least >= low && *most <= high,
            "{failures}: {least} to {most}"
        );
        // They are spread over the whole of it.
        assert!(
            (most - least) * 10 >= (high - low) * 8,
            "{failures}: {least} to {most}"
        );
    }
}

#[test]
fn stable_time_ends_a_loop_and_heals_the_count() {
    for (uptime, looping, failures) in [(9_999, Some(3), 4), (10_000, None, 1)] {
        let (mut life, mut tickets, mut random) = lifecycle();
        life.policy.give_up_after = 0;
        start(&mut life, &mut tickets, at(0), 7);
        life.failures = LOOP_AFTER;
        assert_eq!(life.crash_loop(at(uptime)), looping, "{uptime}");
        let code = exit(ExitStatus::Code(1));
        life.exited(at(uptime), 7, code, &mut tickets, &mut random);
        assert_eq!(life.failures, failures, "{uptime}");
    }
    let (mut life, mut tickets, _) = lifecycle();
    start(&mut life, &mut tickets, at(0), 7);
    life.failures = LOOP_AFTER - 1;
    assert_eq!(life.crash_loop(at(0)), None);
}

#[test]
fn wish_for_it_does_not_cut_a_pause_short() {
    let (mut life, mut tickets, _) = in_state("waiting");
    let until = life.due().unwrap();
    let before = Moment::from_millis(until.as_millis() - 1);
    assert_eq!(life.want_up(before, &mut tickets), []);
    assert_eq!(life.handle_timeout(before, &mut tickets), []);
    assert_eq!((life.word(), life.due()), ("backing off", Some(until)));
    assert_eq!(life.want_up(until, &mut tickets), [Order::Spawn(Ticket(3))]);
}
