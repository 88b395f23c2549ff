//! Tests that an interrupted download leaves no file behind.

use std::fs;
use std::io::{self, Read as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::rig::{Answer, Rig, noise};

/// Whether a process has a file in `dir` open.
fn writes_to(pid: u32, dir: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|file| file.to_string_lossy().starts_with(dir))
}

/// Forwards one connection to `addr`, and cuts the connection after `bytes` bytes from the server.
/// Returns the address to connect to.
fn cut_after(addr: String, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(addr).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let there = std::thread::spawn(move || io::copy(&mut from, &mut to));
        // Errors are ignored, because either side may get an error from the cut.
        let _ = io::copy(&mut (&server).take(bytes), &mut &client);
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        let _ = there.join();
    });
    here
}

#[test]
fn interrupted_download_leaves_no_file() {
    let rig = Rig::start();
    rig.archive("x.tgz", &noise(8 << 20));
    rig.run(&["addver", "-name", "a", "-version", "1", "-file", "x.tgz"]);
    let to = rig.path("to");
    fs::create_dir(&to).unwrap();
    let cut = cut_after(rig.addr().to_owned(), 3 << 20);
    let get = ["-key", "op", "-q", "get", "-name", "a", "-version", "1", "-o", "to/x"];
    let answer: Answer = rig.bare(&get).env("DEPLOYCTL_ADDR", cut).output().unwrap().into();
    assert_eq!(answer.code, 10, "{answer:?}");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

#[test]
fn killed_download_leaves_no_file() {
    let rig = Rig::start();
    rig.archive("x.tgz", &noise(24 << 20));
    rig.run(&["addver", "-name", "a", "-version", "1", "-file", "x.tgz"]);
    let to = rig.path("to");
    fs::create_dir(&to).unwrap();
    let get = ["-key", "op", "-q", "get", "-name", "a", "-version", "1", "-o", "to/x"];
    // The program may end before the signal arrives, so the test repeats the download 20 times.
    let mut cut = 0;
    for signal in ["-KILL", "-INT", "-TERM", "-HUP"].iter().cycle().take(20) {
        let mut child = rig.bare(&get).stderr(Stdio::null()).spawn().unwrap();
        while !writes_to(child.id(), to.to_str().unwrap()) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        // The result is ignored, because the program may have ended on its own.
        let mut kill = Command::new("kill");
        kill.args([signal, &*child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
        if child.wait().unwrap().success() {
            fs::remove_file(to.join("x")).unwrap();
        } else {
            cut += 1;
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
    assert!(cut > 0, "no download was interrupted");
    // A complete download replaces the file of an earlier download.
    for _ in 0..2 {
        assert_eq!(rig.run(&get[2..]).code, 0);
        assert!(fs::read(to.join("x")).unwrap() == fs::read(rig.path("x.tgz")).unwrap());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
