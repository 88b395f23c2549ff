//! The whole walk with the real programs: stock `sftp` and `ssh` put blobs and make a
//! configuration, `deploy-registry` keeps them, `deploy-agent` deploys.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use deploy_store::{Configuration, Digest};

/// A registry, its operator's and its agent's keys, and an agent's working directory.
struct Bench {
    temp: tempfile::TempDir,
    registry: Registry,
}

struct Registry {
    process: Child,
    addr: String,
    fingerprint: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program beside our own: another package's binary is not built for our tests.
fn registry_program() -> PathBuf {
    let own = Path::new(env!("CARGO_BIN_EXE_deploy-agent"));
    let program = own.with_file_name("deploy-registry");
    assert!(program.exists(), "no {}: run cargo build --workspace --bins", program.display());
    program
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

fn start_registry(dir: &Path, addr: &str) -> Registry {
    let log = dir.join("registry.log");
    let process = Command::new(registry_program())
        .args(["-addr", addr, "-dir", "reg", "-opauth", "op.pub", "-srvauth", "srv.pub"])
        .current_dir(dir)
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let after = |text: &str, name: &str| {
        let rest = text.split_once(name)?.1;
        Some(rest.lines().next()?.to_owned())
    };
    let mut found = None;
    eventually("the registry listens", || {
        let text = fs::read_to_string(&log).unwrap();
        found = after(&text, "listening on ").zip(after(&text, "host key fingerprint: "));
        found.is_some()
    });
    let (addr, fingerprint) = found.unwrap();
    Registry { process, addr, fingerprint }
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for name in ["op", "srv", "stranger"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(temp.path().join(name));
            assert!(keygen.status().unwrap().success());
        }
        let registry = start_registry(temp.path(), "127.0.0.1:0");
        let bench = Self { temp, registry };
        bench.script("#!/bin/sh\necho \"$OLDID $NEWID\" >>runs\ncat \"$NEWROOT/conf\"\n");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn script(&self, body: &str) {
        fs::write(self.path("deploy.sh"), body).unwrap();
        fs::set_permissions(self.path("deploy.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
    }

    /// Runs a program of OpenSSH as an operator.
    fn operator(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let (host, port) = self.registry.addr.rsplit_once(':').unwrap();
        let mut child = Command::new(program)
            .args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-i", "op", "-o", &format!("Port={port}")])
            .arg(format!("ops@{host}"))
            .args(arguments)
            .current_dir(self.temp.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Uploads a blob with one file and binds it to a version.
    fn add_version(&self, component: &str, version: &str, name: &str, contents: &str) {
        let tree = self.path("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(name), contents).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["czf", "blob.tar.gz", "-C", "tree", "."]).current_dir(self.temp.path());
        assert!(tar.status().unwrap().success());
        fs::remove_dir_all(tree).unwrap();
        self.operator("sftp", &[], "put blob.tar.gz\n");
        let digest = Digest::of(&fs::read(self.path("blob.tar.gz")).unwrap());
        let line = format!("addver -name {component} -version {version} -hash {digest}");
        self.operator("ssh", &[&line], "");
    }

    fn first_configuration(&self) {
        self.add_version("code", "v01", "bin", "run");
        self.add_version("config", "v01", "conf", "one\n");
        self.operator("ssh", &["addconf -name project1 -layer code:v01 -layer config:v01"], "");
    }

    fn bump(&self, version: &str, contents: &str) {
        self.add_version("config", version, "conf", contents);
        self.operator("ssh", &["bumpconf -name project1 -component config"], "");
    }

    fn agent(&self, arguments: &[&str]) -> Command {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
        let Registry { addr, fingerprint, .. } = &self.registry;
        agent
            .args(["-addr", addr, "-fp", fingerprint, "-key", "srv", "-dir", "a1"])
            .args(["-name", "project1"])
            .args(arguments)
            .current_dir(self.temp.path());
        agent
    }

    fn once(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stderr, .. } =
            self.agent(&["-once"]).args(arguments).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    fn fails_once(&self, arguments: &[&str], code: i32, want: &str) {
        let (found, log) = self.once(arguments);
        assert!(log.contains(want), "{arguments:?}: {log}");
        assert_eq!(found, Some(code), "{arguments:?}: {log}");
        assert_eq!(log.lines().count(), 1, "{arguments:?}: {log}");
    }

    /// A running agent whose log goes to the file `agent.log`.
    fn start_agent(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        self.agent(&["-poll", "50ms", "-v"]).stderr(log).spawn().unwrap()
    }

    fn agent_log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    fn state(&self) -> Option<Configuration> {
        Configuration::from_json(&fs::read(self.path("state.json")).ok()?).ok()
    }

    /// Waits until this version of the config is deployed.
    fn deployed(&self, version: &str) {
        eventually(version, || {
            self.state().is_some_and(|state| state.layers()[1].version.as_str() == version)
        });
    }
}

fn terminate(process: &mut Child) -> Option<i32> {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    process.wait().unwrap().code()
}

#[test]
fn a_single_cycle_tells_by_its_exit_code() {
    let bench = Bench::new();
    bench.fails_once(&[], 5, "no configuration \"project1\" in the registry");
    bench.fails_once(&["-key", "stranger"], 4, "error: ");
    bench.fails_once(&["-key", "nope"], 1, "nope");
    let started = bench.agent(&["-key", "nope"]).output().unwrap();
    assert_eq!(started.status.code(), Some(1), "an agent without a key goes on");
    let refused = "error: dial tcp 127.0.0.1:1: Connection refused (os error 111)\n";
    bench.fails_once(&["-addr", "127.0.0.1:1"], 10, refused);
    let wrong = "SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpWMsb8iJh4aVnhPwA";
    bench.fails_once(&["-fp", wrong], 1, "host key fingerprint mismatch");
    bench.first_configuration();
    let (code, log) = bench.once(&["-v"]);
    assert_eq!(code, Some(0), "{log}");
    let id = bench.state().unwrap().id();
    let update = format!(
        "configuration update available: {id}\n\tcomponent 1: \"code\", version: \"v01\"\n\tcomponent 2: \"config\", version: \"v01\"\n"
    );
    assert!(log.contains(&update), "{log}");
    assert!(log.contains(&format!("switched to the new configuration: {id}\n")), "{log}");
    assert!(log.contains(" script: one\n"), "{log}");
    let root = bench.path(&format!("a1/unpacked/{id}"));
    assert_eq!(fs::read_to_string(root.join("bin")).unwrap(), "run");
    assert_eq!(bench.once(&[]), (Some(0), String::new()));
    assert_eq!(bench.runs(), 1);
}

#[test]
fn events_come_in_order_with_what_they_counted() {
    let bench = Bench::new();
    bench.first_configuration();
    let (code, log) = bench.once(&["-log-format", "json", "-link", "copy"]);
    assert_eq!(code, Some(0), "{log}");
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    let want = [
        "update_available",
        "downloaded",
        "extracted",
        "root_ready",
        "script_started",
        "script_output",
        "script_finished",
        "switched",
    ];
    assert_eq!(names, want);
    let id = bench.state().unwrap().id().to_string();
    for event in events.iter().filter(|event| event["event"] != "script_output") {
        assert_eq!(event["id"], *id, "{event}");
    }
    assert_eq!((&events[1]["layers"], &events[2]["files"]), (&2.into(), &2.into()));
    assert_eq!(events[3]["copied"], 2);
    assert!(events[1]["bytes"].as_u64().unwrap() > 0 && events[6]["ms"].is_u64());
}

#[test]
fn a_running_agent_follows_through_restarts_and_ends_well() {
    let mut bench = Bench::new();
    bench.first_configuration();
    let mut agent = bench.start_agent();
    bench.deployed("v01");
    bench.fails_once(&[], 1, &format!("in use by another process (pid {})", agent.id()));
    bench.bump("v02", "two\n");
    bench.deployed("v02");

    let addr = bench.registry.addr.clone();
    bench.registry.process.kill().unwrap();
    bench.registry.process.wait().unwrap();
    eventually("the agent sees it", || bench.agent_log().contains("; next try in "));
    bench.registry = start_registry(bench.temp.path(), &addr);
    bench.bump("v03", "three\n");
    bench.deployed("v03");

    agent.kill().unwrap();
    agent.wait().unwrap();
    bench.bump("v04", "four\n");
    let mut agent = bench.start_agent();
    bench.deployed("v04");
    eventually("the script's file is there", || bench.runs() == 4);
    assert_eq!(terminate(&mut agent), Some(0));
    assert!(bench.agent_log().ends_with(" terminated\n"), "{}", bench.agent_log());
}

#[test]
fn termination_waits_for_the_script_and_keeps_its_success() {
    let bench = Bench::new();
    bench.script("#!/bin/sh\nmkfifo go\nread line <go\necho \"$line\" >>runs\n");
    bench.first_configuration();
    let mut agent = bench.start_agent();
    eventually("the script waits", || bench.path("go").exists());
    let pid = agent.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    fs::write(bench.path("go"), "done\n").unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0));
    assert!(bench.state().is_some());
    assert_eq!(bench.runs(), 1);
}

#[test]
fn a_script_cut_off_by_the_agents_death_runs_again() {
    let bench = Bench::new();
    bench.script("#!/bin/sh\necho run >>runs\nmkfifo go 2>/dev/null || exit 0\nread line <go\n");
    bench.first_configuration();
    let mut agent = bench.start_agent();
    eventually("the script waits", || bench.path("go").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(bench.state(), None);
    assert_eq!(bench.once(&[]).0, Some(0));
    assert_eq!(bench.runs(), 2);
    // The first script still waits for its line.
    fs::write(bench.path("go"), "done\n").unwrap();
}

#[test]
fn a_missing_script_is_told_before_anything_is_downloaded() {
    let bench = Bench::new();
    bench.first_configuration();
    let (code, log) = bench.once(&["-script", "./nope.sh"]);
    assert_eq!(code, Some(1));
    let warned = log.find("warning: script \"./nope.sh\": no such file or directory").unwrap();
    assert!(warned < log.find("downloaded 2 of 2 layers").unwrap(), "{log}");
    assert!(log.contains("error: \"./nope.sh\": no such file or directory"), "{log}");
    assert_eq!(bench.state(), None);
}
