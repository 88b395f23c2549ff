//! Implements a registry over ssh as the destination of an import. A Go registry does not support
//! images. So the importer sends uploads, versions and a configuration to a Go registry one after
//! another, as the Go importer does.

use std::collections::VecDeque;
use std::sync::Arc;

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use deploy_wire::client::{Client, ClientError, Connect, Exec};
use deploy_wire::command::{ChangeOptions, Command, quote};
use deploy_wire::exit;
use deploy_wire::image::{self, Image, KnownLayer, Origin};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Committed, Destination};
use crate::error::{Error, Result};

/// The maximum number of compressed chunks that wait for the network.
const QUEUE: usize = 4;
/// The maximum number of complete uploads without an answer. The registry writes them to its disk
/// while the next uploads run.
const ENDING: usize = 8;
/// Every registry's answer to an unknown verb contains this text.
const UNKNOWN: &str = "Unknown command";

/// A connection to a registry.
pub struct Remote {
    runtime: Runtime,
    client: Arc<Client>,
    sending: Option<Sending>,
    /// The uploads that are completely sent but not answered yet, oldest first.
    ending: VecDeque<JoinHandle<Result<(), ClientError>>>,
    /// Whether the registry does not support images.
    plain: bool,
    /// Whether to change the configuration even if it is frozen.
    overrides: bool,
}

struct Sending {
    chunks: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<Result<(), ClientError>>,
}

impl Remote {
    /// Connects to a registry. With `overrides`, the import changes a configuration even if it is
    /// frozen.
    pub fn connect(runtime: Runtime, connect: &Connect, overrides: bool) -> Result<Self> {
        let client = runtime.block_on(Client::connect(connect)).map_err(|err| of_client(&err))?;
        Ok(Self {
            runtime,
            client: Arc::new(client),
            sending: None,
            ending: VecDeque::new(),
            plain: false,
            overrides,
        })
    }

    fn exec(&self, line: &str, input: &[u8]) -> Result<Exec> {
        let answer = self.runtime.block_on(self.client.exec_with_input(line, input));
        answer.map_err(|err| of_client(&err))
    }

    /// Runs a command that must succeed, and returns its answer.
    fn done(&self, command: &Command) -> Result<String> {
        let answer = self.exec(&command.to_string(), b"")?;
        if answer.code == exit::OK { Ok(text(&answer)) } else { Err(refused(&answer)) }
    }

    /// Waits until at most `most` uploads are without an answer.
    fn finish_upload(&mut self, most: usize) -> Result<()> {
        while self.ending.len() > most {
            let Some(task) = self.ending.pop_front() else { break };
            match self.runtime.block_on(task) {
                Ok(done) => done.map_err(|err| of_client(&err))?,
                Err(err) => {
                    return Err(Error::Refused { text: err.to_string(), code: exit::FAILED });
                }
            }
        }
        Ok(())
    }

    /// The error of an upload that ended before all bytes were sent.
    fn ended(&mut self) -> Error {
        let why = match self.sending.take() {
            Some(Sending { chunks, task }) => {
                drop(chunks);
                self.runtime.block_on(task)
            }
            None => return Error::Refused { text: "no upload".to_owned(), code: exit::FAILED },
        };
        match why {
            Ok(Err(err)) => of_client(&err),
            Ok(Ok(())) => {
                Error::Refused { text: "the upload ended too early".to_owned(), code: exit::FAILED }
            }
            Err(err) => Error::Refused { text: err.to_string(), code: exit::FAILED },
        }
    }

    fn commit_plainly(
        &self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<Committed> {
        let mut all = Vec::new();
        for layer in &image.layers {
            let version: Result<VersionName, _> = layer.hash.to_string().parse();
            let version = version.map_err(|source| Error::Name { source })?;
            let component = layer.component.clone();
            all.push((component.clone(), version.clone()));
            let add = Command::AddVersion { component, version, digest: layer.hash.into() };
            let answer = self.exec(&add.to_string(), b"")?;
            // A Go registry has the same exit code for every refusal, so only the text
            // distinguishes refusals.
            if answer.code != exit::OK && !text(&answer).contains("already exists") {
                return Err(refused(&answer));
            }
        }
        all.extend_from_slice(layers);
        // Only a Go registry gets this command, so the command has no `-replace`. Other registries
        // get `addimage`, which replaces a configuration without a flag.
        let add = Command::AddConfiguration {
            name: name.clone(),
            layers: all,
            replace: false,
            options: ChangeOptions::default(),
        };
        self.done(&add).map(Committed::Done)
    }
}

impl Destination for Remote {
    fn check(&mut self, layers: &[(ComponentName, VersionName)]) -> Result<()> {
        for (component, version) in layers {
            let show = Command::ShowComponent {
                name: component.clone(),
                before: None,
                limit: None,
                json: false,
            };
            let versions = self.done(&show)?;
            // The version's name is in the last column. Names that registries accept today have no
            // blanks.
            let name = version.to_string();
            let is_there = |line: &str| line.split_whitespace().next_back() == Some(&name);
            if !versions.lines().any(is_there) {
                let text = format!("component \"{component}\" has no version \"{version}\"");
                return Err(Error::Refused { text, code: exit::NOT_FOUND });
            }
        }
        Ok(())
    }

    fn known(&mut self, origins: &[Origin]) -> Result<Vec<KnownLayer>> {
        if self.plain {
            return Ok(Vec::new());
        }
        let answer = self.exec("showlayers -json -", &image::origins_to_json(origins))?;
        if answer.code == exit::OK {
            return image::known_from_json(&answer.stdout).map_err(|err| {
                let text = format!("the registry's answer about layers {err}");
                Error::Refused { text, code: exit::FAILED }
            });
        }
        if text(&answer).contains(UNKNOWN) {
            self.plain = true;
            return Ok(Vec::new());
        }
        Err(refused(&answer))
    }

    fn begin(&mut self, component: &ComponentName) -> Result<()> {
        let (chunks, ready) = mpsc::channel(QUEUE);
        let client = Arc::clone(&self.client);
        let path = component.as_str().to_owned();
        let task = self.runtime.spawn(async move { client.put(&path, None, ready, |_| {}).await });
        self.sending = Some(Sending { chunks, task });
        Ok(())
    }

    fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        match &self.sending {
            Some(Sending { chunks, .. }) if chunks.blocking_send(bytes).is_ok() => Ok(()),
            _ => Err(self.ended()),
        }
    }

    fn finish(&mut self, _: Digest) -> Result<()> {
        let Some(Sending { chunks, task }) = self.sending.take() else {
            return Err(self.ended());
        };
        drop(chunks);
        self.ending.push_back(task);
        self.finish_upload(ENDING)
    }

    fn commit(
        &mut self,
        name: &ConfigurationName,
        image: &Image,
        layers: &[(ComponentName, VersionName)],
    ) -> Result<Committed> {
        self.finish_upload(0)?;
        if self.plain {
            return self.commit_plainly(name, image, layers);
        }
        let mut line = format!("addimage {}", quote(&format!("-name={}", name.as_str())));
        for (component, version) in layers {
            let layer = format!("-layer={}:{}", component.as_str(), version.as_str());
            line = line + " " + &quote(&layer);
        }
        if self.overrides {
            line += " -override";
        }
        let answer = self.exec(&(line + " -"), &image.to_json())?;
        match answer.code {
            exit::OK => Ok(Committed::Done(text(&answer))),
            exit::NOT_FOUND => Ok(Committed::Missing(text(&answer).trim_end().to_owned())),
            _ => Err(refused(&answer)),
        }
    }
}

/// The text of an answer: standard error, or standard output if standard error is empty. The Go
/// registry prints errors to standard output.
fn text(answer: &Exec) -> String {
    let said = if answer.stderr.is_empty() { &answer.stdout } else { &answer.stderr };
    String::from_utf8_lossy(said).into_owned()
}

fn refused(answer: &Exec) -> Error {
    Error::Refused { text: text(answer).trim_end().to_owned(), code: answer.code }
}

fn of_client(err: &ClientError) -> Error {
    Error::Refused { text: err.to_string(), code: err.code() }
}
