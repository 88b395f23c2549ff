//! Tests the use of existing roots. A rollback to a kept root needs no registry, and the agent
//! never removes a root that a service may still use.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Agent, Bench, deployed, says};
use deploy_store::Digest;
use deploy_testing::{directories, eventually};

fn root(bench: &Bench) -> PathBuf {
    bench.path("a1/unpacked").join(bench.state().unwrap().id().to_string())
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn append(path: &Path) {
    File::options().append(true).open(path).unwrap().write_all(b"more\n").unwrap();
}

fn end_registry(bench: &Bench) {
    let pid = bench.registry.process.id().to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
}

fn replaced(bench: &Bench) -> Vec<PathBuf> {
    let unpacked = fs::read_dir(bench.path("a1/unpacked")).unwrap();
    let paths = unpacked.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("/.replaced-")).collect()
}

/// Changes the configuration to another version of the component, which has the same tree.
fn relabel(bench: &Bench) {
    let digest = Digest::of(&fs::read(bench.path("blob.tar.gz")).unwrap());
    bench.operator("ssh", &[&format!("addver -name config -version again -hash {digest}")], "");
    bench.operator("ssh", &["bumpconf -name project1 -component config"], "");
}

const TELLING: &str = "#!/bin/sh\necho \"$OLDID $OLDROOT $NEWROOT\" >told\necho run >>runs\n";

#[test]
fn rollback_to_a_kept_root_needs_no_registry() {
    for (dir, link) in
        directories().iter().flat_map(|dir| ["hardlink", "auto", "copy"].map(|it| (dir, it)))
    {
        for beside in [true, false] {
            let what = format!("{link}, {}, {beside}", dir.display());
            let bench = Bench::within(dir);
            bench.first_configuration();
            let agent = Agent::start(&bench, &["-link", link]);
            says(&bench, &["sync"], 0, "");
            let first = root(&bench);
            bench.bump("v02", "two\n");
            says(&bench, &["sync"], 0, "switched");
            let agent = if beside {
                Some(agent)
            } else {
                agent.stop();
                None
            };
            end_registry(&bench);
            append(&first.join("conf"));
            let found = inode(&first);
            // The registry has ended. If no agent runs, the test also removes the cached objects,
            // so that the root can be neither rebuilt nor repaired.
            let mended = beside && link != "hardlink" && {
                let stat = Command::new("stat").args(["-f", "-c", "%T"]).arg(dir).output().unwrap();
                link == "copy" || !String::from_utf8(stat.stdout).unwrap().contains("ext")
            };
            if !beside {
                fs::remove_dir_all(bench.path("a1/objects")).unwrap();
            }
            let said = says(&bench, &["rollback"], 0, "rolled back");
            assert_eq!(deployed(&bench), "v01", "{what}");
            let conf = fs::read_to_string(first.join("conf")).unwrap();
            if mended {
                assert_eq!(conf, "one\n", "{what}");
                assert!(!said.out.contains("changed "), "{what}: {}", said.out);
            } else {
                assert_eq!((conf.as_str(), inode(&first)), ("one\nmore\n", found), "{what}");
                assert!(said.out.contains("changed     conf\n"), "{what}: {}", said.out);
                let log = if beside { bench.agent_log() } else { said.err };
                assert!(
                    log.contains("uses the changed root, because the root cannot be rebuilt"),
                    "{log}"
                );
            }
            assert_eq!(
                replaced(&bench),
                [""; 0].map(PathBuf::from),
                "{what}: a replaced root remains"
            );
            if let Some(agent) = agent {
                agent.stop();
            }
        }
    }
}

#[test]
fn rollback_uses_a_kept_root_that_has_no_record_and_no_layers() {
    for dir in directories() {
        let bench = Bench::within(&dir);
        bench.first_configuration();
        assert_eq!(bench.once(&[]).0, Some(0));
        let first = root(&bench);
        bench.bump("v02", "two\n");
        assert_eq!(bench.once(&[]).0, Some(0));
        for lost in ["roots", "layers", "objects"] {
            fs::remove_dir_all(bench.path("a1").join(lost)).unwrap();
        }
        let found = inode(&first);
        let agent = Agent::start(&bench, &[]);
        end_registry(&bench);
        says(&bench, &["rollback"], 0, "rolled back");
        assert_eq!((deployed(&bench), inode(&first)), ("v01".to_owned(), found));
        let told = "has no record and cannot be compared with its layers";
        assert!(bench.agent_log().contains(told), "{}", bench.agent_log());
        agent.stop();
    }
}

#[test]
fn modified_kept_root_is_rebuilt_if_possible() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    let first = root(&bench);
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "switched");
    // The agent can get the layers of the configuration, so it rebuilds the kept root.
    fs::remove_file(first.join("conf")).unwrap();
    let kept = inode(&first);
    let told = says(&bench, &["rollback"], 0, "rolled back");
    assert!(!told.out.contains("changed "), "{}", told.out);
    assert_eq!(fs::read_to_string(first.join("conf")).unwrap(), "one\n");
    assert_ne!(inode(&first), kept);
    agent.stop();
}

#[test]
fn root_in_use_without_a_record_is_adopted_unless_a_file_is_missing() {
    for (written, missing) in [(false, false), (true, false), (false, true)] {
        for dir in directories() {
            let bench = Bench::within(&dir);
            bench.first_configuration();
            bench.script(TELLING);
            Agent::start(&bench, &[]).stop();
            assert_eq!(bench.once(&[]).0, Some(0));
            let live = root(&bench);
            let found = inode(&live);
            if written {
                // The file in the root may be a hardlink of a cached file, so the test replaces the
                // file and does not write to it.
                fs::write(live.join("copy"), "one\nmore\n").unwrap();
                fs::rename(live.join("copy"), live.join("conf")).unwrap();
            }
            if missing {
                fs::remove_file(live.join("conf")).unwrap();
            }
            for name in ["roots", "objects", "layers"] {
                fs::remove_dir_all(bench.path("a1").join(name)).unwrap();
            }
            relabel(&bench);
            let agent = Agent::start(&bench, &[]);
            eventually("the agent has deployed", || deployed(&bench) == "again");
            says(&bench, &["sync"], 0, "up to date");
            let told = fs::read_to_string(bench.path("told")).unwrap();
            let id = bench.state().unwrap().id();
            if missing {
                assert_ne!(inode(&live), found);
                let aside = bench.path(&format!("a1/unpacked/.replaced-{id}"));
                assert_eq!(told, format!("{id} {} {}\n", aside.display(), live.display()));
            } else {
                assert_eq!(inode(&live), found, "written: {written}");
                assert_eq!(told, format!("  {}\n", live.display()));
            }
            let log = bench.agent_log();
            assert_eq!(log.contains("adopts the changed root"), written, "{log}");
            agent.stop();
        }
    }
}

#[test]
fn root_in_use_survives_the_loss_of_the_state_file() {
    for dir in directories() {
        let bench = Bench::within(&dir);
        bench.first_configuration();
        bench.script(TELLING);
        let agent = Agent::start(&bench, &[]);
        says(&bench, &["sync"], 0, "");
        let live = root(&bench);
        let found = inode(&live);
        agent.stop();
        fs::remove_file(bench.path("state.json")).unwrap();
        let agent = Agent::start(&bench, &[]);
        says(&bench, &["sync"], 0, "");
        assert_eq!(inode(&live), found, "an unmodified root was replaced");
        agent.stop();

        fs::remove_file(live.join("conf")).unwrap();
        fs::remove_file(bench.path("state.json")).unwrap();
        let agent = Agent::start(&bench, &[]);
        says(&bench, &["sync"], 0, "");
        assert_ne!(inode(&live), found);
        assert_eq!(fs::read_to_string(live.join("conf")).unwrap(), "one\n");
        // The script did not get this root as its old root, so a service may still use this root.
        assert_eq!(replaced(&bench).iter().map(|path| inode(path)).collect::<Vec<_>>(), [found]);
        says(&bench, &["gc", "-n"], 0, ".replaced-");
        bench.bump("v02", "two\n");
        says(&bench, &["sync"], 0, "switched");
        assert_eq!(replaced(&bench), [""; 0].map(PathBuf::from));
        agent.stop();
    }
}
