//! Contains the code that the benchmarks share: archives like those of real deployments, and access
//! to the registry that is measured.

pub mod measured_registry;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Makes a tar of `files` small text files in `directories` directories.
pub fn plain(files: usize, directories: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for n in 0..files {
        let contents = format!("module.exports = {n};\n").repeat(20 + n % 50);
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000 + n as u64);
        let path = format!("node_modules/package{}/file{n}.js", n % directories);
        builder
            .append_data(&mut header, path, contents.as_bytes())
            .expect("memory takes everything");
    }
    builder.into_inner().expect("memory takes everything")
}

/// Makes the same archive as [`plain`], compressed with gzip.
pub fn archive(files: usize, directories: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(&plain(files, directories)).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}
