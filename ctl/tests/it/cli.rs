//! Tests the texts and exit codes of `deployctl` against a real registry.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::{Command, Stdio};

use crate::rig::{Answer, Rig, deployctl, noise};
use deploy_registry::registry::Settings;
use deploy_store::Digest;

fn ok(out: &str) -> Answer {
    Answer { out: out.to_owned(), err: String::new(), code: 0 }
}

fn refused(err: &str, code: i32) -> Answer {
    Answer { out: String::new(), err: err.to_owned(), code }
}

#[test]
fn readme_example_works() {
    let rig = Rig::start();
    rig.archive("code_v1.tar.gz", b"program v1");
    rig.archive("config_v1.tar.gz", b"config v1");
    rig.archive("config_v2.tar.gz", b"config v2");
    for (component, version, file) in
        [("code", "v01", "code_v1.tar.gz"), ("config", "v01", "config_v1.tar.gz")]
    {
        let words = ["addver", "-name", component, "-version", version, "-file", file];
        assert_eq!(rig.run(&words), ok(""));
    }
    assert_eq!(rig.run(&["components"]), ok("code\nconfig\n"));
    let made = ["addconf", "-name", "project1", "-layer", "code:v01", "-layer", "config:v01"];
    assert_eq!(rig.run(&made), ok(""));
    let bump = ["addver", "-name=config", "-version=v02", "-file=config_v2.tar.gz"];
    assert_eq!(rig.run(&bump), ok(""));
    let bumped = rig.run(&["bumpconf", "-name", "project1", "-component", "config"]);
    assert_eq!(bumped.code, 0);
    assert!(bumped.out.contains("changeconf -name=\"project1\" -component=\"config\""));
    let shown = rig.run(&["showconf", "-name", "project1"]).out;
    let versions: Vec<_> =
        shown.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(versions, ["v01", "v02"]);
    let answer = rig.run(&["showconf", "-name", "none"]);
    assert_eq!((answer.err.as_str(), answer.code), ("configuration \"none\" not found\n", 5));
}

#[test]
fn arguments_arrive_unchanged() {
    let rig = Rig::start();
    for name in ["two words", "semi;colon", "back\\slash", "quo\"te", "$(true)"] {
        let answer = rig.run(&["showconf", "-name", name]);
        assert_eq!(answer.code, 5, "{name}: {answer:?}");
        assert_eq!(
            answer.err,
            format!("configuration \"{}\" not found\n", name.replace('\\', "\\\\"))
        );
    }
}

#[test]
fn known_blob_is_not_sent_again() {
    let mut rig = Rig::start();
    let bytes = rig.archive("a.tar.gz", b"a");
    assert_eq!(rig.run(&["addver", "-name", "a", "-version", "1", "-file", "a.tar.gz"]), ok(""));
    let again = rig.run(&["addver", "-name", "a", "-version", "1", "-file", "a.tar.gz"]);
    assert_eq!((again.err.as_str(), again.code), ("version \"1\" already exists\n", 6));
    rig.stop();
    rig.serve(1);
    assert_eq!(rig.run(&["addver", "-name", "a", "-version", "2", "-file", "a.tar.gz"]), ok(""));
    let hash = Digest::of(&bytes).to_string();
    assert_eq!(rig.run(&["addver", "-name", "a", "-version", "3", "-hash", &hash]), ok(""));
    rig.archive("b.tar.gz", b"b");
    let refused = rig.run(&["addver", "-name", "b", "-version", "1", "-file", "b.tar.gz"]);
    assert!(refused.err.starts_with("upload failure: "), "{refused:?}");
    assert_eq!(refused.code, 1);
}

#[test]
fn standard_input_and_pipes_are_read_only_once() {
    let rig = Rig::start();
    // The data is incompressible, and larger than all queues between the program and the registry
    // together.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(20 << 20)
    .collect();
    let bytes = rig.archive("big.tar.gz", &noise);
    let answer =
        rig.run_with_input(&["addver", "-name", "a", "-version", "1", "-file", "-"], &bytes);
    assert_eq!(answer, ok(""));
    symlink("/dev/stdin", rig.path("pipe")).unwrap();
    let words = ["addver", "-name", "a", "-version", "2", "-file", "pipe"];
    assert_eq!(rig.run_with_input(&words, &bytes), ok(""));
    assert_eq!(rig.list("files"), [Digest::of(&bytes).to_string()]);
}

#[test]
fn trailing_bytes_do_not_stop_an_upload() {
    let rig = Rig::start();
    rig.archive("a.tar.gz", b"a");
    for padding in [1, 8, 5000] {
        // Zeros follow the tar's end in the same gzip stream, as `tar -b` writes them.
        let script =
            format!("(gzip -dc a.tar.gz; head -c {padding} /dev/zero) | gzip > padded.tar.gz");
        let shell = Command::new("sh").args(["-c", &script]).current_dir(rig.path("")).status();
        assert!(shell.unwrap().success());
        let version = padding.to_string();
        let words = ["addver", "-name", "a", "-version", &version, "-file", "padded.tar.gz"];
        assert_eq!(rig.run(&words), ok(""), "{padding}");
    }
}

#[test]
fn bad_archive_is_not_uploaded() {
    let mut rig = Rig::start();
    let bytes = rig.archive("good.tar.gz", &vec![7; 100_000]);
    fs::write(rig.path("text"), "no archive").unwrap();
    fs::write(rig.path("cut"), &bytes[..bytes.len() / 2]).unwrap();
    fs::write(rig.path("empty"), "").unwrap();
    for file in ["text", "cut", "empty"] {
        let answer = rig.run(&["addver", "-name", "a", "-version", "1", "-file", file]);
        assert!(answer.err.starts_with("file validation failed: "), "{file}: {answer:?}");
        assert_eq!(answer.code, 1);
        let answer =
            rig.run_with_input(&["addver", "-name", "a", "-version", "1", "-file", "-"], b"text");
        assert!(answer.err.starts_with("file validation failed: "), "{file}: {answer:?}");
    }
    assert_eq!(rig.run(&["components"]), ok(""));
    rig.stop();
    let left = (rig.list("files"), rig.list("uploads"));
    assert_eq!(left, (Vec::new(), Vec::new()), "the registry kept an archive");
}

#[test]
fn download_obeys_the_umask_and_replaces_files_atomically() {
    let rig = Rig::start();
    let bytes = rig.archive("a.tar.gz", b"a");
    assert_eq!(rig.run(&["addver", "-name", "a", "-version", "1", "-file", "a.tar.gz"]), ok(""));
    let get = |umask: &str, version: &str, to: &str| -> Answer {
        let words = ["-q", "-key", "op", "get", "-name", "a", "-version", version, "-o", to];
        let own = rig.bare(&words);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("umask {umask}; exec \"$@\"")).arg("sh");
        shell.arg(own.get_program()).args(own.get_args()).current_dir(rig.path(""));
        shell.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.output().unwrap().into()
    };
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o664)] {
        assert_eq!(get(umask, "1", "got"), ok(""));
        assert_eq!(fs::read(rig.path("got")).unwrap(), bytes);
        assert_eq!(fs::metadata(rig.path("got")).unwrap().mode() & 0o7777, mode, "{umask}");
    }
    // If the path is not a file, `get` writes to the path and does not replace it. For example,
    // root may give /dev/null as the path.
    assert!(Command::new("mkfifo").arg(rig.path("fifo")).status().unwrap().success());
    let reader = Command::new("cat").arg(rig.path("fifo")).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(get("022", "1", "fifo"), ok(""));
    assert_eq!(reader.wait_with_output().unwrap().stdout, bytes);
    assert!(!fs::metadata(rig.path("fifo")).unwrap().is_file());
    let before = fs::read_dir(rig.path("")).unwrap().count();
    assert_eq!(get("022", "none", "got").code, 5);
    assert_eq!(fs::read(rig.path("got")).unwrap(), bytes);
    assert_eq!(
        fs::read_dir(rig.path("")).unwrap().count(),
        before,
        "a failed download left a file"
    );
}

#[test]
fn uploading_the_same_archive_repairs_a_damaged_blob() {
    let rig = Rig::start();
    let bytes = rig.archive("a.tar.gz", b"a");
    let add = ["addver", "-name", "a", "-version", "1", "-file", "a.tar.gz"];
    assert_eq!(rig.run(&add), ok(""));
    let blob = rig.path("reg/files").join(Digest::of(&bytes).to_string());
    fs::write(&blob, "damaged").unwrap();
    assert_eq!(rig.run(&["verify"]).code, 8);
    assert!(!blob.exists(), "verify left the damaged blob");
    let again = rig.run(&add);
    assert_eq!((again.err.as_str(), again.code), ("version \"1\" already exists\n", 6));
    assert_eq!(fs::read(&blob).unwrap(), bytes);
    assert_eq!(rig.run(&["verify"]).code, 0);
}

#[test]
fn unreadable_files_are_reported() {
    let rig = Rig::start();
    let file = |name: &str| rig.run(&["addver", "-name", "a", "-version", "1", "-file", name]);
    let absent = file("absent");
    assert_eq!(absent, refused("open absent: No such file or directory (os error 2)\n", 1));
    let directory = file(".");
    assert_eq!(
        directory,
        refused(". is a directory; use -dir to pack and upload a directory\n", 1)
    );
}

#[test]
fn upload_without_room_is_refused_before_it_starts() {
    let mut rig = Rig::start();
    rig.stop();
    let min_free = 1 << 50;
    rig.serve_with(Settings { min_free, ..Settings::default() });
    rig.archive("x.tgz", &noise(3 << 20));
    let refused = rig.run(&["addver", "-name", "a", "-version", "1", "-file", "x.tgz"]);
    assert!(refused.err.contains(" must keep 1024 TiB free (-min-free): there is no room for 3"));
    assert!(refused.err.ends_with(" MiB; gc may free some space\n"), "{refused:?}");
    assert_eq!(refused.code, 1);
}

#[test]
fn unusable_download_target_is_reported() {
    let rig = Rig::start();
    rig.archive("x.tgz", b"x");
    assert_eq!(rig.run(&["addver", "-name", "a", "-version", "1", "-file", "x.tgz"]).code, 0);
    let get = |to: &str| rig.run(&["get", "-name", "a", "-version", "1", "-o", to]).err;
    assert_eq!(get("no/x"), "there is no directory no: create it, or give another path with -o\n");
    assert_eq!(get("."), ". is a directory: name a file in it with -o\n");
    let key = rig.bare(&["-key", "no/key", "components"]).output().unwrap();
    let key = Answer::from(key).err;
    assert!(key.ends_with("key file \"no/key\": there is no directory no\n"), "{key}");
    let key = Answer::from(rig.bare(&["-key", "none", "components"]).output().unwrap()).err;
    assert!(key.contains("there is no such file: name another file with -key"), "{key}");
    let key = Answer::from(rig.bare(&["-key", "op.pub", "components"]).output().unwrap()).err;
    assert!(key.contains("it is a public key: give the private key, op\n"), "{key}");
}

#[test]
fn login_needs_an_authorized_key() {
    let rig = Rig::start();
    let with = |words: &[&str]| -> Answer { rig.bare(words).output().unwrap().into() };
    let denied = with(&["-key", "other", "components"]);
    assert!(denied.err.starts_with("ssh: unable to authenticate as user \"tester\""), "{denied:?}");
    assert_eq!(denied.code, 4);
    assert_eq!(with(&["-key", "srv", "components"]).code, 4);
    let locked = with(&["-key", "locked", "components"]);
    assert_eq!(
        locked,
        refused(
            "failed to read/parse key file \"locked\": it is encrypted: give a key without a passphrase, or, with deployctl, add this key to ssh-agent with ssh-add and leave out -key\n",
            1
        )
    );
    let none = with(&["components"]);
    assert!(none.err.contains("cannot connect to ssh-agent, check if SSH_AUTH_SOCK is set: "));
    assert_eq!(none.code, 1);
    let agent = with(&["-key", "op", "-user", "deploy-agent", "components"]);
    assert!(
        agent.err.contains("cannot be used by operators: give another name with -user"),
        "{agent:?}"
    );
    assert_eq!(agent.code, 2);
    let wrong = with(&["-fp", "sha256:AAAA", "-key", "op", "components"]);
    assert!(wrong.err.starts_with("ssh: handshake failed: host key fingerprint mismatch: SHA256:"));
    assert_eq!(wrong.code, 1);
}

#[test]
fn ssh_agent_keys_and_default_key_files_are_used() {
    let rig = Rig::start();
    let socket = rig.path("agent.sock");
    let started = Command::new("ssh-agent").arg("-a").arg(&socket).output().unwrap();
    let text = String::from_utf8(started.stdout).unwrap();
    let pid = text.split("SSH_AGENT_PID=").nth(1).unwrap().split(';').next().unwrap().to_owned();
    let agent = |words: &[&str]| -> Answer {
        rig.bare(words).env("SSH_AUTH_SOCK", &socket).output().unwrap().into()
    };
    let add = |key: &str| {
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(rig.path(key)).env("SSH_AUTH_SOCK", &socket);
        assert!(add.status().unwrap().success());
    };
    let empty = agent(&["components"]);
    add("other");
    let wrong = agent(&["components"]);
    add("op");
    let right = agent(&["components"]);
    let killed = Command::new("kill").arg(&pid).status().unwrap();
    assert!(killed.success());
    assert!(empty.err.contains("ssh-agent has no keys"), "{empty:?}");
    assert_eq!(wrong.code, 4, "{wrong:?}");
    assert_eq!(right, ok(""));

    // Without an ssh-agent, the program tries the default key files, and skips a key with a
    // passphrase.
    fs::create_dir(rig.path(".ssh")).unwrap();
    fs::copy(rig.path("locked"), rig.path(".ssh/id_ed25519")).unwrap();
    fs::copy(rig.path("op"), rig.path(".ssh/id_rsa")).unwrap();
    fs::write(rig.path(".ssh/known_hosts"), rig.known_host()).unwrap();
    let mut usual = rig.bare(&["-fp=", "components"]);
    let usual = usual.env("SSH_AUTH_SOCK", rig.path("gone")).output().unwrap();
    assert_eq!(Answer::from(usual), ok(""));
    let revoked = format!("{}@revoked * {}", rig.known_host(), rig.host_key());
    fs::write(rig.path(".ssh/known_hosts"), revoked).unwrap();
    let revoked: Answer = rig.bare(&["-fp=", "-key", "op", "components"]).output().unwrap().into();
    assert!(revoked.err.contains("this key is revoked in "), "{revoked:?}");
    fs::write(rig.path(".ssh/known_hosts"), "").unwrap();
    let unknown: Answer = rig.bare(&["-fp=", "-key", "op", "components"]).output().unwrap().into();
    let text = format!("ssh: handshake failed: host key of {} is not in ", rig.addr());
    assert!(unknown.err.starts_with(&text), "{unknown:?}");
}

#[test]
fn unreachable_registry_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| -> Answer { deployctl(home.path(), words).output().unwrap().into() };
    crate::rig::make_key(home.path(), "op", &["-t", "ed25519", "-N", ""]);
    let nowhere = run(&["-addr", "127.0.0.1:1", "-fp", "SHA256:x", "-key", "op", "components"]);
    assert_eq!(nowhere, refused("dial tcp 127.0.0.1:1: Connection refused (os error 111)\n", 10));
    for (words, start) in [
        (&["components"][..], "addr should be set"),
        (&["showconf"], "name should be set\n"),
        (&["showconf", "-bogus"], "flag provided but not defined: -bogus\nUsage of showconf:\n"),
        (&["shwoconf"], "Unknown command, supported commands are:\n"),
        (
            &["addver", "-name", "a"],
            "name, version and file should all be set; -version is missing\n",
        ),
        (&[], "Usage: deployctl [flags] subcommand [subcommand flags]\n  -addr string\n"),
        (&["-bogus"], "error: unexpected argument '-bogus' found"),
        (&["-addr", "a:1", "-user", "deploy-agent", "components"], "user name \"deploy-agent\""),
    ] {
        let answer = run(words);
        assert!(answer.err.starts_with(start), "{words:?}: {answer:?}");
        assert_eq!((answer.out.as_str(), answer.code), ("", 2), "{words:?}");
    }
    assert!(run(&["shwoconf"]).err.ends_with("did you mean showconf?\n"));
    for (words, start) in [
        (&["-h"][..], "Usage: deployctl [flags] subcommand [subcommand flags]\n  -addr string\n"),
        (&["-version"], "deployctl 0."),
        (&["help"], "addver "),
        (&["help", "exit-codes"], "0     done\n"),
        (&["help", "addver"], "Usage of addver:\n  -dir string\n"),
        (&["addver", "-help"], "Usage of addver:\n  -dir string\n"),
        (&["showconf", "-h"], "Usage of showconf:\n"),
    ] {
        let answer = run(words);
        assert!(answer.out.starts_with(start), "{words:?}: {answer:?}");
        assert_eq!((answer.err.as_str(), answer.code), ("", 0), "{words:?}");
    }
}

#[test]
fn answer_that_cannot_be_printed_is_a_failure() {
    let home = tempfile::tempdir().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let answer: Answer = deployctl(home.path(), &["help"]).stdout(full).output().unwrap().into();
    assert_eq!(answer, refused("print the answer: No space left on device (os error 28)\n", 1));
    // The exit code is right even if nobody reads the error.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let code = deployctl(home.path(), &["-bogus"]).stderr(writer).status().unwrap().code();
    assert_eq!(code, Some(2));
}
