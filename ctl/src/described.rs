//! Describes the whole command line for clap. Completions and the man page use this description.

use clap::{Arg, ArgAction, CommandFactory as _, builder};
use deploy_wire::command::{Flag, INPUT, Takes, Verb};

use crate::flags::Flags;
use crate::verbs::all;

/// Returns the whole command line for clap.
pub fn described() -> clap::Command {
    let command = all().fold(Flags::command(), |command, verb| command.subcommand(sub(verb)));
    deploy_cli::full(command.disable_help_subcommand(true))
        .subcommand(
            clap::Command::new("help")
                .about("Explain a verb, or the exit codes")
                .arg(Arg::new("verb").value_name("VERB").value_parser(topics())),
        )
        .mut_args(|arg| arg.hide_env_values(true))
}

fn topics() -> builder::PossibleValuesParser {
    builder::PossibleValuesParser::new(all().map(|verb| verb.name).chain(["exit-codes"]))
}

fn sub(verb: &'static Verb) -> clap::Command {
    let examples = format!("Examples:\n  {}", verb.examples.join("\n  "));
    clap::Command::new(verb.name)
        .about(verb.about)
        .args(verb.flags.iter().map(arg))
        .after_help(examples)
}

fn arg(flag: &'static Flag) -> Arg {
    if flag.name == INPUT {
        return Arg::new("-").help(flag.about).value_name("-");
    }
    let arg = Arg::new(flag.name).help(flag.about);
    let arg = match flag.name.chars().next() {
        Some(letter) if flag.name.len() == 1 => arg.short(letter),
        _ => arg.long(flag.name),
    };
    match (flag.takes, flag.name) {
        (Takes::Nothing, _) => arg.action(ArgAction::SetTrue),
        (_, "file" | "o") => arg.value_hint(clap::ValueHint::FilePath),
        (_, "dir") => arg.value_hint(clap::ValueHint::DirPath),
        _ => arg.value_hint(clap::ValueHint::Other),
    }
}
