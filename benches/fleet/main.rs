//! Simulates a fleet for `scripts/bench-fleet`. Thousands of agents watch a configuration with the
//! code of the real client. Whenever the registry offers them a configuration, they report it as
//! deployed.
//!
//! `deploy-fleet ADDR FINGERPRINT OPERATOR-KEY AGENT-KEY PID AGENTS PUSHES SECONDS HTTP [FILE]`
//!
//! The program measures the time from the start of an operator's change until each agent has the
//! offer. It also measures the memory and processor time that the registry uses for an idle fleet.
//! HTTP is the address of the registry's web page, which the program measures, too. If HTTP is `-`,
//! the program does not measure the page. If FILE is given, the program also measures how long all
//! agents take to connect again after a restart of the registry. The program creates FILE when the
//! caller should restart the registry. Commas separate the addresses and the process ids of several
//! registries; each agent then connects to a random one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program prints its results")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the results have few digits"
)]

mod browsers;
mod simulated_agent;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deploy_benches::measured_registry::{Registry, exec, quantile};
use deploy_wire::client::Client;
use tokio::sync::Semaphore;

use crate::simulated_agent::{Fleet, run};

/// The allocator. Thousands of simulated agents run in this process, on the same processors as the
/// registry. With the C library's allocator, the benchmark would mainly measure the allocations of
/// these agents.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The maximum number of simultaneous logins. The registry allows 50 connections without a login
/// from each address.
const LOGINS: usize = 40;
/// The maximum time until all agents are connected.
const CONNECTING: Duration = Duration::from_secs(600);
/// The maximum time until an offer has reached the last agent.
const LONGEST_PUSH: Duration = Duration::from_secs(60);
/// The pause between two pushes.
const PAUSE: Duration = Duration::from_secs(1);

/// Creates a component with two versions, and a configuration of the first version.
async fn prepare(operator: &Client, archive: &[u8]) -> Result<(), String> {
    for version in ["v1", "v2"] {
        exec(operator, &format!("put -name code -version {version}"), archive).await?;
    }
    exec(operator, "addconf -name fleet -layer code:v1", &[]).await
}

/// Waits until `count` returns at least `agents`. Returns the duration of the wait, or `None` if it
/// exceeds `longest`.
async fn all(count: impl Fn() -> usize, agents: usize, longest: Duration) -> Option<Duration> {
    let began = Instant::now();
    while count() < agents {
        if began.elapsed() > longest {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Some(began.elapsed())
}

/// Changes the configuration `pushes` times. Prints how long the offers took to reach the agents,
/// how long the changes took, and how long it took until the registry had acknowledged all reports.
async fn measure_pushes(operator: &Client, fleet: &Fleet, agents: usize, pushes: u32) {
    let (mut times, mut changes, mut confirmed) = (Vec::new(), Vec::new(), Vec::new());
    for push in 0..pushes {
        let version = if push % 2 == 0 { "v2" } else { "v1" };
        let line = format!("changeconf -name fleet -component code -version {version}");
        let began = Instant::now();
        fleet.expect(began);
        exec(operator, &line, &[]).await.expect("the change is made");
        changes.push(began.elapsed());
        let arrived = all(|| fleet.arrived(), agents, LONGEST_PUSH).await;
        assert!(arrived.is_some(), "only {} agents have the offer", fleet.arrived());
        times.extend(fleet.take_times());
        let done = all(|| fleet.acknowledged(), agents, LONGEST_PUSH).await;
        done.expect("every report is acknowledged");
        confirmed.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    for all in [&mut times, &mut changes, &mut confirmed] {
        all.sort_unstable();
    }
    let [median, most, longest] = [0.5, 0.99, 1.0].map(|share| quantile(&times, share));
    println!("push\t{median:.1}\t{most:.1}\t{longest:.1}");
    println!("change\t{:.1}\t{:.1}", quantile(&changes, 0.5), quantile(&changes, 1.0));
    println!("confirmed\t{:.1}\t{:.1}", quantile(&confirmed, 0.5), quantile(&confirmed, 1.0));
}

/// Prints the registry's memory, and the share of one processor that the registry uses for an idle
/// fleet.
async fn measure_idle(registry: &Registry, seconds: u64) {
    let before = registry.cpu();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = registry.cpu().saturating_sub(before);
    let share = used.as_secs_f64() / seconds.max(1) as f64 * 100.0;
    println!("idle\t{}\t{share:.2}", registry.memory().0);
}

/// Requests a restart by creating `file`. Prints the time until the fleet was connected again, and
/// how long an operator's commands took during this time.
async fn measure_return(registry: &Registry, fleet: &Fleet, agents: usize, file: &Path) {
    std::fs::write(file, "").expect("the file is made");
    let gone = all(|| agents - fleet.connected().min(agents), agents, CONNECTING).await;
    gone.expect("the registry ends every connection");
    let (began, mut commands) = (Instant::now(), Vec::new());
    while fleet.connected() < agents {
        assert!(began.elapsed() < CONNECTING, "only {} agents came back", fleet.connected());
        let asked = Instant::now();
        if let Ok(operator) = registry.connect("operator").await
            && exec(&operator, "showconf -name fleet", &[]).await.is_ok()
        {
            commands.push(asked.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed().as_secs_f64();
    commands.sort_unstable();
    let [median, longest] = [0.5, 1.0].map(|share| quantile(&commands, share));
    println!("return\t{took:.1}\t{median:.0}\t{longest:.0}");
}

/// The measurements that the command line requests.
struct Wanted<'a> {
    agents: usize,
    pushes: u32,
    idle: u64,
    /// The address of the web page; `None` leaves out the page.
    http: Option<&'a str>,
    /// The file whose creation requests a restart; `None` leaves out the restart.
    file: Option<&'a Path>,
}

async fn measure(registry: Registry, wanted: Wanted<'_>) {
    let Wanted { agents, pushes, idle, http, file } = wanted;
    let operator = registry.connect("operator").await.expect("the registry accepts operators");
    let archive = std::fs::read("/dev/stdin").expect("standard input has an archive");
    prepare(&operator, &archive).await.expect("the registry accepts the configuration");
    let empty = registry.memory().0;
    let (fleet, logins) = (Arc::new(Fleet::default()), Arc::new(Semaphore::new(LOGINS)));
    let began = Instant::now();
    for number in 0..agents {
        tokio::spawn(run(registry.clone(), number, Arc::clone(&fleet), Arc::clone(&logins)));
    }
    let connected = all(|| fleet.acknowledged(), agents, CONNECTING).await;
    connected.expect("all agents connect and report");
    println!("connect\t{:.1}\t{empty}", began.elapsed().as_secs_f64());
    measure_idle(&registry, idle).await;
    measure_pushes(&operator, &fleet, agents, pushes).await;
    if let Some(http) = http {
        browsers::measure(&registry, &operator, http, &simulated_agent::name(0)).await;
    }
    let (now, most) = registry.memory();
    println!("memory\t{now}\t{most}");
    if let Some(file) = file {
        drop(operator);
        measure_return(&registry, &fleet, agents, file).await;
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = "ADDR FINGERPRINT OPERATOR-KEY AGENT-KEY PID AGENTS PUSHES SECONDS HTTP [FILE]";
    let [addr, fingerprint, operator, agent, pid, agents, pushes, seconds, http, file @ ..] =
        &words[..]
    else {
        panic!("{usage}");
    };
    let registry = Registry::new([addr, fingerprint, operator, agent, pid]);
    let wanted = Wanted {
        agents: agents.parse().expect("a number of agents"),
        pushes: pushes.parse().expect("a number of pushes"),
        idle: seconds.parse().expect("a number of seconds"),
        http: Some(http.as_str()).filter(|http| *http != "-"),
        file: file.first().map(Path::new),
    };
    let threads = tokio::runtime::Runtime::new().expect("threads");
    threads.block_on(measure(registry, wanted));
    threads.shutdown_background();
}
