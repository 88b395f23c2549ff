//! The help of a subcommand: what is its own first, then those flags of the program that it has
//! use for, in groups; the rest only where all is asked for.

use std::ffi::OsString;

use clap::Command;

/// `program` as it reads `words`, its name first. Where they name a subcommand, its `-h` has the
/// program's flags for which `heading`, told the names of both, has one; `-help` has all.
pub fn focused(
    program: Command,
    words: &[OsString],
    heading: impl Fn(&str, &str) -> Option<&'static str>,
) -> Command {
    let subs = || program.get_subcommands().map(Command::get_name);
    let named = words.iter().skip(1).find_map(|word| subs().find(|name| word == name));
    let Some(name) = named.map(str::to_owned) else { return program };
    program.mut_args(|arg| {
        if !arg.is_global_set() {
            return arg;
        }
        match heading(&name, arg.get_id().as_str()) {
            Some(heading) => arg.help_heading(heading),
            None => arg.help_heading("Others").hide_short_help(true),
        }
    })
}
