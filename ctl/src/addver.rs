//! `addver -file`: one connection, and no upload of what the registry has.
//!
//! A file is hashed first, which is cheap, and the registry asked to bind that hash. If
//! it has no such blob, the file is read once more: validated, hashed again and uploaded
//! in one pass. Standard input and pipes can be read only once, so they are uploaded.

use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context as _, Result, bail};
use deploy_store::{
    ComponentName, Digest, Hasher, HashingReader, Limits, VersionName, check_archive,
};
use deploy_wire::client::{Client, Exec};
use deploy_wire::command::{self, Command, Refusal};
use deploy_wire::exit;
use tokio::sync::{mpsc, oneshot};

use crate::flags::Flags;
use crate::progress::Progress;
use crate::show;

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

/// Bytes that are read at a time: what one request of an upload carries.
const CHUNK: usize = 255 << 10;
/// Chunks between the reader and the network, and between the reader and the validator.
const QUEUE: usize = 8;
/// What the registry says when it has no such blob.
const NO_BLOB: &str = "no uploaded file with given hash found";

/// A file to upload, and what it becomes.
#[derive(Debug, PartialEq, Eq)]
pub struct Upload {
    component: ComponentName,
    version: VersionName,
    file: String,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Print the usage.
    Help,
    /// Upload a file.
    File(Upload),
    /// Bind a hash, as the console does it.
    Hash(Command),
}

/// Reads the flags. The console's grammar knows no `-file`; all else is its own.
pub fn parse(words: &[String]) -> Result<Parsed, Refusal> {
    let mut file = String::new();
    let mut rest = Vec::new();
    let mut has_hash = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let flag = word.strip_prefix("--").or(word.strip_prefix('-')).unwrap_or_default();
        let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
        has_hash |= name == "hash";
        match (name, value) {
            ("h" | "help", _) => return Ok(Parsed::Help),
            ("file", Some(value)) => value.clone_into(&mut file),
            ("file", None) => {
                let missing = || Refusal::usage(format!("flag needs an argument: -file\n{USAGE}"));
                words.next().ok_or_else(missing)?.clone_into(&mut file);
            }
            // Of the console's flags each takes a value, which may look like a flag.
            ("hash" | "name" | "version", None) => {
                rest.push(word.clone());
                rest.extend(words.next().cloned());
            }
            _ => rest.push(word.clone()),
        }
    }
    if has_hash && !file.is_empty() {
        return Err(Refusal::usage("give either -file or -hash, not both".to_owned()));
    }
    let mut line = vec!["addver".to_owned()];
    if !has_hash {
        // With the hash of nothing, the console's own checks apply.
        line.push(format!("-hash={}", Digest::of(b"")));
    }
    line.extend(rest);
    match command::parse(&line).map_err(|refusal| as_here(&refusal))? {
        Command::AddVersion { component, version, .. } if !has_hash => match file.as_str() {
            "" => Err(Refusal::usage("name, version and file should all be set".to_owned())),
            _ => Ok(Parsed::File(Upload { component, version, file })),
        },
        Command::Help { .. } => Ok(Parsed::Help),
        command => Ok(Parsed::Hash(command)),
    }
}

/// The console's refusal, about the flags that there are here.
fn as_here(refusal: &Refusal) -> Refusal {
    let text = match refusal.text.split_once("\nUsage of addver:") {
        Some((what, _)) => format!("{what}\n{}", USAGE.trim_end()),
        None => refusal.text.replace("name, version and hash", "name, version and file"),
    };
    Refusal { text, code: refusal.code }
}

/// Uploads and binds; the exit code is the registry's.
pub async fn run(flags: &Flags, upload: &Upload) -> Result<u8> {
    let connect = flags.connect()?;
    let expected = digest_of(&upload.file)?;
    let client = Client::connect(&connect).await?;
    if let Some((digest, _)) = expected {
        let answer = client.exec(&upload.command(digest)).await?;
        if !is_missing(&answer) {
            client.disconnect().await;
            return show(&answer);
        }
    }
    let digest = send(&client, upload, expected.map(|(_, size)| size), flags.q).await?;
    if expected.is_some_and(|(expected, _)| expected != digest) {
        bail!("{} changed while it was uploaded: nothing was added, try again", upload.file);
    }
    let answer = client.exec(&upload.command(digest)).await?;
    client.disconnect().await;
    show(&answer)
}

impl Upload {
    fn command(&self, digest: Digest) -> String {
        let (component, version) = (self.component.clone(), self.version.clone());
        Command::AddVersion { component, version, digest }.to_string()
    }

    fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(match self.file.as_str() {
            "-" => Box::new(io::stdin()),
            path => Box::new(File::open(path).with_context(|| format!("open {path}"))?),
        })
    }
}

/// Whether the registry would do it if it had the blob. The Go registry's errors are on
/// standard output.
fn is_missing(answer: &Exec) -> bool {
    let says = |text: &[u8]| String::from_utf8_lossy(text).contains(NO_BLOB);
    answer.code != exit::OK && (says(&answer.stderr) || says(&answer.stdout))
}

/// Digest and size of a file that can be read twice.
fn digest_of(path: &str) -> Result<Option<(Digest, u64)>> {
    if path == "-" || !fs::metadata(path).with_context(|| format!("open {path}"))?.is_file() {
        return Ok(None);
    }
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    let mut reader = HashingReader::new(file);
    let mut buffer = vec![0; CHUNK];
    while reader.read(&mut buffer).with_context(|| format!("read {path}"))? > 0 {}
    Ok(Some(reader.finish()))
}

/// Reads the file once: to the validator, the hash and the registry. What fails first
/// ends the others; the upload is closed only when the file has ended and is an archive.
async fn send(client: &Client, upload: &Upload, size: Option<u64>, quiet: bool) -> Result<Digest> {
    let mut source = upload.open()?;
    let (to_registry, chunks) = mpsc::channel(QUEUE);
    let (to_validator, pieces) = sync_channel(QUEUE);
    let (valid, validated) = oneshot::channel();
    let validator = tokio::task::spawn_blocking(move || validate(pieces));
    let reader = tokio::task::spawn_blocking(move || {
        let read = read(&mut source, &to_registry, &to_validator);
        (read, to_registry, to_validator)
    });
    let reading = async {
        // Both ends are kept until here: to their takers, letting go is the end of the file.
        let (read, to_registry, to_validator) = reader.await.context("reader")?;
        let Some(digest) = read.with_context(|| format!("read {}", upload.file))? else {
            // The taker that has stopped tells why.
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
        // Nobody waits for it when reading has failed.
        let _ = valid.send(());
        anyhow::Ok(())
    };
    let progress = Progress::new(size, quiet);
    let sending = async {
        client.put("upload", chunks, |taken| progress.at(taken)).await?;
        anyhow::Ok(())
    };
    let (digest, (), ()) = tokio::try_join!(biased; reading, validating, sending)?;
    Ok(digest)
}

fn validate(pieces: Receiver<Vec<u8>>) -> Result<(), deploy_store::Error> {
    let mut pieces = Pieces { pieces, current: io::Cursor::default() };
    check_archive(&mut pieces, Limits::STANDARD)?;
    // Bytes after the archive's end are the file's too, and the reader waits for a taker.
    while pieces.pieces.recv().is_ok() {}
    Ok(())
}

/// The digest of the whole, or `None` when one of the takers has stopped.
fn read(
    source: &mut dyn Read,
    to_registry: &mpsc::Sender<Vec<u8>>,
    to_validator: &SyncSender<Vec<u8>>,
) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::default();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        source.take(CHUNK as u64).read_to_end(&mut chunk)?;
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
    fn a_file_or_a_hash() {
        let file = |line: &str| match parsed(line).unwrap() {
            Parsed::File(upload) => (upload.component.to_string(), upload.file),
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
            "give either -file or -hash, not both"
        );
        assert_eq!(parsed("-name x -h").unwrap(), Parsed::Help);
    }

    #[test]
    fn refusals_speak_of_a_file() {
        let all = "name, version and file should all be set";
        for (line, text) in [
            ("", all),
            ("-name code -version v1", all),
            ("-file x -name code", all),
            ("-file x -version v1", all),
            ("-file x -version v1 -name a:b", "name cannot contain : symbol"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), text, "{line}");
        }
        for (line, text) in [
            ("-file", "flag needs an argument: -file\nUsage of addver:\n  -file string"),
            ("-name", "flag needs an argument: -name\nUsage of addver:\n  -file string"),
            ("-bogus", "flag provided but not defined: -bogus\nUsage of addver:\n  -file string"),
            ("junk", "unexpected argument \"junk\" after the flags\nUsage of addver:\n  -file"),
        ] {
            assert!(parsed(line).unwrap_err().starts_with(text), "{line}: {:?}", parsed(line));
        }
    }
}
