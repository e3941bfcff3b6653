//! `doctor`: asks everything that could be in the way of a supervisor, and says what to do.
//!
//! Promises: works without a running supervisor, without root and with settings that are wrong; every look at the
//! network has a limit of five seconds; no credential is sent anywhere.
//! Must never: change anything.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::DATE;
use hyper::{HeaderMap, Method};

use super::{Given, Process, settings};
use crate::config::{self, Config, Overrides};
use crate::port::admin::client::{Client, ClientError};
use crate::port::admin::{SOCKET, Token};
use crate::port::doctor::{self, Finding, Lock};
use crate::port::fetch::{FetchRequest, Fetched, fetch, shown, tls_options};
use crate::port::{host, link};
use crate::sys::{clock, holder, tls};

/// How long one look at the network may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A `Date` has whole seconds and the way back takes time: less than this is noise.
const SKEW: i64 = 2_000;

/// Looks at everything.
pub async fn doctor(given: &Given) -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = known_settings(given, &mut findings);
    let container = host::container(|name| std::env::var(name).ok());
    findings.push(doctor::release(container));
    let Some(config) = config else {
        return findings;
    };
    let state = &config.storage;
    findings.push(doctor::state_directory(state));
    findings.extend(doctor::open_files_of_state(state));
    findings.extend(doctor::space(state));
    findings.push(doctor::socket_path(&state.join(SOCKET)));
    let supervisor = supervisor(state, &mut findings).await;
    let process = doctor::Process::of(supervisor);
    findings.push(doctor::limits(&process));
    findings.push(doctor::seccomp(&process));
    findings.push(doctor::cgroup(Path::new("/")));
    findings.push(doctor::kernel_events(&process));
    ports(&config, supervisor, &mut findings);
    if let Some(file) = &config.token_file {
        findings.push(match Token::read(file) {
            Ok(_) => Finding::ok("token file", file.display().to_string()),
            Err(error) => Finding::fail(
                "token file",
                chain(error),
                "repair it, or `run` refuses to start",
            ),
        });
    }
    for agent in &config.agents {
        let text = format!(
            "{}: {} by profile {}",
            agent.name,
            agent.executable.display(),
            agent.profile.name
        );
        findings.push(Finding::ok("agent", text));
    }
    roots(&config, &mut findings);
    server(&config, &mut findings).await;
    findings
}

/// The settings, or what is wrong with them and the defaults in their place.
fn known_settings(given: &Given, findings: &mut Vec<Finding>) -> Option<Config> {
    let executable =
        std::env::current_exe().map_or_else(|_| "?".to_owned(), |it| it.display().to_string());
    let text = format!("adjutant {} at {executable}", env!("CARGO_PKG_VERSION"));
    findings.push(Finding::ok("version", text));
    let origin = given.settings.as_ref().map_or_else(
        || "built-in defaults".to_owned(),
        |path| path.display().to_string(),
    );
    match settings(given) {
        Ok(config) => {
            findings.push(Finding::ok("settings", origin));
            for warning in &config.warnings {
                findings.push(Finding::warn("settings", warning, "see docs/settings.md"));
            }
            Some(config)
        }
        Err(error) => {
            for line in error.to_string().lines() {
                findings.push(Finding::fail(
                    "settings",
                    line,
                    "correct it, then `adjutant validate`",
                ));
            }
            let overrides = Overrides {
                storage: given.state_dir.clone(),
                ..Overrides::default()
            };
            config::defaults(&Process, &overrides).ok()
        }
    }
}

/// Who holds the state directory, and whether it answers.
async fn supervisor(state: &Path, findings: &mut Vec<Finding>) -> Option<u32> {
    let check = "supervisor";
    let lock = doctor::lock(&state.join("adjutant.lock"));
    let who = match lock {
        Lock::Free => {
            findings.push(Finding::ok(check, "none runs on this state directory"));
            return None;
        }
        Lock::Held(pid) => format!("process {pid}"),
        Lock::HeldElsewhere => "a process of another container".to_owned(),
    };
    let client = Client::new(state);
    let asked = tokio::time::timeout(PATIENCE, client.status());
    findings.push(match asked.await {
        Ok(Ok(status)) if status.version == env!("CARGO_PKG_VERSION") => Finding::ok(
            check,
            format!("{who} runs, version {}, and answers", status.version),
        ),
        Ok(Ok(status)) => Finding::warn(
            check,
            format!(
                "{who} runs version {}, this is {}",
                status.version,
                env!("CARGO_PKG_VERSION")
            ),
            "restart it to run the installed version",
        ),
        Ok(Err(ClientError::Denied { .. })) => Finding::warn(
            check,
            format!("{who} runs; only root and its own user may ask it"),
            "run doctor as that user, or as root",
        ),
        Ok(Err(error)) => Finding::fail(
            check,
            format!(
                "{who} holds the state directory and does not answer: {}",
                chain(error)
            ),
            "look at its log; if it hangs, end it by its number",
        ),
        Err(_) => Finding::fail(
            check,
            format!("{who} holds the state directory and did not answer within 5 s"),
            "look at its log; if it hangs, end it by its number",
        ),
    });
    match lock {
        Lock::Held(pid) => Some(pid),
        Lock::Free | Lock::HeldElsewhere => None,
    }
}

/// Every address we would listen on: free, ours, or somebody else's.
fn ports(config: &Config, supervisor: Option<u32>, findings: &mut Vec<Finding>) {
    let local = config.agents.iter().filter(|agent| agent.local_port != 0);
    let local = local.map(|agent| {
        let address = SocketAddr::from(([127, 0, 0, 1], agent.local_port));
        (format!("local OpAMP of {}", agent.name), address)
    });
    let doors = config
        .listen
        .iter()
        .map(|it| ("http.listen".to_owned(), *it));
    let health = config
        .healthcheck
        .map(|it| ("healthcheck.endpoint".to_owned(), it));
    for (what, address) in doors.chain(health).chain(local) {
        if address.port() == 0 {
            continue;
        }
        let Some(found) = holder::socket_at(address).map(|it| holder::with_process(&it)) else {
            findings.push(Finding::ok("port", format!("{address} ({what}) is free")));
            continue;
        };
        let ours = found.process.as_ref().map(|(pid, _)| *pid) == supervisor;
        findings.push(
            if supervisor.is_some() && (ours || found.process.is_none()) {
                Finding::ok("port", format!("{address} ({what}) is held by {found}"))
            } else {
                Finding::fail(
                    "port",
                    format!("{address} ({what}) is taken by {found}"),
                    "stop that, or choose another address in the settings",
                )
            },
        );
    }
}

fn roots(config: &Config, findings: &mut Vec<Finding>) {
    let server = config.server.as_ref();
    let needed = server.is_some_and(|it| is_tls(&it.endpoint) && it.tls.ca_file.is_none());
    findings.push(match tls::client_config(None) {
        Ok(_) => Finding::ok("trust roots", "the system has root certificates"),
        Err(error) if needed => Finding::fail("trust roots", chain(error), "see the line"),
        Err(error) => Finding::warn("trust roots", chain(error), "nothing set up needs them now"),
    });
}

fn is_tls(endpoint: &str) -> bool {
    endpoint.starts_with("wss:") || endpoint.starts_with("https:")
}

/// Whether the server can be reached, and how its clock compares with ours.
async fn server(config: &Config, findings: &mut Vec<Finding>) {
    let check = "server";
    let Some(server) = &config.server else {
        findings.push(Finding::ok(check, "none is set up"));
        return;
    };
    // The same place over plain HTTP semantics: `ws` and `wss` are names for an upgrade.
    let url =
        server
            .endpoint
            .replacen("ws", "http", usize::from(server.endpoint.starts_with("ws")));
    let place = shown(&server.endpoint);
    let tls = match tls_options(server.tls.clone()).await {
        Ok(tls) => tls,
        Err(reason) => {
            findings.push(Finding::fail(
                check,
                format!("{place}: {reason}"),
                "correct server.tls",
            ));
            return;
        }
    };
    let request = FetchRequest {
        method: Method::GET,
        url,
        // No credentials: whether they are accepted shows in the status of the link.
        headers: HeaderMap::new(),
        body: Bytes::new(),
        deadline: PATIENCE,
        body_max: 64 * 1024,
    };
    let proxies = link::proxies(|name| std::env::var(name).ok());
    let before = clock::wall().unix_millis();
    match fetch(request, tls, &proxies).await {
        Ok(answer) => {
            let after = clock::wall().unix_millis();
            let text = format!(
                "{place} answers (status {} to a plain request)",
                answer.status
            );
            findings.push(Finding::ok(check, text));
            findings.push(skew(&answer, before.midpoint(after)));
        }
        Err(error) => {
            let text = format!("{place} cannot be reached: {error}");
            let remedy = "check name, network, proxy and CA; telemetry goes on without the server";
            findings.push(Finding::fail(check, text, remedy));
        }
    }
}

/// Compares our clock with the server's, at the middle of the exchange. Positive: ours is ahead.
fn skew(answer: &Fetched, ours: u64) -> Finding {
    let check = "clock";
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| {
        let parser = jiff::fmt::rfc2822::DateTimeParser::new();
        parser.parse_timestamp(date).ok()
    });
    let Some(date) = date else {
        return Finding::warn(
            check,
            "the server sends no date to compare with",
            "compare it by hand",
        );
    };
    // The date is cut to whole seconds; half of one is the best guess for what was cut.
    let theirs = date.as_millisecond().saturating_add(500);
    let skew = i64::try_from(ours)
        .unwrap_or(i64::MAX)
        .saturating_sub(theirs);
    let side = if skew > 0 { "ahead of" } else { "behind" };
    let tenths = skew.unsigned_abs() / 100;
    let text = format!("{}.{} s {side} the server's", tenths / 10, tenths % 10);
    if skew.abs() <= SKEW {
        Finding::ok(check, format!("within 2 s of the server's ({text})"))
    } else {
        let remedy =
            "set the clock (NTP): certificates, tokens and the time of telemetry depend on it";
        Finding::warn(check, text, remedy)
    }
}

fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::doctor::Level;

    fn answer(date: Option<&str>) -> Fetched {
        let mut headers = HeaderMap::new();
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        Fetched {
            status: 400,
            headers,
            body: Bytes::new(),
        }
    }

    #[test]
    fn skew_has_sign_and_size_and_less_than_two_seconds_are_noise() {
        // Half a second after 2023-11-14 22:13:20.
        let ours = 1_700_000_000_500;
        let found = |date| skew(&answer(Some(date)), ours);
        let same = found("Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(same.level, Level::Ok);
        assert_eq!(found("Tue, 14 Nov 2023 22:13:18 GMT").level, Level::Ok);
        let ahead = found("Tue, 14 Nov 2023 22:12:20 GMT");
        assert_eq!(
            (ahead.level, ahead.text.as_str()),
            (Level::Warn, "60.0 s ahead of the server's")
        );
        let behind = found("Tue, 14 Nov 2023 22:13:25 GMT");
        assert_eq!(
            (behind.level, behind.text.as_str()),
            (Level::Warn, "5.0 s behind the server's")
        );
        for none in [None, Some("soon")] {
            assert!(skew(&answer(none), ours).text.contains("no date"));
        }
    }
}
