//! One cycle, top to bottom: read the state, fetch the configuration, stop here if
//! nothing has changed, download what is missing, extract, build the root, run the
//! script, replace the state, sweep. Nothing else decides the order.

pub mod deploy_previous;
mod preflight;
mod prepare;
pub mod switch;

use std::fmt::Write as _;

use deploy_store::{Configuration, Digest, Layer};

use crate::agent::Agent;
use crate::cycle::prepare::{Changed, prepare};
use crate::cycle::switch::Before;
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::records::rollback_hold::Hold;
use crate::records::unsettled::{self, Unsettled};
use crate::records::{running_script, state_file};
use crate::space::{background_sweep, make_room, spare_builder};

/// How a cycle ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What the registry has is deployed.
    UpToDate,
    /// There is something new, whose script failed and is not to be run again yet.
    Held,
    /// What the registry has was rolled back from.
    RolledBack,
    /// Something new was deployed.
    Switched,
}

/// What is new in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that a script could tell.
    None,
    /// The same tree under other names or versions.
    Labels,
    /// Another tree, or the first.
    Tree,
}

impl Change {
    /// What `new` changes in what is deployed.
    pub fn between(old: Option<&Configuration>, new: &Configuration) -> Self {
        fn labels(layer: &Layer) -> (&str, &str) {
            (layer.component.as_str(), layer.version.as_str())
        }
        match old {
            Some(old) if old.id() == new.id() => {
                let same = old.layers().iter().map(labels).eq(new.layers().iter().map(labels));
                if same && old.name() == new.name() { Self::None } else { Self::Labels }
            }
            _ => Self::Tree,
        }
    }
}

/// Runs one cycle. `waiting` is a configuration whose script is not to be run again yet;
/// `offered` is told the id of what the registry has.
pub async fn run(
    agent: &Agent,
    session: &mut Session,
    waiting: Option<&Configuration>,
    offered: &mut Option<Digest>,
) -> Result<Outcome> {
    let old = state_file::read(&agent.state)?;
    let old_id = old.as_ref().map(Configuration::id);
    let hold = Hold::read(&agent.dir)?;
    if let Some(hold) = hold.as_ref().filter(|hold| hold.is_unfinished(old_id)) {
        // The registry has no say in it, and may be out of reach.
        deploy_previous::resume(agent, session, hold).await?;
        return Ok(Outcome::RolledBack);
    }
    let new = session.configuration(&agent.name).await?;
    *offered = Some(new.id());
    let waits = |target: &Configuration| {
        waiting.is_some_and(|held| Change::between(Some(held), target) == Change::None)
    };
    if hold.as_ref().is_some_and(|hold| hold.holds(old_id, new.id())) {
        if let Some(old) = &old {
            if is_undone(agent, old) {
                if waits(old) {
                    return Ok(Outcome::Held);
                }
                restore(agent, session, old).await?;
            }
            switch::mend_link(agent, old)?;
            spare_builder::prepare(agent, old);
        }
        return Ok(Outcome::RolledBack);
    }
    if hold.is_some() {
        let id = new.id();
        tracing::info!(event = "released", %id, "the registry has moved on to {id}: nothing is held any more");
        Hold::lift(&agent.dir)?;
    }
    let change = Change::between(old.as_ref(), &new);
    let undone = change == Change::None && is_undone(agent, &new);
    if change == Change::None && !undone {
        switch::mend_link(agent, &new)?;
        spare_builder::prepare(agent, &new);
        return Ok(Outcome::UpToDate);
    }
    if waits(&new) {
        return Ok(Outcome::Held);
    }
    if undone {
        restore(agent, session, &new).await?;
        spare_builder::prepare(agent, &new);
        return Ok(Outcome::Switched);
    }
    announce(change, &new);
    preflight::check(agent, &new)?;
    let root = prepare(agent, session, &new, Changed::Refused).await?;
    switch::run(agent, old.as_ref(), &new, &root, Before::Remembered).await?;
    background_sweep::roots(agent, old.as_ref(), &new).await;
    make_room::tidy(agent).await;
    spare_builder::prepare(agent, &new);
    Ok(Outcome::Switched)
}

/// Whether what is deployed is to be deployed again: its root was removed by hand, or the agent's
/// directory was, or a script was started since that did not succeed.
fn is_undone(agent: &Agent, deployed: &Configuration) -> bool {
    unsettled::read(&agent.dir).is_some() || is_gone(agent, deployed)
}

fn is_gone(agent: &Agent, deployed: &Configuration) -> bool {
    matches!(
        agent.store.root_path(deployed.id()).symlink_metadata(),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound
    )
}

/// Builds the root of what is deployed again, where it is gone, and has the script know.
async fn restore(agent: &Agent, session: &mut Session, deployed: &Configuration) -> Result<()> {
    let id = deployed.id();
    running_script::ended(&agent.dir).await;
    let left = unsettled::read(&agent.dir);
    if is_gone(agent, deployed) {
        tracing::warn!(
            event = "root_gone",
            %id,
            "root {id}, which is deployed, is gone: it is built again, and the script runs"
        );
    } else if let Some(Unsettled { id: failed, failed: Some(at), .. }) = &left {
        tracing::warn!(
            event = "script_again",
            %id,
            failed,
            "the script failed {at:.0} for {failed}: it runs again for {id}, which is deployed"
        );
    } else {
        tracing::warn!(
            event = "script_again",
            %id,
            "a script was started, and its end was not seen: it runs again for {id}, which is deployed"
        );
    }
    if left.is_none() && agent.script.is_some() {
        // The root will be there again before the script has run.
        unsettled::begin(&agent.dir, None, id, None, false, false)?;
    }
    preflight::check(agent, deployed)?;
    let root = prepare(agent, session, deployed, Changed::Refused).await?;
    switch::run(agent, Some(deployed), deployed, &root, Before::Remembered).await
}

fn announce(change: Change, new: &Configuration) {
    let mut layers = String::new();
    if tracing::enabled!(tracing::Level::DEBUG) {
        for (n, layer) in new.layers().iter().enumerate() {
            let (component, version) = (layer.component.as_str(), layer.version.as_str());
            let n = n + 1;
            // Writing to a string cannot fail.
            let _ = write!(layers, "\n\tcomponent {n}: {component:?}, version: {version:?}");
        }
    }
    tracing::info!(
        event = "update_available",
        id = %new.id(),
        layers = new.layers().len(),
        labels_only = change == Change::Labels,
        "configuration update available: {}{layers}", new.id()
    );
    if change == Change::Labels {
        tracing::info!(
            event = "same_tree",
            id = %new.id(),
            "the tree is the one deployed, under other names or versions: the state file is updated and the script runs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(name: &str, layers: &[(&str, &str)]) -> Configuration {
        let now = "2026-11-23T03:49:00Z".parse().unwrap();
        let layer = |&(version, bytes): &(&str, &str)| Layer {
            component: format!("c-{bytes}").parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(bytes.as_bytes()),
            created: now,
        };
        let layers = layers.iter().map(layer).collect();
        Configuration::new(name.parse().unwrap(), layers, now).unwrap()
    }

    #[test]
    fn what_counts_as_a_change() {
        let old = configuration("p", &[("v1", "a"), ("v1", "b")]);
        let check = |new: &Configuration| Change::between(Some(&old), new);
        assert_eq!(Change::between(None, &old), Change::Tree);
        assert_eq!(check(&old), Change::None);
        assert_eq!(check(&configuration("p", &[("v1", "a"), ("v2", "b")])), Change::Labels);
        assert_eq!(check(&configuration("q", &[("v1", "a"), ("v1", "b")])), Change::Labels);
        assert_eq!(check(&configuration("p", &[("v1", "b"), ("v1", "a")])), Change::Tree);
        assert_eq!(check(&configuration("p", &[("v1", "a")])), Change::Tree);
    }
}
