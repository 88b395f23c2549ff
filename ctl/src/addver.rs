//! `addver -file` and `addver -dir`: use one connection, and upload an archive only if the registry
//! lacks the archive's blob.
//!
//! The program first hashes the file, which is cheap, and asks the registry to bind that hash to
//! the version. If the registry does not have the blob, the program reads the file again. It then
//! validates, hashes and uploads the file in one pass. Standard input and pipes can be read only
//! once, so the program uploads them without asking first.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context as _, Result, bail};
use deploy_cli::progress::Shown;
use deploy_store::{
    ComponentName, Digest, Hasher, HashingReader, Limits, Meter, Unit, VersionName, check_archive,
};
use deploy_wire::client::{Client, Exec};
use deploy_wire::command::{self, Command, Refusal};
use deploy_wire::exit;
use tokio::sync::{mpsc, oneshot};

use crate::flags::Flags;
use crate::pack::pack;
use crate::verbs::ADDVER;

/// Number of bytes of one read, which is the maximum size of one upload request.
const CHUNK: usize = 255 << 10;
/// Maximum number of chunks that wait between the reader and the network, and between the reader
/// and the validator.
const QUEUE: usize = 8;
/// The registry's answer if it does not have the blob.
const NO_BLOB: &str = "no uploaded file with given hash found";

/// The file or directory to upload, and the component and version that it becomes.
#[derive(Debug, PartialEq, Eq)]
pub struct Upload {
    component: ComponentName,
    version: VersionName,
    source: Source,
}

/// The source of an archive.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// A file, or `-` for standard input.
    File(String),
    /// A directory, packed with or without times.
    Directory { path: String, times: bool },
}

/// The request that the flags describe.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Print the usage.
    Help,
    /// Upload an archive, and bind its hash.
    Upload(Upload),
    /// Bind a hash, as on the console.
    Hash(Command),
}

/// Reads the flags. The console's flags have the same meaning here.
pub fn parse(words: &[String]) -> Result<Parsed, Refusal> {
    let Some(given) = command::read_flags(&ADDVER, words)? else { return Ok(Parsed::Help) };
    let last = |flag: &str| given.iter().rev().find(|(name, _)| *name == flag);
    let value = |flag: &str| last(flag).map(|(_, value)| value.clone()).unwrap_or_default();
    let (file, path, hash) = (value("file"), value("dir"), value("hash"));
    if [&file, &path, &hash].iter().filter(|source| !source.is_empty()).count() > 1 {
        let text = "give one of -file, -dir and -hash, not several";
        return Err(Refusal::usage(text.to_owned()));
    }
    let source = match (file.as_str(), path.as_str()) {
        ("", "") => None,
        ("", _) => Some(Source::Directory { path, times: value("times") == "true" }),
        _ => Some(Source::File(file)),
    };
    // If no hash was given, the hash of an empty file takes its place, so that the console's own
    // checks apply.
    let hash = if hash.is_empty() { Digest::of(b"").to_string() } else { hash };
    let mut line = vec!["addver".to_owned(), format!("-hash={hash}")];
    line.extend(["name", "version"].map(|flag| format!("-{flag}={}", value(flag))));
    let parsed = command::parse(&line).map_err(|refusal| as_here(&refusal))?;
    match (parsed, source) {
        (Command::AddVersion { component, version, .. }, Some(source)) => {
            Ok(Parsed::Upload(Upload { component, version, source }))
        }
        (_, None) if value("hash").is_empty() => {
            let text = "name, version and file should all be set; -file is missing";
            Err(Refusal::usage(text.to_owned()))
        }
        (command, _) => Ok(Parsed::Hash(command)),
    }
}

/// The console's refusal, changed to name the flags of this program.
fn as_here(refusal: &Refusal) -> Refusal {
    let text = refusal.text.replace("name, version and hash", "name, version and file");
    Refusal { text, code: refusal.code }
}

/// The upload of `put`, which reads the archive from standard input.
pub fn put(component: ComponentName, version: VersionName) -> Upload {
    Upload { component, version, source: Source::File("-".to_owned()) }
}

/// Uploads an archive and binds it to its version. Returns the registry's answer, with the
/// archive's digest and size.
pub async fn run(flags: &Flags, upload: &Upload) -> Result<(Exec, Digest, u64)> {
    let connect = flags.connect()?;
    let archive = Archive::of(&upload.source)?;
    let meter = Arc::new(Meter::default());
    let shown = Shown::new(&meter, flags.q);
    let expected = archive.digest(&meter)?;
    let client = Client::connect(&connect).await?;
    if let Some((digest, bytes)) = expected {
        let answer = client.exec(&upload.command(digest)).await?;
        if !is_missing(&answer) {
            client.disconnect().await;
            return Ok((answer, digest, bytes));
        }
    }
    let size = expected.map(|(_, size)| size);
    let (digest, bytes) = send(&client, &archive, size, &meter).await?;
    drop(shown);
    if expected.is_some_and(|(expected, _)| expected != digest) {
        let name = archive.name();
        bail!("{name} changed while it was being uploaded; nothing was added, try again");
    }
    let answer = client.exec(&upload.command(digest)).await?;
    client.disconnect().await;
    Ok((answer, digest, bytes))
}

impl Upload {
    fn command(&self, digest: Digest) -> String {
        let (component, version) = (self.component.clone(), self.version.clone());
        Command::AddVersion { component, version, digest: digest.into() }.to_string()
    }
}

/// An archive to read.
enum Archive {
    StandardInput,
    Named(String),
    /// The archive of a directory, in a file without a name.
    Packed(String, File),
}

impl Archive {
    fn of(source: &Source) -> Result<Self> {
        match source {
            Source::File(name) if name == "-" => Ok(Self::StandardInput),
            Source::File(name) => Ok(Self::Named(name.clone())),
            Source::Directory { path, times } => {
                if Path::new(path).is_file() {
                    bail!("{path} is a file; use -file to upload a file");
                }
                let file = tempfile::tempfile().context("make a temporary file (in $TMPDIR)")?;
                pack(Path::new(path), *times, io::BufWriter::new(&file))?;
                Ok(Self::Packed(path.clone(), file))
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::StandardInput => "standard input",
            Self::Named(name) | Self::Packed(name, _) => name,
        }
    }

    /// Opens the archive at its start.
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::StandardInput => Box::new(io::stdin()),
            Self::Named(path) => Box::new(File::open(path).with_context(|| opening(path))?),
            Self::Packed(_, file) => {
                let mut file = file.try_clone().context("open the packed directory")?;
                file.rewind().context("open the packed directory")?;
                Box::new(file)
            }
        })
    }

    /// The digest and the size; `None` if the archive can be read only once.
    fn digest(&self, meter: &Meter) -> Result<Option<(Digest, u64)>> {
        let bytes = match self {
            Self::StandardInput => return Ok(None),
            Self::Named(path) => {
                let meta = fs::metadata(path).with_context(|| opening(path))?;
                if meta.is_dir() {
                    bail!("{path} is a directory; use -dir to pack and upload a directory");
                }
                if !meta.is_file() {
                    return Ok(None);
                }
                meta.len()
            }
            Self::Packed(_, file) => file.metadata().map_or(0, |meta| meta.len()),
        };
        meter.begin("hashed", Unit::Bytes, bytes);
        let mut reader = HashingReader::new(self.open()?);
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).with_context(|| format!("read {}", self.name()))? {
                0 => break,
                n => meter.add(n as u64),
            }
        }
        meter.end();
        Ok(Some(reader.finish()))
    }
}

/// The context for an error that occurs when a file is opened. If the file's directory does not
/// exist, the text says so.
fn opening(path: &str) -> String {
    let dir = Path::new(path).parent().filter(|dir| !dir.as_os_str().is_empty());
    match dir.filter(|dir| !dir.exists()) {
        Some(dir) => format!("open {path}: there is no directory {}", dir.display()),
        None => format!("open {path}"),
    }
}

/// Whether the command failed only because the registry lacks the blob. The Go registry prints
/// errors to standard output.
fn is_missing(answer: &Exec) -> bool {
    let says = |text: &[u8]| String::from_utf8_lossy(text).contains(NO_BLOB);
    answer.code != exit::OK && (says(&answer.stderr) || says(&answer.stdout))
}

/// Reads the file once, for the validator, the hash and the registry. The first failure ends the
/// reading, the validation and the upload. The upload is completed only after the whole file was
/// read and is a valid archive.
async fn send(
    client: &Client,
    archive: &Archive,
    size: Option<u64>,
    meter: &Meter,
) -> Result<(Digest, u64)> {
    let mut source = archive.open()?;
    let (to_registry, chunks) = mpsc::channel(QUEUE);
    let (to_validator, pieces) = sync_channel(QUEUE);
    let (valid, validated) = oneshot::channel();
    let validator = tokio::task::spawn_blocking(move || validate(pieces));
    let reader = tokio::task::spawn_blocking(move || {
        let read = read(&mut source, &to_registry, &to_validator);
        (read, to_registry, to_validator)
    });
    let reading = async {
        // This task keeps the two senders until here, because dropping a sender tells its receiver
        // that the file has ended.
        let (read, to_registry, to_validator) = reader.await.context("reader")?;
        let Some(digest) = read.with_context(|| format!("read {}", archive.name()))? else {
            // The receiver that stopped returns the error.
            return std::future::pending().await;
        };
        drop(to_validator);
        if validated.await.is_err() {
            return std::future::pending().await;
        }
        drop(to_registry);
        anyhow::Ok(digest)
    };
    let validating = async {
        validator.await.context("validator")?.context("file validation failed")?;
        // If reading has failed, no task receives this message.
        let _ = valid.send(());
        anyhow::Ok(())
    };
    meter.begin("uploaded", Unit::Bytes, size.unwrap_or(0));
    let sending = async {
        client.put("upload", size, chunks, |taken| meter.set(taken)).await?;
        anyhow::Ok(())
    };
    let (digest, (), ()) = tokio::try_join!(biased; reading, validating, sending)?;
    Ok(digest)
}

fn validate(pieces: Receiver<Vec<u8>>) -> Result<(), deploy_store::Error> {
    let mut pieces = Pieces { pieces, current: io::Cursor::default() };
    check_archive(&mut pieces, Limits::STANDARD)?;
    // Bytes after the archive's end also belong to the file. This loop receives these bytes,
    // because the reader waits until somebody receives each chunk.
    while pieces.pieces.recv().is_ok() {}
    Ok(())
}

/// Sends the archive in chunks to both receivers. Returns the digest and the size of the archive,
/// or `None` if a receiver has stopped.
fn read(
    source: &mut dyn Read,
    to_registry: &mpsc::Sender<Vec<u8>>,
    to_validator: &SyncSender<Vec<u8>>,
) -> io::Result<Option<(Digest, u64)>> {
    let (mut hasher, mut bytes) = (Hasher::default(), 0);
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        source.take(CHUNK as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(Some((hasher.finish(), bytes)));
        }
        bytes += chunk.len() as u64;
        hasher.update(&chunk);
        let taken = to_validator.send(chunk.clone()).is_ok();
        if !taken || to_registry.blocking_send(chunk).is_err() {
            return Ok(None);
        }
    }
}

/// Reads the chunks that arrive on a channel. The data ends when the channel closes.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Parsed, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words).map_err(|refusal| refusal.text)
    }

    #[test]
    fn file_and_hash_exclude_each_other() {
        let file = |line: &str| match parsed(line).unwrap() {
            Parsed::Upload(Upload { component, source: Source::File(file), .. }) => {
                (component.to_string(), file)
            }
            other => panic!("{line}: {other:?}"),
        };
        let code = |path: &str| ("code".to_owned(), path.to_owned());
        assert_eq!(file("-name code -version v1 -file a.tar.gz"), code("a.tar.gz"));
        assert_eq!(file("--file=- --name=code -version=v1"), code("-"));
        assert_eq!(file("-name code -version -file -file x"), code("x"));
        assert_eq!(file("-name code -version -hash -file x"), code("x"));
        let hash = "ab".repeat(32);
        let line = format!("-name code -version v1 -hash {hash}");
        assert!(matches!(parsed(&line).unwrap(), Parsed::Hash(Command::AddVersion { .. })));
        assert_eq!(
            parsed(&format!("{line} -file x")).unwrap_err(),
            "give one of -file, -dir and -hash, not several"
        );
        assert_eq!(parsed("-name x -h").unwrap(), Parsed::Help);
    }

    #[test]
    fn refusals_mention_the_file_flag() {
        let all = "name, version and file should all be set";
        for (line, text) in [
            ("", all),
            ("-name code -version v1", all),
            ("-file x -name code", all),
            ("-file x -version v1", all),
            ("-file x -version v1 -name a:b", "name cannot contain : symbol"),
        ] {
            assert!(parsed(line).unwrap_err().starts_with(text), "{line}");
        }
        for (line, text) in [
            ("-file", "flag needs an argument: -file\nUsage of addver:\n  -dir string"),
            ("-name", "flag needs an argument: -name\nUsage of addver:\n  -dir string"),
            ("-bogus", "flag provided but not defined: -bogus\nUsage of addver:\n  -dir string"),
            ("junk", "unexpected argument \"junk\" after the flags\nUsage of addver:\n  -dir"),
        ] {
            assert!(parsed(line).unwrap_err().starts_with(text), "{line}: {:?}", parsed(line));
        }
    }
}
