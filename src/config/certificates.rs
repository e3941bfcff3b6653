//! `certificates:` of the `agents:` form: which key pairs are kept fresh, where they come from, who uses them.
//!
//! Promises: every default of a certificate is written here once; a certificate authority is asked only after its
//! terms were accepted in so many words; two certificates never wait for the same challenge on two ports of one name.
//! Must never: read a key, or look at what is on disk.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::units::{AgentName, CertificateName, Domain};

use super::read::Section;
use super::{Agent, names};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// Certificates of one host.
const CERTIFICATES_MAX: usize = 32;
/// Names in one certificate; authorities take 100.
pub const DOMAINS_MAX: usize = 100;
/// The file of a bundle that names the domain, unless the settings say otherwise.
const DOMAIN_FILE: &str = "ssl_certificate_host.txt";
/// The authority that is asked unless the settings name another.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Any address of the host: an authority comes from outside, over IPv4 or IPv6.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 80);

/// One key pair that is kept fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its name, and its directory below `certificates/`.
    pub name: CertificateName,
    /// Where pairs come from.
    pub source: CertificateSource,
    /// Which names it is for.
    pub domains: Domains,
    /// Whose children are told about a new pair; `None` means those whose config names it.
    pub agents: Option<Vec<AgentName>>,
    /// Time between two looks at it.
    pub check_interval: Duration,
    /// Renewed when this share of its life is over.
    pub renew_percent: u32,
    /// Wait after a first failed validation; it doubles from there.
    pub retry_delay: Duration,
}

/// Where pairs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// A certificate authority that speaks ACME, by HTTP-01.
    Acme(Acme),
    /// Two files of the operator.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The key of the leaf.
        key: PathBuf,
    },
}

/// A certificate authority that speaks ACME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// Its directory.
    pub directory: String,
    /// What verifies it, in place of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Where it may write to.
    pub contact: Option<String>,
    /// Where challenges are answered, while an order runs.
    pub listen: SocketAddr,
    /// How long one order may take.
    pub timeout: Duration,
}

/// Which names a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domains {
    /// Those of the settings; for files it may be none, which takes any.
    Fixed(Vec<Domain>),
    /// Those in a file of an agent's remote bundle.
    FromBundle {
        /// Whose bundle.
        agent: AgentName,
        /// Which entry of it.
        file: String,
    },
}

impl Certificate {
    /// The entry of `agent`'s bundles that names the domain of this certificate.
    pub fn domain_file_of(&self, agent: &AgentName) -> Option<&str> {
        match &self.domains {
            Domains::FromBundle { agent: from, file } if from == agent => Some(file),
            Domains::FromBundle { .. } | Domains::Fixed(_) => None,
        }
    }
}

/// Reads the domains out of such an entry: one a line. None at all is an answer, too.
///
/// # Errors
/// A sentence about the first line that is no domain.
pub fn domains_of(text: &str) -> Result<Vec<Domain>, String> {
    let mut domains: Vec<Domain> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let domain = line.parse::<Domain>().map_err(|error| error.to_string())?;
        if !domains.contains(&domain) {
            domains.push(domain);
        }
        if domains.len() > DOMAINS_MAX {
            return Err(format!("more than {DOMAINS_MAX} domains"));
        }
    }
    Ok(domains)
}

/// The certificates in the order of the text.
pub(super) fn certificates(root: &mut Section<'_, '_, '_>, agents: &[Agent]) -> Vec<Certificate> {
    let named = root.named("certificates");
    if named.len() > CERTIFICATES_MAX {
        root.problem(
            "certificates",
            format!(
                "{} certificates; the limit is {CERTIFICATES_MAX}",
                named.len()
            ),
        );
    }
    if named.is_empty() {
        // Read all the same, so that its keys are known.
        drop(certificate(
            root.entry("certificates", "", None),
            None,
            agents,
        ));
    }
    named
        .into_iter()
        .filter_map(|(key, node)| {
            let name = key.text().unwrap_or_default();
            certificate(
                root.entry("certificates", name, Some(node)),
                Some(name),
                agents,
            )
        })
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Acme,
    Files,
}

fn certificate(
    mut section: Section<'_, '_, '_>,
    name: Option<&str>,
    agents: &[Agent],
) -> Option<Certificate> {
    let parsed = name.map(str::parse::<CertificateName>);
    if let Some(Err(error)) = &parsed {
        section.problem("", error);
    }
    let choices = [("acme", Kind::Acme), ("files", Kind::Files)];
    let about = "where pairs come from: acme, a certificate authority; files, two files of yours";
    let kind = section.optional_choice("source", about, &choices, "must be given");
    if kind.is_none() && name.is_some() && !section.has("source") {
        section.problem("", "a certificate needs a `source`: acme or files");
    }
    let about = ("list of domains", "the names it is for, settled here");
    let fixed = section.list("domains", about, "none", |_, text| {
        text.parse::<Domain>().map_err(|error| error.to_string())
    });
    let bundle = from_bundle(section.sub("domains_from"), agents);
    if fixed.is_some() && bundle.is_some() {
        section.problem(
            "domains_from",
            "`domains` says it already, keep one of them",
        );
    }
    let users = users(&mut section, agents);
    let s = &mut section;
    let check_interval = s.duration(
        "check_interval",
        "time between two looks at it",
        6 * HOUR,
        SECOND..=7 * DAY,
    );
    let renew_percent = s.number(
        "renew_at_percent",
        "renewed when this share of its life is over",
        66,
        10..=95,
    );
    let retry_delay = s.duration(
        "retry_delay",
        "wait after a failed validation, doubling up to 6h; authorities allow about five an hour",
        15 * MINUTE,
        SECOND..=DAY,
    );
    let acme = acme(section.sub("acme"), matches!(kind, Some(Kind::Acme)));
    let files = files(section.sub("files"), matches!(kind, Some(Kind::Files)));
    let domains = match (fixed, bundle) {
        (_, Some(bundle)) => Some(bundle),
        (Some(fixed), None) if !fixed.is_empty() => Some(Domains::Fixed(fixed)),
        (_, None) => match kind {
            Some(Kind::Files) => Some(Domains::Fixed(Vec::new())),
            Some(Kind::Acme) => {
                let what = "a certificate needs `domains`, or `domains_from` with the bundle that names them";
                section.problem("", what);
                None
            }
            None => None,
        },
    };
    section.finish();
    let source = match kind? {
        Kind::Acme => CertificateSource::Acme(acme?),
        Kind::Files => files?,
    };
    Some(Certificate {
        name: parsed?.ok()?,
        source,
        domains: domains?,
        agents: users,
        check_interval,
        renew_percent,
        retry_delay,
    })
}

fn users(section: &mut Section<'_, '_, '_>, agents: &[Agent]) -> Option<Vec<AgentName>> {
    let about = ("list of agents", "whose children are told about a new pair");
    let default = "those whose config names it";
    section.list("agents", about, default, |_, text| known(text, agents))
}

fn known(text: &str, agents: &[Agent]) -> Result<AgentName, String> {
    let name = text
        .parse::<AgentName>()
        .map_err(|error| error.to_string())?;
    if agents.iter().any(|agent| agent.name == name) {
        Ok(name)
    } else {
        let known: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
        Err(format!(
            "no agent of this name, known: {}",
            known.join(", ")
        ))
    }
}

fn from_bundle(mut section: Section<'_, '_, '_>, agents: &[Agent]) -> Option<Domains> {
    let present = section.is_present();
    let about = ("name", "the agent whose remote bundle names the domains");
    let agent = section.parsed("agent", about, "the only one", |text| known(text, agents));
    let about = ("file name", "the entry of the bundle, a domain a line");
    let file = section.parsed("file", about, DOMAIN_FILE, |text| {
        names::check(text)
            .map(|()| text.to_owned())
            .map_err(|error| error.to_string())
    });
    let agent = match (agent, agents) {
        (Some(agent), _) => Some(agent),
        (None, [only]) if !section.has("agent") => Some(only.name.clone()),
        (None, _) => {
            if present && !section.has("agent") {
                section.problem("", "several agents are set up, name one by `agent`");
            }
            None
        }
    };
    section.finish();
    let file = file.unwrap_or_else(|| DOMAIN_FILE.to_owned());
    agent
        .filter(|_| present)
        .map(|agent| Domains::FromBundle { agent, file })
}

fn acme(mut section: Section<'_, '_, '_>, wanted: bool) -> Option<Acme> {
    let s = &mut section;
    let about = ("URL", "the authority's directory");
    let directory = s.parsed("directory", about, DIRECTORY, directory);
    let about = "CA bundle that verifies the authority, in place of the system roots";
    let ca_file = s.path_value("ca_file", about, "system roots");
    let about = ("mail address", "where the authority may write to");
    let contact = s.parsed("contact", about, "none", contact);
    let about =
        "your word that you read and accept the authority's terms; without, it is not asked";
    let terms = s.optional_choice("terms", about, &[("accepted", ())], "must be given");
    let about = (
        "address",
        "where challenges are answered while an order runs",
    );
    let listen = s.parsed("listen", about, LISTEN, super::ours::address);
    let about = "how long one order may take";
    let timeout = s.duration("timeout", about, 5 * MINUTE, 10 * SECOND..=HOUR);
    let broken =
        (s.has("directory") && directory.is_none()) || (s.has("listen") && listen.is_none());
    if wanted && !cfg!(feature = "acme") {
        section.problem(
            "",
            "this build cannot ask certificate authorities (feature acme); use `source: files`, or the full build",
        );
    } else if wanted && terms.is_none() && !section.has("terms") {
        let what = "read the authority's terms and write `acme: {terms: accepted}`";
        section.problem("", what);
    }
    section.finish();
    (wanted && !broken).then(|| Acme {
        directory: directory.unwrap_or_else(|| DIRECTORY.to_owned()),
        ca_file,
        contact,
        listen: listen.unwrap_or(LISTEN),
        timeout,
    })
}

fn files(mut section: Section<'_, '_, '_>, wanted: bool) -> Option<CertificateSource> {
    let about = "the chain in PEM, leaf first; followed when it changes";
    let certificate = section.path_value("certificate", about, "must be given");
    let about = "the key in PEM; nobody but its owner and group may read it";
    let key = section.path_value("key", about, "must be given");
    if wanted && !(section.has("certificate") && section.has("key")) {
        section.problem("", "`source: files` needs `certificate` and `key`");
    }
    section.finish();
    match (certificate, key, wanted) {
        (Some(certificate), Some(key), true) => Some(CertificateSource::Files { certificate, key }),
        _ => None,
    }
}

fn directory(text: &str) -> Result<String, String> {
    let url = super::ours::endpoint(text)?;
    if url.contains(['?', '#']) {
        return Err("no query and no fragment here; it would end up in logs".to_owned());
    }
    if url.starts_with("https://") {
        Ok(url)
    } else {
        Err("begin the URL with https://".to_owned())
    }
}

fn contact(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("mailto:").unwrap_or(text);
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c.is_ascii();
    match bare.split_once('@') {
        Some((user, host)) if !user.is_empty() && host.contains('.') && bare.chars().all(plain) => {
            Ok(format!("mailto:{bare}"))
        }
        _ => Err("a mail address such as ops@example.com belongs here".to_owned()),
    }
}

#[cfg(test)]
mod tests;
