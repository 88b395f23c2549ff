//! Sets up the stage for a transcript: a directory with keys, archives and a registry, and a `PATH`
//! with the real programs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use deploy_testing::program;
use tempfile::TempDir;

/// The maximum time for the start of a program, or for a command of a transcript.
const PATIENCE: Duration = Duration::from_secs(60);
/// The archives in the directory, and the contents of each.
const ARCHIVES: [(&str, &str); 5] = [
    ("code_v1", "program v1"),
    ("code_v2", "program v2"),
    ("config_v1", "config v1"),
    ("config_v2", "config v2"),
    ("config_v3", "config v3"),
];

/// A script that prints an image with the given name, in the form of `docker save`.
const MAKE_IMAGE: &str = r#"set -e
dir=$(mktemp -d)
tar="tar --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=gnu -c"
mkdir $dir/a $dir/b $dir/1 $dir/2
echo "$1" > $dir/a/file
echo old > $dir/a/gone
: > $dir/b/.wh.gone
echo new > $dir/b/new
$tar -f $dir/1/layer.tar -C $dir/a file gone
$tar -f $dir/2/layer.tar -C $dir/b .wh.gone new
sum() { sha256sum $dir/$1/layer.tar | cut -c1-64; }
printf '{"os":"linux","architecture":"amd64","config":{"Cmd":["/file"],"User":"app"},' > $dir/config.json
printf '"rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]}}' $(sum 1) $(sum 2) >> $dir/config.json
printf '[{"Config":"config.json","RepoTags":["%s"],' "$1" > $dir/manifest.json
printf '"Layers":["1/layer.tar","2/layer.tar"]}]' >> $dir/manifest.json
tar -cC $dir config.json 1/layer.tar 2/layer.tar manifest.json
rm -r $dir"#;

/// The stage of a transcript.
pub struct Stage {
    dir: TempDir,
    running: Vec<Child>,
    environment: BTreeMap<&'static str, String>,
    /// Texts that differ from run to run, each with its name in transcripts.
    pub known: Vec<(String, String)>,
}

impl Stage {
    /// Sets up a stage with keys, archives and a registry. `flags` are additional flags of the
    /// registry.
    pub fn set(flags: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let mut stage =
            Self { dir, running: Vec::new(), environment: BTreeMap::new(), known: Vec::new() };
        fs::create_dir(stage.path("bin")).unwrap();
        for key in ["operator", "service", "stranger"] {
            stage.done(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", key]);
            let fingerprint = stage.done(&["ssh-keygen", "-lf", key]);
            let fingerprint = fingerprint.split(' ').nth(1).unwrap().to_owned();
            stage.known.push((fingerprint, format!("{{{}}}", key.to_uppercase())));
        }
        for (name, text) in ARCHIVES {
            let component = name.split('_').next().unwrap();
            fs::create_dir_all(stage.path(component)).unwrap();
            fs::write(stage.path(component).join("file"), format!("{text}\n")).unwrap();
            let archive = format!("{name}.tar.gz");
            let flags = ["--mtime=@1", "--owner=0", "--group=0", "--numeric-owner", "--mode=u=rwX"];
            let tar = [&["tar", "-cz"][..], &flags, &["-f", &archive, "-C", component, "file"]];
            stage.done(&tar.concat());
            let sum = stage.done(&["sha256sum", &archive]);
            stage.known.push((sum[..64].to_owned(), format!("{{{name}}}")));
        }
        // A word before the command, because the other programs must not see the address.
        let catalogue = deploy_testing::catalogue(&stage.path("registry"))
            .map_or_else(String::new, |url| format!("DEPLOY_REGISTRY_CATALOGUE='{url}'"));
        let words =
            ["env", &catalogue, "deploy-registry", "-addr", "127.0.0.1:0", "-dir", "registry"];
        let keys = ["-opauth", "operator.pub", "-srvauth", "service.pub"];
        stage.start(&[&words[..], &keys, flags].concat().join(" "), "registry.log");
        let log = stage.wait_for("registry.log", "listening on ");
        let after = |text: &str| log.split(text).nth(1).unwrap().lines().next().unwrap().to_owned();
        let (addr, fingerprint) = (after("listening on "), after("host key fingerprint: "));
        stage.write_clients(&addr);
        stage.known.push((stage.dir.path().display().to_string(), "{DIR}".to_owned()));
        stage.known.push((addr.clone(), "{ADDR}".to_owned()));
        stage.known.push((fingerprint.clone(), "{HOST}".to_owned()));
        let own = stage.environment();
        let go = deploy_testing::package().join("../registry/tests/go/registry");
        stage.environment.insert("GO_REGISTRY", go.into_os_string().into_string().unwrap());
        let values = [addr, fingerprint].into_iter().chain(
            ["operator", "service"]
                .map(|key| stage.path(key).into_os_string().into_string().unwrap()),
        );
        let values: Vec<String> = values.collect();
        for (name, value) in [
            ("DEPLOYCTL_ADDR", &values[0]),
            ("DEPLOYCTL_FINGERPRINT", &values[1]),
            ("DEPLOYCTL_KEY", &values[2]),
            ("DEPLOY_AGENT_ADDR", &values[0]),
            ("DEPLOY_AGENT_FP", &values[1]),
            ("DEPLOY_AGENT_KEY", &values[3]),
            // The link mode and the confinement are fixed, because filesystems and kernels differ
            // between machines.
            ("DEPLOY_AGENT_LINK", &"hardlink".to_owned()),
            ("DEPLOY_AGENT_CONFINE", &"off".to_owned()),
            // The host's name is fixed, because the names of machines differ.
            ("DEPLOY_AGENT_HOST", &"web-01".to_owned()),
        ] {
            stage.environment.insert(name, value.clone());
        }
        stage.environment.extend(own);
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration of the stock clients for the host `registry`, and the commands
    /// `await`, which repeats a command until it succeeds, and `make-image`.
    fn write_clients(&self, addr: &str) {
        let (host, port) = addr.rsplit_once(':').unwrap();
        let config = format!(
            "Host registry\nHostName {host}\nPort {port}\nUser me\nIdentityFile {}\n\
             IdentitiesOnly yes\nIdentityAgent none\nStrictHostKeyChecking no\n\
             UserKnownHostsFile /dev/null\nLogLevel ERROR\nBatchMode yes\n",
            self.path("operator").display()
        );
        let file = self.path("ssh_config");
        fs::write(&file, config).unwrap();
        for client in ["ssh", "scp", "sftp"] {
            let text = format!("exec /usr/bin/{client} -F {} \"$@\"", file.display());
            self.write_script(client, &text);
        }
        let wait = "for n in $(seq 600); do if \"$@\"; then exit 0; fi; sleep 0.1; done; exit 1";
        self.write_script("await", wait);
        self.write_script("make-image", MAKE_IMAGE);
    }

    fn write_script(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn environment(&self) -> BTreeMap<&'static str, String> {
        let path = std::env::var("PATH").unwrap();
        let (ours, programs) =
            (self.path("bin"), program("deploy-agent").parent().unwrap().to_owned());
        let path = format!("{}:{}:{path}", ours.display(), programs.display());
        let home = self.dir.path().display().to_string();
        let fixed = [("USER", "tester"), ("LANG", "C.UTF-8"), ("TERM", "dumb"), ("TZ", "UTC")];
        let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
        fixed.into_iter().chain([("PATH", path), ("HOME", home)]).collect()
    }

    fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-c", line]).current_dir(self.dir.path()).stdin(Stdio::null());
        let set = if self.environment.is_empty() { self.environment() } else { BTreeMap::new() };
        shell.env_clear().envs(&set).envs(&self.environment);
        shell
    }

    /// Runs a command that must succeed, and returns its output.
    fn done(&self, words: &[&str]) -> String {
        let output = Command::new(words[0]).args(&words[1..]).current_dir(self.dir.path()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs one line of a transcript.
    pub fn play(&self, line: &str) -> Output {
        let limit = format!("timeout -s KILL {} bash -c \"$LINE\"", PATIENCE.as_secs());
        self.shell(&limit).env("LINE", line).output().unwrap()
    }

    /// Starts a program that runs until the end of the transcript. The program's output goes to the
    /// file `log`.
    pub fn start(&mut self, line: &str, log: &str) {
        let file = File::create(self.path(log)).unwrap();
        let mut shell = self.shell(&format!("exec {line}"));
        let to_file = shell.stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        self.running.push(to_file.spawn().unwrap());
    }

    /// Waits until a file contains `text`, and returns the whole file.
    pub fn wait_for(&self, log: &str, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut said = String::new();
            File::open(self.path(log)).unwrap().read_to_string(&mut said).unwrap();
            if said.lines().any(|line| line.contains(text)) && said.ends_with('\n') {
                return said;
            }
            assert!(Instant::now() < end, "{log} does not contain {text:?}: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Makes `name` a symlink to the file `target` of the project.
    #[allow(dead_code, reason = "not every test uses this method")]
    pub fn link(&self, target: &Path, name: &str) {
        symlink(target, self.path(name)).unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.running {
            // The signal goes to the whole process group, so that the program's children end
            // together with the program.
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("registry.log")).unwrap_or_default();
            #[allow(clippy::print_stderr, reason = "the log shows why a test failed")]
            {
                eprintln!("the registry's log:\n{log}");
            }
        }
    }
}
