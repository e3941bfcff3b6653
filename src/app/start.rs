//! From settings to a running host: the state directory, the identity, every port, then the loop.
//!
//! Promises: nothing in the state directory changes before its lock is held; every address is bound before the
//! first child is started, so that a start that cannot succeed starts nothing; nothing slow (names, trust roots,
//! the network) stands between the start of the process and its children.
//! Must never: look into an engine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::container::{no_thread, whereabouts};
#[cfg(feature = "roster")]
use super::joining::{self, Common};
use super::records::Records;
use super::{
    AppError, AppErrorKind, Ended, RunOptions, doors, fallback, identity, leftover, records,
    register, telemetry,
};
use crate::config::{Agent, Certificate, ClockWatch, Config, Form, Layer, Server};
use crate::engine::host::{Host, HostSetup};
use crate::engine::message::{DiskFault, Identity, Inheritance, Leftover, Persisted};
use crate::engine::{CertificatesSetup, ClockSetup, Places, Setup};
#[cfg(feature = "roster")]
use crate::perform::Joins;
use crate::perform::{AgentPorts, CertificateJob, CertificatePorts, Ports, ReadSettings};
use crate::port::admin::{self, Admin};
use crate::port::child::{self, ChildDirs, Children};
use crate::port::host::{self, HostFacts};
use crate::port::link;
use crate::port::local::{self, LocalDoor};
use crate::port::store::{
    AgentStore, IdentityStore, LockError, PairStore, StateDir, Writer, start_agent_writer,
};
use crate::run::{self, CertificateAnswer, Inbox};
use crate::sys::clock;
use crate::sys::durable::RealDisk;
use crate::sys::signal::HostSignals;
use crate::units::{AgentName, Now, Ticket};

/// Answers of the writer threads that may wait for the loop: one per agent is under way at a time.
const DISK_ANSWERS_MAX: usize = 16;

/// One agent, loaded and with its endpoint open.
pub(super) struct Loaded {
    agent: Agent,
    pub(super) dirs: ChildDirs,
    pub(super) root: PathBuf,
    pub(super) store: AgentStore<RealDisk>,
    pub(super) persisted: Persisted,
    pub(super) leftover: Option<Leftover>,
    pub(super) door: Option<LocalDoor>,
}

/// Starts everything and runs until told to stop.
pub(super) async fn run(config: Config, options: RunOptions) -> Result<Ended, AppError> {
    // The first reading is where the monotonic clock starts.
    let started = clock::now();
    let own = telemetry::begin(&config)?;
    for warning in &config.warnings {
        tracing::warn!(warning, "settings");
    }
    let local = LocalSet::new();
    // The lock outlives every task: what they remove (sockets) they remove while it is held.
    let state = StateDir::open(&config.storage).map_err(|error| unusable(error.into()))?;
    let facts = host::read(|name| std::env::var(name).ok());
    let lock = state.lock_from(&whereabouts(&facts)).map_err(|error| {
        let kind = match &error {
            LockError::Held { .. } => AppErrorKind::StateLocked,
            LockError::Io { .. } => AppErrorKind::StateUnusable,
        };
        AppError {
            kind,
            cause: error.into(),
        }
    })?;
    let (life, records) = records::begin(&config, state.root(), started.wall);
    let known = match identity::establish(state.root(), &config, &facts, started.wall) {
        Ok(known) => known,
        Err(error) => {
            life.end("the start failed");
            return Err(error);
        }
    };
    let assembled = assemble_and_run(
        config,
        options,
        &state,
        (facts, records),
        known,
        (own, started),
    );
    let reason = Box::pin(local.run_until(assembled)).await;
    drop(local);
    records::end(life, &reason);
    drop(lock);
    reason
}

#[expect(
    clippy::too_many_lines,
    reason = "one straight line from settings to a running host"
)]
async fn assemble_and_run(
    #[cfg_attr(
        not(feature = "dev-server"),
        expect(unused_mut, reason = "the dev server takes the server's place")
    )]
    mut config: Config,
    options: RunOptions,
    state: &StateDir,
    (facts, records): (HostFacts, Records),
    (identity_store, identity): (IdentityStore<RealDisk>, Identity),
    (own, started): (telemetry::Starting, Now),
) -> Result<Ended, AppError> {
    let signals = HostSignals::new().map_err(|error| system("register signals", error))?;
    let mut children = Children::new(&child::Options {
        pid1: facts.is_pid1,
        cgroup_root: config.cgroup_root.clone(),
    })
    .map_err(|error| no_thread("prepare for child processes", error))?;
    let mut loaded = load_agents(&config, state)?;
    check_fallbacks(&mut children, &config, &loaded).await?;
    let doors = doors::open(&config, state)?;
    #[cfg(feature = "dev-server")]
    let dev_server = super::dev::bind(&mut config, options.dev_server).await?;
    #[cfg(not(feature = "dev-server"))]
    refuse_dev_server(&options)?;
    let reserved = reserved_ports(&doors, &loaded);

    let (disk_tx, disk) = mpsc::channel(DISK_ANSWERS_MAX);
    let (link_reports, links) = mpsc::channel(link::QUEUE_MAX);
    let (local_reports, locals) = mpsc::channel(local::QUEUE_MAX);
    let (questions_tx, questions) = mpsc::channel(admin::QUEUE_MAX);
    let (identity_tx, identity_rx) = mpsc::channel(DISK_ANSWERS_MAX);
    let identity_writer = start_identity_writer(identity_store, identity_tx)?;
    let (kept, certificates) = keep_certificates(state, config.certificates.clone())?;
    let (certificate_ports, certificates_setup) = kept;

    let (registrar, registration) = register::establish(&config, state, &facts)?;
    let has_server = config.server.is_some();
    let fleet = config.server.clone().or_else(|| registration.server());

    let supervisor = identity::supervisor(&identity);
    let (admissions_tx, admissions) = mpsc::channel(DISK_ANSWERS_MAX);
    #[cfg(feature = "roster")]
    let admit = joining::admit(Common {
        form: config.form,
        state: state.clone(),
        reserved: reserved.clone(),
        supervisor: supervisor.clone(),
        facts: facts.attributes.clone(),
        answers: disk_tx.clone(),
    });
    let mut setups = Vec::new();
    let mut agents = BTreeMap::new();
    let mut served = Vec::new();
    for entry in loaded.drain(..) {
        let name = entry.agent.name.clone();
        let inheritance = inheritance(&config, state, &entry);
        let found = leftover::watch(&mut children, &entry.agent, &entry.dirs, entry.leftover)?;
        let setup = Setup {
            inheritance,
            places: Places {
                state_dir: entry.root,
                link: entry.door.as_ref().map(|door| door.link().to_owned()),
                reserved_ports: reserved.clone(),
                certificates: state.root().join("certificates"),
                supervisor: supervisor.clone(),
            },
            settings: entry.agent,
            server: fleet.clone(),
            capabilities: config.capabilities,
            grace: config.stop.grace,
            instance_uid: identity
                .instance_uids
                .get(name.as_str())
                .copied()
                .unwrap_or_default(),
            facts: facts.attributes.clone(),
            persisted: entry.persisted,
            seed: identity::random_u64()?,
        };
        setups.push((setup, found));
        let writer = start_agent_writer(name.clone(), entry.store, disk_tx.clone())
            .map_err(|error| no_thread("start a writer thread", error))?;
        let ports = AgentPorts {
            dirs: entry.dirs,
            writer,
        };
        served.extend(entry.door.map(|door| (name.clone(), door)));
        agents.insert(name, ports);
    }
    drop(disk_tx);

    let mut ports = Ports::new(
        children,
        agents,
        (identity_writer, certificate_ports),
        link_reports,
        read_settings(&options, &config),
        (doors::notifier(), records.events, records.termination),
        registrar,
    );
    for (agent, door) in served {
        ports.serve_child(&agent, door, local_reports.clone());
    }
    #[cfg(feature = "roster")]
    {
        ports.joins = Some(Joins {
            admit,
            answers: admissions_tx,
            locals: local_reports,
        });
    }
    // A channel that nobody can fill is a branch of the loop that never runs.
    #[cfg(not(feature = "roster"))]
    drop(admissions_tx);
    let took = (started, clock::now());
    telemetry::run(
        own,
        took,
        &config,
        (&facts, &supervisor),
        &questions_tx,
        &mut ports,
    );
    serve_doors(doors, questions_tx, &mut ports);
    let budget = config.stop.budget;

    #[cfg(feature = "dev-server")]
    super::dev::serve(dev_server, state.root(), &mut ports.tasks);
    let host = Host::new(HostSetup {
        agents: setups,
        identity,
        certificates: certificates_setup,
        stop: config.stop,
        give_up: config.give_up,
        previous_end: records.previous_end,
        clock: watched_clock(config.clock, fleet),
        registration,
        has_server,
    });
    let mut inbox = Inbox {
        signals,
        links,
        locals,
        disk,
        identity: identity_rx,
        certificates,
        jumps: clock::ClockJumps::new(),
        questions,
        admissions,
    };
    let reason = run::run(with_successor(host, &options), &mut ports, &mut inbox).await;
    telemetry::finish(&mut ports, budget).await;
    Ok(records::ended(reason, ports))
}

#[cfg(not(feature = "dev-server"))]
fn refuse_dev_server(options: &RunOptions) -> Result<(), AppError> {
    match options.dev_server {
        None => Ok(()),
        Some(_) => Err(AppError {
            kind: AppErrorKind::Settings,
            cause: anyhow::anyhow!("serve the dev server: it is not part of this build"),
        }),
    }
}

fn watched_clock(settings: Option<ClockWatch>, server: Option<Server>) -> ClockSetup {
    ClockSetup {
        settings,
        server,
        asleep: clock::asleep(),
    }
}

fn start_identity_writer(
    store: IdentityStore<RealDisk>,
    answers: mpsc::Sender<(Ticket, Result<(), DiskFault>)>,
) -> Result<Writer<Identity>, AppError> {
    Writer::start(
        "disk identity".to_owned(),
        move |identity: Identity| store.save(&identity),
        move |ticket, result| answers.blocking_send((ticket, result)).is_ok(),
    )
    .map_err(|error| no_thread("start a writer thread", error))
}

/// The doors for people and machines.
fn serve_doors(doors: Admin, questions: admin::Questions, ports: &mut Ports) {
    ports.tasks.serve("doors", async move {
        match doors.serve(questions).await {
            Ok(never) => match never {},
            Err(error) => error.to_string(),
        }
    });
}

/// The certificates' writer thread with its answers, and what their machine is built from.
fn keep_certificates(
    state: &StateDir,
    list: Vec<Certificate>,
) -> Result<
    (
        (CertificatePorts, CertificatesSetup),
        mpsc::Receiver<CertificateAnswer>,
    ),
    AppError,
> {
    let (answers, receiver) = mpsc::channel(DISK_ANSWERS_MAX);
    let mut store = PairStore::new(RealDisk, state.root());
    let writer = Writer::start(
        "disk certs".to_owned(),
        move |(name, work): CertificateJob| Ok(store.perform(&name, work, clock::wall())),
        move |ticket, result| {
            let result = result.unwrap_or_else(|fault| Err(fault.into()));
            answers.blocking_send((ticket, result)).is_ok()
        },
    )
    .map_err(|error| no_thread("start a writer thread", error))?;
    let directory = state.root().join("certificates");
    let setup = CertificatesSetup {
        list,
        directory: directory.clone(),
        seed: identity::random_u64()?,
    };
    let ports = CertificatePorts { writer, directory };
    Ok(((ports, setup), receiver))
}

fn load_agents(config: &Config, state: &StateDir) -> Result<Vec<Loaded>, AppError> {
    leftover::tell_strays(state.root(), &config.agents);
    let agents = config.agents.iter();
    agents
        .map(|agent| load_agent(agent, config.form, state))
        .collect()
}

/// Reads what is known of an agent and opens its endpoint.
#[cfg_attr(
    not(any(feature = "isolation", feature = "opampsupervisor")),
    expect(
        unused_variables,
        reason = "in such a build both forms are the same from here on"
    )
)]
pub(super) fn load_agent(agent: &Agent, form: Form, state: &StateDir) -> Result<Loaded, AppError> {
    #[cfg(feature = "isolation")]
    child::check(&agent.process).map_err(|reason| AppError {
        kind: AppErrorKind::Settings,
        cause: match form {
            Form::Agent => anyhow::anyhow!("agent.run_as: {reason}"),
            Form::Agents => anyhow::anyhow!("agents.{}.user: {reason}", agent.name),
        },
    })?;
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let layout = state.layout(&agent.name);
    let root = layout.root();
    let mut local = local_layers(agent);
    local.extend(agent.fallback.iter().cloned());
    let (store, persisted) =
        AgentStore::load(RealDisk, layout, &local).map_err(|error| unusable(error.into()))?;
    for repair in &persisted.repairs {
        tracing::warn!(agent = %agent.name, repair, "state repaired");
    }
    let dirs = ChildDirs::below(&root, agent.log_rotation);
    #[cfg(feature = "opampsupervisor")]
    let dirs = ChildDirs {
        to_own_log: Form::is_theirs(Some(form)),
        ..dirs
    };
    #[cfg(feature = "opampsupervisor")]
    super::inherit::show_log(state.root(), agent, &dirs);
    let (leftover, door) = leftover::meet(agent, &dirs, &root, runtime_dir.as_deref())?;
    Ok(Loaded {
        agent: agent.clone(),
        dirs,
        root,
        store,
        persisted,
        leftover,
        door,
    })
}

pub(super) fn local_layers(agent: &Agent) -> Vec<PathBuf> {
    let paths = agent.layers.iter().filter_map(|layer| match layer {
        Layer::Local(path) => Some(path.clone()),
        Layer::OwnTelemetry | Layer::Overlay | Layer::Remote => None,
    });
    paths.collect()
}

/// Tells the host who would take over in place.
#[cfg(feature = "adopt")]
fn with_successor(mut host: Host, options: &RunOptions) -> Host {
    if let Some(question) = super::successor::question(options.settings_path.as_deref()) {
        host.set_successor(question);
    }
    host
}

#[cfg(not(feature = "adopt"))]
fn with_successor(host: Host, _: &RunOptions) -> Host {
    host
}

/// Fallback configs that this life could come to run.
async fn check_fallbacks(
    children: &mut Children,
    config: &Config,
    loaded: &[Loaded],
) -> Result<(), AppError> {
    for entry in loaded {
        let stored = entry.persisted.current.as_ref();
        fallback::check(children, config, &entry.agent, stored).await?;
    }
    Ok(())
}

/// What another supervisor left for an agent.
#[cfg(feature = "opampsupervisor")]
fn inheritance(config: &Config, state: &StateDir, entry: &Loaded) -> Option<Box<Inheritance>> {
    super::inherit::inheritance(state.root(), config, &entry.agent, &entry.persisted)
}

#[cfg(not(feature = "opampsupervisor"))]
fn inheritance(_: &Config, _: &StateDir, _: &Loaded) -> Option<Box<Inheritance>> {
    None
}

/// Ports that an offer may not bind, because we do.
fn reserved_ports(doors: &Admin, loaded: &[Loaded]) -> Vec<u16> {
    let own = doors.addresses().into_iter().map(|address| address.port());
    let links = loaded
        .iter()
        .filter_map(|entry| entry.door.as_ref()?.port());
    own.chain(links).collect()
}

/// What a HUP reads: the same file, over which the command line and the embedded server stand as at the start.
fn read_settings(options: &RunOptions, config: &Config) -> ReadSettings {
    let given = super::Given {
        settings: options.settings_path.clone(),
        state_dir: Some(config.storage.clone()),
        feature_gates: options.feature_gates.clone(),
    };
    let dev_server = options.dev_server.map(|_| config.server.clone());
    std::sync::Arc::new(move || {
        let mut config = super::settings(&given).map_err(|error| error.to_string())?;
        if let Some(server) = &dev_server {
            config.server.clone_from(server);
            config.registration = None;
        }
        Ok(Box::new(config))
    })
}

pub(super) fn unusable(cause: anyhow::Error) -> AppError {
    AppError {
        kind: AppErrorKind::StateUnusable,
        cause,
    }
}

pub(super) fn system(
    what: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> AppError {
    AppError {
        kind: AppErrorKind::System,
        cause: anyhow::Error::new(error).context(what),
    }
}

/// The name of the agent whose settings are meant: the named one, else the only one.
pub(super) fn choose<'a>(
    config: &'a Config,
    named: Option<&AgentName>,
) -> Result<&'a Agent, AppError> {
    let found = match (named, config.agents.as_slice()) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(name), agents) => agents.iter().find(|agent| agent.name == *name),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = config.agents.iter().map(|it| it.name.as_str()).collect();
        let known = known.join(", ");
        let cause = match named {
            Some(name) => anyhow::anyhow!("no agent is named {name}; there are: {known}"),
            None => anyhow::anyhow!("several agents are set up, name one of: {known}"),
        };
        AppError {
            kind: AppErrorKind::Settings,
            cause,
        }
    })
}
