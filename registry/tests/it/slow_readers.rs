//! Tests clients that read slowly or not at all. A slow reader gets the whole answer, even if it
//! reads for a long time. If a client reads nothing for some time, the server ends the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::login::Trusting;
use crate::rig::Rig;
use deploy_registry::registry::{Registry, Settings};
use deploy_registry::ssh::{self as server, Keyring, Server};
use russh::client::{self, Handle};
use russh::{Channel, ChannelMsg};
use tokio::time::sleep;

/// A client that reads nothing for this long counts as disconnected.
const STALL: Duration = Duration::from_secs(2);

/// Logs in at `port`, as a client that accepts only 16 KiB before it reads them.
async fn log_in(rig: &Rig, port: u16) -> Handle<Trusting> {
    let config = client::Config {
        window_size: 16 << 10,
        maximum_packet_size: 8 << 10,
        channel_buffer_size: 1,
        ..client::Config::default()
    };
    crate::login::log_in(rig, port, config).await
}

async fn run(client: &Handle<Trusting>, line: &str) -> Channel<client::Msg> {
    let channel = client.channel_open_session().await.unwrap();
    channel.exec(true, line).await.unwrap();
    channel
}

/// Reads the answer to a command, and pauses after each message. Returns the length of the answer,
/// the number of messages, and the exit code.
async fn read(mut channel: Channel<client::Msg>, pause: Duration) -> (usize, u32, Option<u32>) {
    let (mut length, mut messages, mut code) = (0, 0, None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                length += data.len();
                messages += 1;
                sleep(pause).await;
            }
            ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
            _ => {}
        }
    }
    (length, messages, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_gets_all_and_silent_reader_is_disconnected() {
    let rig = Rig::idle();
    let dir = rig.path("reg");
    let keyring = Keyring::load(&rig.path("op.keys"), &rig.path("srv.keys")).unwrap();
    let registry = Registry::open(&dir, Settings::default()).await.unwrap();
    let host_key = server::host_key(&dir).unwrap();
    let listener = server::listen("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let day = Duration::from_secs(86_400);
    let server = Server::new(Arc::new(registry), Arc::new(keyring), &host_key, day).stalling(STALL);
    let serving = tokio::spawn(server::serve(Arc::new(server), listener, std::future::pending()));
    let client = log_in(&rig, port).await;
    // These commands are refused. The audit trail lists refused commands, too.
    let name = "long".repeat(60);
    for n in 0..150 {
        let line = format!("delcomp -name {name}{n}");
        assert_ne!(read(run(&client, &line).await, Duration::ZERO).await.2, Some(0));
    }
    let (length, messages, code) =
        read(run(&client, "audit -limit 150 -json").await, Duration::ZERO).await;
    assert!(length > 48 << 10 && code == Some(0), "{length} bytes, {code:?}");

    let since = Instant::now();
    let slow = log_in(&rig, port).await;
    let (slowly, _, code) =
        read(run(&slow, "audit -limit 150 -json").await, STALL * 5 / 2 / messages).await;
    assert!(slowly == length && code == Some(0), "{slowly} of {length} bytes, {code:?}");
    assert!(since.elapsed() > STALL * 2, "the reader was not slow");

    let silent = log_in(&rig, port).await;
    let channel = run(&silent, "audit -limit 150 -json").await;
    sleep(STALL * 2).await;
    let (taken, _, code) = read(channel, Duration::ZERO).await;
    assert!(taken < length && code.is_none(), "{taken} of {length} bytes, {code:?}");
    serving.abort();
}
