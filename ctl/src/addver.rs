//! `addver -file`: one connection, and no upload of what the registry has.
//!
//! A file is hashed first, which is cheap, and the registry asked to bind that hash. If
//! it has no such blob, the file is read once more: validated, hashed again and
//! uploaded in one pass. Standard input can be read only once, so it is always uploaded.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use deploy_store::{ComponentName, Digest, HashingReader, Limits, VersionName, check_archive};
use deploy_wire::client::{Client, Exec};
use deploy_wire::command::{Command, Refusal};
use deploy_wire::exit;
use tokio::sync::mpsc;

use super::progress::Progress;
use super::{Flags, complain, connect, print};

/// Usage in the form of the console's.
pub const USAGE: &str = "Usage of addver:
  -file string
    \ttar.gz file to upload, - for standard input
  -hash string
    \tinstead of -file: sha256 of a file that is uploaded already
  -name string
    \tcomponent name
  -version string
    \tunique version id
";

const CHUNK: usize = 256 << 10;
/// Chunks between the reader and the network, and between the reader and the validator.
const QUEUE: usize = 8;
/// What the registry says when it has no such blob.
const NO_BLOB: &str = "no uploaded file with given hash found";

/// What `addver` was given.
pub struct Arguments {
    component: ComponentName,
    version: VersionName,
    file: String,
}

/// What is to be done.
pub enum Parsed {
    /// Print the usage.
    Help,
    /// Upload a file.
    File(Arguments),
    /// Bind a hash, as the console does it.
    Hash,
}

impl Arguments {
    /// Reads the flags. The console's grammar knows no `-file`; all else is its own.
    pub fn parse(words: &[String]) -> Result<Parsed, Refusal> {
        let mut file = None;
        let mut rest = vec!["addver".to_owned()];
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let flag = word.strip_prefix("--").or(word.strip_prefix('-')).unwrap_or_default();
            match flag.split_once('=') {
                Some(("file", value)) => file = Some(value.to_owned()),
                None if flag == "file" => {
                    let missing =
                        || Refusal::usage(format!("flag needs an argument: -file\n{USAGE}"));
                    file = Some(words.next().ok_or_else(missing)?.clone());
                }
                None if flag == "h" || flag == "help" => return Ok(Parsed::Help),
                _ => rest.push(word.clone()),
            }
        }
        let Some(file) = file.filter(|file| !file.is_empty()) else {
            if rest.iter().any(|word| word.trim_start_matches('-').starts_with("hash")) {
                return Ok(Parsed::Hash);
            }
            return Err(Refusal::usage("name, version and file should all be set".to_owned()));
        };
        // With the hash of nothing, the console's own checks apply.
        rest.push(format!("-hash={}", Digest::of(b"")));
        match deploy_wire::command::parse(&rest) {
            Ok(Command::AddVersion { component, version, .. }) => {
                Ok(Parsed::File(Self { component, version, file }))
            }
            Ok(_) => Err(Refusal::usage(USAGE.trim_end().to_owned())),
            Err(refusal) => Err(Refusal {
                text: refusal.text.replace("name, version and hash", "name, version and file"),
                ..refusal
            }),
        }
    }

    fn command(&self, digest: Digest) -> String {
        let (component, version) = (self.component.clone(), self.version.clone());
        Command::AddVersion { component, version, digest }.to_string()
    }
}

/// Uploads and binds; the exit code is the registry's.
pub async fn run(flags: &Flags, arguments: &Arguments) -> Result<u8> {
    let stdin = arguments.file == "-";
    let expected = if stdin { None } else { Some(digest_of(Path::new(&arguments.file))?) };
    let client = connect(flags).await?;
    if let Some((digest, _)) = expected {
        let answer = client.exec(&arguments.command(digest)).await?;
        let missing = String::from_utf8_lossy(&answer.stderr).contains(NO_BLOB);
        if !(answer.code == exit::NOT_FOUND || answer.code == exit::FAILED) || !missing {
            return Ok(show(&answer));
        }
    }
    let digest = upload(&client, flags, arguments, expected.map(|(_, size)| size)).await?;
    if expected.is_some_and(|(expected, _)| expected != digest) {
        bail!("{} changed while it was uploaded; nothing was added", arguments.file);
    }
    let answer = client.exec(&arguments.command(digest)).await?;
    client.disconnect().await;
    Ok(show(&answer))
}

fn show(answer: &Exec) -> u8 {
    print(&answer.stdout);
    complain(&String::from_utf8_lossy(&answer.stderr));
    answer.code
}

fn digest_of(path: &Path) -> Result<(Digest, u64)> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut reader = HashingReader::new(file);
    io::copy(&mut reader, &mut io::sink()).with_context(|| format!("read {}", path.display()))?;
    Ok(reader.finish())
}

/// Reads the file once: to the validator, the hash and the registry.
async fn upload(
    client: &Client,
    flags: &Flags,
    arguments: &Arguments,
    size: Option<u64>,
) -> Result<Digest> {
    let (to_registry, chunks) = mpsc::channel(QUEUE);
    let (to_validator, pieces) = std::sync::mpsc::sync_channel(QUEUE);
    let validator = tokio::task::spawn_blocking(move || {
        check_archive(Pieces { pieces, current: io::Cursor::default() }, Limits::STANDARD)
    });
    let file = arguments.file.clone();
    let reader = tokio::task::spawn_blocking(move || {
        let source: Box<dyn Read> = match file.as_str() {
            "-" => Box::new(io::stdin()),
            path => Box::new(File::open(path).with_context(|| format!("open {path}"))?),
        };
        read(source, &to_registry, &to_validator).with_context(|| format!("read {file}"))
    });
    let progress = Progress::new(size, flags.q);
    let put = client.put("upload", chunks, |taken| progress.at(taken)).await;
    drop(progress);
    let digest = reader.await.context("reader")?;
    // A validator that gives up stops the reader, which cuts the upload: its reason
    // comes first.
    validator.await.context("validator")?.context("file validation failed")?;
    put.context("upload failure")?;
    digest?.context("upload was cut off")
}

/// The digest of the whole, or `None` when one of the takers has stopped.
fn read(
    mut source: impl Read,
    to_registry: &mpsc::Sender<Vec<u8>>,
    to_validator: &std::sync::mpsc::SyncSender<Vec<u8>>,
) -> io::Result<Option<Digest>> {
    let mut hasher = deploy_store::Hasher::default();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        source.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&chunk);
        let taken = to_validator.send(chunk.clone()).is_ok();
        if !taken || to_registry.blocking_send(chunk).is_err() {
            return Ok(None);
        }
    }
}

/// The chunks of a channel as a reader; its end is the end of the channel.
struct Pieces {
    pieces: std::sync::mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(buffer)? {
                0 => match self.pieces.recv() {
                    Ok(piece) => self.current = io::Cursor::new(piece),
                    Err(_) => return Ok(0),
                },
                n => return Ok(n),
            }
        }
    }
}
