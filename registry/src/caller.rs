//! What a caller's program is: what it can be told to do, and how its user types a command.

use deploy_wire::command::{Command, Refusal};
use deploy_wire::exit;

/// What the identification of a client of this project begins with.
const OURS: &str = "SSH-2.0-deploy-tools";
/// That of programs in Go that do not name themselves, as those of the Go tool.
const GO: &str = "SSH-2.0-Go";
/// What says that a version is needed by an earlier state, and what to do.
const USE_FORCE: &str = "use -force to delete it all the same";

/// What commands come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// ssh, or any other program.
    Ssh,
    /// The prompt.
    Prompt,
    /// This project's `deployctl`.
    Deployctl,
    /// The Go tool's.
    Go,
}

impl Client {
    /// That of a client which identifies itself so.
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

    /// A line as this client's user types it. Programs of the Go tool get what they always got.
    pub fn typed(self, line: &str) -> String {
        match self {
            Self::Prompt | Self::Go => line.to_owned(),
            Self::Deployctl => format!("deployctl {line}"),
            // What a shell would change is quoted once more, since two read it.
            Self::Ssh
                if line.contains(['\\', '$', '`', '\'', ' ', '*', '?', '~']) && quoted(line) =>
            {
                format!("ssh registry '{}'", line.replace('\'', "'\\''"))
            }
            Self::Ssh => format!("ssh registry {line}"),
        }
    }

    /// A refusal that tells of what this client's user can do.
    pub fn reword(self, command: &Command, refusal: Refusal) -> Refusal {
        if self != Self::Go || !refusal.text.contains(USE_FORCE) {
            return refusal;
        }
        let line = Self::Ssh.typed(&format!("{command} -force"));
        let how = format!("to delete it all the same run:\n\t{line}");
        Refusal { text: refusal.text.replace(USE_FORCE, &how), ..refusal }
    }

    /// Whether the command only asked: before an upload `deployctl` looks whether the registry
    /// has the file. That it has not is no refusal of a change.
    pub fn asks_only(self, command: &Command, refusal: &Refusal) -> bool {
        self == Self::Deployctl
            && matches!(command, Command::AddVersion { .. })
            && refusal.code == exit::NOT_FOUND
    }
}

/// Whether a value in the line needs its quotes.
fn quoted(line: &str) -> bool {
    line.split('"').skip(1).step_by(2).any(|value| {
        !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+@:/-".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_each_client_types_them() {
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
