//! Logs that a configuration or the host is held, and the reason.

use std::path::Path;

use deploy_store::Digest;

use crate::cycle::Outcome;
use crate::error::Result;
use crate::records::unproven::Unproven;

/// Why the deployed configuration is rejected; `None` if the configuration is not rejected.
pub(super) fn rejection(dir: &Path) -> Option<String> {
    let failure = Unproven::read(dir)?.failure?;
    Some(format!(
        "{}; nothing is deployed until the registry's configuration changes, or until deploy-agent \
         sync or deploy-agent rollback -release",
        failure.to_text()
    ))
}

/// Logs why the registry's configuration is held after a cycle that ended with the result `ended`.
pub(super) fn log_held(ended: &Result<Outcome>, dir: &Path, offered: Option<Digest>) {
    let id = offered.map(|id| id.to_string());
    if matches!(ended, Ok(Outcome::Rejected)) {
        let reason = rejection(dir).unwrap_or_default();
        tracing::info!(
            event = "held",
            id,
            "the registry's configuration is deployed, but not healthy: {reason}"
        );
        return;
    }
    tracing::info!(
        event = "held",
        id,
        "the registry's configuration is held after a rollback, until that configuration changes \
         or until deploy-agent rollback -release"
    );
}

/// Logs that an operator holds the host, for the reason `why`, or that the hold has ended.
pub(super) fn log_host_held(why: Option<&str>) {
    match why {
        Some(why) => tracing::info!(
            event = "host_held",
            "an operator holds this host: {why}; the agent deploys nothing new until the hold ends"
        ),
        None => tracing::info!(event = "host_released", "no operator holds this host any more"),
    }
}
