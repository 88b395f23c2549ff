//! The subcommand `init` creates the directory, the host key and the key files of a new registry.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use deploy_registry::ssh;
use deploy_store::disk::Dir;
use deploy_store::replace_file;
use deploy_wire::exit;

/// Maximum size of a key file, in bytes.
const MAX_KEY: u64 = 1 << 20;
/// First line of the operators' key file.
const OPERATORS: &str = "# Public keys of operators, one a line, as in sshd's authorized_keys.\n";
const SERVICES: &str = "# Public keys of agents, one a line, as in sshd's authorized_keys.\n";

/// The keys of a new registry.
#[derive(Debug, Args)]
pub struct Init {
    /// Public key of an operator: a file, or the key itself; may be given several times
    #[arg(long, env = "DEPLOY_REGISTRY_OPERATOR_KEY", value_name = "KEY")]
    operator_key: Vec<String>,
    /// Public key of an agent: a file, or the key itself; may be given several times
    #[arg(long, env = "DEPLOY_REGISTRY_SERVICE_KEY", value_name = "KEY")]
    service_key: Vec<String>,
}

impl Init {
    /// Creates all files and prints the next steps. If a key file exists, `init` only adds missing
    /// keys to the file. Every written file gets the owner of its directory, so that root can run
    /// `init` for another user.
    pub fn run(&self, addr: &str, dir: &Path, opauth: &Path, srvauth: &Path) -> Result<u8> {
        // `init` checks all arguments before it creates the first file.
        let operators = read_all(&self.operator_key)?;
        let services = read_all(&self.service_key)?;
        if let Some(name) = first_in(dir)? {
            let dir = dir.display();
            tracing::error!(
                "directory {dir} is in use: it has {name}; start the registry with this \
                 directory, or give another -dir"
            );
            return Ok(exit::CONFLICT);
        }
        let operators = add_keys(opauth, OPERATORS, &operators)?;
        let services = add_keys(srvauth, SERVICES, &services)?;
        Dir::open_or_create(dir, 0o700)?.set_mode(0o700)?;
        let host_key = ssh::host_key(dir)?;
        give_to_owner(&dir.join("host_key"))?;
        let fingerprint = ssh::fingerprint(&host_key);
        let mut text = format!(
            "directory   {}\nhost key    {fingerprint}\noperators   {}   {operators} keys\n\
             agents      {}   {services} keys\n\nnext:\n",
            dir.display(),
            opauth.display(),
            srvauth.display()
        );
        // Writing to a string cannot fail.
        if operators == 0 {
            let _ = writeln!(text, "  add an operator's public key to {}", opauth.display());
        }
        if services == 0 {
            let _ = writeln!(
                text,
                "  add an agent's public key to {}; deploy-agent init prints it",
                srvauth.display()
            );
        }
        let port = addr.rsplit(':').next().unwrap_or_default();
        let _ = write!(
            text,
            "  systemctl enable --now deploy-registry, or: deploy-registry -addr {addr} -dir {} -opauth {} -srvauth {}\n  \
             ssh -p {port} THIS_HOST help\n",
            dir.display(),
            opauth.display(),
            srvauth.display()
        );
        super::print(&text)?;
        Ok(exit::OK)
    }
}

/// The first name in `dir`, in byte order, if the directory exists and is not empty.
fn first_in(dir: &Path) -> Result<Option<String>> {
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("read directory {}", dir.display()))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // The entry `lost+found` does not count, because the root directory of a filesystem may have
    // this entry.
    Ok(names.filter(|name| name != "lost+found").min())
}

/// Reads public keys. Each item of `keys` is a key, or the path of a file with one key on each
/// line.
fn read_all(keys: &[String]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for key in keys {
        let is_key = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| key.starts_with(start));
        let text = if is_key { key.clone() } else { read_key(Path::new(key))? };
        match ssh::keys_in(&text) {
            Ok(0) => bail!("{key} holds no public key"),
            Ok(_) => lines.extend(text.lines().map(|line| line.trim().to_owned())),
            Err(why) => bail!("{key} is not a public key: {why}; give the file that ends in .pub"),
        }
    }
    lines.retain(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines)
}

fn read_key(path: &Path) -> Result<String> {
    let failed = |err: std::io::Error| anyhow!("read key {}: {err}", path.display());
    if fs::metadata(path).map_err(failed)?.len() > MAX_KEY {
        bail!("read key {}: the file is larger than {MAX_KEY} bytes", path.display());
    }
    fs::read_to_string(path).map_err(failed)
}

/// Adds `keys` to the key file at `path`, except for keys that the file already has. Returns the
/// number of keys that the file then has.
fn add_keys(path: &Path, head: &str, keys: &[String]) -> Result<usize> {
    let failed = |err: std::io::Error| anyhow!("key file {}: {err}", path.display());
    let (mut text, is_new) = match fs::read_to_string(path) {
        Err(err) if err.kind() == ErrorKind::NotFound => (head.to_owned(), true),
        other => (other.map_err(failed)?, false),
    };
    let new: Vec<&String> =
        keys.iter().filter(|key| !text.lines().any(|line| line == *key)).collect();
    if is_new || !new.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        for key in new {
            text.extend([key.as_str(), "\n"]);
        }
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            Dir::open_or_create(dir, 0o750)?;
        }
        replace_file(path, text.as_bytes(), 0o640)?;
        give_to_owner(path)?;
    }
    Ok(ssh::keys_in(&text).unwrap_or_else(|_| text.lines().count()))
}

/// Gives a file the owner and the group of its directory.
fn give_to_owner(path: &Path) -> Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .map_or(PathBuf::from("."), PathBuf::from);
    let (dir, file) = (fs::metadata(dir)?, fs::metadata(path)?);
    if (dir.uid(), dir.gid()) != (file.uid(), file.gid()) {
        chown(path, Some(dir.uid()), Some(dir.gid()))
            .with_context(|| format!("give {} to the owner of its directory", path.display()))?;
    }
    Ok(())
}
