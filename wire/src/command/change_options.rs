//! The flags `-override`, `-wait` and `-timeout`, which the verbs that change a configuration
//! share.

use std::time::Duration;

use super::Refusal;
use super::given::Given;
use super::line::{Line, duration_text};

/// How long `-wait` waits without `-timeout`.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10 * 60);

/// The options of a verb that changes a configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeOptions {
    /// Whether the verb changes the configuration even if it is frozen.
    pub overrides: bool,
    /// How long to wait until the hosts have deployed the change; `None` means not to wait.
    pub wait: Option<Duration>,
}

impl ChangeOptions {
    pub(super) fn parse(given: &Given) -> Result<Self, Refusal> {
        let timeout = given.value("timeout", crate::flags::duration)?;
        let wait = match (given.is_set("wait"), timeout) {
            (false, Some(_)) => {
                return Err(Refusal::usage("-timeout needs -wait".to_owned()));
            }
            (false, None) => None,
            (true, timeout) => Some(timeout.unwrap_or(DEFAULT_WAIT)),
        };
        Ok(Self { overrides: given.is_set("override"), wait })
    }

    pub(super) fn write(self, line: &mut Line) {
        let timeout = self.wait.filter(|wait| *wait != DEFAULT_WAIT);
        line.maybe("timeout", timeout.map(duration_text));
        line.switch("override", self.overrides);
        line.switch("wait", self.wait.is_some());
    }
}
