//! `doctor`: asks everything that could be in the way of a supervisor, and says what to do.
//!
//! Promises: works without a running supervisor, without root and with settings that are wrong; every look at the
//! network has a limit of five seconds; no credential is sent anywhere, nothing is registered and nothing ordered.
//! Must never: change anything.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{HeaderMap, Method};
use opamp_client::transport::ProxyRules;

use super::{Given, Process, settings};
use crate::config::{self, Certificate, CertificateSource, Config, Overrides, Tls};
use crate::perform::time;
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
    peers(&config, &mut findings).await;
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
    let needed = server.is_some_and(|it| is_tls(&it.endpoint) && it.tls.ca.is_none());
    findings.push(match tls::client_config(None) {
        Ok(_) => Finding::ok("trust roots", "the system has root certificates"),
        Err(error) if needed => Finding::fail("trust roots", chain(error), "see the line"),
        Err(error) => Finding::warn("trust roots", chain(error), "nothing set up needs them now"),
    });
}

fn is_tls(endpoint: &str) -> bool {
    endpoint.starts_with("wss:") || endpoint.starts_with("https:")
}

/// Somebody outside whom we would talk to.
struct Peer {
    check: &'static str,
    /// As it is shown.
    place: String,
    url: String,
    tls: Tls,
    /// The settings that say how it is verified.
    section: &'static str,
    /// What goes on without it.
    without: &'static str,
}

impl Peer {
    /// Asks once, without credentials: whether those are accepted shows in the status of who uses them.
    async fn ask(&self, proxies: &ProxyRules) -> Result<(Fetched, u64), Finding> {
        let place = &self.place;
        let tls = tls_options(self.tls.clone()).await.map_err(|reason| {
            let remedy = format!("correct {}", self.section);
            Finding::fail(self.check, format!("{place}: {reason}"), &remedy)
        })?;
        let request = FetchRequest {
            method: Method::GET,
            url: self.url.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            deadline: PATIENCE,
            body_max: 64 * 1024,
        };
        let before = clock::wall().unix_millis();
        let answer = fetch(request, tls, proxies).await.map_err(|error| {
            let text = format!("{place} cannot be reached: {error}");
            let remedy = format!(
                "check name, network, proxy and CA ({}); {}",
                self.section, self.without
            );
            Finding::fail(self.check, text, &remedy)
        })?;
        Ok((answer, before.midpoint(clock::wall().unix_millis())))
    }

    fn answers(&self, answer: &Fetched) -> Finding {
        let place = &self.place;
        let status = answer.status;
        if status >= 500 {
            let text = format!("{place} answers with status {status}");
            let remedy = format!("ask who runs it; {}", self.without);
            return Finding::warn(self.check, text, &remedy);
        }
        let text = format!("{place} answers (status {status} to a plain request)");
        Finding::ok(self.check, text)
    }
}

/// Whether everybody outside can be reached, all at the same time.
async fn peers(config: &Config, findings: &mut Vec<Finding>) {
    let proxies = link::proxies(|name| std::env::var(name).ok());
    let authorities = config.certificates.iter().filter_map(authority);
    let mut distinct: Vec<Peer> = Vec::new();
    for peer in authorities {
        let known = |it: &Peer| it.url == peer.url && it.tls == peer.tls;
        if !distinct.iter().any(known) {
            distinct.push(peer);
        }
    }
    let authorities = join_all(distinct.iter().map(|it| ask_authority(it, &proxies)));
    let (server, registration, authorities) = tokio::join!(
        server(config, &proxies),
        registration(config, &proxies),
        authorities
    );
    findings.extend(server);
    findings.extend(registration);
    findings.extend(authorities);
}

/// Whether the server can be reached, and how its clock compares with ours.
async fn server(config: &Config, proxies: &ProxyRules) -> Vec<Finding> {
    let check = "server";
    let Some(server) = &config.server else {
        return vec![Finding::ok(check, "none is set up")];
    };
    let peer = Peer {
        check,
        place: shown(&server.endpoint),
        // The same place over plain HTTP semantics: `ws` and `wss` are names for an upgrade.
        url: server
            .endpoint
            .replacen("ws", "http", usize::from(server.endpoint.starts_with("ws"))),
        tls: server.tls.clone(),
        section: "server.tls",
        without: "telemetry goes on without the server",
    };
    match peer.ask(proxies).await {
        Ok((answer, ours)) => vec![peer.answers(&answer), skew(&answer, ours)],
        Err(finding) => vec![finding],
    }
}

/// Whether the registration service can be reached. Nothing is registered.
async fn registration(config: &Config, proxies: &ProxyRules) -> Option<Finding> {
    let registration = config.registration.as_ref()?;
    let url = registration.url.clone()?;
    let peer = Peer {
        check: "registration",
        place: shown(&url),
        url,
        tls: registration.tls.clone(),
        section: "registration.tls",
        without: "a host that has a token goes on without it",
    };
    Some(match peer.ask(proxies).await {
        Ok((answer, _)) => peer.answers(&answer),
        Err(finding) => finding,
    })
}

fn authority(certificate: &Certificate) -> Option<Peer> {
    let CertificateSource::Acme(acme) = &certificate.source else {
        return None;
    };
    Some(Peer {
        check: "certificate authority",
        place: shown(&acme.directory),
        url: acme.directory.clone(),
        tls: Tls {
            ca: acme.ca_file.clone().map(crate::units::TextSource::File),
            ..Tls::default()
        },
        section: "acme.ca_file",
        without: "live pairs stay until they end",
    })
}

/// Whether the authority shows its directory. Nothing is ordered, and no account is made.
async fn ask_authority(peer: &Peer, proxies: &ProxyRules) -> Finding {
    let answer = match peer.ask(proxies).await {
        Ok((answer, _)) => answer,
        Err(finding) => return finding,
    };
    let directory = serde_json::from_slice::<serde_json::Value>(&answer.body).ok();
    let orders = directory
        .and_then(|it| it.get("newOrder")?.as_str().map(|it| !it.is_empty()))
        .unwrap_or_default();
    let place = &peer.place;
    if answer.status == 200 && orders {
        Finding::ok(peer.check, format!("{place} shows its directory"))
    } else {
        let text = format!(
            "{place} answers with status {} and shows no directory of an authority",
            answer.status
        );
        Finding::fail(peer.check, text, "correct acme.directory")
    }
}

/// Compares our clock with the server's, at the middle of the exchange. Positive: ours is ahead.
fn skew(answer: &Fetched, ours: u64) -> Finding {
    let check = "clock";
    let skew = match time::skew(answer, ours) {
        Ok(skew) => skew,
        Err(why) => {
            let text = format!("the server {why}");
            return Finding::warn(check, text, "compare it by hand");
        }
    };
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
    use hyper::header::DATE;

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
