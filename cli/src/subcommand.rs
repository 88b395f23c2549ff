//! Arranges the help of a subcommand. The help shows the subcommand's own flags first, and then, in
//! groups, the program's flags that apply to the subcommand. It shows all other flags only on
//! request.

use std::ffi::OsString;

use clap::Command;

/// Returns `program`, prepared for reading `words`, which begin with the program's name. If the
/// words name a subcommand, the `-h` of this subcommand also shows the program's flags for which
/// `heading` returns a heading. `heading` gets the names of the subcommand and the flag. `-help`
/// shows all flags.
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
