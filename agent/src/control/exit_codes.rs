//! Chooses the exit codes of subcommands. If a running agent does the work of a subcommand, the
//! agent's answer contains the exit code.

use deploy_wire::exit;

use crate::error::Error;
use crate::stop::Signal;

/// The exit code for an error of a cycle or of a request.
pub fn of(err: &Error) -> u8 {
    match err {
        Error::Registry(err) | Error::Download { cause: err, .. } => err.code(),
        Error::UnknownConfiguration { .. }
        | Error::NothingDeployed
        | Error::NothingBefore { .. } => exit::NOT_FOUND,
        Error::WrongBytes { .. } => exit::CORRUPT,
        _ => exit::FAILED,
    }
}

/// The exit code of a program that a signal ended. Shells report the same code for such a program.
pub fn of_signal(signal: Signal) -> u8 {
    match signal {
        Signal::Interrupt => 130,
        Signal::Terminated => 143,
    }
}
