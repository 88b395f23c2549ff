//! Serves one connection from its acceptance to its end. The server ends a connection if the login
//! fails or takes too long, or if too many agents are connected. Later, the server ends the
//! connection if its deadline has passed, if the key may no longer log in, or if the server stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deploy_store::escape;
use russh::Disconnect;
use russh::server::{Handle, RunningSession, run_stream};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::admission::AdmissionGuard;
use super::algorithms::ID;
use super::greeting::greet;
use super::shared_socket::Socket;
use crate::caller::Client;
use crate::ssh::activity::Activity;
use crate::ssh::login_proof::Login;
use crate::ssh::server::Server;
use crate::ssh::ssh_session::Session;

/// Maximum time from the acceptance of a connection to the end of the login.
pub const LOGIN_TIME: Duration = Duration::from_secs(20);
/// After the deadline of a connection, the server closes the connection as soon as no data has
/// moved for this long. The server does not close the connection while work is active that does not
/// wait for the client.
const QUIET: Duration = Duration::from_secs(60);
/// How often the server checks whether a connection may continue. The server also checks when the
/// deadline of the connection passes, and when a key file changes. Thousands of agents are
/// connected, so frequent checks would cost a noticeable share of a processor.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How often the server checks a connection whose deadline has passed.
const CHECK_LATE: Duration = Duration::from_secs(5);
/// How often the server checks a connection while the server stops.
const CHECK_OFTEN: Duration = Duration::from_millis(50);
/// How long a client may take to disconnect after the server has asked it to disconnect.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves a connection until the connection ends.
pub async fn run(
    server: Arc<Server>,
    stream: TcpStream,
    address: SocketAddr,
    guard: AdmissionGuard,
    stopped: watch::Receiver<bool>,
) {
    // At the end, this function shuts the socket down, because the ssh library's task cannot be
    // ended in any other way.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream);
    if let Err(reason) = serve(server, socket.clone(), address, guard, stopped).await {
        tracing::debug!(%address, "connection ended: {reason}");
    }
    socket.sever();
}

async fn serve(
    server: Arc<Server>,
    socket: Socket,
    address: SocketAddr,
    mut guard: AdmissionGuard,
    stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let activity = Activity::begin(server.stall);
    let (login, logged_in) = oneshot::channel();
    let refused = Arc::new(AtomicBool::new(false));
    let (shared, flag) = (Arc::clone(&activity), Arc::clone(&refused));
    let mut handler = Session::new(Arc::clone(&server), address, shared, login, flag);
    let opening = async {
        let (stream, ciphers, id) = greet(socket, ID).await.map_err(|err| err.to_string())?;
        handler.client = Client::of(&id);
        let session = run_stream(server.offers.to(&ciphers), stream, handler);
        let mut session = session.await.map_err(|err| err.to_string())?;
        tokio::select! {
            login = logged_in => match login {
                Ok(login) => Ok((session, login)),
                Err(_) => Err("the session ended before a login".to_owned()),
            },
            ended = &mut session => match ended {
                Ok(()) => Err("the client disconnected without a login".to_owned()),
                Err(err) => Err(err.to_string()),
            },
        }
    };
    let begun = timeout(LOGIN_TIME, opening).await;
    // If the client has logged in with another key or with a certificate, the refused key does not
    // count as a failure.
    if refused.load(Ordering::Relaxed) && !matches!(begun, Ok(Ok(_))) {
        guard.refused();
    }
    let (session, login) = match begun {
        Ok(begun) => begun?,
        Err(_) => {
            tracing::info!(%address, "closed: no login within {LOGIN_TIME:?}");
            return Ok(());
        }
    };
    if login.is_agent {
        if let Err(reason) = guard.logged_in_as_agent() {
            server.registry.fleet.metrics.refused.with_label_values(&["agents"]).inc();
            farewell(&session.handle(), reason).await;
            return Err(reason.to_owned());
        }
    } else {
        guard.logged_in();
    }
    watch_over(&server, session, address, &login, &activity, stopped).await
}

/// Waits for the end of the session. If the server has a reason to end the session, the function
/// ends the session.
async fn watch_over(
    server: &Server,
    mut session: RunningSession<Session>,
    address: SocketAddr,
    login: &Login,
    activity: &Activity,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut keys = server.keyring.changes();
    let reason = loop {
        let stopping = *stopped.borrow();
        tokio::select! {
            ended = &mut session => return ended.map_err(|err| err.to_string()),
            _ = keys.changed() => {}
            _ = stopped.changed(), if !stopping => {}
            () = sleep(next_check(stopping, activity.age(), server.deadline)) => {}
        }
        if server.keyring.identify(&login.user, &login.proof, address.ip()).is_err() {
            break "the key may not log in any more";
        }
        if *stopped.borrow() && !activity.is_busy() {
            break "the registry stops";
        }
        let is_quiet = !activity.is_working() && activity.quiet() > QUIET.min(server.deadline);
        if is_quiet && activity.age() > server.deadline {
            break "the deadline of the connection has passed";
        }
    };
    // The server sends its last message before it writes the log line. So the client gets no more
    // messages after the log line.
    farewell(&session.handle(), reason).await;
    tracing::info!(user = escape(&login.user), %address, "closed: {reason}");
    // If the session does not end on its own, the caller shuts down the socket.
    let _ = timeout(FAREWELL, session).await;
    Ok(())
}

/// The time until the next check of a connection.
fn next_check(stopping: bool, age: Duration, deadline: Duration) -> Duration {
    let left = deadline.saturating_sub(age);
    if stopping {
        CHECK_OFTEN
    } else if left.is_zero() {
        CHECK_LATE
    } else {
        // The check has to come after the deadline.
        CHECK_EVERY.min(left + CHECK_OFTEN)
    }
}

async fn farewell(handle: &Handle, reason: &str) {
    let telling = handle.disconnect(Disconnect::ByApplication, reason.to_owned(), String::new());
    // If the connection accepts no message, the server only shuts the connection down.
    let _ = timeout(FAREWELL, telling).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_is_checked_right_after_its_deadline() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        assert_eq!(next_check(false, second, hour), CHECK_EVERY);
        let check = next_check(false, Duration::from_secs(3599), hour);
        assert!(check > second && check < second * 2, "{check:?}");
        assert_eq!(next_check(false, hour + second, hour), CHECK_LATE);
        assert_eq!(next_check(true, second, hour), CHECK_OFTEN);
    }
}
