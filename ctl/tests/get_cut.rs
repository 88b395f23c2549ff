//! A download that is cut off leaves nothing behind.

#[allow(dead_code, reason = "each test file uses its part")]
mod rig;

use std::fs;
use std::process::Stdio;

use rig::Rig;

/// Whether a process has a file in `dir` open.
fn writes_to(pid: u32, dir: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|file| file.to_string_lossy().starts_with(dir))
}

#[test]
fn a_download_that_is_killed_leaves_nothing() {
    let rig = Rig::start();
    let noise: Vec<u8> = (0..24_000_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).rotate_left(9).to_be_bytes()[1])
        .collect();
    rig.archive("x.tgz", &noise);
    rig.run(&["addver", "-name", "a", "-version", "1", "-file", "x.tgz"]);
    let to = rig.path("to");
    fs::create_dir(&to).unwrap();
    let get = ["-key", "op", "-q", "get", "-name", "a", "-version", "1", "-o", "to/x"];
    // Killed while it writes, now and then, unless it is faster than we look.
    let mut cut = 0;
    for _ in 0..20 {
        let mut child = rig.bare(&get).stderr(Stdio::null()).spawn().unwrap();
        while !writes_to(child.id(), to.to_str().unwrap()) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            fs::remove_file(to.join("x")).unwrap();
        } else {
            cut += 1;
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
    assert!(cut > 0, "it was never cut off");
    // Whole, in place of what was there.
    for _ in 0..2 {
        assert_eq!(rig.run(&get[2..]).code, 0);
        assert!(fs::read(to.join("x")).unwrap() == fs::read(rig.path("x.tgz")).unwrap());
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
