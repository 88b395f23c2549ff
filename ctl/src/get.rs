//! `get`: downloads the archive of a version. A file gets its name only when it is complete and has
//! the hash that the registry states.

use std::fs::{File, Permissions};
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use deploy_cli::progress::Shown;
use deploy_store::{Digest, Hasher, Meter, Unit};
use deploy_wire::client::{Client, ClientError};
use deploy_wire::command::{Command, Refusal, read_flags};
use deploy_wire::{exit, path};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};

use crate::flags::Flags;
use crate::verbs::GET;

/// Mode of a new file, before the umask.
const MODE: u32 = 0o666;

/// Exit codes of a program that a signal ended. Shells use the same codes.
const INTERRUPTED: u8 = 128 + 2;
const TERMINATED: u8 = 128 + 15;
const HUNG_UP: u8 = 128 + 1;

/// The version to download, and the path of the file to write. Without a path, the archive goes to
/// standard output.
#[derive(Debug, PartialEq, Eq)]
pub struct Get {
    component: String,
    version: String,
    to: Option<PathBuf>,
}

/// Reads the flags. Returns `None` if the user asks for help.
pub fn parse(words: &[String]) -> Result<Option<Get>, Refusal> {
    let Some(given) = read_flags(&GET, words)? else { return Ok(None) };
    let last = |flag: &str| given.iter().rev().find(|(name, _)| *name == flag);
    let value = |flag: &str| last(flag).map(|(_, value)| value.clone()).unwrap_or_default();
    let (component, version, to) = (value("name"), value("version"), value("o"));
    if component.is_empty() || version.is_empty() {
        return Err(Refusal::usage("both name and version should be set".to_owned()));
    }
    let to = Some(PathBuf::from(to)).filter(|to| !to.as_os_str().is_empty());
    Ok(Some(Get { component, version, to: to.filter(|to| to.as_os_str() != "-") }))
}

/// Downloads the archive.
pub async fn run(flags: &Flags, get: &Get) -> Result<u8> {
    if get.to.is_none() && io::stdout().is_terminal() {
        let text = "an archive is not printed on a terminal: give -o FILE, or redirect the output \
                    with | or >";
        return Err(Refusal::usage(text.to_owned()).into());
    }
    let client = Client::connect(&flags.connect()?).await?;
    let digest = digest(&client, get).await?;
    let done = match &get.to {
        Some(file) => to_file(&client, get, digest, file, flags.q).await,
        None => fetch(&client, get, digest, &mut io::stdout().lock(), flags.q).await,
    };
    client.disconnect().await;
    done.map(|()| exit::OK)
}

/// Asks the registry for the hash of the version.
async fn digest(client: &Client, get: &Get) -> Result<Digest> {
    let name = get.component.parse().map_err(|err: deploy_store::Error| Refusal::from(err))?;
    let line = Command::ShowComponent { name, before: None, limit: None, json: true }.to_string();
    let answer = client.exec(&line).await?;
    let text = String::from_utf8_lossy(&answer.stdout);
    if answer.code != exit::OK {
        // The Go registry prints errors to standard output, and does not know -json.
        let said = if answer.stderr.is_empty() { &answer.stdout } else { &answer.stderr };
        let why = String::from_utf8_lossy(said).trim_end().to_owned();
        return Err(Refusal::new(answer.code, why).into());
    }
    let shown: serde_json::Value =
        serde_json::from_str(&text).context("read the registry's answer about the component")?;
    let versions = shown["versions"].as_array().into_iter().flatten();
    let mut versions = versions.filter(|one| one["version"] == *get.version);
    let Some(version) = versions.next() else {
        let (component, version) = (&get.component, &get.version);
        let text = format!("no version {version:?} for component {component:?} found");
        return Err(Refusal::new(exit::NOT_FOUND, text).into());
    };
    let hash = version["hash"].as_str().and_then(|hash| hash.parse().ok());
    hash.ok_or_else(|| anyhow!("the registry's answer has no hash of the version"))
}

async fn to_file(
    client: &Client,
    get: &Get,
    digest: Digest,
    file: &Path,
    quiet: bool,
) -> Result<()> {
    // If the path exists but is not a file, such as /dev/null or a pipe, the program writes to the
    // path and does not replace it.
    if std::fs::metadata(file).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        let opened = std::fs::OpenOptions::new().write(true).open(file);
        let mut opened = opened.with_context(|| format!("open {}", file.display()))?;
        return fetch(client, get, digest, &mut opened, quiet).await;
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |what: &str| format!("{what} {}", file.display());
    if file.is_dir() {
        bail!("{} is a directory: name a file in it with -o", file.display());
    }
    if !dir.exists() {
        bail!("there is no directory {}: create it, or give another path with -o", dir.display());
    }
    let mut temp = New::make(dir).with_context(|| failed("write"))?;
    // The program catches signals, because a temporary file with a name would stay if a signal
    // ended the program.
    let signal = signals().context("watch for signals")?;
    tokio::select! {
        done = fetch(client, get, digest, temp.file(), quiet) => done?,
        code = signal => return Err(Refusal::new(code, "interrupted: nothing was written".to_owned()).into()),
    }
    temp.file().sync_all().with_context(|| failed("write"))?;
    temp.name(dir, file).with_context(|| failed("rename to"))
}

/// Returns a future that ends when a signal asks the program to end. The future's output is the
/// exit code.
fn signals() -> io::Result<impl Future<Output = u8>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => INTERRUPTED,
            _ = terminate.recv() => TERMINATED,
            _ = hangup.recv() => HUNG_UP,
        }
    })
}

/// A file that gets its name when it is complete.
enum New {
    /// The file has no name, and disappears with the program.
    Unnamed(File),
    /// The file has a temporary name, on filesystems without unnamed files.
    Named(NamedTempFile),
}

impl New {
    fn make(dir: &Path) -> io::Result<Self> {
        // The umask applies, as for any new file.
        let mode = Mode::from_raw_mode(MODE);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, dir, flags, mode) {
            return Ok(Self::Unnamed(file.into()));
        }
        let like_others = Permissions::from_mode(MODE);
        tempfile::Builder::new().permissions(like_others).tempfile_in(dir).map(Self::Named)
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(temp) => temp.as_file_mut(),
        }
    }

    /// Gives the file its name and replaces an existing file.
    fn name(self, dir: &Path, name: &Path) -> io::Result<()> {
        let file = match self {
            Self::Unnamed(file) => file,
            Self::Named(temp) => return temp.persist(name).map(drop).map_err(|err| err.error),
        };
        let of_process = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = |to: &Path| linkat(CWD, &of_process, CWD, to, AtFlags::SYMLINK_FOLLOW);
        match link(name) {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
        // A link cannot replace an existing file, but a rename can.
        let beside = dir.join(format!(".deployctl-{}", std::process::id()));
        link(&beside)?;
        std::fs::rename(&beside, name).inspect_err(|_| {
            // The caller gets the error of the rename, which is more useful than an error of the
            // removal.
            let _ = std::fs::remove_file(&beside);
        })
    }
}

async fn fetch(
    client: &Client,
    get: &Get,
    digest: Digest,
    into: &mut impl Write,
    quiet: bool,
) -> Result<()> {
    let name =
        format!("/components/{}/{}", path::encode(&get.component), path::encode(&get.version));
    let meter = Arc::new(Meter::default());
    meter.begin("downloaded", Unit::Bytes, client.size(&name).await?.unwrap_or(0));
    let _shown = Shown::new(&meter, quiet);
    let (mut hasher, mut bytes, mut failed) = (Hasher::default(), 0, None);
    let fetched = client.get(&name, 0, |piece| {
        hasher.update(piece);
        bytes += piece.len() as u64;
        meter.set(bytes);
        into.write_all(piece).map_err(|err| {
            failed = Some(err);
            ClientError::Setup("it cannot be written".to_owned())
        })
    });
    let fetched = fetched.await;
    if let Some(err) = failed {
        return Err(anyhow!(err).context("write the archive"));
    }
    fetched?;
    into.flush().context("write the archive")?;
    let found = hasher.finish();
    if found != digest {
        let text =
            format!("the download has the hash {found}, not {digest}: it is damaged, try again");
        return Err(Refusal::new(exit::CORRUPT, text).into());
    }
    Ok(())
}
