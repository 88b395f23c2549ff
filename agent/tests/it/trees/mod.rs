//! Generates, packs and reads trees of small files for tests.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// The contents of files, by path.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn files<P: Into<String>>(list: impl IntoIterator<Item = (P, String)>) -> Files {
    list.into_iter().map(|(path, text)| (path.into(), text.into_bytes())).collect()
}

/// Packs the files as a tar.gz. The same files always give the same bytes.
pub fn archive(files: &Files) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        archive.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// The files below `root`.
pub fn read(root: &Path) -> Files {
    let (mut found, mut queue) = (Files::new(), vec![root.to_owned()]);
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}
