//! Runs `init`, which creates the directory, key and settings of a new agent for the systemd unit
//! `deploy-agent@NAME`.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use deploy_store::disk::Dir;
use deploy_store::{ConfigurationName, escape, replace_file};
use deploy_wire::client::make_key;
use deploy_wire::exit;

use crate::commands::print;
use crate::flags::Flags;

/// The parent of the agents' directories.
const DIRS: &str = "/var/lib/deploy-agent";
/// The directory of the key and the settings of the agents.
const SETTINGS: &str = "/etc/deploy-agent";

/// Why no agent was created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's directory is not empty, or the settings file exists already.
    #[error(
        "{what} {} is in use: it has {name}; start the agent with this {what}, or give another \
         {flag}",
        path.display()
    )]
    InUse {
        /// Either `directory` or `file`.
        what: &'static str,
        /// The path of the directory or file.
        path: PathBuf,
        /// The name of an entry in the directory, or the word `settings` for a file.
        name: String,
        /// The flag with which the user can choose another directory or file.
        flag: &'static str,
    },
    /// A setting has a character that a settings file cannot hold.
    #[error("-{flag} contains a line break or a NUL, and a settings file cannot hold these")]
    Unwritable {
        /// The name of the flag.
        flag: &'static str,
    },
    /// The configuration's name cannot be part of a unit's name.
    #[error("-name: {0}")]
    Name(deploy_store::Error),
    /// A file or directory cannot be created.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The agent's directory cannot be read.
    #[error("read {}: {cause}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The key cannot be created or read.
    #[error(transparent)]
    Key(#[from] deploy_wire::client::ClientError),
}

/// Creates the directory, key and settings of the agent that `flags` describe. Returns a text with
/// the next steps. `init` replaces no file. If the key exists already, `init` uses that key.
pub fn run(flags: &Flags, settings: Option<&Path>) -> Result<String, Error> {
    let name: ConfigurationName = flags.name.parse().map_err(Error::Name)?;
    name.check_new().map_err(Error::Name)?;
    let name = name.as_str();
    let given = |flag: &str| flags.given.contains(flag);
    let or = |flag: &str, value: &Path, usual: PathBuf| {
        let path = if given(flag) { value.to_owned() } else { usual };
        std::path::absolute(&path).unwrap_or(path)
    };
    let dir = or("dir", &flags.dir, Path::new(DIRS).join(name));
    let key = or("key", &flags.key, Path::new(SETTINGS).join("id_ed25519"));
    let state = or("state", flags.state.as_deref().unwrap_or(&dir), dir.join("state.json"));
    let usual = Path::new(SETTINGS).join(format!("{name}.env"));
    let file = settings.map_or(usual, Path::to_owned);
    // All checks come before the first creation of a file or directory.
    if let Some(name) = first_in(&dir)? {
        return Err(Error::InUse { what: "directory", path: dir, name, flag: "-dir" });
    }
    if file.exists() {
        let name = "settings".to_owned();
        return Err(Error::InUse { what: "file", path: file, name, flag: "-settings" });
    }
    let script = if given("script") { flags.script.as_str() } else { "" };
    let (dir_text, key_text) = (dir.to_string_lossy(), key.to_string_lossy());
    let text = [
        setting("name", name)?,
        setting("addr", &flags.addr)?,
        setting("fp", &flags.fp)?,
        setting("key", &key_text)?,
        setting("dir", &dir_text)?,
        setting("state", &state.to_string_lossy())?,
        setting("script", script)?,
    ]
    .concat();
    let text = format!(
        "# Flags of the agent of {name}, as DEPLOY_AGENT_FLAG=value; see deploy-agent -h.\n{text}"
    );
    for path in [&key, &file] {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            Dir::open_or_create(dir, 0o755)?;
        }
    }
    let public = make_key(&key, &format!("deploy-agent {}", host()))?;
    Dir::open_or_create(&dir, 0o755)?;
    replace_file(&file, text.as_bytes(), 0o640)?;
    let mut told = format!(
        "directory   {dir_text}\nkey         {key_text}\nsettings    {}\n\nnext:\n  \
         on the registry, add this line to service.keys:\n{public}\n",
        file.display()
    );
    if script.is_empty() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            told,
            "  if a script should run when a root is ready, name the script in the settings"
        );
    }
    let _ = writeln!(told, "  systemctl enable --now deploy-agent@{name}");
    let _ = writeln!(told, "  deploy-agent status -dir {}", escape(&dir_text));
    Ok(told)
}

/// The alphabetically first name in `dir`, apart from `lost+found`; `None` if there is no such
/// name, or if `dir` does not exist.
fn first_in(dir: &Path) -> Result<Option<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|cause| Error::Read { path: dir.to_owned(), cause })?,
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name != "lost+found").min())
}

/// Returns a line of the settings file that sets the environment variable of `flag` to `value`.
/// systemd.exec(5) describes the syntax.
fn setting(flag: &'static str, value: &str) -> Result<String, Error> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(Error::Unwritable { flag });
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+@~-/:=".contains(c);
    let variable = format!("DEPLOY_AGENT_{}", flag.to_uppercase());
    if value.chars().all(plain) {
        return Ok(format!("{variable}={value}\n"));
    }
    let escaped: String = value
        .chars()
        .flat_map(|c| ['"', '\\', '`', '$'].contains(&c).then_some('\\').into_iter().chain([c]))
        .collect();
    Ok(format!("{variable}=\"{escaped}\"\n"))
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    escape(name.trim())
}

pub(super) fn init(flags: &Flags, settings: Option<&Path>) -> anyhow::Result<u8> {
    flags.check()?;
    match run(flags, settings) {
        Ok(told) => print(&told).map(|()| exit::OK),
        Err(err @ Error::InUse { .. }) => {
            tracing::error!(event = "failed", "{err}");
            Ok(exit::CONFLICT)
        }
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::flags::Cli;

    fn flags(words: &[&str]) -> Flags {
        let words = ["deploy-agent", "-name", "p", "-fp", "SHA256:x"].iter().chain(words);
        Cli::read(Cli::described("1"), words.map(OsString::from)).unwrap().flags
    }

    #[test]
    fn init_creates_directory_key_and_settings_and_replaces_no_file() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
        let (dir, key, file) = (at("lib/p"), at("etc/key"), at("etc/p.env"));
        let words = ["-addr", "r:1", "-dir", &dir, "-key", &key, "-script", "./a b"];
        let told = run(&flags(&words), Some(Path::new(&file))).unwrap();
        let public = fs::read_to_string(at("etc/key.pub")).unwrap();
        assert!(public.starts_with("ssh-ed25519 ") && told.contains(&public), "{told}");
        let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&dir), mode(&key), mode(&file)], [0o755, 0o600, 0o640]);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("DEPLOY_AGENT_SCRIPT=\"./a b\"\n"), "{text}");
        assert!(text.contains(&format!("DEPLOY_AGENT_STATE={dir}/state.json\n")), "{text}");
        // A second agent on this server uses the same key.
        let (dir, file2) = (at("lib/q"), at("etc/q.env"));
        let words = ["-dir", &dir, "-key", &key];
        run(&flags(&words), Some(Path::new(&file2))).unwrap();
        assert_eq!(fs::read_to_string(at("etc/key.pub")).unwrap(), public);
        // Existing files are not changed.
        let err = run(&flags(&words), Some(Path::new(&file))).unwrap_err().to_string();
        assert!(err.contains("etc/p.env is in use"), "{err}");
        fs::write(at("lib/q/state.json"), "{}").unwrap();
        let err = run(&flags(&words), Some(Path::new(&at("new")))).unwrap_err().to_string();
        assert!(err.contains("is in use: it has state.json"), "{err}");
        assert!(!Path::new(&at("new")).exists());
    }

    #[test]
    fn settings_have_the_quoting_of_systemd() {
        assert_eq!(setting("fp", "SHA256:a+b/c=").unwrap(), "DEPLOY_AGENT_FP=SHA256:a+b/c=\n");
        assert_eq!(
            setting("script", "a \"$b\"").unwrap(),
            "DEPLOY_AGENT_SCRIPT=\"a \\\"\\$b\\\"\"\n"
        );
        assert!(setting("script", "a\nb").is_err());
    }
}
