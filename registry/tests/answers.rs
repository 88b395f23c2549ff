//! A long answer is limited by silence: who reads slowly gets all of it, and who reads nothing
//! holds nobody up for ever.

mod rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use deploy_registry::registry::{Registry, Settings};
use deploy_registry::server::{self, Keyring, Server};
use rig::Rig;
use russh::client::{self, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use russh::{Channel, ChannelMsg};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// A client that takes nothing for so long is gone.
const STALL: Duration = Duration::from_secs(1);

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Logs in at `port`, as a client that has room for a few kilobytes.
async fn log_in(rig: &Rig, port: u16) -> Handle<Trusting> {
    let config = client::Config {
        window_size: 16 << 10,
        maximum_packet_size: 8 << 10,
        channel_buffer_size: 1,
        ..client::Config::default()
    };
    let mut client =
        client::connect(Arc::new(config), ("127.0.0.1", port), Trusting).await.unwrap();
    let key = load_secret_key(rig.path("op"), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(client.authenticate_publickey("me", key).await.unwrap().success());
    client
}

async fn run(client: &Handle<Trusting>, line: &str) -> Channel<client::Msg> {
    let channel = client.channel_open_session().await.unwrap();
    channel.exec(true, line).await.unwrap();
    channel
}

/// Reads what a command answers, and waits after each message: how long the answer was, and the
/// exit code.
async fn read(mut channel: Channel<client::Msg>, pause: Duration) -> (usize, Option<u32>) {
    let (mut length, mut code) = (0, None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                length += data.len();
                sleep(pause).await;
            }
            ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
            _ => {}
        }
    }
    (length, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_a_long_answer_whole_and_a_silent_one_is_let_go() {
    let rig = Rig::idle();
    let dir = rig.path("reg");
    let keyring = Keyring::load(&rig.path("op.keys"), &rig.path("srv.keys")).unwrap();
    let registry = Registry::open(&dir, Settings::default()).await.unwrap();
    let host_key = server::host_key(&dir).unwrap();
    let listener = server::listen("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let day = Duration::from_secs(86_400);
    let server = Server::new(Arc::new(registry), Arc::new(keyring), &host_key, day).stalling(STALL);
    let (stop, stopped) = oneshot::channel();
    let serving =
        tokio::spawn(server::serve(Arc::new(server), listener, async { stopped.await.unwrap() }));
    let client = log_in(&rig, port).await;
    // Refused ones are in the audit, too.
    let name = "long".repeat(60);
    for n in 0..300 {
        let line = format!("delcomp -name {name}{n}");
        assert_ne!(read(run(&client, &line).await, Duration::ZERO).await.1, Some(0));
    }
    let whole = read(run(&client, "audit -n 300 -json").await, Duration::ZERO).await;
    assert!(whole.0 > 64 << 10 && whole.1 == Some(0), "{whole:?}");

    let since = Instant::now();
    let slow = log_in(&rig, port).await;
    let pause = STALL * 5 / (u32::try_from(whole.0 / (8 << 10)).unwrap() + 1);
    assert_eq!(read(run(&slow, "audit -n 300 -json").await, pause).await, whole);
    assert!(since.elapsed() > STALL * 3, "it was not slow");

    let silent = log_in(&rig, port).await;
    let channel = run(&silent, "audit -n 300 -json").await;
    sleep(STALL * 3).await;
    let (length, code) = read(channel, Duration::ZERO).await;
    assert!(length < whole.0 && code.is_none(), "{length} of {} bytes, {code:?}", whole.0);
    stop.send(()).unwrap();
    serving.await.unwrap();
}
