//! What an engine knows of the host's certificates: enough to see which of them a config needs and whether they are
//! there.
//!
//! Promises: a config needs a certificate when a file of it or an argument of its agent names the stable path
//! `<state>/certificates/<name>/current/` (in full, or through `ADJUTANT_CERTIFICATES_DIR`), or when it brings the
//! entry that names the certificate's domains. A name that is not set up is an error, not a wait.
//! Must never: ask whether a path exists: what is live is what the disk said last.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::certificates::domains_of;
use crate::config::{Agent, Certificate};
use crate::engine::message::{LayerKind, Pair, RevisionFile};
use crate::units::{CertificateName, Domain, WallTime, order};

/// Names the directory of all certificates in a child's environment.
pub(crate) const DIRECTORY_VARIABLE: &str = "ADJUTANT_CERTIFICATES_DIR";
/// The link that names the live pair.
const CURRENT: &str = "/current/";

/// What engines know of certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The beginnings of a path to a certificate, up to its name.
    prefixes: Vec<String>,
    by_name: BTreeMap<CertificateName, KnownCertificate>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownCertificate {
    pub(crate) name: CertificateName,
    pub(crate) settings: Certificate,
    pub(crate) live: Option<Pair>,
    pub(crate) error: String,
}

impl Known {
    pub(super) fn new(
        directory: &Path,
        entries: impl IntoIterator<Item = KnownCertificate>,
    ) -> Self {
        Self {
            prefixes: vec![
                format!("{}/", directory.display()),
                format!("${{{DIRECTORY_VARIABLE}}}/"),
                format!("${{env:{DIRECTORY_VARIABLE}}}/"),
                format!("${DIRECTORY_VARIABLE}/"),
            ],
            by_name: order::map(entries.into_iter().map(|entry| (entry.name.clone(), entry))),
        }
    }

    /// Whether it says that there are none, which the default does not: it says nothing.
    pub(crate) fn says_none(&self) -> bool {
        self.by_name.is_empty() && !self.prefixes.is_empty()
    }

    /// The certificates that `agent` uses with these files: their health is its health.
    pub(crate) fn used_by<'a>(
        &'a self,
        agent: &'a Agent,
        files: &'a [RevisionFile],
    ) -> impl Iterator<Item = &'a KnownCertificate> {
        let named = self.named(agent, files);
        self.by_name.values().filter(move |entry| {
            let brings = domain_entry(&entry.settings, agent, files).is_some();
            match &entry.settings.agents {
                Some(agents) => agents.contains(&agent.name),
                None => brings || named.iter().any(|name| name == entry.name.as_str()),
            }
        })
    }

    /// What `agent` with these files still waits for; empty when everything is there.
    ///
    /// # Errors
    /// A sentence about what no waiting will bring.
    pub(crate) fn missing(
        &self,
        agent: &Agent,
        files: &[RevisionFile],
        now: WallTime,
    ) -> Result<Vec<&KnownCertificate>, String> {
        if self.by_name.is_empty() {
            return Ok(Vec::new());
        }
        let named = self.named(agent, files);
        if let Some(unknown) = named
            .iter()
            .find(|name| !self.by_name.keys().any(|known| known.as_str() == *name))
        {
            let known: Vec<&str> = self.by_name.keys().map(CertificateName::as_str).collect();
            return Err(format!(
                "the config names the certificate {unknown:?}, and `certificates:` of the settings has none of that \
                 name; there are: {}",
                known.join(", ")
            ));
        }
        let mut missing = Vec::new();
        for entry in self.by_name.values() {
            let domains = match domain_entry(&entry.settings, agent, files) {
                Some(file) => entry_domains(file)?,
                None => Vec::new(),
            };
            let needs = !domains.is_empty() || named.iter().any(|name| name == entry.name.as_str());
            let there = |pair: &Pair| pair.not_after > now && pair.covers(&domains);
            if needs && !entry.live.as_ref().is_some_and(there) {
                missing.push(entry);
            }
        }
        Ok(missing)
    }

    /// The names that stand in a path to a live pair.
    fn named(&self, agent: &Agent, files: &[RevisionFile]) -> Vec<String> {
        let mut named = Vec::new();
        if self.by_name.is_empty() {
            return named;
        }
        let ours =
            |file: &&RevisionFile| matches!(file.layer, LayerKind::Local | LayerKind::Remote);
        let files = files.iter().filter(ours);
        let texts = files.filter_map(|file| std::str::from_utf8(&file.bytes).ok());
        let settings = agent.args.iter().chain(agent.env.values());
        for text in texts.chain(settings.map(String::as_str)) {
            for prefix in &self.prefixes {
                for (at, _) in text.match_indices(prefix.as_str()) {
                    let rest = text
                        .get(at.saturating_add(prefix.len())..)
                        .unwrap_or_default();
                    if let Some((name, _)) = rest.split_once(CURRENT)
                        && name.parse::<CertificateName>().is_ok()
                        && !named.iter().any(|known| known == name)
                    {
                        named.push(name.to_owned());
                    }
                }
            }
        }
        named
    }
}

/// The entry of a remote bundle that names a certificate's domains, when the files hold it and it is not empty.
fn domain_entry<'a>(
    settings: &Certificate,
    agent: &Agent,
    files: &'a [RevisionFile],
) -> Option<&'a RevisionFile> {
    let wanted = settings.domain_file_of(&agent.name)?;
    files
        .iter()
        .find(|file| file.layer == LayerKind::Remote && file.source == wanted)
        .filter(|file| !file.bytes.trim_ascii().is_empty())
}

/// The domains that such an entry names.
pub(crate) fn entry_domains(file: &RevisionFile) -> Result<Vec<Domain>, String> {
    std::str::from_utf8(&file.bytes)
        .map_err(|_| "it is not text".to_owned())
        .and_then(domains_of)
        .map_err(|reason| format!("file {:?}: {reason}", file.source))
}
