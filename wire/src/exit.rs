//! Defines the exit codes, which are the same in every program and in the answers of the registry.

/// The work is done.
pub const OK: u8 = 0;
/// The work failed.
pub const FAILED: u8 = 1;
/// The command line is invalid.
pub const USAGE: u8 = 2;
/// The work is partly done.
pub const PARTLY: u8 = 3;
/// The user is not authorised.
pub const DENIED: u8 = 4;
/// The object that the command names does not exist.
pub const NOT_FOUND: u8 = 5;
/// The change conflicts with the existing state.
pub const CONFLICT: u8 = 6;
/// The time limit passed before the work was done.
pub const TIMEOUT: u8 = 7;
/// Damage was found.
pub const CORRUPT: u8 = 8;
/// The registry cannot be reached.
pub const UNREACHABLE: u8 = 10;

/// The output of `help exit-codes`.
pub const HELP: &str = "\
0     done
1     failed
2     the command line is invalid
3     done in part
4     not authorised
5     not found
6     conflict with the existing state
7     not done in time
8     damage found
10    the registry cannot be reached
130   interrupted
143   terminated
";
