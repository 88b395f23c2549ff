//! Finds out what to deploy. If the last offer says that an operator holds the host, the agent does
//! not ask the registry. If a live watch has received an offer, the agent normally uses that offer.
//! Otherwise the agent asks the registry over sftp.

use deploy_store::{Configuration, Digest};

use crate::agent::Agent;
use crate::error::Result;
use crate::fetch::registry_session::Session;
use crate::fleet::offers::Received;

/// What the agent must deploy, as [`ask`] found out.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The registry's configuration; `None` if an operator holds the host.
    pub configuration: Option<Configuration>,
    /// The id of the registry's configuration, if that id is known.
    pub id: Option<Digest>,
    /// The revision of the last offer, if that offer names the configuration `id`; otherwise 0.
    pub revision: u64,
    /// Why an operator holds the host; `None` if no operator does.
    pub held: Option<String>,
    /// Whether this answer comes from an offer over the watch, and not from a request over sftp.
    pub is_pushed: bool,
    /// The number of the last offer that [`ask`] took into account.
    pub count: u64,
}

/// Finds out what to deploy.
pub(super) async fn ask(agent: &Agent, session: &mut Session) -> Result<Wanted> {
    let Received { offer: last, count, .. } = agent.offers.received();
    if let Some(offer) = last.as_ref().filter(|offer| offer.held.is_some()) {
        let (id, revision, held) = (offer.id, offer.revision, offer.held.clone());
        return Ok(Wanted { configuration: None, id, revision, held, is_pushed: true, count });
    }
    let offer = agent.offers.usable();
    if offer.as_ref().is_some_and(|offer| offer.id.is_none()) {
        return Err(session.unknown());
    }
    let pushed = offer.and_then(|offer| offer.configuration());
    let is_pushed = pushed.is_some();
    let configuration = match pushed {
        Some(configuration) => session.checked(configuration)?,
        None => session.configuration().await?,
    };
    let id = Some(configuration.id());
    let revision = last.filter(|offer| offer.id == id).map_or(0, |offer| offer.revision);
    let configuration = Some(configuration);
    Ok(Wanted { configuration, id, revision, held: None, is_pushed, count })
}
