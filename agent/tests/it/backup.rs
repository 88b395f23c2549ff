//! Makes backups of a running registry, and restores the backups.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::site::{Site, both, top};

fn site() -> Site {
    let mut site = Site::new();
    site.put_script("cp \"$NEWROOT/config\" deployed.new && mv deployed.new deployed");
    site.start_registry("registry");
    for version in ["v0", "w0"] {
        site.archive("config.tgz", "config", version);
        let component = if version == "v0" { "config" } else { "other" };
        site.operator(&["addver", "-name", component, "-version", version, "-file", "config.tgz"]);
    }
    site.operator(&["addconf", "-name", "p", "-layer", "config:v0"]);
    site
}

fn add(site: &Site, version: &str) {
    let archive = format!("{version}.tgz");
    fs::create_dir_all(site.path(version)).unwrap();
    fs::write(site.path(&format!("{version}/config")), version).unwrap();
    let mut tar = Command::new("tar");
    let made = tar.args(["-czf", &archive, "-C", version, "config"]).current_dir(site.dir.path());
    assert!(made.status().unwrap().success());
    site.operator(&["addver", "-name", "config", "-version", version, "-file", &archive]);
    site.operator(&["changeconf", "-name", "p", "-component", "config", "-version", version]);
}

#[test]
fn backup_of_a_running_registry_is_complete_and_usable() {
    let mut site = site();
    site.start_agent("p");
    site.wait_until("v0 is deployed", |site| site.text("deployed") == "v0");
    let (done, mut outputs) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        let (site, done, outputs) = (&site, &done, &mut outputs);
        scope.spawn(move || {
            for n in 1.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                add(site, &format!("v{n}"));
                // Deletes old versions, possibly while a backup runs.
                if n > 3 {
                    site.try_operator(&[
                        "delver",
                        "-force",
                        "-name",
                        "config",
                        "-version",
                        &format!("v{}", n - 3),
                    ]);
                    site.operator(&["gc"]);
                }
            }
        });
        for _ in 0..5 {
            outputs.push(site.script("backup-registry", &["registry", "backup"]));
            std::thread::sleep(Duration::from_millis(50));
        }
        done.store(true, Ordering::Relaxed);
    });
    // The assertions follow only after the end of the other thread, because a panic before that end
    // would leave the other thread running forever.
    for output in outputs {
        assert!(output.status.success(), "{}", both(&output));
    }
    let last = site.script("backup-registry", &["-prune", "registry", "backup"]);
    assert!(last.status.success(), "{}", both(&last));
    let (conf, history) = (
        site.operator(&["showconf", "-v", "-name", "p"]),
        site.operator(&["history", "-name", "p"]),
    );
    let version = conf.lines().find(|line| line.starts_with("config")).unwrap();
    let version = version.split_whitespace().nth(1).unwrap().to_owned();
    site.wait_until("the last version is deployed", |site| site.text("deployed") == version);

    // The test imitates the loss of the registry's machine. The registry that is restored on
    // another machine has the same address and key.
    site.kill_registry();
    fs::rename(site.path("registry"), site.path("lost")).unwrap();
    let restored = site.script("restore-registry", &["backup", "elsewhere"]);
    assert!(restored.status.success(), "{}", both(&restored));
    let fingerprint = site.fingerprint.clone();
    site.start_registry("elsewhere");
    assert_eq!(site.fingerprint, fingerprint);
    // `operator` also checks that the exit code is 0.
    let verified = site.operator(&["verify"]);
    assert!(verified.contains(": 0 damaged"), "{verified}");
    assert_eq!(site.operator(&["showconf", "-v", "-name", "p"]), conf);
    assert_eq!(site.operator(&["history", "-name", "p"]), history);
    add(&site, "after");
    site.wait_until("the agent deploys again", |site| site.text("deployed") == "after");
    assert!(site.agent_runs());
}

#[test]
fn restore_refuses_an_existing_registry() {
    let mut site = site();
    let output = site.script("backup-registry", &["registry", "backup"]);
    assert!(output.status.success(), "{}", both(&output));
    let refused = |words: &[&str], why: &str| {
        let output = site.script("restore-registry", words);
        let text = both(&output);
        assert!(!output.status.success() && text.contains(why), "{words:?}: {text}");
    };
    refused(&["backup", "registry"], "a registry runs on registry");
    site.kill_registry();
    let refused = |words: &[&str], why: &str| {
        let output = site.script("restore-registry", words);
        let text = both(&output);
        assert!(!output.status.success() && text.contains(why), "{words:?}: {text}");
    };
    refused(&["backup", "registry"], "registry is in use: it has catalogue.db");
    fs::create_dir(site.path("half")).unwrap();
    refused(&["half", "new"], "half is not a complete backup: it lacks catalogue.db");
    assert!(!site.path("new").exists());
    let run = site.script("backup-registry", &["half", "backup"]);
    assert!(!run.status.success() && both(&run).contains("is not the directory of a registry"));
    fs::write(site.path("registry/moved.json"), "{}").unwrap();
    let run = site.script("backup-registry", &["registry", "backup"]);
    assert!(!run.status.success() && both(&run).contains("has moved to a database server"));
}

#[test]
fn backup_and_restore_refuse_damaged_blobs() {
    let site = site();
    let backup = || site.script("backup-registry", &["registry", "backup"]);
    assert!(backup().status.success());
    add(&site, "v1");
    let new = fs::read_dir(site.path("registry/files"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| !site.path(&format!("backup/files/{name}")).exists())
        .unwrap();
    let path = site.path(&format!("registry/files/{new}"));
    let good = fs::read(&path).unwrap();
    fs::write(&path, "bad").unwrap();
    let output = backup();
    assert!(!output.status.success() && both(&output).contains(&new), "{}", both(&output));
    assert!(!site.path(&format!("backup/files/{new}")).exists());
    fs::write(&path, good).unwrap();
    assert!(backup().status.success());
    fs::write(site.path(&format!("backup/files/{new}")), "bad").unwrap();
    let restored = site.script("restore-registry", &["backup", "elsewhere"]);
    assert_eq!(restored.status.code(), Some(3), "{}", both(&restored));
    assert!(
        both(&restored).contains(&new) && !site.path(&format!("elsewhere/files/{new}")).exists()
    );
}

#[test]
fn backup_shows_copied_bytes_on_a_terminal() {
    let mut site = site();
    fs::create_dir(site.path("bin")).unwrap();
    let slow = "#!/bin/sh\nsleep 1.1\nPATH=${PATH#*:} exec sha256sum \"$@\"\n";
    fs::write(site.path("bin/sha256sum"), slow).unwrap();
    fs::set_permissions(site.path("bin/sha256sum"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", site.path("bin").display(), std::env::var("PATH").unwrap());
    let on_terminal = |site: &Site, words: &str| {
        let line = format!("{}/scripts/{words}", top().display());
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("PATH", &path).stdin(Stdio::null());
        let output = script.current_dir(site.dir.path()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", both(&output));
        both(&output)
    };
    let shown = on_terminal(&site, "backup-registry registry backup");
    let (bars, result) = shown.rsplit_once(" \r").unwrap();
    assert_eq!(result, "backed up to backup: 2 files copied, 0 removed, 2 in all\r\n");
    assert!(bars.starts_with("copied ") && bars.contains("(100%), "), "{shown:?}");
    assert!(bars.split('\r').all(|bar| bar.len() < 80), "{shown:?}");
    site.kill_registry();
    let shown = on_terminal(&site, "restore-registry backup new");
    assert!(shown.contains("(100%), ") && shown.ends_with(" \rrestored to new: 2 files\r\n"));
    let shown = on_terminal(&site, "restore-registry -q backup other");
    assert_eq!(shown, "restored to other: 2 files\r\n");
}
