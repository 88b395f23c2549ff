//! Runs a substitute for the registry: OpenSSH's sftp server on a directory with `configs/` and
//! `files/`.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deploy_store::disk::Lock;
use deploy_store::{Configuration, Digest, Layer};
use deploy_wire::client::{Connect, HostKey, Keys};

const SSHD: &str = "/usr/sbin/sshd";

pub struct Source {
    temp: tempfile::TempDir,
    server: Child,
    port: u16,
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Source {
    /// Starts a server. If OpenSSH's server is not installed, prints a notice and returns `None`.
    /// In CI, the test fails instead.
    pub fn start() -> Option<Self> {
        if !Path::new(SSHD).exists() {
            assert!(std::env::var_os("CI").is_none(), "{SSHD} is missing");
            let _ = writeln!(io::stderr(), "NOT TESTED: {SSHD} is missing; install openssh-server");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        for name in ["configs", "files"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        for name in ["host", "id"] {
            deploy_testing::make_key(&dir.join(name));
        }
        // The port is free now, but another process could take the port before the server opens it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.display();
        let settings = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/id.pub\n\
             Subsystem sftp internal-sftp -d {at}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin yes\n"
        );
        fs::write(dir.join("sshd_config"), settings).unwrap();
        // sshd needs this directory. Usually, the system's start script of sshd makes it.
        let _ = fs::create_dir_all("/run/sshd");
        let mut server = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("Server listening") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the ssh server did not start");
        }
        // A thread reads and discards later output, so that the server does not block.
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Some(Self { temp, server, port })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn connect(&self) -> Connect {
        let fingerprint = deploy_testing::fingerprint(&self.path("host.pub"));
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        Connect {
            addr: format!("127.0.0.1:{}", self.port),
            user: String::from_utf8(user).unwrap().trim().to_owned(),
            keys: Keys::File(self.path("id")),
            host: HostKey::Fingerprint(fingerprint),
            declared: None,
            timeout: Duration::from_secs(30),
        }
    }

    /// Puts a tar.gz with these files into the server's directory `files/`.
    pub fn blob(&self, files: &[(&str, &str)]) -> Digest {
        let tree = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@1700000000", "-cz", "-C"]).arg(tree.path()).arg(".");
        let tar = tar.output().unwrap();
        assert!(tar.status.success());
        let digest = Digest::of(&tar.stdout);
        fs::write(self.path(&format!("files/{digest}")), tar.stdout).unwrap();
        digest
    }

    pub fn remove_blob(&self, digest: Digest) {
        fs::remove_file(self.path(&format!("files/{digest}"))).unwrap();
    }

    /// Makes the configuration `project1` from these components, versions and blobs.
    pub fn configure(&self, layers: &[(&str, &str, Digest)]) -> Configuration {
        let now = "2026-11-23T03:49:00.123456789Z".parse().unwrap();
        let layer = |&(component, version, digest): &(&str, &str, Digest)| Layer {
            component: component.parse().unwrap(),
            version: version.parse().unwrap(),
            digest,
            created: now,
        };
        let layers = layers.iter().map(layer).collect();
        let configuration = Configuration::new("project1".parse().unwrap(), layers, now).unwrap();
        fs::write(self.path("configs/project1.json"), configuration.to_json()).unwrap();
        configuration
    }

    /// Kills the processes that serve the connections. The server itself keeps running.
    pub fn drop_connections(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.server.id());
        for pid in fs::read_to_string(children).unwrap().split_whitespace() {
            assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
        }
    }
}

pub fn write_executable(path: &Path, body: &str) {
    fs::write(path, body).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A directory on a filesystem of 16 MiB. Only one test at a time uses the filesystem.
pub struct SmallDisk {
    dir: tempfile::TempDir,
    _alone: Lock,
}

impl SmallDisk {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Returns a directory on the small filesystem. If there is no such filesystem, prints a notice and
/// returns `None`. In CI, the test fails instead.
pub fn small_disk() -> Option<SmallDisk> {
    let small = std::env::var_os("DEPLOY_TEST_SMALL");
    if small.is_none() {
        assert!(std::env::var_os("CI").is_none(), "DEPLOY_TEST_SMALL is not set: see scripts/test");
        let _ = writeln!(io::stderr(), "NOT TESTED: a full disk; run scripts/test as root");
    }
    let small = PathBuf::from(small?);
    loop {
        match Lock::take(&small) {
            Ok(lock) => {
                let dir = tempfile::tempdir_in(&small).unwrap();
                return Some(SmallDisk { dir, _alone: lock });
            }
            Err(err) => assert!(matches!(err, deploy_store::Error::Busy { .. }), "{err}"),
        }
    }
}
