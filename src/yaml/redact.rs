//! Takes secrets out of a text that is about to be reported (OpAMP R-106), and leaves the rest byte for byte.
//!
//! Promises: what `is_secret` names never survives, whatever its notation: plain, quoted, block, flow, behind
//! an anchor; a text that does not parse is blanked line by line, rather too much than too little.
//! Must never: re-emit YAML; the reader compares what is left with what they wrote.

use super::{Limits, parse};
use crate::units::order;

/// What stands in place of a secret.
pub const REDACTED: &str = "[REDACTED]";

/// Key names whose values are secrets, compared without case, `-` and `_`, and as the end of longer names
/// (`client_secret`, `X-Api-Key`).
const SECRET_KEYS: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "token",
    "secret",
    "authorization",
    "apikey",
    "privatekey",
    "accesskey",
    "secretkey",
    "credentials",
    "credential",
    "bearer",
    "cookie",
    "keypem",
];

/// Whether a path of keys leads to a secret by its names: any step that is a secret key, or anything below `headers`.
pub fn is_secret_path(path: &[&str]) -> bool {
    path.iter().any(|step| {
        let folded: String = step
            .chars()
            .filter(|c| !matches!(c, '-' | '_' | ' '))
            .map(|c| c.to_ascii_lowercase())
            .collect();
        folded.ends_with("headers") || SECRET_KEYS.iter().any(|key| folded.ends_with(key))
    })
}

/// Replaces each scalar value whose path `is_secret` by [`REDACTED`], and the user and password of each URL in
/// the others. A list item's step in the path is `[]`.
pub fn redact(text: &str, is_secret: impl Fn(&[&str]) -> bool) -> String {
    let Ok(tree) = parse("", text, Limits::OFFERED) else {
        return redact_lines(text, &is_secret);
    };
    let mut spans = Vec::new();
    tree.walk(&mut |path, node| {
        let (start, end) = (node.span.start, node.span.end);
        if !node.is_null() && is_secret(path) {
            spans.push((start, end));
        } else {
            let urls = userinfo(text.get(start..end).unwrap_or_default());
            spans.extend(urls.map(|(from, to)| (start + from, start + to)));
        }
    });
    order::sort(&mut spans);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in spans {
        // An anchored value is found once for each alias.
        if start < done {
            continue;
        }
        let Some(value) = text.get(start..end) else {
            return redact_lines(text, &is_secret);
        };
        out.push_str(text.get(done..start).unwrap_or_default());
        out.push_str(REDACTED);
        // A block scalar reaches to the next key: that key needs the line break and its indent.
        let kept = value.trim_end().len();
        out.push_str(value.get(kept..).unwrap_or_default());
        done = end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// For text that does not parse: whatever follows a secret word and `:` or `=` on its line goes, and with it every line
/// indented deeper than that line.
fn redact_lines(text: &str, is_secret: &impl Fn(&[&str]) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches(['\n', '\r']);
        let ending = line.get(body.len()..).unwrap_or_default();
        let indent = body.len() - body.trim_start().len();
        if below.is_some_and(|limit| body.trim().is_empty() || indent > limit) {
            if !body.trim().is_empty() {
                out.push_str(body.get(..indent).unwrap_or_default());
                out.push_str(REDACTED);
            }
        } else if let Some(cut) = secret_in(body, is_secret) {
            out.push_str(body.get(..cut).unwrap_or_default());
            out.push(' ');
            out.push_str(REDACTED);
            below = Some(indent);
        } else {
            let mut done = 0;
            for (from, to) in userinfo(body) {
                out.push_str(body.get(done..from).unwrap_or_default());
                out.push_str(REDACTED);
                done = to;
            }
            out.push_str(body.get(done..).unwrap_or_default());
            below = None;
        }
        out.push_str(ending);
    }
    out
}

/// Where `user:password` stands in each `scheme://user:password@host` of a text.
fn userinfo(text: &str) -> impl Iterator<Item = (usize, usize)> {
    text.match_indices("://").filter_map(|(at, scheme)| {
        let start = at + scheme.len();
        let rest = text.get(start..)?;
        let end = rest.find(|c: char| c.is_whitespace() || "/?#\"'`,;()[]{}<>".contains(c));
        let authority = rest.get(..end.unwrap_or(rest.len()))?;
        authority.rfind('@').map(|length| (start, start + length))
    })
}

/// The byte after the first `:` or `=` that a secret word stands before.
fn secret_in(line: &str, is_secret: &impl Fn(&[&str]) -> bool) -> Option<usize> {
    line.match_indices([':', '=']).find_map(|(at, separator)| {
        let before = line.get(..at)?.trim_end().trim_end_matches(['"', '\'']);
        let word_start = before
            .rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '.')))
            .map_or(0, |i| {
                i + before
                    .get(i..)
                    .and_then(|s| s.chars().next())
                    .map_or(1, char::len_utf8)
            });
        let word = before.get(word_start..)?;
        // `a.b.token` names the same thing as nested keys would.
        let steps: Vec<&str> = word.split('.').collect();
        is_secret(&steps).then_some(at + separator.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_every_other_byte_stays() {
        let cases = [
            ("password: hunter2\n", "password: [REDACTED]\n"),
            (
                "a: 1 # password: x\nb: password\n",
                "a: 1 # password: x\nb: password\n",
            ),
            (
                "auth:\n  token:   'hunter2'   # note\n  user: me\n",
                "auth:\n  token:   [REDACTED]   # note\n  user: me\n",
            ),
            (
                "{api_key: \"hunter2\", n: 1}",
                "{api_key: [REDACTED], n: 1}",
            ),
            (
                "\"client_secret\": hunter2",
                "\"client_secret\": [REDACTED]",
            ),
            (
                "private_key: |\n  hunter2\n  hunter2\nnext: 1\n",
                "private_key: |\n  [REDACTED]\nnext: 1\n",
            ),
            (
                "headers:\n  X-Any: hunter2\n  List: [hunter2, b]\n",
                "headers:\n  X-Any: [REDACTED]\n  List: [[REDACTED], [REDACTED]]\n",
            ),
            (
                "x: &x hunter2\npassword: *x\n",
                "x: &x [REDACTED]\npassword: *x\n",
            ),
            ("token:\nb: 1\n", "token:\nb: 1\n"),
            (
                "url: https://me:hunter2@host:1/x@y\nb: ['http://hunter2@h', http://h/a@b]\n",
                "url: https://[REDACTED]@host:1/x@y\nb: ['http://[REDACTED]@h', http://h/a@b]\n",
            ),
            (
                "Authorization: hunter2\r\nb: 1\r\n",
                "Authorization: [REDACTED]\r\nb: 1\r\n",
            ),
            (
                "credentials: {a: {b: hunter2}}\n",
                "credentials: {a: {b: [REDACTED]}}\n",
            ),
            (
                "base: &b {token: hunter2}\nuse: {<<: *b}\n",
                "base: &b {token: [REDACTED]}\nuse: {<<: *b}\n",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(redact(text, is_secret_path), wanted);
        }
    }

    #[test]
    fn text_that_is_not_yaml_is_blanked_by_line() {
        let cases = [
            (
                "[broken\npassword = hunter2\nuser = me\n",
                "[broken\npassword = [REDACTED]\nuser = me\n",
            ),
            (
                "{\"a\": 1, \"token\": \"hunter2\", \"b\": 2\n",
                "{\"a\": 1, \"token\": [REDACTED]\n",
            ),
            (
                "x: [\n  secret: |\n    hunter2\n\n    hunter2\n  y: 1\n",
                "x: [\n  secret: [REDACTED]\n    [REDACTED]\n\n    [REDACTED]\n  y: 1\n",
            ),
            ("[é\nétoken: hunter2\n", "[é\nétoken: [REDACTED]\n"),
            (
                "[\nauth.password=hunter2\n",
                "[\nauth.password= [REDACTED]\n",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(redact(text, is_secret_path), wanted);
        }
    }

    #[test]
    fn names_of_secrets() {
        for name in [
            "password",
            "X-Api-Key",
            "CLIENT_SECRET",
            "bearer_token",
            "proxy_headers",
            "private_key",
            "key_pem",
        ] {
            assert!(is_secret_path(&["a", name]), "{name}");
        }
        for name in ["endpoint", "tokenizer", "keyring", "user", "header_size"] {
            assert!(!is_secret_path(&["a", name]), "{name}");
        }
        assert!(is_secret_path(&["headers", "anything", "[]"]));
    }

    proptest::proptest! {
        #[test]
        fn a_secret_never_survives(
            before in "[a-z]{1,8}",
            notation in proptest::sample::select(vec!["hunter2", "'hunter2'", "\"hunter2\"", "|\n    \
            hunter2", ">-\n    hunter2", "[hunter2]", "{x: hunter2}", "&a hunter2", "!!str hunter2", "!custom \
            hunter2"]),
        ) {
            let text = format!("top:\n  {before}: 1\n  password: {notation}\n  after: 2\n");
            let out = redact(&text, is_secret_path);
            assert!(!out.contains("hunter2"), "{out}");
            assert!(out.contains("  after: 2\n"), "{out}");
        }
    }
}
