//! Commands of the registry's console: one grammar for ssh exec, the interactive
//! prompt and `deployctl`.

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};

/// One parsed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `help [verb]`
    Help {
        /// The verb to explain, or all.
        verb: Option<String>,
    },
    /// `addver`
    AddVersion {
        /// Component, made if it is new.
        component: ComponentName,
        /// Version to make.
        version: VersionName,
        /// Blob to bind.
        digest: Digest,
    },
    /// `addconf`
    AddConfiguration {
        /// Configuration to make or replace.
        name: ConfigurationName,
        /// Its layers, lowest first.
        layers: Vec<(ComponentName, VersionName)>,
    },
    /// `changeconf`
    ChangeConfiguration {
        /// Configuration to change.
        name: ConfigurationName,
        /// Layers to change, in one transaction.
        changes: Vec<(ComponentName, VersionName)>,
        /// Change only if this is its id now.
        if_hash: Option<Digest>,
    },
    /// `bumpconf`
    BumpConfiguration {
        /// Configuration to change.
        name: ConfigurationName,
        /// Components to take to their newest version, in one transaction.
        components: Vec<ComponentName>,
        /// Change only if this is its id now.
        if_hash: Option<Digest>,
    },
    /// `showconf`
    ShowConfiguration {
        /// Configuration to show.
        name: ConfigurationName,
        /// With name, time and id.
        verbose: bool,
        /// As JSON.
        json: bool,
    },
    /// `showcomp`
    ShowComponent {
        /// Component to show.
        name: ComponentName,
        /// As JSON.
        json: bool,
    },
    /// `components`
    Components {
        /// As JSON.
        json: bool,
    },
    /// `configurations`
    Configurations {
        /// As JSON.
        json: bool,
    },
    /// `delver`
    DeleteVersion {
        /// Component.
        component: ComponentName,
        /// Version to delete.
        version: VersionName,
        /// Even if an earlier state of a configuration needs it.
        force: bool,
    },
    /// `delcomp`
    DeleteComponent {
        /// Component to delete with all its versions.
        name: ComponentName,
        /// Even if an earlier state of a configuration needs it.
        force: bool,
    },
    /// `delconf`
    DeleteConfiguration {
        /// Configuration to delete.
        name: ConfigurationName,
        /// Confirmed.
        force: bool,
    },
    /// `history`
    History {
        /// Configuration.
        name: ConfigurationName,
        /// Most states to show, newest first; all without.
        limit: Option<u64>,
        /// As JSON.
        json: bool,
    },
    /// `rollback`
    Rollback {
        /// Configuration.
        name: ConfigurationName,
        /// State to make current again; without, the one before the current.
        to: Option<u64>,
    },
}
