//! Takes secrets out of a text that is about to be reported (OpAMP R-106), and leaves the rest byte for byte.
//!
//! Promises: what `is_secret` names never survives, whatever its notation: plain, quoted, block, flow, behind
//! an anchor; a text that is no tree of YAML is blanked line by line, rather too much than too little: TOML, and lines
//! of a key and a value.
//! Must never: re-emit YAML; the reader compares what is left with what they wrote.

use super::{Limits, Node, parse};
use crate::units::order;

/// What stands in place of a secret.
pub const REDACTED: &str = "[REDACTED]";

/// Key names whose values are secrets, compared without case, `-` and `_`, and as the end of longer names
/// (`client_secret`, `X-Api-Key`).
const SECRET_KEYS: [&str; 23] = [
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
    "keypass",
    "sharedkey",
    "licensekey",
    "accountkey",
    "authkey",
    "connectionstring",
    "community",
    "headerslist",
];

/// Whether a path of keys leads to a secret by its names: any step that is a secret key, anything below `headers`, or
/// the value of a `header`, which names one and says it.
pub fn is_secret_path(path: &[&str]) -> bool {
    let fold = |step: &&str| -> String {
        step.chars()
            .filter(|c| !matches!(c, '-' | '_' | ' '))
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let last = path.iter().rev().find(|step| **step != "[]");
    last.is_some_and(|step| fold(step) == "header")
        || path.iter().map(fold).any(|folded| {
            folded.ends_with("headers") || SECRET_KEYS.iter().any(|key| folded.ends_with(key))
        })
}

/// Replaces each scalar value whose path `is_secret` by [`REDACTED`], and the user and password of each URL in
/// the others. A list item's step in the path is `[]`.
pub fn redact(text: &str, is_secret: impl Fn(&[&str]) -> bool) -> String {
    let tree = match parse("", text, Limits::OFFERED) {
        Ok(tree) if is_tree(&tree) => tree,
        _ => return redact_lines(text, is_secret),
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
            return redact_lines(text, is_secret);
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

/// Whether this is what somebody wrote as YAML: TOML and lines of a key and a value read as one long text, or as a map
/// with an odd key.
fn is_tree(tree: &Node) -> bool {
    let is_odd = |(key, _): &(Node, Node)| key.text().is_some_and(|key| key.contains('='));
    (tree.text().is_none() || tree.is_null()) && !tree.entries().iter().any(is_odd)
}

/// What a secret in a line leaves open for the lines below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// Lines that are indented deeper; with `items`, those of a list at the same depth too.
    Indent { limit: usize, items: bool },
    /// Lines up to the end of a text in three quotes.
    Quotes(&'static str),
    /// Lines up to the end of so many lists and tables.
    Brackets(usize),
}

/// For text of any other format: whatever follows a secret word and `:`, `=` or, for the first word, white space goes,
/// with the lines below that belong to it; in a section of a secret name (`[request.headers]`) every value.
pub fn redact_lines(text: &str, is_secret: impl Fn(&[&str]) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut open: Option<Open> = None;
    let mut hides_all = false;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches(['\n', '\r']);
        let ending = line.get(body.len()..).unwrap_or_default();
        let indent = body.len() - body.trim_start().len();
        let (belongs, still) = open.map_or((false, None), |open| open.takes(body, indent));
        open = still;
        let header = section_name(body).filter(|_| !belongs);
        if let Some(header) = &header {
            let steps: Vec<&str> = header.iter().map(String::as_str).collect();
            hides_all = is_secret(&steps);
        }
        let cut = match secret_in(body, &is_secret) {
            _ if header.is_some() => None,
            None if hides_all => Some(value_in(body).unwrap_or(indent)),
            cut => cut,
        };
        if body.trim().is_empty() {
            out.push_str(body);
        } else if belongs {
            out.push_str(body.get(..indent).unwrap_or_default());
            out.push_str(REDACTED);
        } else if let Some(cut) = cut {
            let before = body.get(..cut).unwrap_or_default();
            push_without_userinfo(&mut out, before);
            if cut > indent {
                out.push(' ');
            }
            out.push_str(REDACTED);
            let is_item = body.trim_start().starts_with('-');
            open = Some(Open::after(
                body.get(cut..).unwrap_or_default(),
                indent,
                is_item,
            ));
        } else {
            push_without_userinfo(&mut out, body);
        }
        out.push_str(ending);
    }
    out
}

impl Open {
    /// What the rest of a line behind its secret word leaves open.
    fn after(rest: &str, indent: usize, is_item: bool) -> Self {
        let marks = ["\"\"\"", "'''"];
        if let Some(quotes) = marks.into_iter().find(|it| rest.matches(it).count() == 1) {
            return Self::Quotes(quotes);
        }
        // A bracket inside a password opens nothing.
        let opens = rest.trim_start().starts_with(['[', '{']);
        let depth = if opens { depth_after(0, rest) } else { 0 };
        match depth {
            0 => Self::Indent {
                limit: indent,
                items: !is_item && rest.trim().is_empty(),
            },
            depth => Self::Brackets(depth),
        }
    }

    /// Whether a line belongs to the secret above it, and what is open behind it.
    fn takes(self, body: &str, indent: usize) -> (bool, Option<Self>) {
        match self {
            Self::Indent { limit, items } => {
                let is_item = items && indent == limit && body.trim_start().starts_with('-');
                let belongs = body.trim().is_empty() || indent > limit || is_item;
                (belongs, belongs.then_some(self))
            }
            Self::Quotes(quotes) => (true, (!body.contains(quotes)).then_some(self)),
            Self::Brackets(depth) => {
                let depth = depth_after(depth, body);
                (true, (depth > 0).then_some(Self::Brackets(depth)))
            }
        }
    }
}

/// How many lists and tables are open behind a text; brackets in quotes do not count.
fn depth_after(depth: usize, text: &str) -> usize {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    text.chars().fold(depth, |depth, c| match (quote, c) {
        (Some(open), _) => {
            if c == open && !escaped {
                quote = None;
            }
            escaped = open == '"' && c == '\\' && !escaped;
            depth
        }
        (None, '"' | '\'') => {
            quote = Some(c);
            depth
        }
        (None, '[' | '{') => depth.saturating_add(1),
        (None, ']' | '}') => depth.saturating_sub(1),
        _ => depth,
    })
}

/// The steps of `[a.b]` or `[[a.b]]`.
fn section_name(line: &str) -> Option<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default().trim();
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let plain = |step: &str| step.trim().trim_matches(['"', '\'']).to_owned();
    Some(name.split('.').map(plain).collect())
}

fn push_without_userinfo(out: &mut String, text: &str) {
    let mut done = 0;
    for (from, to) in userinfo(text) {
        out.push_str(text.get(done..from).unwrap_or_default());
        out.push_str(REDACTED);
        done = to;
    }
    out.push_str(text.get(done..).unwrap_or_default());
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

/// The byte behind the first secret word: after its `:` or `=`, or, where it is the first word, after itself.
fn secret_in(line: &str, is_secret: &impl Fn(&[&str]) -> bool) -> Option<usize> {
    let bare = bare_key(line).filter(|end| {
        let word = line.get(..*end).unwrap_or_default().trim_start();
        is_secret(&word.split('.').collect::<Vec<_>>())
    });
    let marked = line.match_indices([':', '=']).find_map(|(at, separator)| {
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
    });
    bare.into_iter().chain(marked).min()
}

/// Where the first word ends, when white space and a value follow it.
fn bare_key(line: &str) -> Option<usize> {
    let start = line.len() - line.trim_start().len();
    let end = start + line.get(start..)?.find(char::is_whitespace)?;
    let rest = line.get(end..)?.trim_start();
    (!rest.is_empty() && !rest.starts_with([':', '='])).then_some(end)
}

/// Where the value of a line may begin.
fn value_in(line: &str) -> Option<usize> {
    line.find('=').map(|at| at + 1).or_else(|| bare_key(line))
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
            (
                "[\npassword:\n- hunter2\nb: 1\n",
                "[\npassword: [REDACTED]\n[REDACTED]\nb: 1\n",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(redact(text, is_secret_path), wanted);
        }
    }

    #[test]
    fn secrets_of_toml_and_of_classic_mode_reach_nobody() {
        let cases = [
            // Telegraf and Vector: TOML that begins with a key is one plain text to YAML.
            (
                "data_dir = \"/x\"\npassword = \"hunter2\"\n[a]\nb = 1\n",
                "data_dir = \"/x\"\npassword = [REDACTED]\n[a]\nb = 1\n",
            ),
            (
                "a = 1\napi_key=\"hunter2\"\n",
                "a = 1\napi_key= [REDACTED]\n",
            ),
            ("password = \"a: hunter2\"\n", "password = [REDACTED]\n"),
            (
                "[[outputs.influxdb_v2]]\n  token = \"hunter2\"\n  bucket = \"b\"\n",
                "[[outputs.influxdb_v2]]\n  token = [REDACTED]\n  bucket = \"b\"\n",
            ),
            (
                "[sinks.a]\nauth = {user = \"u\", password = \"hunter2\"}\ntype = \"http\"\n",
                "[sinks.a]\nauth = {user = \"u\", password = [REDACTED]\ntype = \"http\"\n",
            ),
            (
                "[sinks.a.request.headers]\nX-Any = \"hunter2\"\n\n[sinks.b]\ntype = \"x\"\n",
                "[sinks.a.request.headers]\nX-Any = [REDACTED]\n\n[sinks.b]\ntype = \"x\"\n",
            ),
            (
                "a = 1\nsecret = \"\"\"\nhunter2\n[hunter2]\n\"\"\"\nb = 2\n",
                "a = 1\nsecret = [REDACTED]\n[REDACTED]\n[REDACTED]\n[REDACTED]\nb = 2\n",
            ),
            (
                "headers = [\n\"hunter2\",\n[\"hunter2\"],\n]\nb = 2\n",
                "headers = [REDACTED]\n[REDACTED]\n[REDACTED]\n[REDACTED]\nb = 2\n",
            ),
            (
                "headers = [\"\\\"]\",\n\"hunter2\"]\nb = 2\n",
                "headers = [REDACTED]\n[REDACTED]\nb = 2\n",
            ),
            (
                "[OUTPUT]\n  Passwd hunter2[{\n  Match *\n",
                "[OUTPUT]\n  Passwd [REDACTED]\n  Match *\n",
            ),
            (
                "a = 1\nurl = \"http://me:hunter2@h\"\n",
                "a = 1\nurl = \"http://[REDACTED]@h\"\n",
            ),
            (
                "a = {u = \"http://me:hunter2@h\", token = \"hunter2\"}\n",
                "a = {u = \"http://[REDACTED]@h\", token = [REDACTED]\n",
            ),
            // Fluent Bit: a key, white space, a value.
            (
                "[OUTPUT]\n    Name es\n    HTTP_Passwd hunter2\n    Match *\n",
                "[OUTPUT]\n    Name es\n    HTTP_Passwd [REDACTED]\n    Match *\n",
            ),
            (
                "[OUTPUT]\r\n  tls.key_passwd\thunter2\r\n  Match *\r\n",
                "[OUTPUT]\r\n  tls.key_passwd [REDACTED]\r\n  Match *\r\n",
            ),
            (
                "[OUTPUT]\n  Header Authorization Bearer hunter2\n  Shared_Key hunter2=a\n",
                "[OUTPUT]\n  Header [REDACTED]\n  Shared_Key [REDACTED]\n",
            ),
            (
                "@SET api_token=hunter2\n[SERVICE]\n  Flush 1\n",
                "@SET api_token= [REDACTED]\n[SERVICE]\n  Flush 1\n",
            ),
            (
                "Splunk_Token hunter2\nToken\nName token\n",
                "Splunk_Token [REDACTED]\nToken\nName token\n",
            ),
            // The same keys in YAML, Fluent Bit's header among them.
            (
                "outputs:\n  - http_passwd: hunter2\n    header: Authorization hunter2\n    a: 1\n",
                "outputs:\n  - http_passwd: [REDACTED]\n    header: [REDACTED]\n    a: 1\n",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(redact(text, is_secret_path), wanted, "{text}");
            let twice = redact_lines(wanted, is_secret_path);
            assert!(!twice.contains("hunter2"), "{twice}");
        }
        let keys = ["passwd", "password", "token", "secret", "api_key"];
        for (key, between) in keys
            .into_iter()
            .flat_map(|key| [": ", " = ", "=", " ", "\t"].map(|between| (key, between)))
        {
            let text = format!("a{between}1\n{key}{between}hunter2\nb{between}2\n");
            let out = redact(&text, is_secret_path);
            assert!(!out.contains("hunter2"), "{out}");
            assert!(out.ends_with(&format!("\nb{between}2\n")), "{out}");
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
