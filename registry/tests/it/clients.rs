//! Tests clients of other projects with the real registry. Each client uploads, lists and
//! downloads, and also sends the other requests that are usual for this client. The tests run
//! programs and libraries, and replay the packets of some clients that cannot be installed.

mod replayed;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::raw::sftp::Answer;
use crate::rig::{Rig, both};

const DONE: Answer = Answer::Status(0);
const NOT_FOUND: Answer = Answer::Status(2);
const DENIED: Answer = Answer::Status(3);
const FAILURE: Answer = Answer::Status(4);

/// Whether a client is installed. If the client is missing, the function prints a notice. In CI, a
/// missing client is a failure.
fn is_here(client: &str, found: bool) -> bool {
    assert!(
        found || std::env::var_os("CI").is_none(),
        "{client} is missing: run scripts/needs test"
    );
    if !found {
        // A direct write bypasses the test harness, which hides the output of passing tests.
        let text = format!("NOT TESTED: {client} is missing; run scripts/needs test\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    found
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    is_here(name, std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// A Python interpreter that can load `module`.
fn python_with(module: &str) -> Option<String> {
    let given = std::env::var("PY").ok();
    let pythons = given.into_iter().chain(["python3", "/usr/bin/python3"].map(str::to_owned));
    let found = pythons.into_iter().find(|python| {
        let mut import = Command::new(python);
        import.args(["-W", "ignore", "-c", &format!("import {module}")]);
        import.output().is_ok_and(|output| output.status.success())
    });
    is_here(&format!("python's {module}"), found.is_some()).then_some(found).flatten()
}

/// A registry, and files to upload: `x.tgz`, and three files in `dir`.
fn site() -> Rig {
    let rig = Rig::start();
    for name in ["x.tgz", "one", "two", "three"] {
        // The contents are larger than the largest piece that a client sends without waiting for an
        // answer.
        let scrambled = |n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0];
        let contents: Vec<u8> = (0..300_000).map(|n| scrambled(n) ^ name.as_bytes()[0]).collect();
        rig.archive(name, &contents);
    }
    fs::create_dir(rig.path("dir")).unwrap();
    for name in ["one", "two", "three"] {
        fs::rename(rig.path(name), rig.path("dir").join(name)).unwrap();
    }
    let mut scan = Command::new("ssh-keyscan");
    scan.args(["-p", &rig.port().to_string(), "127.0.0.1"]);
    fs::write(rig.path("hosts"), scan.output().unwrap().stdout).unwrap();
    fs::create_dir_all(rig.path(".ssh")).unwrap();
    fs::copy(rig.path("hosts"), rig.path(".ssh/known_hosts")).unwrap();
    let (dir, port) = (rig.dir.path().display(), rig.port());
    let settings = format!(
        "Host *\n Port {port}\n User op\n IdentityFile {dir}/op\n IdentitiesOnly yes\n \
         UserKnownHostsFile {dir}/hosts\n LogLevel ERROR\n"
    );
    fs::write(rig.path("ssh_config"), settings).unwrap();
    rig
}

fn run(rig: &Rig, command: &mut Command) -> Output {
    command.current_dir(rig.dir.path()).env("HOME", rig.dir.path()).env_remove("SSH_AUTH_SOCK");
    command.env("PORT", rig.port().to_string()).output().unwrap()
}

/// The output of a program, which must succeed.
fn ok(rig: &Rig, program: &str, arguments: &[&str]) -> String {
    let output = run(rig, Command::new("timeout").arg("60").arg(program).args(arguments));
    assert!(output.status.success(), "{program} {arguments:?}: {}", both(&output));
    both(&output)
}

fn versions(rig: &Rig, component: &str) -> Vec<String> {
    let shown = rig.ok(&format!("showcomp -name {component}"));
    let mut names: Vec<String> =
        shown.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect();
    names.sort();
    names
}

fn same(rig: &Rig, one: impl AsRef<Path>) {
    let (one, x) = (rig.path("").join(one), rig.path("x.tgz"));
    assert!(fs::read(&one).unwrap() == fs::read(x).unwrap(), "{}", one.display());
}

#[test]
fn paramiko_uploads_lists_and_downloads() {
    let Some(python) = python_with("paramiko") else { return };
    let rig = site();
    let script = "
import os, paramiko
c = paramiko.SSHClient(); c.load_host_keys('hosts')
c.connect('127.0.0.1', int(os.environ['PORT']), 'op', key_filename='op', allow_agent=False, look_for_keys=False)
s = c.open_sftp(); size = os.path.getsize('x.tgz')
assert s.put('x.tgz', '/x.tgz').st_size == size
assert s.put('x.tgz', '/put/code/v1').st_size == size
s.utime('/put/code/v1', (1, 1)); s.chmod('/put/code/v1', 0o644)
s.chdir('/put/code'); s.put('x.tgz', 'v2'); s.put('x.tgz', 'v3.tmp'); s.rename('v3.tmp', 'v3')
s.put('x.tgz', '/w.part'); s.posix_rename('/w.part', '/put/code/v4')
assert sorted(s.listdir('.')) == ['v1', 'v2', 'v3', 'v4'], s.listdir('.')
s.get('/components/code/v3', 'got')
try: s.stat('/put/code/v9'); assert False
except FileNotFoundError: pass
_, out, _ = c.exec_command('showcomp -name code', get_pty=True); out = out.read()
assert out.count(b'\\r\\n') == 4 and out.count(b'\\n') == 4, out
c.close()
";
    ok(&rig, &python, &["-W", "ignore", "-c", script]);
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3", "v4"]);
    same(&rig, "got");
}

#[test]
fn asyncssh_uploads_lists_and_downloads() {
    let Some(python) = python_with("asyncssh") else { return };
    let rig = site();
    let script = "
import asyncio, asyncssh, os
async def main():
    port = int(os.environ['PORT'])
    async with asyncssh.connect('127.0.0.1', port, username='op', client_keys=['op'], known_hosts='hosts') as c:
        async with c.start_sftp_client() as s:
            await s.put('x.tgz', '/put/code/v1', preserve=True)
            await s.put('x.tgz', '/put/code/v2.part')
            assert (await s.stat('/put/code/v2.part')).size == os.path.getsize('x.tgz')
            await s.posix_rename('/put/code/v2.part', '/put/code/v2')
            await s.makedirs('/put/all', exist_ok=True); await s.put('dir', '/put/all', recurse=True)
            await s.mput('dir/*', '/put/more')
            assert await s.isdir('/put/code') and await s.isfile('/put/code/v2')
            await s.get('/put/code/v2', 'got')
        assert (await c.run('showcomp -name code', check=True)).stdout.count('v') == 2
        put = await c.run('put -name code -version v3', stdin='x.tgz', encoding=None, check=True)
asyncio.run(main())
";
    ok(&rig, &python, &["-W", "ignore", "-c", script]);
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3"]);
    assert_eq!(versions(&rig, "all"), ["one", "three", "two"]);
    assert_eq!(versions(&rig, "more"), ["one", "three", "two"]);
    same(&rig, "got");
}

#[test]
fn lftp_uploads_lists_and_downloads() {
    if !has_program("lftp") {
        return;
    }
    let rig = site();
    let run = |line: &str| {
        let program = format!("ssh -a -x -F {}", rig.path("ssh_config").display());
        let line = format!(
            "set sftp:connect-program '{program}'; set cmd:fail-exit yes; set net:max-retries 1; \
             set net:timeout 20; {line}; bye"
        );
        ok(&rig, "lftp", &["-e", &line, &format!("sftp://op:x@127.0.0.1:{}", rig.port())])
    };
    run("put -O /put/code x.tgz -o v1");
    let listed = run("cd /put/code; put x.tgz -o v2; ls");
    assert!(listed.contains(" v1") && listed.contains(" v2"), "{listed}");
    run("set xfer:use-temp-file yes; put x.tgz -o /put/code/v3");
    run("put x.tgz");
    run("get /components/code/v3 -o got");
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3"]);
    same(&rig, "got");
    run("mirror -R dir /put/all");
    // lftp does not send existing files again.
    run("mirror -R dir /put/all");
    assert_eq!(versions(&rig, "all"), ["one", "three", "two"]);
}

#[test]
fn rclone_uploads_lists_and_downloads() {
    if !has_program("rclone") {
        return;
    }
    let rig = site();
    let (dir, port) = (rig.dir.path().display(), rig.port());
    let settings = format!(
        "[reg]\ntype = sftp\nhost = 127.0.0.1\nport = {port}\nuser = op\nkey_file = {dir}/op\n\
         known_hosts_file = {dir}/hosts\n"
    );
    fs::write(rig.path("rclone.conf"), settings).unwrap();
    let run = |words: &[&str]| {
        ok(&rig, "rclone", &[&["--config", "rclone.conf", "--retries", "1"], words].concat())
    };
    run(&["copyto", "x.tgz", "reg:/put/code/v1"]);
    run(&["copyto", "x.tgz", "reg:x.tgz"]);
    // rclone sends four files at a time, over several connections.
    run(&["copy", "dir", "reg:put/all"]);
    run(&["copy", "--size-only", "dir", "reg:put/all"]);
    assert_eq!(versions(&rig, "all"), ["one", "three", "two"]);
    assert!(run(&["lsl", "reg:put/code"]).trim_end().ends_with(" v1"));
    run(&["copyto", "reg:components/code/v1", "got"]);
    same(&rig, "got");
    // Newer versions of rclone upload under temporary names by default.
    run(&["copyto", "x.tgz", "reg:put/code/v2.5f3a9c1b.partial"]);
    run(&["moveto", "reg:put/code/v2.5f3a9c1b.partial", "reg:put/code/v3"]);
    assert_eq!(versions(&rig, "code"), ["v1", "v3"]);
}

#[test]
fn curl_uploads_lists_and_downloads() {
    if !has_program("curl") {
        return;
    }
    let rig = site();
    let url = |path: &str| format!("sftp://127.0.0.1:{}/{path}", rig.port());
    let run = |words: &[&str]| {
        let login = ["-sS", "--insecure", "--key", "op", "--user", "op:"];
        ok(&rig, "curl", &[&login, words].concat())
    };
    run(&["-T", "x.tgz", &url("put/code/v1")]);
    run(&["--ftp-create-dirs", "-T", "x.tgz", &url("put/code/v2")]);
    let rename = "-rename /put/code/v3.tmp /put/code/v3";
    run(&["-T", "x.tgz", &url("put/code/v3.tmp"), "-Q", rename]);
    run(&["-T", "x.tgz", &url("put/new/"), "-Q", "-chmod 644 /put/new/x.tgz"]);
    assert!(run(&[&url("put/code/")]).contains(" v3"));
    run(&["-o", "got", &url("components/code/v3")]);
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3"]);
    same(&rig, "got");
}

#[test]
fn sshfs_uploads_lists_and_reads() {
    let found = has_program("sshfs") && is_here("/dev/fuse", Path::new("/dev/fuse").exists());
    if !found {
        return;
    }
    let rig = site();
    fs::create_dir(rig.path("mount")).unwrap();
    let config = rig.path("ssh_config");
    let script = format!(
        "set -e; sshfs -F {} op@127.0.0.1:/ mount; trap 'fusermount -u mount' EXIT
         cp x.tgz mount/put/code/v1; cp -p x.tgz mount/put/code/v2
         cp x.tgz mount/put/code/.v3.tmp; mv mount/put/code/.v3.tmp mount/put/code/v3
         cat x.tgz >mount/put/code/v4; ls mount/put/code; cmp x.tgz mount/components/code/v4",
        config.display()
    );
    let listed = ok(&rig, "bash", &["-c", &script]);
    assert_eq!(listed, "v1\nv2\nv3\nv4\n");
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3", "v4"]);
}

#[test]
fn putty_uploads_lists_and_downloads() {
    if !has_program("psftp") {
        return;
    }
    let rig = site();
    ok(&rig, "puttygen", &["op", "-O", "private", "-o", "op.ppk"]);
    let print = ok(&rig, "ssh-keygen", &["-lf", "hosts"]);
    let (print, port) = (print.split_whitespace().nth(1).unwrap(), rig.port().to_string());
    let login = ["-batch", "-hostkey", print, "-P", &port, "-i", "op.ppk"];
    let batch = "put x.tgz /put/code/v1\ncd /put/code\nput x.tgz v2\nput x.tgz v3.part\n\
                 mv v3.part v3\nls\nget v3 got\nput -r dir /put/all\nquit\n";
    fs::write(rig.path("batch"), batch).unwrap();
    let said = ok(&rig, "psftp", &[&login[..], &["-b", "batch", "op@127.0.0.1"]].concat());
    assert!(said.contains(" v3"), "{said}");
    ok(&rig, "pscp", &[&login[..], &["x.tgz", "op@127.0.0.1:/put/code/v4"]].concat());
    let plink = |more: &[&str]| {
        let words = [more, &login, &["op@127.0.0.1", "showcomp -name code"]].concat();
        ok(&rig, "plink", &words)
    };
    assert!(plink(&[]).lines().count() == 4 && !plink(&[]).contains('\r'));
    assert_eq!(plink(&["-t"]).matches("\r\n").count(), 4);
    assert_eq!(versions(&rig, "all"), ["one", "three", "two"]);
    same(&rig, "got");
}

/// The directory of the npm packages that Debian lacks. `scripts/needs test` installs these
/// packages near the built programs.
fn npm_modules() -> PathBuf {
    let programs = Path::new(env!("CARGO_BIN_EXE_deploy-registry")).parent().unwrap();
    programs.parent().unwrap().join("clients/node_modules")
}

#[test]
fn ssh2_sftp_client_uploads_lists_and_downloads() {
    let module = npm_modules().join("ssh2-sftp-client");
    if !is_here("ssh2-sftp-client", module.is_dir()) {
        return;
    }
    let rig = site();
    let script = "
const Client = require(process.argv[1]); const fs = require('fs'); const assert = require('assert');
(async () => { const s = new Client();
  await s.connect({host: '127.0.0.1', port: process.env.PORT, username: 'op', privateKey: fs.readFileSync('op')});
  await s.put('x.tgz', '/put/code/v1'); await s.fastPut('x.tgz', '/put/code/v2');
  await s.put(fs.createReadStream('x.tgz'), '/put/code/v3.tmp'); await s.rename('/put/code/v3.tmp', '/put/code/v3');
  await s.put('x.tgz', '/put/code/v4.tmp'); await s.posixRename('/put/code/v4.tmp', '/put/code/v4');
  await s.chmod('/put/code/v4', 0o644);
  assert.equal(await s.exists('/put/code/v4'), '-'); assert.equal(await s.exists('/put/code'), 'd');
  assert.equal((await s.list('/put/code')).length, 4);
  await s.mkdir('/put/all', true); await s.uploadDir('dir', '/put/all');
  await s.put('x.tgz', 'top.tgz'); assert.equal((await s.stat('top.tgz')).size, fs.statSync('x.tgz').size);
  await s.get('/components/code/v4', 'got'); await s.end(); })().catch(e => { console.log(e); process.exit(1) });
";
    ok(&rig, "node", &["-e", script, module.to_str().unwrap()]);
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3", "v4"]);
    assert_eq!(versions(&rig, "all"), ["one", "three", "two"]);
    same(&rig, "got");
}

/// Ansible and many scripts use these programs.
#[test]
fn openssh_sftp_and_scp_upload_and_get_clear_refusals() {
    let rig = site();
    let batch = "put x.tgz /put/code/v1\ncd /put/code\nput -p x.tgz v2\nchmod 644 v2\nput x.tgz v3.part\n\
                 rename v3.part v3\nls -l\nmkdir /put/new\nput -R dir /put/all\nput x.tgz left.tmp\n\
                 put x.tgz /x.tgz\nchmod 600 /x.tgz\nls -l /x.tgz\n-put x.tgz /components/code/v9\n\
                 -put x.tgz /put/x.tgz\n-put x.tgz /configs/p.json\n-rename v1 v9.tmp";
    let output = rig.sftp("op", "op", batch);
    let said = both(&output);
    assert!(output.status.success(), "{said}");
    for text in [
        " v3\n",
        " /x.tgz\n",
        "versions are not written to /components: upload to /put/code/v9",
        "/put takes a component and a version: /put/NAME/VERSION",
        "configurations are not written to /configs: use the commands addconf and changeconf",
        "the upload is a version: it can only be renamed to another version",
        "/put/code/left.tmp was not renamed and is not a version; the upload stays staged for a \
         while, and addver can bind it: -hash=",
    ] {
        assert!(said.contains(text), "{text:?} in {said}");
    }
    assert_eq!(versions(&rig, "code"), ["v1", "v2", "v3"]);
    assert_eq!(versions(&rig, "all"), ["one", "three", "two"]);
    rig.wait_for_log("/put/code/left.tmp was not renamed and is not a version");
    for (from, to, component) in
        [("dir", "/put", "dir"), ("dir/", "/put/copy", "copy"), ("dir", "/put/sub", "sub")]
    {
        let mut scp = rig.client("scp", "op");
        let output = scp.args(["-rp", from, &format!("op@127.0.0.1:{to}")]).output().unwrap();
        assert!(output.status.success(), "{to}: {}", both(&output));
        assert_eq!(versions(&rig, component), ["one", "three", "two"]);
    }
    // The path of a component is a directory, so scp uploads into this directory and keeps the name
    // of the file.
    let mut scp = rig.client("scp", "op");
    assert!(scp.args(["x.tgz", "op@127.0.0.1:/put/named"]).status().unwrap().success());
    assert_eq!(versions(&rig, "named"), ["x.tgz"]);
    let tty = rig.ssh("op", "op", &["-tt", "components"]);
    assert!(tty.stdout.starts_with(b"all\r\n"), "{}", both(&tty));
    let bare = rig.ssh("op", "op", &["-T", "components"]);
    assert!(!bare.stdout.contains(&b'\r'));
}
