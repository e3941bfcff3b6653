//! `doctor`: one line per finding, the worst decides the exit code.
//!
//! Promises: 0 when nothing failed, warnings included; 1 when something did.
//! Must never: leave out a finding.

use serde_json::json;

use super::{ExitCode, Out};
use crate::port::doctor::{Finding, Level};

pub(super) fn show(findings: &[Finding], json: bool, out: &mut Out<'_>) -> ExitCode {
    let worst = findings.iter().map(|it| it.level).max();
    let worst = worst.unwrap_or(Level::Ok);
    if json {
        let rows: Vec<_> = findings
            .iter()
            .map(|it| {
                json!({ "level": it.level.word(), "check": it.check, "text": it.text, "remedy": it.remedy })
            })
            .collect();
        out.line(&json!({ "worst": worst.word(), "findings": rows }).to_string());
    } else {
        for finding in findings {
            out.line(&line(finding));
        }
    }
    if worst == Level::Fail {
        ExitCode::Failed
    } else {
        ExitCode::Ok
    }
}

fn line(finding: &Finding) -> String {
    let Finding {
        level,
        check,
        text,
        remedy,
    } = finding;
    let text = text.replace('\n', " ");
    let mut line = format!("{:<4}  {check:<16}  {text}", level.word());
    if !remedy.is_empty() {
        line.extend(["; ", remedy]);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(findings: &[Finding], json: bool) -> (ExitCode, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = Out::new(&mut stdout, &mut stderr, false);
        let code = show(findings, json, &mut out);
        drop(out);
        (code, String::from_utf8(stdout).unwrap())
    }

    #[test]
    fn the_worst_finding_decides_and_each_has_a_line() {
        let ok = Finding::ok("disk space", "900 MiB free");
        let warn = Finding::warn("clock", "5.0 s behind the server's", "set the clock");
        let fail = Finding::fail(
            "port",
            "127.0.0.1:4328 is taken by nginx (pid 7)",
            "stop that",
        );
        let (code, text) = shown(&[ok.clone(), warn.clone()], false);
        assert_eq!(code, ExitCode::Ok);
        assert_eq!(
            text,
            "ok    disk space        900 MiB free\n\
             warn  clock             5.0 s behind the server's; set the clock\n"
        );
        let (code, text) = shown(&[ok, warn, fail], true);
        assert_eq!(code, ExitCode::Failed);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["worst"], "fail");
        assert_eq!(document["findings"][2]["check"], "port");
        assert_eq!(document["findings"][2]["remedy"], "stop that");
        assert_eq!(shown(&[], false), (ExitCode::Ok, String::new()));
    }
}
