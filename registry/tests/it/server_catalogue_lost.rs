//! Stops the database server of a running registry, and starts it again. Meanwhile, agents can still
//! download files, and every poll and every change fails in time with a clear message. Afterwards,
//! everything works again without a restart of the registry.

use std::process::Output;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use deploy_testing::DatabaseServer;
use russh_sftp::protocol::StatusCode;
use serde_json::json;

use crate::fleet::watcher::Watch;
use crate::rig::{Rig, both, wait_until};
use crate::sftp_packets::Client;

/// The longest time that a change may take while the server is lost. After at most 15 s, the
/// registry knows that the server is lost. The rest is for ssh on a busy machine.
const LONGEST: Duration = Duration::from_secs(35);
/// How many clients change something at the same time.
const CLIENTS: usize = 4;

/// A registry whose catalogue is on a server of its own.
struct Scene {
    // The registry ends before the server.
    rig: Rig,
    server: DatabaseServer,
    _dir: tempfile::TempDir,
    digest: String,
    pid: u32,
}

impl Scene {
    fn set() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let server = DatabaseServer::start_in(dir.path())?;
        let mut rig = Rig::idle();
        rig.flags = ["-catalogue", &server.url()].map(str::to_owned).to_vec();
        rig.run();
        let digest = rig.archive("v1", b"v1");
        rig.put("v1");
        rig.ok(&format!("addver -name code -version v1 -hash {digest}"));
        rig.ok("addconf -name p -layer code:v1");
        let pid = rig.pid();
        let scene = Self { rig, server, _dir: dir, digest, pid };
        Some(scene)
    }

    /// Downloads the file of the configuration.
    fn download(&self) {
        let batch = format!("get files/{} got", self.digest);
        let output = self.rig.sftp("srv", "deploy-agent", &batch);
        assert!(output.status.success(), "{}", both(&output));
        assert_eq!(self.rig.sha256("got"), self.digest);
    }

    /// Opens a configuration as an agent does.
    fn poll(&self, path: &str) -> Result<(), StatusCode> {
        let asked = async {
            let client = Client::connect(&self.rig, "srv", "deploy-agent").await;
            client.open(path).await.map(drop)
        };
        tokio::runtime::Runtime::new().unwrap().block_on(asked)
    }

    fn try_pin(&self, message: &str) -> Output {
        self.rig.ssh("op", "me", &[&format!("pin -name code -version v1 -m {message}")])
    }

    /// Polls and changes something while the server is lost.
    fn check_lost(&self) {
        self.download();
        let asked = Instant::now();
        let changed = self.try_pin("lost");
        assert!(asked.elapsed() < LONGEST, "after {:?}: {}", asked.elapsed(), both(&changed));
        assert_eq!(changed.status.code(), Some(1), "{}", both(&changed));
        assert!(is_clear(&both(&changed)), "{}", both(&changed));
        // To the agent, the configuration must not look as if it had been deleted.
        let asked = Instant::now();
        assert_eq!(self.poll("configs/p.json"), Err(StatusCode::Failure));
        assert!(asked.elapsed() < LONGEST, "after {:?}", asked.elapsed());
        self.download();
        self.rig.wait_for_log("catalogue_lost");
    }

    /// Waits until changes work again, and checks the whole registry.
    fn check_back(&self) {
        wait_until("changes work again", || self.try_pin("back").status.success());
        assert_eq!(self.poll("configs/p.json"), Ok(()));
        assert_eq!(self.poll("configs/q.json"), Err(StatusCode::NoSuchFile));
        assert!(self.rig.ok("verify").ends_with(": 0 damaged\n"));
        assert_eq!(self.rig.pid(), self.pid, "the registry was started again");
    }
}

/// Whether a message says what failed, and whether something was changed.
fn is_clear(text: &str) -> bool {
    text.starts_with("catalogue: ")
        && (text.ends_with("; nothing was changed\n") || text.ends_with("; repeat the command\n"))
}

#[test]
fn stopped_server_is_reported_and_used_again_after_its_start() {
    let Some(scene) = Scene::set() else { return };
    scene.server.stop_at_once();
    scene.check_lost();
    scene.server.start();
    scene.check_back();
}

#[test]
fn frozen_server_is_reported_and_used_again_when_it_answers() {
    let Some(scene) = Scene::set() else { return };
    scene.server.freeze();
    scene.check_lost();
    scene.server.thaw();
    scene.check_back();
}

/// The server freezes or stops while clients change something. Every acknowledged change is there
/// afterwards, and so is a change without a known result, or it is not there at all.
#[test]
fn changes_under_way_end_in_time_and_acknowledged_changes_stay() {
    let Some(scene) = Scene::set() else { return };
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..2 {
        let change = |client: usize| {
            for n in 0.. {
                let name = format!("n{round}x{client}x{n}");
                let asked = Instant::now();
                let line = format!("addconf -name {name} -layer code:v1");
                let output = scene.rig.ssh("op", "me", &[&line]);
                let took = asked.elapsed();
                assert!(took < LONGEST, "after {took:?}: {}", both(&output));
                if output.status.success() {
                    acknowledged.lock().unwrap().push(name);
                    continue;
                }
                assert!(is_clear(&both(&output)), "{}", both(&output));
                return;
            }
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || change(n))).collect();
            std::thread::sleep(Duration::from_millis(2000));
            if round == 0 {
                scene.server.stop_at_once();
            } else {
                scene.server.freeze();
            }
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        if round == 0 {
            scene.server.start();
        } else {
            scene.server.thaw();
        }
        scene.check_back();
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > 2 * CLIENTS, "{acknowledged:?}");
    let present = scene.rig.ok("configurations");
    for name in acknowledged {
        assert!(present.lines().any(|line| line == name), "{name} is gone");
    }
}

/// The registry ends the connection of an agent whose report it cannot write. The agent then connects
/// again, as it does after every lost connection, and repeats its report.
#[test]
fn report_without_acknowledgement_is_repeated_and_changes_are_announced() {
    let Some(scene) = Scene::set() else { return };
    let mut watch = Watch::begin(&scene.rig, "srv", "p", "web-01", "i1");
    let offer = watch.offer();
    watch.healthy(1, &offer);
    scene.server.stop_at_once();
    let report = json!({
        "seq": 2, "revision": offer["revision"], "attempt": 2, "phase": "deploying",
        "runs": offer["id"], "wants": offer["id"],
    });
    watch.send(json!({ "report": report }).to_string().as_bytes());
    // No acknowledgement comes, and then the end.
    assert_eq!(watch.lines.iter().find(|line| line["ack"] == 2), None);
    scene.server.start();
    scene.check_back();
    let mut watch = Watch::begin(&scene.rig, "srv", "p", "web-01", "i1");
    assert_eq!(watch.offer()["id"], offer["id"]);
    watch.healthy(2, &offer);
    let digest = scene.rig.archive("v2", b"v2");
    scene.rig.put("v2");
    scene.rig.ok(&format!("addver -name code -version v2 -hash {digest}"));
    scene.rig.ok("changeconf -name p -component code -version v2");
    let next = watch.offer();
    assert_ne!(next["id"], offer["id"]);
    watch.healthy(3, &next);
    assert!(scene.rig.ok("fleet -name p").contains("web-01"));
}
