//! Chooses the exit code of a command for each [`Error`]. Other modules choose the codes of answers
//! and refusals without an [`Error`].

use deploy_wire::command::{Command, Refusal};
use deploy_wire::exit;

use crate::caller::Client;
use crate::error::Error;

/// The part of a refusal that says how to delete the version or the component anyway.
const USE_FORCE: &str = "use -force to delete it anyway";

/// The exit code of a command that fails with `err`.
pub(super) fn exit_code(err: &Error) -> u8 {
    match err {
        Error::NotFound(_) | Error::MissingLayers(_) => exit::NOT_FOUND,
        Error::Conflict(_) => exit::CONFLICT,
        Error::Invalid(_) => exit::USAGE,
        Error::Damaged(_) => exit::CORRUPT,
        Error::NotBound { cause, .. } => exit_code(cause),
        Error::BadArchive { .. }
        | Error::Busy(_)
        | Error::OverLimit(_)
        | Error::Failed(_)
        | Error::Store(_)
        | Error::Database(_)
        | Error::NoAnswer(_)
        | Error::NoBucket(_) => exit::FAILED,
    }
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        Self::new(exit_code(&err), err.to_string())
    }
}

/// The exit code of an ssh session that ran several commands, or of an sftp session.
pub fn session_code(succeeded: bool) -> u8 {
    if succeeded { exit::OK } else { exit::FAILED }
}

/// Rewords a refusal for `client`. For users of the Go tool, the text includes a command line to
/// paste.
pub(super) fn reword(client: Client, command: &Command, refusal: Refusal) -> Refusal {
    if client != Client::Go || !refusal.text.contains(USE_FORCE) {
        return refusal;
    }
    let line = Client::Ssh.typed(&format!("{command} -force"));
    let how = format!("to delete it anyway run:\n\t{line}");
    Refusal { text: refusal.text.replace(USE_FORCE, &how), ..refusal }
}

/// Whether the refused command was only a question. `deployctl` sends `addver` before an upload to
/// ask whether the registry has the file. The answer "no" is not a refused change.
pub(super) fn only_asks(client: Client, command: &Command, refusal: &Refusal) -> bool {
    client == Client::Deployctl
        && matches!(command, Command::AddVersion { .. })
        && refusal.code == exit::NOT_FOUND
}
