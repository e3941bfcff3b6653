//! Source files as the rules see them: without comments, texts and unit tests; and the paths they name.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `directory` (relative to the root) whose name ends with one of `endings`, sorted, relative.
pub(crate) fn files(directory: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let relative = path
                .strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            // Build output, caches and version control are not ours.
            if relative
                .split('/')
                .any(|part| [".git", ".cache", "target"].contains(&part))
            {
                continue;
            }
            if path.is_dir() {
                left.push(path);
            } else if endings.iter().any(|ending| relative.ends_with(ending)) {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}

/// The text of a file.
#[track_caller]
pub(crate) fn read(relative: &str) -> String {
    fs::read_to_string(root().join(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// Whether a file holds tests only.
pub(crate) fn is_test(relative: &str) -> bool {
    let name = relative.rsplit('/').next().unwrap();
    relative.starts_with("tests/")
        || relative.contains("/tests/")
        || name == "tests.rs"
        || name == "testing.rs"
        || name.ends_with("_tests.rs")
}

/// The part of a source before its unit tests, which stand at the bottom.
pub(crate) fn product(text: &str) -> &str {
    let mut at = 0;
    while let Some(found) = text[at..].find("#[cfg(test)]\nmod ") {
        let start = at + found;
        let line = text[start..].lines().nth(1).unwrap();
        if line.ends_with('{') {
            return &text[..start];
        }
        at = start + 1;
    }
    text
}

/// A source with comments and the insides of texts blanked; line breaks stay where they are.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => line_comment(&chars, at),
            ('/', Some('*')) => block_comment(&chars, at),
            ('r', Some('"' | '#')) if !in_word(&chars, at) => raw_text(&chars, at),
            ('"', _) => quoted(&chars, at, '"'),
            ('\'', Some('\\')) => quoted(&chars, at, '\''),
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        for &letter in &chars[at..end] {
            out.push(if letter == '\n' { '\n' } else { ' ' });
        }
        at = end;
    }
    out
}

fn in_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn line_comment(chars: &[char], at: usize) -> usize {
    chars[at..]
        .iter()
        .position(|&letter| letter == '\n')
        .map_or(chars.len(), |length| at + length)
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0_u32;
    let mut here = at;
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => (depth, here) = (depth + 1, here + 2),
            ('*', '/') if depth == 1 => return here + 2,
            ('*', '/') => (depth, here) = (depth - 1, here + 2),
            _ => here += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"` or `r#"…"#`; `at` itself when this is neither (a raw identifier).
fn raw_text(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..]
        .iter()
        .take_while(|&&letter| letter == '#')
        .count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let mut closing = vec!['"'];
    closing.resize(1 + hashes, '#');
    let inside = at + 2 + hashes;
    chars[inside..]
        .windows(closing.len())
        .position(|window| window == closing)
        .map_or(chars.len(), |length| inside + length + closing.len())
}

fn quoted(chars: &[char], at: usize, quote: char) -> usize {
    let mut here = at + 1;
    while here < chars.len() {
        match chars[here] {
            '\\' => here += 2,
            letter if letter == quote => return here + 1,
            _ => here += 1,
        }
    }
    chars.len()
}

/// A path that a source names, and the line it stands on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
}

/// Every path that begins with `head` in a blanked source, groups in braces taken apart.
pub(crate) fn paths(blanked: &str, head: &str) -> Vec<Named> {
    let mut found = Vec::new();
    for (start, _) in blanked.match_indices(head) {
        let before = blanked[..start].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
            continue;
        }
        if !blanked[start + head.len()..].starts_with("::") {
            continue;
        }
        let line = blanked[..start].matches('\n').count() + 1;
        let mut rest = &blanked[start..];
        let mut each = Vec::new();
        tree(&mut rest, &[], &mut each);
        found.extend(each.into_iter().map(|path| Named { line, path }));
    }
    found
}

/// Reads one use tree from the front of `rest`.
fn tree(rest: &mut &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    loop {
        *rest = rest.trim_start();
        if let Some(inside) = rest.strip_prefix('{') {
            *rest = inside.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                let before = rest.len();
                tree(rest, &path, found);
                // An alias (`as name`) and the comma.
                let end = rest.find([',', '}', '{']).unwrap_or(rest.len());
                *rest = rest[end..].trim_start_matches(',').trim_start();
                if rest.len() == before {
                    return;
                }
            }
            *rest = rest.strip_prefix('}').unwrap_or(rest);
            return;
        }
        let end = rest
            .find(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '*')
            .unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        *rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(more) if end > 0 && !more.starts_with('<') => *rest = more,
            _ => break,
        }
    }
    if path.len() > prefix.len() {
        found.push(path);
    }
}

#[test]
fn comments_texts_and_unit_tests_are_not_seen() {
    let text = "use a; // crate::x\nlet s = \"crate::y\"; let r = r#\"crate::\"z\"#; /* crate::w */ let c = '\"';\nq";
    let seen = blank(text);
    assert!(!seen.contains("crate"), "{seen}");
    assert_eq!(seen.lines().count(), 3);
    assert!(seen.ends_with("\nq"), "{seen}");
    assert_eq!(
        product("a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\nmod tests {\n}\n"),
        "a\n#[cfg(test)]\nmod tests;\nb\n"
    );
}

#[test]
fn groups_are_taken_apart() {
    let found = paths(
        "\nuse crate::{a::{self, B as C}, d::*};\nx(crate::e::f::<u8>());",
        "crate",
    );
    let found: Vec<String> = found
        .iter()
        .map(|named| format!("{} {}", named.line, named.path.join("::")))
        .collect();
    assert_eq!(
        found,
        [
            "2 crate::a::self",
            "2 crate::a::B",
            "2 crate::d::*",
            "3 crate::e::f"
        ]
    );
}
