//! Starts a real sshd with its own port and its own keys.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deploy_wire::client::{Client, ClientError, Connect, HostKey, Keys};

const SSHD: &str = "/usr/sbin/sshd";
const STARTS: usize = 10;

pub struct Sshd {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

/// The name of the account that runs the test.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Sshd {
    /// Starts sshd. If sshd is not installed, the function prints a notice and returns `None`, or
    /// fails in CI.
    pub fn start(subsystem: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            assert!(std::env::var_os("CI").is_none(), "{SSHD} is missing: install openssh-server");
            // A direct write bypasses the test harness, which hides the output of passing tests.
            let text = format!("SKIPPED: {SSHD} is missing: install openssh-server\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        make_key(dir.path(), "host", &["-t", "ed25519"]);
        make_key(dir.path(), "host_ecdsa", &["-t", "ecdsa"]);
        make_key(dir.path(), "id", &["-t", "ed25519"]);
        make_key(dir.path(), "id_rsa", &["-t", "rsa", "-b", "2048"]);
        make_key(dir.path(), "stranger", &["-t", "ed25519"]);
        make_key(dir.path(), "ca", &["-t", "ed25519"]);
        sign(dir.path(), &["-h", "-n", "127.0.0.1", "host.pub"]);
        let keys = ["id.pub", "id_rsa.pub"].map(|name| read(dir.path(), name)).concat();
        let authorized = format!("{keys}cert-authority {}", read(dir.path(), "ca.pub"));
        fs::write(dir.path().join("authorized"), authorized).unwrap();
        if user() == "root" {
            // sshd needs this directory, which a service manager normally makes.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let (child, port) = (0..STARTS).find_map(|_| listen(dir.path(), subsystem)).unwrap();
        Some(Self { child, port, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the server's directory, as text for the client.
    pub fn remote(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A line of `known_hosts` for a key file.
    pub fn known_line(&self, key: &str) -> String {
        format!("[127.0.0.1]:{} {}", self.port, read(self.dir.path(), key))
    }

    pub fn fingerprint(&self) -> String {
        let output =
            Command::new("ssh-keygen").arg("-lf").arg(self.path("host.pub")).output().unwrap();
        let line = String::from_utf8(output.stdout).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// The settings for a connection with the right key to the right host.
    pub fn connect(&self) -> Connect {
        Connect {
            addr: self.addr(),
            user: user(),
            keys: Keys::File(self.path("id")),
            host: HostKey::Fingerprint(self.fingerprint()),
            declared: None,
            timeout: Duration::from_secs(30),
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.connect()).await.unwrap()
    }

    /// Connects with the settings that `change` has modified. Returns the error. Panics if the
    /// client can connect.
    pub async fn refusal(&self, change: impl FnOnce(&mut Connect)) -> ClientError {
        let mut connect = self.connect();
        change(&mut connect);
        Client::connect(&connect).await.expect_err("the client could connect")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // sshd may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn make_key(dir: &Path, name: &str, flags: &[&str]) {
    let passphrase: &[&str] = if flags.contains(&"-N") { &[] } else { &["-N", ""] };
    let command = Command::new("ssh-keygen")
        .args(["-q", "-f", name])
        .args(flags)
        .args(passphrase)
        .current_dir(dir)
        .status();
    assert!(command.unwrap().success());
}

/// Makes a certificate for a key, signed by the authority `ca`.
pub fn sign(dir: &Path, flags: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-s", "ca", "-I", "test"]).args(flags).current_dir(dir);
    assert!(command.status().unwrap().success());
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

/// Starts sshd on a free port. `None` if another process took the port first.
fn listen(dir: &Path, subsystem: &str) -> Option<(Child, u16)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = dir.display();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {path}/host\nHostKey {path}/host_ecdsa\n\
         HostCertificate {path}/host-cert.pub\n\
         AuthorizedKeysFile {path}/authorized\nPidFile none\nStrictModes no\nUsePAM no\n\
         PasswordAuthentication no\nSubsystem sftp {subsystem}\n"
    );
    fs::write(dir.join("config"), config).unwrap();
    let mut child = Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("config"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = String::new();
    loop {
        let Some(line) = log.next() else {
            assert!(seen.contains("Address already in use"), "sshd ended: {seen}");
            child.wait().unwrap();
            return None;
        };
        if line.contains("Server listening on") {
            break;
        }
        seen = seen + &line + "\n";
    }
    // sshd would block on a full pipe.
    std::thread::spawn(move || log.for_each(drop));
    Some((child, port))
}
