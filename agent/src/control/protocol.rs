//! What a subcommand asks a running agent: one line of JSON on the socket `control` in
//! its directory. The answer is one JSON document, with blanks before it for as long as
//! the agent is at work.

use std::ffi::CStr;
use std::time::Duration;

use deploy_wire::exit;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The socket.
pub const SOCKET: &CStr = c"control";
/// Longest request, in bytes.
pub const MAX_REQUEST: u64 = 1 << 20;
/// Longest answer, in bytes.
pub const MAX_ANSWER: u64 = 64 << 20;
/// Longest time that a request, or a piece of an answer, takes on its way.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two signs of life of an agent at work; less than [`PATIENCE`].
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// To remove what nothing needs, or to tell what that would be.
    Gc {
        /// Only to tell.
        dry_run: bool,
        /// Also the roots of another program. Not sent to an agent of before where it is not wanted.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        taken_over: bool,
    },
    /// To look at the registry now.
    Sync,
    /// To deploy the root before the current one, and to hold.
    Rollback,
    /// To hold no longer.
    Release,
    /// To mend what is damaged.
    Repair {
        /// Where, in the agent's directory.
        damaged: Vec<String>,
    },
}

/// What the agent, or the subcommand in its place, has to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Exit code of the subcommand.
    pub code: u8,
    /// Why it did not do what was asked.
    pub error: Option<String>,
    /// What it did.
    pub document: Value,
}

impl Answer {
    /// What was done, and the exit code for it.
    pub fn of(code: u8, document: &impl Serialize) -> Self {
        match serde_json::to_value(document) {
            Ok(document) => Self { code, error: None, document },
            Err(err) => Self::failed(exit::FAILED, format!("write the answer: {err}")),
        }
    }

    /// Why nothing was done.
    pub fn failed(code: u8, error: impl Into<String>) -> Self {
        Self { code, error: Some(error.into()), document: Value::Null }
    }

    /// What was done, if it is of the form that was asked for.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_of_json() {
        let line =
            serde_json::to_string(&Request::Gc { dry_run: true, taken_over: false }).unwrap();
        assert_eq!(line, r#"{"request":"gc","dry_run":true}"#);
        let read = |line| serde_json::from_str::<Request>(line);
        assert_eq!(read(r#"{"request":"sync"}"#).unwrap(), Request::Sync);
        for junk in ["", "null", "{}", r#"{"request":"gc"}"#, r#"{"request":"gc","dry":1}"#] {
            assert!(read(junk).is_err(), "{junk}");
        }
    }
}
