//! Tests a flood of connections. A hostile source keeps up to 1000 connections half open, and
//! begins up to 100 handshakes in each second. A real agent at another address still deploys, and
//! the registry's memory stays small.

#![allow(clippy::print_stdout, reason = "the test prints its figures")]

#[path = "it/bench/mod.rs"]
mod bench;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bench::Bench;
use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

const HALF_OPEN: usize = 1_000;
const HANDSHAKES_A_SECOND: u64 = 100;
const MOST_MEMORY_KIB: u64 = 256 << 10;
/// Maximum time of a deploy on a busy machine, in seconds. `DEPLOY_TEST_SECONDS` sets another
/// maximum. On a quiet machine, a deploy takes less than 5 s.
const PATIENCE: u64 = 60;

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Connects from a loopback address that is not the agent's address.
async fn knock(registry: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.2:0".parse().expect("an address"))?;
    socket.connect(registry).await
}

async fn shake_hands(registry: SocketAddr, stranger: Arc<PrivateKey>) -> Option<()> {
    let stream = knock(registry).await.ok()?;
    let config = Arc::new(client::Config::default());
    let mut client = client::connect_stream(config, stream, Trusting).await.ok()?;
    let key = PrivateKeyWithHashAlg::new(stranger, None);
    assert!(!client.authenticate_publickey("deploy-agent", key).await.ok()?.success());
    Some(())
}

#[test]
fn agent_deploys_during_a_flood_from_one_source() {
    let bench = Bench::new();
    bench.first_configuration();
    let registry: SocketAddr = bench.registry.addr.parse().unwrap();
    let pid = bench.registry.process.id();
    let stranger = Arc::new(load_secret_key(bench.path("stranger"), None).unwrap());
    let (over, shaken, knocked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let flood = {
        let (over, shaken, knocked) =
            (Arc::clone(&over), Arc::clone(&shaken), Arc::clone(&knocked));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let mut half_open = Vec::new();
                let mut hands = JoinSet::new();
                let mut tick =
                    tokio::time::interval(Duration::from_millis(1000 / HANDSHAKES_A_SECOND));
                while !over.load(Ordering::Relaxed) {
                    tick.tick().await;
                    // The flood replaces each connection that the registry has refused.
                    half_open.retain(|stream: &TcpStream| {
                        let mut byte = [0];
                        !matches!(stream.try_read(&mut byte), Ok(0))
                    });
                    for _ in 0..(HALF_OPEN - half_open.len()).min(50) {
                        half_open.extend(knock(registry).await.ok());
                        knocked.fetch_add(1, Ordering::Relaxed);
                    }
                    let (shaken, stranger) = (Arc::clone(&shaken), Arc::clone(&stranger));
                    hands.spawn(async move {
                        shake_hands(registry, stranger).await;
                        shaken.fetch_add(1, Ordering::Relaxed);
                    });
                    while hands.try_join_next().is_some() {}
                }
            });
        })
    };
    deploy_testing::eventually("the flood runs", || {
        knocked.load(Ordering::Relaxed) > HALF_OPEN as u64 && shaken.load(Ordering::Relaxed) > 100
    });
    let seconds = std::env::var("DEPLOY_TEST_SECONDS").map_or(PATIENCE, |n| n.parse().unwrap());
    let mut longest = Duration::ZERO;
    for round in 1..=3 {
        let begun = Instant::now();
        let (code, log) = bench.once(&[]);
        let took = begun.elapsed();
        assert_eq!(code, Some(0), "{log}");
        assert!(took < Duration::from_secs(seconds), "a deploy took {took:?}");
        longest = longest.max(took);
        assert_eq!(bench.runs(), round, "{log}");
        // The agent of the next deploy also starts with an empty directory.
        fs::remove_dir_all(bench.path("a1")).unwrap();
        fs::remove_file(bench.path("state.json")).unwrap();
    }
    over.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
    let (knocked, shaken) = (knocked.load(Ordering::Relaxed), shaken.load(Ordering::Relaxed));
    println!(
        "flood: {knocked} connections, {shaken} handshakes, {peak} KiB at most, \
         a deploy took {longest:?} at most"
    );
}
