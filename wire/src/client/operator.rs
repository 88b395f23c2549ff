//! Turns the connection flags of an operator's program into the settings for a connection.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::{Connect, HostKey, Keys};
use crate::command::Refusal;

/// Maximum time for connecting to one address and logging in.
pub const OPERATOR_TIMEOUT: Duration = Duration::from_secs(30);

/// The user name of agents. Operators cannot use this name.
pub(super) const AGENT: &str = "deploy-agent";

/// The settings with which an operator connects to `addr`. Without a fingerprint, the client uses
/// ssh's known hosts. Without a key file, the client tries the keys of the ssh agent and the usual
/// files. Without a user name, the client uses the name of the logged-in user.
pub fn operator(
    addr: &str,
    fingerprint: &str,
    key: &OsStr,
    user: &str,
    timeout: Duration,
) -> Result<Connect, Refusal> {
    let user = if user.is_empty() { login_name() } else { user.to_owned() };
    if user.is_empty() || user == AGENT {
        let text =
            format!("user name {user:?} cannot be used by operators: give another name with -user");
        return Err(Refusal::usage(text));
    }
    let host = if fingerprint.is_empty() {
        let home = std::env::home_dir().unwrap_or_default();
        HostKey::KnownHosts(home.join(".ssh/known_hosts"))
    } else {
        HostKey::Fingerprint(fingerprint.to_owned())
    };
    let keys = if key.is_empty() { Keys::Auto } else { Keys::File(PathBuf::from(key)) };
    Ok(Connect { addr: addr.to_owned(), user, keys, host, declared: None, timeout })
}

/// The value of `$USER` or `$LOGNAME`. If neither is set, as in a cron job, the name of the
/// account.
fn login_name() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("USER").or_else(|| set("LOGNAME")).or_else(account_name).unwrap_or_default()
}

fn account_name() -> Option<String> {
    let id = rustix::process::getuid().as_raw().to_string();
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_name_is_found() {
        let id = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
        assert_eq!(account_name().unwrap(), String::from_utf8(id).unwrap().trim());
    }
}
