//! Tests the size and the response time of the page with 10,000 hosts and 40 configurations.
#![allow(clippy::print_stdout, reason = "the test prints what it measures")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deploy_registry::catalog::Change;
use deploy_registry::catalog::fleet::Sent;
use deploy_registry::fleet::presence::{AgentId, Present};
use deploy_registry::http::{Access, PortAccess, Web, serve_stream};
use deploy_registry::registry::{Registry, Settings};
use deploy_wire::command::Rolling;
use deploy_wire::fleet::{Phase, Reason, Report};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{archive, change, fast_dir, upload};

const HOSTS: usize = 10_000;
const CONFIGURATIONS: usize = 40;
const GROUPS: [&str; 4] = ["canary", "eu-1", "eu-2", "us-1"];
/// The time limit for a build without optimizations, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

fn name_of(host: usize) -> String {
    // The first configuration has more than 4,000 hosts.
    format!("service-{:02}", if host < 4000 { 0 } else { host % CONFIGURATIONS })
}

/// Fills the registry with [`HOSTS`] hosts. Returns a value for each connected host. The host is
/// connected until its value is dropped.
async fn large_fleet(registry: &Registry) -> Vec<Present> {
    for version in ["v1", "v2"] {
        let digest = upload(registry, &archive(version)).await;
        let (code, version) = ("code".parse().unwrap(), version.parse().unwrap());
        registry.add_version(&code, &version, digest, &change()).await.unwrap();
    }
    let layer = |version: &str| [("code".parse().unwrap(), version.parse().unwrap())];
    let mut id = None;
    for n in 0..CONFIGURATIONS {
        let name = format!("service-{n:02}").parse().unwrap();
        registry.catalog.add_configuration(&name, &layer("v1"), false, &change()).await.unwrap();
        id = Some(registry.catalog.configuration(&name).await.unwrap().id());
    }
    let mut sent: Vec<Sent> = Vec::new();
    for n in 0..HOSTS {
        let is_bad = n % 500 == 1;
        let report = Report {
            seq: 1,
            revision: 1 << 40,
            phase: if is_bad { Phase::Failed } else { Phase::Healthy },
            runs: id,
            wants: id,
            reason: is_bad.then_some(Reason::Script),
            output: if is_bad { "no such table\n".to_owned() } else { String::new() },
            version: "0.9.0".to_owned(),
            ..Report::default()
        };
        let host = format!("node-{n:05}").parse().unwrap();
        let name = name_of(n).parse().unwrap();
        sent.push(Sent { key: "k".into(), host, name, instance: format!("i{n}"), report });
    }
    for batch in sent.chunks(500) {
        registry.catalog.apply_reports(batch, Timestamp::now()).await.unwrap();
    }
    for (n, sent) in sent.iter().enumerate() {
        let group = Some(GROUPS[n % GROUPS.len()].parse().unwrap());
        let label = ("group".parse().unwrap(), group);
        registry.catalog.label_host(&sent.host, &[label], &change()).await.unwrap();
    }
    let address: IpAddr = [10, 0, 0, 1].into();
    let connected = sent.iter().enumerate().filter(|(n, _)| n % 300 != 2);
    let connected: Vec<Present> = connected
        .map(|(_, sent)| {
            let agent = AgentId { host: sent.host.clone(), name: sent.name.clone() };
            registry.fleet.presence.enter(agent, &sent.instance, address)
        })
        .collect();
    let mut rolling = Rolling::default();
    rolling.rules.waves = Some("30%,100%".to_owned());
    let start = Change { rolling, ..change() };
    let name = "service-00".parse().unwrap();
    registry.catalog.change_configuration(&name, &layer("v2"), None, &start).await.unwrap();
    registry.step_rollout(&name).await.unwrap();
    connected
}

async fn get(web: &Arc<Web>, path: &str) -> (String, Duration) {
    let (mut browser, server) = tokio::io::duplex(1 << 20);
    let port = Arc::new(PortAccess::new(None, Vec::new(), Vec::new()).unwrap());
    let web = Arc::clone(web);
    let peer = [127, 0, 0, 1].into();
    tokio::spawn(async move { serve_stream(web, server, &Access::Port { port, peer }).await });
    let began = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    browser.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    let took = began.elapsed();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
    (body.to_owned(), took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_large_fleet_are_small_and_fast() {
    let dir = fast_dir();
    let registry = Arc::new(Registry::open(dir.path(), Settings::default()).await.unwrap());
    let connected = large_fleet(&registry).await;
    let web = Web::new(Arc::clone(&registry));
    for path in ["/", "/hosts", "/hosts?only=failed", "/rollouts", "/rollouts/service-00/1"] {
        let mut best = PATIENCE * 2;
        let mut html = String::new();
        for _ in 0..5 {
            let took;
            (html, took) = get(&web, path).await;
            best = best.min(took);
        }
        println!("{path}: {} bytes, {best:?}", html.len());
        assert!(html.len() < 100_000, "{path}: {} bytes", html.len());
        assert!(best < PATIENCE, "{path}: {best:?}");
        if let Some(dir) = std::env::var_os("DEPLOY_TEST_PAGES") {
            let name = path.replace(['/', '?', '='], "_");
            std::fs::write(std::path::Path::new(&dir).join(name + ".html"), &html).unwrap();
        }
    }
    let (html, _) = get(&web, "/").await;
    assert!(html.contains(&format!("{HOSTS} hosts, {} connected", connected.len())), "{html}");
}
