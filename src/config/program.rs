//! What a kind of program is, as a profile says it.
//!
//! Promises: plain data, every field resolved. Must never: name a program.

use std::time::Duration;

/// A kind of program, described by data.
///
/// Placeholders in arguments and addresses, exactly: `{config_dir} {config_file} {state_dir} {name} {pid}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// That of a built-in one, or of a file in the profile directory.
    pub name: String,
    /// Program used when the settings name none; `{self}` is our own executable.
    pub executable: Option<String>,
    /// Arguments of a run, before the settings' own.
    pub args: Vec<String>,
    /// Arguments of a validator run; `None` when the program has no validator.
    pub validate: Option<Vec<String>>,
    /// How the config is laid out for the program.
    pub composition: Composition,
    /// Name of the file that an entry with an empty key becomes.
    pub main_file: String,
    /// How a reload is proven.
    pub proof: Proof,
    /// Whether the program can reload by SIGHUP at all.
    pub hup: bool,
    /// How health is seen.
    pub health: HealthProbe,
    /// Where its own counters are; `None` when nobody knows.
    pub flow: Option<super::Flow>,
    /// Where the program's own OpAMP is served.
    pub local_link: LocalLink,
    /// Config run when nothing is stored and nothing was offered; `None` leaves the program down.
    pub default_config: Option<String>,
    /// Component types that execute programs or otherwise escape; denied unless the operator allows them.
    pub denied_components: Vec<String>,
    /// Key paths that are refused, such as `plugins`; an operator can allow them the same way.
    pub denied_keys: Vec<String>,
    /// Keys whose value is the type of the component they stand in.
    pub component_keys: Vec<String>,
    /// Top-level sections whose keys are component types; without any, `component_keys` say the types.
    pub component_sections: Vec<String>,
    /// Keys whose values name more files of the config.
    pub include_keys: Vec<String>,
    /// What the program itself replaces in a config.
    pub expands: Expansion,
    /// What a file named `*.conf` holds.
    pub conf_files: ConfFiles,
    /// Sections (`a.b` paths, `*` for any key) whose change needs a restart instead of a HUP.
    pub restart_sections: Vec<String>,
    /// Ends of names of files whose change needs a restart, because a reload does not read them again.
    pub restart_files: Vec<String>,
    /// Signal that asks the program to stop: a number.
    pub stop_signal: i32,
    /// Names of our environment that the child gets besides the fixed base (`PATH`, `HOME`, `TZ`, `LANG` …).
    pub environment: Vec<String>,
    /// Exit codes that blame the config: no retry, straight to rollback.
    pub config_exit_codes: Vec<i32>,
    /// What the profile was tried with.
    pub tested: Tested,
}

/// What a program replaces in the text of its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expansion {
    /// Nothing that a rule would have to know of.
    None,
    /// `${NAME}`.
    Braces,
    /// `${NAME}` and `$NAME`, in the text, before it is parsed; `$$` is a dollar sign.
    Text,
}

/// What a file named `*.conf` holds. `*.toml` is TOML everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfFiles {
    /// Something that nobody here reads.
    Unknown,
    /// TOML.
    Toml,
    /// The classic mode of Fluent Bit: `[SECTION]` and indented `Key Value` lines.
    Classic,
}

/// What a profile was tried with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tested {
    /// Nobody said so.
    No,
    /// Programs that behave, and misbehave, as the real one is known to.
    StandIn,
    /// The real program.
    Program,
}

/// How a revision is laid out for the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Composition {
    /// Offered files are the config directory, names kept.
    Directory,
    /// Every layer is one slot file, each passed as `--config {config_dir}/<slot>`, and a generated overlay
    /// comes where the layer order says.
    OtelLayers,
}

/// How a reload is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A fresh description carrying `adjutant.revision` on a new local connection.
    LocalDescription,
    /// A remote config status with the revision hash over the local link.
    LocalStatus,
    /// The command prints the revision hash or exits 0.
    Exec(Vec<String>),
    /// The URL answers 2xx, and with the revision hash in its body when `expect_revision`.
    Http {
        /// `http://…` with placeholders.
        url: String,
        /// Whether the body must contain the revision hash.
        expect_revision: bool,
        /// A number in the JSON body that grows with each reload: its dotted path. It is read before the HUP, and a
        /// greater one is the proof; a new process proves itself by answering.
        counter: Option<String>,
    },
    /// A line that the program writes when it has reloaded; a new process proves itself by staying up.
    Output {
        /// Any of these in a line, after the HUP, is the proof.
        reloaded: Vec<String>,
        /// Any of these is a refusal.
        failed: Vec<String>,
        /// How long a new process must stay up.
        alive_for: Duration,
    },
    /// A new process that stays up is the proof; a HUP is never used.
    FreshProcess {
        /// How long it must stay up.
        alive_for: Duration,
    },
}

impl Proof {
    /// Whether somebody has to ask for it, again and again.
    pub fn is_asked(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Http { .. })
    }

    /// Whether a HUP can be proven at all.
    pub fn proves_hup(&self) -> bool {
        !matches!(self, Self::FreshProcess { .. })
    }

    /// Whether it shows that a reload happened, and not which: then two HUPs at once cannot be told apart.
    pub fn counts_reloads(&self) -> bool {
        matches!(
            self,
            Self::Output { .. }
                | Self::Http {
                    counter: Some(_),
                    ..
                }
        )
    }

    /// Whether it can be asked of a process at any time which config it runs.
    pub fn names_config(&self) -> bool {
        matches!(
            self,
            Self::Http {
                expect_revision: true,
                ..
            }
        )
    }

    /// How long a new process must stay up, where that is (a part of) the proof.
    pub fn alive_for(&self) -> Option<Duration> {
        match self {
            Self::FreshProcess { alive_for } | Self::Output { alive_for, .. } => Some(*alive_for),
            Self::LocalDescription | Self::LocalStatus | Self::Exec(_) | Self::Http { .. } => None,
        }
    }
}

/// How health is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthProbe {
    /// The local link reports it.
    LocalLink,
    /// A GET that must answer 2xx.
    Http {
        /// `http://…` with placeholders.
        url: String,
        /// Time between probes.
        interval: Duration,
        /// Time one probe may take.
        timeout: Duration,
        /// Failures in a row that make it unhealthy.
        failures: u32,
    },
    /// A command that must exit 0.
    Exec {
        /// Arguments, program first.
        command: Vec<String>,
        /// Time between probes.
        interval: Duration,
        /// Time one probe may take.
        timeout: Duration,
        /// Failures in a row that make it unhealthy.
        failures: u32,
    },
    /// A living process is a healthy one.
    Process,
}

/// Where the program's own OpAMP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalLink {
    /// It speaks none.
    None,
    /// On a loopback port, for `opampextension`.
    Loopback,
    /// On a Unix socket with peer credentials.
    Unix,
}
