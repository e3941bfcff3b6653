//! Disks that refuse a piece of work, and answers that nobody waits for.

use std::time::Duration;

use super::tape::Tape;
use super::{MUTE, OFFER, calm};
use crate::engine::message::{AgentEvent, DiskDone, FaultKind};
use crate::units::Ticket;

#[test]
fn disk_that_refuses_any_work_of_an_offer() {
    let mut told = Tape::default();
    for (offer, works) in [
        (
            OFFER,
            &[
                "ReadLocal",
                "Stage",
                "Promote",
                "MarkGood",
                "Prune",
                "Verify",
            ][..],
        ),
        (
            "exporters: {dies-at-start: {}}\n",
            &["SaveRejected", "ReadRevision", "Promote"][..],
        ),
    ] {
        for work in works {
            let mut house = calm(MUTE);
            house.tape.only(&[
                "journal",
                "server reads",
                "spawn",
                "ERROR",
                "WARNING",
                "disk: current",
                "disk: stage",
            ]);
            house.offer("it", "o1", offer);
            if *work == "Promote" && offer != OFFER {
                house.until("rejected are");
            }
            house.room("it").faults = vec![(work, FaultKind::Full)];
            house.run_s(90);
            house.status();
            told.chapter(&format!("{work} while {offer:?}"), &house.tape);
        }
    }
    told.is_as_told(
        "disk_faults",
        "Whatever work the disk refuses, what runs goes on, and what the server reads is true",
    );
}

#[test]
fn disk_that_refuses_any_record_of_an_offer() {
    let mut told = Tape::default();
    let steps = [
        "Intent",
        "Staged",
        "Validated",
        "Promoted",
        "Signalled",
        "Probation",
        "Committed",
    ];
    for step in steps {
        let mut house = calm(MUTE);
        house
            .tape
            .only(&["journal", "server reads", "spawn", "ERROR", "WARNING"]);
        house.offer("it", "o1", OFFER);
        // The work before it is on its way.
        let before = match step {
            "Intent" => "read local",
            "Staged" => "disk: stage",
            "Validated" => "run /bin/sh",
            "Promoted" => "disk: current",
            "Signalled" => "Promoted",
            "Probation" => "to=\"proving\"",
            _ => "disk: last good",
        };
        house.until(before);
        house.room("it").faults = vec![("Journal", FaultKind::Full)];
        house.run_s(90);
        told.chapter(step, &house.tape);
    }
    let mut house = calm(MUTE);
    house
        .tape
        .only(&["journal", "server reads", "spawn", "ERROR", "WARNING"]);
    house.offer("it", "o1", "exporters: {dies-at-start: {}}\n");
    house.until("rejected are");
    house.until("disk: current");
    house.room("it").faults = vec![("Journal", FaultKind::Full)];
    house.run_s(90);
    told.chapter("RolledBack", &house.tape);
    told.is_as_told(
        "journal_faults",
        "Whatever record the disk refuses, the offer comes to an end that is true",
    );
}

#[test]
fn offer_is_not_told_as_applied_when_a_bad_edit_and_a_bad_disk_leave_the_base_in_its_place() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.forget();
    house.tape.only(&[
        "journal",
        "server reads: o",
        "disk: current is",
        "spawn",
        "ERROR",
    ]);
    house.edit("it", "/etc/a.yaml", "receivers: {dies-at-start: {}}\n");
    house.until("rejected are");
    house.file("it", "/etc/a.yaml", "receivers: {mended: {}}\n");
    house.room("it").faults = vec![
        ("ReadRevision", FaultKind::Missing),
        ("Restore", FaultKind::Full),
    ];
    house.run_s(60);
    house.status();
    house.dies();
    house.boot();
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "edit_good_unread",
        "A bad edit, and the last good config cannot be read: the server is told that its offer does not run any more",
    );
}

#[test]
fn last_good_that_cannot_be_read_is_put_right() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.run_s(60);
    house.forget();
    house.offer("it", "o2", "exporters: {dies-at-start: {}}\n");
    house.until("rejected are");
    house.room("it").faults = vec![
        ("ReadRevision", FaultKind::Missing),
        ("Restore", FaultKind::Full),
    ];
    house.run_s(60);
    house.status();
    house.offer("it", "o3", "exporters: {dies-later: {}}\n");
    house.until("rejected are");
    house.room("it").faults = vec![("ReadRevision", FaultKind::Missing)];
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "good_unread",
        "A last good that cannot be read is put back where its bytes are known, else the base takes its place",
    );
}

#[test]
fn disk_that_does_not_answer_is_said() {
    let mut house = calm(MUTE);
    house.offer("it", "o1", OFFER);
    house.until("disk: stage");
    house.lose_answers();
    house.run_s(30);
    house.status();
    house.tape.is_as_told(
        "disk_stalled",
        "A disk that does not answer for ten seconds is said in the health",
    );
}

#[test]
fn answers_that_nobody_waits_for_change_nothing() {
    let mut house = calm(MUTE);
    let ticket = Ticket(77_777);
    for event in [
        AgentEvent::Disk {
            ticket,
            result: Ok(DiskDone::Durable),
        },
        AgentEvent::RoomSeen {
            ticket,
            room: Err("full".to_owned()),
        },
        AgentEvent::OutputWatched {
            ticket,
            result: Err("no".to_owned()),
        },
        AgentEvent::OutputSaid {
            ticket,
            said: Err("no".to_owned()),
        },
        AgentEvent::HttpProbed {
            ticket,
            outcome: Err("no".to_owned()),
        },
        AgentEvent::FilesTouched { ticket },
    ] {
        house.stray("it", event);
        house.run(Duration::from_secs(1));
    }
    house.status();
    house.tape.is_as_told(
        "strays",
        "An answer that nobody waits for is counted and changes nothing",
    );
}

#[test]
fn frozen_state_runs_what_is_current_and_takes_nothing() {
    let mut house = calm(MUTE);
    house.dies();
    house.room("it").frozen = Some("written by a newer version".to_owned());
    house.boot();
    house.run_s(20);
    house.offer("it", "o1", OFFER);
    house.run_s(20);
    house.apply("it", "config.yaml", OFFER);
    house.edit("it", "/etc/a.yaml", "receivers: {edited: {}}\n");
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "frozen",
        "A state of a newer version is run and not changed",
    );
}
