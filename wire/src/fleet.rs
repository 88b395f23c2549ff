//! The messages between agents and the registry about deploys. Agents also read files, which are
//! not described here.
//!
//! An agent keeps one `watch` command open on its connection. Both sides send lines of JSON: the
//! registry sends offers, and the agent sends reports. Each side ignores fields that it does not
//! know, so either side may be newer than the other.

pub mod deploy_report;
pub mod host_name;
pub mod lines;

pub use deploy_report::{Phase, Reason, Report, Step};
pub use host_name::{HostName, Label};
pub use lines::{Offer, ToAgent, ToRegistry, Unreadable};

use std::time::Duration;

/// Longest line on a watch, in bytes, in either direction. A line of this length has room for the
/// longest output, even if each byte is escaped.
pub const MAX_LINE: usize = 512 << 10;
/// Longest configuration document inside an offer, in bytes. An agent reads a longer document over
/// sftp.
pub const MAX_DOCUMENT: usize = 64 << 10;
/// Maximum number of bytes of a script's output in a report of a failure.
pub const MAX_OUTPUT: usize = 64 << 10;
/// Maximum number of bytes of a script's output in a report of a success.
pub const MAX_OUTPUT_OF_SUCCESS: usize = 4 << 10;
/// How often each side sends at least one line.
pub const HEARTBEAT: Duration = Duration::from_secs(25);
/// After this time without a line from the other side, a watch is dead.
pub const SILENCE: Duration = Duration::from_secs(90);
