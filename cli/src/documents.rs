//! Executes the subcommands that every program has (`completion`, `man` and `help exit-codes`), and
//! prints help and usage errors. Completions, man pages and help come from clap's description of
//! the command line.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextValue, ErrorKind};
use clap::{Arg, Command, ValueEnum as _};
use clap_complete::Shell;
use deploy_wire::exit as codes;

use crate::names::{self, Names};
use crate::output;
use crate::spelling::{help, one_dash};

/// The shells with completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Adds the subcommands of this module to the program's command line.
pub fn full(command: Command) -> Command {
    command.subcommand(completion()).subcommand(man())
}

fn completion() -> Command {
    let shells = clap::builder::PossibleValuesParser::new(
        SHELLS.map(|shell| shell.to_possible_value().expect("clap skips none of these shells")),
    );
    Command::new("completion")
        .about("Print the completions of a shell; source the output, or save it where the shell looks for completions")
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(shells))
}

fn man() -> Command {
    let dir = Arg::new("dir").long("dir").value_name("DIR");
    let dir = dir.value_parser(clap::value_parser!(PathBuf));
    Command::new("man")
        .about("Print the man page")
        .arg(dir.help("Write the page and the pages of the subcommands to files in this directory"))
}

/// Executes `arguments` if they are a subcommand of this module. Otherwise returns `None`. The
/// first argument is the program's name. `program` makes the description of the command line.
/// `names` states whether the program's completions include names from a registry.
pub fn early(
    arguments: impl IntoIterator<Item = OsString>,
    program: impl FnOnce() -> Command,
    names: Names,
) -> Option<ExitCode> {
    let words: Vec<OsString> = arguments.into_iter().skip(1).collect();
    let word = |n: usize| words.get(n).and_then(|word| word.to_str());
    let done = match (word(0)?, word(1)) {
        ("help", Some("exit-codes")) => print(codes::HELP),
        ("completion" | "man", _) => {
            let program = program();
            let name = program.get_name().to_owned();
            let asked = Command::new(name.clone()).bin_name(name);
            let asked = asked.subcommand(completion()).subcommand(man());
            let words = deploy_wire::flags::normalize(words, &["dir", "help"].map(str::to_owned));
            match asked.no_binary_name(true).try_get_matches_from(words) {
                Ok(matches) => answer(&matches, program, names),
                Err(err) => return Some(exit(&err)),
            }
        }
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let _ = writeln!(io::stderr(), "{err}");
            codes::FAILED.into()
        }
    })
}

fn answer(matches: &clap::ArgMatches, program: Command, names: Names) -> Result<(), String> {
    match matches.subcommand() {
        Some(("completion", matches)) => {
            let shell = matches.get_one::<String>("shell").and_then(|shell| shell.parse().ok());
            let shell = shell.expect("clap accepts only these shells");
            let name = program.get_name().to_owned();
            let script = completions(program, shell);
            print(&if names == Names::Asked { names::add(&script, shell, &name) } else { script })
        }
        Some((_, matches)) => match matches.get_one::<PathBuf>("dir") {
            None => print(&page(&built(program))),
            Some(dir) => pages(&built(program), dir),
        },
        None => Ok(()),
    }
}

/// Prints a usage error, or the requested help or version.
pub fn exit(err: &clap::Error) -> ExitCode {
    let text = help(&without_escapes(err));
    // If the stream is not a terminal, or if NO_COLOR is set, the stream omits colours.
    let printed = if err.use_stderr() {
        anstream::stderr().write_all(text.as_bytes())
    } else {
        anstream::stdout().write_all(text.as_bytes())
    };
    let asked_for = matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    match printed {
        _ if !asked_for => codes::USAGE.into(),
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => codes::FAILED.into(),
        _ => ExitCode::SUCCESS,
    }
}

/// The error text that clap renders. If the user typed control characters, the function escapes
/// them and removes the colours, so that the text cannot control the terminal.
fn without_escapes(err: &clap::Error) -> String {
    let typed = err.context().flat_map(|(_, value)| match value {
        ContextValue::String(text) => vec![text.clone()],
        ContextValue::Strings(texts) => texts.clone(),
        _ => Vec::new(),
    });
    let odd: Vec<String> = typed.filter(|text| text.contains(char::is_control)).collect();
    let rendered = err.render();
    if odd.is_empty() {
        return rendered.ansi().to_string();
    }
    odd.iter().fold(rendered.to_string(), |text, typed| {
        let shown: String = typed.chars().flat_map(char::escape_debug).collect();
        text.replace(typed, &shown)
    })
}

fn print(text: &str) -> Result<(), String> {
    output::print(text.as_bytes()).map_err(|err| format!("print: {err}"))
}

fn completions(mut program: Command, shell: Shell) -> String {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, &name, &mut script);
    let script = one_dash(&String::from_utf8_lossy(&script));
    match shell {
        // With the option `-s`, zsh would read a word such as `-addr` as four flags of one letter
        // each.
        Shell::Zsh => script.replace("(-s -S -C)", "(-S -C)").replace("(-s -C)", "(-C)"),
        Shell::Fish => fish(&script),
        // clap uses two different names for a subcommand if the program's name has a hyphen.
        Shell::Bash => {
            let words = name.replace('-', "__");
            let wrong = name.replace('-', "__subcmd__");
            script.replace(&format!("{wrong}__subcmd__"), &format!("{words}__subcmd__"))
        }
        _ => script,
    }
}

/// Adapts the completions for fish to flags with one dash, which fish calls "old" flags. The script
/// also parses the line to find the subcommand. Its parser does not know old flags, so the script
/// passes the flags to the parser with two dashes.
fn fish(script: &str) -> String {
    let line = |line: &str| match line.trim() {
        _ if line.starts_with("complete ") => line.replace(" -l ", " -o "),
        "set -e cmd[1]" => {
            format!("{line}\n    set cmd (string replace -r -- '^-([a-z]{{2}})' '--$1' $cmd)")
        }
        _ => line.to_owned(),
    };
    script.lines().map(|text| line(text) + "\n").collect()
}

/// Returns `program` with the flags and subcommands that clap adds at run time.
fn built(mut program: Command) -> Command {
    program.build();
    program
}

/// Writes the man pages of `command` and its subcommands: `NAME.1`, `NAME-SUBCOMMAND.1`.
fn pages(command: &Command, dir: &Path) -> Result<(), String> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(command)).map_err(|err| format!("write {}: {err}", path.display()))?;
    let subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    subcommands.filter(|sub| !sub.is_hide_set()).try_for_each(|sub| pages(sub, dir))
}

fn page(command: &Command) -> String {
    let mut roff = Vec::new();
    // whatis and apropos need one line in the section NAME.
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = about.split_whitespace().collect::<Vec<_>>().join(" ");
    let man = clap_mangen::Man::new(command.clone().about(about.trim_end_matches('.').to_owned()));
    man.render(&mut roff).expect("memory takes any text");
    let mut text = String::from_utf8_lossy(&roff).into_owned();
    // In man pages, flags have one dash, as in all other texts.
    for letter in 'a'..='z' {
        text = text.replace(&format!("\\-\\-{letter}"), &format!("\\-{letter}"));
    }
    text.push_str(".SH \"EXIT STATUS\"\n");
    for line in codes::HELP.lines() {
        let (code, meaning) = line.split_once(' ').unwrap_or((line, ""));
        writeln!(text, ".TP\n{code}\n{}", meaning.trim()).expect("a string takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        let addr = Arg::new("addr").long("addr").env("X_ADDR").default_value("a:1");
        let sub = Command::new("status").about("Show");
        full(Command::new("x").version("1").arg(addr).subcommand(sub))
    }

    #[test]
    fn completions_have_one_dash_flags_and_all_subcommands() {
        for shell in SHELLS {
            let script = completions(program(), shell);
            assert!(!script.contains("--addr") && !script.contains("-l addr"), "{script}");
            for word in ["addr", "status", "completion", "man"] {
                assert!(script.contains(word), "{shell}: {word}: {script}");
            }
        }
    }

    /// The script stores the subcommand's name in `cmd`, and later must search for the same name.
    #[test]
    fn bash_finds_the_subcommands_of_a_program_with_a_hyphen() {
        let sub = Command::new("status").arg(Arg::new("json").long("json"));
        let script = completions(full(Command::new("x-y-z").subcommand(sub)), Shell::Bash);
        let noted = script.lines().filter_map(|line| line.trim().strip_prefix("cmd=\""));
        let noted: Vec<&str> = noted.filter_map(|word| word.strip_suffix('"')).collect();
        assert!(noted.len() > 4, "{script}");
        for word in noted.iter().filter(|word| !word.is_empty()) {
            let label = format!("{word})");
            assert!(script.lines().any(|line| line.trim() == label), "no {label} in {script}");
        }
    }

    #[test]
    fn man_page_has_a_one_line_name_section() {
        let program = program().about("Does this,\nand that.");
        let page = page(&built(program));
        assert!(page.contains("\n.SH NAME\nx \\- Does this, and that\n.SH SYNOPSIS\n"), "{page}");
    }

    #[test]
    fn man_pages_have_flags_environment_and_exit_codes() {
        let page = page(&built(program()));
        for text in ["\\-addr", "X_ADDR", "a:1", "x\\-status", "EXIT STATUS", "damage found"] {
            assert!(page.contains(text), "{text}: {page}");
        }
        assert!(!page.contains("\\-\\-addr"), "{page}");
    }
}
