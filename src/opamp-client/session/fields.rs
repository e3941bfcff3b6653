//! The eight reportable fields: their latest values, and which of them the server has not been told.
//!
//! Promises: a field is owed exactly when its value differs from the one last handed out; a message holds whole
//! fields only and only those that both sides' capability bits allow. Trees are at most 32
//! levels deep.
//! Must never: know when to send; that is the session's.

use prost::Message;

use crate::messages::{
    AgentCapabilities, AgentDescription, AgentToServer, AvailableComponents, ComponentDetails,
    ComponentHealth, ConnectionSettingsStatus, CustomCapabilities, EffectiveConfig,
    PackageStatuses, RemoteConfigStatus, ServerCapabilities,
};

/// A map entry counts as a level of its own for decoders, which stop at 100.
const TREE_LEVELS_MAX: u32 = 32;

/// How much a message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// All fields.
    Full,
    /// What changed.
    Delta,
    /// No field at all.
    Bare,
}

/// What both sides can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    pub(super) agent: u64,
    /// Unknown until the server told it; then everything is assumed.
    pub(super) server: Option<u64>,
}

impl Gate {
    fn allows(self, agent: AgentCapabilities, server: Option<ServerCapabilities>) -> bool {
        let known = |bit: ServerCapabilities| self.server.is_none_or(|mask| bit.is_in(mask));
        agent.is_in(self.agent) && server.is_none_or(known)
    }

    fn health(self) -> bool {
        self.allows(AgentCapabilities::ReportsHealth, None)
    }

    fn effective_config(self) -> bool {
        let server = ServerCapabilities::AcceptsEffectiveConfig;
        self.allows(AgentCapabilities::ReportsEffectiveConfig, Some(server))
    }

    fn remote_config_status(self) -> bool {
        self.allows(AgentCapabilities::ReportsRemoteConfig, None)
    }

    fn package_statuses(self) -> bool {
        let server = ServerCapabilities::AcceptsPackagesStatus;
        self.allows(AgentCapabilities::ReportsPackageStatuses, Some(server))
    }

    fn components(self) -> bool {
        self.allows(AgentCapabilities::ReportsAvailableComponents, None)
    }

    /// Nobody is asked who has not said that it answers.
    pub(super) fn settings_request(self) -> bool {
        let bit = ServerCapabilities::AcceptsConnectionSettingsRequest;
        self.server.is_some_and(|mask| bit.is_in(mask))
    }

    fn connection_settings_status(self) -> bool {
        self.allows(AgentCapabilities::ReportsConnectionSettingsStatus, None)
    }
}

/// One value and whether the server was told.
#[derive(Debug)]
pub(super) struct Slot<T> {
    value: Option<T>,
    owed: bool,
    /// The server refused this value for its size: it is not sent again until it changes.
    refused: bool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            value: None,
            owed: false,
            refused: false,
        }
    }
}

impl<T: PartialEq> Slot<T> {
    pub(super) fn set(&mut self, value: T) {
        let same = self.value.as_ref() == Some(&value);
        self.replace(value, same);
    }

    fn replace(&mut self, value: T, same: bool) {
        self.value = Some(value);
        self.owed |= !same;
        self.refused &= same;
    }

    pub(super) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    fn owe(&mut self) {
        self.owed = self.value.is_some() && !self.refused;
    }

    fn refuse(&mut self) {
        self.refused = true;
        self.owed = false;
    }
}

impl<T: Clone> Slot<T> {
    fn take(&self, report: Report, allowed: bool) -> Option<T> {
        let wanted = match report {
            Report::Full => true,
            Report::Delta => self.owed,
            Report::Bare => false,
        };
        let wanted = wanted && allowed && !self.refused;
        self.value.as_ref().filter(|_| wanted).cloned()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) description: Slot<AgentDescription>,
    health: Slot<ComponentHealth>,
    pub(super) effective_config: Slot<EffectiveConfig>,
    pub(super) remote_config_status: Slot<RemoteConfigStatus>,
    pub(super) package_statuses: Slot<PackageStatuses>,
    components: Slot<AvailableComponents>,
    pub(super) connection_settings_status: Slot<ConnectionSettingsStatus>,
    pub(super) custom_capabilities: Slot<CustomCapabilities>,
}

impl Fields {
    pub(super) fn set_health(&mut self, mut health: ComponentHealth) {
        cut_health(&mut health, TREE_LEVELS_MAX);
        let same = self
            .health
            .get()
            .is_some_and(|old| same_health(old, &health));
        // The new times are kept for the next report, but are no reason for one.
        self.health.replace(health, same);
    }

    pub(super) fn set_components(&mut self, mut components: AvailableComponents) {
        if components.hash.is_empty() {
            return;
        }
        for component in components.components.values_mut() {
            cut_component(component, TREE_LEVELS_MAX - 1);
        }
        let same = self
            .components
            .get()
            .is_some_and(|old| old.hash == components.hash);
        self.components.replace(components, same);
    }

    /// Whether a field other than health is owed. Health has a pace of its own.
    pub(super) fn owed(&self, gate: Gate) -> bool {
        self.description.owed
            || self.custom_capabilities.owed
            || (self.effective_config.owed && gate.effective_config())
            || (self.remote_config_status.owed && gate.remote_config_status())
            || (self.package_statuses.owed && gate.package_statuses())
            || (self.components.owed && gate.components())
            || (self.connection_settings_status.owed && gate.connection_settings_status())
    }

    pub(super) fn health_owed(&self, gate: Gate) -> bool {
        self.health.owed && gate.health()
    }

    /// Owes the fields of capability bits that have just been set.
    pub(super) fn owe(&mut self, new_bits: u64) {
        let gate = Gate {
            agent: new_bits,
            server: None,
        };
        if gate.health() {
            self.health.owe();
        }
        if gate.effective_config() {
            self.effective_config.owe();
        }
        if gate.remote_config_status() {
            self.remote_config_status.owe();
        }
        if gate.package_statuses() {
            self.package_statuses.owe();
        }
        if gate.components() {
            self.components.owe();
        }
        if gate.connection_settings_status() {
            self.connection_settings_status.owe();
        }
    }

    /// Puts the fields of a report into `message`.
    pub(super) fn fill(&self, message: &mut AgentToServer, report: Report, gate: Gate) {
        message.agent_description = self.description.take(report, true);
        message.health = self.health.take(report, gate.health());
        message.effective_config = self.effective_config.take(report, gate.effective_config());
        message.remote_config_status = self
            .remote_config_status
            .take(report, gate.remote_config_status());
        if report == Report::Full && self.remote_config_status.get().is_none() {
            // UNSET with an empty hash is what makes a server send its configuration.
            let unset = RemoteConfigStatus::default();
            message.remote_config_status = Some(unset).filter(|_| gate.remote_config_status());
        }
        message.package_statuses = self.package_statuses.take(report, gate.package_statuses());
        message.available_components =
            self.components
                .take(report, gate.components())
                .map(|components| AvailableComponents {
                    hash: components.hash,
                    ..AvailableComponents::default()
                });
        message.connection_settings_status = self
            .connection_settings_status
            .take(report, gate.connection_settings_status());
        message.custom_capabilities = self.custom_capabilities.take(report, true);
    }

    /// Puts the whole component list into `message`.
    pub(super) fn fill_components(&self, message: &mut AgentToServer, gate: Gate) {
        message.available_components = self.components.take(Report::Full, gate.components());
    }

    /// What `taken` names was handed out, but not taken by the server.
    pub(super) fn owe_again(&mut self, taken: &Taken) {
        fn owe<T: PartialEq>(slot: &mut Slot<T>, taken: bool) {
            if taken {
                slot.owe();
            }
        }
        owe(&mut self.description, taken.description);
        owe(&mut self.health, taken.health);
        owe(&mut self.effective_config, taken.effective_config);
        owe(&mut self.remote_config_status, taken.remote_config_status);
        owe(&mut self.package_statuses, taken.package_statuses);
        owe(&mut self.components, taken.components);
        owe(
            &mut self.connection_settings_status,
            taken.connection_settings_status,
        );
        owe(&mut self.custom_capabilities, taken.custom_capabilities);
    }

    /// Keeps a field back until it changes.
    pub(super) fn refuse(&mut self, field: &str) {
        match field {
            "agent_description" => self.description.refuse(),
            "health" => self.health.refuse(),
            "effective_config" => self.effective_config.refuse(),
            "remote_config_status" => self.remote_config_status.refuse(),
            "package_statuses" => self.package_statuses.refuse(),
            "available_components" => self.components.refuse(),
            "connection_settings_status" => self.connection_settings_status.refuse(),
            "custom_capabilities" => self.custom_capabilities.refuse(),
            // A custom message is sent once anyway.
            _ => {}
        }
    }

    /// What `taken` names was handed out, or is too large to be.
    pub(super) fn sent(&mut self, taken: &Taken) {
        let owed = |owed: &mut bool, taken: bool| *owed &= !taken;
        owed(&mut self.description.owed, taken.description);
        owed(&mut self.health.owed, taken.health);
        owed(&mut self.effective_config.owed, taken.effective_config);
        owed(
            &mut self.remote_config_status.owed,
            taken.remote_config_status,
        );
        owed(&mut self.package_statuses.owed, taken.package_statuses);
        owed(&mut self.components.owed, taken.components);
        owed(
            &mut self.connection_settings_status.owed,
            taken.connection_settings_status,
        );
        owed(
            &mut self.custom_capabilities.owed,
            taken.custom_capabilities,
        );
    }
}

/// Which fields a message took, before any was shed: a field that is too large is not tried again until it changes.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one per field of the message, nothing hides in their combination"
)]
pub(super) struct Taken {
    description: bool,
    pub(super) health: bool,
    effective_config: bool,
    remote_config_status: bool,
    package_statuses: bool,
    components: bool,
    connection_settings_status: bool,
    custom_capabilities: bool,
    pub(super) custom_message: bool,
    pub(super) settings_request: bool,
}

impl Taken {
    pub(super) fn of(message: &AgentToServer) -> Self {
        Self {
            description: message.agent_description.is_some(),
            health: message.health.is_some(),
            effective_config: message.effective_config.is_some(),
            remote_config_status: message.remote_config_status.is_some(),
            package_statuses: message.package_statuses.is_some(),
            components: message.available_components.is_some(),
            connection_settings_status: message.connection_settings_status.is_some(),
            custom_capabilities: message.custom_capabilities.is_some(),
            custom_message: message.custom_message.is_some(),
            settings_request: message.connection_settings_request.is_some(),
        }
    }
}

/// The largest field; its name and size.
pub(super) fn largest(message: &AgentToServer) -> Option<(&'static str, usize)> {
    fn len<M: Message>(field: Option<&M>) -> usize {
        field.map_or(0, M::encoded_len)
    }
    let sizes = [
        ("agent_description", len(message.agent_description.as_ref())),
        ("health", len(message.health.as_ref())),
        ("effective_config", len(message.effective_config.as_ref())),
        (
            "remote_config_status",
            len(message.remote_config_status.as_ref()),
        ),
        ("package_statuses", len(message.package_statuses.as_ref())),
        (
            "available_components",
            len(message.available_components.as_ref()),
        ),
        (
            "connection_settings_status",
            len(message.connection_settings_status.as_ref()),
        ),
        (
            "custom_capabilities",
            len(message.custom_capabilities.as_ref()),
        ),
        ("custom_message", len(message.custom_message.as_ref())),
        (
            "connection_settings_request",
            len(message.connection_settings_request.as_ref()),
        ),
    ];
    sizes
        .into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .filter(|(_, bytes)| *bytes > 0)
}

/// Removes the largest field; its name and size.
pub(super) fn shed_largest(message: &mut AgentToServer) -> Option<(&'static str, usize)> {
    let (field, bytes) = largest(message)?;
    match field {
        "agent_description" => message.agent_description = None,
        "health" => message.health = None,
        "effective_config" => message.effective_config = None,
        "remote_config_status" => message.remote_config_status = None,
        "package_statuses" => message.package_statuses = None,
        "available_components" => message.available_components = None,
        "connection_settings_status" => message.connection_settings_status = None,
        "custom_capabilities" => message.custom_capabilities = None,
        "connection_settings_request" => message.connection_settings_request = None,
        _ => message.custom_message = None,
    }
    Some((field, bytes))
}

/// Equal but for observation times.
fn same_health(a: &ComponentHealth, b: &ComponentHealth) -> bool {
    a.healthy == b.healthy
        && a.start_time_unix_nano == b.start_time_unix_nano
        && a.last_error == b.last_error
        && a.status == b.status
        && a.attributes == b.attributes
        && a.component_health_map.len() == b.component_health_map.len()
        && a.component_health_map
            .iter()
            .zip(&b.component_health_map)
            .all(|((a_name, a), (b_name, b))| a_name == b_name && same_health(a, b))
}

fn cut_health(health: &mut ComponentHealth, levels: u32) {
    if levels <= 1 {
        health.component_health_map.clear();
    }
    for part in health.component_health_map.values_mut() {
        cut_health(part, levels - 1);
    }
}

fn cut_component(component: &mut ComponentDetails, levels: u32) {
    if levels <= 1 {
        component.sub_component_map.clear();
    }
    for part in component.sub_component_map.values_mut() {
        cut_component(part, levels - 1);
    }
}
