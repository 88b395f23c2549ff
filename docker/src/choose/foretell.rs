//! Which layers an image says it has, told before the layers are read, so that what the registry
//! has need not go to the temporary file. It is only a guess: an image is chosen, and checked,
//! when all of it was read.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use deploy_store::{Digest, MAX_LAYERS};

use super::manifest::{config, digest_of};
use crate::read::archive::{MAX_DOCUMENT, MAX_DOCUMENTS, is_document};
use crate::read::input::{Found, MAX_ITEMS, read_directory};

/// The uncompressed digests of layers that configurations in a file or directory have. None of
/// what cannot be read twice, nor of an archive that is compressed.
pub fn diff_ids(path: &Path) -> BTreeSet<Digest> {
    let mut told = Told::default();
    // Who reads all of it says what is wrong with it.
    let _ = if path.is_dir() {
        read_directory(path, |_, found| {
            if let Found::File(size, body) = found {
                // Nor is it the end of the others.
                let _ = told.look(size, body);
            }
            Ok(())
        })
        .map_err(io::Error::other)
    } else if path.is_file() {
        File::open(path).and_then(|file| told.look_through(file))
    } else {
        Ok(())
    };
    told.diff_ids
}

#[derive(Default)]
struct Told {
    diff_ids: BTreeSet<Digest>,
    /// Bytes of documents.
    read: u64,
}

impl Told {
    fn look_through(&mut self, file: File) -> io::Result<()> {
        let mut archive = tar::Archive::new(file);
        // Raw: no name matters, and so no long one takes memory.
        for entry in archive.entries_with_seek()?.raw(true).take(MAX_ITEMS) {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                self.look(entry.size(), &mut entry)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, size: u64, body: &mut dyn Read) -> io::Result<()> {
        if size > MAX_DOCUMENT {
            return Ok(());
        }
        let mut bytes = Vec::new();
        (&mut *body).take(512).read_to_end(&mut bytes)?;
        if !is_document(&bytes) || self.read + size > MAX_DOCUMENTS as u64 {
            return Ok(());
        }
        body.take(MAX_DOCUMENT).read_to_end(&mut bytes)?;
        self.read += bytes.len() as u64;
        if let Ok(config) = config(&bytes) {
            let room = MAX_LAYERS - self.diff_ids.len();
            let digests = config.rootfs.diff_ids.iter().filter_map(|text| digest_of(text).ok());
            self.diff_ids.extend(digests.take(room));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_archive_and_a_directory_tell_the_same_and_others_nothing() {
        let digest = Digest::of(b"layer");
        let other = Digest::of(b"another");
        let config = |digest| format!(r#"{{"rootfs":{{"diff_ids":["sha256:{digest}","md5:0"]}}}}"#);
        let files = [
            ("blobs/config", config(digest)),
            ("blobs/large", "x".repeat(900_000)),
            ("blobs/list", "[1]".to_owned()),
            ("blobs/z", config(other)),
        ];
        let dir = tempfile::tempdir().unwrap();
        let (archive, top) = (dir.path().join("image.tar"), dir.path().join("image"));
        fs::create_dir_all(top.join("blobs")).unwrap();
        let mut builder = tar::Builder::new(File::create(&archive).unwrap());
        for (name, contents) in &files {
            fs::write(top.join(name), contents).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            builder.append_data(&mut header, name, contents.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap();
        let want = BTreeSet::from([digest, other]);
        assert_eq!(diff_ids(&archive), want);
        assert_eq!(diff_ids(&top), want);
        let bytes = fs::read(&archive).unwrap();
        // The last is cut off; a tool that compresses leaves nothing to see.
        fs::write(&archive, &bytes[..bytes.len() - 2048]).unwrap();
        assert_eq!(diff_ids(&archive), BTreeSet::from([digest]));
        fs::write(&archive, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        for path in [archive, dir.path().join("nothing"), "/dev/null".into()] {
            assert_eq!(diff_ids(&path), BTreeSet::new());
        }
    }
}
