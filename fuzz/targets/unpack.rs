//! Unpacks one to three archives into one directory. The function `unpack` must unpack the archives
//! completely, or refuse them and leave no directory. It must never change anything outside the
//! directory.
#![no_main]

mod forge;

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use deploy_store::{Limits, LinkMode, Options, unpack};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { entries: 1_000, bytes: 4 << 20, depth: 50, ..Limits::STANDARD };

/// A directory that contains the target directory and canaries, made once for all inputs.
fn ground() -> &'static Path {
    static GROUND: OnceLock<PathBuf> = OnceLock::new();
    GROUND.get_or_init(|| {
        let ground = std::env::temp_dir().join(format!("deploy-fuzz-{}", std::process::id()));
        fs::create_dir_all(ground.join("arena/side")).expect("a directory");
        fs::create_dir_all(ground.join("side")).expect("a directory");
        for canary in ["canary", "side/canary", "arena/canary", "arena/side/canary"] {
            fs::write(ground.join(canary), canary).expect("a file");
        }
        ground
    })
}

/// Everything below `dir` except `without`: each path, with a text of its metadata and contents.
fn seen(dir: &Path, without: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    let mut names: Vec<OsString> = fs::read_dir(dir)
        .expect("a list")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    for name in names {
        let path = dir.join(name);
        if path == without {
            continue;
        }
        let meta = fs::symlink_metadata(&path).expect("metadata");
        let contents = if meta.is_file() { fs::read(&path).expect("contents") } else { Vec::new() };
        // The function leaves out the time and the number of links of a directory, because both
        // change when an entry is created in the directory.
        let fixed =
            if meta.is_dir() { (0, 0, 0) } else { (meta.mtime(), meta.mtime_nsec(), meta.nlink()) };
        let owner = (meta.uid(), meta.gid(), meta.mode());
        all.push((path.clone(), format!("{owner:?} {fixed:?} {contents:?}")));
        if meta.is_dir() {
            all.extend(seen(&path, without));
        }
    }
    all
}

/// Removes a tree, even if the modes of its directories deny access to the user of the fuzzer.
fn clear(path: &Path) {
    if let Ok(meta) = fs::symlink_metadata(path)
        && meta.is_dir()
    {
        let _ = fs::set_permissions(path, Permissions::from_mode(0o700));
        for entry in fs::read_dir(path).expect("a list").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                clear(&entry.path());
            } else {
                fs::remove_file(entry.path()).expect("removal");
            }
        }
        fs::remove_dir(path).expect("removal");
    }
}

fuzz_target!(|data: &[u8]| {
    let ground = ground();
    let input = ground.join("in");
    fs::create_dir_all(&input).expect("a directory");
    let paths: Vec<PathBuf> = forge::archives(data)
        .iter()
        .enumerate()
        .map(|(n, archive)| {
            let path = input.join(n.to_string());
            fs::write(&path, archive).expect("an archive");
            path
        })
        .collect();
    let into = ground.join("arena/dest");
    let before = seen(ground, &into);
    let options =
        Options { limits: LIMITS, link: LinkMode::Auto, max_blob: 1 << 20, keep_blobs: false };
    let done = unpack(&paths, &into, options);
    let after = seen(ground, &into);
    assert_eq!(before, after, "something outside the target directory changed");
    // The target directory must exist if and only if the archives were unpacked.
    assert_eq!(done.is_ok(), into.exists(), "{done:?}");
    clear(&into);
    clear(&input);
});
