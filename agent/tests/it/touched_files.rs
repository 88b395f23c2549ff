//! Tests changes that a service makes to files of its root, if the files are hardlinks of cached
//! objects. The next root has the right contents, regardless of the way in which the agent makes
//! that root. The agent reports a damaged file of the cache once, and a damaged file of a root
//! once, both by name.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::bench::{Agent, Bench, deployed, says};
use deploy_testing::eventually;

/// How the agent makes the next root.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Spare,
    Placing,
    Rollback,
}

type Damage = fn(&Path);

fn current(bench: &Bench) -> std::path::PathBuf {
    bench.path("a1/unpacked").join(bench.state().unwrap().id().to_string())
}

fn is_right(bench: &Bench, mtime: i64, what: &str) {
    let file = current(bench).join("bin");
    assert_eq!(fs::read_to_string(&file).unwrap(), "run", "{what}");
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o644, mtime), "{what}");
}

#[test]
fn files_changed_by_a_service_never_reach_the_next_root() {
    let damages: [(&str, Damage); 4] = [
        ("overwritten", |path| {
            // The file keeps its length, so only the time shows the write.
            File::options().write(true).open(path).unwrap().write_all(b"xyz").unwrap();
        }),
        ("cut off", |path| File::options().write(true).open(path).unwrap().set_len(1).unwrap()),
        ("closed", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap()),
        ("deleted", |path| fs::remove_file(path).unwrap()),
    ];
    for way in [Way::Spare, Way::Placing, Way::Rollback] {
        for (name, damage) in damages {
            let what = format!("{name}, {way:?}");
            let bench = Bench::new();
            bench.first_configuration();
            let mut flags = vec!["-link", "hardlink"];
            if way == Way::Placing {
                flags.push("-no-spare");
            }
            File::create(bench.path("agent.log")).unwrap();
            let agent = Agent::start(&bench, &flags);
            says(&bench, &["sync"], 0, "");
            let mtime = fs::metadata(current(&bench).join("bin")).unwrap().mtime();
            let spare_is_ready = |nth: usize| {
                eventually("the spare is made", || {
                    bench.agent_log().matches("spare root made").count() == nth
                });
            };
            if way != Way::Placing {
                spare_is_ready(1);
            }
            damage(&current(&bench).join("bin"));
            bench.bump("v02", "two\n");
            says(&bench, &["sync"], 0, "switched");
            is_right(&bench, mtime, &what);
            if way == Way::Rollback {
                spare_is_ready(2);
                says(&bench, &["rollback"], 0, "rolled back");
                assert_eq!(deployed(&bench), "v01");
                is_right(&bench, mtime, &what);
            }
            let log = bench.agent_log();
            let told = |words: &str| {
                log.lines().filter(|line| line.contains(words) && line.ends_with(": bin")).count()
            };
            // A removed name or a changed mode does not damage the contents of the cached object.
            let kept = matches!(name, "deleted" | "closed");
            let in_cache = usize::from(!kept);
            let in_root = usize::from(way == Way::Rollback);
            assert_eq!(told("made again"), in_cache, "{what}: {log}");
            assert_eq!(told("rebuilds the root"), in_root, "{what}: {log}");
            let from_spare = log.contains("ready: the spare, ");
            let expected = match way {
                Way::Spare => kept,
                Way::Placing => false,
                Way::Rollback => true,
            };
            assert_eq!(from_spare, expected, "{what}: {log}");
            agent.stop();
        }
    }
}

#[test]
fn writable_files_are_private_copies_and_changes_to_them_are_not_damage() {
    let bench = Bench::new();
    bench.first_configuration();
    File::create(bench.path("agent.log")).unwrap();
    let agent = Agent::start(&bench, &["-link", "hardlink", "-writable", "/b*", "-writable", "x"]);
    says(&bench, &["sync"], 0, "");
    let file = current(&bench).join("bin");
    let mtime = fs::metadata(&file).unwrap().mtime();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
    assert!(fs::metadata(current(&bench).join("conf")).unwrap().nlink() > 1);
    eventually("the spare is made", || bench.agent_log().contains("spare root made"));
    fs::write(&file, "mine").unwrap();
    says(&bench, &["verify"], 0, "all sound");
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "switched");
    is_right(&bench, mtime, "after a bump");
    says(&bench, &["verify"], 0, "all sound");
    let log = bench.agent_log();
    assert!(log.contains("ready: the spare, "), "{log}");
    assert!(!log.contains("warning"), "{log}");
    agent.stop();
    let (code, said) = bench.once(&["-writable", "a["]);
    assert!(code == Some(1) && said.contains("-writable") && said.contains("a["), "{said}");
}
