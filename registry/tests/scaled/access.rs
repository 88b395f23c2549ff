//! Asks one of the registries, or any of them, with the code of the real client. Each request has a
//! connection of its own.

use std::path::PathBuf;
use std::time::Duration;

use deploy_store::Digest;
use deploy_wire::client::{Client, ClientError, Connect, HostKey, Keys};
use deploy_wire::exit;
use tokio::time::timeout;

use crate::REGISTRIES;
use crate::dice::Dice;

/// How long a client waits for an answer. A registry that is frozen for longer does not answer.
const PATIENT: Duration = Duration::from_secs(25);
/// How long an impatient client waits. Such clients often do not get an answer.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Which registry a client asks.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// The registry with this number.
    One(usize),
    /// Any registry: the client has all addresses.
    Any,
}

/// The answer to a command.
#[derive(Debug)]
pub enum Answer {
    /// The command was carried out. This is its output.
    Done(String),
    /// The command was refused, with this exit code. Nothing was changed.
    Refused(u8, String),
    /// It is not known whether the command was carried out.
    Unknown,
}

/// The result of a download.
#[derive(Debug)]
pub enum Download {
    Bytes(Vec<u8>),
    /// The registry says that there is no such file.
    Missing(String),
    Failed(String),
}

/// The keys, and the addresses of the registries.
#[derive(Debug, Clone)]
pub struct Access {
    pub ports: [u16; REGISTRIES],
    pub fingerprint: String,
    pub operator: PathBuf,
    pub agent: PathBuf,
}

impl At {
    pub fn random(dice: &mut Dice) -> Self {
        match dice.throw(REGISTRIES + 1) {
            n if n < REGISTRIES => Self::One(n),
            _ => Self::Any,
        }
    }
}

/// How long the next request waits.
pub fn patience(dice: &mut Dice) -> Duration {
    if dice.throw(5) == 0 { IMPATIENT } else { PATIENT }
}

impl Access {
    /// The addresses of all registries, as the flag `-addr` takes them.
    pub fn addresses(&self) -> String {
        self.ports.map(|port| format!("127.0.0.1:{port}")).join(",")
    }

    async fn connect(&self, at: At, user: &str) -> Result<Client, ClientError> {
        let addr = match at {
            At::One(number) => format!("127.0.0.1:{}", self.ports[number]),
            At::Any => self.addresses(),
        };
        let key = if user == "deploy-agent" { &self.agent } else { &self.operator };
        let connect = Connect {
            addr,
            user: user.to_owned(),
            keys: Keys::File(key.clone()),
            host: HostKey::Fingerprint(self.fingerprint.clone()),
            declared: None,
            timeout: Duration::from_secs(10),
        };
        Client::connect(&connect).await
    }

    /// Runs a command once.
    pub async fn ask(&self, at: At, line: &str, wait: Duration) -> Answer {
        let asked = async {
            let client = match self.connect(at, "operator").await {
                Ok(client) => client,
                Err(err) => return Answer::Refused(exit::UNREACHABLE, err.to_string()),
            };
            match client.exec(line).await {
                Err(_) => Answer::Unknown,
                // With the code `PARTLY`, a change was made, but the answer is not complete.
                Ok(answer) if [exit::OK, exit::PARTLY].contains(&answer.code) => {
                    Answer::Done(text(answer.stdout))
                }
                Ok(answer) => {
                    let why = text(answer.stderr);
                    if why.contains("not known whether") {
                        Answer::Unknown
                    } else {
                        Answer::Refused(answer.code, why)
                    }
                }
            }
        };
        timeout(wait, asked).await.unwrap_or(Answer::Unknown)
    }

    /// Uploads a blob once.
    pub async fn upload(&self, at: At, bytes: &[u8], wait: Duration) -> Result<(), String> {
        let uploaded = async {
            let client = self.connect(at, "operator").await.map_err(|err| err.to_string())?;
            let (sender, chunks) = tokio::sync::mpsc::channel(bytes.len() / CHUNK + 1);
            for chunk in bytes.chunks(CHUNK) {
                sender.send(chunk.to_vec()).await.expect("the receiver is there");
            }
            drop(sender);
            client.put("blob", None, chunks, |_| {}).await.map_err(|err| err.to_string())
        };
        timeout(wait, uploaded).await.unwrap_or_else(|_| Err(format!("after {wait:?}")))
    }

    /// Downloads a blob once, like an agent.
    pub async fn download(&self, at: At, digest: Digest) -> Download {
        let path = format!("files/{digest}");
        let got = async {
            let mut bytes = Vec::new();
            let client = self.connect(at, "deploy-agent").await?;
            let sink = |part: &[u8]| {
                bytes.extend_from_slice(part);
                Ok(())
            };
            client.get(&path, 0, sink).await?;
            Ok::<_, ClientError>(bytes)
        };
        match timeout(PATIENT, got).await {
            Ok(Ok(bytes)) => Download::Bytes(bytes),
            Ok(Err(ClientError::NotFound { why, .. })) => Download::Missing(why),
            Ok(Err(err)) => Download::Failed(err.to_string()),
            Err(_) => Download::Failed(format!("after {PATIENT:?}")),
        }
    }
}

const CHUNK: usize = 1 << 18;

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
