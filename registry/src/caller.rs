//! The user who sends a command, and the program that the user runs.

use deploy_wire::command::Command;
use jiff::Timestamp;

use crate::catalog::Change;

/// The ssh identification of this project's clients begins with this prefix.
const OURS: &str = "SSH-2.0-deploy-tools";
/// The ssh identification of Go programs without a name of their own, such as the Go tool.
const GO: &str = "SSH-2.0-Go";

/// The user who sends a command.
#[derive(Debug, Clone)]
pub struct Caller {
    /// User name.
    pub user: String,
    /// Fingerprint and comment of the key.
    pub key: String,
    /// The client's address.
    pub address: String,
    /// The client's program.
    pub client: Client,
}

impl Caller {
    /// The fingerprint of the key.
    pub fn fingerprint(&self) -> String {
        self.key.split(' ').next().unwrap_or_default().to_owned()
    }

    /// The audit data for a change that this caller makes now with `command`.
    pub fn change(&self, command: &Command) -> Change {
        Change {
            user: self.user.clone(),
            key: self.key.clone(),
            address: self.address.clone(),
            command: command.to_string(),
            now: Timestamp::now(),
            overrides: command.overrides(),
            rolling: command.rolling().cloned().unwrap_or_default(),
        }
    }
}

/// The program that sends commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// `ssh`, or any other program.
    Ssh,
    /// The registry's interactive prompt.
    Prompt,
    /// This project's `deployctl`.
    Deployctl,
    /// The Go tool's client.
    Go,
    /// A browser, or another program that uses HTTP.
    Web,
}

impl Client {
    /// The client that sends this ssh identification.
    pub fn of(identification: &str) -> Self {
        let text = identification.trim_end();
        if text == GO {
            Self::Go
        } else if text.starts_with(OURS) {
            Self::Deployctl
        } else {
            Self::Ssh
        }
    }

    /// Returns `line` in the form in which a user of this client types it. At the prompt and for
    /// the Go tool, the line stays unchanged.
    pub fn typed(self, line: &str) -> String {
        match self {
            Self::Prompt | Self::Go => line.to_owned(),
            Self::Deployctl => format!("deployctl {line}"),
            // The user's shell and the registry both parse the line. If a shell could change a
            // quoted value, this function quotes the whole line again.
            Self::Ssh | Self::Web
                if line.contains(['\\', '$', '`', '\'', ' ', '*', '?', '~']) && quoted(line) =>
            {
                format!("ssh registry '{}'", line.replace('\'', "'\\''"))
            }
            Self::Ssh | Self::Web => format!("ssh registry {line}"),
        }
    }
}

/// Whether the line has a quoted value that needs its quotes.
fn quoted(line: &str) -> bool {
    line.split('"').skip(1).step_by(2).any(|value| {
        !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+@:/-".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_formatted_for_each_client() {
        let line = "rollback -name=\"p\" -to=2";
        for (identification, typed) in [
            ("SSH-2.0-Go\r\n", line.to_owned()),
            ("SSH-2.0-deploy-tools_0.9.0", format!("deployctl {line}")),
            ("SSH-2.0-OpenSSH_9.2", format!("ssh registry {line}")),
            ("SSH-2.0-GoSomething", format!("ssh registry {line}")),
        ] {
            assert_eq!(Client::of(identification).typed(line), typed, "{identification}");
        }
        let odd = "rollback -name=\"it's \\\"p\\\"\" -to=2";
        let typed = Client::Ssh.typed(odd);
        let read = std::process::Command::new("sh")
            .args(["-c", &typed.replacen("ssh registry", "printf %s", 1)])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(read.stdout).unwrap(), odd, "{typed}");
    }
}
