//! Tests the protection against mistakes: a change that would discard layers, use a damaged blob or
//! delete a version that may be needed. Also tests the advice in the refusals, and busy registries.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use crate::raw::Raw;
use crate::rig::{Rig, both};

const GO: &str = "SSH-2.0-Go";
const DEPLOYCTL: &str = "SSH-2.0-deploy-tools_0.9.0";

/// Makes versions `code:v1`, `code:v2` and `other:v1`. Returns their digests.
fn versions(rig: &Rig) -> [String; 3] {
    [("code", "v1"), ("code", "v2"), ("other", "v1")].map(|(component, version)| {
        let name = format!("{component}-{version}.tgz");
        let digest = rig.archive(&name, name.as_bytes());
        rig.put(&name);
        rig.ok(&format!("addver -name {component} -version {version} -hash {digest}"));
        digest
    })
}

fn run(rig: &Rig, line: &str) -> (i32, String) {
    let output = rig.ssh("op", "me", &[line]);
    (output.status.code().unwrap(), both(&output))
}

fn layers(rig: &Rig) -> String {
    let shown = rig.ok("showconf -name p");
    let names = shown.lines().map(|line| {
        let mut words = line.split_whitespace();
        format!("{}:{}", words.next().unwrap(), words.next().unwrap())
    });
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn addconf_replaces_only_with_the_flag() {
    let mut rig = Rig::start();
    versions(&rig);
    rig.ok("addconf -name p -layer code:v1 -layer other:v1");
    let (code, said) = run(&rig, "addconf -name p -layer code:v2");
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("already exists and would lose code:v1, other:v1;"), "{said}");
    assert!(said.contains("addconf -replace"), "{said}");
    let (code, said) = run(&rig, "addconf -name p -layer code:v1 -layer other:v1");
    assert!(code == 6 && said.contains("already exists and has these layers"), "{said}");
    assert_eq!(layers(&rig), "code:v1 other:v1");
    assert!(rig.ok("audit -limit 1").contains("already exists"));
    let said = rig.ok("addconf -name p -layer code:v2 -replace");
    assert_eq!(said, "to roll back run:\n\tssh registry rollback -name=\"p\" -to=1\n");
    assert_eq!(layers(&rig), "code:v2");

    // The Go tool's programs do not have the flag `-replace`, so their `addconf` always replaces.
    let mut go = Raw::log_in_as(&rig, "op", "me", GO);
    let done = go.run("addconf -name p -layer code:v1");
    assert_eq!(done, (0, "to roll back run:\n\trollback -name=\"p\" -to=2\n".to_owned()));
    let mut ours = Raw::log_in_as(&rig, "op", "me", DEPLOYCTL);
    assert_eq!(ours.run("addconf -name p -layer code:v2").0, 6);
    let (code, said) = ours.run("addconf -name p -layer code:v2 -replace");
    assert!(code == 0 && said.contains("\tdeployctl rollback -name=\"p\" -to=3\n"), "{said}");

    rig.stop("-TERM");
    rig.flags = vec!["-addconf-replaces".to_owned()];
    rig.run();
    rig.ok("addconf -name p -layer other:v1");
    assert_eq!(layers(&rig), "other:v1");
}

#[test]
fn damaged_or_missing_version_cannot_enter_a_configuration() {
    let rig = Rig::start();
    let [v1, v2, other] = versions(&rig);
    rig.ok("addconf -name p -layer other:v1");
    rig.ok("addconf -name q -layer code:v1");
    let damaged = rig.path("reg/files").join(&v2);
    let file = fs::File::options().write(true).open(&damaged).unwrap();
    file.write_all_at(b"X", 20).unwrap();
    assert_eq!(run(&rig, "verify").0, 8);
    fs::remove_file(rig.path("reg/files").join(&other)).unwrap();
    for (line, digest) in [
        ("addconf -name new -layer code:v2", &v2),
        ("addconf -name p -layer code:v2 -replace", &v2),
        ("changeconf -name q -component code -version v2", &v2),
        ("bumpconf -name q -component code", &v2),
        ("addconf -name new -layer other:v1 -layer code:v1", &other),
    ] {
        let (code, said) = run(&rig, line);
        assert_eq!(code, 8, "{line}: {said}");
        let what = format!(
            "damaged or missing here, and no agent could download it; upload the same archive again ({digest})"
        );
        assert!(said.contains(&what), "{line}: {said}");
    }
    assert_eq!(rig.ok("configurations"), "p\nq\n");
    rig.ok("addconf -name fine -layer code:v1");
    rig.put("code-v2.tgz");
    rig.put("other-v1.tgz");
    rig.ok("bumpconf -name q -component code");
    rig.ok("addconf -name new -layer other:v1 -layer code:v2");
    assert_ne!(v1, v2);
}

#[test]
fn bumpconf_without_a_change_makes_no_state() {
    let rig = Rig::start();
    versions(&rig);
    rig.ok("addconf -name p -layer code:v2 -layer other:v1");
    let said = rig.ok("bumpconf -name p -component code -component other");
    assert_eq!(said, "configuration \"p\" is up to date; nothing was changed\n");
    assert_eq!(
        Raw::log_in_as(&rig, "op", "me", GO).run("bumpconf -name p -component code"),
        (0, String::new())
    );
    assert_eq!(rig.ok("history -name p").lines().count(), 1);
    let (code, said) = run(&rig, "bumpconf -name p -component code -if-hash 0123456789");
    assert!(code == 6 && said.contains("check the configuration again"), "{said}");
}

#[test]
fn go_client_gets_a_hint_it_can_run() {
    let rig = Rig::start();
    versions(&rig);
    rig.ok("addconf -name p -layer code:v1");
    rig.ok("bumpconf -name p -component code");
    let (code, said) = Raw::log_in_as(&rig, "op", "me", GO).run("delver -name code -version v1");
    let how = "which a rollback or a host may need; to delete it anyway run:\n\tssh registry delver -name=code -version=v1 -force\n";
    assert!(code == 6 && said.ends_with(how), "{said}");
    let (_, said) = run(&rig, "delver -name code -version v1");
    assert!(said.ends_with("use -force to delete it anyway\n"), "{said}");
}

#[test]
fn unique_hash_prefix_is_accepted() {
    let rig = Rig::start();
    let [v1, ..] = versions(&rig);
    assert!(rig.ok(&format!("refs {}", &v1[..8])).contains("code v1"));
    rig.ok(&format!("addver -name code -version again -hash {}", &v1[..12]));
    // This upload is not bound to a version.
    let staged = rig.archive("staged", b"staged");
    rig.put("staged");
    rig.ok(&format!("addver -name code -version v9 -hash {}", &staged[..10]));
    rig.ok("addconf -name p -layer code:v1");
    let shown = rig.ok("showconf -name p -v");
    let id = shown.lines().find_map(|line| line.strip_prefix("Hash:\t")).unwrap();
    rig.ok(&format!("bumpconf -name p -component code -if-hash {}", &id[..8]));
    for (line, code) in [
        ("refs 00000000".to_owned(), 5),
        ("addver -name x -version y -hash 00000000".to_owned(), 5),
        (format!("refs {}", &v1[..7]), 2),
    ] {
        assert_eq!(run(&rig, &line).0, code, "{line}");
    }
}

/// Before an upload, `deployctl` asks with `addver` whether the registry has the blob. The answer
/// "no" is not a refused change, so the audit trail does not list it.
#[test]
fn probe_for_a_blob_is_not_audited() {
    let rig = Rig::start();
    let line = format!("addver -name code -version v1 -hash {}", "0".repeat(64));
    assert_eq!(Raw::log_in_as(&rig, "op", "me", DEPLOYCTL).run(&line).0, 5);
    assert_eq!(rig.ok("audit"), "");
    assert_eq!(run(&rig, &line).0, 5);
    assert!(rig.ok("audit").contains("no uploaded file"));
}

fn import(rig: &Rig) -> Child {
    let mut command = rig.client("ssh", "op");
    command.args(["me@127.0.0.1", "import -name x"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn idle_imports_do_not_block_other_imports() {
    let rig = Rig::start();
    // Two of the four hanging imports have sent bytes, and two have not.
    let hanging: Vec<Child> = (0..4)
        .map(|n| {
            let mut child = import(&rig);
            if n < 2 {
                child.stdin.as_mut().unwrap().write_all(&[b'x'; 100]).unwrap();
            }
            child
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let mut third = import(&rig);
    third.stdin.take().unwrap().write_all(b"no image").unwrap();
    let begun = std::time::Instant::now();
    let Output { status, .. } = third.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for mut child in hanging {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// If the registry stops during an answer, a slow reader still gets the whole answer.
#[test]
fn stop_waits_for_a_running_answer() {
    let mut rig = Rig::start();
    versions(&rig);
    rig.ok("addconf -name p -layer code:v1");
    for n in 0..150 {
        let message = format!("{n} {}", "x".repeat(30_000));
        rig.ok(&format!("pin -name code -version v1 -m '{message}'"));
    }
    let mut command = rig.client("ssh", "op");
    let mut child = command.args(["me@127.0.0.1", "audit"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut all, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match std::io::Read::read(&mut out, &mut buffer).unwrap() {
                0 => return all,
                n => all += n,
            }
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    std::thread::sleep(Duration::from_millis(700));
    rig.signal("-TERM");
    let bytes = reader.join().unwrap();
    assert!(child.wait().unwrap().success() && bytes > 150 * 30_000, "{bytes}");
    assert!(rig.wait().success());
}
