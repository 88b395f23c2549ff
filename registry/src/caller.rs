//! Describes the sender of a command: the user, the key, the address and the client program.

use deploy_wire::command::Command;
use jiff::Timestamp;

use crate::catalog::Change;

/// The beginning of the ssh identification that this project's clients send.
const OURS: &str = "SSH-2.0-deploy-tools";
/// The default ssh identification of Go programs. The Go tool sends this identification.
const GO: &str = "SSH-2.0-Go";

/// The user who sends a command.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name of the user.
    pub user: String,
    /// The fingerprint and the comment of the user's key, separated by a blank.
    pub key: String,
    /// The network address of the client.
    pub address: String,
    /// The client program.
    pub client: Client,
}

impl Caller {
    /// The fingerprint of the user's key, without the comment.
    pub fn fingerprint(&self) -> String {
        self.key.split(' ').next().unwrap_or_default().to_owned()
    }

    /// The audit data for the change that this caller makes now with `command`.
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
    /// `ssh`, or a program that this enum does not list.
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

    /// The command line `line` as a user of this client types it. At the prompt and for the Go
    /// tool, this is `line` itself.
    pub fn typed(self, line: &str) -> String {
        match self {
            Self::Prompt | Self::Go => line.to_owned(),
            Self::Deployctl => format!("deployctl {line}"),
            // The user's shell parses the line first, and the registry parses the result. If the
            // shell could change a quoted value, this function quotes the whole line for the shell.
            Self::Ssh | Self::Web
                if line.contains(['\\', '$', '`', '\'', ' ', '*', '?', '~']) && quoted(line) =>
            {
                format!("ssh registry '{}'", line.replace('\'', "'\\''"))
            }
            Self::Ssh | Self::Web => format!("ssh registry {line}"),
        }
    }
}

/// Whether a value in double quotes has a character that needs the quotes.
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
