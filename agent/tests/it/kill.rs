//! Kills the registry or the agent (`kill -9`) at any point between an upload and a deployed root.
//! After the restart, no acknowledged change is missing, and no visible file has wrong bytes. All
//! uploads and deploys complete. `DEPLOY_TEST_KILLS` sets the number of kills (default 200). A
//! failure prints its seed. `DEPLOY_TEST_SEED` sets the seed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::random::{Random, number};
use deploy_store::{Configuration, Digest};
use deploy_testing::program as binary;
use deploy_wire::client::{Client, Connect, HostKey, Keys};
use flate2::Compression;
use flate2::write::GzEncoder;

const PATIENCE: Duration = Duration::from_secs(60);

/// A child process that is killed when this value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The test ignores a failure, because the process may already have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World {
    dir: PathBuf,
    port: u16,
    fingerprint: String,
    registry: Option<Running>,
    agent: Option<Running>,
}

impl World {
    fn new(dir: &Path) -> Self {
        for name in ["operator", "server"] {
            deploy_testing::make_key(&dir.join(name));
        }
        fs::write(dir.join("deploy.sh"), "#!/bin/sh\nexec cat \"$NEWROOT/config\" > deployed\n")
            .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.join("deploy.sh"), mode).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (registry, agent) = (None, None);
        let mut world =
            Self { dir: dir.to_owned(), port, fingerprint: String::new(), registry, agent };
        world.start_registry();
        let log = fs::read_to_string(dir.join("registry.log")).unwrap();
        let at = log.find("SHA256:").unwrap();
        log[at..].split_whitespace().next().unwrap().clone_into(&mut world.fingerprint);
        world
    }

    fn start_registry(&mut self) {
        self.registry = None;
        let log = self.dir.join("registry.log");
        let child = Command::new(binary("deploy-registry"))
            .args(["-addr", &format!("127.0.0.1:{}", self.port), "-dir", "registry"])
            .args(["-opauth", "operator.pub", "-srvauth", "server.pub"])
            .current_dir(&self.dir)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.registry = Some(Running(child));
        wait_until("the registry listens", || {
            fs::read_to_string(&log).unwrap().contains("listening on")
        });
    }

    fn start_agent(&mut self) {
        self.agent = None;
        let log = File::options().append(true).create(true).open(self.dir.join("agent.log"));
        let child = Command::new(binary("deploy-agent"))
            .args(["-addr", &format!("127.0.0.1:{}", self.port), "-dir", "agent", "-name", "p"])
            .args(["-fp", &self.fingerprint, "-key", "server", "-poll", "50ms", "-cleanold"])
            .args(["-script", "./deploy.sh", "-state", "agent/state.json"])
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.agent = Some(Running(child));
    }

    fn connect(&self) -> Connect {
        Connect {
            addr: format!("127.0.0.1:{}", self.port),
            user: "operator".to_owned(),
            keys: Keys::File(self.dir.join("operator")),
            host: HostKey::Fingerprint(self.fingerprint.clone()),
            declared: None,
            timeout: Duration::from_secs(10),
        }
    }

    /// Checks that every visible blob matches its digest, and that every published root has the
    /// right contents.
    fn check_names(&self) {
        for blobs in ["registry/files", "registry/uploads", "agent/cache"] {
            for entry in fs::read_dir(self.dir.join(blobs)).into_iter().flatten() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let (Ok(digest), Ok(bytes)) = (name.parse::<Digest>(), fs::read(&path)) else {
                    continue;
                };
                assert_eq!(Digest::of(&bytes), digest, "{} holds other bytes", path.display());
            }
        }
        for entry in fs::read_dir(self.dir.join("agent/roots")).into_iter().flatten() {
            let Ok(json) = fs::read(entry.unwrap().path()) else { continue };
            let Ok(configuration) = Configuration::from_json(&json) else { continue };
            let root = self.dir.join("agent/unpacked").join(configuration.id().to_string());
            if !root.exists() {
                continue;
            }
            for layer in configuration.layers() {
                let (component, version) = (layer.component.as_str(), layer.version.as_str());
                // A sweep may remove a root during this check.
                if let Ok(text) = fs::read_to_string(root.join(component)) {
                    assert_eq!(text, contents(component, version), "{}", root.display());
                }
            }
        }
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn contents(component: &str, version: &str) -> String {
    format!("{component} {version}\n").repeat(1000)
}

fn archive(component: &str, version: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let contents = contents(component, version);
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, component, contents.as_bytes()).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

/// Uploads an archive and adds it as a version, unless the version exists. Returns an error if the
/// connection or the command fails.
async fn add(connect: &Connect, component: &str, version: &str) -> Result<(), String> {
    let bytes = archive(component, version);
    let digest = Digest::of(&bytes);
    let client = Client::connect(connect).await.map_err(|err| err.to_string())?;
    let (sender, chunks) = tokio::sync::mpsc::channel(1);
    sender.send(bytes).await.unwrap();
    drop(sender);
    client.put("upload", None, chunks, |_| {}).await.map_err(|err| err.to_string())?;
    let line = format!("addver -name {component} -version {version} -hash {digest}");
    run(&client, &line, "already exists").await
}

/// Runs a command. An error that contains `fine` counts as a success, because such an error means
/// that an earlier attempt did the work, but its answer was lost.
async fn run(client: &Client, line: &str, fine: &str) -> Result<(), String> {
    let answer = client.exec(line).await.map_err(|err| err.to_string())?;
    let complaint = String::from_utf8_lossy(&answer.stderr).into_owned();
    match answer.code {
        0 => Ok(()),
        _ if complaint.contains(fine) => Ok(()),
        _ => Err(format!("{line}: {complaint}")),
    }
}

/// Repeats one step until the registry acknowledges the step.
async fn insist<F: Future<Output = Result<(), String>>>(mut step: impl FnMut() -> F) {
    let started = Instant::now();
    while let Err(why) = step().await {
        assert!(started.elapsed() < PATIENCE, "a step never succeeded: {why}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn kill_of_registry_or_agent_loses_no_acknowledged_change() {
    let kills = number("DEPLOY_TEST_KILLS", 200);
    let mut random = Random::start();
    let temp = tempfile::tempdir().unwrap();
    let mut world = World::new(temp.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged: BTreeMap<String, Digest> = BTreeMap::new();

    let connect = world.connect();
    runtime.block_on(async {
        insist(|| add(&connect, "code", "v0")).await;
        insist(|| add(&connect, "config", "v0")).await;
        let client = Client::connect(&connect).await.unwrap();
        run(&client, "addconf -name p -layer code:v0 -layer config:v0", "").await.unwrap();
    });
    world.start_agent();

    for kill in 1..=kills {
        let version = format!("v{kill}");
        let work = runtime.spawn({
            let (connect, version) = (connect.clone(), version.clone());
            async move {
                insist(|| add(&connect, "config", &version)).await;
                insist(|| async {
                    let client = Client::connect(&connect).await.map_err(|err| err.to_string())?;
                    let line = format!("changeconf -name p -component config -version {version}");
                    run(&client, &line, "never fine").await
                })
                .await;
            }
        });
        std::thread::sleep(Duration::from_micros(random.below(60_000)));
        if random.below(2) == 0 {
            world.start_registry();
        } else {
            world.start_agent();
        }
        runtime.block_on(work).unwrap();
        acknowledged.insert(version.clone(), Digest::of(&archive("config", &version)));
        world.check_names();
    }

    let last = contents("config", &format!("v{kills}"));
    wait_until("the last configuration is deployed", || {
        fs::read_to_string(world.dir.join("deployed")).is_ok_and(|text| text == last)
    });
    world.start_registry();
    let listed = runtime.block_on(async {
        let client = Client::connect(&connect).await.unwrap();
        client.exec("showcomp -name config -json").await.unwrap()
    });
    let listed = String::from_utf8(listed.stdout).unwrap();
    for (version, digest) in &acknowledged {
        assert!(listed.contains(&format!("\"{version}\"")), "{version} was lost");
        let blob = world.dir.join("registry/files").join(digest.to_string());
        assert!(blob.exists(), "the blob of {version} was lost");
    }
    world.check_names();
}
