//! Lines, files and words.

use super::nothing;
use super::source::{files, is_test, product, read};

const LINE_MAX: usize = 120;
const FILE_MAX: usize = 700;

/// Longer for a reason.
const LONG_FILES: &[(&str, &str)] = &[("src/opamp-client/messages/generated.rs", "generated")];

/// Everything that people write here.
const WRITTEN: &[&str] = &[
    ".rs", ".sh", ".md", ".yaml", ".yml", ".toml", ".js", ".css", ".html", ".go", ".py",
];

fn generated(file: &str) -> bool {
    file.ends_with("/generated.rs")
}

#[test]
fn every_file_says_what_it_promises() {
    let mut findings = Vec::new();
    for file in files("src", &[".rs"])
        .into_iter()
        .chain(files("tests", &[".rs"]))
    {
        if !generated(&file) && !read(&file).starts_with("//! ") {
            findings.push(format!("{file}:1: begins without //!"));
        }
    }
    nothing(&findings);
}

#[test]
fn lines_fit() {
    let mut findings = Vec::new();
    let shell = files("", &[".sh"]);
    for file in files("", &[".rs"]).into_iter().chain(shell.clone()) {
        let text = read(&file);
        let product_lines = if is_test(&file) {
            0
        } else {
            product(&text).lines().count()
        };
        for (index, line) in text.lines().enumerate() {
            let length = line.chars().count();
            // The data of a test may be a long text; its comments may not.
            let counts = index < product_lines
                || line.trim_start().starts_with("//")
                || shell.contains(&file);
            if length > LINE_MAX && counts && !generated(&file) {
                findings.push(format!("{file}:{}: {length} columns", index + 1));
            }
        }
    }
    nothing(&findings);
}

#[test]
fn files_fit() {
    let mut findings = Vec::new();
    for file in files("src", &[".rs"]) {
        let lines = product(&read(&file)).lines().count();
        let listed = LONG_FILES.iter().any(|(long, _)| *long == file);
        if lines > FILE_MAX && !listed && !is_test(&file) {
            findings.push(format!(
                "{file}: {lines} lines without its tests, {FILE_MAX} at most"
            ));
        }
        if lines <= FILE_MAX && listed {
            findings.push(format!("{file}: is no longer long; take it off LONG_FILES"));
        }
    }
    nothing(&findings);
}

#[test]
fn nothing_is_left_for_later_or_for_one_machine() {
    // Put together here, or this file would find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let path = concat!("/wo", "rk/");
    let mut findings = Vec::new();
    for file in files("", WRITTEN) {
        for (index, line) in read(&file).lines().enumerate() {
            let parts = || {
                line.split(|letter: char| {
                    !letter.is_alphanumeric() && letter != '!' && letter != '('
                })
            };
            for word in words {
                if parts().any(|part| part == word) || (word.ends_with('(') && line.contains(word))
                {
                    findings.push(format!("{file}:{}: {word}", index + 1));
                }
            }
            // Where it begins a word it is a path of a machine; `{dir}` before it makes it one of ours.
            for (at, _) in line.match_indices(path) {
                let before = line[..at].chars().next_back();
                let inside = |letter: char| letter.is_alphanumeric() || "})._-*>".contains(letter);
                if !before.is_some_and(inside) {
                    findings.push(format!("{file}:{}: {path}", index + 1));
                }
            }
        }
    }
    nothing(&findings);
}
