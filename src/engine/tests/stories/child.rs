//! How children are told, what they show, and what their deaths mean.

use super::tape::Tape;
use super::{House, OFFER, calm};

fn settled(profile: &str, file: &str, more: &str) -> House {
    let mut house = House::of(&format!(
        "it: {{profile: {profile}, executable: /bin/sh, apply: {{probation: 10s, proof_timeout: 20s}}, {more}}}"
    ));
    house.boot();
    house.run_s(10);
    house.offer_files("it", "o1", &[(file, "one: 1\n")]);
    house.run_s(60);
    house.forget();
    house
}

#[test]
fn program_that_counts_its_reloads_is_told_by_hup() {
    let mut house = settled("counting", "a.yaml", "");
    house.offer_files("it", "o2", &[("a.yaml", "two: 2\n")]);
    house.run_s(60);
    house.status();
    house.offer_files("it", "o3", &[("a.yaml", "fixed: 3\n")]);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "hup_counted",
        "A program that counts its reloads is told by HUP, where no section asks for a new process",
    );
}

#[test]
fn hup_that_comes_to_nothing_is_a_new_process_and_twice_the_end_of_hups() {
    let mut house = settled("counting", "a.yaml", "");
    house.tape.only(&[
        "signal",
        "spawn",
        "journal",
        "server reads: o",
        "WARNING",
        "room",
        "/proof",
    ]);
    for number in 2..6 {
        house.offer_files(
            "it",
            &format!("o{number}"),
            &[("a.yaml", &format!("silent: {number}\n"))],
        );
        house.run_s(60);
    }
    house.status();
    house.tape.is_as_told(
        "hup_dropped",
        "A HUP that comes to nothing is followed by a new process; after two of them no HUP is sent any more",
    );
}

#[test]
fn reload_that_cannot_be_proven_is_not_begun() {
    let mut told = Tape::default();
    for what in ["no room", "no answer", "not JSON", "not found"] {
        let mut house = settled("counting", "a.yaml", "");
        match what {
            "no room" => house.room("it").shortage = Some("all of its descriptors are open"),
            "no answer" => house.room("it").no_http = true,
            "not JSON" => {
                house.offer_files("it", "o2", &[("a.yaml", "not-json: 1\n")]);
                house.run_s(120);
                house.forget();
            }
            _ => {
                house.offer_files("it", "o2", &[("a.yaml", "not-found: 1\n")]);
                house.run_s(120);
                house.forget();
            }
        }
        house.offer_files("it", "o3", &[("a.yaml", "three: 3\n")]);
        house.run_s(2);
        house.room("it").no_http = false;
        house.run_s(60);
        house.status();
        told.chapter(what, &house.tape);
    }
    let mut house = settled("logging", "a.yaml", "");
    house.room("it").unheard = Some("its output goes elsewhere");
    house.offer_files("it", "o3", &[("a.yaml", "three: 3\n")]);
    house.run_s(60);
    told.chapter("its output cannot be watched", &house.tape);
    told.is_as_told(
        "hup_not_sent",
        "A child without room for a reload, or whose reload could not be proven, gets a new process",
    );
}

#[test]
fn change_that_comes_while_a_reload_is_open_gets_a_new_process() {
    let mut told = Tape::default();
    for profile in ["counting", "logging"] {
        let mut house = settled(profile, "a.yaml", "");
        house
            .tape
            .only(&["journal", "signal", "spawn", "server reads: o"]);
        house.offer_files("it", "o2", &[("a.yaml", "silent: 2\n")]);
        house.run_s(5);
        house.offer_files("it", "o3", &[("a.yaml", "three: 3\n")]);
        house.run_s(60);
        house.offer_files("it", "o4", &[("a.yaml", "four: 4\n")]);
        house.run_s(60);
        told.chapter(profile, &house.tape);
    }
    told.is_as_told(
        "hup_open",
        "While one HUP has not shown its end no second one is sent to that process",
    );
}

#[test]
fn program_that_could_be_told_by_hup_gets_a_new_process_where_the_settings_say_so() {
    let mut house = House::of(
        "it: {profile: counting, executable: /bin/sh, apply: {probation: 10s, reload: restart}}",
    );
    house.boot();
    house.run_s(10);
    house.offer_files("it", "o1", &[("a.yaml", "one: 1\n")]);
    house.run_s(60);
    house.forget();
    house
        .tape
        .only(&["journal", "signal", "spawn", "server reads: o"]);
    house.offer_files("it", "o2", &[("a.yaml", "two: 2\n")]);
    house.run_s(60);
    house.tape.is_as_told(
        "hup_not_wanted",
        "A program that could be told by HUP gets a new process where the settings say so",
    );
}

#[test]
fn config_gone_back_to_that_nobody_shows_is_asked_for_where_it_can_be_named() {
    let mut told = Tape::default();
    for profile in ["naming", "mute"] {
        let mut house = settled(profile, "a.yaml", "");
        if profile == "mute" {
            // Nobody can be that quick.
            house.hup(
                "server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}\nagents: {it: {profile: mute, executable: /bin/sh, \
                 apply: {probation: 10s, proof_timeout: 1s}}}\n",
            );
            house.run_s(10);
            house.forget();
        }
        house
            .tape
            .only(&["journal", "signal", "spawn", "server reads: o", "ERROR"]);
        house.offer_files("it", "o2", &[("a.yaml", "dies-at-start: 2\n")]);
        house.until("rolling back");
        house.room("it").no_http = true;
        house.until("no config left to try");
        house.run_s(30);
        house.status();
        house.room("it").no_http = false;
        house.run_s(30);
        house.status();
        told.chapter(profile, &house.tape);
    }
    told.is_as_told(
        "back_unproven",
        "A config gone back to that is not proven in time is asked for on where the program can name it",
    );
}

#[test]
fn program_that_logs_its_reloads_is_heard() {
    let mut house = settled("logging", "a.yaml", "");
    house.offer_files("it", "o2", &[("a.yaml", "two: 2\n")]);
    house.run_s(60);
    house.status();
    house.offer_files("it", "o3", &[("a.yaml", "refused: 3\n")]);
    house.run_s(60);
    house.status();
    house.offer_files("it", "o4", &[("a.yaml", "silent: 4\n")]);
    house.run_s(90);
    house.status();
    house.tape.is_as_told(
        "hup_logged",
        "A program that logs its reloads is heard: that it has reloaded, that it has not, or nothing",
    );
}

#[test]
fn program_that_answers_is_asked() {
    let mut house = settled("answering", "a.yaml", "");
    house.offer_files("it", "o2", &[("a.yaml", "two: 2\n")]);
    house.run_s(30);
    house.status();
    house.tape.is_as_told(
        "hup_asked",
        "A program that can be asked is asked until it answers; its health is asked for all the time",
    );
}

#[test]
fn config_under_which_the_child_is_unwell_does_not_pass() {
    let mut told = Tape::default();
    for (profile, word) in [
        ("answering", "unwell"),
        ("answering", "sickens"),
        ("answering", "silent"),
        ("logging", "unwell"),
        ("counting", "unwell"),
        ("naming", "silent"),
        ("adjutant", "unwell"),
        ("adjutant", "sickens"),
        ("adjutant", "silent"),
        ("adjutant", "refused"),
        ("adjutant", "blames-config"),
    ] {
        let file = if profile == "adjutant" {
            "collect.yaml"
        } else {
            "a.yaml"
        };
        let mut house = settled(profile, file, "");
        house
            .tape
            .only(&["journal", "server reads: o", "signal", "spawn", "WARNING"]);
        house.offer_files("it", "o2", &[(file, &format!("number: 2\n# {word}\n"))]);
        house.run_s(120);
        house.status();
        told.chapter(&format!("{profile}, {word}"), &house.tape);
    }
    told.is_as_told(
        "child_unwell",
        "A config that is not proven, or under which the child is unwell for long, is gone back from",
    );
}

#[test]
fn child_that_is_up_and_not_well_yet_does_not_keep_us_busy() {
    // A house tells when the same moment is asked for again and again.
    for word in ["unwell", "silent"] {
        let mut house = settled("logging", "a.yaml", "");
        house.offer_files("it", "o2", &[("a.yaml", &format!("two: {word}\n"))]);
        house.run_s(90);
        // Its new process has stayed up, and is not well.
        house.offer_files("it", "o3", &[("a.yaml", &format!("# {word} unwell\n"))]);
        house.kill("it");
        house.run_s(90);
    }
}

#[test]
fn program_that_names_its_config_is_asked_after_each_start() {
    let mut house = settled("naming", "a.yaml", "");
    house.kill("it");
    house.run_s(20);
    house.status();
    house.room("it").no_http = true;
    house.kill("it");
    house.run_s(20);
    house.status();
    house.room("it").no_http = false;
    house.run_s(20);
    house.status();
    house.tape.is_as_told(
        "child_named_config",
        "A program that can say which config it runs counts as well once it has said so",
    );
}

#[test]
fn program_of_ours_tells_by_itself() {
    let mut house = settled("adjutant", "collect.yaml", "");
    house.offer_files("it", "o2", &[("collect.yaml", "number: 2\n")]);
    house.run_s(60);
    house.status();
    house.kill("it");
    house.run_s(20);
    house.status();
    house.order_restart("it");
    house.run_s(20);
    house.status();
    house.tape.is_as_told(
        "child_of_ours",
        "A child with its own OpAMP is told by HUP and tells that it has read",
    );
}

#[test]
fn child_that_dies_again_and_again_is_started_ever_more_slowly() {
    let mut house = calm(super::MUTE);
    house
        .tape
        .only(&["spawn", "WARNING", "ERROR", "server reads"]);
    for _ in 0..5 {
        house.kill("it");
        house.until("spawn");
        house.run_s(1);
    }
    house.status();
    house.run_s(300);
    house.status();
    house.kill("it");
    house.run_s(5);
    house.status();
    house.tape.is_as_told(
        "child_dies",
        "A child that dies is started at once the first time and ever more slowly after; a stable time heals that",
    );
}

#[test]
fn child_that_cannot_be_kept_up_is_given_up() {
    let restarts = "restart: {give_up_after: 3}, apply: {probation: 10s}";
    let agent = format!(
        "it: {{profile: mute, executable: /bin/sh, config_files: [/etc/a.yaml], {restarts}}}"
    );
    let mut told = Tape::default();
    for (what, top) in [("hold", ""), ("exit", "on_give_up: exit\n")] {
        let mut house = House::with(&format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\n{top}agents: {{{agent}}}\n"
        ));
        house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
        house.calm();
        house.room("it").no_spawn = Some("no such file");
        house.kill("it");
        house.run_s(120);
        house.status();
        if what == "hold" {
            house.room("it").no_spawn = None;
            house.order_restart("it");
            house.run_s(30);
            house.status();
        }
        told.chapter(what, &house.tape);
    }
    told.is_as_told(
        "child_given_up",
        "A child that cannot be kept up is given up, until somebody asks for it again, or we end with it",
    );
}

#[test]
fn child_is_given_up_by_the_settings_of_the_last_hup() {
    let of = |more: &str| {
        format!(
            "server: {{endpoint: 'ws://127.0.0.1:1/v1/opamp'}}\nagents: {{it: {{profile: mute, executable: /bin/sh, \
             config_files: [/etc/a.yaml], apply: {{probation: 10s}}{more}}}}}\n"
        )
    };
    let mut house = House::with(&of(""));
    house.file("it", "/etc/a.yaml", "receivers: {a: {}}\n");
    house.calm();
    house.hup(&of(", restart: {give_up_after: 2, initial_delay: 3s}"));
    house.run_s(5);
    house.status();
    house.room("it").no_spawn = Some("no such file");
    house.kill("it");
    house.run_s(120);
    house.status();
    house.tape.is_as_told(
        "child_given_up_by_hup",
        "How often a child is started again follows the settings of the last HUP, which does not touch a running one",
    );
}

#[test]
fn child_that_needs_memory_says_so() {
    let mut house = calm(super::MUTE);
    house.offer("it", "o1", "exporters: {oom: {}}\n");
    house.run_s(60);
    house.forget();
    house.kill("it");
    house.run_s(5);
    house.status();
    house.tape.is_as_told(
        "child_oom",
        "A child that the kernel killed for lack of memory is told of as such",
    );
}

#[test]
fn deaf_child_is_killed_after_its_grace() {
    let mut house = calm(super::MUTE);
    house.offer("it", "o1", "exporters: {deaf: {}}\n");
    house.run_s(60);
    house.forget();
    house.offer("it", "o2", OFFER);
    house.run_s(60);
    house.status();
    house.tape.is_as_told(
        "child_deaf",
        "A child that heeds no TERM is killed after its grace, and its config is replaced all the same",
    );
}

#[cfg(feature = "opampsupervisor")]
#[test]
fn what_the_child_says_that_it_runs_is_put_where_people_look_for_it() {
    let mut house = House::with(
        "server: {endpoint: 'ws://127.0.0.1:1/v1/opamp'}\ncapabilities: {accepts_remote_config: true}\n\
         storage: {directory: /s}\nagent: {executable: /bin/sh}\n",
    );
    let agent = house.config.agents[0].name.to_string();
    house.boot();
    house.run_s(10);
    house.tape.only(&["disk: show effective", "runs"]);
    house.offer(&agent, "o1", OFFER);
    house.run(std::time::Duration::from_millis(100));
    house.child_comes_back(&agent);
    for text in ["merged: 1\n", "merged: 1\n", "merged: 2\n"] {
        house.child_reports(&agent, text);
        house.run_s(1);
    }
    house.offer_files(&agent, "o2", &[]);
    house.run_s(60);
    house.tape.is_as_told(
        "effective_file",
        "The config that the child says it runs is shown as a file, written when it changes",
    );
}
