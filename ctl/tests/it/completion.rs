//! Tests the completion of names in real shells, with and without a registry.

use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::rig::Rig;

/// Maximum time to wait until the screen shows a text.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry with two components and a configuration.
fn registry() -> Rig {
    let rig = Rig::start();
    for (name, version) in [("code", "v1"), ("code", "v2"), ("config", "2026-01")] {
        rig.archive("x.tgz", format!("{name} {version}").as_bytes());
        let add = ["addver", "-name", name, "-version", version, "-file", "x.tgz"];
        assert_eq!(rig.run(&add).code, 0);
    }
    let web = ["addconf", "-name", "web", "-layer", "code:v1", "-layer", "config:2026-01"];
    assert_eq!(rig.run(&web).code, 0);
    rig
}

/// A shell that finds the program and the registry of `rig`.
fn shell(rig: &Rig, program: &str, arguments: &[&str]) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_deployctl")).parent().unwrap();
    let path = format!("{}:{}", built.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new(program);
    let bare = rig.bare(&[]);
    shell.args(arguments).env_clear().current_dir(rig.path(""));
    shell.envs(bare.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("PATH", path).env("DEPLOYCTL_KEY", rig.path("op")).env("LANG", "C.UTF-8");
    shell.env("TERM", "xterm");
    shell
}

/// Whether this program is installed. In CI, a missing program is a failure.
fn is_there(program: &str) -> bool {
    let is_there = Command::new(program).arg("--version").output().is_ok()
        || Command::new(program).arg("-V").output().is_ok();
    if !is_there {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing: install it");
        let text = format!("NOT TESTED: completion in {program}; install it\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    is_there
}

/// The completions that bash offers for the last word of `words`.
fn bash(rig: &Rig, words: &str) -> String {
    let count = words.split(' ').count();
    let words = words.replace("''", "\"\"");
    let line = format!(
        "source <(deployctl completion bash); COMP_WORDS=(deployctl {words}); COMP_CWORD={count}; \
         $(complete -p deployctl | sed 's/.*-F //; s/ .*//') deployctl \
         \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
    );
    let output = shell(rig, "bash", &["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn bash_completes_names() {
    let rig = registry();
    for (words, want) in [
        ("showconf -name ''", "web"),
        ("showcomp -name co", "code config"),
        ("showcomp -name cod", "code"),
        ("showcomp -name = cod", "code"),
        ("delver -name code -version ''", "v1 v2"),
        ("addver -name config -version ''", "2026-01"),
        ("get -name code -version v2", "v2"),
        ("addconf -name new -layer co", "code: config:"),
        ("addconf -name new -layer code :", "v1 v2"),
        ("addconf -name new -layer code : v", "v1 v2"),
        ("addconf -layer config : 2", "2026-01"),
        ("-q bumpconf -name web -component config -component cod", "code"),
        // Verbs and flags are completed, too. The last case has no match.
        ("show", "showconf showcomp showlayers"),
        ("showconf -na", "-name"),
        ("showconf -name nothing-like-it", ""),
    ] {
        assert_eq!(bash(&rig, words), want, "{words}");
    }
}

#[test]
fn completion_cache_is_short_lived_and_private() {
    let mut rig = registry();
    assert_eq!(bash(&rig, "showconf -name ''"), "web");
    let cache = rig.path(".cache/deployctl");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    rig.stop();
    assert_eq!(bash(&rig, "showconf -name w"), "web");
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(11));
    File::options().write(true).open(file).unwrap().set_times(old).unwrap();
    assert_eq!(bash(&rig, "showconf -name w"), "");
}

#[test]
fn completion_is_silent_and_quick_without_a_registry() {
    let rig = Rig::start();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = deaf.local_addr().unwrap().to_string();
    for addr in ["", "127.0.0.1:1", "nowhere.invalid:1", "no-port", &deaf] {
        let began = Instant::now();
        let mut asked = shell(&rig, env!("CARGO_BIN_EXE_deployctl"), &["complete-names"]);
        let asked = asked.args(["showconf", "-name", ""]).env("DEPLOYCTL_ADDR", addr);
        let output = asked.output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{addr}: {output:?}");
        assert!(output.stderr.is_empty(), "{addr}: {output:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{addr}: {:?}", began.elapsed());
    }
    // The key has a passphrase, and the cache cannot be written.
    let mut asked = shell(&rig, env!("CARGO_BIN_EXE_deployctl"), &["complete-names"]);
    let asked = asked.args(["showconf", "-name", ""]).env("DEPLOYCTL_KEY", "locked");
    let output = asked.env("XDG_CACHE_HOME", "/dev/null").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// A terminal with a shell in it.
struct Terminal<'a> {
    rig: &'a Rig,
}

impl Terminal<'_> {
    fn tmux(&self, words: &[&str]) -> String {
        let mut tmux = shell(self.rig, "tmux", &["-f", "/dev/null", "-S"]);
        let output = tmux.arg(self.rig.path("tmux")).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn shows(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if screen.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "{text} is not in:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn types(&self, text: &str, key: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
        self.tmux(&["send-keys", key]);
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut tmux = shell(self.rig, "tmux", &["-S"]);
        let _ = tmux.arg(self.rig.path("tmux")).arg("kill-server").output();
    }
}

#[test]
fn tab_completes_in_a_terminal() {
    let rig = registry();
    if !is_there("tmux") {
        return;
    }
    for (program, start, load) in [
        ("bash", "bash --norc --noprofile", "source <(deployctl completion bash)"),
        (
            "zsh",
            "zsh -f",
            "autoload -U compinit; compinit -u -D; source <(deployctl completion zsh)",
        ),
    ] {
        if !is_there(program) {
            continue;
        }
        let terminal = Terminal { rig: &rig };
        terminal.tmux(&["new-session", "-d", "-x", "120", "-y", "40", start]);
        terminal.types(&format!("{load}; echo 'lo'aded"), "Enter");
        terminal.shows("loaded\n");
        terminal.types("deployctl showconf -name ", "Tab");
        terminal.shows("deployctl showconf -name web");
        terminal.types("-v -x", "C-u");
        terminal.types("deployctl addconf -name n -layer conf", "Tab");
        terminal.shows("-layer config:");
        terminal.tmux(&["send-keys", "Tab"]);
        terminal.shows("-layer config:2026-01");
        terminal.types("", "C-u");
        // If several names match, the first Tab completes the common prefix, and the next Tab shows
        // all names.
        terminal.types("deployctl showcomp -name c", "Tab");
        terminal.shows("showcomp -name co");
        drop(terminal);
    }
}

#[test]
fn fish_completes_names() {
    let rig = registry();
    if !is_there("fish") {
        return;
    }
    for (line, want) in [
        ("deployctl showconf -name ", "web"),
        ("deployctl showcomp -name co", "code config"),
        ("deployctl delver -name code -version ", "v1 v2"),
        ("deployctl addconf -name n -layer code:", "code:v1 code:v2"),
    ] {
        let load = "deployctl completion fish | source";
        let ask = format!("{load}; complete -C '{line}'");
        let output = shell(&rig, "fish", &["--no-config", "-c", &ask]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
        let said = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = said.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(words.join(" "), want, "{line}");
    }
}
