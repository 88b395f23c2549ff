//! Follows the README of the Go tool word for word. The test runs the README's commands with stock
//! `ssh`, `sftp` and this project's programs. The test checks the answers, the JSON and the
//! environment of the script. The test uses another port than the README, because the README's port
//! may be in use.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deploy_store::Digest;

/// The home directory of an imaginary reader of the README, and the reader's registry.
struct Reader {
    home: tempfile::TempDir,
    port: String,
    fingerprint: String,
    registry: Option<Child>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(registry) = &mut self.registry {
            let _ = registry.kill();
            let _ = registry.wait();
        }
    }
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        fs::create_dir(&ssh).unwrap();
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "rsa", "-N", "", "-f"]).arg(ssh.join("id_rsa"));
        assert!(keygen.status().unwrap().success());
        // `ssh` and `sftp` look for their files in the home directory of the account, not in
        // `$HOME`.
        let at = ssh.display();
        let config = format!(
            "IdentityFile {at}/id_rsa\nIdentitiesOnly yes\nUserKnownHostsFile {at}/known_hosts\n\
             StrictHostKeyChecking accept-new\nLogLevel ERROR\n"
        );
        fs::write(ssh.join("config"), config).unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["ssh", "sftp"] {
            let wrapper = format!("#!/bin/sh\nexec /usr/bin/{name} -F {at}/config \"$@\"\n");
            fs::write(bin.join(name), wrapper).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { home, port: "0".to_owned(), fingerprint: String::new(), registry: None }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// A shell that runs a line of the README.
    fn shell(&self, line: &str) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_deploy-agent")).parent().unwrap();
        let path = format!(
            "{}:{}:{}",
            self.path("bin").display(),
            programs.display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new("bash");
        command.args(["-c", &line.replace("2022", &self.port)]);
        command.current_dir(self.home.path()).stdin(Stdio::null()).env("PATH", path);
        command.env("HOME", self.home.path()).env("DIR", self.path("deploy-registry"));
        command.env("DEPLOYCTL_ADDR", format!("localhost:{}", self.port));
        command.env("DEPLOYCTL_FINGERPRINT", &self.fingerprint);
        command.env("USER", "reader").env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Runs `line`, which must succeed, and returns its output.
    fn run(&self, line: &str) -> String {
        let output = self.shell(line).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the registry as the README does, and waits until it listens.
    fn start_registry(&mut self) {
        let line = "exec deploy-registry -addr localhost:2022 -dir $DIR \
                    -opauth $DIR/operator.keys -srvauth $DIR/service.keys";
        let log = self.path("registry.log");
        let child = self.shell(line).stderr(File::create(&log).unwrap()).spawn().unwrap();
        self.registry = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        let (text, port) = loop {
            let text = fs::read_to_string(&log).unwrap();
            let line = text.lines().find(|line| line.contains("listening on "));
            if let Some((_, port)) = line.and_then(|line| line.rsplit_once(':')) {
                break (text.clone(), port.to_owned());
            }
            assert!(Instant::now() < deadline, "the registry does not listen: {text}");
            std::thread::yield_now();
        };
        self.port = port;
        let (_, rest) = text.split_once("host key fingerprint: ").unwrap();
        rest.lines().next().unwrap().clone_into(&mut self.fingerprint);
    }

    /// Runs `ssh -p 2022 localhost` on a terminal, types `lines` at the prompt, and returns the
    /// answers.
    fn prompt(&self, lines: &[&str]) -> Vec<String> {
        let mut terminal = self.shell("script -qec 'ssh -p 2022 localhost' /dev/null");
        let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for line in lines {
            stdin.write_all(format!("{line}\r").as_bytes()).unwrap();
        }
        stdin.write_all(b"exit\r").unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        let seen = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{seen}");
        // After each prompt, the terminal echoes the typed line. The echo contains ` \r` wherever a
        // line of the terminal is full.
        let turns = seen.split("\x1b[31m> \x1b[0m").skip(1);
        let answer = |(turn, line): (&str, &&str)| {
            let mut rest = turn;
            for c in line.chars() {
                rest = rest.strip_prefix(" \r").unwrap_or(rest);
                rest = rest.strip_prefix(c).expect("the terminal echoes the command");
            }
            rest.strip_prefix("\r\n").expect("the line's end").replace("\r\n", "\n")
        };
        turns.zip(lines).map(answer).collect()
    }
}

/// The names of the variables that the agent adds to a script's environment.
fn environment(env: &str) -> Vec<&str> {
    let usual = ["PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "LANG", "LC_ALL", "SHELL"];
    let shells_own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names = env.lines().filter_map(|line| Some(line.split_once('=')?.0));
    names.filter(|name| !usual.contains(name) && !shells_own.contains(name)).collect()
}

/// The JSON of the first configuration, with `T` in place of each time.
fn first_json(id: &Digest, code: &str, config: &str) -> String {
    let layer = |name: &str, hash: &str, last: &str| {
        format!(
            "\t\t{{\n\t\t\t\"Name\": \"{name}\",\n\t\t\t\"Version\": \"v01\",\n\t\t\t\"File\": \
             \"files/{hash}\",\n\t\t\t\"Hash\": \"{hash}\",\n\t\t\t\"Ctime\": \"T\"\n\t\t}}{last}\n"
        )
    };
    format!(
        "{{\n\t\"Name\": \"project1\",\n\t\"Mtime\": \"T\",\n\t\"Hash\": \"{id}\",\n\t\"Layers\": \
         [\n{}{}\t]\n}}\n",
        layer("code", code, ","),
        layer("config", config, "")
    )
}

/// Replaces each timestamp in the text with `TIME`.
fn masked(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for word in &mut words {
        let time = word.trim_end();
        if time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T' {
            *word = "TIME";
        }
    }
    words.join(" ")
}

#[test]
fn go_readme_works_word_for_word() {
    let mut reader = Reader::new();

    // The section "Registry setup" of the README begins here.
    reader.run("mkdir $DIR");
    reader.run("cat $HOME/.ssh/id_rsa.pub | tee $DIR/operator.keys $DIR/service.keys");
    reader.start_registry();

    // The section "Managing registry" of the README begins here.
    reader.run("mkdir $HOME/project1");
    reader.run("echo \"program body v1\" >$HOME/project1/program.txt");
    reader.run("echo \"config v1\" >$HOME/project1/config.txt");
    reader.run("tar czf code_v1.tar.gz -C $HOME/project1 program.txt");
    reader.run("tar czf config_v1.tar.gz -C $HOME/project1 config.txt");
    let uploading = |name: &str| format!("sftp> put {name}\nUploading {name} to /{name}\n");
    let put = reader.run("echo \"put code_v1.tar.gz\" | sftp -P 2022 localhost");
    assert_eq!(put, uploading("code_v1.tar.gz"));
    let put = reader.run("echo \"put config_v1.tar.gz\" | sftp -P 2022 localhost");
    assert_eq!(put, uploading("config_v1.tar.gz"));
    let digest = |name: &str| Digest::of(&fs::read(reader.path(name)).unwrap()).to_string();
    let (code, config) = (digest("code_v1.tar.gz"), digest("config_v1.tar.gz"));
    let answers = reader.prompt(&[
        &format!("addver -name code -version v01 -hash {code}"),
        &format!("addver -name config -version v01 -hash {config}"),
        "components",
        "showcomp -name config",
        "addconf -name project1 -layer code:v01 -layer config:v01",
        "configurations",
        "showconf -name project1",
    ]);
    let answers: Vec<String> = answers.iter().map(|answer| masked(answer)).collect();
    assert_eq!(
        answers,
        [
            "",
            "",
            "code\nconfig\n",
            "TIME   v01   \n",
            "",
            "project1\n",
            "code     v01   TIME   \nconfig   v01   TIME   \n",
        ]
    );

    reader.run("echo \"config v2\" >$HOME/project1/config.txt");
    reader.run("tar czf config_v2.tar.gz -C $HOME/project1 config.txt");
    let added = reader.run("deployctl addver -name config -version v02 -file config_v2.tar.gz");
    assert_eq!(added, "");
    let changed = reader.run("deployctl changeconf -name project1 -component config -version v02");
    let back = "changeconf -name=\"project1\" -component=\"config\" -version=\"v01\"";
    assert_eq!(changed, format!("to roll back run:\n\tdeployctl {back}\n"));
    let back = reader.prompt(&["changeconf -name project1 -component config -version v01"]);
    let forth = "changeconf -name=\"project1\" -component=\"config\" -version=\"v02\"";
    assert_eq!(back, [format!("to roll back run:\n\t{forth}\n")]);

    // The section "Tracking configurations and deployment" of the README begins here.
    reader.run("sftp -P 2022 deploy-agent@localhost:configs/project1.json");
    let json = fs::read_to_string(reader.path("project1.json")).unwrap();
    let id = Digest::of(format!("{code}\n{config}\n").as_bytes());
    assert_eq!(without_times(&json), first_json(&id, &code, &config));

    let script = "#!/bin/sh\nenv | sort >env\ncat \"$STATEFILE\" >state.seen\npwd >cwd\n\
                  ls \"$NEWROOT\" >ls\n";
    fs::write(reader.path("deploy.sh"), script).unwrap();
    fs::set_permissions(reader.path("deploy.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let agent = format!(
        "deploy-agent -addr localhost:2022 -fp {} -key $HOME/.ssh/id_rsa -name project1 -dir . \
         -once -v",
        reader.fingerprint
    );
    reader.run(&agent);
    let read = |name: &str| fs::read_to_string(reader.path(name)).unwrap();
    assert_eq!(read("state.seen"), json);
    assert_eq!(read("state.json"), json);
    assert_eq!(read("ls"), "config.txt\nprogram.txt\n");
    assert_eq!(Path::new(read("cwd").trim()), reader.home.path().canonicalize().unwrap());
    let env = read("env");
    let expected = [
        "LAYER_0_NAME",
        "LAYER_0_VERSION",
        "LAYER_1_NAME",
        "LAYER_1_VERSION",
        "NEWID",
        "NEWROOT",
        "OLDID",
        "OLDROOT",
        "STATEFILE",
    ];
    assert_eq!(environment(&env), expected, "{env}");
    for line in
        ["LAYER_0_NAME=code", "LAYER_1_VERSION=v01", &format!("NEWID={id}"), "OLDID=", "OLDROOT="]
    {
        assert!(env.lines().any(|has| has == line), "{line}: {env}");
    }
    // If `-dir` is relative, the Go tool gives the script relative paths. This agent gives absolute
    // paths, which have the same meaning in every working directory.
    let value =
        |name: &str| env.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let home = reader.home.path().canonicalize().unwrap();
    assert_eq!(Path::new(&value("NEWROOT=")), home.join("unpacked").join(id.to_string()));
    assert!(Path::new(&value("STATEFILE=")).is_absolute());

    reader.run("deployctl changeconf -name project1 -component config -version v02");
    reader.run(&agent);
    let env = read("env");
    assert!(env.lines().any(|line| line == format!("OLDID={id}")), "{env}");
    assert_eq!(
        fs::read_to_string(reader.path("unpacked").join(second(&env)).join("config.txt")).unwrap(),
        "config v2\n"
    );
}

/// The id of the new configuration, from a script's environment.
fn second(env: &str) -> &str {
    env.lines().find_map(|line| line.strip_prefix("NEWID=")).unwrap()
}

/// Replaces each timestamp in the JSON with `T`.
fn without_times(json: &str) -> String {
    let line = |line: &str| {
        let key = ["\"Mtime\": \"", "\"Ctime\": \""].into_iter().find(|key| line.contains(key));
        match key.and_then(|key| Some((line.split_once(key)?, key))) {
            Some(((before, rest), key)) => {
                let (time, after) = rest.split_once('"').unwrap();
                assert!(time.ends_with('Z') && time.len() > 19, "{line}");
                format!("{before}{key}T\"{after}\n")
            }
            None => format!("{line}\n"),
        }
    };
    json.lines().map(line).collect()
}
