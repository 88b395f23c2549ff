//! Stops the database server of a running registry, and starts it again. Meanwhile, agents can still
//! download what they know, and every change fails in time with a clear message. Afterwards,
//! everything works again without a restart of the registry.

use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deploy_testing::DatabaseServer;
use serde_json::json;

use crate::fleet::watcher::Watch;
use crate::rig::{Rig, both, wait_until};

/// The longest time that a change may take while the server is lost: the limits of the catalogue
/// for one statement and for its answer, and some time for ssh on a busy machine.
const LONGEST: Duration = Duration::from_secs(45);
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
        scene.poll();
        Some(scene)
    }

    /// Polls and downloads as an agent does that knows the configuration.
    fn poll(&self) {
        let batch = format!("get configs/p.json p.json\nget files/{} got", self.digest);
        let output = self.rig.sftp("srv", "deploy-agent", &batch);
        assert!(output.status.success(), "{}", both(&output));
        assert_eq!(self.rig.sha256("got"), self.digest);
    }

    fn try_pin(&self, message: &str) -> Output {
        self.rig.ssh("op", "me", &[&format!("pin -name code -version v1 -m {message}")])
    }

    /// Polls and changes something while the server is lost.
    fn check_lost(&self) {
        self.poll();
        let asked = Instant::now();
        let changed = self.try_pin("lost");
        assert!(asked.elapsed() < LONGEST, "after {:?}: {}", asked.elapsed(), both(&changed));
        assert_eq!(changed.status.code(), Some(1), "{}", both(&changed));
        assert_eq!(
            both(&changed),
            "catalogue: the database does not answer; nothing was changed\n"
        );
        // A configuration that no agent knows is an error, and not an empty answer.
        let unknown = self.rig.sftp("srv", "deploy-agent", "get configs/q.json q.json");
        assert!(!unknown.status.success());
        assert!(!both(&unknown).contains("not found"), "{}", both(&unknown));
        self.poll();
    }

    /// Waits until changes work again, and checks the whole registry.
    fn check_back(&self) {
        wait_until("changes work again", || self.try_pin("back").status.success());
        self.poll();
        assert!(self.rig.ok("verify").ends_with(": 0 damaged\n"));
        assert_eq!(self.rig.pid(), self.pid, "the registry was started again");
    }
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
    for round in 0..4 {
        let stop = AtomicBool::new(false);
        let change = |client: usize| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
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
                let text = both(&output);
                let is_clear = text.starts_with("catalogue: ")
                    && (text.contains("nothing was changed")
                        || text.contains("repeat the command"));
                assert!(is_clear, "{text}");
                return;
            }
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || change(n))).collect();
            std::thread::sleep(Duration::from_millis(1500 + 170 * round));
            if round % 2 == 0 {
                scene.server.stop_at_once();
            } else {
                scene.server.freeze();
            }
            clients.into_iter().for_each(|client| client.join().unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        if round % 2 == 0 {
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

/// A connected agent stays connected while the server is lost, and its report is written later. The
/// agent learns of the next change.
#[test]
fn connected_agent_reports_and_learns_of_changes_afterwards() {
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
    std::thread::sleep(Duration::from_secs(2));
    scene.server.start();
    scene.check_back();
    let digest = scene.rig.archive("v2", b"v2");
    scene.rig.put("v2");
    scene.rig.ok(&format!("addver -name code -version v2 -hash {digest}"));
    scene.rig.ok("changeconf -name p -component code -version v2");
    let next = watch.offer();
    assert_ne!(next["id"], offer["id"]);
    watch.healthy(3, &next);
    assert!(scene.rig.ok("fleet").contains("web-01"));
}
