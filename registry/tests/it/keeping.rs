//! Tests over ssh which blobs the registry keeps, for which reasons, and what happens after damage.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use crate::rig::{Rig, both, names, wait_until};
use serde_json::Value;

/// A registry with versions v1 to v3 of `code`, and a configuration `p`. The first state of `p` has
/// v1, and its current state has v2.
fn rig(flags: &[&str]) -> (Rig, [String; 3]) {
    let rig = Rig::start_with(flags);
    let digests = ["v1", "v2", "v3"].map(|version| {
        let digest = rig.archive(version, version.as_bytes());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
        digest
    });
    rig.ok("addconf -name p -layer code:v1");
    rig.ok("changeconf -name p -component code -version v2");
    (rig, digests)
}

fn json(rig: &Rig, line: &str) -> Value {
    let output = rig.ssh("op", "me", &[line]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {}", both(&output)))
}

/// Makes the file look as if it had been written long ago.
fn age(rig: &Rig, digest: &str) {
    let path = rig.path("reg/files").join(digest);
    File::options().append(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

fn flip_a_bit(rig: &Rig, digest: &str, at: u64) {
    let path = rig.path("reg/files").join(digest);
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn rollback_targets_are_kept_despite_maxver() {
    let (rig, [one, two, three]) = rig(&["-maxver", "1", "-keep-states", "2"]);
    for digest in [&one, &two, &three] {
        age(&rig, digest);
    }
    // A rollback needs v1, the current state has v2, and v3 is the newest version.
    assert_eq!(json(&rig, "gc -json")["bytes"], 0);
    rig.ok("changeconf -name p -component code -version v3");
    rig.ok("changeconf -name p -component code -version v2");
    let planned = json(&rig, "gc -n -json");
    assert_eq!(planned["versions"][0]["version"], "v1", "{planned}");
    assert_eq!(planned["files"][0]["hash"], one.as_str(), "{planned}");
    let mut done = json(&rig, "gc -json");
    assert_eq!(done["dry_run"].take(), false);
    done["dry_run"] = true.into();
    assert_eq!(done, planned);
    assert_eq!(names(&rig.path("reg/files")).len(), 2);
    rig.ok("rollback -name p");
    assert!(rig.ok("showconf -name p").contains("v3"));
    let refused = rig.ssh("op", "me", &["rollback -name p -to 1"]);
    assert_eq!(refused.status.code(), Some(6), "{}", both(&refused));
}

#[test]
fn each_further_rollback_restores_an_older_state() {
    let (rig, _) = rig(&[]);
    rig.ok("changeconf -name p -component code -version v3");
    let back = |to: &str, number: u64, from: &str| {
        let told = rig.ok("rollback -name p");
        let want = format!(
            "configuration \"p\" has the layers of state {number} again\ncode   {from}   {to}\n"
        );
        assert_eq!(told, want);
        assert!(rig.ok("showconf -name p").contains(&format!("code   {to} ")));
    };
    back("v2", 2, "v3");
    back("v1", 1, "v2");
    let refused = rig.ssh("op", "me", &["rollback -name p"]);
    assert_eq!(refused.status.code(), Some(5), "{}", both(&refused));
    assert!(both(&refused).contains("no earlier state to go back to"), "{}", both(&refused));
    assert!(rig.ok("showconf -name p").contains("code   v1 "));
    // After a change, a rollback restores the state before the change. After an explicit return to
    // state 4, a rollback restores a state that is older than state 4.
    rig.ok("changeconf -name p -component code -version v3");
    back("v1", 5, "v3");
    rig.ok("rollback -name p -to 4");
    back("v1", 1, "v2");
}

#[test]
fn pinned_version_is_kept_with_its_reason() {
    let (rig, [_, _, three]) = rig(&["-maxver", "1"]);
    let four = rig.archive("v4", b"v4");
    rig.put("v4");
    rig.ok(&format!("addver -name code -version v4 -hash {four}"));
    rig.ok("pin -name code -version v3 -m 'for the audit'");
    age(&rig, &three);
    assert_eq!(json(&rig, "gc -json")["versions"].as_array().unwrap().len(), 0);
    let why = rig.ok(&format!("refs {three}"));
    assert!(why.contains("pinned") && why.contains("for the audit"), "{why}");
    for line in ["delver -name code -version v3 -force", "delcomp -name code -force"] {
        let refused = rig.ssh("op", "me", &[line]);
        assert_eq!(refused.status.code(), Some(6));
        let text = both(&refused);
        assert!(text.contains("pinned (for the audit)") || text.contains("used by"), "{text}");
    }
    rig.ok("unpin -name code -version v3");
    assert_eq!(json(&rig, "gc -json")["files"][0]["hash"], three.as_str());
    let gone = rig.ssh("op", "me", &[&format!("refs {three}")]);
    assert_eq!(gone.status.code(), Some(5), "{}", both(&gone));
}

#[test]
fn damaged_blob_is_quarantined_and_repaired_by_an_upload() {
    let (rig, [one, two, three]) = rig(&["-verify-rate", "0"]);
    assert!(rig.ok("verify").contains("3 of 3 files read"));
    flip_a_bit(&rig, &two, 30);
    fs::remove_file(rig.path("reg/files").join(&one)).unwrap();
    let cut = File::options().write(true).open(rig.path("reg/files").join(&three)).unwrap();
    cut.set_len(40).unwrap();
    fs::write(rig.path("reg/files/README"), "not ours").unwrap();
    for again in [false, true] {
        let verified = rig.ssh("op", "me", &["verify"]);
        assert_eq!(verified.status.code(), Some(8), "{}", both(&verified));
        let text = String::from_utf8(verified.stdout).unwrap();
        for (kind, digest) in [("missing", &one), ("damaged", &two), ("damaged", &three)] {
            assert!(text.contains(&format!("{kind} files/{digest}")), "{again} {text}");
        }
        assert!(text.contains("\taffects current p state 2\n"), "{text}");
        assert!(text.contains("\taffects rollback p state 1\n"), "{text}");
        assert!(text.contains("foreign files/README"), "{text}");
        assert!(
            text.contains("to restore damaged or missing files, upload the same bytes"),
            "{text}"
        );
        assert_eq!(json(&rig, "verify -json")["damaged"], 3);
    }
    // No file is deleted, and agents cannot download damaged files.
    let mut aside = [two.clone(), three.clone()];
    aside.sort();
    assert_eq!(names(&rig.path("reg/quarantine")), aside);
    let get = rig.sftp("srv", "deploy-agent", &format!("get files/{two} got"));
    assert!(!get.status.success());
    for name in ["v1", "v2", "v3"] {
        rig.put(name);
    }
    let text = rig.ok("verify");
    assert!(text.contains("3 of 3 files read") && text.ends_with(": 0 damaged\n"), "{text}");
    let get = rig.sftp("srv", "deploy-agent", &format!("get files/{two} got"));
    assert!(get.status.success(), "{}", both(&get));
    assert_eq!(rig.sha256("got"), two);
    assert_eq!(json(&rig, "stat -json")["damaged"], 0);
}

#[test]
fn start_after_a_crash_knows_that_a_damaged_blob_was_replaced() {
    let (mut rig, [_, two, _]) = rig(&["-verify-rate", "0"]);
    let path = rig.path("reg/files").join(&two);
    let sound = fs::read(&path).unwrap();
    flip_a_bit(&rig, &two, 30);
    assert_eq!(json(&rig, "verify -json")["damaged"], 1);
    assert_eq!(json(&rig, "stat -json")["damaged"], 1);
    assert!(rig.stop("-KILL").code().is_none());
    // A crash between the rename of the upload and the change of the row leaves this state.
    fs::write(&path, sound).unwrap();
    rig.run();
    assert_eq!(json(&rig, "stat -json")["damaged"], 0);
    let get = rig.sftp("srv", "deploy-agent", &format!("get files/{two} got"));
    assert!(get.status.success(), "{}", both(&get));
}

#[test]
fn verify_finds_each_of_a_hundred_flipped_bits() {
    let rig = Rig::start_with(&["-verify-rate", "0"]);
    let mut digests = Vec::new();
    for n in 0..20 {
        let name = format!("b{n}");
        let digest = rig.archive(&name, &vec![n; 100 + 7 * usize::from(n)]);
        rig.put(&name);
        rig.ok(&format!("addver -name c{n} -version v -hash {digest}"));
        digests.push(digest);
    }
    for flip in 0..100_u64 {
        let digest = &digests[usize::try_from(flip).unwrap() % digests.len()];
        let size = fs::metadata(rig.path("reg/files").join(digest)).unwrap().len();
        flip_a_bit(&rig, digest, flip * 7919 % size);
        if flip % 20 == 19 {
            let found = json(&rig, "verify -json");
            let mut named: Vec<&str> = found["findings"]
                .as_array()
                .unwrap()
                .iter()
                .map(|finding| finding["path"].as_str().unwrap().trim_start_matches("files/"))
                .collect();
            named.sort_unstable();
            let mut expected: Vec<&str> = digests.iter().map(String::as_str).collect();
            expected.sort_unstable();
            assert_eq!(named, expected);
            (0..20).for_each(|n| rig.put(&format!("b{n}")));
            assert_eq!(json(&rig, "verify -json")["damaged"], 0);
        }
    }
}

#[test]
fn interrupted_verify_resumes() {
    let (rig, _) = rig(&["-verify-rate", "0"]);
    let first = json(&rig, "verify -budget 1ns -json");
    assert_eq!((&first["complete"], &first["files"]), (&Value::Bool(false), &0.into()));
    let rest = json(&rig, "verify -resume -json");
    assert_eq!((&rest["complete"], &rest["files"]), (&Value::Bool(true), &3.into()));
    // After a complete run, `-resume` begins a new run.
    assert_eq!(json(&rig, "verify -resume -json")["files"], 3);
    assert_eq!(json(&rig, "verify -sample 0.01% -json")["complete"], true);
}

#[test]
fn background_verify_finds_damage() {
    let (mut rig, [one, ..]) = rig(&[]);
    rig.stop("-TERM");
    flip_a_bit(&rig, &one, 20);
    rig.run();
    let line = rig.wait_for_log("; quarantined");
    assert!(line.contains(&one), "{line}");
}

#[test]
fn audit_lists_changes_and_refusals_with_their_user() {
    let (rig, _) = rig(&[]);
    rig.ssh("op", "somebody", &["delver -name code -version v2"]);
    rig.ssh("op", "me", &["showconf -name nope"]);
    rig.ok("gc -n");
    rig.ok("gc");
    let entries = json(&rig, "audit -json");
    let entries = entries.as_array().unwrap();
    let verbs: Vec<&str> = entries
        .iter()
        .map(|entry| entry["command"].as_str().unwrap().split(' ').next().unwrap())
        .collect();
    assert_eq!(verbs, ["gc", "delver", "changeconf", "addconf", "addver", "addver", "addver"]);
    let refused = &entries[1];
    assert_eq!((&refused["code"], &refused["user"]), (&6.into(), &"somebody".into()));
    assert!(refused["why"].as_str().unwrap().contains("used by configuration"), "{refused}");
    assert!(refused["who"].as_str().unwrap().starts_with("SHA256:"), "{refused}");
    assert!(refused["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{refused}");
    assert_eq!(json(&rig, "audit -limit 2 -json").as_array().unwrap().len(), 2);
    assert_eq!(json(&rig, "audit -since 2020-01-01T00:00:00Z -json").as_array().unwrap().len(), 7);
    assert_eq!(json(&rig, "audit -since 2100-01-01T00:00:00Z -json").as_array().unwrap().len(), 0);
    assert_eq!(json(&rig, "audit -since 1h -json").as_array().unwrap().len(), 7);
    assert!(rig.ok("audit -limit 2").lines().next().unwrap().contains("ok"));
}

#[test]
fn gc_keeps_blobs_that_are_being_downloaded() {
    let (rig, [_, _, three]) = rig(&["-grace", "0s"]);
    // The file is much larger than the data that can be in transit, so the file stays open.
    let mut stuck = rig.client("sftp", "srv");
    let big = rig.archive("big", &noise(64 << 20));
    rig.put("big");
    rig.ok(&format!("addver -name big -version v1 -hash {big}"));
    fs::write(rig.path("batch-get"), format!("get files/{big} got\n")).unwrap();
    let mut getting = stuck
        .args(["-q", "-l", "8000", "-b", "batch-get", "deploy-agent@127.0.0.1"])
        .spawn()
        .unwrap();
    wait_until("the download begins", || json(&rig, "stat -json")["downloads"] == 1);
    rig.ok("delver -name big -version v1");
    rig.ok("delver -name code -version v3");
    assert!(rig.ok(&format!("refs {big}")).contains("1 downloads in flight"));
    let done = json(&rig, "gc -json");
    let gone: Vec<&str> =
        done["files"].as_array().unwrap().iter().map(|f| f["hash"].as_str().unwrap()).collect();
    assert_eq!(gone, [three.as_str()], "{done}");
    assert_eq!(done["kept"]["transfer"]["files"], 1, "{done}");
    getting.kill().unwrap();
    getting.wait().unwrap();
    wait_until("the download ends", || json(&rig, "stat -json")["downloads"] == 0);
    assert_eq!(json(&rig, "gc -json")["files"][0]["hash"], big.as_str());
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn upload_limits_are_reported() {
    let rig = Rig::start_with(&["-max-staged", "3M"]);
    for name in ["one", "two"] {
        fs::write(rig.path(name), noise(2 << 20)).unwrap();
    }
    let digest = rig.archive("small", b"small");
    rig.put("one");
    // Together with the first upload, this upload is over the limit.
    fs::write(rig.path("two"), [noise(2 << 20), vec![1]].concat()).unwrap();
    let refused = rig.sftp("op", "me", "put two");
    assert!(!refused.status.success(), "{}", both(&refused));
    assert!(both(&refused).contains("-max-staged"), "{}", both(&refused));
    rig.wait_for_log("-max-staged");
    rig.put("small");
    rig.ok(&format!("addver -name code -version v1 -hash {digest}"));

    let rig = Rig::start_with(&["-min-free", "1000T"]);
    fs::write(rig.path("one"), noise(1000)).unwrap();
    let refused = rig.sftp("op", "me", "put one");
    assert!(both(&refused).contains("must keep 1000 TiB free (-min-free)"), "{}", both(&refused));
    rig.wait_for_log("-min-free");
    assert!(rig.uploads().is_empty());
}

#[test]
fn gc_with_an_empty_catalogue_is_refused_and_files_are_kept() {
    let (mut rig, digests) = rig(&["-grace", "0s"]);
    rig.stop("-TERM");
    for name in ["catalogue.db", "catalogue.db-wal", "catalogue.db-shm"] {
        let _ = fs::remove_file(rig.path("reg").join(name));
    }
    rig.run();
    let refused = rig.ssh("op", "me", &["gc"]);
    assert_eq!(refused.status.code(), Some(6), "{}", both(&refused));
    assert!(both(&refused).contains("is this the right catalogue"), "{}", both(&refused));
    assert_eq!(names(&rig.path("reg/files")).len(), 3);
    rig.ok(&format!("addver -name code -version v1 -hash {}", digests[0]));
    assert_eq!(json(&rig, "gc -json")["files"].as_array().unwrap().len(), 2);
    rig.ok("delver -name code -version v1");
    assert_eq!(json(&rig, "gc -force -json")["files"].as_array().unwrap().len(), 1);
}

#[test]
fn diff_names_changed_files() {
    let rig = Rig::start();
    let pack = |name: &str, files: &[(&str, &str)]| {
        let dir = rig.path(name);
        fs::create_dir_all(dir.join("etc")).unwrap();
        for (path, text) in files {
            fs::write(dir.join(path), text).unwrap();
        }
        rig.pack(name)
    };
    let one = pack("one", &[("etc/same", "s"), ("etc/gone", "g"), ("etc/other", "1")]);
    let two = pack("two", &[("etc/same", "s"), ("etc/new", "n"), ("etc/other", "2")]);
    for (version, digest) in [("v1", one), ("v2", two)] {
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
    }
    rig.ok("addconf -name p -layer code:v1");
    let none = rig.ssh("op", "me", &["diff -name p"]);
    assert_eq!(none.status.code(), Some(5), "{}", both(&none));
    rig.ok("bumpconf -name p -component code");
    assert_eq!(rig.ok("diff -name p"), "code   v1   v2\n");
    assert_eq!(rig.ok("diff -name p --files"), "D etc/gone\nA etc/new\nM etc/other\n");
    assert_eq!(rig.ok("diff -name p -from 2 -to 1 -files"), "A etc/gone\nD etc/new\nM etc/other\n");
    let layers = json(&rig, "diff -name p -json");
    assert_eq!(layers["layers"][0]["to"]["version"], "v2", "{layers}");
}
