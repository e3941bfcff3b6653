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
