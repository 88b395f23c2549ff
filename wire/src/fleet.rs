//! Defines the messages between agents and the registry about deploys. Agents also read files over
//! sftp, which this module does not describe.
//!
//! An agent keeps one `watch` command open on its connection. Both sides send lines of JSON. The
//! registry sends offers, which state the configuration to deploy, and the agent sends reports.
//! Each side ignores fields that it does not know, so either side may be newer than the other.

pub mod deploy_report;
pub mod host_name;
pub mod lines;

pub use deploy_report::{Phase, Reason, Report, Step};
pub use host_name::{HostName, Label};
pub use lines::{Offer, ToAgent, ToRegistry, Unreadable};

use std::time::Duration;

/// Maximum length of a line on a watch in either direction, in bytes. Such a line has room for the
/// longest output of a script, even if each byte is escaped.
pub const MAX_LINE: usize = 512 << 10;
/// Maximum length of a configuration document inside an offer, in bytes. An agent reads a longer
/// document over sftp.
pub const MAX_DOCUMENT: usize = 64 << 10;
/// Maximum number of bytes of a script's output in a report of a failure.
pub const MAX_OUTPUT: usize = 64 << 10;
/// Maximum number of bytes of a script's output in a report of a success.
pub const MAX_OUTPUT_OF_SUCCESS: usize = 4 << 10;
/// Each side sends at least one line in every interval of this length.
pub const HEARTBEAT: Duration = Duration::from_secs(25);
/// If a side receives no line for this long, it treats the watch as dead.
pub const SILENCE: Duration = Duration::from_secs(90);
