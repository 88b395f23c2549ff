//! Defines the values that the task of a channel works with.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use deploy_store::Meter;
use deploy_wire::fleet::HostName;

use super::activity::Activity;
use super::auth::keyring::Role;
use super::web_login;
use crate::caller::Caller;
use crate::console::{self, Answer};
use crate::http::Sessions;
use crate::registry::Registry;
use crate::stdin::Input;

/// The values that the task of a channel works with.
#[derive(Debug)]
pub struct Context {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The activity of the connection.
    pub activity: Arc<Activity>,
    /// The client's rights.
    pub role: Role,
    /// The user who sends the commands, and the client program.
    pub caller: Caller,
    /// The client's address.
    pub address: IpAddr,
    /// The host that an agent has declared over this connection.
    pub declared: Arc<OnceLock<HostName>>,
    /// The logins to the page over this connection.
    pub web_sessions: Arc<OnceLock<Arc<Sessions>>>,
}

/// The terminal of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// The width, in columns.
    pub columns: u32,
    /// Whether the terminal shows colours.
    pub colours: bool,
}

impl Context {
    /// Runs one command line with `input` as its standard input. `meter` counts the command's
    /// progress. The command runs to its end even if the client leaves.
    pub fn answer(
        &self,
        line: String,
        input: Input,
        meter: &Arc<Meter>,
    ) -> impl Future<Output = Answer> + use<> {
        let busy = self.activity.busy();
        let (registry, caller) = (Arc::clone(&self.registry), self.caller.clone());
        let meter = Arc::clone(meter);
        let web_sessions = Arc::clone(&self.web_sessions);
        async move {
            if let Some(web) = web_login::wanted(&line) {
                let answer = web_login::answer(&web_sessions, &web);
                console::log_answered(&caller, &line, &answer);
                return answer;
            }
            if is_old_scp(&line) {
                let text = "scp's old protocol is not supported; use scp without -O, or sftp\n";
                return Answer::failed(text);
            }
            let running = tokio::spawn(async move {
                let answer = console::run(&registry, &caller, &line, input, &meter).await;
                drop(busy);
                answer
            });
            running.await.unwrap_or_else(|err| {
                tracing::error!("internal error while running a command: {err}");
                Answer::failed("internal error; see the registry's log\n")
            })
        }
    }
}

fn is_old_scp(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("scp") && words.any(|word| word == "-t" || word == "-f")
}
