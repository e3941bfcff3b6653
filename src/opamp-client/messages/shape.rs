//! Generated from `proto/opamp/v1/*.proto`; do not edit. Which fields are messages, and which.
//! Regenerate: `REGENERATE=1 cargo test -p opamp-client messages`.

pub(crate) const AGENT_CONFIG_FILE: usize = 0;
pub(crate) const AGENT_CONFIG_MAP: usize = 1;
pub(crate) const AGENT_CONFIG_MAP_CONFIG_MAP_ENTRY: usize = 2;
pub(crate) const AGENT_DESCRIPTION: usize = 3;
pub(crate) const AGENT_DISCONNECT: usize = 4;
pub(crate) const AGENT_IDENTIFICATION: usize = 5;
pub(crate) const AGENT_REMOTE_CONFIG: usize = 6;
pub(crate) const AGENT_TO_SERVER: usize = 7;
pub(crate) const ANY_VALUE: usize = 8;
pub(crate) const ARRAY_VALUE: usize = 9;
pub(crate) const AVAILABLE_COMPONENTS: usize = 10;
pub(crate) const AVAILABLE_COMPONENTS_COMPONENTS_ENTRY: usize = 11;
pub(crate) const CERTIFICATE_REQUEST: usize = 12;
pub(crate) const COMPONENT_DETAILS: usize = 13;
pub(crate) const COMPONENT_DETAILS_SUB_COMPONENT_MAP_ENTRY: usize = 14;
pub(crate) const COMPONENT_HEALTH: usize = 15;
pub(crate) const COMPONENT_HEALTH_COMPONENT_HEALTH_MAP_ENTRY: usize = 16;
pub(crate) const CONNECTION_SETTINGS_OFFERS: usize = 17;
pub(crate) const CONNECTION_SETTINGS_OFFERS_OTHER_CONNECTIONS_ENTRY: usize = 18;
pub(crate) const CONNECTION_SETTINGS_REQUEST: usize = 19;
pub(crate) const CONNECTION_SETTINGS_STATUS: usize = 20;
pub(crate) const CUSTOM_CAPABILITIES: usize = 21;
pub(crate) const CUSTOM_MESSAGE: usize = 22;
pub(crate) const DOWNLOADABLE_FILE: usize = 23;
pub(crate) const EFFECTIVE_CONFIG: usize = 24;
pub(crate) const HEADER: usize = 25;
pub(crate) const HEADERS: usize = 26;
pub(crate) const KEY_VALUE: usize = 27;
pub(crate) const KEY_VALUE_LIST: usize = 28;
pub(crate) const OP_A_M_P_CONNECTION_SETTINGS: usize = 29;
pub(crate) const OP_A_M_P_CONNECTION_SETTINGS_REQUEST: usize = 30;
pub(crate) const OTHER_CONNECTION_SETTINGS: usize = 31;
pub(crate) const OTHER_CONNECTION_SETTINGS_OTHER_SETTINGS_ENTRY: usize = 32;
pub(crate) const PACKAGE_AVAILABLE: usize = 33;
pub(crate) const PACKAGE_DOWNLOAD_DETAILS: usize = 34;
pub(crate) const PACKAGE_STATUS: usize = 35;
pub(crate) const PACKAGE_STATUSES: usize = 36;
pub(crate) const PACKAGE_STATUSES_PACKAGES_ENTRY: usize = 37;
pub(crate) const PACKAGES_AVAILABLE: usize = 38;
pub(crate) const PACKAGES_AVAILABLE_PACKAGES_ENTRY: usize = 39;
pub(crate) const PROXY_CONNECTION_SETTINGS: usize = 40;
pub(crate) const REMOTE_CONFIG_STATUS: usize = 41;
pub(crate) const RETRY_INFO: usize = 42;
pub(crate) const SERVER_ERROR_RESPONSE: usize = 43;
pub(crate) const SERVER_TO_AGENT: usize = 44;
pub(crate) const SERVER_TO_AGENT_COMMAND: usize = 45;
pub(crate) const T_L_S_CERTIFICATE: usize = 46;
pub(crate) const T_L_S_CONNECTION_SETTINGS: usize = 47;
pub(crate) const TELEMETRY_CONNECTION_SETTINGS: usize = 48;

pub(crate) static SHAPES: &[&[(u32, usize)]] = &[
    // AgentConfigFile
    &[],
    // AgentConfigMap
    &[(1, 2)],
    // AgentConfigMap_ConfigMapEntry
    &[(2, 0)],
    // AgentDescription
    &[(1, 27), (2, 27)],
    // AgentDisconnect
    &[],
    // AgentIdentification
    &[],
    // AgentRemoteConfig
    &[(1, 1)],
    // AgentToServer
    &[(3, 3), (5, 15), (6, 24), (7, 41), (8, 36), (9, 4), (11, 19), (12, 21), (13, 22), (14, 10), (15, 20)],
    // AnyValue
    &[(5, 9), (6, 28)],
    // ArrayValue
    &[(1, 8)],
    // AvailableComponents
    &[(1, 11)],
    // AvailableComponents_ComponentsEntry
    &[(2, 13)],
    // CertificateRequest
    &[],
    // ComponentDetails
    &[(1, 27), (2, 14)],
    // ComponentDetails_SubComponentMapEntry
    &[(2, 13)],
    // ComponentHealth
    &[(6, 16), (7, 27)],
    // ComponentHealth_ComponentHealthMapEntry
    &[(2, 15)],
    // ConnectionSettingsOffers
    &[(2, 29), (3, 48), (4, 48), (5, 48), (6, 18)],
    // ConnectionSettingsOffers_OtherConnectionsEntry
    &[(2, 31)],
    // ConnectionSettingsRequest
    &[(1, 30)],
    // ConnectionSettingsStatus
    &[],
    // CustomCapabilities
    &[],
    // CustomMessage
    &[],
    // DownloadableFile
    &[(4, 26)],
    // EffectiveConfig
    &[(1, 1)],
    // Header
    &[],
    // Headers
    &[(1, 25)],
    // KeyValue
    &[(2, 8)],
    // KeyValueList
    &[(1, 27)],
    // OpAMPConnectionSettings
    &[(2, 26), (3, 46), (5, 47), (6, 40)],
    // OpAMPConnectionSettingsRequest
    &[(1, 12)],
    // OtherConnectionSettings
    &[(2, 26), (3, 46), (4, 32), (5, 47), (6, 40)],
    // OtherConnectionSettings_OtherSettingsEntry
    &[],
    // PackageAvailable
    &[(3, 23)],
    // PackageDownloadDetails
    &[],
    // PackageStatus
    &[(8, 34)],
    // PackageStatuses
    &[(1, 37)],
    // PackageStatuses_PackagesEntry
    &[(2, 35)],
    // PackagesAvailable
    &[(1, 39)],
    // PackagesAvailable_PackagesEntry
    &[(2, 33)],
    // ProxyConnectionSettings
    &[(2, 26)],
    // RemoteConfigStatus
    &[],
    // RetryInfo
    &[],
    // ServerErrorResponse
    &[(3, 42)],
    // ServerToAgent
    &[(2, 43), (3, 6), (4, 17), (5, 38), (8, 5), (9, 45), (10, 21), (11, 22)],
    // ServerToAgentCommand
    &[],
    // TLSCertificate
    &[],
    // TLSConnectionSettings
    &[],
    // TelemetryConnectionSettings
    &[(2, 26), (3, 46), (4, 47), (5, 40)],
];
