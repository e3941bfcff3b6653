//! Documents name what exists: modules, tests, rows, files, budgets.

use std::collections::{BTreeMap, BTreeSet};

use super::nothing;
use super::source::{files, read, root};

const ARCHITECTURE: &str = "docs/architecture.md";
const CONFORMANCE: &str = "docs/conformance.md";

/// Texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn architecture_names_every_module_and_nothing_else() {
    let document = read(ARCHITECTURE);
    let named: BTreeSet<&str> = quoted(&document)
        .filter(|word| word.starts_with("src/"))
        .collect();
    let mut findings: Vec<String> = named
        .iter()
        .filter(|path| !root().join(path).exists())
        .map(|path| format!("{ARCHITECTURE} names {path}, which is not there"))
        .collect();
    let mut wanted = BTreeSet::new();
    for file in files("src", &[".rs"]) {
        let parts: Vec<&str> = file.split('/').collect();
        // One line per file or directory of src, and one more level where the floors are.
        let depth = if ["engine", "port", "sys"].contains(&parts[1]) {
            3
        } else {
            2
        };
        let path = parts[..depth.min(parts.len())].join("/");
        if path.ends_with("/tests") || path.ends_with("/mod.rs") && depth == 3 {
            continue;
        }
        // `x.rs` stands for the directory `x` beside it.
        wanted.insert(if root().join(format!("{path}.rs")).exists() {
            format!("{path}.rs")
        } else {
            path
        });
    }
    for path in wanted {
        let directory = format!("{path}/");
        if !named.contains(path.as_str()) && !named.contains(directory.as_str()) {
            findings.push(format!("{ARCHITECTURE} does not name {path}"));
        }
    }
    nothing(&findings);
}

/// Names of all test functions, with the module path of the file they stand in. In `tests/` many are called by a macro
/// that names them; in `src/` a function is a test only if it says so.
fn tests() -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files("src", &[".rs"])
        .into_iter()
        .chain(files("tests", &[".rs"]))
    {
        let mut is_test = file.starts_with("tests/");
        for line in read(&file).lines() {
            let line = line.trim_start();
            is_test |= line.starts_with("#[") && line.contains("test") && !line.contains("cfg(");
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some(rest) = line.strip_prefix("fn ") {
                if !std::mem::replace(&mut is_test, file.starts_with("tests/")) {
                    continue;
                }
                let name = rest.split(['(', '<']).next().unwrap();
                found.entry(name.to_owned()).or_default().push(file.clone());
            }
        }
    }
    found
}

/// Whether `a::b::name` is a function of a file that lies on the way `a/b`.
fn exists(tests: &BTreeMap<String, Vec<String>>, path: &str) -> bool {
    let mut parts: Vec<&str> = path.split("::").collect();
    let Some(files) = parts.pop().and_then(|name| tests.get(name)) else {
        return false;
    };
    // Inline `mod tests` and the name of a test crate leave no trace in the path of the file.
    files.iter().any(|file| {
        let stem = file.trim_end_matches(".rs").trim_end_matches("/mod");
        parts
            .iter()
            .filter(|part| **part != "tests")
            .all(|part| stem.split('/').any(|piece| piece == *part))
    })
}

#[test]
fn conformance_names_every_row_and_only_tests_that_exist() {
    let tests = tests();
    let mut findings = Vec::new();
    let documents = files("docs", &[".md"]);
    for file in documents
        .iter()
        .filter(|file| file.starts_with("docs/conformance"))
    {
        for name in
            quoted(&read(file)).filter(|word| word.contains("::") && !word.contains([' ', '…']))
        {
            if !exists(&tests, name) {
                findings.push(format!("{file}: there is no test {name}"));
            }
        }
    }
    let document = read(CONFORMANCE);
    let rows: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .collect();
    for (letter, digits, last) in [("R-", 3, 328), ("F-", 3, 123), ("E", 2, 42)] {
        for number in 1..=last {
            let id = format!("{letter}{number:0digits$}");
            let count = rows.iter().filter(|row| **row == id).count();
            if count != 1 {
                findings.push(format!("{CONFORMANCE}: {id} stands there {count} times"));
            }
        }
    }
    nothing(&findings);
}

#[test]
fn conformance_has_an_answer_to_every_scenario_of_the_reference_client() {
    let document = read("docs/conformance/opamp-go.md");
    let rows: BTreeMap<&str, &str> = document
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| Test")?
                .trim_end_matches(" |")
                .split_once(" | ")
        })
        .collect();
    let mut findings: Vec<String> = rows
        .iter()
        .filter(|(_, shown)| !shown.contains("::") && shown.split(' ').count() < 4)
        .map(|(name, shown)| format!("Test{name} has neither test nor reason: {shown}"))
        .collect();
    if rows.len() != 126 {
        findings.push(format!("{} scenarios stand there, not 126", rows.len()));
    }
    nothing(&findings);
}

#[test]
fn conformance_has_an_answer_to_every_accident_of_the_field() {
    const ROWS: usize = 58;
    let file = "docs/conformance/field.md";
    let document = read(file);
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(number) = cells.get(1).and_then(|cell| cell.parse::<usize>().ok()) else {
            continue;
        };
        if !(1..=ROWS).contains(&number) || !seen.insert(number) {
            findings.push(format!(
                "{file}: row {number} is a stranger or stands there twice"
            ));
        }
        let [_, _, told, what, here, _] = cells[..] else {
            findings.push(format!(
                "{file}: row {number} has {} cells",
                cells.len() - 2
            ));
            continue;
        };
        if told.is_empty() || what.is_empty() {
            findings.push(format!(
                "{file}: row {number} does not say what happened, and where"
            ));
        }
        // A test, or words enough for a reason.
        if !here.contains("::") && here.split(' ').count() < 6 {
            findings.push(format!(
                "{file}: row {number} has neither test nor reason: {here}"
            ));
        }
    }
    for number in (1..=ROWS).filter(|number| !seen.contains(number)) {
        findings.push(format!("{file}: row {number} is missing"));
    }
    nothing(&findings);
}

/// With this set, what the parts say is written into the table in place of being missed there.
const WRITE: &str = "ADJUTANT_TIDY_WRITE";

#[expect(
    clippy::disallowed_methods,
    reason = "a document of the sources needs no durable write"
)]
#[test]
fn conformance_knows_what_the_parts_know() {
    let document = read(CONFORMANCE);
    let mut lines: Vec<String> = document.lines().map(str::to_owned).collect();
    let mut findings = Vec::new();
    for file in files("docs/conformance", &[".md"]) {
        for part in read(&file).lines() {
            let cells: Vec<&str> = part.split('|').map(str::trim).collect();
            // `E02 ×2`: the row, and how often it is played.
            let Some(id) = cells.get(1).and_then(|cell| cell.split(' ').next()) else {
                continue;
            };
            let Some(row) = lines
                .iter_mut()
                .find(|line| line.starts_with(&format!("| {id} |")))
            else {
                continue;
            };
            for test in quoted(part).filter(|word| word.contains("::")) {
                if !row.contains(&format!("`{test}`")) {
                    findings.push(format!("{file}: {CONFORMANCE} does not say {test} of {id}"));
                    // A row without a test has a word about that in its place.
                    let (front, shown) = row.trim_end_matches(" |").rsplit_once("| ").unwrap();
                    let shown = if shown.contains("::") {
                        format!("{shown}, `{test}`")
                    } else {
                        format!("`{test}`")
                    };
                    *row = format!("{front}| {shown} |");
                }
            }
        }
    }
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(root().join(CONFORMANCE), lines.join("\n") + "\n").unwrap();
    } else {
        nothing(&findings);
    }
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for file in files("docs", &[".md"])
        .into_iter()
        .chain(["README.md".to_owned()])
    {
        let text = read(&file);
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            let from = root().join(&file);
            if !from.parent().unwrap().join(target).exists() {
                findings.push(format!("{file}: {link} leads nowhere"));
            }
        }
    }
    nothing(&findings);
}

#[test]
fn readme_shows_the_budgets_that_are_measured() {
    // `budget("NAME", "BUDGET", …` in the script, `| NAME | BUDGET | …` in the document.
    let readme = read("README.md");
    let script = read("benches/budgets.py");
    let mut findings = Vec::new();
    let mut rows = 0;
    for line in script
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("budget(\""))
    {
        let mut texts = line.split('"');
        let name = texts.next().unwrap();
        let budget = texts.nth(1).unwrap();
        rows += 1;
        if !readme.contains(&format!("| {name} | {budget} |")) {
            findings.push(format!("README.md does not show {name}, {budget}"));
        }
    }
    assert!(rows >= 9, "benches/budgets.py has {rows} budgets");
    nothing(&findings);
}
