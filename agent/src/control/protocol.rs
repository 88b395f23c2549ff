//! Defines the protocol of the socket `control` in the agent's directory. A request is one line of
//! JSON. Until the answer is ready, the agent sends blanks as keepalives. The answer follows the
//! keepalives, and is one JSON document.

use std::ffi::CStr;
use std::time::Duration;

use deploy_wire::exit;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the socket in the agent's directory.
pub const SOCKET: &CStr = c"control";
/// Maximum size of a request in bytes.
pub const MAX_REQUEST: u64 = 1 << 20;
/// Maximum size of an answer in bytes.
pub const MAX_ANSWER: u64 = 64 << 20;
/// Maximum time to transfer a request, a keepalive, or a piece of an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two keepalives of a busy agent. This time must be less than [`PATIENCE`].
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// A request of a subcommand to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Remove unused data, or only report the unused data.
    Gc {
        /// Only report, and remove nothing.
        dry_run: bool,
        /// Also remove roots that another program made. A subcommand sends this field only if the
        /// field is true, because earlier agents refuse a request with an unknown field.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        taken_over: bool,
    },
    /// Poll the registry now.
    Sync,
    /// Deploy the previous configuration, and hold the current configuration.
    Rollback,
    /// End the hold of a rollback, or let a failed health gate run again.
    Release,
    /// Repair damaged files of the cache.
    Repair {
        /// The damaged files: paths in the agent's directory.
        damaged: Vec<String>,
    },
}

/// The answer to a request. The agent makes the answer, or the subcommand makes it if no agent
/// runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Exit code of the subcommand.
    pub code: u8,
    /// Why the request failed; `None` if it succeeded.
    pub error: Option<String>,
    /// The result of the request; null if the request failed.
    pub document: Value,
}

impl Answer {
    /// An answer with an exit code and a document.
    pub fn of(code: u8, document: &impl Serialize) -> Self {
        match serde_json::to_value(document) {
            Ok(document) => Self { code, error: None, document },
            Err(err) => Self::failed(exit::FAILED, format!("write the answer: {err}")),
        }
    }

    /// The answer to a request that failed.
    pub fn failed(code: u8, error: impl Into<String>) -> Self {
        Self { code, error: Some(error.into()), document: Value::Null }
    }

    /// Parses the document of the answer. The type `T` of the document depends on the request.
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
