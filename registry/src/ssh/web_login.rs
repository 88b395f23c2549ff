//! Runs the verb `web`, which makes an address that logs a browser in to the page over this ssh
//! connection.

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
    /// Whether to print one JSON document. Such a command ends immediately.
    pub json: bool,
}

/// The flags of the verb in `line`; `None` for any other command.
pub fn wanted(line: &str) -> Option<Wanted> {
    match command::parse(&command::split(line).ok()?).ok()? {
        Command::Web { port, json } => Some(Wanted { port: port.unwrap_or(PORT), json }),
        _ => None,
    }
}

/// The logins of the connection. The first call makes the logins.
pub fn sessions(of: &OnceLock<Arc<Sessions>>) -> io::Result<Arc<Sessions>> {
    if let Some(sessions) = of.get() {
        return Ok(Arc::clone(sessions));
    }
    let new = Arc::new(Sessions::new()?);
    Ok(Arc::clone(of.get_or_init(|| new)))
}

/// Checks whether the client may open a forwarded connection. Returns the access of its operator
/// and a permit of `channels`, or why the registry refuses the channel.
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

/// The answer with the address.
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
