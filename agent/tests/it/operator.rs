//! Tests the subcommands that operators use, with and without a running agent.

mod rollbacks;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::bench::{Agent, Bench, deployed, names, says};
use deploy_testing::eventually;
use serde_json::Value;

#[test]
fn sync_polls_immediately_and_reports_the_result() {
    let bench = Bench::new();
    says(&bench, &["sync"], 1, "a1");
    fs::create_dir(bench.path("a1")).unwrap();
    let alone = says(&bench, &["sync"], 1, "no agent runs in ");
    assert!(alone.out.is_empty() && alone.err.contains("-once"), "{}", alone.err);

    let agent = Agent::start(&bench, &[]);
    let none = says(&bench, &["sync"], 5, "no configuration \"project1\"");
    assert!(none.out.starts_with("the registry's configuration is unknown: "), "{}", none.out);
    bench.first_configuration();
    let first = says(&bench, &["sync"], 0, "switched to ");
    let id = bench.state().unwrap().id().to_string();
    assert_eq!(first.out, format!("switched to {id}\n"));
    assert_eq!(says(&bench, &["sync"], 0, "").out, format!("up to date: {id}\n"));
    let json = says(&bench, &["sync", "--json"], 0, "").json();
    assert_eq!((&json["outcome"], &json["id"]), (&"up_to_date".into(), &id.into()));

    bench.script("#!/bin/sh\nexit 3\n");
    bench.bump("v02", "two\n");
    let failed = says(&bench, &["sync", "--json"], 1, "").json();
    assert_eq!(failed["outcome"], "failed");
    assert!(failed["reason"].as_str().unwrap().contains("exit status 3"), "{failed}");
    assert_eq!(deployed(&bench), "v01");
    // The user who runs `sync` may have repaired the script, so the agent runs the script at once.
    bench.script("#!/bin/sh\nexit 4\n");
    let again = says(&bench, &["sync", "--json"], 1, "").json();
    assert!(again["reason"].as_str().unwrap().contains("exit status 4"), "{again}");
    agent.stop();
}

#[test]
fn control_socket_is_private_and_survives_junk() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &[]);
    says(&bench, &["sync"], 0, "");
    let socket = bench.path("a1/control");
    let meta = fs::metadata(&socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    if rustix::process::geteuid().is_root() {
        // A user without write permission for a socket cannot connect to that socket (unix(7)).
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bench.temp.path(), open).unwrap();
        let nobody = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--", "sh", "-c"])
            .arg("test -S a1/control && ! test -w a1/control")
            .current_dir(bench.temp.path())
            .status();
        assert!(nobody.unwrap().success(), "other users may connect");
    }

    let answer = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // The test ignores a failure, because the agent may refuse the request before the test has
        // sent all of it.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for junk in
        [&b"\0\xff\n"[..], b"{}\n", b"GET / HTTP/1.1\r\n\r\n", b"{\"request\":\"format\"}\n"]
    {
        assert!(answer(junk).contains("\"code\":2"), "{junk:?}");
    }
    let endless = vec![b'x'; 3 << 20];
    assert!(!answer(&endless).contains("\"code\":0"));
    // Three clients disconnect before they read an answer. The first client has sent nothing, the
    // second a part of a request, and the third a whole request.
    drop(UnixStream::connect(&socket).unwrap());
    UnixStream::connect(&socket).unwrap().write_all(b"{\"request\":\"sync\"").unwrap();
    UnixStream::connect(&socket).unwrap().write_all(b"{\"request\":\"sync\"}\n").unwrap();
    // Clients that send nothing do not make other clients wait.
    let _silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    says(&bench, &["sync"], 0, "up to date");
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "switched to");
    agent.stop();
}

#[test]
fn gc_dry_run_matches_gc_with_and_without_an_agent() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &["-no-spare", "-keep-roots", "3"]);
    says(&bench, &["sync"], 0, "");
    for (version, text) in [("v02", "two\n"), ("v03", "three\n"), ("v04", "four\n")] {
        bench.bump(version, text);
        says(&bench, &["sync"], 0, "");
    }
    fs::write(bench.path("a1/quarantine/damaged"), "0123456789").unwrap();
    // The agent writes this file some time after a deploy.
    eventually("the reports are written", || bench.path("a1/report.json").exists());
    let before = names(&bench);
    let told = says(&bench, &["gc", "-n", "--json"], 0, "").json();
    assert_eq!(names(&bench), before, "a dry run changed something");
    assert_eq!(told["removed"][0]["what"], "layer", "the layer of the oldest root: {told:#}");
    let done = says(&bench, &["gc", "--json"], 0, "").json();
    for field in ["files", "bytes", "removed", "kept"] {
        assert_eq!(told[field], done[field], "{field}");
    }
    assert_eq!((&told["dry_run"], &done["dry_run"]), (&true.into(), &false.into()));
    let gone = before.len() - names(&bench).len();
    assert_eq!(done["files"], gone);
    assert!(done["bytes"].as_u64().unwrap() > 10);
    let text = says(&bench, &["gc"], 0, "0 files, 0 bytes freed; ").out;
    assert!(text.contains("keep    root "), "{text}");
    let why = |why: &str| text.lines().filter(|line| line.ends_with(why)).count();
    assert_eq!((why(" current"), why(" previous"), why(" one of the newest")), (1, 1, 1), "{text}");
    agent.stop();

    // If no agent runs, `gc` uses the settings of the last agent.
    let before = names(&bench);
    let quiet = says(&bench, &["gc", "-n", "--json"], 0, "").json();
    assert_eq!(quiet["files"], 0, "{quiet:#}");
    fs::create_dir(bench.path("a1/unpacked/.new-1-1")).unwrap();
    fs::write(bench.path("a1/unpacked/.new-1-1/x"), "half").unwrap();
    let told = says(&bench, &["gc", "-n", "-keep-roots=1"], 0, "would be freed").out;
    assert!(told.contains("no rule keeps this root") && told.contains("unfinished work"), "{told}");
    let done = says(&bench, &["gc", "-keep-roots=1"], 0, "bytes freed").out;
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains("   ")).map(str::to_owned).collect()
    };
    assert_eq!(lines(&told), lines(&done));
    assert!(names(&bench).len() < before.len());
    let id = bench.state().unwrap().id().to_string();
    let left = fs::read_dir(bench.path("a1/roots")).unwrap().map(|it| it.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [id.as_str()]);
    assert_eq!(says(&bench, &["verify"], 0, "all sound").code, Some(0));
    assert_eq!(bench.once(&[]), (Some(0), String::new()));
}

#[test]
fn concurrent_requests_are_served_in_turn() {
    let bench = Bench::new();
    bench.first_configuration();
    assert_eq!(bench.once(&[]).0, Some(0));
    let all_at_once = |what: &str| {
        let start = |arguments: &[&str]| {
            Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
                .args(arguments)
                .args(["-dir", "a1"])
                .current_dir(bench.temp.path())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let children: Vec<Child> =
            (0..6).map(|n| start([&["gc"][..], &["gc", "-n"]][n % 2])).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{what}: {err}");
        }
    };
    all_at_once("alone");
    let agent = Agent::start(&bench, &[]);
    all_at_once("beside an agent");
    agent.stop();
    assert!(Path::new(&bench.path("a1")).exists());
}

#[test]
fn status_shows_spare_hold_quarantine_and_disk_space() {
    let bench = Bench::new();
    bench.first_configuration();
    let agent = Agent::start(&bench, &["-min-free", "1K", "-link", "copy"]);
    says(&bench, &["sync"], 0, "");
    let status = || says(&bench, &["status", "--json"], 0, "").json();
    let id = bench.state().unwrap().id().to_string();
    eventually("the spare is ready", || status()["spare"]["ready"] == true);
    let one = status();
    assert_eq!((&one["spare"]["id"], &one["min_free"]), (&id.clone().into(), &1024.into()));
    assert!(one["free_bytes"].as_u64().unwrap() > 1024);
    assert_eq!(
        (&one["placed"]["copied"], &one["placed"]["from_spare"]),
        (&2.into(), &false.into())
    );
    assert_eq!((&one["hold"], &one["quarantine"]), (&Value::Null, &0.into()));
    assert_eq!(one["cache"]["dedupe_ratio"], 1.0);
    bench.bump("v02", "two\n");
    says(&bench, &["sync"], 0, "");
    fs::write(bench.path("a1/quarantine/x"), "x").unwrap();
    let two = status();
    assert_eq!((&two["placed"]["copied"], &two["placed"]["from_spare"]), (&1.into(), &true.into()));
    assert_eq!(two["quarantine"], 1);
    let previous = two["roots"].as_array().unwrap().iter().find(|root| root["previous"] == true);
    assert_eq!(previous.unwrap()["id"], *id);
    let next = bench.state().unwrap().id().to_string();
    eventually("the next spare is ready", || status()["spare"]["id"] == *next);
    says(&bench, &["rollback"], 0, "");
    let back = status();
    assert_eq!((&back["hold"]["from"], &back["hold"]["to"]), (&next.into(), &id.into()));
    agent.stop();
    let alone = status();
    assert_eq!((&alone["spare"], &alone["agent_running"]), (&Value::Null, &false.into()));
    assert_eq!(alone["hold"], back["hold"]);
    let text = says(&bench, &["status"], 0, "").out;
    for line in [
        "spare          none\n",
        "quarantine     1 file was damaged",
        " 1 KiB are kept free by -min-free\n",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
}

#[test]
fn deploy_without_enough_free_space_reports_the_bytes_that_it_needs() {
    let bench = Bench::new();
    bench.first_configuration();
    let (code, log) = bench.once(&["-min-free", "much"]);
    assert!(code == Some(2) && log.contains("is not a size"), "{log}");
    let (code, log) = bench.once(&["-min-free", "9000000T"]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("not enough room for the download of 2 layers: it needs "), "{log}");
    assert!(
        log.contains("-min-free keeps 9000000 TiB free; the deployed root stays unchanged; "),
        "{log}"
    );
    assert_eq!(bench.state(), None);
    assert_eq!(bench.once(&["-min-free", "1"]).0, Some(0));
}

#[test]
fn killed_gc_may_leave_garbage_but_removes_no_needed_file() {
    let bench = Bench::new();
    bench.first_configuration();
    assert_eq!(bench.once(&["-no-spare"]).0, Some(0));
    let tree = bench.path("many");
    let mut cut_short = 0;
    for round in 0_u64..6 {
        fs::create_dir(&tree).unwrap();
        for file in 0..400 {
            fs::write(tree.join(format!("f{file}")), format!("{round} {file}")).unwrap();
        }
        let mut tar = Command::new("tar");
        tar.args(["czf", "many.tar.gz", "-C", "many", "."]).current_dir(bench.temp.path());
        assert!(tar.status().unwrap().success());
        fs::remove_dir_all(&tree).unwrap();
        bench.operator("sftp", &[], "put many.tar.gz\n");
        let digest = deploy_store::Digest::of(&fs::read(bench.path("many.tar.gz")).unwrap());
        bench.operator(
            "ssh",
            &[&format!("addver -name code -version r{round} -hash {digest}")],
            "",
        );
        bench.operator("ssh", &["bumpconf -name project1 -component code"], "");
        assert_eq!(bench.once(&["-no-spare"]).0, Some(0));
        let before = names(&bench).len();
        let mut gc = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
            .args(["gc", "-dir", "a1", "-keep-roots", "1"])
            .current_dir(bench.temp.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Each round kills `gc` after a different number of removals.
        let enough = usize::try_from(round).unwrap() * 120;
        eventually("gc removes files", || {
            before.saturating_sub(names(&bench).len()) > enough || gc.try_wait().unwrap().is_some()
        });
        let _ = gc.kill();
        cut_short += u32::from(!gc.wait().unwrap().success());
        says(&bench, &["verify"], 0, "all sound");
        assert_eq!(bench.once(&["-no-spare"]), (Some(0), String::new()));
        says(&bench, &["gc", "-keep-roots", "1"], 0, " freed");
        says(&bench, &["gc", "-n", "-keep-roots", "1"], 0, "0 files, 0 bytes would be freed");
    }
    assert!(cut_short > 0, "every gc ended before it was killed");
}

#[test]
fn request_from_the_deploy_script_is_refused() {
    let bench = Bench::new();
    let agent = Agent::start(&bench, &[]);
    let program = env!("CARGO_BIN_EXE_deploy-agent");
    bench.script(&format!("#!/bin/sh\n(sh -c '{program} gc -dir a1; echo $?') >asked 2>&1\n"));
    bench.first_configuration();
    says(&bench, &["sync"], 0, "switched to");
    let asked = fs::read_to_string(bench.path("asked")).unwrap();
    assert!(
        asked.contains("only after that program has ended") && asked.ends_with("\n1\n"),
        "{asked}"
    );
    agent.stop();
}
