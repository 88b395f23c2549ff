//! Tests `deploy-registry migrate`: a registry with everything that a registry can have moves to a
//! database server and a bucket, and back. The program runs as operators run it.

mod killed;
mod refused;
mod side_by_side;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use deploy_registry::catalog::{Catalog, differences};
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_store::{Digest, Meter};
use deploy_testing::{server_bucket, server_catalogue};
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};
use serde_json::{Value, json};

use crate::bench::{archive, bucket, change, fast_dir, upload};
use crate::rig::{Rig, both, names, wait_until};
use crate::watcher::Watch;

/// A registry that migrates, and its destination.
struct Move {
    rig: Rig,
    catalogue: String,
    bucket: String,
    _fast: tempfile::TempDir,
}

fn settings() -> Settings {
    let grace = Duration::from_secs(24 * 3600);
    Settings { max_versions: 0, grace, ..Settings::default() }
}

impl Move {
    /// A registry with `blobs` blobs in versions of ten components. `None` if a server is missing.
    async fn new(blobs: usize) -> Option<Self> {
        let (mut rig, fast) = (Rig::idle(), fast_dir());
        std::os::unix::fs::symlink(fast.path(), rig.path("reg")).unwrap();
        rig.flags = flags(&["-catalogue", "", "-bucket", ""]);
        let catalogue = server_catalogue(&rig.path("server"))?;
        let bucket = server_bucket(&rig.path("server"))?;
        fill(&rig.path("reg"), blobs).await;
        Some(Self { rig, catalogue, bucket, _fast: fast })
    }

    fn dir(&self) -> std::path::PathBuf {
        self.rig.path("reg")
    }

    /// Runs `deploy-registry migrate` with these words.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deploy-registry"));
        command.current_dir(self.rig.dir.path()).arg("migrate").args(words);
        command.env_remove("DEPLOY_REGISTRY_CATALOGUE").env_remove("DEPLOY_REGISTRY_BUCKET");
        command
    }

    fn forward(&self) -> Command {
        self.command(&["-dir", "reg", "-to", &self.catalogue, "-bucket", &self.bucket])
    }

    fn back(&self, dir: &str) -> Command {
        let words = ["-back", "-dir", dir, "-catalogue", &self.catalogue, "-bucket", &self.bucket];
        self.command(&words)
    }

    /// The place at the server, with the directory `dir`.
    fn at_server(&self, dir: &Path) -> Place {
        let bucket = Some(bucket(&self.bucket, Duration::from_secs(3600)));
        Place { catalogue: Some(self.catalogue.clone()), bucket, ..Place::from(dir) }
    }
}

fn flags(first: &[&str]) -> Vec<String> {
    first.iter().chain(&["-maxver", "0", "-grace", "24h"]).map(|&word| word.to_owned()).collect()
}

fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Opens the registry, or returns why it does not start.
async fn start(place: impl Into<Place>) -> Result<Registry, String> {
    Registry::open(place, settings()).await.map_err(|err| err.to_string())
}

async fn stop(registry: Registry) {
    registry.catalog.close().await;
}

/// Fills a new registry: versions of ten components, histories, pins, an image and an upload that
/// waits to be bound.
async fn fill(dir: &Path, blobs: usize) {
    let registry = start(dir).await.unwrap();
    let catalog = &registry.catalog;
    for n in 0..blobs {
        let digest = upload(&registry, &archive(&format!("blob {n}"))).await;
        let (component, version) = (format!("c{}", n % 10), format!("v{}", n / 10));
        let (component, version) = (component.parse().unwrap(), version.parse().unwrap());
        registry.add_version(&component, &version, digest, &change()).await.unwrap();
    }
    for state in 0..blobs / 10 {
        for name in ["web", "db", "app_3"].into_iter().take(1 + state % 3) {
            let version = format!("v{state}").parse().unwrap();
            let layers = [("c1".parse().unwrap(), version), layer("c2", "v0")];
            let name = name.parse().unwrap();
            catalog.add_configuration(&name, &layers, true, &change()).await.unwrap();
        }
    }
    let texts = ["a", "b"];
    for text in texts {
        upload(&registry, &archive(text)).await;
    }
    let of_image = |text: &str| ImageLayer {
        component: format!("i{text}").parse().unwrap(),
        hash: Digest::of(&archive(text)),
        origin: Some(Origin {
            diff_id: Digest::of(text.as_bytes()),
            removals: Digest::of(b""),
            compression: Compression::Gzip,
        }),
    };
    let image = Image { layers: texts.map(of_image).into() };
    registry.add_image(&"img".parse().unwrap(), &image, &[], &change()).await.unwrap();
    upload(&registry, &archive("waits")).await;
    stop(registry).await;
}

fn layer(
    component: &str,
    version: &str,
) -> (deploy_store::ComponentName, deploy_store::VersionName) {
    (component.parse().unwrap(), version.parse().unwrap())
}

/// What operators do, and what agents report.
fn use_fleet(rig: &Rig) {
    let mut watches: Vec<Watch> = (0..3)
        .map(|n| Watch::begin(rig, "srv", "web", &format!("web-0{n}"), &format!("a{n}")))
        .collect();
    for watch in &mut watches {
        let offer = watch.offer();
        watch.healthy(1, &offer);
    }
    let bad = json!({
        "seq": 2, "phase": "failed", "reason": "script", "message": "no\u{fc} \"such\" table",
        "exit_code": 3, "output": "the end of the output",
    });
    watches[0].report(&bad);
    for line in [
        "pin -name c3 -version v1 -m 'for the audit'",
        "host label web-01 group=canary",
        "host hold web-02 -m 'new disk'",
        "freeze -name db -m 'Black Friday' -for 200h",
        "window set canary -times 'Mon-Fri 22:00-06:00 UTC'",
        "rollout policy set careful -waves 1,100% -soak 5m -max-failed 0",
        "rollout policy use careful -name img",
        "rollback -name web",
        "rollout start -name web -layer c2:v1 -waves canary,100% -soak 5m",
    ] {
        rig.ok(line);
    }
    wait_until("the first wave opens", || {
        let status: Value =
            serde_json::from_str(&rig.ok("rollout status -name web -json")).unwrap();
        status["waves"].as_array().is_some_and(|waves| !waves.is_empty())
    });
}

/// What clients see of a registry. Only lines that the move may change are left out.
fn seen(rig: &Rig) -> Vec<String> {
    let mut all = vec![rig.ok("audit -limit 5000")];
    let configurations = ["web", "db", "app_3", "img"];
    for name in configurations {
        all.push(rig.ok(&format!("history -name {name}")));
        all.push(rig.ok(&format!("showconf -name {name}")));
        rig.sftp("srv", "deploy-agent", &format!("get configs/{name}.json document"));
        all.push(fs::read_to_string(rig.path("document")).unwrap());
    }
    for line in [
        "components",
        "showcomp -name c3",
        "events -since 0",
        "window list",
        "rollout policy list",
        "rollout status -name web -json",
        "refs -name c3 -version v1",
    ] {
        all.push(format!("{line}\n{}", rig.ok(line)));
    }
    let stat: Value = serde_json::from_str(&rig.ok("stat -json")).unwrap();
    for field in [
        "components",
        "versions",
        "pins",
        "configurations",
        "states",
        "files",
        "uploads",
        "bound_bytes",
        "damaged",
    ] {
        all.push(format!("{field} {}", stat[field]));
    }
    let verified = rig.ok("verify -json");
    let verified: Value = serde_json::from_str(&verified).unwrap();
    all.push(format!("{} {}", verified["findings"], verified["bytes"]));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_moves_to_a_server_and_back_with_everything() {
    let Some(mut moving) = Move::new(2000).await else { return };
    moving.rig.run();
    use_fleet(&moving.rig);
    let before = seen(&moving.rig);
    assert!(before.iter().any(|text| text.contains("files {\"bytes\":")), "{before:#?}");
    moving.rig.stop("-TERM");
    let files = names(&moving.dir().join("files"));
    assert_eq!(files.len(), 2002);
    let meter = Meter::default();
    let open = async |dir: &Path, url: Option<&str>| {
        Catalog::open_to_migrate(dir, url, &Meter::default()).await.unwrap()
    };
    let source = open(&moving.dir(), None).await;
    let sums = source.sum_tables(&meter).await.unwrap();
    let empty: Vec<&str> = sums.iter().filter(|sum| sum.rows == 0).map(|sum| sum.table).collect();
    assert_eq!(empty, ["removed_histories"], "the test does not fill these tables");
    source.close().await;

    let report = ok(moving.forward());
    assert!(report.contains("files           2002, "), "{report}");
    assert!(report.contains("uploads         1\n"), "{report}");
    assert!(report.contains("start the registry with: -dir reg -catalogue '"), "{report}");
    let copy = open(&moving.dir(), Some(&moving.catalogue)).await;
    assert_eq!(differences(&sums, &copy.sum_tables(&meter).await.unwrap()), [""; 0]);
    copy.close().await;
    // The old place is complete and refuses to start.
    assert_eq!(names(&moving.dir().join("files")), files);
    let refused = start(&*moving.dir()).await.unwrap_err();
    assert!(refused.contains("the registry has moved to postgres://"), "{refused}");
    assert!(refused.contains("deploy-registry migrate -back"), "{refused}");

    moving.rig.flags = flags(&["-catalogue", &moving.catalogue, "-bucket", &moving.bucket]);
    moving.rig.run();
    assert_eq!(seen(&moving.rig), before);
    // The upload that waited can be bound, and the counters continue.
    let waits = Digest::of(&archive("waits"));
    moving.rig.ok(&format!("addver -name c3 -version new -hash {waits}"));
    let now = seen(&moving.rig);
    moving.rig.stop("-TERM");

    let source = open(&moving.dir(), Some(&moving.catalogue)).await;
    let sums = source.sum_tables(&meter).await.unwrap();
    source.close().await;
    let report = ok(moving.back("back"));
    assert!(report.contains("files           2003, "), "{report}");
    assert!(report.contains("copy host_key from the registry's old directory to back"), "{report}");
    let copy = open(&moving.rig.path("back"), None).await;
    assert_eq!(differences(&sums, &copy.sum_tables(&meter).await.unwrap()), [""; 0]);
    copy.close().await;
    let refused = start(moving.at_server(&moving.dir())).await.unwrap_err();
    assert!(refused.contains("has moved to the directory "), "{refused}");
    fs::rename(moving.rig.path("reg"), moving.rig.path("old")).unwrap();
    fs::rename(moving.rig.path("back"), moving.rig.path("reg")).unwrap();
    fs::copy(moving.rig.path("old/host_key"), moving.rig.path("reg/host_key")).unwrap();
    moving.rig.flags = flags(&["-catalogue", "", "-bucket", ""]);
    moving.rig.run();
    assert_eq!(seen(&moving.rig), now);
}

/// The output of a migration that is refused with this exit code.
fn refusal(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", both(output));
    let text = both(output);
    text.split_once("error: ").unwrap().1.trim_end().to_owned()
}
