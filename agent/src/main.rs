//! The program `deploy-agent` reads the command line, lets the library do the work, and ends with
//! the exit code.

use std::process::ExitCode;

use deploy_agent::flags::{Cli, sub_help};
use deploy_agent::{commands, log};
use deploy_cli::Names;

fn main() -> ExitCode {
    let described = || deploy_cli::full(Cli::described(deploy_cli::version!()));
    if let Some(code) = deploy_cli::early(std::env::args_os(), described, Names::None) {
        return code;
    }
    let words: Vec<_> = std::env::args_os().collect();
    let command = deploy_cli::focused(described(), &words, sub_help::heading);
    let cli = match Cli::read(command, words) {
        Ok(cli) => cli,
        Err(err) => return deploy_cli::exit(&err),
    };
    log::start(cli.flags.log_format, cli.flags.v);
    deploy_cli::log::log_panics();
    match commands::run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            // The text of an error already contains the cause of the error.
            tracing::error!(event = "failed", "{err}");
            ExitCode::from(commands::exit_code(&err))
        }
    }
}
