//! The built-in profiles as they are read, and what is wrong with others.

use super::*;
use crate::config::tests::Env;

fn problems(text: &str) -> Vec<String> {
    match read("p.yaml", "p", text, &Env::default()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_built_in_profile_can_be_read_and_reloaded_as_it_says() {
    let profiles = built_in(&Env::default());
    let names: Vec<&str> = profiles
        .iter()
        .map(|profile| profile.name.as_str())
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
    for profile in profiles {
        assert_eq!(profile.hup, profile.proof.proves_hup(), "{}", profile.name);
        assert_ne!(profile.tested, Tested::No, "{}", profile.name);
        let has_validator = profile.validate.is_some();
        assert_eq!(has_validator, profile.name != "generic", "{}", profile.name);
    }
}

#[test]
fn a_mistake_in_a_profile_has_its_line() {
    let long = "x".repeat(513);
    let cases = [
        (
            "hup: true\n",
            "p.yaml:1:6: hup: a proof of kind fresh_process cannot prove a HUP",
        ),
        (
            "proof: {kind: output}\n",
            "p.yaml:1:8: proof.reloaded: kind `output` needs texts",
        ),
        (
            "proof: {kind: output, reloaded: [\" \"]}\n",
            "p.yaml:1:33: proof.reloaded: kind `output` needs texts",
        ),
        (
            "proof:\n  kind: http\n  url: http://127.0.0.1:1/\n  counter: a..b\n",
            "p.yaml:4:12: proof.counter: keys joined by dots",
        ),
        (
            "proof:\n  kind: http\n  url: http://127.0.0.1:1/\n  counter: n\n  expect_revision: true\n",
            "p.yaml:4:12: proof.counter: a page names the revision or counts reloads",
        ),
        (
            "proof: {kind: output, reloaded: [a], failed: [\"\"]}\n",
            "p.yaml:1:46: proof.failed: texts to look for belong here, none of them empty",
        ),
        (
            &format!("proof: {{kind: output, reloaded: [a], failed: [{long}]}}\n"),
            "p.yaml:1:46: proof.failed: texts to look for belong here",
        ),
        (
            &format!("proof: {{kind: output, reloaded: [{long}]}}\n"),
            "p.yaml:1:33: proof.reloaded: kind `output` needs texts",
        ),
        (
            "expands: everything\n",
            "p.yaml:1:10: expands: not one of none, braces, text",
        ),
        (
            "restart_section: [a]\n",
            "p.yaml:1:1: restart_section: unknown key, did you mean \"restart_sections\"?",
        ),
    ];
    for (text, wanted) in cases {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(
            found[0].starts_with(wanted),
            "{text}\n  got    {}\n  wanted {wanted}",
            found[0]
        );
    }
}

#[test]
fn a_reload_that_nothing_refuses_needs_no_text_for_that() {
    let least = "proof: {kind: output, reloaded: [a], failed: []}\n";
    assert_eq!(problems(least), [""; 0]);
    let longest = format!("proof: {{kind: output, reloaded: [{}]}}\n", "x".repeat(512));
    assert_eq!(problems(&longest), [""; 0]);
}

#[test]
fn a_file_is_checked_the_way_a_directory_is_read() {
    let check = |path: &str, text: Result<&str, &str>| {
        let file = ProfileFile {
            path: path.into(),
            text: text.map(str::to_owned).map_err(str::to_owned),
        };
        match check_profile(&file, &Env::default()) {
            Ok(profile) => Ok(profile.name),
            Err(errors) => Err(errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")),
        }
    };
    let refused = |text: &str| Err(text.to_owned());
    assert_eq!(
        check("/p/beat.yaml", Ok("hup: false\n")),
        Ok("beat".to_owned())
    );
    assert_eq!(
        check("/p/vector.yaml", Ok("")),
        refused("/p/vector.yaml: a profile named \"vector\" exists already, rename the file")
    );
    assert_eq!(
        check("/p/beat.txt", Ok("")),
        refused("/p/beat.txt: not NAME.yaml, and so not read")
    );
    assert_eq!(
        check("/p/beat.yml", Err("no such file")),
        refused("/p/beat.yml: read the profile: no such file")
    );
}
