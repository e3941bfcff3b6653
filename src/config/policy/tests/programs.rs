//! Tables for programs that take a directory of files: what is refused of theirs, and what is not.

use super::*;

fn judged_as(name: &str, file: &str, text: &str) -> Vec<String> {
    let policy = Policy {
        environment: vec!["SINK".to_owned()],
        ..Policy::default()
    };
    let rules = Rules {
        profile: &profile(name),
        policy: &policy,
        reserved_ports: &[4320],
    };
    let refusals = judge_file(file, text.as_bytes(), rules);
    refusals.iter().map(ToString::to_string).collect()
}

fn check(name: &str, cases: &[(&str, &str, &[&str])]) {
    for (file, text, wanted) in cases {
        let found = judged_as(name, file, text);
        let matches = found.len() == wanted.len()
            && found
                .iter()
                .zip(*wanted)
                .all(|(found, wanted)| found.starts_with(wanted));
        assert!(
            matches,
            "{name} {file}\n{text}\n  got    {found:#?}\n  wanted {wanted:#?}"
        );
    }
}

const ODD_TYPE: &str = "a component's type may not come from an expansion";
const ODD_DEFAULT: &str = "a default in `${NAME:-…}` may hold letters";

#[test]
fn vector_configs_are_judged_in_yaml_json_and_toml() {
    check(
        "vector",
        &[
            (
                "vector.yaml",
                "sources:\n  a: {type: exec, command: [ls]}\n",
                &["vector.yaml:2:13: \"exec\" is denied"],
            ),
            ("vector.yaml", "sources:\n  exec: {type: stdin}\n", &[]),
            (
                "vector.yaml",
                "sources: {a: {\"ty\\u0070e\": \"ex\\u0065c\"}}\n",
                &["vector.yaml:1:28: \"exec\""],
            ),
            (
                "a.json",
                "{\"transforms\": {\"a\": {\"type\": \"lua\"}}}",
                &["a.json:1:31: \"lua\" is denied"],
            ),
            (
                "vector.yaml",
                "secret: {a: {type: exec, command: [x]}}\n",
                &["vector.yaml:1:20: \"exec\" is denied"],
            ),
            (
                "vector.yaml",
                "sources: {a: {type: \"${SINK}\"}}\n",
                &[&format!("vector.yaml:1:21: {ODD_TYPE}")],
            ),
            (
                "vector.yaml",
                "sources: {a: {type: \"${NO:-exec}\"}}\n",
                &[
                    "vector.yaml:1:21: a component's type",
                    "vector.yaml:1:22: the variable \"NO\" is not open",
                ],
            ),
            (
                "vector.yaml",
                "a: \"${SINK:-b\\n  type: exec}\"\n",
                &[&format!("vector.yaml:1:5: {ODD_DEFAULT}")],
            ),
            (
                "vector.yaml",
                "# ${SINK:-\n#  x}\n",
                &["vector.yaml:1:3: `${` without its `}`"],
            ),
            (
                "vector.yaml",
                "a: \"${SINK:-127.0.0.1:80}\"\nb: $SINK\nc: $$5\nd: a$\n",
                &[],
            ),
            (
                "vector.yaml",
                "a: $HOME\n",
                &["vector.yaml:1:4: the variable \"HOME\" is not open"],
            ),
            (
                "vector.yaml",
                "${SINK}: {}\n",
                &["vector.yaml:1:1: a key may not come from"],
            ),
            (
                "vector.yaml",
                "provider: {type: http, url: 'http://h/x'}\n",
                &["vector.yaml:1:1: \"provider\" is denied"],
            ),
            ("vector.yaml", "sinks: {provider: {type: http}}\n", &[]),
            ("x.vrl", "type = exec $HOME", &[]),
        ],
    );
    #[cfg(feature = "toml")]
    check(
        "vector",
        &[
            (
                "vector.toml",
                "[sources.a]\ntype = \"exec\"\n",
                &["vector.toml:2:8: \"exec\" is denied"],
            ),
            ("vector.toml", "sources.a = {type = \"demo_logs\"}\n", &[]),
            (
                "vector.toml",
                "[provider]\ntype = \"http\"\n",
                &["vector.toml:1:2: \"provider\" is denied"],
            ),
            ("vector.toml", "[sources.a\n", &["vector.toml:1:11: "]),
        ],
    );
    #[cfg(not(feature = "toml"))]
    check(
        "vector",
        &[(
            "vector.toml",
            "a = 1\n",
            &["vector.toml: this build reads no TOML"],
        )],
    );
}

#[test]
fn fluent_bit_configs_are_judged_in_yaml_and_classic_mode() {
    check(
        "fluent-bit",
        &[
            (
                "fluent-bit.yaml",
                "pipeline:\n  inputs:\n    - name: exec\n      command: ls\n",
                &["fluent-bit.yaml:3:13: \"exec\" is denied"],
            ),
            (
                "fluent-bit.yaml",
                "pipeline: {filters: [{NAME: Lua}]}\n",
                &["fluent-bit.yaml:1:29: \"Lua\" is denied"],
            ),
            (
                "fluent-bit.yaml",
                "pipeline: {inputs: [{name: tail, processors: {logs: [{name: lua}]}}]}\n",
                &["fluent-bit.yaml:1:61: \"lua\" is denied"],
            ),
            (
                "fluent-bit.yaml",
                "customs: [{name: Calyptia}]\n",
                &["fluent-bit.yaml:1:18: \"Calyptia\" is denied"],
            ),
            (
                "more.conf",
                "[INPUT]\n  Name calyptia_fleet\n",
                &["more.conf:2:8: \"calyptia_fleet\" is denied"],
            ),
            (
                "fluent-bit.yaml",
                "plugins: [/tmp/x.so]\n",
                &["fluent-bit.yaml:1:1: \"plugins\" is denied"],
            ),
            (
                "fluent-bit.yaml",
                "service: {Plugins_File: x}\n",
                &["fluent-bit.yaml:1:11: \"service.plugins_file\""],
            ),
            (
                "fluent-bit.yaml",
                "includes: [/etc/other.yaml]\n",
                &["fluent-bit.yaml:1:12: a config may include"],
            ),
            (
                "fluent-bit.yaml",
                "includes: [../x.yaml, \"${SINK}.yaml\"]\n",
                &["fluent-bit.yaml:1:12", "fluent-bit.yaml:1:23"],
            ),
            (
                "fluent-bit.yaml",
                "includes: [more.txt]\n",
                &["fluent-bit.yaml:1:12: an included file is judged by"],
            ),
            (
                "fluent-bit.yaml",
                "includes: [more.conf, parts/a.yaml]\n",
                &[],
            ),
            (
                "fluent-bit.yaml",
                "pipeline: {filters: [{name: rewrite_tag, rule: $log ^a$ x}]}\n",
                &[],
            ),
            (
                "more.conf",
                "[INPUT]\n    Name  exec\n    Command ls\n",
                &["more.conf:2:11: \"exec\" is denied"],
            ),
            (
                "more.conf",
                "[input]\n\tnAmE\tEXEC://x\n",
                &["more.conf:2:7: \"EXEC://x\" is denied"],
            ),
            (
                "more.conf",
                "[FILTER]\nname \"lua\"\n",
                &["more.conf:2:6: \"\\\"lua\\\"\" is denied"],
            ),
            (
                "more.conf",
                "@SET x=exec\n[INPUT]\n  Name ${x}\n",
                &[
                    "more.conf:3:8: a component's type",
                    "more.conf:3:8: the variable \"x\" is not open",
                ],
            ),
            (
                "more.conf",
                "@INCLUDE /etc/x.conf\n",
                &["more.conf:1:10: a config may include"],
            ),
            (
                "more.conf",
                "@include more/*.conf\n[OUTPUT]\n  Name stdout\n",
                &[],
            ),
            (
                "more.conf",
                "[PLUGINS]\n  Path /tmp/x.so\n",
                &["more.conf:1:2: \"plugins\" is denied"],
            ),
            (
                "more.conf",
                "[SERVICE]\n  plugins_file x\n",
                &["more.conf:2:3: \"service.plugins_file\" is denied"],
            ),
            (
                "more.conf",
                "Name exec\n",
                &["more.conf:1:1: an entry before the first section"],
            ),
            ("more.conf", "# Name exec\n[INPUT]\r\n  Name tail\r\n", &[]),
        ],
    );
}

#[cfg(feature = "toml")]
#[test]
fn telegraf_configs_are_judged_however_a_table_is_written() {
    let denied = "telegraf.conf:1:";
    check(
        "telegraf",
        &[
            (
                "telegraf.conf",
                "[[inputs.exec]]\ncommands = [\"ls\"]\n",
                &["telegraf.conf:1:10: \"exec\" is denied"],
            ),
            ("telegraf.conf", "[[ \"inputs\" . 'exec' ]]\n", &[denied]),
            ("telegraf.conf", "[[inputs.\"ex\\u0065c\"]]\n", &[denied]),
            ("telegraf.conf", "inputs = {exec = [{}]}\n", &[denied]),
            (
                "telegraf.conf",
                "[inputs]\nexec = []\n",
                &["telegraf.conf:2:1: \"exec\" is denied"],
            ),
            ("telegraf.conf", "[plugins.exec]\n", &[denied]),
            ("telegraf.conf", "[exec]\n", &[denied]),
            ("telegraf.conf", "[[processors.execd]]\n", &[denied]),
            (
                "telegraf.conf",
                "[[inputs.ping]]\nBinary = \"/tmp/x\"\n",
                &["telegraf.conf:2:1: \"ping.Binary\" is denied"],
            ),
            (
                "telegraf.conf",
                "[[inputs.smart]]\npathNVME = \"x\"\n",
                &["telegraf.conf:2:1: \"smart.pathNVME\" is denied"],
            ),
            (
                "telegraf.conf",
                "[[inputs.turbostat]]\npath = \"/tmp/x\"\n",
                &["telegraf.conf:2:1: \"turbostat.path\" is denied"],
            ),
            (
                "telegraf.conf",
                "[[inputs.\"${SINK}\"]]\n",
                &[
                    "telegraf.conf:1:10: a component's type",
                    "telegraf.conf:1:10: a key may not come from",
                ],
            ),
            (
                "telegraf.conf",
                "[agent]\na = \"${NO}\"\n",
                &["telegraf.conf:2:6: the variable \"NO\" is not open"],
            ),
            (
                "telegraf.conf",
                "[[inputs.mem]]\n[[outputs.file]]\nfiles = [\"${SINK}\"]\n",
                &[],
            ),
            ("telegraf.conf", "[[inputs.mem]\n", &["telegraf.conf:1:"]),
            ("telegraf.conf", "a = 1\na = 2\n", &["telegraf.conf:2:1: "]),
            ("notes.txt", "[[inputs.exec]]\n", &[]),
        ],
    );
    let deep = format!("a = {}1{}\n", "[".repeat(200), "]".repeat(200));
    let many = format!("a = [{}]\n", "1,".repeat(Limits::OFFERED.nodes + 1));
    let wide = "#".repeat(Limits::OFFERED.bytes + 1);
    for (text, wanted) in [
        (deep, "max recursion depth"),
        (many, "more than 100000 values"),
        (wide, "the limit is 4194304"),
        ("a = \"\0\"".to_owned(), "NUL"),
    ] {
        let found = judged_as("telegraf", "telegraf.conf", &text);
        assert!(found[0].contains(wanted), "{wanted}: {found:?}");
    }
}

#[test]
fn an_operator_can_allow_what_a_profile_denies() {
    let policy = Policy {
        allowed_components: vec!["exec".to_owned(), "plugins".to_owned()],
        ..Policy::default()
    };
    for (name, file, text) in [
        ("vector", "vector.yaml", "sources: {a: {type: exec}}\n"),
        (
            "fluent-bit",
            "fluent-bit.yaml",
            "plugins: [x]\npipeline: {inputs: [{name: exec}]}\n",
        ),
    ] {
        let rules = Rules {
            profile: &profile(name),
            policy: &policy,
            reserved_ports: &[],
        };
        assert_eq!(judge_file(file, text.as_bytes(), rules), [], "{name}");
    }
}
