//! One connection: who logged in, and what each of its channels is for.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deploy_wire::exit;
use jiff::Timestamp;
use russh::keys::{Algorithm, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, Pty};

use super::upload::Uploads;
use super::view::View;
use super::{Shared, StartupGuard, sftp, shell};
use crate::console::{self, Caller};

/// The user name that stands for a service; every other is an operator.
const SERVICE: &str = "deploy-agent";
/// Channels of one connection.
const MAX_CHANNELS: usize = 10;

/// What a login may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Operator,
    Service,
}

/// One client's connection.
pub struct Connection {
    shared: Arc<Shared>,
    address: SocketAddr,
    logged_in: Arc<AtomicBool>,
    startup: Option<StartupGuard>,
    login: Option<Login>,
    /// Channels that have not been told what they are for, with their terminal.
    waiting: HashMap<ChannelId, (Channel<Msg>, Option<shell::Size>)>,
    /// Channels that speak sftp.
    sftp: HashSet<ChannelId>,
    open: usize,
}

/// A login that succeeded.
#[derive(Debug, Clone)]
struct Login {
    role: Role,
    pty: bool,
    caller: Caller,
}

impl Connection {
    /// A connection from `address` that has not logged in.
    pub fn new(
        shared: Arc<Shared>,
        address: SocketAddr,
        logged_in: Arc<AtomicBool>,
        startup: StartupGuard,
    ) -> Self {
        let startup = Some(startup);
        let (waiting, sftp) = (HashMap::new(), HashSet::new());
        Self { shared, address, logged_in, startup, login: None, waiting, sftp, open: 0 }
    }

    fn find(&self, user: &str, key: &PublicKey, algorithm: &Algorithm) -> Option<Login> {
        if matches!(algorithm, Algorithm::Rsa { hash: None }) {
            return None;
        }
        let role = if user == SERVICE { Role::Service } else { Role::Operator };
        let keys = match role {
            Role::Service => &self.shared.services,
            Role::Operator => &self.shared.operators,
        };
        let (key, pty) = keys.find(key, self.address.ip(), Timestamp::now())?;
        let (user, address) = (user.to_owned(), self.address.to_string());
        Some(Login { role, pty, caller: Caller { user, key, address } })
    }

    /// The channel, if it may be put to a use that only `role` has.
    fn take(&mut self, id: ChannelId, role: Role) -> Option<(Channel<Msg>, Option<shell::Size>)> {
        self.login.as_ref().filter(|login| login.role == role)?;
        self.waiting.remove(&id)
    }

    fn caller(&self) -> Option<Caller> {
        self.login.as_ref().map(|login| login.caller.clone())
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(match self.find(user, offer.public_key, offer.algorithm) {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        self.login = self.find(user, key.public_key, key.algorithm);
        Ok(match self.login {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.logged_in.store(true, Ordering::Relaxed);
        self.startup = None;
        if let Some(Caller { user, key, address }) = self.caller() {
            tracing::info!(user, key, address, "login");
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.login.is_some() && self.open < MAX_CHANNELS {
            self.open += 1;
            self.waiting.insert(channel.id(), (channel, None));
            reply.accept().await;
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.waiting.remove(&channel);
        self.sftp.remove(&channel);
        self.open = self.open.saturating_sub(1);
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        // scp takes its exit code from that of the subsystem.
        if self.sftp.remove(&channel) {
            session.exit_status_request(channel, exit::OK.into())?;
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        columns: u32,
        _rows: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let allowed =
            self.login.as_ref().is_some_and(|login| login.role == Role::Operator && login.pty);
        match self.waiting.get_mut(&channel).filter(|_| allowed) {
            Some((_, size)) => {
                *size = Some(shell::Size { columns });
                session.channel_success(channel)
            }
            None => session.channel_failure(channel),
        }
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let taken = self.take(channel, Role::Operator).zip(self.caller());
        let Some(((channel, _), caller)) = taken else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel.id())?;
        let line = String::from_utf8_lossy(data).into_owned();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let _busy = shared.busy();
            let answer = console::run(&shared.registry, &caller, &line).await;
            // A client that has gone does not want the answer.
            let _ = finish(&channel, &answer).await;
        });
        Ok(())
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let taken = self.take(channel, Role::Operator).zip(self.caller());
        let Some(((channel, size), caller)) = taken else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel.id())?;
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            // As above.
            let _ = shell::serve(&shared, &caller, channel, size).await;
        });
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let login = self.login.clone().filter(|_| name == "sftp");
        let taken = login.and_then(|login| self.take(channel, login.role).zip(Some(login)));
        let Some(((channel, _), login)) = taken else {
            return session.channel_failure(channel);
        };
        session.channel_success(channel.id())?;
        self.sftp.insert(channel.id());
        let (shared, stream) = (Arc::clone(&self.shared), channel.into_stream());
        match login.role {
            Role::Operator => {
                let uploads = Uploads::new(shared, login.caller.key);
                russh_sftp::server::run_with_config(stream, uploads, sftp::config()).await;
            }
            Role::Service => {
                russh_sftp::server::run_with_config(stream, View::new(shared), sftp::config())
                    .await;
            }
        }
        Ok(())
    }
}

/// Sends an answer and closes the channel: data, exit status, end, in this order.
pub async fn finish(channel: &Channel<Msg>, answer: &console::Answer) -> Result<(), russh::Error> {
    if !answer.stdout.is_empty() {
        channel.data_bytes(answer.stdout.clone()).await?;
    }
    if !answer.stderr.is_empty() {
        channel.extended_data_bytes(1, answer.stderr.clone()).await?;
    }
    end(channel, answer.code).await
}

/// Ends a channel with an exit status.
pub async fn end(channel: &Channel<Msg>, code: u8) -> Result<(), russh::Error> {
    channel.exit_status(code.into()).await?;
    channel.eof().await?;
    channel.close().await
}
