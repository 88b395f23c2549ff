//! Tests the switch from the Go tool to this agent, and back. The registry and the agent take over
//! the directories of a Go registry and of a Go agent. The tests also check the facts that a Go
//! agent relies on when it takes over the agent's directory again. The Go tool made these
//! directories; see `registry/tests/go/README.md`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::site::{Site, both, top};
use deploy_store::disk::Lock;
use deploy_store::{Configuration, Digest};

/// `BEFORE` is the id of the configuration that the Go agent had deployed. `OFFERED` is the id of
/// the Go registry's configuration.
const BEFORE: &str = "6c5bf8707287cb3f6d59b0e771721499fd3ce8fd34fa9aec8f0b1449d1af52fc";
const OFFERED: &str = "97cc2a60857ac851d1523bfdb5caf3e10bee323f2f4bec6895e11805ef2772c6";

/// Copies of the two directories, with the file modes that the Go tool uses, and a running
/// registry.
fn site() -> Site {
    let mut site = Site::new();
    let go = top().join("registry/tests/go");
    for name in ["registry", "agent"] {
        let copied = Command::new("cp").arg("-r").arg(go.join(name)).arg(site.dir.path()).status();
        assert!(copied.unwrap().success());
    }
    let private = ["registry/host_key", "registry/state.db"].map(|name| site.path(name));
    let cached = ["registry/files", "agent/cache"].map(|dir| fs::read_dir(site.path(dir)).unwrap());
    let cached = cached.into_iter().flatten().map(|entry| entry.unwrap().path());
    for path in private.into_iter().chain(cached) {
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    site.put_script("env | grep -E '^(OLD|NEW)(ID|ROOT)=' | sort > deployed");
    site.start_registry("registry");
    site
}

fn read_all(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The files of a directory, without `link-*`. The copied directories have regular files in the
/// place of these symlinks.
fn files_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = read_all(dir);
    files.retain(|(name, _)| !name.starts_with("link-"));
    files
}

/// Checks the facts that the Go agent relies on: the state file has the registry's JSON format, a
/// mark is beside the root, and all cached blobs are complete.
fn check_for_go(site: &Site) {
    let json = fs::read(site.path("agent/state.json")).unwrap();
    let state = Configuration::from_json(&json).unwrap();
    assert_eq!(state.to_json(), json);
    let root = site.path(&format!("agent/unpacked/{}", state.id()));
    assert!(root.is_dir() && root.with_extension("ok").is_file(), "{}", root.display());
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o755);
    for (name, bytes) in read_all(&site.path("agent/cache")) {
        assert_eq!(Digest::of(&bytes).to_string(), name);
    }
}

#[test]
fn directory_of_a_go_agent_is_taken_over_and_stays_usable_by_the_go_agent() {
    let site = site();
    let unpacked = site.path("agent/unpacked");
    let by_go = files_of(&unpacked.join(OFFERED).join("etc"));
    let once = |site: &Site| {
        let output = site.agent("project1").args(["-once", "-keep-blobs"]).output().unwrap();
        assert!(output.status.success(), "{}", both(&output));
        both(&output)
    };
    let log = once(&site);
    let (old, new) = (unpacked.join(BEFORE), unpacked.join(OFFERED));
    let (old, new) = (old.display(), new.display());
    let want = format!("NEWID={OFFERED}\nNEWROOT={new}\nOLDID={BEFORE}\nOLDROOT={old}\n");
    assert_eq!(site.text("deployed"), want);
    // The agent used the cache, and downloaded only the configuration.
    assert!(log.contains("downloaded 0 of 2 layers: 0 bytes"), "{log}");
    let served = fs::read(top().join("registry/tests/go/configs/project1.json")).unwrap();
    assert_eq!(fs::read(site.path("agent/state.json")).unwrap(), served);
    assert_eq!(files_of(&unpacked.join(OFFERED).join("etc")), by_go);
    check_for_go(&site);
    let status = site.agent("project1").arg("status").output().unwrap();
    assert!(both(&status).contains(OFFERED), "{}", both(&status));
    // A Go agent that takes over the directory again finds its earlier root and the mark beside it.
    assert!(unpacked.join(format!("{BEFORE}.ok")).exists());
    fs::copy(top().join("registry/tests/go/agent/state.json"), site.path("agent/state.json"))
        .unwrap();
    check_for_go(&site);
    once(&site);
    assert_eq!(site.text("deployed"), want);
    check_for_go(&site);
    let verified = site.agent("project1").arg("verify").output().unwrap();
    assert!(verified.status.success(), "{}", both(&verified));
}

#[test]
fn unfinished_work_of_a_go_agent_is_completed() {
    let site = site();
    // Damages the root, but keeps its mark, as if something had changed the root after the Go agent
    // had completed it.
    let etc = site.path(&format!("agent/unpacked/{OFFERED}/etc"));
    let want = files_of(&etc);
    fs::write(etc.join("code.txt"), "changed").unwrap();
    fs::remove_file(etc.join("config.txt")).unwrap();
    // Adds an interrupted download, and a cached file with wrong bytes.
    fs::write(site.path("agent/cache/temp-12345"), "part").unwrap();
    let cached = read_all(&site.path("agent/cache"))[0].0.clone();
    fs::write(site.path(&format!("agent/cache/{cached}")), "other bytes").unwrap();
    fs::write(site.path("agent/state.json"), "{\"Name\": ").unwrap();
    let output = site.agent("project1").args(["-once"]).output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(files_of(&etc), want);
    assert!(etc.join("link-code").is_symlink());
    assert!(site.text("deployed").contains("OLDID=\n"), "{}", site.text("deployed"));
    check_for_go(&site);
}

#[test]
fn running_go_agent_is_reported_and_left_alone() {
    let site = site();
    let before = fs::read(site.path("agent/state.json")).unwrap();
    // The Go agent's lock is a flock on the directory itself.
    let lock = Lock::take(&site.path("agent")).unwrap();
    let output = site.agent("project1").arg("-once").output().unwrap();
    let text = both(&output);
    assert!(!output.status.success());
    let pid = format!("(pid {})", std::process::id());
    assert!(text.contains("in use by another process") && text.contains(&pid), "{text}");
    assert!(text.contains("stop that process first"), "{text}");
    assert_eq!(fs::read(site.path("agent/state.json")).unwrap(), before);
    assert!(!site.path("agent/objects").exists(), "the agent created files");
    drop(lock);
    // A running agent holds the same lock, so the Go agent cannot start.
    let mut site = site;
    site.start_agent("project1");
    site.wait_until("the agent deploys", |site| site.text("agent/state.json").contains(OFFERED));
    assert!(Lock::take(&site.path("agent")).is_err());
}

#[test]
fn agent_deploys_every_configuration_of_a_go_registry() {
    let site = site();
    for (n, name) in ["project1", "service-2", "odd: name"].into_iter().enumerate() {
        let dir = format!("new{n}");
        let mut agent = site.agent(name);
        let output = agent.args(["-once", "-dir", &dir, "-state", &format!("{dir}.json")]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{name}: {}", both(&output));
        let served =
            fs::read(top().join(format!("registry/tests/go/configs/{name}.json"))).unwrap();
        assert_eq!(fs::read(site.path(&format!("{dir}.json"))).unwrap(), served, "{name}");
        let id = Configuration::from_json(&served).unwrap().id();
        assert!(site.path(&format!("{dir}/unpacked/{id}")).is_dir(), "{name}");
    }
}

#[test]
fn script_log_is_not_written_through_a_symlink() {
    let site = site();
    fs::write(site.path("victim"), "mine").unwrap();
    std::os::unix::fs::symlink(site.path("victim"), site.path("agent/script.log")).unwrap();
    site.put_script("echo loud");
    let output = site.agent("project1").args(["-once"]).output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(site.text("victim"), "mine");
    assert_eq!(site.text("agent/script.log"), "loud\n");
    assert!(!site.path("agent/script.log").is_symlink());
}

#[test]
fn current_symlink_of_an_interrupted_deploy_is_corrected() {
    let site = site();
    let once = || {
        let output =
            site.agent("project1").args(["-once", "-current", "current"]).output().unwrap();
        assert!(output.status.success(), "{}", both(&output));
        both(&output)
    };
    once();
    let deployed = fs::read_link(site.path("current")).unwrap();
    // Imitates the symlink of an interrupted deploy. The registry no longer has that configuration.
    fs::remove_file(site.path("current")).unwrap();
    std::os::unix::fs::symlink(site.path("elsewhere"), site.path("current")).unwrap();
    let log = once();
    assert!(log.contains("the agent corrected the symlink"), "{log}");
    assert_eq!(fs::read_link(site.path("current")).unwrap(), deployed);
    let log = once();
    assert!(!log.contains("the agent corrected the symlink"), "{log}");
}
