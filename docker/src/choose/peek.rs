//! Finds the layers that the images of an archive list, before the importer reads the layers. The
//! importer need not write layers to the temporary files if the registry already has them. The
//! result is only a guess, because the importer chooses and checks the image later, after it has
//! read the whole input.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use deploy_store::{Digest, MAX_LAYERS};

use super::manifest::{config, digest_of};
use crate::read::image_archive::{MAX_DOCUMENT, MAX_DOCUMENTS, is_document};
use crate::read::input::{Found, MAX_ITEMS, read_directory};

/// Collects the digests of uncompressed layers from all image configurations in a file or
/// directory. The set is empty if the input is compressed or cannot be read twice.
pub fn peek_diff_ids(path: &Path) -> BTreeSet<Digest> {
    let mut peeked = Peeked::default();
    // Errors are ignored here, because the full read reports them.
    let _ = if path.is_dir() {
        read_directory(path, |_, found| {
            if let Found::File(size, body) = found {
                // If a file cannot be read, the other files are still examined.
                let _ = peeked.look(size, body);
            }
            Ok(())
        })
        .map_err(io::Error::other)
    } else if path.is_file() {
        File::open(path).and_then(|file| peeked.look_through(file))
    } else {
        Ok(())
    };
    peeked.diff_ids
}

#[derive(Default)]
struct Peeked {
    diff_ids: BTreeSet<Digest>,
    /// The number of bytes of documents that were read so far.
    read: u64,
}

impl Peeked {
    fn look_through(&mut self, file: File) -> io::Result<()> {
        let mut archive = tar::Archive::new(file);
        // The function does not need the names of entries. It reads raw entries, so that a long
        // name takes no memory.
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
    fn archive_and_directory_give_the_same_digests() {
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
        assert_eq!(peek_diff_ids(&archive), want);
        assert_eq!(peek_diff_ids(&top), want);
        let bytes = fs::read(&archive).unwrap();
        // If the last file is truncated, the digests in the earlier files are still found. In a
        // compressed archive, no digests are found.
        fs::write(&archive, &bytes[..bytes.len() - 2048]).unwrap();
        assert_eq!(peek_diff_ids(&archive), BTreeSet::from([digest]));
        fs::write(&archive, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        for path in [archive, dir.path().join("nothing"), "/dev/null".into()] {
            assert_eq!(peek_diff_ids(&path), BTreeSet::new());
        }
    }
}
