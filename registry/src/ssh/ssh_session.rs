//! Serves the ssh session of one client: logs the client in, and grants or refuses its requests. A
//! granted request runs in a separate task (`channel.rs`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use deploy_cli::progress::Form;
use deploy_store::escape;
use deploy_wire::command::ServiceCommand;
use deploy_wire::fleet::HostName;
use deploy_wire::{HOST, PROGRESS};
use russh::keys::{Algorithm, Certificate, HashAlg};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session as Ssh, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use tokio::sync::{Semaphore, oneshot};

use crate::caller::{Caller, Client};
use crate::http::{self, Sessions};
use crate::ssh::activity::Activity;
use crate::ssh::auth::keyring::{Identity, Proof, Role};
use crate::ssh::channel::{self, ChannelRequest};
use crate::ssh::command_progress;
use crate::ssh::context::{Context, Terminal};
use crate::ssh::login_proof::Login;
use crate::ssh::server::Server;
use crate::ssh::web_login;
use crate::ssh::web_stream::WebStream;

/// Maximum number of channels that one connection may have open at a time.
pub const MAX_CHANNELS: usize = 10;
/// Maximum number of connections to the page that one ssh connection may have open at a time.
pub const MAX_WEB_CHANNELS: usize = 24;
/// The host name of the page for clients that forward a port: `ssh -L 8080:web:80`.
const WEB: &str = "web";
/// Maximum length of the command line of an exec request, in bytes.
pub const MAX_COMMAND: usize = 64 << 10;
/// Maximum length of a user name, in bytes.
pub const MAX_USER: usize = 256;

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// The client program, according to its identification.
    pub client: Client,
    server: Arc<Server>,
    address: SocketAddr,
    activity: Arc<Activity>,
    /// The host that an agent has declared over this connection.
    declared: Arc<OnceLock<HostName>>,
    login: Option<oneshot::Sender<Login>>,
    refused: Arc<AtomicBool>,
    who: Option<(Identity, Caller)>,
    channels: Arc<Semaphore>,
    web_channels: Arc<Semaphore>,
    /// The logins to the page over this connection.
    web_sessions: Arc<OnceLock<Arc<Sessions>>>,
    /// The channels for which no request was granted yet.
    open: HashMap<ChannelId, Opened>,
}

/// A channel for which no request was granted yet.
#[derive(Debug)]
struct Opened {
    start: oneshot::Sender<ChannelRequest>,
    terminal: Option<Terminal>,
    /// Whether the client set `NO_COLOR` to a value that is not empty.
    no_colour: bool,
    /// The client's `DEPLOY_PROGRESS`: the width of progress in columns; 0 means no progress.
    progress: Option<usize>,
}

impl Session {
    /// A session of a client at `address`. The session sends a successful login to `login`, and
    /// sets `refused` if it refuses a login.
    pub fn new(
        server: Arc<Server>,
        address: SocketAddr,
        activity: Arc<Activity>,
        login: oneshot::Sender<Login>,
        refused: Arc<AtomicBool>,
    ) -> Self {
        let channels = Arc::new(Semaphore::new(MAX_CHANNELS));
        Self {
            client: Client::Ssh,
            server,
            address,
            activity,
            declared: Arc::default(),
            login: Some(login),
            refused,
            who: None,
            channels,
            web_channels: Arc::new(Semaphore::new(MAX_WEB_CHANNELS)),
            web_sessions: Arc::default(),
            open: HashMap::new(),
        }
    }

    fn identify(&self, user: &str, proof: &Proof, algorithm: &Algorithm) -> Option<Identity> {
        let identified = if user.len() > MAX_USER {
            Err("user name is too long".to_owned())
        } else if *algorithm == (Algorithm::Rsa { hash: None }) {
            Err("signatures with SHA-1 are not accepted".to_owned())
        } else {
            self.server.keyring.identify(user, proof, self.address.ip())
        };
        let key = match proof {
            Proof::Key(key) => key.key_data(),
            Proof::Certificate(certificate) => certificate.public_key(),
        };
        identified
            .inspect_err(|reason| {
                self.refused.store(true, Ordering::Relaxed);
                let user: String = user.chars().take(MAX_USER).collect();
                tracing::info!(
                    user = escape(&user),
                    key = %key.fingerprint(HashAlg::Sha256),
                    address = %self.address,
                    reason,
                    "login refused"
                );
            })
            .ok()
    }

    /// Logs in a client whose signature has been verified.
    fn log_in(&mut self, user: &str, proof: Proof, algorithm: &Algorithm) -> Auth {
        let Some(identity) = self.identify(user, &proof, algorithm) else {
            return Auth::reject();
        };
        let caller = Caller {
            user: user.to_owned(),
            key: identity.label.clone(),
            address: self.address.to_string(),
            client: self.client,
        };
        tracing::info!(
            user = escape(user),
            key = identity.label,
            address = %self.address,
            role = ?identity.role,
            "login"
        );
        let is_agent = identity.role == Role::Service;
        self.who = Some((identity, caller));
        if let Some(login) = self.login.take() {
            let _ = login.send(Login { user: user.to_owned(), proof, is_agent });
        }
        Auth::Accept
    }

    fn is_operator(&self) -> bool {
        self.who.as_ref().is_some_and(|(identity, _)| identity.role == Role::Operator)
    }

    /// Grants or refuses a request. Each channel can have only one granted request.
    fn grant(
        &mut self,
        id: ChannelId,
        request: impl FnOnce(Option<Terminal>, Form) -> Option<ChannelRequest>,
        ssh: &mut Ssh,
    ) -> Result<(), russh::Error> {
        let Some(opened) = self.open.get(&id) else { return ssh.channel_failure(id) };
        let terminal = opened.terminal.map(|terminal| Terminal {
            colours: terminal.colours && !opened.no_colour,
            ..terminal
        });
        let form = command_progress::form(terminal, opened.progress);
        let Some(request) = request(terminal, form) else { return ssh.channel_failure(id) };
        if let Some(opened) = self.open.remove(&id) {
            ssh.channel_success(id)?;
            // Sending fails only if the channel is already closed.
            let _ = opened.start.send(request);
        }
        Ok(())
    }
}

impl Handler for Session {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        // The offer has only the key of a certificate. If the user may have a certificate, the
        // decision waits for the certificate, which arrives with the signature.
        let may_be_certified = *offer.algorithm != (Algorithm::Rsa { hash: None })
            && self.server.keyring.has_authorities(user);
        if may_be_certified {
            return Ok(Auth::Accept);
        }
        let proof = Proof::Key(offer.public_key.clone());
        match self.identify(user, &proof, offer.algorithm) {
            Some(_) => Ok(Auth::Accept),
            None => Ok(Auth::reject()),
        }
    }

    /// Only this method and the next method grant rights. The library calls these two methods only
    /// after it has verified the signature.
    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.log_in(user, Proof::Key(key.public_key.clone()), key.algorithm))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        // A client that signs with SHA-1 has already been refused at its offer. Here, the algorithm
        // is that of the authority's signature.
        let proof = Proof::Certificate(Box::new(certificate.clone()));
        Ok(self.log_in(user, proof, &certificate.signature().algorithm()))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        let permit = Arc::clone(&self.channels).try_acquire_owned();
        let (Some((identity, caller)), Ok(permit)) = (&self.who, permit) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (start, started) = oneshot::channel();
        let (id, handle) = (channel.id(), ssh.handle());
        let opened = Opened { start, terminal: None, no_colour: false, progress: None };
        self.open.insert(id, opened);
        reply.accept().await;
        let context = Context {
            registry: Arc::clone(&self.server.registry),
            activity: Arc::clone(&self.activity),
            role: identity.role,
            caller: caller.clone(),
            address: self.address.ip(),
            declared: Arc::clone(&self.declared),
            web_sessions: Arc::clone(&self.web_sessions),
        };
        tokio::spawn(async move {
            let served = tokio::spawn(channel::run(channel, started, context)).await;
            if let Err(err) = served {
                tracing::error!("internal error in a channel: {err}");
                // Without this call, the client would wait for the end of the channel forever.
                let _ = handle.close(id).await;
            }
            drop(permit);
        });
        Ok(())
    }

    /// Serves the page to operators who forward a local port to the name `web`. Connections to any
    /// other name are refused.
    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Ssh,
    ) -> Result<(), Self::Error> {
        let who = self.who.as_ref().filter(|_| host == WEB);
        let sessions = &self.web_sessions;
        let opened = web_login::open(who, &self.web_channels, sessions);
        let (access, permit) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                reply.reject(why).await;
                return Ok(());
            }
        };
        reply.accept().await;
        let (web, activity) = (Arc::clone(&self.server.web), Arc::clone(&self.activity));
        tokio::spawn(async move {
            http::serve_stream(web, WebStream::new(channel.into_stream(), activity), &access).await;
            drop(permit);
        });
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Ssh) -> Result<(), Self::Error> {
        self.open.remove(&id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        let allowed = self.is_operator() && self.who.as_ref().is_some_and(|(who, _)| who.pty);
        match self.open.get_mut(&id) {
            Some(opened) if allowed => {
                opened.terminal = Some(Terminal { columns, colours: term != "dumb" });
                ssh.channel_success(id)
            }
            _ => ssh.channel_failure(id),
        }
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        match self.open.get_mut(&id) {
            Some(opened) if name == "NO_COLOR" => {
                opened.no_colour = !value.is_empty();
                ssh.channel_success(id)
            }
            Some(opened)
                if name == PROGRESS && value.len() <= 5 && value.parse::<u32>().is_ok() =>
            {
                opened.progress = value.parse().ok();
                ssh.channel_success(id)
            }
            Some(_) if name == HOST => match value.parse() {
                Ok(host) => {
                    // Only the first declared name counts.
                    let _ = self.declared.set(host);
                    ssh.channel_success(id)
                }
                Err(_) => ssh.channel_failure(id),
            },
            _ => ssh.channel_failure(id),
        }
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        ssh.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, ssh: &mut Ssh) -> Result<(), Self::Error> {
        let allowed = self.is_operator();
        self.grant(
            id,
            |terminal, form| allowed.then_some(ChannelRequest::Shell(terminal, form)),
            ssh,
        )
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        let line = String::from_utf8(command.to_vec()).ok();
        let line = line.filter(|line| line.len() <= MAX_COMMAND);
        let is_operator = self.is_operator();
        let request = |terminal, form| {
            let line = line?;
            if is_operator {
                return Some(ChannelRequest::Exec(line, terminal, form));
            }
            // An agent may run only the commands of agents.
            ServiceCommand::is_one(&line).then_some(ChannelRequest::Service(line))
        };
        self.grant(id, request, ssh)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        ssh: &mut Ssh,
    ) -> Result<(), Self::Error> {
        self.grant(id, |_, _| (name == "sftp").then_some(ChannelRequest::Sftp), ssh)
    }
}
