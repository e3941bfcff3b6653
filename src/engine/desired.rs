//! What should run: local layers + offered files + generated overlay → one candidate with its hash and its command
//! line.
//!
//! Promises: offered and local files are kept byte for byte; the same inputs give the same hash on every machine;
//! what is refused is named with file, line and column. The order of layers is the order of the settings.
//! Must never: compare with what runs now, touch the disk, or know the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::names::place_files;
use crate::config::policy;
use crate::config::{Agent, Composition, Layer, Profile};
use crate::engine::certificates::DIRECTORY_VARIABLE;
use crate::engine::message::{LayerKind, LocalFile, OfferedFile, RevisionFile};
use crate::units::{RevisionHash, order};
use crate::yaml::{self, Node};

/// The file that carries the proof marker in a [`Composition::Directory`].
pub(crate) const MARKER_FILE: &str = "adjutant.revision";
const OVERLAY_FILE: &str = "adjutant/overlay.yaml";
/// The layer of own telemetry in a Collector's config.
pub(crate) const OWN_TELEMETRY_FILE: &str = "adjutant/own-telemetry.yaml";
const OTEL_MARKER_FILE: &str = "adjutant/revision.yaml";
/// The attribute a Collector proves its config with.
pub(crate) const REVISION_ATTRIBUTE: &str = "adjutant.revision";
/// The attribute of the rollout component that names the hash of what runs.
pub(crate) const REVISION_HASH_ATTRIBUTE: &str = "adjutant.revision_hash";
/// Names the config directory in a child's environment.
pub(crate) const CONFIG_DIR_VARIABLE: &str = "ADJUTANT_CONFIG_DIR";
/// Names the endpoint of the local OpAMP server in a Collector's environment.
pub(crate) const ENDPOINT_VARIABLE: &str = "ADJUTANT_OPAMP_ENDPOINT";
/// Names the Unix socket of the local link in our data plane's environment.
pub(crate) const LINK_VARIABLE: &str = "ADJUTANT_LINK";
/// Names the instance uid in a child's environment.
pub(crate) const UID_VARIABLE: &str = "ADJUTANT_INSTANCE_UID";
/// Names the supervisor's own instance in a Collector's environment.
pub(crate) const SUPERVISOR_VARIABLE: &str = "ADJUTANT_SUPERVISOR_INSTANCE_ID";
/// The resource attribute by which an agent's telemetry leads to its supervisor.
const SUPERVISOR_ATTRIBUTE: &str = "adjutant.supervisor.instance.id";
/// Sentences that one refusal report may hold; the rest is counted.
const REFUSALS_MAX: usize = 8;

/// What should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Over all layers, without the proof marker.
    pub(crate) hash: RevisionHash,
    /// Every file in layer order, the marker last.
    pub(crate) files: Vec<RevisionFile>,
}

impl Candidate {
    /// Whether there is nothing a child could run.
    pub(crate) fn is_empty(&self) -> bool {
        is_empty(&self.files)
    }
}

/// Whether files hold no config at all: neither a local nor an offered layer.
pub(crate) fn is_empty(files: &[RevisionFile]) -> bool {
    !files
        .iter()
        .any(|file| matches!(file.layer, LayerKind::Local | LayerKind::Remote))
}

/// Why a candidate was not composed; bounded, for people and for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String);

impl Refused {
    fn new(mut sentences: Vec<String>) -> Self {
        let more = sentences.len().saturating_sub(REFUSALS_MAX);
        sentences.truncate(REFUSALS_MAX);
        if more > 0 {
            sentences.push(format!("and {more} more"));
        }
        Self(sentences.join("; "))
    }
}

/// Composes a candidate of the local layers and an offer. The offer's names are judged first, then its content.
pub(crate) fn compose(
    settings: &Agent,
    places: &Places,
    local: &[LocalFile],
    offered: &[OfferedFile],
) -> Result<Candidate, Refused> {
    compose_with(settings, places, local, offered, None)
}

/// The same with the layer of own telemetry, where the program has layers.
pub(crate) fn compose_with(
    settings: &Agent,
    places: &Places,
    local: &[LocalFile],
    offered: &[OfferedFile],
    own_telemetry: Option<&str>,
) -> Result<Candidate, Refused> {
    let profile = &settings.profile;
    let remote = place(settings, offered)?;
    judge(settings, places, &remote)?;
    let mut files = match profile.composition {
        Composition::Directory => directory(settings, local, remote)?,
        Composition::OtelLayers => otel_layers(settings, local, remote, own_telemetry)?,
    };
    let hash = RevisionHash::of(
        files
            .iter()
            .filter(|file| file.layer != LayerKind::Marker)
            .map(|file| {
                (
                    file.path.as_str(),
                    file.content_type.as_str(),
                    file.bytes.as_slice(),
                )
            }),
    );
    files.push(marker(profile, hash));
    Ok(Candidate { hash, files })
}

/// Composes the profile's built-in default config, with the layer of own telemetry; none when it has none.
pub(crate) fn compose_default(
    settings: &Agent,
    places: &Places,
    own_telemetry: Option<&str>,
) -> Option<Result<Candidate, Refused>> {
    let text = settings.profile.default_config.as_ref()?;
    let file = OfferedFile {
        name: String::new(),
        content_type: String::new(),
        body: text.clone().into_bytes(),
    };
    // The operator's policy binds servers, not us: the default is judged all the same, and a test shows that it passes.
    let files = [file];
    Some(compose_with(settings, places, &[], &files, own_telemetry))
}

fn place(settings: &Agent, offered: &[OfferedFile]) -> Result<Vec<RevisionFile>, Refused> {
    let sizes = offered
        .iter()
        .map(|file| (file.name.as_str(), file.body.len() as u64));
    let main_file = &settings.profile.main_file;
    let paths = place_files(sizes, main_file, settings.apply.limits).map_err(Refused::new)?;
    let mut placed: Vec<RevisionFile> = offered
        .iter()
        .zip(paths)
        .map(|(file, placed)| RevisionFile {
            path: placed.file,
            layer: LayerKind::Remote,
            source: file.name.clone(),
            content_type: file.content_type.clone(),
            bytes: file.body.clone(),
        })
        .collect();
    // Entries sorted by name, the one with the empty name last: a map has no order of its own.
    order::sort_by(&mut placed, |a, b| {
        (a.source.is_empty(), &a.source).cmp(&(b.source.is_empty(), &b.source))
    });
    Ok(placed)
}

fn judge(settings: &Agent, places: &Places, remote: &[RevisionFile]) -> Result<(), Refused> {
    let rules = policy::Rules {
        profile: &settings.profile,
        policy: &settings.policy,
        reserved_ports: &places.reserved_ports,
    };
    let refusals: Vec<String> = remote
        .iter()
        .filter(|file| !names_domains(settings, file))
        .flat_map(|file| policy::judge_file(&file.path, &file.bytes, rules))
        .map(|refusal| refusal.to_string())
        .collect();
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(Refused::new(refusals))
    }
}

/// Whether a file is an entry that names domains of a certificate, which the program is not given.
fn names_domains(settings: &Agent, file: &RevisionFile) -> bool {
    file.layer == LayerKind::Remote && settings.domain_files.contains(&file.source)
}

/// Parses a file whose content decides how the child is run; none when it is no config by its name.
fn parse(settings: &Agent, file: &RevisionFile) -> Result<Option<Node>, yaml::Error> {
    if names_domains(settings, file) {
        return Ok(None);
    }
    match policy::format_of(&file.path, &settings.profile) {
        Some(format) => policy::read(&file.path, &file.bytes, format).map(Some),
        None => Ok(None),
    }
}

fn directory(
    settings: &Agent,
    local: &[LocalFile],
    remote: Vec<RevisionFile>,
) -> Result<Vec<RevisionFile>, Refused> {
    let mut by_path = BTreeMap::new();
    for file in read_local(settings, local)?.into_iter().flatten() {
        by_path.insert(file.path.clone(), file);
    }
    // An offered file takes the place of a local one of the same name.
    for file in remote {
        if file.path == MARKER_FILE {
            return Err(Refused::new(vec![format!(
                "file {MARKER_FILE:?}: the name is ours"
            )]));
        }
        by_path.insert(file.path.clone(), file);
    }
    Ok(by_path.into_values().collect())
}

/// The local layers in their order; none in the place of one that may be missing and is.
fn read_local(settings: &Agent, local: &[LocalFile]) -> Result<Vec<Option<RevisionFile>>, Refused> {
    let mut files = Vec::new();
    let mut missing = Vec::new();
    for layer in &settings.layers {
        let Layer::Local(path) = layer else { continue };
        match local
            .iter()
            .find(|file| &file.path == path)
            .map(|file| &file.bytes)
        {
            Some(Ok(bytes)) => files.push(Some(RevisionFile {
                path: local_path(settings.profile.composition, path, files.len()),
                layer: LayerKind::Local,
                source: path.display().to_string(),
                content_type: String::new(),
                bytes: bytes.clone(),
            })),
            _ if settings.apply.without_unreadable => files.push(None),
            Some(Err(reason)) => {
                missing.push(format!("local config file {}: {reason}", path.display()));
            }
            None => missing.push(format!("local config file {}: not read", path.display())),
        }
    }
    if missing.is_empty() {
        Ok(files)
    } else {
        Err(Refused::new(missing))
    }
}

fn local_path(composition: Composition, path: &Path, index: usize) -> String {
    let name = path.file_name().map_or_else(
        || "config".to_owned(),
        |name| name.to_string_lossy().trim_start_matches('.').to_owned(),
    );
    match composition {
        Composition::Directory => name,
        Composition::OtelLayers => format!("local/{index}-{name}"),
    }
}

fn otel_layers(
    settings: &Agent,
    local: &[LocalFile],
    mut remote: Vec<RevisionFile>,
    own_telemetry: Option<&str>,
) -> Result<Vec<RevisionFile>, Refused> {
    let mut locals = read_local(settings, local)?.into_iter();
    let mut files = Vec::new();
    for layer in &settings.layers {
        match layer {
            Layer::Local(_) => files.extend(locals.next().flatten()),
            Layer::Remote => files.extend(remote.drain(..).map(|mut file| {
                file.path = format!("remote/{}", file.path);
                file
            })),
            Layer::OwnTelemetry => {
                files.extend(own_telemetry.map(|text| {
                    generated(OWN_TELEMETRY_FILE, LayerKind::Generated, text.to_owned())
                }));
            }
            // The overlay is always last, because later files win and the link to the child is what a proof depends on.
            Layer::Overlay => {}
        }
    }
    if is_empty(&files) {
        return Ok(Vec::new());
    }
    let mut extensions = Vec::new();
    let mut attributes = None;
    let mut broken = Vec::new();
    for file in &files {
        match parse(settings, file) {
            Ok(Some(node)) => {
                let listed = node
                    .at(&["service", "extensions"])
                    .map_or(&[][..], Node::items);
                for name in listed.iter().filter_map(Node::text) {
                    if !extensions.iter().any(|known| known == name) {
                        extensions.push(name.to_owned());
                    }
                }
                attributes = resource::listed_attributes(&node).or(attributes);
            }
            Ok(None) => {}
            Err(error) => broken.push(error.to_string()),
        }
    }
    if !broken.is_empty() {
        return Err(Refused::new(broken));
    }
    let resource = resource::resource(&settings.description, attributes);
    files.push(generated(
        OVERLAY_FILE,
        LayerKind::Generated,
        overlay(&extensions, settings, &resource),
    ));
    Ok(files)
}

fn generated(path: &str, layer: LayerKind, text: String) -> RevisionFile {
    RevisionFile {
        path: path.to_owned(),
        layer,
        source: "adjutant".to_owned(),
        content_type: String::new(),
        bytes: text.into_bytes(),
    }
}

/// The last layer of a Collector's config: the extension that links it to us. Endpoint and uid come from the
/// environment, so that the file is the same after a restart of ours.
fn overlay(extensions: &[String], settings: &Agent, resource: &str) -> String {
    let mut names: Vec<&str> = extensions.iter().map(String::as_str).collect();
    if !names.contains(&"opamp") {
        names.push("opamp");
    }
    // JSON strings are YAML strings.
    let list = serde_json::to_string(&names).unwrap_or_default();
    let components = settings.reports_components;
    let included = if settings.description.include_resource {
        "    agent_description: {include_resource_attributes: true}\n"
    } else {
        ""
    };
    let components = if components {
        "      reports_available_components: true\n"
    } else {
        ""
    };
    format!(
        "extensions:
  opamp:
{included}    instance_uid: \"${{env:{UID_VARIABLE}}}\"
    server:
      ws:
        endpoint: \"${{env:{ENDPOINT_VARIABLE}}}\"
        tls:
          insecure: true
    capabilities:
      reports_effective_config: true
      reports_health: true
{components}service:
  extensions: {list}
  telemetry:
    resource:
{resource}"
    )
}

fn marker(profile: &Profile, hash: RevisionHash) -> RevisionFile {
    match profile.composition {
        Composition::Directory => generated(MARKER_FILE, LayerKind::Marker, format!("{hash}\n")),
        Composition::OtelLayers => generated(
            OTEL_MARKER_FILE,
            LayerKind::Marker,
            format!(
                "extensions:
  opamp:
    agent_description:
      non_identifying_attributes:
        {REVISION_ATTRIBUTE}: \"{hash}\"
"
            ),
        ),
    }
}

/// Where an agent's things are. The engine never opens them; it writes them into command lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The agent's directory in the state directory.
    pub state_dir: PathBuf,
    /// The value that tells the child where the local link is: a `ws://` URL or a socket path.
    pub link: Option<String>,
    /// Ports that we or other managed agents bind; an offer may not.
    pub reserved_ports: Vec<u16>,
    /// The directory of the host's certificates.
    pub certificates: PathBuf,
    /// The supervisor's own instance id, which an agent's telemetry names.
    pub supervisor: String,
}

impl Places {
    /// `…/current`, unresolved, as a running child is given it.
    pub(crate) fn config_dir(&self) -> PathBuf {
        self.state_dir.join("current")
    }

    #[cfg(feature = "layers")]
    /// Where other combinations of refused files are laid out for the validator.
    pub(crate) fn trial_dir(&self) -> PathBuf {
        self.state_dir.join("trial")
    }

    /// The directory of a staged revision, as a validator is given it.
    pub(crate) fn revision_dir(&self, id: &crate::units::RevisionId) -> PathBuf {
        self.state_dir.join("revisions").join(id.as_str())
    }
}

/// The arguments of a run or (with the profile's validator arguments) of a validation of `files` under `config_dir`.
pub(crate) fn arguments(
    settings: &Agent,
    places: &Places,
    own: &[String],
    config_dir: &Path,
    files: &[RevisionFile],
) -> Vec<String> {
    let mut arguments: Vec<String> = own
        .iter()
        .map(|text| expand(text, settings, places, config_dir, None))
        .collect();
    if settings.profile.composition == Composition::OtelLayers {
        for file in files.iter().filter(|file| !names_domains(settings, file)) {
            arguments.push("--config".to_owned());
            arguments.push(config_dir.join(&file.path).display().to_string());
        }
        if !files.is_empty() && !has_pipelines(settings, files) {
            arguments.push("--feature-gates=service.AllowNoPipelines".to_owned());
        }
    }
    let local = settings
        .args
        .iter()
        .map(|text| expand(text, settings, places, config_dir, None));
    arguments.extend(local);
    arguments
}

fn has_pipelines(settings: &Agent, files: &[RevisionFile]) -> bool {
    files.iter().any(|file| {
        let node = parse(settings, file).ok().flatten();
        let pipelines = node
            .as_ref()
            .and_then(|node| node.at(&["service", "pipelines"]));
        pipelines.is_some_and(|pipelines| !pipelines.entries().is_empty())
    })
}

/// Replaces the fixed vocabulary of placeholders; anything else in braces stays as it is.
pub(crate) fn expand(
    text: &str,
    settings: &Agent,
    places: &Places,
    config_dir: &Path,
    pid: Option<u32>,
) -> String {
    let directory = config_dir.display().to_string();
    let file = config_dir
        .join(&settings.profile.main_file)
        .display()
        .to_string();
    let mut text = text
        .replace("{config_dir}", &directory)
        .replace("{config_file}", &file)
        .replace("{state_dir}", &places.state_dir.display().to_string())
        .replace("{name}", settings.name.as_str());
    if let Some(pid) = pid {
        text = text.replace("{pid}", &pid.to_string());
    }
    text
}

/// The environment of a child or validator, on top of the fixed base.
pub(crate) fn environment(
    settings: &Agent,
    places: &Places,
    config_dir: &Path,
    instance_uid: &str,
) -> BTreeMap<String, String> {
    let mut environment = settings.env.clone();
    environment.insert(
        CONFIG_DIR_VARIABLE.to_owned(),
        config_dir.display().to_string(),
    );
    environment.insert(UID_VARIABLE.to_owned(), instance_uid.to_owned());
    if settings.profile.composition == Composition::OtelLayers {
        let directory = places.state_dir.join(resource::MATERIAL_DIRECTORY);
        let directory = directory.display().to_string();
        environment.insert(resource::MATERIAL_VARIABLE.to_owned(), directory);
        environment.insert(SUPERVISOR_VARIABLE.to_owned(), places.supervisor.clone());
    }
    environment.insert(
        DIRECTORY_VARIABLE.to_owned(),
        places.certificates.display().to_string(),
    );
    if let Some(link) = &places.link {
        let name = match settings.profile.composition {
            Composition::OtelLayers => ENDPOINT_VARIABLE,
            Composition::Directory => LINK_VARIABLE,
        };
        environment.insert(name.to_owned(), link.clone());
    }
    environment
}

/// Whether going from one revision to the other needs a new process, and why.
pub(crate) fn needs_restart(
    settings: &Agent,
    places: &Places,
    old: &[RevisionFile],
    new: &[RevisionFile],
) -> Option<String> {
    let directory = places.config_dir();
    let args = |files| arguments(settings, places, &settings.profile.args, &directory, files);
    if args(old) != args(new) {
        return Some("the command line changes".to_owned());
    }
    let profile = &settings.profile;
    for path in changed(old, new) {
        if profile
            .restart_files
            .iter()
            .any(|end| path.ends_with(end.as_str()))
        {
            return Some(format!("file {path} changes, which a reload does not read"));
        }
        // What changed in it cannot be told, and some of it would need a new process.
        let is_read = |file: &RevisionFile| {
            file.path != path || !matches!(parse(settings, file), Ok(None) | Err(_))
        };
        let config = path == profile.main_file || policy::format_of(path, profile).is_some();
        let is_read = config && old.iter().chain(new).all(is_read);
        if config && !is_read && !profile.restart_sections.is_empty() {
            return Some(format!(
                "file {path} changes, and which of its sections is not known"
            ));
        }
    }
    profile
        .restart_sections
        .iter()
        .find(|section| {
            sections::texts(settings, old, section) != sections::texts(settings, new, section)
        })
        .map(|section| format!("section {section} changes"))
}

/// Whether a Collector would merge both to the same: they differ in comments and the like alone. It is asked of nothing
/// else: what another program reads out of a file's first line is not known.
pub(crate) fn says_the_same(settings: &Agent, old: &[RevisionFile], new: &[RevisionFile]) -> bool {
    fn content(files: &[RevisionFile]) -> impl Iterator<Item = &RevisionFile> {
        files.iter().filter(|file| file.layer != LayerKind::Marker)
    }
    let same = |(one, two): (&RevisionFile, &RevisionFile)| {
        let read = |file| parse(settings, file).ok().flatten();
        let same_text = || {
            let trees = read(one).zip(read(two));
            trees.is_some_and(|(one, two)| one.says_the_same(&two))
        };
        (&one.path, one.layer, &one.source) == (&two.path, two.layer, &two.source)
            && (one.bytes == two.bytes || same_text())
    };
    settings.profile.composition == Composition::OtelLayers
        && content(old).count() == content(new).count()
        && content(old).zip(content(new)).all(same)
}

/// Paths of the files that came, went or changed. Not what we generate.
fn changed<'f>(old: &'f [RevisionFile], new: &'f [RevisionFile]) -> Vec<&'f str> {
    let written = |file: &&RevisionFile| matches!(file.layer, LayerKind::Local | LayerKind::Remote);
    let others = |file: &RevisionFile, of: &'f [RevisionFile]| {
        let mut others = of.iter().filter(written);
        !others.any(|other| other.path == file.path && other.bytes == file.bytes)
    };
    let gone = old.iter().filter(written).filter(|file| others(file, new));
    let come = new.iter().filter(written).filter(|file| others(file, old));
    gone.chain(come).map(|file| file.path.as_str()).collect()
}

/// A stored revision's own copies of the local files.
#[cfg(feature = "telemetry")]
pub(crate) fn local(files: &[RevisionFile]) -> Vec<LocalFile> {
    let copies = files.iter().filter(|file| file.layer == LayerKind::Local);
    copies
        .map(|file| LocalFile {
            path: PathBuf::from(&file.source),
            bytes: Ok(file.bytes.clone()),
        })
        .collect()
}

/// The offered files of a stored revision, as they came.
pub(crate) fn offered(files: &[RevisionFile]) -> Vec<OfferedFile> {
    files
        .iter()
        .filter(|file| file.layer == LayerKind::Remote)
        .map(|file| OfferedFile {
            name: file.source.clone(),
            content_type: file.content_type.clone(),
            body: file.bytes.clone(),
        })
        .collect()
}

mod resource;
mod sections;
#[cfg(feature = "flow")]
pub(crate) use sections::{Tree, meaning, trees};
#[cfg(feature = "telemetry")]
pub(crate) mod telemetry;
#[cfg(test)]
mod tests;
