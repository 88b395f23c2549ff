//! Tests the prompt in a terminal. The terminal is a tmux session with a stock `ssh -t`, and the
//! test reads the user's screen.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::{PATIENCE, Rig, wait_until};

/// A terminal that shows the prompt.
struct Terminal<'a> {
    rig: &'a Rig,
}

impl<'a> Terminal<'a> {
    /// Opens the terminal. Without tmux, the function prints a notice and returns `None`. In CI, a
    /// missing tmux is a failure.
    fn open(rig: &'a Rig) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "tmux is missing");
            let text = b"NOT TESTED: the prompt in a terminal; install tmux\n";
            std::io::stderr().write_all(text).unwrap();
            return None;
        }
        let ssh = rig.client("ssh", "op");
        let words = std::iter::once(ssh.get_program()).chain(ssh.get_args());
        let mut words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        words.extend(["-t", "me@127.0.0.1"]);
        let terminal = Self { rig };
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", &words.join(" ")]);
        terminal.ends_with("> ");
        Some(terminal)
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.rig.path("tmux")).args(["-f", "/dev/null"]).args(words);
        let tmux = tmux.current_dir(self.rig.dir.path()).env_remove("TMUX").env("LANG", "C.UTF-8");
        let output = tmux.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", crate::rig::both(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Presses keys. `keys` has tmux's names for these keys.
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn type_in(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
    }

    fn resize(&self, columns: u32) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", "24"]);
    }

    /// The text of the screen down to the cursor's row, including the blank after the prompt.
    fn screen(&self) -> String {
        let shown = self.tmux(&["capture-pane", "-p", "-N"]);
        let at = self.tmux(&["display-message", "-p", "#{cursor_x} #{cursor_y}"]);
        let (column, row) = at.trim().split_once(' ').unwrap();
        let (column, row): (usize, usize) = (column.parse().unwrap(), row.parse().unwrap());
        let mut rows: Vec<String> = shown.lines().take(row + 1).map(str::to_owned).collect();
        for row in &mut rows {
            row.truncate(row.trim_end().len());
        }
        if let Some(last) = rows.last_mut() {
            let missing = column.saturating_sub(last.chars().count());
            last.extend(std::iter::repeat_n(' ', missing));
        }
        rows.join("\n")
    }

    /// Waits until the last rows of the screen are `rows`.
    fn ends_with(&self, rows: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if screen.ends_with(rows) {
                return;
            }
            assert!(Instant::now() < end, "the screen is:\n{screen}\nand should end with:\n{rows}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        let _ = tmux.arg("-S").arg(self.rig.path("tmux")).arg("kill-server").output();
    }
}

/// A registry with two components and a configuration.
fn registry() -> Rig {
    let rig = Rig::start();
    for (name, line) in [
        ("a1", "addver -name code -version v1"),
        ("a2", "addver -name code -version v2"),
        ("b1", "addver -name config -version 2026-01"),
    ] {
        let digest = rig.archive(name, name.as_bytes());
        rig.put(name);
        rig.ok(&format!("{line} -hash {digest}"));
    }
    rig.ok("addconf -name web -layer code:v1 -layer config:2026-01");
    rig
}

#[test]
fn verbs_flags_and_names_are_completed() {
    let rig = registry();
    let Some(terminal) = Terminal::open(&rig) else { return };
    terminal.type_in("add");
    terminal.press(&["Tab"]);
    terminal.ends_with("> add\naddconf   addimage  addver\n> add");
    terminal.type_in("v");
    terminal.press(&["Tab"]);
    terminal.ends_with("> addver ");
    terminal.press(&["Tab"]);
    terminal.ends_with("> addver\n-hash     -name     -version\n> addver ");
    terminal.press(&["C-u"]);

    // The user types only the beginnings of a command's words, and completes each word.
    for (typed, shown) in [
        ("ch", "> changeconf "),
        ("-n", "> changeconf -name "),
        ("", "> changeconf -name web "),
        ("-c", "> changeconf -name web -component "),
        ("cod", "> changeconf -name web -component code "),
        ("-v", "> changeconf -name web -component code -version "),
        ("", "> changeconf -name web -component code -version v"),
        ("2", "> changeconf -name web -component code -version v2 "),
    ] {
        terminal.type_in(typed);
        terminal.press(&["Tab"]);
        terminal.ends_with(shown);
    }
    terminal.press(&["Enter"]);
    let back = "\tchangeconf -name=\"web\" -component=\"code\" -version=\"v1\"\n> ";
    let back = back.replace('\t', "        ");
    terminal.ends_with(&format!("to roll back run:\n{back}"));
    terminal.type_in("addconf -name n -layer conf");
    terminal.press(&["Tab", "Tab"]);
    terminal.ends_with("> addconf -name n -layer config:2026-01 ");
    terminal.press(&["Enter"]);
    terminal.type_in("showconf -name ");
    terminal.press(&["Tab"]);
    terminal.ends_with("> showconf -name\nn    web\n> showconf -name ");
    terminal.type_in("x");
    terminal.press(&["Tab"]);
    terminal.type_in("y");
    terminal.ends_with("> showconf -name xy");
}

/// In a terminal, the completion looks as docs/CLI.md shows it.
#[test]
fn completion_shown_in_the_documents_works() {
    let rig = Rig::start();
    let document = include_str!("../../../docs/CLI.md");
    let mut lines = document.lines().skip_while(|line| !line.contains("<Tab>"));
    let typed = lines.next().unwrap().trim().strip_prefix("> ").unwrap();
    let listed: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    for (component, version) in
        [("code", "v01"), ("config", "v01"), ("config", "v02"), ("config", "v03")]
    {
        let digest = rig.archive("a", format!("{component} {version}").as_bytes());
        rig.put("a");
        rig.ok(&format!("addver -name {component} -version {version} -hash {digest}"));
    }
    rig.ok("addconf -name project1 -layer code:v01 -layer config:v01");
    let Some(terminal) = Terminal::open(&rig) else { return };
    let (line, keys) = typed.split_at(typed.find("<Tab>").unwrap());
    terminal.type_in(line);
    for key in keys.split_inclusive('>') {
        assert_eq!(key, "<Tab>");
        terminal.press(&["Tab"]);
    }
    // The screen shows the line as it was at the completion, and below this line everything that
    // the document shows.
    terminal.ends_with(&format!("{}\n{}", listed.last().unwrap(), listed.join("\n")));
}

#[test]
fn prompt_has_history_help_and_colours() {
    let rig = registry();
    let Some(terminal) = Terminal::open(&rig) else { return };
    terminal.type_in("components");
    terminal.press(&["Enter"]);
    terminal.ends_with("> components\ncode\nconfig\n> ");
    terminal.type_in("showcomp -name nothing");
    terminal.press(&["Enter"]);
    terminal.ends_with("no component \"nothing\" found\n> ");
    // The user looks at the history and returns, and the typed text is still there.
    terminal.type_in("conf");
    terminal.press(&["Up"]);
    terminal.ends_with("> showcomp -name nothing");
    terminal.press(&["Up"]);
    terminal.ends_with("> components");
    terminal.press(&["Up", "Down", "Down"]);
    terminal.ends_with("> conf");
    terminal.press(&["Up", "Up", "Enter"]);
    terminal.ends_with("> components\ncode\nconfig\n> ");

    terminal.press(&["C-l"]);
    terminal.type_in("help bump");
    terminal.press(&["Tab", "Enter"]);
    terminal.ends_with(
        "Examples:\n  bumpconf -name web -component config\n  \
         bumpconf -name web -component config -wait\n  \
         bumpconf -name web -component code -component config\n> ",
    );
    // The prompt is red, and so are errors.
    terminal.type_in("showconf");
    terminal.press(&["Enter"]);
    terminal.ends_with("name should be set\n> ");
    let colours = terminal.tmux(&["capture-pane", "-p", "-e"]);
    assert!(colours.contains("\x1b[31mname should be set"), "{colours:?}");
    assert!(colours.contains("\x1b[31m> \x1b[39m"), "{colours:?}");
    terminal.type_in("exit");
    terminal.press(&["Enter"]);
    wait_until("the session ends", || {
        let mut tmux = Command::new("tmux");
        let list = tmux.arg("-S").arg(rig.path("tmux")).arg("list-sessions").output();
        !list.unwrap().status.success()
    });
}

#[test]
fn reverse_search_finds_old_lines() {
    let rig = registry();
    let Some(terminal) = Terminal::open(&rig) else { return };
    for line in ["showcomp -name none", "configurations", "components"] {
        terminal.type_in(line);
        terminal.press(&["Enter"]);
        terminal.ends_with("\n> ");
    }
    terminal.press(&["C-r"]);
    terminal.ends_with("(reverse-i-search)`': ");
    terminal.type_in("co");
    terminal.ends_with("(reverse-i-search)`co': components");
    terminal.press(&["C-r"]);
    terminal.type_in("n");
    terminal.press(&["Enter"]);
    terminal.ends_with("> configurations\nweb\n> ");
    // Escape and arrow keys keep the found line, and ^G restores the original line.
    terminal.type_in("part");
    terminal.press(&["C-r"]);
    terminal.type_in("none");
    terminal.press(&["Right"]);
    terminal.type_in("x");
    terminal.press(&["End"]);
    terminal.ends_with("> showcomp -name nxone");
    terminal.press(&["C-r"]);
    terminal.type_in("comp");
    terminal.press(&["C-g"]);
    terminal.ends_with("> showcomp -name nxone");
    terminal.press(&["C-u", "C-r"]);
    terminal.type_in("nowhere");
    terminal.press(&["C-c"]);
    terminal.type_in("components");
    terminal.press(&["Enter"]);
    terminal.ends_with("> components\ncode\nconfig\n> ");
}

#[test]
fn line_is_redrawn_after_a_resize() {
    let rig = registry();
    let Some(terminal) = Terminal::open(&rig) else { return };
    terminal.type_in("components");
    terminal.press(&["Enter"]);
    terminal.ends_with("config\n> ");
    let long = "showconf -name \"a configuration whose name is longer than any terminal that is \
                eighty columns wide\"";
    terminal.type_in(long);
    let line = format!("> {long}");
    // The first rows may have scrolled off the top of the screen.
    let rows = |line: &str, width: usize| -> String {
        let rows = line.as_bytes().chunks(width).map(String::from_utf8_lossy);
        let rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        format!("config\n{}", rows.join("\n"))
    };
    let longer = line.replacen("> ", "> XX", 1);
    for width in [80, 40, 61, 100, 33, 120, 50] {
        terminal.resize(u32::try_from(width).unwrap());
        terminal.ends_with(&rows(&line, width));
        // The terminal itself has already wrapped the text again. The registry gets the new width a
        // moment later, so the test waits.
        std::thread::sleep(Duration::from_millis(500));
        terminal.press(&["Home"]);
        terminal.type_in("XX");
        terminal.press(&["End"]);
        terminal.ends_with(&rows(&longer, width));
        terminal.press(&["Home", "DC", "DC", "End"]);
        terminal.ends_with(&rows(&line, width));
    }
    // The user can edit the middle of the line, and the registry reads the result as one line.
    terminal.press(&["Home", "M-f", "M-f"]);
    terminal.type_in("=x");
    terminal.press(&["C-k", "Enter"]);
    terminal.ends_with("> showconf -name=x\nconfiguration \"x\" not found\n> ");
}
