//! Names an agent: its host and its configuration.

use deploy_store::ConfigurationName;
use deploy_wire::fleet::HostName;

/// An agent, which deploys one configuration on one host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentId {
    /// The host.
    pub host: HostName,
    /// The configuration.
    pub name: ConfigurationName,
}
