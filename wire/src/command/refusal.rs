//! Defines a refusal, which is the answer to a command that the registry does not execute.

use crate::exit;

/// The reason why the registry does not execute a command, or why a line is not a valid command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The text for the user. The text may have several lines. The last line has no newline.
    pub text: String,
    /// The exit code, one of the codes in [`crate::exit`].
    pub code: u8,
}

impl Refusal {
    /// A refusal with one of the codes in [`crate::exit`].
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), code }
    }

    /// The refusal of an invalid command line.
    pub fn usage(text: String) -> Self {
        Self { text, code: exit::USAGE }
    }
}

impl From<deploy_store::Error> for Refusal {
    fn from(err: deploy_store::Error) -> Self {
        use deploy_store::Error;
        let code = match &err {
            Error::BadName { .. } => exit::USAGE,
            Error::NoSuchBlob(_) => exit::NOT_FOUND,
            Error::Corrupt { .. } | Error::NewerFormat { .. } => exit::CORRUPT,
            _ => exit::FAILED,
        };
        Self::new(code, err.to_string())
    }
}
