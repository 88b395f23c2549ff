//! Runs the verb `web`, which prints an address. A browser that opens the address is logged in to
//! the page over this ssh connection.

use std::io;
use std::sync::{Arc, OnceLock};

use deploy_wire::command::{self, Command};
use russh::ChannelOpenFailure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::keyring::{Identity, Role};
use crate::caller::Caller;
use crate::console::Answer;
use crate::http::{Access, Sessions};

/// The local port of `ssh -L`, if the user gives none.
const PORT: u16 = 8080;

/// The flags of the verb `web`.
#[derive(Debug)]
pub struct Wanted {
    port: u16,
    /// Whether to print one JSON document and end. Without JSON, the command keeps its channel open
    /// until the client leaves.
    pub json: bool,
}

/// The flags of the verb `web` in `line`; `None` if `line` is another command.
pub fn wanted(line: &str) -> Option<Wanted> {
    match command::parse(&command::split(line).ok()?).ok()? {
        Command::Web { port, json } => Some(Wanted { port: port.unwrap_or(PORT), json }),
        _ => None,
    }
}

/// The browser logins of the ssh connection. The first call creates this value.
pub fn sessions(of: &OnceLock<Arc<Sessions>>) -> io::Result<Arc<Sessions>> {
    if let Some(sessions) = of.get() {
        return Ok(Arc::clone(sessions));
    }
    let new = Arc::new(Sessions::new()?);
    Ok(Arc::clone(of.get_or_init(|| new)))
}

/// Checks whether the client may open a forwarded connection. Returns the operator's access to the
/// page and a permit of `channels`, or the reason for a refusal.
pub fn open(
    who: Option<&(Identity, Caller)>,
    channels: &Arc<Semaphore>,
    of: &OnceLock<Arc<Sessions>>,
) -> Result<(Access, OwnedSemaphorePermit), ChannelOpenFailure> {
    let may_open = |identity: &Identity| identity.role == Role::Operator && identity.forwarding;
    let Some((_, caller)) = who.filter(|(identity, _)| may_open(identity)) else {
        return Err(ChannelOpenFailure::AdministrativelyProhibited);
    };
    let permit = Arc::clone(channels)
        .try_acquire_owned()
        .map_err(|_| ChannelOpenFailure::ResourceShortage)?;
    let sessions = sessions(of).map_err(|_| ChannelOpenFailure::ResourceShortage)?;
    Ok((Access::Ssh { caller: caller.clone(), sessions }, permit))
}

/// The answer of the verb `web`, as text or JSON: the address for the browser.
pub fn answer(of: &OnceLock<Arc<Sessions>>, wanted: &Wanted) -> Answer {
    let login = match sessions(of).and_then(|sessions| sessions.issue(wanted.port)) {
        Ok(login) => login,
        Err(err) => return Answer::failed(&format!("cannot make a login for the page: {err}\n")),
    };
    let text = if wanted.json {
        serde_json::to_string_pretty(&login).map(|text| text + "\n")
    } else {
        Ok(format!("{}\n", login.address))
    };
    match text {
        Ok(text) => Answer { stdout: text.into_bytes(), ..Answer::default() },
        Err(err) => Answer::failed(&format!("cannot write JSON: {err}\n")),
    }
}
