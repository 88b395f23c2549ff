//! Tests the contract between agent and script, with real scripts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deploy_agent::log::FORM;
use deploy_agent::script::script_output::MAX_KEPT;
use deploy_agent::script::{self, Change, Error, Script};
use deploy_agent::stop::{Signal, Stop};
use deploy_cli::log::{Format, Lines};
use deploy_store::{Configuration, Digest, Layer};
use deploy_testing::eventually;
use tracing_subscriber::layer::SubscriberExt as _;

fn configuration(layers: &[(&str, &str)]) -> Configuration {
    let now = "2026-11-23T03:49:00Z".parse().unwrap();
    let layer = |&(name, version): &(&str, &str)| Layer {
        component: name.parse().unwrap(),
        version: version.parse().unwrap(),
        digest: Digest::of(name.as_bytes()),
        created: now,
    };
    let layers = layers.iter().map(layer).collect();
    Configuration::new("project1".parse().unwrap(), layers, now).unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Ran {
    output: String,
    log: String,
    ended: Result<(), Error>,
}

/// A script in a directory of its own.
struct Bench {
    temp: tempfile::TempDir,
    script: Script,
    stop: Stop,
    sender: tokio::sync::watch::Sender<Option<Signal>>,
}

impl Bench {
    fn new(body: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let program = temp.path().join("deploy.sh");
        fs::write(&program, body).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (sender, stop) = Stop::new();
        let script = Script {
            program: program.to_str().unwrap().to_owned(),
            arguments: Vec::new(),
            env_file: None,
            timeout: None,
            grace: Duration::from_secs(60),
            kill_after: Duration::from_secs(60),
        };
        Self { temp, script, stop, sender }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn run(&self) -> Ran {
        self.run_change(None)
    }

    fn run_change(&self, old: Option<(Digest, &Path)>) -> Ran {
        let new = configuration(&[("code", "v01"), ("config", "two words")]);
        let change = Change { old, new: &new, new_root: Path::new("a1/unpacked/new") };
        let log = Log::default();
        let lines =
            tracing_subscriber::registry().with(Lines::new(Format::Human, FORM, log.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (output, ended) = tracing::subscriber::with_default(lines, || {
            runtime.block_on(script::run(&self.script, change, &self.stop, |_| Ok(())))
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        Ran { output: String::from_utf8_lossy(&output).into_owned(), log, ended }
    }
}

fn variables(env: &str) -> BTreeMap<&str, &str> {
    env.split('\0')
        .filter(|line| !line.is_empty())
        .map(|line| line.split_once('=').unwrap())
        .collect()
}

#[test]
fn agent_does_not_wait_for_noisy_background_processes() {
    let bench = Bench::new("#!/bin/sh\nyes &\necho $! >\"$0.pid\"\n");
    let ran = bench.run();
    let pid = fs::read_to_string(bench.path("deploy.sh.pid")).unwrap();
    let killed = std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
    assert!(killed.success());
    ran.ended.unwrap();
}

#[test]
fn script_environment_is_exactly_as_documented() {
    // The script reads its environment from /proc, because the shell adds variables of its own.
    let bench = Bench::new("#!/bin/sh\ncat /proc/$$/environ\n");
    let id = Digest::of(b"old");
    let ran = bench.run_change(Some((id, Path::new("a1/unpacked/old"))));
    ran.ended.unwrap();
    let mut found = variables(&ran.output);
    let state_file = found.remove("STATEFILE").unwrap();
    assert!(!Path::new(state_file).exists(), "{state_file} still exists");
    let mut want: BTreeMap<String, String> = script::PASSED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
        .collect();
    let new = configuration(&[("code", "v01"), ("config", "two words")]).id().to_string();
    for (name, value) in [
        ("OLDID", &*id.to_string()),
        ("OLDROOT", "a1/unpacked/old"),
        ("NEWID", &new),
        ("NEWROOT", "a1/unpacked/new"),
        ("LAYER_0_NAME", "code"),
        ("LAYER_0_VERSION", "v01"),
        ("LAYER_1_NAME", "config"),
        ("LAYER_1_VERSION", "two words"),
    ] {
        want.insert(name.to_owned(), value.to_owned());
    }
    let found: BTreeMap<String, String> =
        found.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(found, want);
}

#[test]
fn script_arguments_and_variables_are_read_at_each_run() {
    let mut bench = Bench::new("#!/bin/sh\nprintf '%s,' \"$@\" \"$ROLE\" \"$NEWID\"\n");
    let new = configuration(&[("code", "v01"), ("config", "two words")]).id();
    bench.script.arguments = ["web 1", "-x", ""].map(Into::into).to_vec();
    bench.script.env_file = Some(bench.path("variables"));
    fs::write(bench.path("variables"), "# of this server\nROLE=\"a b\"\n").unwrap();
    assert_eq!(bench.run().output, format!("web 1,-x,,\"a b\",{new},"));
    fs::write(bench.path("variables"), "ROLE=other\nHOME=/there\n").unwrap();
    assert_eq!(bench.run().output, format!("web 1,-x,,other,{new},"));
    for (bad, want) in [("ROLE", "line 1 has no ="), ("NEWID=x", "NEWID is set by the agent")] {
        fs::write(bench.path("variables"), bad).unwrap();
        let ran = bench.run();
        let err = ran.ended.unwrap_err();
        assert!(!err.has_run() && ran.output.is_empty());
        assert!(err.to_string().contains(want), "{err}");
    }
    fs::remove_file(bench.path("variables")).unwrap();
    let err = bench.run().ended.unwrap_err().to_string();
    assert!(err.contains("No such file") && err.contains("the script was not started"), "{err}");
}

#[test]
fn background_processes_can_print_after_the_agent_ends() {
    // The background process prints more than the capacity of a pipe (64 KiB). When the script
    // ends, the test ends the runtime and, with it, all readers of the pipe in this process.
    let bench = Bench::new(
        "#!/bin/sh\n{ sleep 0.2; seq 1000000 && echo said >$0.done; } &\necho $! >$0.pid\necho ok\n",
    );
    assert_eq!(bench.run().output, "ok\n");
    let done = bench.path("deploy.sh.done");
    eventually("the process has printed everything", || done.exists());
}

#[test]
fn output_through_dev_stderr_is_logged() {
    let bench = Bench::new(
        "#!/bin/sh\necho one\necho two >/dev/stderr\necho 2.5 | tee /dev/stderr >/dev/null\necho three\n",
    );
    assert_eq!(bench.run().output, "one\ntwo\n2.5\nthree\n");
}

#[test]
fn first_run_has_an_empty_old_id_and_root() {
    let ran = Bench::new("#!/bin/sh\ncat /proc/$$/environ\n").run();
    let found = variables(&ran.output);
    assert_eq!((found["OLDID"], found["OLDROOT"]), ("", ""));
}

#[test]
fn state_file_is_world_readable_and_has_the_registrys_bytes() {
    let bench =
        Bench::new("#!/bin/sh\nstat -c %a $STATEFILE\ncat $STATEFILE\nreadlink /proc/$$/fd/0\n");
    let ran = bench.run();
    let json = configuration(&[("code", "v01"), ("config", "two words")]).to_json();
    let want = format!("644\n{}/dev/null\n", String::from_utf8(json).unwrap());
    assert_eq!(ran.output, want);
}

#[test]
fn script_output_is_logged_by_line_and_escaped() {
    let ran = Bench::new("#!/bin/sh\necho one\necho two >&2\nprintf 'a\\033[31m'\n").run();
    ran.ended.unwrap();
    let lines: Vec<&str> =
        ran.log.lines().filter_map(|line| line.split_once(" script: ")).map(|it| it.1).collect();
    assert_eq!(lines, ["one", "two", "a\\u{1b}[31m"]);
    assert_eq!(ran.output, "one\ntwo\na\x1b[31m");
}

#[test]
fn end_of_long_output_is_kept() {
    let ran = Bench::new("#!/bin/sh\nseq 100000\nexit 3\n").run();
    assert_eq!(ran.output.len(), MAX_KEPT);
    assert!(ran.output.ends_with("\n99999\n100000\n"));
    assert_eq!(ran.log.lines().filter(|line| line.contains(" script: ")).count(), 100_000);
    let err = ran.ended.unwrap_err().to_string();
    assert!(err.contains("deploy.sh\" call failure: exit status 3"), "{err}");
}

#[test]
fn background_processes_survive_the_script() {
    let bench =
        Bench::new("#!/bin/sh\nmkfifo $0.go\n{ read go <$0.go; echo $go >$0.done; } &\necho ok\n");
    let ran = bench.run();
    ran.ended.unwrap();
    assert_eq!(ran.output, "ok\n");
    fs::write(bench.path("deploy.sh.go"), "alive\n").unwrap();
    let done = bench.path("deploy.sh.done");
    eventually("the background process has answered", || {
        fs::read_to_string(&done).is_ok_and(|text| text == "alive\n")
    });
}

#[test]
fn end_of_the_grace_period_ends_the_whole_process_group() {
    // The child ignores TERM and does not have the pipe open. The script ends on TERM.
    let mut bench = Bench::new(
        "#!/bin/sh\n(trap '' TERM; exec >/dev/null 2>&1; echo x >$0.ready; exec sleep 600) &\n\
         echo $! >$0.pid\ntrap 'echo asked; exit 0' TERM\nwhile :; do wait; done\n",
    );
    bench.script.grace = Duration::ZERO;
    let (ready, sender) = (bench.path("deploy.sh.ready"), bench.sender.clone());
    let pid = bench.path("deploy.sh.pid");
    let stopper = std::thread::spawn(move || {
        // The two files may appear in either order.
        eventually("the child is ready", || {
            ready.exists() && fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'))
        });
        sender.send_replace(Some(Signal::Terminated));
    });
    let ran = bench.run();
    stopper.join().unwrap();
    let err = ran.ended.unwrap_err();
    assert!(matches!(err, Error::Ended { .. }), "{err}");
    let child = fs::read_to_string(bench.path("deploy.sh.pid")).unwrap();
    eventually("the child has ended", || is_gone(child.trim()));
}

#[test]
fn process_that_ignores_sigterm_is_killed() {
    let mut bench = Bench::new("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 600; done\n");
    bench.script.timeout = Some(Duration::from_millis(10));
    bench.script.kill_after = Duration::from_millis(10);
    let err = bench.run().ended.unwrap_err().to_string();
    assert!(err.contains("because it ran longer than -script-timeout allows"), "{err}");
}

/// Whether the process `pid` has ended. A zombie counts as ended.
fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[test]
fn agent_waits_for_the_script_before_it_ends() {
    let bench = Bench::new("#!/bin/sh\nmkfifo $0.go\nread go <$0.go\necho finished\n");
    bench.sender.send_replace(Some(Signal::Terminated));
    let fifo = bench.path("deploy.sh.go");
    let opener = std::thread::spawn(move || {
        eventually("the script waits", || fifo_is(&fifo));
        fs::write(&fifo, "go\n").unwrap();
    });
    let ran = bench.run();
    opener.join().unwrap();
    ran.ended.unwrap();
    assert_eq!(ran.output, "finished\n");
}

fn fifo_is(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

#[test]
fn stopping_agent_waits_for_the_script_only_for_the_grace_period() {
    let mut bench = Bench::new("#!/bin/sh\nexec sleep 600\n");
    bench.sender.send_replace(Some(Signal::Terminated));
    bench.script.grace = Duration::from_millis(10);
    let err = bench.run().ended.unwrap_err().to_string();
    assert!(err.contains("the agent must stop"), "{err}");
}

#[test]
fn each_reason_why_a_script_cannot_start_has_its_own_message() {
    let fails = |bench: &Bench, want: &str| {
        let err = bench.run().ended.unwrap_err().to_string();
        assert!(err.contains("deploy.sh\": ") && err.contains(want), "{err}");
    };
    let bench = Bench::new("\0\0\0\0 no script");
    fails(&bench, "exec format error; the script's first line must name an interpreter");
    fs::write(bench.path("deploy.sh"), "#!/nonexistent/interpreter\n").unwrap();
    fails(&bench, "the interpreter that the script's first line names");
    let closed = fs::Permissions::from_mode(0o644);
    fs::set_permissions(bench.path("deploy.sh"), closed).unwrap();
    fails(&bench, "permission denied; make the script executable");
    fs::remove_file(bench.path("deploy.sh")).unwrap();
    fails(&bench, "no such file or directory; create the script");
}

#[test]
fn bad_script_environment_is_reported_before_any_work() {
    let bad = configuration(&[("code", "a\0b")]);
    assert!(script::check_environment(&bad).unwrap_err().to_string().contains("NUL"));
    let long = "v".repeat(1000);
    let layers: Vec<(String, &str)> = (0..2000).map(|n| (format!("c{n}"), &*long)).collect();
    let layers: Vec<(&str, &str)> = layers.iter().map(|(name, it)| (&**name, *it)).collect();
    assert!(script::check_environment(&configuration(&layers)).is_err());
    script::check_environment(&configuration(&layers[..200])).unwrap();
}
